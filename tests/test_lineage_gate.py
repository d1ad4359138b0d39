"""The lineage gate: a successor trains once a safety reading of all that its parents made lets it (Treaty 5.8, 3.5)."""

import pytest

from brakeline.core.brake import Phase
from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason
from brakeline.core.grant import unread_parents
from brakeline.core.state import events as ev
from vector import refused
from world import Live, World, bound, model

TWO = ("alpha", "beta")
OTHER = sha256(b"other inputs").hex()


def parent_and_child(**changes: str) -> tuple[World, Live, Live]:
    world = bound(**changes)
    parent = world.opened("alpha", name="parent")
    return world, parent, world.opened("beta", name="child", parents=(parent.id,))


def waits_for(world: World, run: Live) -> tuple[str, ...]:
    return unread_parents(world.state, run.now)


def test_a_successor_trains_once_its_parent_has_a_safety_reading() -> None:
    # Treaty 5.8
    world, parent, child = parent_and_child()

    def permitted() -> bool:
        if not waits_for(world, child):
            world.grant(world.request(child))
            return True
        with refused(Reason.MISSING):
            world.grant(world.request(child))
        return False

    world.grant(world.request(parent))  # descends from nothing
    world.read("lineage", 0.1, *TWO, subject=model("m"))
    assert not permitted()  # nobody said that this is what the parent made
    assert world.edge("alpha", "m", run=parent.id).reason is None
    assert permitted()
    world.edge("alpha", "n", run=parent.id)
    assert permitted()  # told after the child was declared: its lab could not know, and the parent's could starve it
    world.check()


def test_a_successor_waits_for_every_model_that_its_parent_had_made() -> None:
    # Treaty 5.8: neither the lab's own word nor one of other inputs is a reading, and one that has expired is none.
    world = bound()
    parent = world.opened("alpha", name="parent")
    for name in ("m", "n"):
        world.edge("alpha", name, run=parent.id)
    world.read("lineage", 0.1, *TWO, subject=model("m"))
    child = world.opened("beta", name="child", parents=(parent.id,))
    assert waits_for(world, child) == (parent.id,)
    world.read("lineage", 0.1, "alpha", subject=model("n"))
    assert waits_for(world, child) == (parent.id,)
    world.read("lineage", 9.0, "gamma", subject=model("n"), inputs=OTHER)
    assert waits_for(world, child) == (parent.id,)
    world.read("lineage", 0.1, "beta", subject=model("n"), expires=world.now + 50)
    assert waits_for(world, child) == ()
    world.stamp(50)
    assert waits_for(world, child) == (parent.id,)
    world.check()


def test_an_incomplete_safety_reading_reassures_nobody() -> None:
    # Treaty 5.8
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", 0.0, *TWO, subject=model("m"), complete=False)
    assert (world.phase, waits_for(world, child)) == (Phase.CLEAR, (parent.id,))
    world.read("lineage", 0.0, *TWO, subject=model("m"))
    assert waits_for(world, child) == ()
    world.check()


@pytest.mark.parametrize(("lower", "alarms"), [(1.0, ()), (0.0, ("rate",))])
def test_a_safety_reading_with_an_alarm_or_at_the_threshold_stops_successors(
    lower: float, alarms: tuple[str, ...]
) -> None:
    # Treaty 5.8
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", lower, *TWO, subject=model("m"), alarms=alarms)
    assert world.phase is not Phase.CLEAR
    assert waits_for(world, child) == (parent.id,)
    world.check()


def test_an_edge_tells_the_same_story_as_the_declaration() -> None:
    # Treaty 3.5
    world, parent, child = parent_and_child()
    assert world.edge("beta", "m", run=parent.id).reason is Reason.FOREIGN
    assert world.edge("alpha", "m", run="ab" * 32).reason is Reason.UNDECLARED
    assert world.edge("alpha", "m", run=parent.id, recipe="x").reason is Reason.MALFORMED
    assert world.edge("delta", "m").reason is Reason.WRONG_ROLE
    assert world.edge("alpha", "m", run=parent.id).reason is None
    other = world.opened("gamma", name="other")
    assert world.edge("gamma", "o", run=other.id).reason is None
    assert world.edge("beta", "c", run=child.id).reason is Reason.TAMPERED
    assert world.edge("beta", "c", "o", run=child.id).reason is Reason.TAMPERED
    assert world.edge("beta", "c", "m", "o", run=child.id).reason is Reason.TAMPERED
    before = "made before the treaty"
    # Told later, it could be of a run that this one does not descend from.
    assert world.edge("beta", "c", "m", before, run=child.id).reason is Reason.UNDECLARED
    assert world.edge("beta", before).reason is None
    assert world.edge("beta", "c", "m", before, run=child.id).reason is None
    assert [name for _, name in world.state.runs.models[child.id]] == [model("c")]
    assert [(e.issuer, e.child, e.run) for e in world.of(ev.Told)] == [
        ("alpha", model("m"), parent.id),
        ("gamma", model("o"), other.id),
        ("beta", model(before), ""),
        ("beta", model("c"), child.id),
    ]
    world.check()


