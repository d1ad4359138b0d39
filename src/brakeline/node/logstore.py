"""The log on disk: a SQLite database of entries and of the published checkpoint, and files derived from both.

A row holds the entries of one commit that fall into one bundle, as they stand in that bundle: rows cost SQLite more
than bytes. Beside them stand their digests.

What may be lost and what may not:

* An entry is durable once `append` returns: one transaction for the batch, synchronous=FULL.
* The tree is never stored. It is computed from the rows as a second connection reads them back, on opening
  and after every append, by the same function. A row that differs from what was submitted is found before a
  root over it is signed.
* The published checkpoint binds us: it is durable once `publish` returns, and a store whose rows do not
  reproduce its root, or fall short of its size, does not open. Signing on would fork the log.
* The files `checkpoint` and `tile/…` (C2SP tlog-tiles) are copies for readers, written without fsync, tiles
  first. Opening compares every one with the database and rewrites what is missing, short or wrong; a checkpoint
  file that is beyond the database says that this is an older copy of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in
from brakeline.core.tlog.merkle import HASH_BYTES, Frontier, leaf_hash, leaf_hashes, parent_hashes, subtree_root
from brakeline.core.tlog.tile import ENTRIES, HEIGHT, MAX_ENTRY, WIDTH, Tile, decode_bundle, encode_bundle, tiles_for
from brakeline.node.disk import connect, database_errors, disk_errors, locked, replace_file, transaction
from brakeline.node.ports import Connection, clock, disk

_CHUNK: Final = 16  # rows read back at once, of at most `WIDTH` entries each
_WAIT: Final = 10.0  # s for a process that is being stopped to let go

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS bundled (first INTEGER PRIMARY KEY, digests BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS published (one INTEGER PRIMARY KEY CHECK (one = 1), note BLOB NOT NULL);
"""
_INSERT: Final = "INSERT INTO bundled VALUES (?, ?, ?)"

Row = tuple[int, bytes, bytes]  # index of the first entry, SHA-256 of each, the entries as `encode_bundle` has them


def entries_in(db: Connection, start: int, end: int) -> list[bytes]:
    """Entries `start` to `end`, half-open, as the rows have them, unchecked; what cannot be read is left out."""
    query = (
        "SELECT first, length(digests), data FROM bundled "
        "WHERE first >= (SELECT max(first) FROM bundled WHERE first <= ?) AND first < ? ORDER BY first"
    )
    rows = db.execute(query, (start, end)).fetchall()
    skip = start - rows[0][0] if rows else 0
    return [entry for _, length, data in rows for entry in _decoded(data, length)][skip : skip + end - start]


