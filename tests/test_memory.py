"""State that comes back old, torn or not at all: a witness's memory, what a signer has closed, votes held, backups."""

import io
import multiprocessing
import os
import signal
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from brakeline.cli.keeper import SIGNED
from brakeline.cli.keeper import _remember as remember
from brakeline.cli.main import main
from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.reopening import read
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.checkpoint import verify_cosignature
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.tlog.note import Note, SignatureLine, parse_note
from brakeline.node.backup import backup, restore
from brakeline.node.client import Follower
from brakeline.node.granted import Granted
from brakeline.node.home import Home, load_key, new_key, save_key
from brakeline.node.memory import RESTORED
from brakeline.node.outbox import Outbox
from brakeline.node.recall import is_behind, own_in, take_back
from brakeline.node.speech import compared
from brakeline.node.witness import MEMORY, Witness, check_memory, new_memory
from succession import reopening, succeeding
from test_node import WorldLog
from world import World, key, log_key, witness_key

OWN = witness_key("beta")


def witness(folder: Path, world: World, *, ahead: float = 0.0) -> Witness:
    return Witness(folder, OWN.name, key("beta", "witness"), [log_key("delta")], lambda: world.now + ahead)


def test_a_witness_takes_its_own_cosignatures_back_from_the_log(tmp_path: Path) -> None:
    """log/d2 (5): a witness restarted with its state deleted cosigned any fork from the first entry on."""
    world = World()
    world.bind()
    world.stamp()
    server = witness(tmp_path, world)
    seen = take_back(server, Follower(WorldLog(world), world.treaty))
    origin = world.state.chain.log.key.name
    assert (seen.size, seen.root) == (world.state.size, world.state.root())
    assert server.last(origin) == seen
    note = parse_note(seen.note)
    assert [line.name for line in note.lines] == [origin, OWN.name]
    assert verify_cosignature(note.text, note.lines[1], OWN) == seen.time == world.now
    # From here on it is a witness as ever: a tree from before is not cosigned.
    other = root([leaf_hash(b"{other}")])
    assert server.add_checkpoint(b"old 0\n\n" + signed(world, 1, other)).status == 409


def signed(world: World, size: int, at: bytes) -> bytes:
    return world.checkpoint(size=size, root=at)


def test_a_log_that_shows_none_of_its_cosignatures_gives_nothing_back(tmp_path: Path) -> None:
    """Whoever keeps the log may leave its lines out; then a person has to say that it is new."""
    world = World()
    world.bind()
    server = Witness(tmp_path, OWN.name, key("beta", "another"), [log_key("delta")], lambda: world.now)
    with pytest.raises(Refused, match="nothing to take back") as e:
        take_back(server, Follower(WorldLog(world), world.treaty))
    assert (e.value.reason, "--new" in e.value.hint) == (Reason.MISSING, True)


FAULTS = {"another history": Reason.EQUIVOCATION, "fewer entries": Reason.ROLLBACK}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_that_is_not_the_one_it_cosigned_gives_nothing_back(tmp_path: Path, fault: str) -> None:
    world = World()
    world.bind()
    world.stamp()
    server = witness(tmp_path, world)
    before = take_back(server, Follower(WorldLog(world), world.treaty))
    if fault == "another history":
        old = world.entries[2]
        world.entries[2] = world.statement("gamma", "vote", {"motion": "trip", "epoch": 0, "reason": "another"}, seq=9)
        assert world.entries[2] != old
        world.entries.append(world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "more"}, seq=9))
    else:
        del world.entries[-2:]
    with pytest.raises(Refused) as e:
        take_back(server, Follower(WorldLog(world), world.treaty))
    assert e.value.reason is FAULTS[fault]
    assert server.last(world.state.chain.log.key.name) == before


class Lying(WorldLog):
    """Once it has been followed, it sends other entries than before."""

    lie = False

    def entries(self, start: int, end: int) -> list[bytes]:
        found = super().entries(start, end)
        return [*found[:-1], b"{a lie}"] if self.lie else found