def test_nobody_takes_a_model_from_who_made_it() -> None:
    # Treaty 3.5: each tells its own story of a model, once; another's changes nothing for the parent and its child.
    world, parent, child = parent_and_child()
    other = world.opened("gamma", name="other")
    assert world.edge("gamma", "m", run=other.id).reason is None  # before its maker told of it
    made = world.edge("alpha", "m", run=parent.id)
    assert made.reason is None
    assert world.edge("alpha", "m", run=parent.id).reason is None  # again
    assert world.edge("gamma", "m").reason is Reason.EQUIVOCATION
    third = world.opened("gamma", name="third")
    assert world.edge("gamma", "m", run=third.id).reason is Reason.EQUIVOCATION
    assert world.state.runs.models[parent.id] == ((made.index, model("m")),)
    assert {who: c.run for who, c in world.state.runs.told[model("m")].items()} == {
        "gamma": other.id, "alpha": parent.id,
    }  # fmt: skip
    assert world.edge("beta", "c", "m", run=child.id).reason is None
    assert waits_for(world, child) == (parent.id,)
    world.read("lineage", 0.1, *TWO, subject=model("m"))
    assert waits_for(world, child) == ()
    world.check()


def test_a_model_of_no_run_is_not_told_to_be_of_one_later() -> None:
    # Treaty 3.5: between the two, its children would descend from no declared run.
    world, parent, _ = parent_and_child()
    assert world.edge("alpha", "m").reason is None
    assert world.edge("alpha", "m", run=parent.id).reason is Reason.EQUIVOCATION
    world.check()


def test_a_treaty_may_do_without_the_lineage_gate() -> None:
    # Treaty 5.8
    world, _, child = parent_and_child(permit_lineage_gate="false")
    world.grant(world.request(child))
    world.check()


# --- one dishonest party among four


def test_wide_bounds_do_not_open_the_lineage_gate() -> None:
    # Treaty 5.8: alpha alone has measured, and reads growth; the liar's bounds meet any.
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", 5.0, "alpha", subject=model("m"))
    world.read("lineage", -1e308, "gamma", subject=model("m"), value=0.0, upper=1e308)
    assert waits_for(world, child) == (parent.id,)
    world.check()


def test_two_who_read_growth_shut_the_gate_whatever_two_others_read() -> None:
    # Treaty 5.8: one of the two is honest; a lift answers for the brake and not for the gate.
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", 0.1, *TWO, subject=model("m"))
    assert waits_for(world, child) == ()
    world.read("lineage", 5.0, "gamma", "delta", subject=model("m"), inputs=OTHER)
    assert world.phase is not Phase.CLEAR
    assert waits_for(world, child) == (parent.id,)
    world.read("lineage", 0.1, *TWO, subject=model("m"))
    assert waits_for(world, child) == (parent.id,)
    world.check()


@pytest.mark.parametrize("liar", [(0.0, 99.0), (-1e308, 1e308), (1.5, 9.0), (50.0, 99.0)])
def test_one_party_does_not_close_the_lineage_gate(liar: tuple[float, float]) -> None:
    # Treaty 5.8
    lower, upper = liar
    for order in (("gamma", "alpha", "beta"), ("alpha", "gamma", "beta"), ("alpha", "beta", "gamma")):
        world, parent, child = parent_and_child()
        world.edge("alpha", "m", run=parent.id)
        for party in order:
            if party == "gamma":
                world.read("lineage", lower, party, subject=model("m"), value=lower, upper=upper)
            else:
                high = 2.0 if party == "alpha" else 3.0
                world.read("lineage", 0.5, party, subject=model("m"), value=1.0, upper=high)
        assert waits_for(world, child) == ()
        assert world.phase is Phase.CLEAR
        world.check()
