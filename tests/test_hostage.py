"""Nobody holds up a lift for ever: what is unsettled is held back alone then, and gets no permit until settled."""

from collections.abc import Callable

import pytest

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import events as ev
from vector import refused
from world import LABS, Live, World, bound, violation

GAP = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="test")


def lift(world: World, *parties: str) -> None:
    world.vote("lift", *(parties or LABS))


def unseen(run: Live) -> tuple[int, int]:
    """A segment that no inspector has replayed."""
    replayed = {part for x in run.examined.values() for part in x.segments}
    return next((i, i + 3) for i in range(0, run.steps, 3) if (i, i + 3) not in replayed)


def crashed(world: World, run: Live) -> None:
    """Inspectors cannot get any audit out: the recipe hangs, or its evidence crashes them."""


def half_seen(world: World, run: Live) -> None:
    """One inspector's cell shows the cheat; for the two others the recipe crashes before."""
    part = world.required("beta", run)[0]
    world.audit("beta", run, violation(segment=part))
    for inspector in ("gamma", "delta"):
        parts = tuple(p for p in world.required(inspector, run) if p != part)
        world.audit(inspector, run, GAP, segments=parts)


def disputed(world: World, run: Live) -> None:
    """Of the two who could refute a liar, one has no machine like the lab's (Treaty 7.7)."""
    world.audit("gamma", run, violation())
    world.audit("beta", run)
    world.audit("delta", run, environment="cd" * 32)


@pytest.mark.parametrize("how", [crashed, half_seen, disputed])
def test_what_is_unsettled_holds_up_a_lift_so_long_and_is_then_held_alone(how: Callable[[World, Live], None]) -> None:
    # Treaty 8.4, 5.7
    world = bound(lift_delay='"0 s"', lift_settle_within='"1 h"')
    bad, good = world.finished("alpha", name="bad"), world.finished("beta", name="good")
    for inspector in ("gamma", "delta"):
        world.audit(inspector, good)
    world.trip()
    assert world.phase is Phase.PAUSED
    how(world, bad)
    assert bad.settlement == "open"
    lift(world, "beta", "gamma", "delta")
    assert (world.phase, world.unmet()) == (Phase.PAUSED, ("audited",))
    world.stamp(3599)
    assert (world.phase, world.unmet()) == (Phase.PAUSED, ("audited",))
    world.stamp(1)
    assert (world.phase, world.unmet()) == (Phase.CLEAR, ())
    assert [e.held for e in world.of(ev.Cleared)] == [(bad.id,)]
    assert (bad.held, good.held) == (True, False)
    for run in (bad, good):
        assert world.head(run, "opened").reason is None
    world.permit(good)
    with refused(Reason.MISSING):
        world.permit(bad)
    world.stamp(100_000)
    with refused(Reason.MISSING):  # not by waiting
        world.permit(bad)
    settle(world, bad)
    assert (bad.settlement, bad.held) == ("settled", False)
    world.permit(bad)
    world.check()


def settle(world: World, run: Live) -> None:
    """Everybody looks in the declared environment, and finds nothing, or takes back what it found."""
    for inspector in ("beta", "gamma", "delta"):
        for a in run.open_allegations:
            if inspector in a.accusers:
                body = {"run": run.id, "fault": a.fault, "segment": a.segment}
                assert world.log(inspector, "retraction", body).reason is None
        assert world.audit(inspector, run).reason is None


def test_an_attested_job_that_nobody_can_ever_audit_holds_up_nobody() -> None:
    # Treaty 7.8, 4.5: its supervisor died, so it stays "opened" for ever; its permits lapse, and that is all.
    world = bound(lift_delay='"0 s"')
    run = world.opened("alpha", rung="attested")
    world.train(run, 4)
    world.head(run, "running")
    world.trip()
    lift(world)
    assert world.phase is Phase.TRIPPED
    world.stamp()
    world.stamp(world.state.ballot.lapse - world.now)
    assert world.phase is Phase.CLEAR
    assert (run.held, run.stopped) == (False, False)
    world.permit(run)
    world.check()


def test_a_run_that_was_tried_holds_up_nobody_and_gets_no_permit() -> None:
    # Treaty 5.7: its lab shows nothing that proves or disproves; the others go on, it waits.
    world = bound(lift_delay='"0 s"', audit_p_catch='"10 %"')
    run, other = world.finished("alpha", steps=12), world.finished("beta", steps=12)
    world.trip()
    for inspector in ("gamma", "delta"):
        world.audit(inspector, other)
        assert world.unmet() == ("audited",)
        world.audit(inspector, run, GAP, verdict="inconclusive")
    assert world.unmet() == ()
    lift(world)
    assert world.phase is Phase.CLEAR
    assert (run.held, other.held) == (True, False)
    for r in (other, run):
        assert world.head(r, "opened").reason is None
    world.permit(other)
    with refused(Reason.MISSING):
        world.permit(run)
    world.stamp()
    for inspector in ("gamma", "delta"):
        world.audit(inspector, run)
    permit = world.permit(run)
    # Settled once, it waits for nothing any more.
    world.train(run, 14, permit)
    world.head(run, "running")
    assert run.settlement == "open"
    world.permit(run)
    world.check()


def test_the_time_to_settle_runs_from_the_pause_on() -> None:
    # Treaty 8.4: a lift that is withheld does not start it again, and a new trip does.
    world = bound(lift_delay='"2 h"', lift_settle_within='"1 h"', audit_p_catch='"10 %"')
    run = world.finished("alpha", steps=30)
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    world.trip()
    paused = world.state.ballot.paused
    lift(world)
    world.stamp(1800)
    world.audit("delta", run, violation(segment=unseen(run)))
    assert (world.phase, world.state.ballot.paused) == (Phase.PAUSED, paused)
    world.stamp(1800)
    assert world.phase is Phase.LIFTING
    world.stamp(600)
    world.vote("lift", "delta")
    world.vote("trip", "alpha", "beta")
    assert (world.phase, world.state.ballot.paused) == (Phase.PAUSED, paused + 4200)
    lift(world)
    world.stamp(3599)
    assert world.unmet() == ("audited",)
    world.stamp(1)
    assert world.phase is Phase.LIFTING
    world.check()


def test_without_that_condition_nothing_is_held() -> None:
    # Treaty 8.2
    world = bound(lift_conditions='["stopped"]', lift_delay='"0 s"')
    run = world.finished("alpha")
    world.trip()
    lift(world)
    assert (world.phase, run.held) == (Phase.CLEAR, False)
    world.check()


def test_only_runs_that_need_a_permit_are_held() -> None:
    # Treaty 5.7, 8.4: of a lab that is not bound, or for an exempt purpose, nothing can be held back.
    world = World(lift_delay='"0 s"', lift_settle_within='"1 h"')
    world.bind("beta", "gamma", "delta")
    theirs = world.opened("alpha", name="theirs")
    research = world.opened("beta", name="research", purpose="safety-research")
    covered = world.opened("beta", name="covered")
    for run in (theirs, research, covered):
        world.train(run, 3)
        assert world.head(run, "stopped").reason is None
    world.vote("trip", "beta", "gamma")
    lift(world, "beta", "gamma", "delta")
    world.stamp(3600)
    assert world.phase is Phase.CLEAR
    assert [r.held for r in (theirs, research, covered)] == [False, False, True]
    assert [e.held for e in world.of(ev.Cleared)] == [(covered.id,)]
    world.check()