def test_entries_that_differ_from_those_before_give_nothing_back(tmp_path: Path) -> None:
    world = World()
    world.bind()
    world.vote("trip", "alpha")
    log = Lying(world)
    log.note = world.checkpoint(by=("alpha", "gamma", "delta"))  # its own lines are in earlier stamps alone
    follower = Follower(log, world.treaty)
    follower.update()
    log.lie = True
    server = witness(tmp_path / "witness", world)
    with pytest.raises(Refused, match="other entries than before") as e:
        take_back(server, follower)
    assert e.value.reason is Reason.TAMPERED
    box = Outbox(tmp_path / "home", world.treaty, "alpha", key("alpha"), lambda: world.now)
    (tmp_path / "home" / RESTORED).touch()
    with pytest.raises(Malformed, match="other entries than before"):
        compared(box, log, follower.state)
    assert box.restored
    assert box.newest("brake") == -1


def test_what_it_remembers_itself_binds_it_too(tmp_path: Path) -> None:
    """Its memory holds a tree that no stamp shows: the log must extend that, too."""
    world = World()
    world.bind()
    server = witness(tmp_path, world)
    other = parse_note(world.checkpoint(root=bytes(32)))
    server.adopt(other, world.state.chain.log.key, 0)
    world.stamp()
    with pytest.raises(Refused) as e:
        take_back(server, Follower(WorldLog(world), world.treaty))
    assert e.value.reason is Reason.EQUIVOCATION
    with pytest.raises(Refused, match="this witness has cosigned") as e:
        server.adopt(parse_note(world.checkpoint(size=1)), world.state.chain.log.key, 0)
    assert e.value.reason is Reason.ROLLBACK


def test_an_old_memory_is_told_from_the_logs_stamps(tmp_path: Path) -> None:
    world = World()
    world.bind()
    log = WorldLog(world)
    took = take_back(witness(tmp_path, world), Follower(log, world.treaty)).size
    assert not is_behind(log, world.state.chain.log.key, OWN, took)
    world.stamp()
    world.stamp()
    log.note = world.checkpoint(by=("alpha", "gamma", "delta"))  # its line is in a stamp alone
    assert is_behind(log, world.state.chain.log.key, OWN, took)
    assert not is_behind(log, world.state.chain.log.key, OWN, world.state.size)


def test_a_witness_that_has_closed_the_log_takes_nothing_back(tmp_path: Path) -> None:
    # Treaty 11.10: no cosignature is later than the closing.
    world = World()
    world.bind()
    server = witness(tmp_path, world)
    server.close_log(world.state.chain.log.key.name)
    with pytest.raises(Refused, match="has closed the log"):
        take_back(server, Follower(WorldLog(world), world.treaty))
    assert server.last(world.state.chain.log.key.name) is None


def test_only_what_both_keys_signed_is_its_own(tmp_path: Path) -> None:
    world = World()
    world.bind()
    note = parse_note(world.checkpoint())
    key_ = world.state.chain.log.key
    assert len(list(own_in([note.encode()], key_, OWN))) == 1
    mine = tuple(line for line in note.lines if line.name == OWN.name)
    assert list(own_in([Note(note.text, mine).encode()], key_, OWN)) == [], "the log's key has not signed it"
    bad = SignatureLine(OWN.name, OWN.id, bytes(72))
    lines = tuple(line for line in note.lines if line.name != OWN.name)
    assert list(own_in([Note(note.text, (*lines, bad)).encode(), b"junk"], key_, OWN)) == []


def test_a_memory_that_is_gone_is_no_new_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is gone"):
        check_memory(tmp_path)
    new_memory(tmp_path)
    check_memory(tmp_path)
    (tmp_path / "restored").touch()
    with pytest.raises(Unavailable, match="was put back from a copy"):
        check_memory(tmp_path)


@pytest.mark.parametrize("damage", ["no database", "inside"])
def test_a_damaged_memory_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    world = World()
    world.bind()
    server = witness(tmp_path, world)
    take_back(server, Follower(WorldLog(world), world.treaty))
    server.close()
    file = tmp_path / MEMORY
    image = bytearray(file.read_bytes())
    image[0 if damage == "no database" else 4096 :] = b"\xa5" * (len(image) - (0 if damage == "no database" else 4096))
    file.write_bytes(image)
    with pytest.raises(Unavailable, match=r"witness\.db: the database is damaged") as e:
        witness(tmp_path, world)
    assert "move witness.db away" in e.value.hint


def test_a_memory_damaged_while_it_serves_is_no_answer(tmp_path: Path) -> None:
    """409 would say that it remembers another tree."""
    world = World()
    world.bind()
    server = witness(tmp_path, world)
    server._db.execute("PRAGMA writable_schema=ON")
    server._db.execute("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'logs'")
    server._db.execute("PRAGMA writable_schema=RESET")
    with pytest.raises(Unavailable, match="the database"):
        server.add_checkpoint(b"old 0\n\n" + world.checkpoint())


