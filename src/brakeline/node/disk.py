"""Files and databases that survive a crash, and their errors in our terms."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable

_BUSY: Final = 30.0  # s that a process waits for another one of ours


@contextmanager
def database_errors() -> Iterator[None]:
    """SQLite's errors in our terms: a disk that is full or failing may recover, a corrupt file will not."""
    try:
        yield
    except sqlite3.OperationalError as e:
        raise Unavailable(f"the database cannot be used now: {e}", hint="check the disk's space and health") from e
    except sqlite3.Error as e:
        raise Refused(Reason.TAMPERED, f"the database is damaged: {e}", hint="restore it from a replica") from e


@contextmanager
def disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise Unavailable(f"{e.strerror or e}: {e.filename}", hint="check the disk's space and health") from e


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits survive a power cut. Transactions are begun by hand."""
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


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. When COMMIT itself fails nobody may assume either; read the table again."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Readers see the old bytes or the new, never a part. With `durable`, so they do after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(temporary, "wb") as f:
        f.write(data)
        if durable:
            f.flush()
            os.fsync(f.fileno())
    os.replace(temporary, path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: Path, data: bytes) -> None:
    """`replace_file`, durable, in a folder that is made when it is not there."""
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, durable=True)


def write_private(path: Path, data: bytes) -> None:
    """Create `path` with mode 0600, durably; never overwrites.

    Raises:
        Misuse: the file is there already. Unavailable: the disk does not take it.
    """
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as e:
            raise Misuse(f"{path} exists already", hint="a key is never overwritten; choose another folder") from e
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
