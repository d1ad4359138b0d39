"""The follower: what it saw it never forgets, what it kept it never trusts blindly, and whom it accuses is guilty."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from brakeline.cli import verify
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.snapshot import Snapshot, check_stated, pack, unpack
from brakeline.core.state import State, apply, begin, codec
from brakeline.core.state.codec import digest, encode
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.node import client, disk
from brakeline.node.client import BUNDLE, Follower
from test_logstore import in_memory
from test_node import WorldLog
from world import PARTIES, World, key, treaty

EVERY = 16


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as path:
        yield path


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state is written down."""
    monkeypatch.setattr(client, "_SAVE_EVERY", 1)


def grown() -> World:
    world = World()
    world.bind()
    world.stamp()
    return world


def another_history(world: World, at: int) -> None:
    world.entries[at] = world.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "another history"})


def trip_votes(world: World, count: int, epoch: int = 99) -> None:
    """Entries that change nothing but numbers."""
    for i in range(count):
        world.vote("trip", PARTIES[i % 4], epoch=epoch)


# ---- following ----


def test_follower_folds_what_the_log_shows(tmp_path: Path) -> None:
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    assert follower.update()
    assert not follower.update()
    world.trip()
    assert follower.update()
    assert follower.state.ballot == world.state.ballot
    assert digest(follower.state) == digest(world.state)
    base = world.state.clock.base.size
    assert [follower.state.root(i) for i in range(base, world.state.size + 1)] == [
        world.state.root(i) for i in range(base, world.state.size + 1)
    ]
    assert follower.time == world.now
    assert [e for i in range(world.state.size) for e in follower.effect(i)] == world.events


def test_two_histories_are_caught_and_the_proof_is_kept(tmp_path: Path) -> None:
    """Attack A-20. Both notes are cosigned by a quorum: together they convict."""
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    size = follower.state.size
    another_history(world, -1)
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION
    assert follower.state.size == size
    kept = sorted((tmp_path / "forks").iterdir())
    assert len(kept) == 2
    assert kept[0].read_bytes() != kept[1].read_bytes()


def proven(memory: Path, world: World) -> list[str]:
    """What `brakeline verify` makes of the one proof that is kept: whom it names."""
    (path,) = (memory / "proofs").iterdir()
    file = memory / "treaty.toml"
    file.write_bytes(world.first.text)
    done = CliRunner().invoke(verify.command, [str(path), "--treaty", str(file), "--json"])
    assert done.exit_code == 0, done.output
    return [fault["who"] for fault in json.loads(done.output)["faults"]]


