"""State that comes back old, torn or not at all: a witness's memory, what a signer has closed, votes held, backups."""

from pathlib import Path

import pytest

from brakeline.core.errors import Reason, Refused, Unavailable
from brakeline.core.tlog.checkpoint import verify_cosignature
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.tlog.note import Note, SignatureLine, parse_note
from brakeline.node.client import Follower
from brakeline.node.granted import Granted
from brakeline.node.recall import is_behind, own_in, take_back
from brakeline.node.witness import MEMORY, Witness, check_memory, new_memory
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


@pytest.mark.parametrize("fault", ["another history", "fewer entries"])
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
    with pytest.raises(Refused):
        take_back(server, Follower(WorldLog(world), world.treaty))
    assert server.last(world.state.chain.log.key.name) == before


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
    assert "move it away" in e.value.hint


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
