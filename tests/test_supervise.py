"""Real process trees, stopped whole. Every tree reports its pids in a file; none of them may be alive afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from brakeline.cluster import running, supervise
from brakeline.cluster.guard import Guarded
from brakeline.cluster.running import Exited, Stopped, run_under
from brakeline.cluster.supervise import StopReport, Supervised
from brakeline.core.errors import Misuse

NOTHING = StopReport(0, 0, 0.0, ())
PREAMBLE = """
import ctypes, os, signal, sys, threading, time
def say():
    with open(sys.argv[1], "a") as f:
        f.write(f"{os.getpid()}\\n")
"""


def script(source: str, pids: Path) -> list[str]:
    return [sys.executable, "-c", PREAMBLE + textwrap.dedent(source), str(pids)]


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def said(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()] if pids.exists() else []


def gone(pids: Path) -> bool:
    return not any(psutil.pid_exists(pid) for pid in said(pids))


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], Supervised]]:
    jobs: list[Supervised] = []

    def begin(cmd: list[str]) -> Supervised:
        jobs.append(Supervised(cmd))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.stop(0)


@pytest.mark.parametrize(("source", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)])
def test_exit_code_is_passed_through(source: str, code: int) -> None:
    outcome = run_under(["sh", "-c", source], lambda: True)
    assert isinstance(outcome, Exited)
    assert (outcome.code, outcome.left[:2], outcome.left.survivors) == (code, (0, 0), ())


def test_a_command_that_may_not_run_is_never_started(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert run_under(["touch", str(trace)], lambda: False) == Stopped(NOTHING)
    assert not trace.exists()


def test_a_polite_tree_needs_no_kill_and_may_finish_its_work(
    start: Callable[[list[str]], Supervised], pids: Path
) -> None:
    saves = """
        def save(*_):
            open(sys.argv[1] + f".{os.getpid()}.saved", "w").close()
            time.sleep(0.1)
            sys.exit(0)
        for _ in range(20):
            if os.fork() == 0:
                os.setpgid(0, 0)
                signal.signal(signal.SIGTERM, save)
                break
        say()
        time.sleep(60)
    """
    job = start(script(saves, pids))
    soon(lambda: len(said(pids)) == 21)
    report = job.stop(grace=5)
    assert (report.processes, report.killed, report.survivors) == (21, 0, ())
    assert len(list(pids.parent.glob("*.saved"))) == 20
    assert report.seconds < 3
    assert job.poll() == -signal.SIGTERM
    assert gone(pids)


def test_nobody_sees_another_die_before_being_told_itself(start: Callable[[list[str]], Supervised], pids: Path) -> None:
    # The last child watches its parent as closely as it can; the others make the stopping long.
    watchdog = """
        parent = os.getpid()
        for i in range(60):
            if os.fork() == 0:
                say()
                if i < 59:
                    time.sleep(60)
                while os.getppid() == parent:
                    pass
                open(sys.argv[1] + ".replaced", "w").close()
                sys.exit()
        time.sleep(60)
    """
    for _ in range(3):
        pids.unlink(missing_ok=True)
        job = start(script(watchdog, pids))
        soon(lambda: len(said(pids)) == 60)
        assert job.stop(grace=5)[:2] == (61, 0)
    assert not pids.with_name("pids.replaced").exists()
    assert gone(pids)


def test_children_that_ignore_sigterm_are_killed(start: Callable[[list[str]], Supervised], pids: Path) -> None:
    job = start(["sh", "-c", 'trap "" TERM; sleep 60 & sleep 60 & echo $$ > "$0"; wait', str(pids)])
    soon(lambda: len(said(pids)) == 1 and len(job.processes()) == 3)
    tree = job.processes()
    report = job.stop(grace=0.2)
    assert (report.processes, report.killed, report.survivors) == (3, 3, ())
    assert 0.2 <= report.seconds < 3
    assert not any(p.is_running() for p in tree)
    assert job.stop(grace=5) == NOTHING


def test_a_daemon_that_left_the_session_is_stopped_when_the_command_exits(pids: Path) -> None:
    daemon = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork():
            os.wait()
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.01)
            sys.exit(3)
        os.setsid()
        if os.fork():
            os._exit(0)
        say()
        time.sleep(60)
    """
    outcome = run_under(script(daemon, pids), lambda: True, grace=0.2)
    assert isinstance(outcome, Exited)
    assert (outcome.code, outcome.left[:2], outcome.left.survivors) == (3, (1, 1), ())
    assert len(said(pids)) == 1
    assert gone(pids)


def test_a_process_that_forks_when_told_to_stop(start: Callable[[list[str]], Supervised], pids: Path) -> None:
    hydra = """
        def sprout(*_):
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    say()
                    time.sleep(60)
                    os._exit(0)
        signal.signal(signal.SIGTERM, sprout)
        say()
        while True:
            time.sleep(60)
    """
    job = start(script(hydra, pids))
    soon(lambda: len(said(pids)) == 1)
    report = job.stop(grace=0.5)
    assert (report.processes, report.killed, report.survivors) == (4, 4, ())
    assert len(said(pids)) == 4
    assert gone(pids)


