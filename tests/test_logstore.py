"""The store against a model, against a disk that fails at every write, and against copies that are old or altered."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog import merkle
from brakeline.core.tlog.checkpoint import Checkpoint
from brakeline.core.tlog.note import sign_note
from brakeline.core.tlog.tile import ENTRIES, Tile, decode_bundle, encode_bundle, parse_path, tiles_for
from brakeline.node import logstore
from brakeline.node.logstore import LogStore

ORIGIN = "log.example/pause"
KEY = PrivateKey(bytes(range(32)))


def entries(start: int, end: int) -> list[bytes]:
    return [b'{"n":%d}' % i for i in range(start, end)]


def signed(size: int, root: bytes, origin: str = ORIGIN) -> bytes:
    return sign_note(Checkpoint(origin, size, root).text, origin, KEY).encode()


def publish(store: LogStore) -> bytes:
    note = signed(store.size, store.root())
    store.publish(note)
    return note


def recheck(directory: Path, origin: str = ORIGIN) -> list[bytes]:
    """Open the store and verify all of it again, by core alone and from the files alone. Returns its entries."""
    with LogStore(directory, origin) as store:
        data = store.entries(0, store.size)
        leaves = [merkle.leaf_hash(e) for e in data]
        assert store.root() == merkle.root(leaves) == store.frontier.root()
        assert len(set(data)) == len(data)
        assert [store.index_of(sha256(e)) for e in data] == list(range(len(data)))
        note = store.published()
        assert note == ((directory / "checkpoint").read_bytes() if (directory / "checkpoint").exists() else None)
        size = store.published_size
        if note is not None:
            assert note.startswith(Checkpoint(origin, size, merkle.root(leaves[:size])).text)
        read = merkle.reader(leaves)
        from_tiles: list[bytes] = []
        for tile in tiles_for(0, size):
            file = (directory / tile.path).read_bytes()
            if tile.level == ENTRIES:
                from_tiles += decode_bundle(file, tile.width)
            else:
                first = tile.index * 256
                assert file == b"".join(read(8 * tile.level, first + i) for i in range(tile.width))
        assert from_tiles == data[:size]
    return data


def test_append_publish_and_read_back(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        assert (store.size, store.published(), store.root()) == (0, None, merkle.EMPTY_ROOT)
        assert store.append(entries(0, 300)) == list(range(300))
        assert store.published_size == 0
        note = publish(store)
        assert (store.published(), store.published_size) == (note, 300)
        assert store.entry(7) == b'{"n":7}'
        assert store.entries(298, 300) == entries(298, 300)
        assert store.index_of(sha256(b'{"n":299}')) == 299
        assert store.index_of(sha256(b"nothing")) is None
    assert recheck(tmp_path) == entries(0, 300)
    # C2SP tlog-tiles: 300 entries are one full tile, a partial of 44, and a partial of 1 above.
    files = {str(p.relative_to(tmp_path)) for p in (tmp_path / "tile").rglob("*") if p.is_file()}
    assert files == {
        *("tile/entries/000", "tile/entries/001.p/44"),
        *("tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"),
    }
    assert all(parse_path(f).path == f for f in files)


def test_a_duplicate_has_the_index_of_its_first(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        assert store.append([b"{a", b"{b", b"{a"]) == [0, 1, 0]
        assert store.append([b"{c", b"{b", b"{d", b"{d"]) == [2, 1, 3, 3]
        assert store.append([]) == []
        assert store.entries(0, 4) == [b"{a", b"{b", b"{c", b"{d"]
    recheck(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(0, 40), max_size=12), st.booleans()), max_size=8))
def test_store_matches_a_list(tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[int], bool]]) -> None:
    """Any sequence of batches, duplicates and reopenings."""
    directory = tmp_path_factory.mktemp("store")
    model: list[bytes] = []
    store = LogStore(directory, ORIGIN)
    for numbers, reopen in batches:
        batch = [b"{%d" % n for n in numbers]
        for entry in batch:
            if entry not in model:
                model.append(entry)
        assert store.append(batch) == [model.index(e) for e in batch]
        publish(store)
        if reopen:
            store.close()
            store = LogStore(directory, ORIGIN)
        assert store.root() == merkle.root([merkle.leaf_hash(e) for e in model])
    store.close()
    assert recheck(directory) == model


def test_partials_of_published_sizes_stay_until_their_tile_is_full(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        for size in (10, 200, 255):
            store.append(entries(0, size))
            publish(store)
        assert sorted(p.name for p in (tmp_path / "tile/0/000.p").iterdir()) == ["10", "200", "255"]
        store.append(entries(0, 256))
        publish(store)
        assert not (tmp_path / "tile/0/000.p").exists()
        assert (tmp_path / "tile/0/000").stat().st_size == 8192
    recheck(tmp_path)


def test_entries_whose_digests_begin_alike_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the trouble to find two gets two places, and hides nobody's entry."""

    def alike(*parts: bytes) -> bytes:
        return b"same ..." + sha256(*parts)[8:]

    monkeypatch.setattr(logstore, "sha256", alike)
    with LogStore(tmp_path, ORIGIN) as store:
        assert store.append([b"{a", b"{b"]) == [0, 1]
        assert store.append([b"{b", b"{c", b"{a", b"{c"]) == [1, 2, 0, 2]
        assert [store.index_of(alike(e)) for e in (b"{a", b"{b", b"{c", b"{d")] == [0, 1, 2, None]
    with LogStore(tmp_path, ORIGIN) as store:
        assert store.append([b"{d", b"{b"]) == [3, 1]


