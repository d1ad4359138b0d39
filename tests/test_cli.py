"""The command line: help without heavy imports, exit codes as documented, no traceback for a user's mistake."""

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from brakeline.cli import run as run_command
from brakeline.cli.common import EXIT_SPENT, EXIT_STOPPED
from brakeline.cli.main import COMMANDS, main
from brakeline.cli.pledge import at_least
from brakeline.cli.status import show
from brakeline.cluster.attested import Spent
from brakeline.cluster.running import Exited, Outcome, Stopped
from brakeline.cluster.supervise import NOTHING
from brakeline.core import views
from brakeline.core.finding import Audit, Fault, Finding
from brakeline.core.pledge import Pledge
from brakeline.core.run import Declaration
from brakeline.core.statement import open_envelope, sign
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.transcript import Head
from brakeline.core.treaty import parse_treaty
from brakeline.node.desk import Desk
from brakeline.node.home import Home, save_key
from brakeline.node.machine import MachineClock
from test_logstore import in_memory
from world import EXAMPLE, PARTIES, World, edited, key, treaty_text

ROOT = Path(__file__).parents[1]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        main(list(args))
    captured = capsys.readouterr()
    return int(e.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert out.startswith("Usage: ")


def test_the_group_imports_no_command() -> None:
    """`brakeline --help` stays quick: torch, matplotlib and web servers load when a command needs them."""
    script = (
        "import sys\nfrom brakeline.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'starlette', 'uvicorn', 'httpx', 'sqlite3'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Exited(0, NOTHING), 0),
        (Exited(3, NOTHING), 3),
        (Exited(-9, NOTHING), 137),
        (Stopped(NOTHING), EXIT_STOPPED),
        (Spent(NOTHING), EXIT_SPENT),
    ],
)
def test_run_exits_as_its_command_did_or_says_why_not(
    outcome: Outcome | Spent, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_command, "Home", lambda path: path)
    monkeypatch.setattr(run_command, "Lab", lambda home, tell: None)
    monkeypatch.setattr(run_command, "run_attested", lambda *args, **options: outcome)
    args = ("--name", "x", "--time", "1 h", "--flop-per-second", "1 GFLOP", "--", "true")
    assert run(capsys, "run", *args)[0] == code


def test_what_the_machine_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an error that no module has translated, too."""

    def fail(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(run_command, "Home", fail)
    code, _, err = run(capsys, "run", "--name", "x", "--time", "1 h", "--flop-per-second", "1 GFLOP", "--", "true")
    assert (code, err.splitlines()[0]) == (5, "error: Permission denied: /x")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_BRAKELINE_COMPLETE" in out


def test_from_draft_to_signature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = tmp_path / "t.toml"
    draft.write_bytes(EXAMPLE.read_bytes())
    code, _, err = run(capsys, "treaty", "check", str(draft))
    assert (code, "no keys yet of alpha, beta, gamma, delta" in err) == (3, True)
    for p in PARTIES:
        url = ["--log-url", "http://127.0.0.1:1"] if p == "delta" else []
        code, _, err = run(capsys, "keygen", p, "--home", str(tmp_path / p), "--enroll", str(draft), *url)
        assert code == 0, err
    before = draft.read_bytes()
    code, _, err = run(capsys, "keygen", "alpha", "--home", str(tmp_path / "again"), "--enroll", str(draft))
    assert (code, "entered its keys already" in err) == (3, True)
    assert draft.read_bytes() == before
    assert not (tmp_path / "again").exists()
    assert run(capsys, "treaty", "check", str(draft))[0] == 0
    assert run(capsys, "treaty", "policy", str(draft))[1].startswith("log delta/log+")
    code, out, _ = run(capsys, "treaty", "sign", str(draft), "--home", str(tmp_path / "alpha"))
    assert (code, "alpha signed demo v1" in out) == (0, True)
    other = tmp_path / "other.toml"
    other.write_bytes(before.replace(b"version = 1", b"version = 2"))
    code, _, err = run(capsys, "treaty", "sign", str(other), "--home", str(tmp_path / "alpha"))
    assert (code, "signed another treaty" in err) == (2, True)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("frobnicate",), 2, "No such command"),
        (("vote", "maybe"), 2, "maybe"),
        (("treaty", "check", "no-such-file"), 5, "cannot read"),
        (("status", "--home", "no-such-home"), 5, "not a party's home"),
        (("witness", "--home", "no-such-home"), 5, "hint: make one with"),
        (("keygen", "alpha", "--home", "/proc/x"), 5, "hint: check the disk"),
        (("verify", "README.md"), 3, "not a brakeline bundle"),
        (("train", "no-such-recipe.toml", "--home", "no-such-home"), 5, "not a party's home"),
        (("run", "--name", "x", "--time", "12 hours", "--flop-per-second", "1 GFLOP", "--home", "no", "--", "true"), 5,
         "not a party's home"),
    ],
)  # fmt: skip
def test_mistakes(args: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    got, _, err = run(capsys, *args)
    assert got == code
    assert text in err
    assert "Traceback" not in err


@pytest.mark.parametrize("grace", ["inf", "-inf", "nan", "-5", "86401", "1e400"])
def test_a_grace_is_a_time(grace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is declared, or started."""
    job = ("run", "--home", str(tmp_path), "--name", "x", "--time", "1 h", "--flop-per-second", "1 FLOP")
    code, _, err = run(capsys, *job, f"--grace={grace}", "--", "true")
    assert (code, "between 0 and 86400 seconds" in err) == (2, True)


