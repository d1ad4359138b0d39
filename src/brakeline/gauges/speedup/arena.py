"""One run of a candidate: a fresh process in a sandbox, on one core, timed from outside from its start to its end.

The clock starts with the go, when the interpreter is yet to be loaded, and stops when the process is gone. The sandbox
is the one that holds the lab's code in an audit: every file system read-only, no network, no process of others, the
usual temporary folders and the home empty; with its first process all others end, so nothing works on afterwards, and
nothing that a run leaves is there in the next one.
"""

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from brakeline.core.encoding import tagged
from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.gauges.speedup.launch import GO
from brakeline.node.disk import disk_errors

ENTRY: Final = "train.py"
_SANDBOX: Final = "brakeline.node.sandbox"  # started, not imported
_READY: Final = 30.0  # seconds the sandbox gets to stand
_PATIENCE: Final = 5.0  # seconds a run gets to die
_WORDS: Final = 300  # bytes kept of what a candidate says on standard error
_BYTECODE: Final = shutil.ignore_patterns("__pycache__")
_MOST_FILES, _MOST_BYTES = 1000, 1 << 26  # of a candidate
# One thread for each library that would start more; they would only be in one another's way on one core.
_QUIET: Final = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "BLIS")}


class Run(NamedTuple):
    """`wall` and `cpu` in seconds, `cpu` of all processes of the run. `output` is None where `problem` says why."""

    wall: float
    cpu: float
    output: bytes | None
    problem: str


def digest_folder(folder: Path) -> bytes:
    """Digest of a candidate: 32 bytes over the names and contents of its files. `__pycache__` does not belong to it.

    Raises:
        As `_files`.
    """
    return tagged("brakeline/speedup-candidate/v1", *(part for file in _files(folder).items() for part in file))


def _files(folder: Path) -> dict[bytes, bytes]:
    """Name, relative and with slashes, and content of each file of a candidate, in the order of their names.

    Raises:
        Misuse: no folder with a `train.py`. Unavailable: a file that cannot be read.
        Malformed: something that is no plain file, a name that is not UTF-8, or more than 64 MiB.
    """
    if not (folder / ENTRY).is_file():
        raise Misuse(f"there is no {folder / ENTRY}", hint="a candidate is a folder with a train.py")
    found: dict[bytes, bytes] = {}
    size = 0
    with disk_errors():
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise Malformed(f"{path} is not a plain file", hint="a candidate holds plain files and folders only")
            name = path.relative_to(folder)
            if path.is_dir() or "__pycache__" in name.parts:
                continue
            size += path.stat().st_size
            if size > _MOST_BYTES or len(found) >= _MOST_FILES:
                raise Malformed(f"{folder} is too large", hint="a candidate has at most 1000 files and 64 MiB")
            try:
                found[name.as_posix().encode()] = path.read_bytes()
            except UnicodeEncodeError as e:
                raise Malformed(f"the name {str(name)!r} is not UTF-8", hint="name it otherwise") from e
    return found


@contextmanager
def frozen(folder: Path) -> Iterator[Path]:
    """A copy of a candidate that its maker cannot change between the digest and the last run.

    It has what the digest covers and nothing else: an empty folder's name, a time or a mode could carry a table too.

    Raises:
        As `_files`. Unavailable: the disk.
    """
    files = _files(folder)
    with tempfile.TemporaryDirectory(prefix="brakeline-speedup-") as room:
        copy = Path(room) / "candidate"
        with disk_errors():
            for name, data in files.items():
                path = copy / name.decode()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        yield copy