def test_bounds(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append([b"{" * 65_535])
        for bad in (b"", b"{" * 65_536):
            with pytest.raises(Malformed):
                store.append([b"{fine", bad])
        assert store.size == 1, "a refused batch leaves nothing"
        for call in (
            lambda: store.entries(0, 2),
            lambda: store.entry(-1),
            lambda: store.root(2),
            lambda: store.read(0, 1),
            lambda: store.read(5, 0),
            lambda: store.tile(Tile(0, 0, 2)),
        ):
            with pytest.raises(Misuse):
                call()


def test_publish_refuses_what_is_not_ours(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 5))
        good = publish(store)
        for note, reason in (
            (signed(4, store.root(4)), Reason.ROLLBACK),
            (signed(6, bytes(32)), Reason.ROLLBACK),
            (signed(5, bytes(32)), Reason.ROLLBACK),
            (signed(5, store.root(), origin="other.example"), Reason.FOREIGN),
        ):
            with pytest.raises(Refused) as refusal:
                store.publish(note)
            assert refusal.value.reason == reason
        with pytest.raises(Malformed):
            store.publish(b"no note")
        assert store.published() == good == (tmp_path / "checkpoint").read_bytes()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from brakeline.node.logstore import LogStore\n"
        "try: LogStore(Path(sys.argv[1]), sys.argv[2])\n"
        "except Exception as e: print(type(e).__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), ORIGIN]
    with LogStore(tmp_path, ORIGIN), pytest.raises(Unavailable):
        LogStore(tmp_path, ORIGIN)
    with LogStore(tmp_path, ORIGIN):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "Unavailable\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def older(directory: Path, data: list[bytes]) -> None:
    """The database of a build that had a row for each entry."""
    directory.mkdir(exist_ok=True)
    with sqlite3.connect(directory / "log.db", isolation_level=None) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, digest BLOB NOT NULL, data BLOB NOT NULL)")
        db.execute("CREATE UNIQUE INDEX digests ON entries (digest)")
        db.execute("CREATE TABLE published (one INTEGER PRIMARY KEY CHECK (one = 1), note BLOB NOT NULL)")
        db.executemany("INSERT INTO entries (digest, data) VALUES (?, ?)", [(sha256(d), d) for d in data])
        note = signed(len(data), merkle.root([merkle.leaf_hash(d) for d in data]))
        db.execute("INSERT INTO published VALUES (1, ?)", (note,))
    db.close()


