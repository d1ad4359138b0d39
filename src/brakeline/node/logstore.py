"""The log on disk: one SQLite table of entries, the published checkpoint, and tiles derived from both.

What may be lost and what may not:

* An entry is durable once `append` returns: one transaction for the batch, synchronous=FULL.
* The tree is never stored. It is computed from the rows as a second connection reads them back, on opening
  and after every append, by the same function. A row that differs from what was submitted is found before a
  root over it is signed.
* `checkpoint` is the file that binds us: it is replaced atomically, with fsync of file and folder, and a
  store whose rows do not reproduce its root, or fall short of its size, does not open. Signing on would fork
  the log.
* Tile files (C2SP tlog-tiles) are copies for readers, written without fsync before the checkpoint that covers
  them. Opening compares every one with the rows and rewrites what is missing, short or wrong.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in
from brakeline.core.tlog.merkle import HASH_BYTES, Frontier, leaf_hash, node_hash, subtree_root
from brakeline.core.tlog.tile import ENTRIES, HEIGHT, MAX_ENTRY, WIDTH, Tile, encode_bundle, tile_hashes, tiles_for
from brakeline.node.disk import connect, database_errors, disk_errors, locked, replace_file, transaction
from brakeline.node.ports import Connection, clock, disk

_CHUNK: Final = 4096  # rows read back at once
_WAIT: Final = 10.0  # s for a process that is being stopped to let go

# `number` is index + 1: SQLite numbers the rows itself, from one, and a duplicate that is left out takes no number.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, digest BLOB NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS digests ON entries (digest);
"""
_AS_IS: Final = "INSERT INTO entries (digest, data) VALUES (?1, ?2)"
_ONCE: Final = (
    "INSERT INTO entries (digest, data) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM entries WHERE digest = ?1)"
)