def test_a_clock_that_ran_ahead_is_put_right(tmp_path: Path) -> None:
    """log/d2 (6): one that was ten years ahead for an hour signed a time of ten years ahead for ten years."""
    world = World()
    world.bind()
    year = 365 * 86400
    wrong = witness(tmp_path, world, ahead=10 * year)
    wrong_time = take_back(wrong, Follower(WorldLog(world), world.treaty)).time
    assert wrong_time == world.now + 10 * year
    wrong.close()
    right = witness(tmp_path, world)
    assert right.ahead() == wrong_time
    world.stamp()
    origin = world.state.chain.log.key.name
    assert take_back(right, Follower(WorldLog(world), world.treaty)).time == wrong_time
    right.set_back()
    assert right.ahead() == 0
    before = right.last(origin)
    assert before is not None
    assert (before.size, before.time) == (world.state.size, world.now)
    # No tree is forgotten, and a closing says the latest time that was ever signed (Treaty 11.10).
    right.set_back()
    seen, when = right.close_log(origin)
    assert (seen, when) == (before, wrong_time)


def test_a_signer_that_does_not_know_what_it_closed_signs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "signer" / "granted.json"
    with pytest.raises(Unavailable, match="is gone") as e:
        Granted(file)
    assert "--new" in e.value.hint
    Granted(file, new=True).close("log")
    held = Granted(file, new=True)
    with pytest.raises(Refused, match="closed the log"), held.signing("log", 1):
        pass
    file.unlink()
    with pytest.raises(Unavailable), held.signing("log", 1):
        pass
    file.write_bytes(b'{"epoch":1,"clo')
    with pytest.raises(Unavailable, match="damaged"):
        Granted(file, new=True)


def test_a_party_that_cannot_read_which_reopening_it_signed_signs_none(tmp_path: Path) -> None:
    """Of two over one log an honest party signs one (Treaty 11.8): what is damaged is not "none yet"."""
    world = succeeding()
    made, envelope = read(reopening(world))
    (tmp_path / "party").write_text("beta\n")
    save_key(tmp_path / "keys" / "statement.pem", key("beta"), None)
    party = Home(tmp_path)
    (tmp_path / SIGNED).write_bytes(b'{"payload":"')
    with pytest.raises(Malformed, match="damaged"):
        remember(party, made, envelope.payload)
    (tmp_path / SIGNED).unlink()
    remember(party, made, envelope.payload)
    remember(party, made, envelope.payload)


# ---- backup and restore ----

