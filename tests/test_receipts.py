"""A log that is held to its word: what it promises, what is kept of that, and what proves that it was broken."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from brakeline.cli import compare, verify
from brakeline.core.bundle import Bundle
from brakeline.core.errors import Unavailable
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.receipt import Receipt, sign_receipt
from brakeline.node.client import Follower
from brakeline.node.logclient import OutOfReach
from brakeline.node.submit import add_judged
from test_logstore import in_memory
from test_node import WorldLog
from world import World, key, log_key

LOG = log_key("delta")


class Withholding(WorldLog):
    """A log that says of whatever is added that no quorum is there."""

    def add(self, entry: bytes) -> bytes:
        raise Unavailable("no quorum, nothing published")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


@pytest.fixture
def world() -> World:
    world = World()
    world.bind()
    world.stamp()
    return world


@pytest.fixture
def vote(world: World) -> bytes:
    return world.statement("beta", "vote", {"motion": "trip", "epoch": 0, "reason": "it is time"})


def receipt(world: World, entry: bytes, *, by: str = "log", until: int = 600) -> bytes:
    promise = Receipt(LOG.name, len(world.entries), leaf_hash(entry), world.now + until)
    return sign_receipt(promise, key("delta", by)).encode()


def proven(folder: Path, world: World) -> list[str]:
    found = []
    (folder / "treaty.toml").write_bytes(world.first.text)
    for path in (folder / "proofs").glob("*"):
        done = CliRunner().invoke(verify.command, [str(path), "--treaty", str(folder / "treaty.toml"), "--json"])
        assert done.exit_code == 0, done.output
        found += [f"{f['role']} {f['who']} {f['what']}" for f in json.loads(done.output)["faults"]]
    return found


def test_a_log_that_publishes_what_it_promised_is_at_no_fault(world: World, vote: bytes, tmp_path: Path) -> None:
    log = Withholding(world)
    follower = Follower(log, world.treaty, tmp_path)
    log.promised = receipt(world, vote)
    for _ in range(2):
        with pytest.raises(Unavailable, match="no quorum"):
            add_judged(log, follower, vote)
    assert len(list((tmp_path / "receipts").iterdir())) == 1
    promised = len(world.entries)
    assert add_judged(WorldLog(world), follower, vote) == promised
    assert proven(tmp_path, world) == []


def test_a_log_that_puts_another_entry_in_its_place(world: World, vote: bytes, tmp_path: Path) -> None:
    log = Withholding(world)
    follower = Follower(log, world.treaty, tmp_path)
    log.promised = receipt(world, vote)
    with pytest.raises(Unavailable, match="no quorum"):
        add_judged(log, follower, vote)
    place = len(world.entries)
    world.vote("trip", "gamma")
    world.stamp()
    log.promised = None  # it denies it now
    with pytest.raises(Unavailable, match="broken its word") as e:
        add_judged(log, follower, vote)
    assert "brakeline verify" in e.value.hint
    text = f"log {LOG.name} promised an entry {place}, and published another one in its place"
    assert proven(tmp_path, world) == [text]
    # That it takes it in the end, elsewhere, changes nothing about that.
    assert add_judged(WorldLog(world), follower, vote) > place
    assert proven(tmp_path, world)[0] == text


def test_a_log_that_is_late(world: World, vote: bytes, tmp_path: Path) -> None:
    log = Withholding(world)
    follower = Follower(log, world.treaty, tmp_path)
    log.promised = receipt(world, vote, until=60)
    until = world.now + 60
    world.now += 60
    log.note = world.checkpoint()
    with pytest.raises(Unavailable, match="no quorum"):
        add_judged(log, follower, vote)
    world.now += 1
    log.note = world.checkpoint()
    with pytest.raises(Unavailable, match="broken its word"):
        add_judged(log, follower, vote)
    size = len(world.entries)
    text = f"promised to publish entry {size} until {until}, and at {until + 1} had published {size} entries"
    assert proven(tmp_path, world) == [f"log {LOG.name} {text}"]


def test_a_log_that_is_out_of_reach_is_asked_for_nothing_more(world: World, vote: bytes, tmp_path: Path) -> None:
    """A vote does not wait twice for a log that hangs."""

    class Hanging(WorldLog):
        def add(self, entry: bytes) -> bytes:
            raise OutOfReach("the log is out of reach")

        def receipt(self, entry: bytes) -> bytes | None:
            raise AssertionError("it is not asked")

    log = Hanging(world)
    with pytest.raises(OutOfReach):
        add_judged(log, Follower(log, world.treaty, tmp_path), vote)


def test_what_the_log_did_not_sign_is_no_promise(world: World, vote: bytes, tmp_path: Path) -> None:
    log = Withholding(world)
    follower = Follower(log, world.treaty, tmp_path)
    for shown in (receipt(world, vote, by="witness"), receipt(world, b"another entry"), b"rubbish", world.checkpoint()):
        log.promised = shown
        with pytest.raises(Unavailable, match="no quorum"):
            add_judged(log, follower, vote)
    assert not (tmp_path / "receipts").exists()


# `brakeline compare`


def compared(folder: Path, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(compare.command, [*args, "--treaty", str(folder / "treaty.toml")], standalone_mode=False)
    return done.return_value, done.output


def test_two_people_compare_what_they_were_shown(world: World, vote: bytes, tmp_path: Path) -> None:
    (tmp_path / "treaty.toml").write_bytes(world.first.text)
    mine, yours, bundle, proof = (str(tmp_path / name) for name in ("mine", "yours", "bundle", "proof.json"))
    Path(mine).write_bytes(world.checkpoint())
    world.append(vote)
    world.stamp()
    Path(yours).write_bytes(world.checkpoint())
    Path(bundle).write_bytes(Bundle(world.first.text, world.checkpoint(), tuple(world.entries), {}).encode())
    text = "they do not contradict each other"
    assert compared(tmp_path, yours, mine) == (0, f"{text}, as far as they say without --log\n")
    assert compared(tmp_path, mine, yours, "--log", bundle) == (0, f"{text}\n")

    other = World()
    other.bind()
    other.vote("trip", "gamma")
    other.stamp()
    Path(mine).write_bytes(other.checkpoint(len(other.entries) - 1))
    code, text = compared(tmp_path, mine, yours, "--log", bundle, "--out", proof)
    assert code == 1
    assert "signed two histories" in text
    assert "4 witnesses: more than the 1 that this treaty bears" in text
    done = CliRunner().invoke(verify.command, [proof, "--treaty", str(tmp_path / "treaty.toml")])
    assert done.exit_code == 0
    assert "VERIFIED" in done.output