def test_a_chain_that_forks_and_exits_all_the_time(start: Callable[[list[str]], Supervised], pids: Path) -> None:
    chain = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
            say()
            time.sleep(0.02)
    """
    job = start(script(chain, pids))
    soon(lambda: len(said(pids)) > 5)
    report = job.stop(grace=0.1)
    assert report.killed >= 1
    assert report.survivors == ()
    links = len(said(pids))
    time.sleep(0.2)
    assert len(said(pids)) == links
    assert gone(pids)


def test_a_zombie_whose_threads_work_on_is_alive(start: Callable[[list[str]], Supervised], pids: Path) -> None:
    headless = """
        def work():
            say()
            time.sleep(60)
        threading.Thread(target=work).start()
        exit_thread = {"x86_64": 60}.get(os.uname().machine, 93)
        ctypes.CDLL(None).syscall(exit_thread, 0)
    """
    job = start(script(headless, pids))
    leader = psutil.Process(job.pid)
    soon(lambda: len(said(pids)) == 1 and leader.status() == psutil.STATUS_ZOMBIE)
    assert job.processes() == [leader]
    assert job.poll() is None
    report = job.stop(grace=0.1)
    assert (report.processes, report.survivors) == (1, ())
    assert gone(pids)


def test_stops_as_soon_as_it_may_not_run(pids: Path) -> None:
    began = time.monotonic()
    outcome = run_under(script("say()\ntime.sleep(60)", pids), lambda: not said(pids), poll=0.02, grace=5)
    assert isinstance(outcome, Stopped)
    assert (outcome.report.processes, outcome.report.killed, outcome.report.survivors) == (1, 0, ())
    assert time.monotonic() - began < 3
    assert gone(pids)


def test_what_may_run_raises_stops_the_command(pids: Path) -> None:
    def may_run() -> bool:
        if said(pids):
            raise OSError("the log is out of reach")
        return True

    with pytest.raises(OSError, match="out of reach"):
        run_under(script("say()\ntime.sleep(60)", pids), may_run, poll=0.02, grace=5)
    assert gone(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_passed_on(number: signal.Signals, pids: Path) -> None:
    command = f"""
        signal.signal({int(number)}, lambda *_: sys.exit(42))
        say()
        time.sleep(60)
    """
    supervisor = f"""
        from brakeline.cluster.running import run_under
        outcome = run_under({script(command, pids)!r}, lambda: True, poll=0.02)
        print(outcome.code)
    """
    source = str(Path(supervise.__file__).parents[2])
    outer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(supervisor)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        soon(lambda: len(said(pids)) == 1)
        outer.send_signal(number)
        assert outer.communicate(timeout=20)[0] == "42\n"
        assert outer.returncode == 0
    finally:
        outer.kill()


SAVES = """
    def save(*_):
        open(sys.argv[1] + ".saved", "w").close()
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    if os.fork() == 0:
        os.setsid()  # and one that left the session
        say()
        time.sleep(60)
    say()
    time.sleep(60)
"""


def supervising(command: list[str], grace: float = 5.0) -> subprocess.Popen[str]:
    source = str(Path(supervise.__file__).parents[2])
    text = f"from brakeline.cluster.running import run_under; run_under({command!r}, lambda: True, grace={grace})"
    return subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": source}, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_command_ends_with_its_supervisor(number: signal.Signals, pids: Path) -> None:
    """However that dies: a checkpoint is written, and nothing trains on."""
    outer = supervising(script(SAVES, pids))
    try:
        soon(lambda: len(said(pids)) == 2)
        outer.send_signal(number)
        outer.wait()
        soon(lambda: gone(pids))
        assert Path(f"{pids}.saved").exists(), "it was told, and had its time"
    finally:
        outer.kill()


BEATS = """
    if os.fork() == 0:
        os.setsid()
    say()
    while True:
        with open(sys.argv[1] + f".{os.getpid()}", "a") as f:
            f.write("x")
        time.sleep(0.05)
