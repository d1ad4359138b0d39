"""Trips and lifts: what each takes, when every permit has lapsed, and that nobody holds up the others for ever."""

import pytest

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import events as ev
from brakeline.core.state.ballot import Upheld
from world import LABS, PARTIES, Live, World, bound, violation

GAP = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="test")


def lift(world: World, *parties: str) -> None:
    world.vote("lift", *(parties or LABS))


def unseen(run: Live) -> tuple[int, int]:
    """A segment that no inspector has replayed."""
    replayed = {part for x in run.examined.values() for part in x.segments}
    return next((i, i + 3) for i in range(0, run.steps, 3) if (i, i + 3) not in replayed)


def audited_world(**changes: str) -> tuple[World, Live]:
    world = bound(**changes)
    return world, world.finished("alpha")


# --- trips


def test_votes_trip_the_brake() -> None:
    # Treaty 4.1, 5.5
    world = bound()
    world.vote("trip", "alpha")
    assert world.phase is Phase.CLEAR
    world.vote("trip", "alpha")  # again: still one party
    assert world.phase is Phase.CLEAR
    world.vote("trip", "delta")
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    assert world.state.ballot.cause == ev.ByVotes(("alpha", "delta"))
    (tripped,) = world.of(ev.Tripped)
    assert (tripped.cause, tripped.epoch, tripped.time) == (ev.ByVotes(("alpha", "delta")), 1, world.now)
    world.check()


def test_votes_expire_while_they_wait() -> None:
    # Treaty 4.1
    world = bound()
    world.vote("trip", "alpha", expires=world.now + 5)
    world.stamp(5)
    assert world.voters("trip") == frozenset()
    world.vote("trip", "beta")
    assert world.phase is Phase.CLEAR
    world.vote("trip", "gamma")
    assert world.phase is not Phase.CLEAR
    world.check()


def test_a_later_vote_replaces_an_earlier_one() -> None:
    world = bound()
    world.vote("trip", "alpha")
    world.vote("trip", "alpha", expires=world.now + 1)  # the only way to take it back
    world.stamp()
    world.vote("trip", "beta")
    assert world.phase is Phase.CLEAR
    world.check()


def test_a_trip_waits_for_the_runs_to_stop() -> None:
    # Treaty 4.5
    world = bound()
    run = world.opened("alpha")
    world.trip()
    assert world.phase is Phase.TRIPPED
    world.head(run, "running")
    assert world.phase is Phase.TRIPPED
    world.head(run, "stopped")
    assert world.phase is Phase.PAUSED
    world.check()


def test_a_trip_ends_when_every_permit_must_have_lapsed() -> None:
    # Treaty 4.5: the permit of a signer on a view not yet stale, of a late stamp, at its longest, by a clock behind.
    world = bound()
    run = world.opened("alpha")
    assert world.state.ballot.lapse == -1
    world.trip()
    assert world.state.ballot.lapse == -1
    world.stamp()
    assert world.state.ballot.lapse == world.now + world.lapse
    world.stamp(world.lapse - 1)
    assert world.phase is Phase.TRIPPED
    assert world.unmet() == ("stopped",)
    world.stamp(1)
    assert world.phase is Phase.PAUSED
    # Who never logs a stop cannot block the lift, and may still say how far it came and that it stopped.
    assert world.unmet() == ()
    world.train(run, 1)
    assert world.head(run, "running").reason is None
    assert world.head(run, "stopped").reason is None
    assert world.head(run, "opened").reason is Reason.PAUSED
    world.check()


def test_permits_lapse_by_the_first_stamp_over_the_trip() -> None:
    # Treaty 4.5: the log's time at the trip may be long past, if its keeper wills; what counts is when it was seen.
    world = bound()
    world.opened("alpha")
    world.now += 500  # no stamp: the trip looks 500 s older than it is
    before = world.checkpoint(now=world.now)
    world.vote("trip", "alpha", "beta", not_before=world.now - 500)
    assert (world.phase, world.state.ballot.brake.since) == (Phase.TRIPPED, world.now - 500)
    world.append(before)  # it does not cover the trip
    assert world.phase is Phase.TRIPPED
    assert world.state.ballot.lapse == -1
    world.now += 200
    world.append(world.checkpoint(size=world.state.ballot.tripped))
    assert world.state.ballot.lapse == -1
    world.append(world.checkpoint(size=world.state.ballot.tripped + 1))
    first = world.now + world.lapse
    assert world.state.ballot.lapse == first
    world.stamp(10)
    assert world.state.ballot.lapse == first  # the first, and no later one
    world.stamp(first - world.now - 1)
    assert world.phase is Phase.TRIPPED
    world.stamp(1)
    assert world.phase is Phase.PAUSED
    world.check()


