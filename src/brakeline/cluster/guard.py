"""Between a supervisor and its command: a process that ends the command when the supervisor is gone.

A supervisor that is killed (SIGKILL, a closed session, memory that ran out) can stop nothing any more. So what it runs
is supervised by a child of it, this guard, over a socket that the kernel closes with its owner. When that is closed
without a word, the whole tree is stopped as a brake stops it: SIGTERM, grace, SIGKILL. When it is the guard that is
killed, the supervisor adopts the tree, and kills it. A supervisor that stands still (Ctrl-Z, SIGSTOP) cannot stop
anything either: when it has said nothing for a while the tree is frozen, and goes on when it does.

What this cannot do: outlive the death of both at once. Where that matters, run them in a cgroup (systemd does).
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import psutil

from brakeline.cluster.supervise import NOTHING, StopReport, Supervised, adopt_orphans
from brakeline.core.errors import Misuse, Unavailable

_START: Final = 30.0  # s for the guard to start the command
_LOOK: Final = 0.02  # s between two looks at the command
_SILENT: Final = 2.0  # s without a word of the supervisor until the command is frozen
_KILL: Final = 10.0  # s until what SIGKILL does not end is reported


class Guarded:
    """A command under a guard. As `Supervised`, whose place it takes; `grace` (s) is what the guard gives by itself."""

    def __init__(self, cmd: Sequence[str], *, grace: float, env: Mapping[str, str] | None = None) -> None:
        """Raises:
        Misuse: there is no such command. Unavailable: the guard does not start.
        """
        adopt_orphans(True)
        self._before = frozenset(psutil.Process().children())
        self._socket, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, "-m", "brakeline.cluster.guard", str(theirs.fileno())]
            self._guard = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), start_new_session=True)
        self._buffer = b""
        self._code: int | None = None
        self._lost = False  # the guard is gone
        self._report: StopReport | None = None
        self._send({"cmd": list(cmd), "env": None if env is None else dict(env), "grace": grace})
        self.pid = 0
        deadline = time.monotonic() + _START
        while not self.pid:
            message = self._receive(deadline - time.monotonic())
            if message is None:
                self.stop(0)
                raise Unavailable(f"the guard of {cmd[0]!r} did not start")
            if "misuse" in message:
                self.stop(0)
                raise Misuse(message["misuse"])
            self.pid = message.get("pid", 0)

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._lost = True

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        """The guard's next message, or None: it says nothing in time, or is gone."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if self._lost or not select.select([self._socket], [], [], max(0.0, left))[0]:
                return None
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            self._lost = not data
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "code" in message:
            self._code = message["code"]
        if "report" in message:
            processes, killed, seconds, survivors = message["report"]
            self._report = StopReport(processes, killed, seconds, tuple(survivors))
        return message

    def wait(self, timeout: float) -> int | None:
        """The command's exit code, once it has one, after at most `timeout` seconds; as `Supervised.wait`.

        A command whose guard is gone counts as killed: it is, by `stop`.
        """
        deadline = time.monotonic() + timeout
        while self._code is None and not self._lost and (left := deadline - time.monotonic()) > 0:
            self._receive(left)
        return -signal.SIGKILL if self._code is None and self._lost else self._code

    def keep(self) -> None:
        """The command may go on. Due more often than every two seconds, or it is frozen until then."""
        self._send({})

    def signal(self, number: int) -> None:
        """Signal the command's process group, as a terminal does."""
        self._send({"signal": number})

    def stop(self, grace: float) -> StopReport:
        """As `Supervised.stop`."""
        if self._report is not None and not self._report.survivors:
            return NOTHING
        self._report = None
        self._send({"stop": grace})
        deadline = time.monotonic() + grace + 2 * _KILL
        while self._report is None and not self._lost and time.monotonic() < deadline:
            self._receive(deadline - time.monotonic())
        if self._report is None:
            self._report = self._kill()
        if not self._report.survivors:
            self._socket.close()
            self._guard.wait()
            adopt_orphans(False)
        return self._report

    def _kill(self) -> StopReport:
        """What a guard that is gone has left: it is ours now, and ends at once."""
        began, killed = time.monotonic(), set[psutil.Process]()
        while True:
            tree = [p for p in psutil.Process().children(recursive=True) if p not in self._before]
            alive = [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            for process in alive:
                with suppress(psutil.Error):
                    process.kill()
            killed.update(alive)
            for process in tree:
                with suppress(ChildProcessError, OSError):
                    os.waitpid(process.pid, os.WNOHANG)
            if not alive or time.monotonic() > began + _KILL:
                self._lost = True
                return StopReport(len(killed), len(killed), time.monotonic() - began, tuple(p.pid for p in alive))
            time.sleep(_LOOK)


def main(fd: int) -> None:
    """The guard itself: runs what it is told, and ends it when nobody is there to tell."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as peer, peer.makefile("rb") as lines:
        os.set_inheritable(fd, False)
        first = json.loads(lines.readline() or b"{}")
        if not first:
            return

        def say(message: Mapping[str, Any]) -> None:
            with suppress(OSError):  # nobody listens any more: the next look finds out
                peer.sendall(json.dumps(message).encode() + b"\n")

        try:
            job = Supervised(first["cmd"], env=first["env"], heed_signals=True)
        except (Misuse, Unavailable) as e:
            say({"misuse": str(e)})
            return
        say({"pid": job.pid})
        _attend(job, peer, say, first["grace"])


def _attend(job: Supervised, peer: socket.socket, say: Any, grace: float) -> None:
    told, buffer = False, b""
    heard, frozen = time.monotonic(), False
    while True:
        ready = select.select([peer], [], [], _LOOK)[0]
        code = job.poll()
        if code is not None and not told:
            told = True
            say({"code": code})
        if not ready:
            if not frozen and time.monotonic() - heard > _SILENT:
                frozen = True
                job.freeze()
            continue
        try:
            data = peer.recv(65536)
        except OSError:
            data = b""
        if not data:  # the supervisor is gone
            job.stop(grace)
            return
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            heard = time.monotonic()
            if frozen and "stop" not in message:
                frozen = False
                job.thaw()
            if "signal" in message:
                with suppress(ProcessLookupError):
                    job.signal(message["signal"])
            if "stop" in message:
                report = job.stop(message["stop"])
                say({"report": list(report)})
                if not report.survivors:
                    return


if __name__ == "__main__":
    main(int(sys.argv[1]))