"""


def test_a_command_stands_still_with_its_supervisor(pids: Path) -> None:
    """Ctrl-Z, or SIGSTOP: whoever cannot stop it any more does not let it train on either."""
    outer = supervising(script(BEATS, pids))

    def beats() -> int:
        return sum(path.stat().st_size for path in pids.parent.glob(f"{pids.name}.*"))

    try:
        soon(lambda: len(said(pids)) == 2)
        outer.send_signal(signal.SIGSTOP)
        soon(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in said(pids)))
        before = beats()
        time.sleep(0.3)
        assert beats() == before
        outer.send_signal(signal.SIGCONT)
        soon(lambda: beats() > before)
        outer.send_signal(signal.SIGSTOP)
        soon(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in said(pids)))
    finally:
        outer.kill()
    soon(lambda: gone(pids))


def test_a_command_that_does_not_listen_ends_with_its_supervisor(pids: Path) -> None:
    outer = supervising(script("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay()\ntime.sleep(60)", pids), 0.3)
    soon(lambda: len(said(pids)) == 1)
    outer.kill()
    outer.wait()
    soon(lambda: gone(pids))


def test_a_command_ends_with_its_guard(pids: Path) -> None:
    """The supervisor adopts what the guard leaves, and says that it was killed."""
    job = Guarded(script(SAVES, pids), grace=5)
    soon(lambda: len(said(pids)) == 2)
    job._guard.kill()
    assert job.wait(5) == -signal.SIGKILL
    assert job.stop(5).survivors == ()
    assert gone(pids)
    assert job.stop(5) == NOTHING


def test_a_guard_says_what_came_of_the_command(pids: Path) -> None:
    before = psutil.Process().children()  # of other tests
    for source, code in (("sys.exit(3)", 3), ("os.kill(os.getpid(), 15)", -15), ("say()", 0)):
        job = Guarded(script(source, pids), grace=5)
        try:
            assert job.wait(10) == code
        finally:
            assert job.stop(1).survivors == ()
    with pytest.raises(Misuse, match="cannot start"):
        Guarded(["/no/such/command"], grace=1)
    assert set(psutil.Process().children()) <= set(before)


def test_under_nohup_a_terminal_that_closes_changes_nothing() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running._caught(signal.SIGHUP, signal.SIGQUIT) as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGQUIT)
        assert caught == [signal.SIGQUIT]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_the_host_programs_own_children_are_left_alone(start: Callable[[list[str]], Supervised]) -> None:
    server = subprocess.Popen(["sh", "-c", "read x; sleep 60 & wait"], stdin=subprocess.PIPE, start_new_session=True)
    job = start(["sleep", "60"])
    helper = subprocess.Popen(["sleep", "60"])
    try:
        assert server.stdin is not None
        server.stdin.write(b"go\n")
        server.stdin.flush()
        soon(lambda: len(psutil.Process(server.pid).children()) == 1)
        assert job.stop(grace=2).processes == 1
        assert (server.poll(), helper.poll()) == (None, None)
        assert len(psutil.Process(server.pid).children()) == 1
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        helper.kill()
        server.communicate()
        helper.wait()


def test_adopted_orphans_do_not_pile_up_as_zombies(start: Callable[[list[str]], Supervised]) -> None:
    others = {p.pid for p in psutil.Process().children()}  # what other tests of this process have running
    job = start(["sh", "-c", "for i in 1 2 3 4 5; do (sleep 4 &); done; exec sleep 60"])
    adopted: set[int] = set()

    def buried() -> bool:
        assert job.poll() is None
        children = {p.pid for p in psutil.Process().children()} - others - {job.pid}
        adopted.update(children)
        return len(adopted) >= 5 and not children

    soon(buried, 30)


def test_a_reused_pid_is_not_signalled() -> None:
    former = subprocess.Popen(["sleep", "60"])
    process = psutil.Process(former.pid)
    former.kill()
    former.wait()
    time.sleep(0.05)  # the start time that tells them apart counts in hundredths of a second
    stranger = reuse(former.pid)
    try:
        supervise._send([process], signal.SIGKILL)
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
        supervise._send([psutil.Process(stranger.pid)], signal.SIGKILL)
        assert stranger.wait(5) == -signal.SIGKILL
    finally:
        stranger.kill()


def reuse(pid: int) -> subprocess.Popen[bytes]:
    """A new process under a number that has become free."""
    counter = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(50):
        try:
            counter.write_text(str(pid - 1))
        except OSError:
            pytest.skip("choosing a pid takes CAP_CHECKPOINT_RESTORE")
        child = subprocess.Popen(["sleep", "60"])
        if child.pid == pid:
            return child
        child.kill()
        child.wait()
    pytest.skip("the machine is too busy to get a chosen pid")


def test_survivors_are_reported_and_can_be_stopped_again(
    start: Callable[[list[str]], Supervised], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(["sleep", "60"])
    with monkeypatch.context() as no_time:
        no_time.setattr(supervise, "_KILL", 0.0)
        assert job.stop(0)[::3] == (0, (job.pid,))
    with pytest.raises(Misuse, match="already supervises"):
        start(["true"])
    assert job.stop(0)[:2] == (1, 1)
    assert start(["true"]).wait(5) == 0


def test_one_command_at_a_time(start: Callable[[list[str]], Supervised]) -> None:
    job = start(["sleep", "60"])
    with pytest.raises(Misuse, match="already supervises"):
        start(["true"])
    job.stop(0)
    assert start(["true"]).wait() == 0


def test_a_command_that_does_not_exist(start: Callable[[list[str]], Supervised]) -> None:
    with pytest.raises(Misuse, match="cannot start 'no-such-command'"):
        start(["no-such-command"])
    assert start(["true"]).wait(5) == 0


def test_works_outside_the_main_thread() -> None:
    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.append(run_under(["sh", "-c", "exit 5"], lambda: True)))
    thread.start()
    thread.join(10)
    assert [o.code for o in outcomes if isinstance(o, Exited)] == [5]