def test_verify_tells_what_a_bundle_proves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    world.bind()
    world.finished("alpha")
    world.trip()
    world.stamp()
    path = tmp_path / "b.bundle"
    path.write_bytes(world.bundle().encode())
    code, out, _ = run(capsys, "verify", str(path))
    assert code == 0
    assert "compare this digest" in out
    assert "tripped" in out
    (tmp_path / "t.toml").write_text(treaty_text())
    assert run(capsys, "verify", str(path), "--treaty", str(tmp_path / "t.toml"))[0] == 0
    assert run(capsys, "verify", str(path), "--json")[1].startswith("{")
    trusted = parse_treaty((tmp_path / "t.toml").read_bytes()).digest
    assert run(capsys, "verify", str(path), "--sha256", trusted.upper())[0] == 0
    both = ("--treaty", str(tmp_path / "t.toml"), "--sha256")
    assert run(capsys, "verify", str(path), *both, trusted)[0] == 0
    assert run(capsys, "verify", str(path), *both, "00")[0] == 2
    code, _, err = run(capsys, "verify", str(path), "--sha256", "0" * 64)
    assert (code, "not 000000" in err) == (4, True)


def test_status_tells_a_brake_that_is_clear_from_one_that_was_tripped(tmp_path: Path) -> None:
    world = World()
    world.bind()

    def first_line() -> str:
        console = Console(file=io.StringIO(), width=200, color_system=None)
        show(views.report(world.state, verify_cosigned(world.checkpoint(), world.treaty.policy)), console)
        return str(console.file.getvalue()).split("\n")[0]  # type: ignore[attr-defined]

    assert first_line() == "CLEAR since the start, epoch 0"
    assert not views.liftable(world.state, "alpha")
    world.vote("trip", "alpha")
    assert views.liftable(world.state, "alpha"), "it takes back its vote to trip"
    world.vote("trip", "beta")
    assert first_line().endswith(" UTC, epoch 1: votes of alpha, beta")
    assert views.liftable(world.state, "gamma")
    world.stamp()
    world.stamp(60)
    world.vote("lift", "alpha", "beta", "gamma")
    world.stamp(30)
    assert re.fullmatch(r"CLEAR since 20.* UTC, epoch 1, last tripped by votes of alpha, beta", first_line())


