"""The ledger: an append-only file of JSON lines, each chained to the one before. A loop's state is what it says.

A line is canonical JSON `{"body": …, "kind": …, "prev": …}`, where `prev` is the digest of the line before. A last line
without its newline is what a crash leaves, and is dropped on opening; any other damage is refused.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from brakeline.core.encoding import Wire, canonical, parse, tagged
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.node.disk import disk_errors

_TAG: Final = "brakeline/research-ledger/v1"


class Entry(Wire, frozen=True):
    """One line. `prev`: hex digest of the line before, or of nothing for the first."""

    prev: str
    kind: str
    body: dict[str, Any]


class Ledger:
    """Opened for one writer, with `with`.

    Raises, on entering:
        Misuse: another process has it open.
        Refused: a line was changed, removed or moved.
        Unavailable: the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(f"{path}.lock")
        self.folder = path.parent
        self.entries: list[Entry] = []
        self.head = _link(b"")

    def __enter__(self) -> Self:
        with disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as e:
                raise Misuse(f"{self._path} is in use", hint="one loop at a time writes into a folder") from e
        try:
            with disk_errors():
                self._file = open(self._path, "a+b")
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        self._lock.release()

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        *lines, torn = data.split(b"\n")
        if torn:
            self._file.truncate(len(data) - len(torn))
        for number, line in enumerate(lines, 1):
            try:
                entry = parse(line, Entry)
            except Malformed as e:
                raise Refused(Reason.TAMPERED, f"{self._path}, line {number}: {e}") from e
            if entry.prev != self.head:
                raise Refused(Reason.TAMPERED, f"{self._path}, line {number} does not follow the line before it")
            self._take(entry, line)

    def _take(self, entry: Entry, line: bytes) -> None:
        self.entries.append(entry)
        self.head = _link(line)

    def append(self, kind: str, body: dict[str, Any]) -> None:
        """Durable when this returns."""
        entry = Entry(prev=self.head, kind=kind, body=body)
        line = canonical(entry)
        with disk_errors():
            self._file.write(line + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._take(entry, line)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The bodies of all entries of one kind, in order."""
        return [entry.body for entry in self.entries if entry.kind == kind]


def _link(line: bytes) -> str:
    return tagged(_TAG, line).hex()
