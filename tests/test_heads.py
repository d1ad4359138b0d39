"""Heads: what a lab commits to stays committed; where a run opens, stops and goes on; which heads may be audited."""

from time import process_time
from typing import Any

import pytest
from msgspec.structs import replace

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.state import apply, labs
from brakeline.core.state import events as ev
from brakeline.core.state.labs import MAX_SEAMS
from brakeline.core.transcript import Head
from world import DAY, STEP_FLOP, Live, World, bound, plain

DIGEST = "ab" * 32


def test_a_run_opens_before_it_runs() -> None:
    # Treaty 7.2
    world = bound()
    run = world.declare("alpha")
    for status in ("running", "stopped", "ended"):
        assert world.head(run, status).reason is Reason.MISSING
    world.train(run, 1)
    assert world.head(run, "opened").reason is Reason.MISSING
    assert world.head(run, "opened", steps=0).reason is None
    assert world.head(run, "running").reason is None
    assert run.steps == 1
    (first, second) = world.heads(run)
    assert (first.head.status, second.head.steps, second.concerned, second.epoch) == ("opened", 1, True, 0)
    world.check()


def test_only_its_lab_reports_a_run() -> None:
    world = bound()
    run = world.declare("alpha")
    assert world.log("beta", "head", world.head_of(run, "opened")).reason is Reason.FOREIGN
    assert world.log("delta", "head", world.head_of(run, "opened")).reason is Reason.WRONG_ROLE
    other = world.head_of(run, "opened", run=DIGEST)
    assert world.log("alpha", "head", other).reason is Reason.UNDECLARED
    assert run.head is None
    world.check()


def test_heads_never_contradict_each_other() -> None:
    # Attacks: what was committed once stays the run's past.
    world = bound()
    run = world.opened("alpha")
    world.train(run, 6)
    assert world.head(run, "running").reason is None
    assert world.head(run, "running").reason is Reason.DUPLICATE  # it says nothing new
    for changes in ({"steps": 5}, {"root": DIGEST}, {"state": DIGEST}):
        assert world.head(run, "running", **changes).reason is Reason.EQUIVOCATION
    world.leaves[run.id] = world.leaves[run.id][:4]
    world.train(run, 5)
    assert world.head(run, "stopped").reason is Reason.EQUIVOCATION
    assert len(run.heads) == 2
    assert world.state.members.equivocators == frozenset()  # a fault of the run, for inspectors to find
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 31, "flop": str(31 * STEP_FLOP)},
        {"steps": 31},
        {"steps": -1},
        {"steps": 2**53 - 1},
        {"flop": "1"},
        {"flop": "06"},
        {"flop": "٣"},
        {"root": "x"},
        {"state": ""},
        {"status": "paused"},
    ],
)
def test_a_head_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    run = world.opened("alpha")
    body = {**plain(world.head_of(run, "running")), **changes}
    assert world.wrong("alpha", "head", body).reason is Reason.MALFORMED
    assert len(run.heads) == 1
    world.check()


def test_a_run_that_stopped_goes_on_where_it_stopped() -> None:
    # Treaty 4.5, attack A-30: no step lies between a stop and the opening after it.
    world = bound()
    run = world.finished("alpha", steps=6)
    for status in ("running", "stopped", "ended"):
        assert world.head(run, status).reason is Reason.REPLAYED
    world.train(run, 8)
    assert world.head(run, "opened").reason is Reason.PROHIBITED
    assert world.head(run, "opened", steps=6).reason is None
    assert world.head(run, "opened", steps=6).reason is None
    assert run.seams == (6,)
    assert world.head(run, "ended").reason is None
    assert world.head(run, "opened").reason is Reason.REPLAYED
    world.check()


def test_what_has_stopped_stays_stopped_while_the_brake_is_on() -> None:
    # Treaty 4.5: else one lab could hold up every lift by opening its run again.
    world = bound(lift_delay='"60 s"')
    run, other = world.finished("alpha"), world.opened("beta")
    world.trip()
    assert world.phase is Phase.TRIPPED
    assert world.head(run, "opened").reason is Reason.PAUSED
    world.train(other, 2)
    assert world.head(other, "running").reason is None  # the news takes time
    assert world.head(other, "opened").reason is Reason.PAUSED
    assert world.head(other, "stopped").reason is None
    world.stamp()
    for inspector, its in (("beta", run), ("gamma", run), ("alpha", other), ("gamma", other)):
        world.audit(inspector, its)
    for phase in (Phase.PAUSED, Phase.LIFTING):
        assert world.phase is phase
        assert world.head(run, "opened").reason is Reason.PAUSED
        world.vote("lift", "alpha", "beta", "gamma")
    world.stamp(60)
    assert world.phase is Phase.CLEAR
    assert world.head(run, "opened").reason is None
    world.check()


def test_the_brake_does_not_concern_a_run_that_is_not_covered() -> None:
    # Treaty 3.1, 4.5
    world = bound()
    small = world.opened("alpha", steps=10)
    world.trip()
    assert world.phase is Phase.PAUSED
    world.train(small, 5)
    assert world.head(small, "running").reason is None
    assert world.head(small, "opened").reason is None
    assert not any(e.concerned for e in world.of(ev.Committed))
    world.check()