@pytest.mark.parametrize(
    "args",
    [
        ("incident", "--class", "no-such", "--text", "x"),
        ("request", "nobody", "--text", "x"),
        ("request", "alpha", "--text", "x"),
        ("report", "--about", "3", "--text", "\x1b[2J"),
    ],
)
def test_a_duty_that_the_treaty_does_not_know_is_not_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    """It would spend a number, and stand in the log without effect."""
    save_key(tmp_path / "keys" / "statement.pem", key("alpha"), None)
    (tmp_path / "party").write_text("alpha\n")
    (tmp_path / "treaty.toml").write_text(treaty_text())
    code, _, err = run(capsys, "duty", *args, "--home", str(tmp_path))
    assert (code, err.count("error: ")) == (2, 1)
    with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM said").fetchone() == (0,)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_pledge_conditions(k: int) -> None:
    others = ("beta", "gamma", "delta")
    group = Pledge(condition=at_least(k, others)).group(frozenset(PARTIES))
    assert (group is None) == (k == 0)
    if group is not None:
        assert group.holds(frozenset(others[:k]))
        assert not group.holds(frozenset(others[: k - 1]))


@pytest.mark.parametrize("command", [("treaty", "sign"), ("pledge", "--if-at-least", "0"), ("signer",)])
@pytest.mark.parametrize("damage", ["junk", "a folder"])
def test_a_damaged_outbox_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], damage: str
) -> None:
    """operator/sqlite_trace: no traceback, and no exit status that means another thing."""
    save_key(tmp_path / "keys" / "statement.pem", key("alpha"), None)
    save_key(tmp_path / "keys" / "signer.pem", key("alpha", "signer"), None)
    (tmp_path / "party").write_text("alpha\n")
    (tmp_path / "treaty.toml").write_text(treaty_text().replace("[log]", "[log]"))
    if damage == "junk":
        (tmp_path / "outbox.sqlite").write_bytes(b"junk" * 100)
    else:
        (tmp_path / "outbox.sqlite").mkdir()
    extra = [str(tmp_path / "treaty.toml")] if command[0] == "treaty" else []
    port = ["--host", "127.0.0.1", "--port", "0"] if command[0] == "signer" else []
    code, _, err = run(capsys, *command, *extra, *port, "--home", str(tmp_path))
    assert code == 5
    assert err.count("error: ") == 1
    assert "Traceback" not in err


def test_a_home_from_before_is_found_out_before_anything_is_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_key(tmp_path / "keys" / "statement.pem", key("alpha"), None)
    (tmp_path / "party").write_text("alpha\n")
    (tmp_path / "treaty.toml").write_text(treaty_text())
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "checkpoint").write_bytes(b"junk")
    code, _, err = run(capsys, "pledge", "--if-at-least", "0", "--home", str(tmp_path))
    assert code == 3
    assert f"{tmp_path / 'seen' / 'checkpoint'} is no checkpoint" in err
    assert "or remove it" in err
    assert not (tmp_path / "outbox.sqlite").exists()


# ---- a little world of real processes ----

OUTAGE = 40  # s, longer than a statement may be dated ahead of the log's time
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["brakeline.cli.log", "brakeline.cli.witness", "brakeline.cli.signer", "hypothesis.strategies", "pytest"]
)


def serve(out: Path, ahead: float, args: tuple[str, ...]) -> None:
    """A command in a process of its own, whose clock runs `ahead` of ours by so many seconds."""
    for stream in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    real = time.time
    time.time = lambda: real() + ahead
    main(list(args))


