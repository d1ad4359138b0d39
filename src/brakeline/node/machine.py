"""Clock, disk and dice of the machine itself."""

import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import filelock

T = TypeVar("T")
R = TypeVar("R")
_BUSY: Final = 30.0  # s that a process waits for another one of ours

dice_of_the_machine = secrets.token_bytes


class MachineClock:
    """`ports.Clock` of the operating system."""

    event = staticmethod(threading.Event)

    @staticmethod
    def wall() -> float:
        return time.time()

    @staticmethod
    def monotonic() -> float:
        return time.monotonic()

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    @staticmethod
    def lock() -> AbstractContextManager[bool]:
        return threading.Lock()

    @staticmethod
    def condition() -> threading.Condition:
        return threading.Condition()

    @staticmethod
    def boot_ns() -> int:
        number = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic_ns() if number is None else time.clock_gettime_ns(number)

    @staticmethod
    def start(name: str, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    @staticmethod
    def at_once(work: Callable[[T], R], items: Iterable[T], seconds: float | None = None) -> Generator[R]:
        todo = list(items)
        pool = ThreadPoolExecutor(max_workers=max(1, len(todo)))
        try:
            with suppress(TimeoutError):
                for future in as_completed([pool.submit(work, item) for item in todo], timeout=seconds):
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class MachineDisk:
    """`ports.Disk` of the operating system."""

    @staticmethod
    def write(path: Path, data: bytes, *, sync: bool) -> None:
        with open(path, "wb") as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())

    @staticmethod
    def create(path: Path, data: bytes) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            try:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            except OSError as e:
                path.unlink()  # a part of it would be in the way of the next try
                raise OSError(e.errno, e.strerror, str(path)) from e

    @staticmethod
    def rename(old: Path, new: Path) -> None:
        os.replace(old, new)

    @staticmethod
    def sync(folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def remove(folder: Path) -> None:
        shutil.rmtree(folder)

    @staticmethod
    def connect(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                db.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as e:
                # Two processes that make one database at a time: here SQLite does not wait by itself.
                if "locked" not in str(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        db.execute("PRAGMA synchronous=FULL")
        return db

    @staticmethod
    @contextmanager
    def lock(path: Path, seconds: float) -> Iterator[None]:
        try:
            with filelock.FileLock(path, timeout=seconds, thread_local=False):
                yield
        except filelock.Timeout as e:
            raise TimeoutError(f"{path} is held by another process") from e