def test_a_run_that_joins_in_a_pause_is_stopped_too() -> None:
    # Treaty 3.7, 4.5: whether by a decision or because its lab is bound now.
    world = World()
    world.bind("beta", "gamma", "delta", expires=world.now + 9 * DAY)
    theirs, small = world.opened("alpha"), world.opened("beta", steps=5)
    world.vote("trip", "beta", "gamma")
    assert world.phase is Phase.PAUSED
    for run in (theirs, small):
        world.train(run, 2)
        assert world.head(run, "running").reason is None
    world.bind("alpha")
    for party in ("beta", "gamma", "delta"):
        world.log(party, "designation", {"run": small.id, "tier": "covered"})
    assert world.unmet() == ("stopped", "audited")
    for run in (theirs, small):
        world.train(run, 3)
        assert world.head(run, "running").reason is None  # it is late, and says so
        assert world.head(run, "stopped").reason is None
        assert world.head(run, "opened").reason is Reason.PAUSED
    assert world.unmet() == ("audited",)
    world.check()


def status(world: World, run: Live, index: int) -> Reason | None:
    """What becomes of an audit of the head in entry `index`."""
    body: dict[str, Any] = {
        "run": run.id,
        "head": index,
        "beacon": next(e.entry for e in world.of(ev.Stamped) if e.size > index),
        "ticket": "",
        "segments": (),
        "environment": DIGEST,
        "flop": "0",
        "findings": (),
        "verdict": "partial",
    }
    return world.log("beta", "audit", body).reason


def test_no_head_is_pushed_out_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Treaty 7.10: else a lab would log heads until the one that it fears is gone.
    monkeypatch.setattr(labs, "MAX_HEADS", 8)
    monkeypatch.setattr(labs, "_PRUNE", 4)
    world = bound(audit_within='"10 d"')
    run = world.opened("alpha", steps=30)
    for steps in range(1, 8):
        world.train(run, steps)
        assert world.head(run, "running").reason is None
        world.stamp()
    world.train(run, 8)
    assert world.head(run, "running").reason is Reason.ALLOWANCE
    assert status(world, run, world.heads(run)[0].entry) is None
    world.stamp(10 * DAY - 4)
    assert world.head(run, "running").reason is None  # the oldest may not be audited any more
    assert 0 < len(run.kept) < 8
    world.check()


def test_a_run_with_many_heads_may_still_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labs, "MAX_HEADS", 2)
    world = bound()
    run = world.opened("alpha")
    for steps in (1, 2):
        world.train(run, steps)
        outcome = world.head(run, "running")
    assert outcome.reason is Reason.ALLOWANCE
    assert world.head(run, "stopped").reason is None
    assert world.head(run, "opened").reason is Reason.ALLOWANCE
    world.check()


def test_heads_may_be_audited_so_long() -> None:
    # Treaty 7.10: and the last one for ever.
    world = World(audit_within='"10 d"')
    world.bind(expires=world.now + 900 * DAY)
    run = world.opened("alpha")
    world.stamp()
    first = world.heads(run)[0].entry
    world.stamp(20 * DAY)
    assert status(world, run, first) is None  # it is the last one
    assert world.head(run, "running").reason is None
    world.stamp()
    assert status(world, run, first) is Reason.EXPIRED
    second = world.heads(run)[1].entry
    assert world.head(run, "stopped").reason is None
    world.stamp(10 * DAY - 1)
    assert status(world, run, second) is None
    world.stamp()
    last = world.heads(run)[2].entry
    assert [status(world, run, x) for x in (first, second, last)] == [Reason.EXPIRED, Reason.EXPIRED, None]
    world.stamp(200 * DAY)
    assert status(world, run, last) is None
    world.check()


def test_a_run_opens_so_many_times() -> None:
    world = bound(permit_allowance='"1 EFLOP"')
    run = world.opened("alpha", steps=MAX_SEAMS + 2)
    world.train(run, 1)
    full = replace(run.now, seams=tuple(range(1, MAX_SEAMS + 1)))
    world.state = replace(world.state, runs=world.state.runs.put(world.treaty, full))
    assert world.head(run, "running").reason is None
    assert world.head(run, "opened").reason is Reason.ALLOWANCE
    assert world.head(run, "stopped").reason is None


def test_a_run_that_is_full_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labs, "MAX_HEADS", 2048)
    world = World(**{"budget.rest": "10000"})
    world.bind()
    run = world.opened("alpha", steps=10_000)

    def head(steps: int) -> Head:
        flop = str(steps * STEP_FLOP)
        return Head(run=run.id, steps=steps, root=DIGEST, state=DIGEST, flop=flop, status="running")

    def cost() -> float:
        data, times = world.statement("alpha", "head", head(9000)), []
        for _ in range(20):
            begun = process_time()
            apply(world.state, data)
            times.append(process_time() - begun)
        return min(times)

    few = cost()
    for steps in range(1, 2100):
        world.log("alpha", "head", head(steps))
    assert len(run.kept) == 2048
    assert cost() < 3 * few
