"""Which steps need a permit: those between two heads that stand under the duty. An honest lab is never accused."""

from brakeline.core.brake import Phase
from brakeline.core.finding import Fault
from brakeline.core.grant import stance
from world import DAY, START, World


def test_an_exempt_run_that_paused_with_the_others_needed_no_permit() -> None:
    """Treaty 3.2, 5.1: it stands open while the brake is off, shuts with it, and owes no permit for either."""
    w = World(lift_delay='"0 s"')
    w.bind()
    run = w.opened("alpha", purpose="safety-research")
    assert stance(w.state, run.now) == "open"
    w.train(run, 3)
    assert w.head(run, "running").reason is None
    w.trip()
    assert stance(w.state, run.now) == "shut"
    w.train(run, 4)  # the step that was under way
    assert w.head(run, "running").reason is None
    assert w.head(run, "stopped").reason is None
    w.stamp()
    w.vote("lift", "alpha", "beta", "gamma")
    assert w.phase is Phase.CLEAR
    assert w.head(run, "opened").reason is None
    w.train(run, 9)
    assert w.head(run, "stopped").reason is None
    w.stamp()
    assert w.judged(run) == ()


def test_a_run_needs_permits_from_when_its_lab_was_bound_on() -> None:
    """Treaty 2.2, 5.1: nobody has to ask before; and no run leaves the treaty by the date of a pledge."""
    w = World()
    run = w.declare("alpha")
    w.head(run, "opened")
    w.train(run, 1)
    w.bind(expires=w.now + 100)
    assert w.head(run, "running").reason is None
    w.train(run, 3, w.permit(run))
    assert w.head(run, "running").reason is None
    w.stamp(100)
    assert not w.state.active
    w.train(run, 6)
    assert w.head(run, "running").reason is None
    w.stamp()
    (finding,) = w.judged(run)
    assert (finding.fault, finding.segment) == (Fault.NO_PERMIT, (3, 6))


def test_heads_that_come_late_accuse_nobody() -> None:
    """Treaty 4.5, 7.2: the log was down; what the run did under its permits is told when it is back, brake or not."""
    w = World()
    w.bind(expires=w.now + 10 * DAY)
    run = w.opened("alpha")
    permit = w.permit(run)
    w.trip()
    assert w.phase is Phase.TRIPPED
    for steps in (2, 4):
        w.train(run, steps, permit)
        assert w.head(run, "running").reason is None
    w.stamp()
    w.stamp(w.lapse)
    assert w.phase is Phase.PAUSED
    w.train(run, 6, permit)
    assert w.head(run, "running").reason is None
    assert w.head(run, "stopped").reason is None
    w.stamp()
    assert w.judged(run) == ()


def test_a_step_within_that_while_without_a_permit_is_found() -> None:
    """Treaty 5.1."""
    w = World(start=START)
    w.bind(expires=w.now + 10 * DAY)
    run = w.opened("alpha")
    w.train(run, 3, w.permit(run))
    w.train(run, 5)
    w.train(run, 6, w.permit(run))
    w.head(run, "running")
    w.stamp()
    (finding,) = w.judged(run)
    assert (finding.fault, finding.segment) == (Fault.NO_PERMIT, (3, 5))