@pytest.mark.parametrize("count", [0, 1, 256, 700])
def test_a_database_of_an_older_build_opens(tmp_path: Path, count: int) -> None:
    older(tmp_path, entries(0, count))
    assert recheck(tmp_path) == entries(0, count)
    with LogStore(tmp_path, ORIGIN) as store:
        assert store.append(entries(count // 2, count + 300))[-1] == count + 299
        publish(store)
    assert recheck(tmp_path) == entries(0, count + 300)


@pytest.mark.parametrize(
    "alteration",
    [
        "UPDATE entries SET data = x'7b' WHERE number = 4",
        "UPDATE entries SET digest = zeroblob(32) WHERE number = 4",
        "DELETE FROM entries WHERE number = 4",
        "UPDATE entries SET data = CAST(data AS TEXT) WHERE number = 4",
    ],
)
def test_an_altered_row_of_an_older_build_does_not_open(tmp_path: Path, alteration: str) -> None:
    older(tmp_path, entries(0, 300))
    with sqlite3.connect(tmp_path / "log.db") as db:
        db.execute(alteration)
    db.close()
    for _ in range(2):
        with pytest.raises(Refused) as refusal:
            LogStore(tmp_path, ORIGIN)
        assert refusal.value.reason == Reason.TAMPERED


def test_a_crash_while_rows_are_taken_over_loses_none(folder: Path, disk: "Disk") -> None:
    for at in range(1, 100):
        directory = folder / str(at)
        older(directory, entries(0, 600))
        disk.fail(at, at % 2 == 0, Crash)
        with suppress(Crash):
            LogStore(directory, ORIGIN).close()
        if disk.count < at:
            break
        disk.at = 0
        assert recheck(directory) == entries(0, 600)
    assert at > 4


def test_a_batch_is_cut_where_bundles_end(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 10))
        store.append(entries(5, 600))
        assert store._rows("SELECT first, length(digests) / 32 FROM bundled") == [
            (0, 10),
            (10, 246),
            (256, 256),
            (512, 88),
        ]
        for start, end in (
            (0, 600),
            (3, 3),
            (9, 11),
            (10, 11),
            (255, 257),
            (300, 301),
            (511, 513),
            (599, 600),
            (600, 600),
        ):
            assert store.entries(start, end) == entries(start, end)


# Old copies and altered rows


def test_an_older_database_does_not_open(tmp_path: Path) -> None:
    live, backup = tmp_path / "live", tmp_path / "backup.db"
    with LogStore(live, ORIGIN) as store:
        store.append(entries(0, 10))
        publish(store)
    shutil.copy(live / "log.db", backup)
    with LogStore(live, ORIGIN) as store:
        store.append(entries(10, 12))
        publish(store)
    shutil.copy(backup, live / "log.db")
    with pytest.raises(Refused) as refusal:
        LogStore(live, ORIGIN)
    assert refusal.value.reason == Reason.ROLLBACK
    with pytest.raises(Refused):
        LogStore(live, ORIGIN)  # and the lock is not what stops it the second time


def test_another_history_does_not_open(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 10))
        publish(store)
    (tmp_path / "log.db").unlink()
    (tmp_path / "checkpoint").rename(tmp_path / "kept")
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(100, 120))
    (tmp_path / "kept").rename(tmp_path / "checkpoint")
    with pytest.raises(Refused) as refusal:
        LogStore(tmp_path, ORIGIN)
    assert refusal.value.reason == Reason.ROLLBACK


ALTERATIONS = {
    "data": "UPDATE bundled SET data = CAST(replace(data, '3', 'X') AS BLOB) WHERE first = 3",
    "digest": "UPDATE bundled SET digests = zeroblob(32) WHERE first = 3",
    "no digest": "UPDATE bundled SET digests = zeroblob(0) WHERE first = 3",
    "more digests": "UPDATE bundled SET digests = CAST(digests || x'00' AS BLOB) WHERE first = 3",
    "missing": "DELETE FROM bundled WHERE first = 3",
    "swapped": "UPDATE bundled SET first = 1000 WHERE first = 9",
    "text": "UPDATE bundled SET data = CAST(data AS TEXT) WHERE first = 3",
    "number": "UPDATE bundled SET digests = 7 WHERE first = 3",
    "empty": "UPDATE bundled SET digests = x'', data = x'' WHERE first = 3",
    "twice": "UPDATE bundled SET digests = CAST(digests || digests AS BLOB), data = CAST(data || data AS BLOB) "
    "WHERE first = 3",
}


EVIL = "UPDATE bundled SET data = ?, digests = ? WHERE first = 3"


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_row_does_not_open(tmp_path: Path, name: str) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        for n in range(10):
            store.append(entries(n, n + 1))
        publish(store)
    db = sqlite3.connect(tmp_path / "log.db")
    with db:
        db.execute(ALTERATIONS[name])
    db.close()
    with pytest.raises(Refused) as refusal:
        LogStore(tmp_path, ORIGIN)
    assert refusal.value.reason in (Reason.TAMPERED, Reason.ROLLBACK)