class Little:
    """A log, four witnesses and four permit signers on loopback; commands run in this process, on the world's clock.

    It lives `OUTAGE` seconds ago, until the log goes away for so long.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ahead = folder, -float(OUTAGE)
        self.processes: dict[str, ForkServerProcess] = {}
        self.treaty_file = folder / "t.toml"
        text = EXAMPLE.read_text()
        for path, value in (
            ("log.snapshot_every", "16"),
            ("audit.attested_runs", "true"),
            ("lift.settle_within", '"1 h"'),
            ("budget.rest", "64"),
        ):
            text = edited(text, path, value)
        self.treaty_file.write_text(text)
        ports = iter(free_ports(1 + 2 * len(PARTIES)))
        for p in PARTIES:
            urls = [f"--{role}-url=http://127.0.0.1:{next(ports)}" for role in ("witness", "signer")]
            if p == "delta":
                urls.append(f"--log-url=http://127.0.0.1:{next(ports)}")
            assert self("keygen", p, "--enroll", str(self.treaty_file), *urls, home=p)[0] == 0
        self.treaty = parse_treaty(self.treaty_file.read_bytes())

    def home(self, party: str) -> Path:
        return self.folder / party

    def __call__(self, *args: str, home: str = "") -> tuple[int, str]:
        """Run a command; its exit status and all that it says."""
        where = ["--home", str(self.home(home))] if home else []
        out = io.StringIO()
        clock = SimpleNamespace(time=lambda: time.time() + self.ahead)
        with redirect_stdout(out), redirect_stderr(out), pytest.MonkeyPatch.context() as patch:
            patch.setattr(MachineClock, "wall", staticmethod(clock.time))
            for module in ("brakeline.cli.duty", "brakeline.cli.treaty"):
                patch.setattr(f"{module}.time", clock)
            with pytest.raises(SystemExit) as e:
                main([*args, *where])
        assert "Traceback" not in out.getvalue()
        return int(e.value.code or 0), out.getvalue()

    def ok(self, *args: str, home: str = "") -> str:
        code, out = self(*args, home=home)
        assert code == 0, out
        return out

    def start(self, *names: str) -> None:
        for name in names:
            role, _, party = name.partition("-")
            out = self.folder / f"{name}.out"
            out.write_bytes(b"")
            args = (role, "--home", str(self.home(party)))
            self.processes[name] = CONTEXT.Process(target=serve, args=(out, self.ahead, args), daemon=True)
            self.processes[name].start()
        for name in names:
            out = self.folder / f"{name}.out"
            wait_for(lambda out=out, name=name: "listening on" in out.read_text() or self.died(name), 30)

    def died(self, name: str) -> bool:
        assert self.processes[name].exitcode is None, (self.folder / f"{name}.out").read_text()
        return False

    def kill(self, *names: str) -> None:
        for name in names:
            process = self.processes.pop(name)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    def report(self, *args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", "--treaty", str(self.treaty_file), "--json", *args))
        return found

    def desk(self, party: str) -> Desk:
        """A party's desk, for what no command says."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MachineClock, "wall", staticmethod(lambda: time.time() + self.ahead))
            return Desk(Home(self.home(party)))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


SERVERS = tuple(f"{role}-{p}" for role in ("witness", "signer") for p in PARTIES)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Little]:
    with in_memory(tmp_path_factory.mktemp("little")) as folder:
        world = Little(folder)
        try:
            for p in PARTIES:
                world.ok("treaty", "sign", str(world.treaty_file), home=p)
            world.start(*SERVERS, "log-delta")
            wait_for(lambda: world("status", home="alpha")[0] == 0)
            yield world
        finally:
            for process in world.processes.values():
                process.kill()
            for process in world.processes.values():
                process.join()


def entry(text: str) -> int:
    found = re.search(r"entry (\d+)", text)
    assert found, text
    return int(found[1])


@pytest.mark.real
def test_commands_in_a_little_world(little: Little) -> None:
    """Every command once, with its exit status, in the order of a treaty's life: the parts below, on one world."""
    for part in (
        pledges,
        a_run_and_its_allegation,
        tiers_by_decision,
        duties,
        a_second_view,
        an_outage_longer_than_clocks_may_differ,
        leaving,
        two_statements_of_one_number,
    ):
        part(little)