# --- lifts


def test_the_brake_lifts_by_quorum_after_its_delay() -> None:
    # Treaty 8.1, 8.3
    world = bound()
    world.trip()
    lift(world, "alpha", "beta")
    assert world.phase is Phase.PAUSED
    lift(world, "delta")
    assert world.phase is Phase.LIFTING
    world.stamp(1)
    assert world.phase is Phase.LIFTING
    world.stamp(1)
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 1)
    # Nothing said before the release counts again.
    assert world.voters("lift") == frozenset()
    assert [e.parties for e in world.of(ev.Lifting)] == [("alpha", "beta", "delta")]
    assert [e.held for e in world.of(ev.Cleared)] == [()]
    world.check()


def test_votes_to_lift_before_the_trip_do_not_count() -> None:
    # Treaty 8.1
    world = bound()
    lift(world, *PARTIES)
    world.trip()
    assert world.phase is Phase.PAUSED
    assert world.vote("lift", "alpha", epoch=0)[0].reason is Reason.REPLAYED
    assert world.vote("lift", "alpha", epoch=2)[0].reason is Reason.REPLAYED
    world.check()


def test_each_condition_holds_the_brake() -> None:
    # Treaty 8.2
    world = bound(lift_conditions='["stopped", "audited", "readings"]', lift_delay='"0 s"')
    run = world.opened("alpha")
    world.train(run, 6, world.permit(run))
    world.read("lineage", 1.0, "alpha", "beta", expires=world.now + 500)
    assert world.phase is Phase.TRIPPED
    lift(world)
    # Of a run that has not stopped, no more than the opening is committed, so nothing waits for an audit.
    assert world.unmet() == ("stopped", "readings")
    world.head(run, "stopped")
    assert world.unmet() == ("audited", "readings")
    world.stamp()
    assert world.phase is Phase.PAUSED
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    assert world.unmet() == ("readings",)
    world.read("lineage", 0.1, "alpha")
    assert world.phase is Phase.CLEAR  # without delay, released at once
    world.check()


@pytest.mark.parametrize(("conditions", "unmet"), [('["stopped"]', ("stopped",)), ('["audited"]', ()), ("[]", ())])
def test_no_condition_holds_that_the_treaty_does_not_state(conditions: str, unmet: tuple[str, ...]) -> None:
    # Treaty 8.2: a run of a lab that joins in the pause is running.
    world = World(lift_conditions=conditions)
    world.bind("beta", "gamma", "delta")
    world.opened("alpha")
    world.vote("trip", "beta", "gamma")
    world.bind("alpha")
    assert (world.phase, world.unmet()) == (Phase.PAUSED, unmet)
    world.check()


def test_a_condition_that_fails_again_withholds_the_lift() -> None:
    # Treaty 8.3
    world = bound(lift_delay='"60 s"', audit_p_catch='"10 %"')
    run = world.finished("alpha", steps=30)
    world.trip()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    lift(world)
    assert world.phase is Phase.LIFTING
    part = unseen(run)
    world.audit("delta", run, violation(segment=part))
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    assert len(world.of(ev.Withheld)) == 1
    assert world.unmet() == ("audited",)
    for inspector in ("beta", "gamma"):
        assert world.phase is Phase.PAUSED
        world.audit(inspector, run, verdict="partial", segments=(part,))
    assert world.phase is Phase.LIFTING
    world.stamp(60)
    assert world.phase is Phase.CLEAR
    world.check()


def test_votes_to_lift_that_expire_withhold_the_lift() -> None:
    # Treaty 8.3
    world = bound(lift_delay='"60 s"')
    world.trip()
    world.vote("lift", *LABS, expires=world.now + 10)
    assert world.phase is Phase.LIFTING
    world.stamp(9)
    assert world.phase is Phase.LIFTING
    world.stamp(1)
    assert world.phase is Phase.PAUSED
    world.check()


def test_a_trip_while_lifting_begins_a_new_epoch() -> None:
    # Treaty 5.5, 8.3
    world = bound(lift_delay='"60 s"')
    world.trip()
    lift(world, *PARTIES)
    world.vote("trip", "alpha", "delta")
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 2)
    world.stamp(100)
    assert world.phase is Phase.PAUSED
    world.check()