def test_a_consistently_altered_row_does_not_reproduce_the_root(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        for n in range(10):
            store.append(entries(n, n + 1))
        publish(store)
    db = sqlite3.connect(tmp_path / "log.db")
    with db:
        db.execute(EVIL, (encode_bundle([b"{evil"]), sha256(b"{evil")))
    db.close()
    with pytest.raises(Refused) as refusal:
        LogStore(tmp_path, ORIGIN)
    assert refusal.value.reason == Reason.ROLLBACK


def test_every_flipped_bit_of_an_entry_on_disk_is_refused(tmp_path: Path) -> None:
    """Not through SQL: in the file's bytes, as a failing disk does it."""
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 40))
        publish(store)
    image = (tmp_path / "log.db").read_bytes()
    for number in (0, 17, 39):
        at = image.index(b'{"n":%d}' % number)
        for bit in range(0, 8 * len(b'{"n":%d}' % number), 5):
            flipped = bytearray(image)
            flipped[at + bit // 8] ^= 1 << bit % 8
            (tmp_path / "log.db").write_bytes(flipped)
            with pytest.raises(Refused):
                LogStore(tmp_path, ORIGIN)
    (tmp_path / "log.db").write_bytes(image)
    recheck(tmp_path)


def test_a_row_altered_while_open_is_not_served(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        for n in range(10):
            store.append(entries(n, n + 1))
        db = sqlite3.connect(tmp_path / "log.db")
        with db:
            db.execute(EVIL, (encode_bundle([b"{evil"]), sha256(b"{evil")))
        db.close()
        with pytest.raises(Refused) as refusal:
            store.entry(3)
        assert refusal.value.reason == Reason.TAMPERED
        publish(store)
        tile = (tmp_path / "tile/entries/000.p/10").read_bytes()
        assert decode_bundle(tile, 10) == tuple(entries(0, 10)), "what was integrated, not what lies there now"
    with pytest.raises(Refused):
        LogStore(tmp_path, ORIGIN)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 2000))
    image = bytearray((tmp_path / "log.db").read_bytes())
    image[4096:8192] = b"\xff" * 4096
    (tmp_path / "log.db").write_bytes(image)
    with pytest.raises(Refused) as refusal:
        LogStore(tmp_path, ORIGIN)
    assert refusal.value.reason == Reason.TAMPERED
    (tmp_path / "log.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Refused):
        LogStore(tmp_path, ORIGIN)


@pytest.mark.parametrize("content", [b"", b"junk", b"log.example/pause\n1\n"])
def test_a_damaged_checkpoint_file_is_made_again(tmp_path: Path, content: bytes) -> None:
    """Unless it is all there is, in a store of an older build: that could not tell what it has published."""
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 2))
        good = publish(store)
    (tmp_path / "checkpoint").write_bytes(content)
    recheck(tmp_path)
    assert (tmp_path / "checkpoint").read_bytes() == good
    with sqlite3.connect(tmp_path / "log.db") as db:
        db.execute("DELETE FROM published")
    recheck(tmp_path)
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(Malformed):
        LogStore(tmp_path, ORIGIN)


def test_opening_repairs_tiles(tmp_path: Path) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append(entries(0, 600))
        publish(store)
    (tmp_path / "tile/0/000").unlink()
    (tmp_path / "tile/0/001").write_bytes(b"")
    (tmp_path / "tile/entries/001").write_bytes((tmp_path / "tile/entries/001").read_bytes()[:-3])
    (tmp_path / "tile/entries/002.p/88").write_bytes(b"\0" * 900)
    (tmp_path / "tile/1/000.p/2.new").write_bytes(b"half a tile")
    (tmp_path / "checkpoint.new").write_bytes(b"half a note")
    assert recheck(tmp_path) == entries(0, 600)
    shutil.rmtree(tmp_path / "tile")
    assert recheck(tmp_path) == entries(0, 600)