def pledges(w: Little) -> None:
    out = w.ok("status", home="alpha")
    assert "CLEAR since the start, epoch 0\n" in out
    for p in PARTIES:  # a permit signer's process sends what its home has signed
        assert re.search(rf"  {p} waits: it has (not assented|no pledge in force)\. {p}: brakeline", out)
    for p in PARTIES[:3]:
        out = w.ok("pledge", "--if-at-least", "2", home=p)
    assert "bound: alpha, beta, gamma" in out
    out = w.ok("status", home="alpha")
    assert re.search(r"  delta waits: it has (not assented|no pledge in force)\. delta: brakeline", out)
    assert "alpha waits" not in out
    out = w.ok("pledge", "--if-at-least", "0", home="delta")
    assert "delta pledged (entry" in out
    # house/pledge_no_effect: what is weaker than what stands has no effect, and nobody says that it has.
    code, out = w("pledge", "--if-at-least", "3", home="delta")
    assert (code, "pledged (entry" in out) == (4, False)
    assert "has no effect: a pledge in force may only be renewed" in out
    assert w("pledge", home="delta")[0] == 2
    assert w("pledge", "--if-at-least", "7", home="delta")[0] == 3
    assert [p["bound"] for p in w.report()["parties"]] == [True] * 4


def a_run_and_its_allegation(w: Little) -> None:
    lab, root = w.desk("alpha"), "ab" * 32
    declared = Declaration(
        name="big", rung="re-executable", recipe=root, dataset=root, environment=root, steps=100, segment_steps=4,
        flop_per_step=str(10**9), parents=(), purpose="", chips=1, flop_per_second="0", domain="",
    )  # fmt: skip
    run = lab.say("declaration", declared).digest
    for steps, status in ((0, "opened"), (12, "running")):
        head = Head(run=run, steps=steps, root=root, state=root, flop=str(steps * 10**9), status=status)
        lab.say("head", head)
    inspector = w.desk("beta")
    inspector.follower.update()
    wait_for(lambda: (inspector.follower.update(), inspector.state.run(run).heads[-1].beacon)[1])
    logged = inspector.state.run(run).heads[-1]
    finding = Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=(4, 8), detail="it differs")
    fields = {"run": run, "head": logged.index, "beacon": logged.stamp, "ticket": "", "segments": ((4, 8),)}
    inspector.say("audit", Audit(**fields, environment=root, flop="0", findings=(finding,), verdict="partial"))

    about = ("alpha/big", "replay-mismatch", "4-8")
    out = w.ok("status", home="gamma")
    assert "alpha/big" in out.replace(" ", "") or "big" in out
    out = w.ok("allegation", "answer", *about, "--text", "the machine was replaced", home="alpha")
    assert f"entry {entry(out)}: the answer is on record" in out
    shown = w.report()["runs"][0]["allegations"]
    assert [(a["accusers"], a["answered"]) for a in shown] == [(["beta"], entry(out))]
    code, out = w("allegation", "answer", "alpha/big", "replay-mismatch", "0-4", "--text", "x", home="alpha")
    assert (code, "nobody alleges" in out) == (4, True)
    assert w("allegation", "answer", *about, "--text", "not mine", home="gamma")[0] == 4
    assert w("allegation", "retract", *about, home="gamma")[0] == 4
    assert w("allegation", "retract", "alpha/big", "replay-mismatch", "four", home="beta")[0] == 2
    assert w("allegation", "retract", "alpha/none", "replay-mismatch", "4-8", home="beta")[0] == 2
    out = w.ok("allegation", "retract", *about, home="beta")
    assert "retracted; alpha/big is open" in out
    shown = w.report()["runs"][0]["allegations"]
    assert [(a["accusers"], a["answered"]) for a in shown] == [([], shown[0]["answered"])]


def tiers_by_decision(w: Little) -> None:
    assert w("designate", "alpha/big", "no-such-tier", home="beta")[0] == 4
    for p in ("beta", "gamma"):
        out = w.ok("designate", "alpha/big", "prohibited", home=p)
        assert "alpha/big is not yet in prohibited" in out
    out = w.ok("designate", "alpha/big", "prohibited", home="delta")
    assert "alpha/big is in prohibited; wanted by beta, delta, gamma" in out
    out = w.ok("status", home="alpha")
    assert "  alpha/big waits: it is in a tier that is prohibited (Treaty 3.3). alpha: declare a smaller run" in out


