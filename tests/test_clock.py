"""The log's clock: stamps, their time and their beacons, forks, and the trees that are still known."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import sha256
from brakeline.core.errors import Misuse, Reason
from brakeline.core.run import run_seed
from brakeline.core.state import events as ev
from brakeline.core.state.clock import LATEST
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from world import LABS, START, Live, World, bound


def test_time_is_what_the_log_records_of_its_witnesses() -> None:
    # Treaty 6.2
    world = World()
    assert world.state.time == START
    world.append(world.checkpoint(now=START + 7))
    assert world.state.time == START + 7
    assert world.append(world.checkpoint(now=START + 3)).reason is None
    assert world.state.time == START + 7  # it never goes back
    assert [s.time for s in world.of(ev.Stamped)] == [START, START + 7, START + 7]
    world.check()


def test_a_stamp_needs_the_log_and_its_witnesses() -> None:
    # Treaty 6.1
    world = World()
    assert world.append(world.checkpoint(by=LABS[:2])).reason is Reason.NO_QUORUM
    assert world.append(world.checkpoint(by=LABS)).reason is None
    note = world.checkpoint()
    lines = note.split(b"\n")
    assert world.append(b"\n".join([*lines[:4], *lines[5:]])).reason is Reason.MISSING
    assert world.append(note.replace(b"log.example", b"log.elsewhere")).reason is Reason.FOREIGN
    assert world.append(world.checkpoint(size=world.state.size + 9, root=bytes(32))).reason is Reason.ROLLBACK
    assert len(world.of(ev.Stamped)) == 2
    world.check()


def test_a_stamp_covers_no_fewer_entries_than_the_one_before() -> None:
    # Treaty 6.2: a beacon drawn anew from an older tree would be a second try.
    world = bound()
    old, older = world.checkpoint(), world.checkpoint(size=4)
    world.stamp(1)
    assert world.state.clock.last is not None
    assert world.state.clock.last.size == 9
    time = world.state.time
    for late in (world.checkpoint(size=8, now=time + 100), older):
        assert world.append(late).reason is Reason.ROLLBACK
    assert world.state.time == time
    assert world.append(old).reason is None  # as many: time may pass where nothing is said
    assert world.append(world.checkpoint(size=9, now=time + 5)).reason is None
    assert world.state.time == time + 5
    world.check()


def test_a_time_that_no_calendar_shows_is_none() -> None:
    world = World()
    assert world.append(world.checkpoint(now=LATEST + 1)).reason is Reason.MALFORMED
    assert world.state.time == START
    assert world.append(world.checkpoint(now=LATEST)).reason is None
    assert world.state.time == LATEST
    world.check()


def test_another_history_under_a_quorum_is_a_fork() -> None:
    world = bound()
    lie = world.checkpoint(size=3, root=sha256(b"another history"))
    before = world.state
    world.now += 100
    assert world.append(lie).reason is Reason.EQUIVOCATION
    assert [e.note for e in world.of(ev.Forked)] == [lie]
    assert world.state.clock.forks == 1
    assert (world.state.time, world.state.clock.last) == (before.time, before.clock.last)
    assert world.append(lie).reason is Reason.EQUIVOCATION
    assert world.state.clock.forks == 2
    world.check()


def test_a_run_is_seeded_by_the_first_stamp_after_its_declaration() -> None:
    # Treaty 7.1, 7.3: neither the seed nor a sample's beacon exists when the run commits.
    world = bound()
    before = world.checkpoint()
    world.log("alpha", "declaration", world.declaration())
    (id_,) = world.state.runs.by_id
    run = Live(world, id_)
    world.append(before)
    assert run.seed == b""
    world.stamp()
    first = world.state.clock.last
    world.stamp()
    assert first is not None
    assert run.seed == run_seed(run.id, first.beacon)
    # Neither the keeper's other lines nor an order of its choice make another beacon.
    text, _, lines = world.entries[first.index].partition(b"\n\n")
    junk = "\u2014 nobody " + b64encode(bytes(72)).decode() + "\n"
    again = World()
    for data in world.entries[1 : first.index]:
        again.append(data)
    again.append(text + b"\n\n" + lines + junk.encode())
    assert again.state.clock.last == first
    world.check()


def test_a_head_keeps_its_first_stamp_and_no_later_one() -> None:
    # Treaty 7.3
    world = bound()
    run = world.declare("alpha")
    before = world.checkpoint()
    world.head(run, "opened")
    world.append(before)  # it does not cover the head
    assert (run.heads[-1].stamp, run.heads[-1].beacon) == (-1, b"")
    stamp = world.stamp()
    beacon = run.heads[-1].beacon
    assert run.heads[-1].stamp == stamp.index
    world.train(run, 2)
    world.head(run, "running")
    world.stamp()
    assert (run.heads[0].stamp, run.heads[0].beacon) == (stamp.index, beacon)
    assert run.heads[1].beacon not in (b"", beacon)
    world.check()


@given(st.lists(st.sampled_from(["say", "stamp", "old stamp", "rubbish"]), max_size=30))
def test_every_tree_since_the_stamp_before_the_last_is_known(what: list[str]) -> None:
    world = World()
    for x in what:
        if x == "say":
            world.vote("trip", "alpha")
        elif x == "stamp":
            world.stamp()
        elif x == "old stamp":
            last = world.state.clock.last
            assert last is not None
            world.append(world.checkpoint(size=(last.size + world.state.size) // 2))
        else:
            world.append(b"?")
    clock, leaves = world.state.clock, [leaf_hash(e) for e in world.entries]
    sizes = [e.size for e in world.of(ev.Stamped)]
    assert sizes == sorted(sizes)
    assert (clock.mark.size, clock.base.size) == (sizes[-1], sizes[-2] if len(sizes) > 1 else 0)
    for size in range(clock.base.size, clock.size + 1):
        assert world.state.root(size) == tree_root(leaves[:size])
    assert world.state.root() == tree_root(leaves)
    assert len(clock.leaves) == clock.size - clock.base.size
    for size in (clock.base.size - 1, clock.size + 1):
        with pytest.raises(Misuse):
            world.state.root(size)
    world.check()
