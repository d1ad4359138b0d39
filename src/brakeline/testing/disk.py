"""Disks that forget: files and databases on a real folder, and what of them a power cut would leave.

A file is what was written; after a power cut it is what was synced, or a part of what was not. A name in a folder is
there when the folder was synced, or when a prefix of the operations that were not got there in time (Pillai et al.
2014). A transaction that SQLite committed under FULL stays, one under less is among those of which the last may go
(the bytes are SQLite's own business, and tested by SQLite). A process that dies alone loses nothing but what it had not
committed: the page cache stays.
"""

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

LATENCY: Final = 0.004  # s at most for a sync


class Dead(BaseException):
    """The process has died at this very operation."""


@dataclass(eq=False)
class _Inode:
    data: bytes = b""
    synced: bytes = b""


@dataclass
class _Database:
    """`unsynced` are images after commits that a power cut may take back, `synced` is the one before them."""

    synced: bytes | None = None
    unsynced: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Backup:
    """A folder as it was: files and databases by path."""

    folder: Path
    files: dict[Path, bytes]
    databases: dict[Path, bytes]


class HostDisk:
    """The disk of one host, below the real folder `root`, for the processes that `point` knows.

    `point` is called before every operation: it raises where the process is dead, or dies now. `pause` waits, in code
    that may. `failing` is the probability that an operation fails.
    """

    def __init__(self, root: Path, rng: Random, point: Callable[[str], None], pause: Callable[[float], None]) -> None:
        self.root, self.failing = root, 0.0
        self._rng, self._point, self._pause = rng, point, pause
        self._live: dict[str, _Inode] = {}  # by path
        self._durable: dict[str, _Inode] = {}
        # Operations on names that no sync of their folder has covered: what, where, and on what or to where.
        self._pending: list[tuple[str, str, Any]] = []
        self._databases: dict[Path, _Database] = {}
        self._locks: set[Path] = set()

    def _fails(self, what: str) -> bool:
        self._point(what)
        return self.failing > 0 and self._rng.random() < self.failing

    # `ports.Disk`

    def write(self, path: Path, data: bytes, *, sync: bool) -> None:
        if self._fails(f"open {path.name}"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        inode = self._live.get(str(path))
        if inode is None:
            inode = self._live[str(path)] = _Inode()
            self._pending.append(("link", str(path), inode))
        inode.data = b""  # as open(…, "wb") does
        if self._fails(f"write {path.name}"):
            inode.data = data[: len(data) // 2]
            path.write_bytes(inode.data)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        inode.data = data
        path.write_bytes(data)
        if sync:
            self._sync(inode, path)

    def _sync(self, inode: _Inode, path: Path) -> None:
        if self._fails(f"fsync {path.name}"):  # what is there is not known, and will not be written again
            raise OSError(errno.EIO, "Input/output error", str(path))
        self._pause(self._rng.random() * LATENCY)
        self._point(f"synced {path.name}")
        inode.synced = inode.data

    def create(self, path: Path, data: bytes) -> None:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        self.write(path, data, sync=True)
        path.chmod(0o600)

    def rename(self, old: Path, new: Path) -> None:
        if self._fails(f"rename {new.name}"):
            raise OSError(errno.EIO, "Input/output error", str(new))
        old.rename(new)
        if str(old) in self._live:
            self._live[str(new)] = self._live.pop(str(old))
            self._pending.append(("rename", str(old), str(new)))
        else:  # it was there before the world began
            inode = self._live[str(new)] = _Inode(new.read_bytes(), new.read_bytes())
            self._pending.append(("link", str(new), inode))

    def sync(self, folder: Path) -> None:
        if self._fails(f"fsync {folder.name}/"):
            raise OSError(errno.EIO, "Input/output error", str(folder))
        self._pause(self._rng.random() * LATENCY)
        self._point(f"synced {folder.name}/")
        left, there = [], str(folder)
        for operation in self._pending:
            if operation[1].rpartition("/")[0] == there:
                self._settle(operation)
            else:
                left.append(operation)
        self._pending = left

    def remove(self, folder: Path) -> None:
        if self._fails(f"remove {folder.name}"):
            raise OSError(errno.EIO, "Input/output error", str(folder))
        shutil.rmtree(folder)
        for path in [p for p in self._live if p.startswith(f"{folder}/")]:
            del self._live[path]
            self._pending.append(("unlink", path, None))

    def connect(self, path: Path) -> "Connection":
        if self._fails(f"connect {path.name}"):
            raise sqlite3.OperationalError("unable to open database file")
        return Connection(self, path, self._databases.setdefault(path, _Database()))

    @contextmanager
    def lock(self, path: Path, seconds: float) -> Iterator[None]:
        left = seconds
        while path in self._locks:
            if left <= 0:
                raise TimeoutError(f"{path} is held by another process")
            self._pause(0.05)
            left -= 0.05
        self._locks.add(path)
        try:
            yield
        finally:
            self._locks.discard(path)

    # What happens to it

    def let_go(self, paths: Iterable[Path]) -> None:
        """The process that held these locks is dead."""
        self._locks.difference_update(paths)

    def lose_power(self) -> None:
        """Every process is dead already. Leaves of what was not synced what luck would."""
        rng = self._rng
        for operation in self._pending[: rng.randint(0, len(self._pending))]:
            self._settle(operation)
        self._pending.clear()
        for inode in {id(i): i for i in self._durable.values()}.values():
            if inode.data != inode.synced:
                kept = rng.choice(("synced", "part", "whole"))
                if kept == "synced":
                    inode.data = inode.synced
                elif kept == "part":
                    inode.data = inode.data[: rng.randint(0, len(inode.data))]
                inode.synced = inode.data
        for name in self._live.keys() - self._durable.keys():
            Path(name).unlink(missing_ok=True)
        for name, inode in self._durable.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(inode.data)
        self._live = dict(self._durable)
        self._locks.clear()
        for path, database in self._databases.items():
            if database.unsynced:
                images = [database.synced or b"", *database.unsynced]
                self._restore_database(path, images[rng.randrange(len(images))])

    def _settle(self, operation: tuple[str, str, Any]) -> None:
        kind, path, to = operation
        if kind == "link":
            self._durable[path] = to
        elif kind == "rename" and path in self._durable:
            self._durable[to] = self._durable.pop(path)
        elif kind == "unlink":
            self._durable.pop(path, None)

    def _restore_database(self, path: Path, image: bytes) -> None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        if image:
            path.write_bytes(image)
        self._databases[path] = _Database()

    def possible(self, path: Path) -> list[bytes | None]:
        """What a power cut now may leave of a file, apart from parts of what was not synced; None: no file."""
        wanted, folder = str(path), str(path.parent)
        there = self._durable.get(wanted)
        found, names = [there.synced if there else None], dict[str, _Inode]()
        for kind, old, to in self._pending:
            if old.rpartition("/")[0] != folder:
                continue
            if kind == "link":
                names[old] = to
            elif kind == "rename" and (inode := names.pop(old, None) or self._durable.get(old)):
                names[to] = inode
                if to == wanted:
                    found.append(inode.synced)
        return found

    def is_durable(self, path: Path) -> bool:
        """Whether all that was committed to the database stays after a power cut at this moment."""
        return not self._databases.get(path, _Database()).unsynced

    def copy(self, folder: Path) -> Backup:
        """What is in a folder, as a backup of it would have it."""
        files = {Path(p): i.data for p, i in self._live.items() if p.startswith(f"{folder}/")}
        databases = {}
        for path in self._databases:
            if folder in path.parents and path.exists():
                db = sqlite3.connect(path)
                databases[path] = db.serialize()
                db.close()
        return Backup(folder, files, databases)

    def put_back(self, backup: Backup) -> None:
        """The folder is again as it was. No process that uses it may run."""
        for name in [n for n in self._live if n.startswith(f"{backup.folder}/") and Path(n) not in backup.files]:
            del self._live[name]
            self._durable.pop(name, None)
            Path(name).unlink(missing_ok=True)
        self._pending = [o for o in self._pending if not o[1].startswith(f"{backup.folder}/")]
        for path, data in backup.files.items():
            self._live[str(path)] = self._durable[str(path)] = _Inode(data, data)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for path, image in backup.databases.items():
            self._restore_database(path, image)


class Connection:
    """A SQLite connection that fails as its disk does."""

    def __init__(self, disk: HostDisk, path: Path, database: _Database) -> None:
        self._disk, self._path, self._database = disk, path, database
        # No time-out: SQLite's busy handler would sleep real time.
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")  # nothing real is synced here
        self._full = True

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA synchronous"):
            self._full = sql.endswith("FULL")
            return self._db.execute("SELECT 1")
        word, disk = sql.split(None, 1)[0], self._disk
        if word == "BEGIN":
            disk._pause(disk._rng.random() * LATENCY)
            disk._point(f"begin {self._path.name}")
            self._wait_for_writers()
        if disk._fails(f"{word} {self._path.name}") and word in ("BEGIN", "COMMIT", "INSERT", "UPDATE"):
            if word == "COMMIT" and disk._rng.random() < 0.5:  # it lasted, and nobody was told
                self._commit(sql)
            raise sqlite3.OperationalError("disk I/O error")
        if word == "COMMIT":
            return self._commit(sql)
        before = self._db.total_changes
        found = self._db.execute(sql, parameters)
        if not self._db.in_transaction and (self._db.total_changes != before or word == "CREATE"):
            self._committed()
        return found

    def _wait_for_writers(self) -> None:
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("ROLLBACK")
                return
            except sqlite3.OperationalError as e:
                if "locked" not in str(e):
                    raise
                self._disk._pause(0.005)
                self._disk._point(f"waiting {self._path.name}")

    def _commit(self, sql: str) -> sqlite3.Cursor:
        found = self._db.execute(sql)
        self._committed()
        self._disk._point(f"committed {self._path.name}")
        self._disk._pause(self._disk._rng.random() * LATENCY)
        return found

    def _committed(self) -> None:
        if self._full:
            self._database.synced, self._database.unsynced = None, []
        else:
            self._database.unsynced.append(self._db.serialize())

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        self._disk._point(f"many {self._path.name}")
        return self._db.executemany(sql, parameters)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self._disk._point(f"script {self._path.name}")
        found = self._db.executescript(sql)
        self._committed()
        return found

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()