def run(folder: Path, data: bytes, expected: int, *, limit: float, hidden: Sequence[Path] = ()) -> Run:
    """Run `folder` on `data`; it is to print `expected` bytes within `limit` seconds. It does not see `hidden`.

    Raises:
        Unavailable: this machine has no such sandbox.
    """
    if sys.platform != "linux":
        raise Unavailable("candidates are locked up by means of Linux", hint="run the gauge in a virtual machine")
    room = Path(tempfile.mkdtemp(prefix="brakeline-speedup-"))
    try:
        shutil.copytree(folder, room / "candidate", ignore=_BYTECODE)
        (room / "tmp").mkdir()
        return _run(room, data, expected, limit, hidden)
    except OSError as e:
        raise Unavailable(f"cannot start a run: {e}") from e
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(room: Path, data: bytes, expected: int, limit: float, hidden: Sequence[Path]) -> Run:
    core = max(os.sched_getaffinity(0))
    scratch = str(room / "tmp")
    away = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path.home(), *hidden]
    hide = [word for path in away for word in ("--hide", path)]
    python = (sys.executable, "-P", "-m")
    launch = (*python, "brakeline.gauges.speedup.launch", core, room / "candidate", sys.executable)
    process = subprocess.Popen(
        [str(word) for word in (*python, _SANDBOX, scratch, *hide, "--", *launch)],
        cwd="/",
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": scratch, "TMPDIR": scratch, **_QUIET},
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    talk = _Talk(process)
    try:
        talk.until(time.monotonic() + _READY, most=1 << 12, line=True)
        if bytes(talk.printed) != b"ready\n":
            raise Unavailable(
                f"a candidate cannot be locked up here: {talk.words()}",
                hint="the gauge needs Linux with unprivileged user namespaces",
            )
        talk.printed.clear()
        before = psutil.Process(process.pid)
        spent = sum(t.user + t.system for t in (p.cpu_times() for p in (before, *before.children())))
        start = time.monotonic()
        talk.unsent = memoryview(GO + data)
        talk.until(start + limit, most=expected)
        wall = time.monotonic() - start
    finally:
        code, used = talk.end()
    cpu = max(0.0, used - spent)
    problem = ""
    if len(talk.printed) > expected:
        problem = f"it printed more than the {expected} bytes asked for"
    elif not talk.over:
        problem = f"it did not end within {limit:g} s"
    elif code != 0:
        problem = f"it ended with exit code {code}: {talk.words()}"
    elif len(talk.printed) != expected:
        problem = f"it printed {len(talk.printed)} bytes, not the {expected} asked for"
    return Run(wall, cpu, None if problem else bytes(talk.printed), problem)


class _Talk:
    """Everything between this process and a run, in one thread. `over` says that the run ended by itself."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._ends = os.pidfd_open(process.pid)
        self._in, self._out, self._err = (f.fileno() for f in (process.stdin, process.stdout, process.stderr))
        self._open = {self._out, self._err}
        os.set_blocking(self._in, False)
        self.unsent = memoryview(b"")
        self.printed, self._said = bytearray(), b""
        self.over = False

    def until(self, deadline: float, *, most: int, line: bool = False) -> None:
        """Listen and send until the process is gone, or has printed a `line`, or more than `most` bytes, or is late."""
        while not self.over and len(self.printed) <= most and not (line and b"\n" in self.printed):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            readable, writable, _ = select.select(
                [self._ends, *self._open], [self._in] if self.unsent else [], [], left
            )
            if writable:
                self._send()
            for f in self._open & set(readable):
                self._listen(f)
            self.over = self._ends in readable
        while self.over and self._open and len(self.printed) <= most:  # all writers are gone: read to the end
            for f in tuple(self._open):
                self._listen(f)

    def _send(self) -> None:
        try:
            self.unsent = self.unsent[os.write(self._in, self.unsent[: 1 << 16]) :]
        except BlockingIOError:
            pass
        except OSError:  # it reads no more
            self.unsent = memoryview(b"")
        if not self.unsent:
            self._process.stdin.close()  # type: ignore[union-attr]

    def _listen(self, f: int) -> None:
        data = os.read(f, 1 << 16)
        if not data:
            self._open.discard(f)
        elif f == self._out:
            self.printed += data
        else:
            self._said = (self._said + data)[-_WORDS:]

    def words(self) -> str:
        """What it said last, for a message, in one line that steers no terminal."""
        said = (self._said or bytes(self.printed[:_WORDS])).decode(errors="replace")
        return "".join(c if c.isprintable() else " " for c in said).strip()

    def end(self) -> tuple[int, float]:
        """End the run and all it started; returns its exit code, and the processor time of all of them in seconds."""
        process = self._process
        if not self.over:
            process.terminate()  # the sandbox kills what is inside
            if not select.select([self._ends], [], [], _PATIENCE)[0]:
                process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self._ends)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return process.returncode, usage.ru_utime + usage.ru_stime