def duties(w: Little) -> None:
    due = re.search(
        r"  a notice about entry (\d+) waits: due by .* UTC \(Treaty 10.4\). alpha: (.*)", w.ok("status", home="beta")
    )
    assert due
    assert due[2] == f"brakeline duty notice --about {due[1]}"
    assert f"what was due about entry {due[1]} is done" in w.ok(
        "duty", "notice", "--about", due[1], "--text", "it is large", home="alpha"
    )
    assert "notice on record" in w.ok("duty", "notice", "--text", "a large run is planned", home="gamma")
    code, out = w("duty", "notice", "--about", due[1], "--text", "again", home="alpha")
    assert (code, "owes no notice" in out) == (4, True)
    out = w.ok("duty", "request", "beta", "--text", "how was the last run?", home="alpha")
    assert "beta owes a report by" in out
    asked = str(entry(out))
    assert f"  a report about entry {asked} waits: due by" in w.ok("status", home="gamma")
    out = w.ok("duty", "report", "--about", asked, "--text", "it was fine", home="beta")
    assert f"what was due about entry {asked} is done" in out
    assert w("duty", "report", "--about", asked, "--text", "it was fine", home="gamma")[0] == 4
    code, out = w("duty", "request", "nobody", "--text", "hello?", home="alpha")
    assert (code, "another party, not of 'nobody'" in out) == (2, True)
    assert "incident on record" in w.ok("duty", "incident", "--class", "safety", "--text", "a leak", home="beta")
    out = w.ok(
        *("duty", "incident", "--class", "safety", "--known-since", "2026-01-01T00:00:00", "--text", "an old leak"),
        home="beta",
    )
    assert "recorded as late" in out
    code, out = w("duty", "incident", "--class", "no-such", "--text", "x", home="beta")
    assert (code, "no class of incidents 'no-such'; it has" in out) == (2, True)
    assert "beta has not done in time: incident" in w.ok("status", home="alpha")
    # What no log would take is not signed, and holds up nothing.
    code, out = w("duty", "notice", "--text", "x" * 70_000, home="gamma")
    assert (code, "at most 4000 characters" in out) == (2, True)
    code, out = w("vote", "lift", "--reason", "x", home="gamma")
    assert (code, "the brake is clear: there is nothing to lift" in out) == (2, True)


def a_second_view(w: Little) -> None:
    """The whole log folded anew, and a newcomer that starts from what permit signers state."""
    plain, refolded = w.report(), w.report("--refold")
    assert refolded["checkpoint"]["size"] >= plain["checkpoint"]["size"]
    assert "has no effect" not in w.ok("status", home="alpha")
    out = w.ok("status", "--refold", home="alpha")
    assert re.search(r"entry \d+ of delta has no effect: a pledge in force may only be renewed", out)
    assert [r["reason"] for r in refolded["refused"]].count("prohibited") == 1
    kept = w.home("alpha") / "seen"
    assert (kept / "checkpoint").exists()
    # The log offers its newest state at once; a second later it is stated by who signs permits.
    args = ("status", "--treaty", str(w.treaty_file), "--from-signers", "--json")
    wait_for(lambda: w(*args)[0] == 0, 40)
    whole = w.report()
    code, out = w(*args)
    if code == 0 and json.loads(out)["checkpoint"]["size"] == whole["checkpoint"]["size"]:
        assert json.loads(out)["state"] == whole["state"]
    text = w.treaty_file.read_text()
    other = w.folder / "other.toml"
    other.write_text(text.replace('title = "', 'title = "Another '))
    assert w("status", "--treaty", str(other), "--from-signers")[0] == 4