class LogStore:
    """An append-only log of one origin in one directory, open in one process at a time.

    Reads may run in other threads while one thread appends or publishes.
    """

    def __init__(self, directory: Path, origin: str) -> None:
        """Open, creating what is missing; this is also how a crash is recovered from.

        Raises:
            Refused(ROLLBACK): the published checkpoint is larger than the database, or its root is another.
            Refused(TAMPERED): a row does not match its digest, or the database is damaged.
            Refused(FOREIGN): the published checkpoint is of another origin.
            Malformed: the published checkpoint does not parse.
            Unavailable: another process has the store open, or the disk fails.
        """
        self.directory = directory
        self.origin = origin
        with disk_errors():
            directory.mkdir(parents=True, exist_ok=True)
        busy = f"{directory} is open in another process"
        self._lock = ExitStack()
        self._lock.enter_context(
            locked(directory / "lock", _WAIT, busy=busy, hint="one process writes a log: stop the other one first")
        )
        self.repaired = 0  # tiles that were missing or wrong
        self._connections: list[Connection] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with database_errors():
            path = self.directory / "log.db"
            self._writer = connect(path)
            self._connections.append(self._writer)
            self._writer.executescript(_SCHEMA)
            # Reads go through a connection of their own: its pages come from the file, not from the cache
            # into which the rows were just written.
            self._reader = connect(path)
            self._reading = clock().lock()
            self._connections.append(self._reader)
        # _levels[l] holds the hashes of all perfect subtrees of 2**l leaves, one after another: 64 bytes an
        # entry.
        self._levels: list[bytearray] = [bytearray()]
        self._integrate()
        with disk_errors():
            path = self.directory / "checkpoint"
            self._published = path.read_bytes() if path.exists() else None
            self._published_size = 0
            if self._published is not None:
                self._published_size = self._check(self._published).size
            self._write_tiles(0, self._published_size, repair=True)
            self._drop_partials(0, self._published_size)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._lock.close()

    def __enter__(self) -> "LogStore":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Entries that are durable. All but the last `size - published_size` are under the checkpoint."""
        return len(self._levels[0]) // HASH_BYTES

    @property
    def published_size(self) -> int:
        return self._published_size

    @property
    def frontier(self) -> Frontier:
        size = self.size
        levels = [level for level in reversed(range(size.bit_length())) if size >> level & 1]
        return Frontier(size, tuple(self.read(level, (size >> level) - 1) for level in levels))

    def read(self, level: int, index: int) -> bytes:
        """A `merkle.HashReader` over the durable tree."""
        if level < len(self._levels) and 0 <= index < len(self._levels[level]) // HASH_BYTES:
            return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])
        raise Misuse(f"no hash {index} at level {level} in a tree of size {self.size}")

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` entries, or over all that are durable.

        Raises:
            Misuse: the log is smaller.
        """
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise Misuse(f"no root of size {size}: the log has {self.size} entries")
        return subtree_root(size, self.read)

    def append(self, entries: Sequence[bytes], *, as_is: bool = False) -> list[int]:
        """Make `entries` durable in one transaction; returns their indices. A duplicate has that of its first.

        With `as_is` they are taken from another log, whose keeper may have logged one twice: so are they here.

        Raises:
            Malformed: an entry is empty or over 65,535 bytes; nothing is appended.
            Refused(TAMPERED): what was read back is not what was written; the process must stop.
            Unavailable: the disk failed. Some or all may be durable; append them again.
        """
        for entry in entries:
            if not 0 < len(entry) <= MAX_ENTRY:
                raise Malformed(f"an entry has 1 to {MAX_ENTRY} bytes, not {len(entry)}")
        rows = [(sha256(entry), entry) for entry in entries]
        self._integrate()  # a commit that failed before may have lasted all the same
        before = self.size
        with database_errors(), transaction(self._writer):
            self._writer.executemany(_AS_IS if as_is else _ONCE, rows)
        self._integrate()
        if self.size - before == len(rows):
            return list(range(before, self.size))
        return [self._find(digest) for digest, _ in rows]

    def _integrate(self) -> None:
        """Read every row beyond the tree back from the file, and extend the tree by it."""
        while True:
            size = self.size
            query = "SELECT number, digest, data FROM entries WHERE number > ? ORDER BY number LIMIT ?"
            rows = self._rows(query, size, _CHUNK)
            if not rows:
                return
            hashes = []
            for expected, (number, digest, data) in enumerate(rows, size + 1):
                if number != expected:
                    raise Refused(Reason.TAMPERED, f"entry {expected - 1} is missing from the database")
                if not isinstance(data, bytes) or sha256(data) != digest:
                    raise Refused(Reason.TAMPERED, f"entry {expected - 1} does not match its digest")
                hashes.append(leaf_hash(data))
            self._grow(hashes)

    def _grow(self, hashes: list[bytes]) -> None:
        """Append leaf hashes, and every parent that they complete.

        Level 0 goes last: `size` must not count a leaf before its ancestors can be read.
        """
        leaves = b"".join(hashes)
        pending, level = bytes(self._levels[0][self.size // 2 * 2 * HASH_BYTES :]) + leaves, 1
        while len(pending) >= 2 * HASH_BYTES:
            parents = b"".join(
                node_hash(pending[i : i + HASH_BYTES], pending[i + HASH_BYTES : i + 2 * HASH_BYTES])
                for i in range(0, len(pending) - HASH_BYTES, 2 * HASH_BYTES)
            )
            if level == len(self._levels):
                self._levels.append(bytearray())
            above = self._levels[level]
            pending = bytes(above[len(above) // (2 * HASH_BYTES) * 2 * HASH_BYTES :]) + parents
            above += parents
            level += 1
        self._levels[0] += leaves

    def _find(self, digest: bytes) -> int:
        index = self.index_of(digest)
        if index is None:
            raise Refused(Reason.TAMPERED, f"the database took an entry and does not find it: {digest.hex()}")
        return index

    def index_of(self, digest: bytes) -> int | None:
        """Index of the entry whose SHA-256 is `digest`, durable perhaps not yet published; None if not here."""
        ((number,),) = self._rows("SELECT min(number) FROM entries WHERE digest = ?", digest)
        return None if number is None else number - 1

    def _rows(self, query: str, *values: object) -> list[Any]:
        # One at a time: a statement that another thread has not finished keeps the connection at an older state.
        with self._reading, database_errors():
            return self._reader.execute(query, values).fetchall()

    def entry(self, index: int) -> bytes:
        """The entry at `index`. Raises as `entries` does."""
        return self.entries(index, index + 1)[0]

    def entries(self, start: int, end: int) -> list[bytes]:
        """Entries `start` to `end`, half-open, each checked against the tree.

        Raises:
            Misuse: not a range of this log. Refused(TAMPERED): a row has changed since it was integrated.
        """
        if not 0 <= start <= end <= self.size:
            raise Misuse(f"no entries {start} to {end}: the log has {self.size}")
        query = "SELECT data FROM entries WHERE number > ? AND number <= ? ORDER BY number"
        data = [row[0] for row in self._rows(query, start, end)]
        if len(data) != end - start or any(
            not isinstance(d, bytes) or leaf_hash(d) != self.read(0, i) for i, d in enumerate(data, start)
        ):
            raise Refused(Reason.TAMPERED, f"entries {start} to {end} are not those that were integrated")
        return data

    def published(self) -> bytes | None:
        """The published checkpoint note, verbatim."""
        return self._published

    def publish(self, note: bytes) -> None:
        """Make `note` the published checkpoint, its tiles first. Its signatures are the caller's to check.

        Raises:
            Refused(ROLLBACK): smaller than the published one, or not a root of this log.
            Refused(FOREIGN): of another origin. Malformed: not a checkpoint.
            Unavailable: the disk failed; publish again.
        """
        checkpoint = self._check(note)
        if checkpoint.size < self._published_size:
            raise Refused(
                Reason.ROLLBACK,
                f"checkpoint of size {checkpoint.size} after one of size {self._published_size}",
            )
        with disk_errors():
            self._write_tiles(self._published_size, checkpoint.size, repair=False)
            replace_file(self.directory / "checkpoint", note, durable=True)
            old, self._published_size = self._published_size, checkpoint.size
            self._published = note
            self._drop_partials(old, checkpoint.size)

    def _check(self, note: bytes) -> Checkpoint:
        """`note` parsed, and its root recomputed from the rows."""
        checkpoint = checkpoint_in(note)
        if checkpoint.origin != self.origin:
            raise Refused(Reason.FOREIGN, f"a checkpoint of {checkpoint.origin}, not of {self.origin}")
        if checkpoint.size > self.size:
            raise Refused(
                Reason.ROLLBACK,
                f"the published checkpoint has {checkpoint.size} entries, the database {self.size}",
                hint="this database is an older copy: bring back the newest, or start another log",
            )
        if self.root(checkpoint.size) != checkpoint.root:
            raise Refused(
                Reason.ROLLBACK,
                f"the database does not reproduce the root of the checkpoint of size {checkpoint.size}",
                hint="an entry has changed or is of another history; restore the database from a replica",
            )
        return checkpoint

    def _write_tiles(self, old: int, new: int, *, repair: bool) -> None:
        for tile in tiles_for(old, new):
            data = self.tile(tile)
            path = self.directory / tile.path
            if repair and path.exists() and path.read_bytes() == data:
                continue
            self.repaired += repair
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, durable=False)

    def tile(self, tile: Tile) -> bytes:
        """The bytes of a tile, from the rows and the tree.

        Raises:
            Misuse: the tile reaches beyond the log.
        """
        if tile.level != ENTRIES:
            return tile_hashes(tile, self.read)
        start = tile.index * WIDTH
        return encode_bundle(self.entries(start, start + tile.width))

    def is_published(self, tile: Tile) -> bool:
        """Whether the tile lies within the published tree."""
        hashes = self._published_size >> (0 if tile.level == ENTRIES else HEIGHT * tile.level)
        return tile.index * WIDTH + tile.width <= hashes

    def _drop_partials(self, old: int, new: int) -> None:
        # C2SP tlog-tiles: partial tiles of published sizes stay until the full tile exists.
        for tile in tiles_for(old, new):
            partials = self.directory / f"{tile.path}.p"
            if tile.width == WIDTH and partials.exists():
                disk().remove(partials)
