"""Files and databases that survive a crash, and their errors in our terms."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable
from brakeline.node import ports
from brakeline.node.ports import Connection


@contextmanager
def database_errors() -> Iterator[None]:
    """SQLite's errors in our terms: a disk that is full or failing may recover, a corrupt file will not."""
    try:
        yield
    except sqlite3.OperationalError as e:
        raise Unavailable(f"the database cannot be used now: {e}", hint="check the disk's space and health") from e
    except sqlite3.Error as e:
        hint = "put it back from a copy: brakeline restore"
        raise Refused(Reason.TAMPERED, f"the database is damaged: {e}", hint=hint) from e


@contextmanager
def disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise Unavailable(f"{e.strerror or e}: {e.filename}", hint="check the disk's space and health") from e


def connect(path: Path) -> Connection:
    """A connection whose commits survive a power cut. Transactions are begun by hand."""
    return ports.disk().connect(path)


@contextmanager
def transaction(db: Connection) -> Iterator[None]:
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
    disk, temporary = ports.disk(), path.with_name(f"{path.name}.{os.getpid()}.new")
    disk.write(temporary, data, sync=durable)
    disk.rename(temporary, path)
    if durable:
        disk.sync(path.parent)


@contextmanager
def locked(path: Path, seconds: float, *, busy: str, hint: str) -> Iterator[None]:
    """Nobody else who locks this file goes on meanwhile.

    Raises:
        Unavailable: somebody does, for more than so many seconds; `busy` says so. Or the disk fails.
    """
    with disk_errors():
        try:
            lock = ports.disk().lock(path, seconds)
            lock.__enter__()
        except TimeoutError:
            raise Unavailable(busy, hint=hint) from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)


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
            ports.disk().create(path, data)
        except FileExistsError as e:
            raise Misuse(f"{path} exists already", hint="a key is never overwritten; choose another folder") from e
        ports.disk().sync(path.parent)