def test_who_votes_to_trip_takes_back_its_vote_to_lift() -> None:
    # Treaty 8.1: nobody stands for both.
    world = bound(lift_delay='"60 s"')
    world.trip()
    lift(world)
    world.vote("trip", "alpha")
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    assert len(world.of(ev.Withheld)) == 1
    assert (world.voters("trip"), world.voters("lift")) == ({"alpha"}, {"beta", "gamma"})
    lift(world, "alpha")
    assert world.phase is Phase.LIFTING
    assert world.voters("trip") == frozenset()
    world.check()


def test_votes_to_trip_again_wait_for_the_lift() -> None:
    # While it is on, the brake is on; who votes to trip then holds the next lift.
    world = bound()
    world.trip()
    world.vote("trip", "gamma", "delta")
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    lift(world, "alpha", "beta")
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    lift(world, "gamma")  # it gives up its vote to trip
    assert (world.phase, world.state.epoch) == (Phase.LIFTING, 1)
    assert world.voters("trip") == {"delta"}
    world.check()


# --- what answers what


def test_readings_that_stood_when_the_lift_was_voted_do_not_trip_again() -> None:
    # Else a brake tripped by readings could be lifted only when they expire, condition or not.
    world = bound()
    world.read("lineage", 2.0, "alpha", "beta")
    lift(world)
    assert world.phase is Phase.LIFTING
    world.read("lineage", 2.0, "alpha")  # one new one is a claim
    assert world.phase is Phase.LIFTING
    world.read("lineage", 2.0, "beta")  # two are not
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 2)
    lift(world)
    world.stamp(2)
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 2)
    world.check()


def test_a_finding_upheld_during_the_pause_does_not_trip_at_the_lift() -> None:
    world, run = audited_world()
    world.trip()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert (world.phase, bool(run.bar)) == (Phase.PAUSED, True)
    lift(world)
    assert (world.phase, world.state.epoch) == (Phase.LIFTING, 1)
    world.check()


def test_a_finding_upheld_during_the_delay_trips_whatever_was_upheld_before() -> None:
    # Treaty 4.4, 8.3: one that the lift has answered stands in the way of none that it has not.
    world = bound(lift_delay='"60 s"', lift_settle_within='"30 s"')
    first, second = world.finished("alpha", name="first"), world.finished("alpha", name="second")
    world.trip()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, first, violation())
    answered = world.state.ballot.upheld
    assert [x.cause.run for x in answered] == [first.id]
    world.stamp(30)
    lift(world)
    assert world.phase is Phase.LIFTING
    world.audit("beta", second, violation())
    assert world.phase is Phase.LIFTING  # what is only alleged holds the run alone (Treaty 8.4)
    world.audit("gamma", second, violation())
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 2)
    assert world.state.ballot.cause == ev.ByFinding(second.id, Fault.REPLAY_MISMATCH, (0, 3))
    assert all(isinstance(x, Upheld) for x in answered)
    world.check()


def test_a_finding_that_ends_what_held_the_lift_is_answered_by_it_and_the_next_is_not() -> None:
    # Treaty 4.4, 8.3: the votes to lift are in; upholding what was alleged settles the run, and so lifts.
    world = bound(lift_delay='"60 s"', lift_settle_within='"30 s"')
    first, second = world.finished("alpha", name="first"), world.finished("alpha", name="second")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, second)
    world.trip()
    world.audit("beta", first, violation())
    lift(world)
    assert world.phase is Phase.PAUSED
    outcome = world.audit("gamma", first, violation())
    assert (world.phase, world.state.epoch) == (Phase.LIFTING, 1)
    assert world.state.ballot.answered == outcome.index == world.state.ballot.upheld[0].entry
    world.stamp(30)
    for inspector in ("beta", "gamma"):
        assert (world.phase, world.state.epoch) == (Phase.LIFTING, 1)
        world.audit(inspector, second, violation(Fault.STEP_ORDER, (1, 2)))
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 2)
    world.check()


def test_a_finding_trips_once() -> None:
    # Treaty 4.4
    world, run = audited_world()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    lift(world)
    world.stamp(2)
    assert world.phase is Phase.CLEAR
    world.audit("delta", run, violation())
    assert (world.phase, world.state.epoch) == (Phase.CLEAR, 1)
    world.check()