@pytest.mark.parametrize("at", [-1, 2])
def test_what_is_kept_of_a_fork_proves_it_to_anybody(at: int, tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    another_history(world, at)
    log.note = world.checkpoint(root=root([leaf_hash(e) for e in world.entries]), by=["alpha", "beta", "gamma"])
    with pytest.raises(Refused, match="another history") as e:
        follower.update()
    assert "brakeline verify" in e.value.hint
    assert proven(tmp_path, world) == ["log.example/demo", "alpha", "beta", "gamma"]


def test_a_witness_that_goes_backwards_is_proven_to(tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    log.note = world.checkpoint(world.state.size - 1, by=["alpha", "beta"], now=world.now)
    with pytest.raises(Refused):  # an old one, with the times of then, or of the same second, accuses nobody
        follower.update()
    assert not (tmp_path / "proofs").exists()
    log.note = world.checkpoint(world.state.size - 1, by=["alpha", "beta", "gamma"], now=world.now + 5)
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.ROLLBACK
    assert proven(tmp_path, world) == ["alpha", "beta", "gamma"]


def test_a_grown_fork_is_caught_too(tmp_path: Path) -> None:
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    another_history(world, 1)
    world.entries.append(world.checkpoint())
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION
    assert proven(tmp_path, world) == ["log.example/demo", *sorted(PARTIES)]


def test_entries_that_are_not_those_of_the_checkpoint_are_not_taken() -> None:
    """A log that serves other entries, fewer or more than it signed: nothing of it is folded."""
    world = grown()
    honest = WorldLog(world).entries

    def more(start: int, end: int) -> list[bytes]:
        return [*honest(start, end), world.entries[0]]

    for entries, error in (
        (lambda a, b: honest(a, b)[:-1], Malformed),
        (more, Malformed),
        (lambda a, b: honest(a, b)[::-1], Unavailable),
    ):
        log = WorldLog(world)
        log.entries = entries  # type: ignore[method-assign]
        follower = Follower(log, world.treaty)
        with pytest.raises(error):
            follower.update()
        assert (follower.state.size, follower.cosigned) == (0, None)


@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_damaged_tile_accuses_nobody(tmp_path: Path, at: int) -> None:
    """One entry is other than the log signed, on a disk or in a cache: no fork, and no proof of one is kept."""
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    before = follower.state
    for _ in range(4):
        world.stamp()
    honest = log.entries

    def damaged(start: int, end: int) -> list[bytes]:
        found = honest(start, end)
        return [*found[:at], b'{"damaged":1}', *(found[at + 1 :] if at != -1 else ())] if start else found

    log.entries = damaged  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="not those of its checkpoint"):
        follower.update()
    assert follower.state is before
    assert not (tmp_path / "forks").exists()
    calls = iter([damaged])
    log.entries = lambda a, b: next(calls, honest)(a, b)  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        follower.update()
    log.entries = honest  # type: ignore[method-assign]
    assert follower.update(), "once it is whole, it is followed"


def test_a_proof_of_a_fork_is_kept_whatever_comes_after(tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    follower.update()
    honest, size = list(world.entries), len(world.entries)
    another_history(world, 4)
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION
    proof = {p.name: p.read_bytes() for p in (tmp_path / "forks").iterdir()}
    assert len(proof) == 2
    world.entries[:] = honest
    world.stamp()
    log.entries = lambda a, b: [b"{}"] * (b - a)  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        follower.update()
    assert {p.name: p.read_bytes() for p in (tmp_path / "forks").iterdir()} == proof
    del log.entries
    world.entries[4] = another_statement(world)
    assert len(world.entries) > size
    with pytest.raises(Refused):
        follower.update()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "forks").iterdir()}
    assert proof.items() < kept.items(), "another proof stands beside it"


def another_statement(world: World) -> bytes:
    return world.statement("beta", "vote", {"motion": "trip", "epoch": 7, "reason": "a third history"})


def test_without_a_witness_quorum_nothing_is_taken() -> None:
    world = grown()
    log = WorldLog(world)
    log.note = world.checkpoint(by=PARTIES[:2])
    follower = Follower(log, world.treaty)
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.NO_QUORUM
    assert follower.state.size == 0


def test_a_keeper_that_does_not_let_us_wait_does_not_make_us_spin() -> None:
    """And the same trouble is told once, until it is over."""
    world = grown()
    log = WorldLog(world)
    asked: list[float] = []
    honest = log.checkpoint

    def checkpoint(**options: int) -> bytes:
        asked.append(time.monotonic())
        return honest(**options)

    log.checkpoint = checkpoint  # type: ignore[method-assign]
    follower, stop, told = Follower(log, world.treaty), threading.Event(), list[str]()
    thread = threading.Thread(target=follower.follow, args=(stop, lambda e: told.append(str(e))))
    thread.start()
    time.sleep(1.0)
    assert len(asked) <= 6
    log.away = True
    time.sleep(0.8)
    stop.set()
    thread.join()
    assert told == ["the log is out of reach"]


# ---- threads ----


def test_threads_share_a_follower() -> None:
    """Nothing is folded twice, and a slower answer is no rollback."""
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    follower.update()
    troubles: list[BaseException] = []
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            try:
                follower.update()
            except BaseException as e:
                troubles.append(e)

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for t in threads:
        t.start()
    for _ in range(30):
        world.stamp()
    stop.set()
    for t in threads:
        t.join()
    follower.update()
    assert troubles == []
    assert digest(follower.state) == digest(world.state)
    assert sum(end - start for start, end in log.asked) == len(world.entries), "each entry is read once"
    assert [e for i in range(world.state.size) for e in follower.effect(i)] == world.events