def an_outage_longer_than_clocks_may_differ(w: Little) -> None:
    """log/b_outage_cli: the log is away for 40 s. Votes of that time are kept, shown, and count once it is back."""
    assert w.treaty.skew < OUTAGE
    w.kill("log-delta", *(f"witness-{p}" for p in PARTIES))
    code, out = w("vote", "trip", "--reason", "at the beginning of the outage", home="alpha")
    assert code == 5
    w.ahead = 0.0
    code, out = w("vote", "trip", "--reason", "alarm", home="alpha")
    assert code == 5
    assert "the log does not answer" in out
    assert "shown to 4 permit signers" in out
    assert "hint: what was said is signed and kept, and sent with the next command" in out
    assert w("status", home="alpha")[0] == 5
    w.start(*(f"witness-{p}" for p in PARTIES))
    w.start("log-delta")
    wait_for(lambda: w("status", home="gamma")[0] == 0)
    # Any command sends what was kept; the permit signer's process of the home may have been faster.
    w.ok("duty", "notice", "--text", "the log is back", home="alpha")
    assert w.report()["votes"]["trip"] == ["alpha"]
    out = w.ok("vote", "trip", "--reason", "me, too", home="beta")
    assert "the brake is tripped" in out
    assert "  the lift waits: alpha/big has not logged that it stopped. alpha: wait: its permits lapse after" in out
    report = w.report()
    assert (report["brake"]["phase"], report["brake"]["cause"]) == ("tripped", "votes of alpha, beta")
    assert w.desk("alpha").outbox.pending() == []
    out = w.ok("vote", "lift", "--reason", "it was a drill", home="gamma")
    assert f"entry {entry(out)}: 1 of 3 votes to lift; the brake is tripped" in out
    assert "  the lift waits: 2 more votes are needed (Treaty 8.1). alpha, beta, delta: brakeline vote lift" in out


def leaving(w: Little) -> None:
    out = w.ok("withdraw", "--reason", "we leave", home="gamma")
    assert re.search(r"gamma leaves after 180 days, at 20\d\d-.* UTC; until then it is bound", out)
    code, out = w("withdraw", "--reason", "we leave", home="gamma")
    assert (code, "gamma has withdrawn already" in out) == (4, True)
    assert "is bound" in w.ok("pledge", "--if-at-least", "2", home="gamma")
    assert w.report()["parties"][2]["leaves"] is None


def two_statements_of_one_number(w: Little) -> None:
    """Evidence from whoever brings it; and then a vote that has no effect says so."""
    box = w.desk("delta").outbox
    first = box.write("vote", {"motion": "trip", "epoch": 1, "reason": "one"})
    fields = open_envelope(first).statement
    second = sign(
        "vote",
        msgspec.structs.replace(fields, body={**fields.body, "reason": "two"}),
        Home(w.home("delta")).key("statement"),
    )
    box.close()
    for name in ("outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm"):
        with suppress(FileNotFoundError):  # what was signed here is not sent
            (w.home("delta") / name).unlink()
    (w.folder / "one").write_bytes(first)
    (w.folder / "two").write_bytes(second)
    (w.folder / "three").write_bytes(b"junk")
    assert w("evidence", str(w.folder / "one"), str(w.folder / "three"), home="alpha")[0] == 3
    assert w("evidence", str(w.folder / "one"), str(w.folder / "one"), home="alpha")[0] == 3
    assert w("evidence", str(w.folder / "one"), str(w.folder / "none"), home="alpha")[0] == 5
    out = w.ok("evidence", str(w.folder / "two"), str(w.folder / "one"), home="alpha")
    assert "their issuer has equivocated" in out
    assert w("evidence", str(w.folder / "two"), str(w.folder / "one"), home="alpha")[0] == 4
    assert "  delta waits: it equivocated at entry" in w.ok("status", home="beta")
    # The home of delta has lost its outbox: it goes on behind the numbers that the log holds, and says so.
    code, out = w("vote", "trip", "--reason", "do I count?", home="delta")
    assert code == 4
    assert "or another one speaks for the party" in out
    assert "has no effect: delta has equivocated: its vote does not count" in out
    bundle = w.folder / "all.bundle"
    w.ok("bundle", str(bundle), home="alpha")
    before = bundle.read_bytes()
    assert w("bundle", str(bundle), home="alpha")[0] == 2
    assert bundle.read_bytes() == before
    out = w.ok("verify", str(bundle), "--treaty", str(w.treaty_file))
    assert "brake    tripped" in out
    shutil.rmtree(w.folder / "delta" / "seen")