# A disk that fails at every write


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class Disk:
    """Counts the writes of `logstore`, and fails at number `at`: before it happens, or right after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = self.count = 0
        self.after = False
        self.failure: Callable[[str], BaseException] = lambda what: Crash(what)
        disk, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                if sql in ("COMMIT", "BEGIN IMMEDIATE"):
                    return disk.write(sql, lambda: sqlite3.Connection.execute(self, sql))
                return sqlite3.Connection.execute(self, sql, *parameters)

            def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
                return disk.write(sql, lambda: sqlite3.Connection.executemany(self, sql, rows))

        monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Connection, **k))
        for name in ("replace", "fsync", "mkdir"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real, **k: disk.write(_n, lambda: _r(*a, **k)))
        real_replace_file = logstore.replace_file

        def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
            # A write torn in the middle: half of the bytes are in the temporary file.
            half = path.with_name(path.name + ".new")
            disk.write("torn", lambda: half.write_bytes(data[: len(data) // 2]))
            real_replace_file(path, data, durable=durable)

        monkeypatch.setattr(logstore, "replace_file", replace_file)

    def fail(self, at: int, after: bool, failure: Callable[[str], BaseException]) -> None:
        self.at, self.after, self.failure, self.count = at, after, failure, 0

    def write(self, what: str, action: Callable[[], Any]) -> Any:
        self.count += 1
        if self.count == self.at and not self.after:
            raise self.failure(what)
        result = action()
        if self.count == self.at:
            raise self.failure(what)
        return result


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A folder that costs no disk time, where the system has one. SIGKILL and injected faults ask no more of it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else otherwise) as folder:
        yield Path(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with monkeypatch.context() as context:
        yield Disk(context)


BATCHES = ((0, 3), (3, 250), (250, 260), (255, 270))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_write_leaves_a_store_that_opens(folder: Path, disk: Disk, after: bool) -> None:
    crashes = 0
    for at in range(1, 1000):
        directory = folder / str(at)
        disk.fail(at, after, Crash)
        acknowledged, notes = 0, [b""]
        store = None
        try:
            store = LogStore(directory, ORIGIN)
            for start, end in BATCHES:
                store.append(entries(start, end))
                acknowledged = end
                notes.append(signed(store.size, store.root()))
                store.publish(notes[-1])
                notes = notes[-1:]
        except Crash:
            crashes += 1
        finally:
            if store is not None:
                store.close()
        if disk.count < at:
            break
        disk.at = 0
        kept = recheck(directory)
        assert kept == entries(0, len(kept))
        assert len(kept) >= acknowledged
        published = (directory / "checkpoint").read_bytes() if (directory / "checkpoint").exists() else b""
        assert published in notes, "the old checkpoint or the new one, never another"
        with LogStore(directory, ORIGIN) as store:
            store.append(entries(0, 270))
            publish(store)
        assert recheck(directory) == entries(0, 270)
        shutil.rmtree(directory)
    assert crashes >= 40


def no_space(what: str) -> BaseException:
    if what.isupper() or what.startswith("INSERT"):
        return sqlite3.OperationalError("database or disk is full")
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_error_at_any_write_is_unavailable_and_passes(folder: Path, disk: Disk, after: bool) -> None:
    """A full disk: every call that fails says so, and the same call works once there is room."""
    errors = 0
    for at in range(1, 1000):
        directory = folder / str(at)
        disk.fail(at, after, no_space)
        while True:
            try:
                store = LogStore(directory, ORIGIN)
                break
            except Unavailable:
                errors += 1
        for start, end in BATCHES:
            for step in (partial(store.append, entries(start, end)), partial(publish, store)):
                try:
                    step()
                except Unavailable:
                    errors += 1
                    step()
        assert store.entries(0, store.size) == entries(0, 270)
        store.close()
        writes, disk.at = disk.count, 0
        assert recheck(directory) == entries(0, 270)
        shutil.rmtree(directory)
        if writes < at:
            break
    assert errors >= 40


def test_a_commit_that_failed_and_lasted_is_found_again(tmp_path: Path, disk: Disk) -> None:
    with LogStore(tmp_path, ORIGIN) as store:
        store.append([b"{a"])
        disk.fail(3, True, no_space)  # BEGIN, INSERT, COMMIT
        with pytest.raises(Unavailable):
            store.append([b"{b", b"{c"])
        assert store.size == 1
        assert store.append([b"{c", b"{b"]) == [2, 1]
    recheck(tmp_path)


def test_tiles_are_there_before_the_checkpoint_that_covers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = logstore.replace_file

    def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
        if path.name == "checkpoint":
            missing.extend(t.path for t in tiles_for(0, store.size) if not (tmp_path / t.path).exists())
        real(path, data, durable=durable)

    monkeypatch.setattr(logstore, "replace_file", replace_file)
    missing: list[str] = []
    with LogStore(tmp_path, ORIGIN) as store:
        for start, end in BATCHES:
            store.append(entries(start, end))
            publish(store)
    assert missing == []