def test_one_thread_reads_what_another_folds(tmp_path: Path, saving: None) -> None:
    """A desk asks for an effect, a signer refolds, while the gate's thread goes on following."""
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    troubles: list[BaseException] = []
    stop = threading.Event()

    def reading(act: Callable[[], object]) -> threading.Thread:
        def work() -> None:
            while not stop.is_set():
                try:
                    act()
                except BaseException as e:
                    troubles.append(e)

        return threading.Thread(target=work)

    threads = [reading(lambda: follower.effect(3)), reading(follower.trail), reading(follower.update)]
    for t in threads:
        t.start()
    for _ in range(12):
        trip_votes(world, 4)
        follower.update()
    stop.set()
    for t in threads:
        t.join()
    assert troubles == []
    assert digest(follower.state) == digest(world.state)


def test_a_slow_answer_is_no_rollback_and_must_still_fit() -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    old = world.checkpoint()
    real = log.checkpoint

    def slow(*, after: int = -1, wait: int = 0) -> bytes:
        log.checkpoint = real  # type: ignore[method-assign]
        world.stamp()
        follower.update()
        return note

    note, follower = old, Follower(log, world.treaty)
    log.checkpoint = slow  # type: ignore[method-assign]
    assert not follower.update()
    assert follower.cosigned is not None
    assert follower.cosigned.checkpoint.size == follower.state.size, "the newest checkpoint stays the newest"
    base = world.state.clock.base.size
    note, follower = world.checkpoint(base + 2, root=bytes(32)), Follower(log, world.treaty)
    log.checkpoint = slow  # type: ignore[method-assign]
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION


# ---- after a restart ----


def test_a_log_rolled_back_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    Follower(log, world.treaty, tmp_path).update()
    log.note = world.checkpoint(4)
    with pytest.raises(Refused) as e:
        Follower(log, world.treaty, tmp_path).update()
    assert e.value.reason is Reason.ROLLBACK


def test_a_fork_shown_after_a_restart_is_caught(tmp_path: Path) -> None:
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    another_history(world, 2)
    with pytest.raises(Refused) as e:
        Follower(WorldLog(world), world.treaty, tmp_path).update()
    assert e.value.reason is Reason.EQUIVOCATION
    assert len(list((tmp_path / "forks").iterdir())) == 2


def test_a_restart_goes_on_from_the_state_that_was_kept(tmp_path: Path, saving: None) -> None:
    """The same state as folding all of it, and only what is new is read."""
    world = grown()
    run = world.finished("alpha")
    world.audit("beta", run)
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    kept = world.state.size
    world.read("speedup", 3.0, "alpha", "beta")
    world.trip()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    assert (follower.state.size, follower.cosigned) == (kept, None)
    assert follower.update()
    assert log.asked[0][0] == kept
    assert encode(follower.state) == encode(world.state)
    assert follower.trail().events == tuple(world.events)
    assert follower.effect(kept) == tuple(e for e in world.events if e.entry == kept)


