"""What a node asks of the machine that it runs on: clock, disk and dice here, and the wire in `brakeline.node.peers`.

Whoever runs a node elsewhere, as `brakeline.testing` does, puts other ports in their place for a context.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from brakeline.node.machine import MachineClock, MachineDisk, dice_of_the_machine

T = TypeVar("T")
R = TypeVar("R")


class Condition(AbstractContextManager[bool], Protocol):
    """Its lock may be taken again by whoever holds it."""

    def wait(self, timeout: float | None = None) -> bool: ...
    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T: ...
    def notify_all(self) -> None: ...


class Event(Protocol):
    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Thread(Protocol):
    def is_alive(self) -> bool: ...


class Clock(Protocol):
    """Time, and all that waits."""

    def wall(self) -> float:
        """POSIX seconds; may jump."""

    def monotonic(self) -> float:
        """Seconds, for measuring how long something takes."""

    def boot_ns(self) -> int:
        """Monotonic nanoseconds that go on while the machine sleeps, so that sleeping does not stretch a permit."""

    def sleep(self, seconds: float) -> None: ...
    def lock(self) -> AbstractContextManager[bool]: ...
    def condition(self) -> Condition: ...
    def event(self) -> Event: ...

    def start(self, name: str, work: Callable[[], object]) -> Thread:
        """Do it in a thread that ends with the process."""

    def at_once(self, work: Callable[[T], R], items: Iterable[T], seconds: float | None = None) -> Generator[R]:
        """What comes of doing `work` on all items at a time, as it comes; nothing that comes after `seconds`.

        `work` raises nothing.
        """


class Connection(Protocol):
    """A SQLite connection, as much of it as a node uses."""

    def execute(self, sql: str, parameters: Sequence[Any] = ...) -> sqlite3.Cursor: ...
    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> sqlite3.Cursor: ...
    def executescript(self, sql: str) -> sqlite3.Cursor: ...
    @property
    def in_transaction(self) -> bool: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """All that changes what is kept; reading is by path. Every method raises OSError, or what SQLite raises."""

    def write(self, path: Path, data: bytes, *, sync: bool) -> None:
        """A file with these bytes; with `sync`, they are on the disk when it returns."""

    def create(self, path: Path, data: bytes) -> None:
        """The same, synced, mode 0600. Raises FileExistsError."""

    def rename(self, old: Path, new: Path) -> None: ...

    def sync(self, folder: Path) -> None:
        """The names in a folder are on the disk when it returns."""

    def remove(self, folder: Path) -> None:
        """A folder and all that is in it."""

    def connect(self, path: Path) -> Connection:
        """A database whose commits survive a power cut. Transactions are begun by hand."""

    def lock(self, path: Path, seconds: float) -> AbstractContextManager[object]:
        """Held by one process at a time. Raises TimeoutError."""


class Ports(NamedTuple):
    clock: Clock
    disk: Disk
    dice: Callable[[int], bytes]


MACHINE = Ports(MachineClock(), MachineDisk(), dice_of_the_machine)
_PORTS: ContextVar[Ports] = ContextVar("ports")


def clock() -> Clock:
    return _PORTS.get(MACHINE).clock


def disk() -> Disk:
    return _PORTS.get(MACHINE).disk


def dice(count: int) -> bytes:
    """So many random bytes."""
    return _PORTS.get(MACHINE).dice(count)


def set_for_this_context(ports: Ports) -> None:
    """What runs in this context asks these from here on."""
    _PORTS.set(ports)