def _decoded(data: object, digests: int) -> tuple[bytes, ...]:
    try:
        return decode_bundle(data, digests // HASH_BYTES) if isinstance(data, bytes) else ()
    except Malformed:
        return ()


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """`start` to `end`, cut where bundles end."""
    while start < end:
        stop = min(end, (start // WIDTH + 1) * WIDTH)
        yield start, stop
        start = stop


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
            self._take_over()
        # _levels[l] holds the hashes of all perfect subtrees of 2**l leaves, one after another: 64 bytes an
        # entry.
        self._levels: list[bytearray] = [bytearray()]
        # Where an entry is, by eight bytes of its digest: an index on the disk would cost more than all the rest. Who
        # finds two that share them finds the second among the clashes. 120 bytes an entry.
        self._places: dict[bytes, int] = {}
        self._clashes: dict[bytes, int] = {}
        # Entries from `_fresh_from` on, as they were integrated: those of which bundles are to be written next.
        self._fresh: list[bytes] = []
        self._fresh_from = 0
        self._integrate()
        self._published, self._published_size = self._read_published()
        with disk_errors():
            self._write_tiles(0, self._published_size, repair=True)
            self._drop_partials(0, self._published_size)
        self._keep_fresh()

    def _take_over(self) -> None:
        """The entries of an older build, which had a row for each, numbered from one."""
        with transaction(self._writer):
            if not self._writer.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchall():
                return
            old, size = self._writer.execute("SELECT number, digest, data FROM entries ORDER BY number"), 0
            while rows := old.fetchmany(WIDTH):
                for index, (number, digest, data) in enumerate(rows, size):
                    if number != index + 1 or not isinstance(data, bytes) or sha256(data) != digest:
                        raise Refused(Reason.TAMPERED, f"entry {index} is missing, or does not match its digest")
                digests, entries = b"".join(row[1] for row in rows), encode_bundle([row[2] for row in rows])
                self._writer.execute(_INSERT, (size, digests, entries))
                size += len(rows)
            self._writer.execute("DROP TABLE entries")

    def _read_published(self) -> tuple[bytes | None, int]:
        """The published checkpoint and its size; its file is made again where it is not the same."""
        rows = self._rows("SELECT note FROM published")
        note: bytes | None = rows[0][0] if rows else None
        size = self._check(note).size if note is not None else 0
        path = self.directory / "checkpoint"
        with disk_errors():
            copy = path.read_bytes() if path.exists() else None
            if copy is not None and copy != note:
                try:
                    ahead = checkpoint_in(copy).size > size
                except Malformed:
                    if note is None:
                        raise
                    ahead = False
                if ahead or note is None:  # of an older copy of the database, or of an older build
                    return copy, self._check(copy).size
            if copy != note and note is not None:
                replace_file(path, note, durable=False)
        return note, size

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
        self._integrate()  # a commit that failed before may have lasted all the same
        size = self.size
        given = [(sha256(entry), entry) for entry in entries]
        todo = given if as_is else [row for row in dict(given).items() if self.index_of(row[0]) is None]
        digests, new = [digest for digest, _ in todo], [entry for _, entry in todo]
        rows = [
            (size + start, b"".join(digests[start:end]), encode_bundle(new[start:end]))
            for start, end in ((start - size, end - size) for start, end in _pieces(size, size + len(todo)))
        ]
        with database_errors(), transaction(self._writer):
            self._writer.executemany(_INSERT, rows)
        self._integrate(rows, new)
        if len(todo) == len(given):
            return list(range(size, self.size))
        return [self._find(digest) for digest, _ in given]

    def _integrate(self, written: Sequence[Row] = (), within: Sequence[bytes] = ()) -> None:
        """Read every row beyond the tree back from the file, and extend the tree by it.

        `written` are rows that were written just now, and `within` what is in them.
        """
        query = "SELECT first, digests, data FROM bundled WHERE first >= ? ORDER BY first LIMIT ?"
        while rows := self._rows(query, self.size, _CHUNK):
            entries = within if rows == written else self._checked(rows)
            digests = b"".join([row[1] for row in rows])
            for index, at in enumerate(range(0, len(digests), HASH_BYTES), self.size):
                if self._places.setdefault(digests[at : at + 8], index) != index:
                    self._clashes.setdefault(digests[at : at + HASH_BYTES], index)
            self._grow(leaf_hashes(entries))
            self._fresh += entries
            if not written:  # opening: there is no end to what may come
                self._keep_fresh()

    def _checked(self, rows: Sequence[Row]) -> list[bytes]:
        """What is in rows that follow the tree."""
        entries: list[bytes] = []
        for first, digests, data in rows:
            size = self.size + len(entries)
            if first != size:
                raise Refused(Reason.TAMPERED, f"entry {size} is missing from the database")
            found = _decoded(data, len(digests)) if isinstance(digests, bytes) else ()
            if not 0 < len(found) <= WIDTH - size % WIDTH or b"".join(map(sha256, found)) != digests:
                raise Refused(Reason.TAMPERED, f"the entries from {size} on do not match their digests")
            entries += found
        return entries

    def _keep_fresh(self) -> None:
        """Forget entries of which no bundle is to be written."""
        start = max(self._fresh_from, min(self.size, getattr(self, "_published_size", self.size)) // WIDTH * WIDTH)
        del self._fresh[: start - self._fresh_from]
        self._fresh_from = start

    def _grow(self, leaves: bytes) -> None:
        """Append leaf hashes, one after another, and every parent that they complete.

        Level 0 goes last: `size` must not count a leaf before its ancestors can be read.
        """
        pending, level = bytes(self._levels[0][self.size // 2 * 2 * HASH_BYTES :]) + leaves, 1
        while len(pending) >= 2 * HASH_BYTES:
            parents = parent_hashes(pending)
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
        index = self._places.get(digest[:8])
        if index is None:
            return None
        query = "SELECT first, digests FROM bundled WHERE first <= ? ORDER BY first DESC LIMIT 1"
        ((first, digests),) = self._rows(query, index)
        found = digests[(index - first) * HASH_BYTES :][:HASH_BYTES]
        return index if found == digest else self._clashes.get(digest)

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
        with self._reading, database_errors():
            data = entries_in(self._reader, start, end)
        if len(data) != end - start or any(leaf_hash(d) != self.read(0, i) for i, d in enumerate(data, start)):
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
        with database_errors(), transaction(self._writer):
            self._writer.execute("INSERT OR REPLACE INTO published VALUES (1, ?)", (note,))
        with disk_errors():
            replace_file(self.directory / "checkpoint", note, durable=False)
            old, self._published_size = self._published_size, checkpoint.size
            self._published = note
            self._drop_partials(old, checkpoint.size)
        self._keep_fresh()

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
            start = tile.index * WIDTH - self._fresh_from
            if tile.level == ENTRIES and start >= 0:
                data = encode_bundle(self._fresh[start : start + tile.width])
            else:
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
        start, end = tile.index * WIDTH, tile.index * WIDTH + tile.width
        if tile.level != ENTRIES:
            level = HEIGHT * tile.level
            if level >= len(self._levels) or len(self._levels[level]) < end * HASH_BYTES:
                raise Misuse(f"no tile {tile.path} in a log of {self.size} entries")
            return bytes(self._levels[level][start * HASH_BYTES : end * HASH_BYTES])
        return encode_bundle(self.entries(start, end))

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