def test_a_state_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size, and whenever the epoch has changed: a vote in an outage must be for the right one."""
    world = grown()
    written: list[str] = []
    real = client.write_atomic

    def noting(path: Path, data: bytes) -> None:
        if path.name != client.STAMPED:
            written.append(path.name)
        real(path, data)

    monkeypatch.setattr(client, "write_atomic", noting)
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    for _ in range(3):
        world.stamp()
        follower.update()
    assert written == ["checkpoint"] * 3
    world.trip()
    follower.update()
    assert written[3:] == ["checkpoint", "state"]
    monkeypatch.setattr(client, "_SAVE_EVERY", 5)
    for _ in range(10):
        world.stamp()
        follower.update()
    assert written[5:].count("state") == 2


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\n",
    "a flipped bit": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "not a state": lambda data: pack(b"{}"),
    "of another treaty": lambda data: pack(encode(begin(treaty(lift_delay='"9 s"')))),
    "of an older build": lambda data: pack(unpack(data).replace(b'"format":1', b'"format":0')),
    "of other rules": lambda data: pack(unpack(data).replace(b'"rules":2', b'"rules":3')),
    "of another program": lambda data: data.replace(b"snapshot/v1", b"snapshot/v0"),
    "of the log's beginning": lambda data: pack(encode(begin(treaty()))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_state_that_is_no_state_is_made_anew(tmp_path: Path, saving: None, name: str) -> None:
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    file = tmp_path / "state"
    file.write_bytes(DAMAGE[name](file.read_bytes()))
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    assert follower.state.size == 0
    world.stamp()
    follower.update()
    assert log.asked[0][0] == 0
    assert digest(follower.state) == digest(world.state)
    assert digest(Follower(log, world.treaty, tmp_path).state) == digest(world.state), "and is kept whole again"
    assert not (tmp_path / "forks").exists()


def test_a_state_of_another_log_accuses_nobody(tmp_path: Path, saving: None) -> None:
    """A mistyped folder: what one kept is wrong, not what the log shows. It is made anew."""
    world, other = grown(), World()
    other.bind("delta", "gamma", "beta", "alpha")
    for _ in range(3):
        world.stamp()
    for w, path in ((world, tmp_path / "mine"), (other, tmp_path / "other")):
        Follower(WorldLog(w), w.treaty, path).update()
    shutil.copy(tmp_path / "other" / "state", tmp_path / "mine" / "state")
    world.stamp()
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path / "mine")
    assert follower.state.size == other.state.size
    follower.update()
    assert digest(follower.state) == digest(world.state)
    assert not (tmp_path / "mine" / "forks").exists()
    # But a log that forks is found all the same, from such a start, too.
    shutil.copy(tmp_path / "other" / "state", tmp_path / "mine" / "state")
    another_history(world, 2)
    with pytest.raises(Refused) as e:
        Follower(log, world.treaty, tmp_path / "mine").update()
    assert e.value.reason is Reason.EQUIVOCATION


def test_a_checkpoint_of_another_history_than_the_state_is_found(tmp_path: Path, saving: None) -> None:
    """The state leads to what the log shows, the checkpoint seen with it does not: the log has two histories."""
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    (tmp_path / "checkpoint").write_bytes(world.checkpoint(root=b"\1" * 32))
    world.stamp()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    assert follower.state.size == world.state.size - 1
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION


def test_a_state_ahead_of_the_checkpoint_is_not_used(tmp_path: Path, saving: None) -> None:
    """Yesterday's checkpoint and today's state: nothing says that the log ever published it."""
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    old = (tmp_path / "checkpoint").read_bytes()
    world.stamp()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    (tmp_path / "checkpoint").write_bytes(old)
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    assert follower.state.size == 0
    follower.update()
    assert digest(follower.state) == digest(world.state)


@pytest.mark.parametrize("at", ["before the state", "after the state", "at the checkpoint", "behind the checkpoint"])
def test_a_fork_is_found_from_a_kept_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """The checkpoint is ahead of the state: between them, too, there is one history only."""
    world = grown()
    monkeypatch.setattr(client, "_SAVE_EVERY", 1)
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    kept = world.state.size
    monkeypatch.setattr(client, "_SAVE_EVERY", 10**6)
    for _ in range(4):
        world.stamp()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    floor = world.state.size
    world.stamp()
    world.stamp()
    where = {"before the state": 2, "after the state": kept + 1, "at the checkpoint": floor - 1, "behind": floor + 1}
    another_history(world, where[at.removesuffix(" the checkpoint") if at.startswith("behind") else at])
    log = WorldLog(world)
    follower = Follower(log, world.treaty, tmp_path)
    assert follower.state.size == kept
    if at.startswith("behind"):  # never seen before: no fork
        assert follower.update()
        return
    with pytest.raises(Refused) as e:
        follower.update()
    assert e.value.reason is Reason.EQUIVOCATION
    assert sorted(p.name[:2] + p.name[-2:] for p in (tmp_path / "forks").iterdir()) == [f"{floor}-a", f"{floor}-b"]


@pytest.mark.parametrize("size", ["below the state", "at the state", "below the checkpoint"])
def test_a_rollback_is_found_from_a_kept_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    world = grown()
    monkeypatch.setattr(client, "_SAVE_EVERY", 1)
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    kept = world.state.size
    monkeypatch.setattr(client, "_SAVE_EVERY", 10**6)
    for _ in range(4):
        world.stamp()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    log = WorldLog(world)
    shown = {"below the state": kept - 1, "at the state": kept, "below the checkpoint": world.state.size - 1}
    log.note = world.checkpoint(shown[size])
    with pytest.raises(Refused) as e:
        Follower(log, world.treaty, tmp_path).update()
    assert e.value.reason is Reason.ROLLBACK


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"junk")
    world = grown()
    with pytest.raises(Malformed, match="checkpoint is no checkpoint") as e:
        Follower(WorldLog(world), world.treaty, tmp_path)
    assert e.value.hint


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded counts, whatever becomes of writing it down: the gate shuts on it."""
    world = grown()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    world.trip()
    with monkeypatch.context() as context:
        context.setattr(disk, "replace_file", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(Unavailable, match="No space left"):
            follower.update()
    assert follower.state.epoch == 1
    world.stamp()
    follower.update()
    assert digest(follower.state) == digest(world.state)


# ---- starting from what permit signers state ----


def state_at(world: World, size: int) -> State:
    state = begin(world.treaty)
    for entry in world.entries[:size]:
        state, _ = apply(state, entry)
    return state


class Offered:
    """A log of more than 32 entries that offers its state at 32; who states what there is up to the test."""

    def __init__(self, *parties: str, **changes: Any) -> None:
        self.world = World(**{"log.snapshot_every": str(EVERY)})
        self.world.bind()
        run = self.world.finished("alpha")
        self.world.audit("beta", run)
        trip_votes(self.world, 2 * EVERY + 1 - self.world.state.size)
        self.at = state_at(self.world, 2 * EVERY)
        self.log = WorldLog(self.world)
        self.log.state = pack(encode(self.at))
        self.state(*parties, **changes)
        self.world.stamp()
        trip_votes(self.world, 3)

    def state(self, *parties: str, **changes: Any) -> None:
        fields = {"rules": 2, "size": self.at.size, "root": self.at.root().hex(), "state": digest(self.at)}
        for p in parties:
            self.world.log(p, "snapshot", Snapshot(**{**fields, **changes}))


def refused(offered: Offered, memory: Path | None = None) -> BrakelineError:
    follower = Follower(offered.log, offered.world.treaty, memory)
    before = follower.state
    with pytest.raises((Refused, Malformed)) as e:
        follower.start_from_signers()
    assert follower.state is before
    return e.value


def test_a_quorum_of_signers_is_believed() -> None:
    """Treaty 6.6. The state is that of the whole log, and only what follows the offered one was read."""
    offered = Offered("alpha", "gamma", "delta")
    world, log = offered.world, offered.log
    follower = Follower(log, world.treaty)
    follower.start_from_signers()
    assert min(start for start, _ in log.asked) == 2 * EVERY
    assert digest(follower.state) == digest(world.state)
    assert follower.cosigned is not None
    assert follower.cosigned.checkpoint.size == world.state.size
    world.trip()
    assert follower.update()
    assert digest(follower.state) == digest(world.state)
    assert len(follower.trail().events) == len(world.events)


def test_what_they_state_is_what_they_folded() -> None:
    """A permit signer's own view gives the same bytes."""
    offered = Offered()
    world = offered.world
    follower = Follower(WorldLog(world), world.treaty, stating=True)
    follower.update()
    stated = state_at(world, world.state.size // EVERY * EVERY)
    assert follower.stated == (stated.size, stated.root().hex(), digest(stated))
    before = follower.stated
    world.stamp()
    follower.update()
    assert follower.stated == before
    assert Follower(WorldLog(world), world.treaty).stated is None


@pytest.mark.parametrize("parties", [(), ("alpha",), ("alpha", "beta"), ("alpha", "alpha", "alpha", "beta")])
def test_fewer_than_a_quorum_are_not(parties: tuple[str, ...]) -> None:
    e = refused(Offered(*parties))
    assert isinstance(e, Refused)
    assert e.reason is Reason.NO_QUORUM
    assert f"stated by {len(set(parties))} permit signers; 3 are needed" in str(e)


@pytest.mark.parametrize(
    "changes", [{"state": "ab" * 32}, {"root": "ab" * 32}, {"size": EVERY}], ids=lambda c: next(iter(c))
)
def test_who_states_another_state_does_not_count(changes: dict[str, Any]) -> None:
    offered = Offered("alpha", "beta")
    offered.state("gamma", "delta", **changes)
    e = refused(offered)
    assert isinstance(e, Refused)
    assert e.reason is Reason.NO_QUORUM


def test_only_permit_signers_count_and_only_under_their_own_keys() -> None:
    """A log that forges, or takes another's word, has no quorum more."""
    offered = Offered("alpha", "beta")
    world = offered.world
    body = Snapshot(rules=2, size=offered.at.size, root=offered.at.root().hex(), state=digest(offered.at))
    world.append(world.statement("gamma", "snapshot", body, by=key("alpha")))
    world.append(world.statement("gamma", "snapshot", body, by=key("stranger")))
    world.append(world.statement("gamma", "snapshot", body, issuer="delta"))
    world.append(world.statement("gamma", "snapshot", body, treaty="0" * 64))
    assert "stated by 2 permit signers" in str(refused(offered))
    said = Snapshot(rules=2, size=5, root="r", state="s")
    others = [replace(said, **x) for x in ({"rules": 1}, {"size": 6}, {"root": "t"}, {"state": "t"})]
    stated = [(p, said) for p in ("a", "b", "b", "c")] + [(p, x) for p, x in zip("defg", others, strict=True)]
    check_stated(stated, said, 3)
    with pytest.raises(Refused, match="stated by 3 permit signers; 4"):
        check_stated(stated, said, 4)


def test_another_state_than_was_stated_is_refused() -> None:
    """Whatever it is: true and older, true and of another log, or bent to clear the brake."""
    for bend in (
        lambda o: encode(state_at(o.world, EVERY)),
        lambda o: encode(begin(o.world.treaty)),
        lambda o: encode(o.at).replace(b'"assented":true', b'"assented":false'),
        lambda o: encode(o.at).replace(b'"held":false', b'"held":true'),
    ):
        offered = Offered("alpha", "beta", "gamma")
        offered.log.state = pack(bend(offered))
        e = refused(offered)
        assert isinstance(e, Refused)
        assert e.reason is Reason.NO_QUORUM


def test_a_stated_state_that_the_log_does_not_follow_from_is_refused() -> None:
    """A quorum may err, or be forged upon: the witnesses' checkpoint is what its leaves must lead to."""
    offered = Offered()
    form = json.loads(encode(offered.at))
    form["clock"]["leaves"][-1][0] = form["clock"]["leaves"][0][0]
    bent = codec.decode(json.dumps(form, separators=(",", ":"), sort_keys=True).encode(), offered.world.treaty)
    offered.log.state = pack(encode(bent))
    offered.state("alpha", "beta", "gamma", root=bent.root().hex(), state=digest(bent))
    offered.world.stamp()
    e = refused(offered)
    assert isinstance(e, Refused)
    assert e.reason is Reason.TAMPERED


@pytest.mark.parametrize("name", DAMAGE)
def test_bytes_that_are_no_state_are_refused(name: str) -> None:
    offered = Offered("alpha", "beta", "gamma")
    assert offered.log.state
    offered.log.state = DAMAGE[name](offered.log.state)
    refused(offered)


LIES = [None, -1, 0, 2**63, 10**400, "", "x", "0" * 64, [], {}, [[]], True, 1.5, "group a 1 a\nquorum a\n"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_log_offers_is_refused_in_our_terms(data: st.DataObject) -> None:
    """Bytes from whoever keeps the log, whole and well-formed: nothing is folded from them before a quorum's word."""
    offered = OFFERED
    form = json.loads(encode(offered.at))
    node, path = form, []
    while isinstance(node, dict | list) and node and (not path or data.draw(st.integers(0, 9))):
        path.append(data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))))
        parent, node = node, node[path[-1]]
    parent[path[-1]] = data.draw(st.sampled_from(LIES))
    bent = json.dumps(form, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    if bent == encode(offered.at):
        return
    log = WorldLog(offered.world)
    log.state = pack(bent)
    follower = Follower(log, offered.world.treaty)
    with pytest.raises((Refused, Malformed)):
        follower.start_from_signers()


OFFERED = Offered("alpha", "beta", "gamma")


def test_starting_anew_forgets_nothing_that_was_seen(tmp_path: Path) -> None:
    """A home that has seen more, or another history, is not led back by a state, however well stated."""
    offered = Offered("alpha", "beta", "gamma")
    world, log = offered.world, offered.log
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    log.note = world.checkpoint(world.state.size - 1)
    e = refused(offered, tmp_path)
    assert isinstance(e, Refused)
    assert e.reason is Reason.ROLLBACK
    log.note = None
    another_history(world, -1)
    world.entries.append(WorldLog(world).checkpoint())
    e = refused(offered, tmp_path)
    assert isinstance(e, Refused)
    assert e.reason is Reason.EQUIVOCATION


# ---- folding it all anew ----


def test_trail_is_the_whole_log(tmp_path: Path, saving: None) -> None:
    world = grown()
    trip_votes(world, BUNDLE)
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    seen: list[tuple[int, int]] = []
    trail = follower.trail(lambda done, total: seen.append((done, total)))
    assert trail.events == tuple(world.events)
    assert digest(trail.state) == digest(world.state)
    assert seen == [(BUNDLE, world.state.size)]


def test_a_bent_state_of_ones_own_is_found_by_folding_anew(tmp_path: Path, saving: None) -> None:
    """Whoever wrote into the home: the roots fit, and so nothing but the whole log shows it."""
    world = grown()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    file = tmp_path / "state"
    bent = unpack(file.read_bytes()).replace(b'"assented":true', b'"assented":false', 1)
    file.write_bytes(pack(bent))
    world.stamp()
    follower = Follower(WorldLog(world), world.treaty, tmp_path)
    follower.update()
    assert not follower.doubted
    with pytest.raises(Refused, match="another state") as e:
        follower.trail()
    assert e.value.reason is Reason.TAMPERED
    assert str(file) in e.value.hint
    assert follower.doubted
    file.unlink()
    honest = Follower(WorldLog(world), world.treaty, tmp_path)
    honest.update()
    assert digest(honest.trail().state) == digest(world.state)


def test_a_trail_over_a_damaged_tile_doubts_nothing(tmp_path: Path) -> None:
    """Whoever keeps the log, or serves a copy of it, must not be able to silence a permit signer for good."""
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    follower.update()
    honest = log.entries
    log.entries = lambda start, end: [*honest(start, end)[:-1], b"{}"]  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="not those of its checkpoint"):
        follower.trail()
    assert not follower.doubted
    log.entries = honest  # type: ignore[method-assign]
    assert follower.trail().state.root() == world.state.root()


def test_a_trail_without_the_log_is_unavailable_and_doubts_nothing(tmp_path: Path) -> None:
    world = grown()
    log = WorldLog(world)
    follower = Follower(log, world.treaty)
    follower.update()
    log.away = True
    with pytest.raises(Unavailable):
        follower.trail()
    assert not follower.doubted


# ---- cost ----


def test_a_restart_costs_what_is_new(tmp_path: Path) -> None:
    """A home opens as fast as its state is read, not as its log is folded."""
    world = World()
    world.bind()
    trip_votes(world, 1000)
    began = time.process_time()
    Follower(WorldLog(world), world.treaty, tmp_path).update()
    folding = time.process_time() - began
    began = time.process_time()
    again = Follower(WorldLog(world), world.treaty, tmp_path)
    assert time.process_time() - began < folding / 4
    assert again.state.size == world.state.size