VOTE = {"motion": "trip", "epoch": 0, "reason": "x"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with encrypted keys, a treaty, and a memory of each kind."""
    path = tmp_path / "home"
    for name in ("statement", "witness", "signer"):
        save_key(path / "keys" / f"{name}.pem", new_key(), b"secret")
    (path / "party").write_text("alpha\n")
    (path / "treaty.toml").write_bytes(World().treaty.text)
    new_memory(path / "witness")
    Granted(path / "signer" / "granted.json", new=True).close("an old log")
    (path / "signer" / "votes.jsonl").write_bytes(b"{}\n")
    (path / "log").mkdir()
    (path / "log" / "log.db").write_bytes(b"large")
    return Home(path, passphrase=lambda: b"secret")


def box_at(path: Path) -> Outbox:
    return Outbox(path, World().treaty, "alpha", key("alpha"), lambda: 1_800_000_000)


def test_a_backup_is_a_home_again_and_says_nothing_before_it_has_compared(tmp_path: Path, home: Home) -> None:
    with closing(box_at(home.path)) as box:
        said = box.write("vote", VOTE)
        names = backup(home, tmp_path / "file")  # while it is open, with what the main file does not hold yet
    assert {"party", "treaty.toml", "keys/statement.pem", "signer/granted.json", "signer/votes.jsonl"} < set(names)
    assert not [name for name in names if name.startswith("log") or "lock" in name]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    again = restore(tmp_path / "file", tmp_path / "again")
    assert (again.name, again.treaty.digest) == ("alpha", home.treaty.digest)
    pem = again.path / "keys" / "statement.pem"
    assert pem.read_bytes() == (home.path / "keys" / "statement.pem").read_bytes()
    assert b"ENCRYPTED" in pem.read_bytes()
    assert load_key(pem, lambda: b"secret").public == home.key("statement").public
    with closing(box_at(again.path)) as box:
        assert [data for _, _, data in box.pending()] == [said]
        for act in (lambda: box.write("vote", VOTE), lambda: box.renew("brake", 0), lambda: box.flush(lambda e: 0)):
            with pytest.raises(Unavailable, match="says nothing before it has read the log"):
                act()
    with pytest.raises(Unavailable, match="put back from a copy"):
        check_memory(again.path / "witness")
    with pytest.raises(Refused), again.granted().signing("an old log", 1):
        pass


def test_nothing_is_overwritten(tmp_path: Path, home: Home) -> None:
    backup(home, tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(Misuse, match="exists already"):
        backup(home, tmp_path / "file")
    for there in (home.path, tmp_path / "file"):
        with pytest.raises(Misuse, match="is not empty"):
            restore(tmp_path / "file", there)
    assert (tmp_path / "file").read_bytes() == before
    strange = os.fsdecode(os.fsencode(home.path / "keys") + b"/\xff")
    Path(strange).touch()
    with pytest.raises(Misuse, match="no file of a home"):
        backup(home, tmp_path / "another")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.partial").mkdir()
    (tmp_path / "empty.partial" / "half").touch()  # of a crash before
    assert restore(tmp_path / "file", tmp_path / "empty").name == "alpha"
    assert not (tmp_path / "empty" / "half").exists()


def packed(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def escaping(name: str) -> bytes:
    table = f'{{"party":"{sha("x")}","{name}":"{sha("x")}"}}'.encode()
    return packed(**{"brakeline-backup.json": table, "party": b"x", name: b"x"})


def sha(text: str) -> str:
    return sha256(text.encode()).hex()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a flipped bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "something else": lambda data: b"no archive",
    "no table": lambda data: packed(party=b"alpha"),
    "not what was put there": lambda data: packed(
        **{"brakeline-backup.json": f'{{"party":"{sha("x")}"}}'.encode(), "party": b"y"}
    ),
    "outside": lambda data: escaping("../evil"),
    "absolute": lambda data: escaping("/tmp/evil"),
    "no part of a home": lambda data: escaping("log/log.db"),
    "deeper": lambda data: escaping("keys/../../evil"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_backup_makes_no_home(
    tmp_path: Path, home: Home, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    backup(home, tmp_path / "file")
    (tmp_path / "file").write_bytes(DAMAGE[damage]((tmp_path / "file").read_bytes()))
    with pytest.raises(Malformed):
        restore(tmp_path / "file", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"]
    with pytest.raises(SystemExit) as e:
        main(["restore", str(tmp_path / "file"), str(tmp_path / "again")])
    err = capsys.readouterr().err
    assert (e.value.code, "Traceback" in err) == (3, False)


def test_a_file_that_is_not_there_is_unavailable(tmp_path: Path, home: Home) -> None:
    with pytest.raises(Unavailable):
        restore(tmp_path / "none", tmp_path / "again")
    (home.path / "outbox.sqlite").write_bytes(b"junk" * 2000)
    with pytest.raises((Unavailable, Refused), match="database"):
        backup(home, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def writing(path: Path, wrote: Path) -> None:
    box = box_at(path)
    while True:
        box.write("vote", VOTE)
        wrote.touch()


@pytest.mark.real
def test_a_backup_taken_while_a_process_writes_is_whole(tmp_path: Path, home: Home) -> None:
    """Then it is killed in the middle of writing. Numbers have no gap in the copy, nor in what is left."""
    process = multiprocessing.get_context("forkserver").Process(target=writing, args=(home.path, tmp_path / "wrote"))
    process.start()
    try:
        while not (tmp_path / "wrote").exists():
            process.join(0.01)
        for i in range(5):
            backup(home, tmp_path / f"file{i}")
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    counts = []
    for i in range(5):
        again = restore(tmp_path / f"file{i}", tmp_path / f"again{i}")
        counts.append(numbers(again.path))
    assert counts == sorted(counts)
    assert numbers(home.path) >= counts[-1] > 0


def numbers(path: Path) -> int:
    with closing(sqlite3.connect(path / "outbox.sqlite")) as db:
        rows = db.execute("SELECT seq, data FROM said ORDER BY seq").fetchall()
    assert [seq for seq, _ in rows] == list(range(len(rows)))
    assert [open_envelope(data).statement.seq for _, data in rows] == list(range(len(rows)))
    return len(rows)
