"""Run a command so that it can be stopped whole: children, grandchildren, and daemons that left its session.

The supervisor makes itself a *child subreaper* (prctl(2), Linux): a process whose parent dies becomes the
supervisor's child and never init's, so nothing the command starts can leave the tree. The command gets a
session of its own, and a process can leave a session but never join one: an orphan in the supervisor's own
session is the host program's, every other one is the command's.

Stopping: freeze the tree (SIGSTOP, so that nothing forks while it is being listed), SIGTERM everything, let
it go on, and after the grace SIGKILL whatever is left. A signal goes through a pidfd checked against the
process's start time, so it never reaches a stranger who got a dead process's number.

What this cannot do: outlive its own SIGKILL (`guard` does); signal another user's processes (they are reported as
survivors); reach work handed to a daemon outside the tree (cron, a container engine); win against a chain
that forks and exits faster than /proc can be read. Where those matter, run the supervisor in a cgroup.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from brakeline.core.errors import Misuse, Unavailable

_PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>
_LOOK: Final = 0.02  # seconds between two looks at a tree that is being stopped
_FREEZE: Final = 2.0  # seconds until a process that does not freeze (uninterruptible sleep) is left as it is
_KILL: Final = 10.0  # seconds until a process that SIGKILL does not end is reported as a survivor

# One command at a time: an orphan shows only which process adopted it, not whose it was.
_ONE: Final = threading.Lock()


class StopReport(NamedTuple):
    """What stopping took: processes found alive, how many of them needed SIGKILL, and the wall time.

    `survivors` are the pids still alive at the end. The tree is stopped if and only if there are none.
    """

    processes: int
    killed: int
    seconds: float
    survivors: tuple[int, ...]


NOTHING: Final = StopReport(0, 0, 0.0, ())


class Supervised:
    """A running command and all that comes of it. `stop` ends it, and is due after a normal exit as well.

    Raises on construction:
        Misuse: there is no such command, or this process supervises another one. Unavailable: not on Linux.
    """

    def __init__(
        self, cmd: Sequence[str], *, env: Mapping[str, str] | None = None, heed_signals: bool = False
    ) -> None:
        """With `heed_signals` the command heeds those that this process ignores."""
        if not _ONE.acquire(blocking=False):
            raise Misuse("this process already supervises a command", hint="use one process a command")
        self._over = False
        try:
            adopt_orphans(True)
            self._before = frozenset(psutil.Process().children())
            self._popen = subprocess.Popen(
                cmd, env=env, start_new_session=True, preexec_fn=_heed_all if heed_signals else None
            )
        except BaseException as e:
            _ONE.release()
            if isinstance(e, OSError | ValueError):
                raise Misuse(f"cannot start {cmd[0]!r}: {e}") from e
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """The command's exit code, or None while it runs. What it has left running does not count."""
        self._reap()
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        """As `poll`, after at most `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
        return self.poll()

    def signal(self, number: int) -> None:
        """Signal the command's process group, as a terminal does."""
        if self._popen.poll() is None:
            os.killpg(self.pid, number)

    def processes(self) -> list[psutil.Process]:
        """The processes of the tree that are alive, parents before children."""
        me = psutil.Process()
        tree: list[psutil.Process] = []
        pids: set[int] = set()
        for process in me.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                parent = process.ppid()
                if parent in pids or (parent == me.pid and self._is_ours(process.pid)):
                    pids.add(process.pid)
                    if _states(process.pid) - _DEAD:
                        tree.append(process)
        return tree

    def freeze(self) -> None:
        """SIGSTOP every process of the tree: nothing of it goes on until `thaw` or `stop`."""
        self._freeze(frozenset())

    def thaw(self) -> None:
        """Let what was frozen go on, children first."""
        _send(reversed(self.processes()), signal.SIGCONT)

    def stop(self, grace: float) -> StopReport:
        """End every process of the tree: SIGTERM, and SIGKILL for what is still there after `grace` seconds.

        A grace of 0 goes straight to SIGKILL. With survivors it may be tried again; after success it does nothing.
        """
        if self._over:
            return NOTHING
        began = time.monotonic()
        told: set[psutil.Process] = set()
        while not self._is_gone() and time.monotonic() < began + grace:
            # What was forked since the last look is told as well; what was told may take its time.
            frozen = self._freeze(told)
            _send(frozen, signal.SIGTERM)
            # Children first: when a parent ends and its child is frozen in a group of its own, the kernel
            # sends the child SIGHUP, and a training process that saves on SIGTERM would die unsaved.
            _send(reversed(frozen), signal.SIGCONT)
            told.update(frozen)
            time.sleep(_LOOK)
        killed: set[psutil.Process] = set()
        killing = time.monotonic()
        while not self._is_gone() and time.monotonic() < killing + _KILL:
            frozen = self._freeze(frozenset())
            _send(frozen, signal.SIGKILL)
            killed.update(frozen)
            time.sleep(_LOOK)
        survivors: tuple[int, ...] = ()
        while not survivors and not self._is_gone():
            survivors = tuple(p.pid for p in self.processes())
        if not survivors:
            self._popen.wait()
            self._over = True
            adopt_orphans(False)
            _ONE.release()
        return StopReport(len(told | killed), len(killed), time.monotonic() - began, survivors)

    def _freeze(self, spared: AbstractSet[psutil.Process]) -> list[psutil.Process]:
        """SIGSTOP all but `spared`, until two looks find the same processes and all of them still."""
        deadline = time.monotonic() + _FREEZE
        last: list[psutil.Process] | None = None
        while True:
            seen = [p for p in self.processes() if p not in spared]
            running = [p for p in seen if _states(p.pid) - _STILL]
            if (not running and seen == last) or time.monotonic() > deadline:
                return seen
            _send(running, signal.SIGSTOP)
            last = seen

    def _is_gone(self) -> bool:
        # A look at /proc is not one moment: a parent that dies during it hides its children. But then its
        # topmost ancestor, a child of ours, is seen alive, or is a zombie that we bury. Neither: all are gone.
        return not self.processes() and not self._reap()

    def _reap(self) -> int:
        """Bury the dead that we adopted, and only those; how many they were."""
        buried = 0
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return buried
            if dead is None or not self._is_ours(dead.si_pid):
                return buried
            if dead.si_pid == self.pid:
                self._popen.poll()
            else:
                os.waitpid(dead.si_pid, os.WNOHANG)
            buried += 1

    def _is_ours(self, child: int) -> bool:
        """Whether this child of the supervisor is the command or an orphan of it."""
        try:
            return os.getsid(child) != os.getsid(0) and psutil.Process(child) not in self._before
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False


def _heed_all() -> None:
    """What is ignored here would be ignored by the command, too: that is inherited."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def adopt_orphans(yes: bool) -> None:
    if sys.platform != "linux":
        raise Unavailable("whole process trees can be supervised on Linux only")
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) != 0:
        raise Unavailable(f"cannot become a child subreaper: {os.strerror(ctypes.get_errno())}")


# Letters of proc_pid_stat(5), field 3.
_DEAD: Final = frozenset("ZXx")
_STILL: Final = _DEAD | frozenset("Tt")


def _states(pid: int) -> frozenset[str]:
    """The states of the process's threads; empty when it is gone.

    All threads, because a main thread that has exited shows its process as a zombie while the others work on.
    """
    states: set[str] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # The command's name stands before the state, in parentheses, and may itself hold any character.
            states.add((task / "stat").read_text(errors="replace").rpartition(")")[2].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return frozenset(states)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal each process that is still the one it was, and pass over the gone and other users'."""
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            # The fd holds on to one process; only now does it help to ask whether it is the one we mean.
            if process.is_running():
                signal.pidfd_send_signal(fd, number)
        except (ProcessLookupError, PermissionError):
            pass
        finally:
            os.close(fd)
