"""The judge against labs that cheat, one attack of the catalogue after another, and against false alarms."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding, verdict
from brakeline.core.gate import NO_PERMIT
from brakeline.core.statement import open_envelope
from brakeline.core.transcript import Leaf, Likeness
from world import DATASET, LABS, RECIPE, STEP_FLOP, Live, World

OTHER = "cd" * 32  # another environment than the declared one
BOUND = 0.05


def trained(steps: int = 12, **changes: Any) -> tuple[World, Live]:
    world = World(**changes)
    world.bind()
    return world, world.finished("alpha", steps=steps)


def faults(findings: Sequence[Finding]) -> list[tuple[str, str, tuple[int, int]]]:
    return [(f.severity, f.fault, f.segment) for f in findings]


def violation(fault: Fault, start: int, end: int) -> list[tuple[str, str, tuple[int, int]]]:
    return [("violation", fault, (start, end))]


def bent(leaf: Leaf, **changes: Any) -> Leaf:
    return replace(leaf, **changes)


# --- honest runs


def test_an_honest_run_passes() -> None:
    for steps in (1, 2, 3, 4, 11, 12, 30):
        world, run = trained(steps)
        for inspector in ("beta", "gamma", "delta"):
            findings = world.judged(run, inspector=inspector)
            assert findings == ()
            assert verdict(findings) == "pass"


def test_a_run_that_was_braked_and_resumed_passes() -> None:
    world, run = trained()
    world.trip()
    world.vote("lift", "beta", "gamma", "delta")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    world.stamp(2)
    assert world.state.epoch == 1
    world.head(run, "opened")
    world.train(run, 18, world.permit(run))
    world.head(run, "stopped")
    world.stamp()
    assert world.judged(run) == ()
    world.check()


def test_a_run_that_crashed_and_went_on_passes() -> None:
    # Its head says opened where it says running: steps of both sides may name the same permit.
    world = World()
    world.bind()
    run = world.opened("alpha")
    permit = world.permit(run)
    world.train(run, 3, permit)
    world.head(run, "running")
    world.train(run, 5, permit)
    world.head(run, "opened")
    world.train(run, 6, permit)
    world.head(run, "stopped")
    world.stamp()
    assert world.judged(run) == ()


def test_a_run_that_needs_no_permit_passes_without() -> None:
    world = World()
    world.bind("beta", "gamma", "delta")  # alpha is not bound
    run = world.opened("alpha")
    world.train(run, 12)
    world.head(run, "stopped")
    world.stamp()
    assert world.judged(run) == ()
    small = world.opened("beta", name="small", steps=10)
    world.train(small, 10)
    world.head(small, "ended")
    world.stamp()
    assert world.judged(small, inspector="gamma") == ()


def test_another_environment_is_never_called_fraud() -> None:
    # Treaty 7.5, 7.6, attack A-17 (which is none).
    world, run = trained()
    replays = {
        part: world.replay(run, part, environment=OTHER, likeness=NEAR, leaves=elsewhere(world, run, part))
        for part in PARTS
    }
    findings = world.judged(run, replays=replays, environment=OTHER)
    assert findings
    assert {(f.severity, f.fault) for f in findings} == {("notice", Fault.ENVIRONMENT_MISMATCH)}
    assert verdict(findings) == "pass"


NEAR = Likeness("agrees", "")
PARTS = ((0, 3), (3, 6), (6, 9), (9, 12))


def elsewhere(world: World, run: Live, part: tuple[int, int]) -> tuple[Leaf, ...]:
    """The same data, other bits: what a replay on another machine gives."""
    start, end = part
    return tuple(bent(x, state=sha256(x.state), loss=x.loss + 1e-9) for x in world.leaves[run.id][start + 1 : end + 1])


def test_two_of_three_profiles_that_agree_are_not_the_same_environment() -> None:
    # Bits are compared only where declaration, inspector and replay name one profile.
    world, run = trained()
    there = {part: elsewhere(world, run, part) for part in PARTS}
    replays = {part: world.replay(run, part, likeness=NEAR, leaves=it) for part, it in there.items()}
    assert verdict(world.judged(run, replays=replays, environment=OTHER)) == "pass"
    replays = {part: replace(r, environment=OTHER) for part, r in replays.items()}
    assert verdict(world.judged(run, replays=replays)) == "pass"


# --- what the lab shows


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("contested", Fault.CONTESTED),
        ("undecided", Fault.CONTESTED),
        ("not-verified", Fault.NOT_VERIFIED),
        (None, Fault.NOT_VERIFIED),  # the states were not compared
    ],
)
def test_what_does_not_agree_elsewhere_accuses_nobody_and_passes_nothing(kind: Any, fault: Fault) -> None:
    world, run = trained()
    likeness = kind and Likeness(kind, "far from every replay")
    replays = {(0, 3): world.replay(run, (0, 3), environment=OTHER, likeness=likeness)}
    findings = world.judged(run, replays=replays, environment=OTHER)
    assert faults(findings)[0] == ("gap", fault, (0, 3))
    assert verdict(findings) == "inconclusive"


@pytest.mark.parametrize("field", ["state", "batch"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_one_step_that_is_another(field: str, step: int) -> None:
    # Treaty 7.5, attacks: in the declared environment every bit of every step counts.
    world, run = trained()
    leaves = list(world.leaves[run.id][1:4])
    leaves[step - 1] = bent(leaves[step - 1], **{field: bytes(32)})
    findings = world.judged(run, replays={(0, 3): world.replay(run, (0, 3), leaves=tuple(leaves))})
    assert faults(findings) == violation(Fault.REPLAY_MISMATCH, 0, 3)
    assert f"step {step}: re-execution gives another {field}" in findings[0].detail


def test_a_loss_that_was_not() -> None:
    world, run = trained()
    leaves = tuple(bent(x, loss=x.loss / 2) for x in world.leaves[run.id][1:4])
    findings = world.judged(run, replays={(0, 3): world.replay(run, (0, 3), leaves=leaves)})
    assert faults(findings) == violation(Fault.REPLAY_MISMATCH, 0, 3)
    nan = tuple(bent(x, loss=math.nan) for x in world.leaves[run.id][1:4])
    assert world.judged(run, replays={(0, 3): world.replay(run, (0, 3), leaves=nan)}) != ()


def test_the_end_is_always_looked_at() -> None:
    # Attack A-04: the last segment interpolated towards another model.
    world, run = trained(11)
    leaves = (*world.leaves[run.id][10:11], bent(world.leaves[run.id][11], state=bytes(32)))
    findings = world.judged(run, replays={(9, 11): world.replay(run, (9, 11), leaves=leaves)})
    assert faults(findings) == violation(Fault.REPLAY_MISMATCH, 9, 11)


def test_a_run_that_does_not_commit_at_the_treatys_cadence() -> None:
    """Treaty 7.2: five segments of three steps; sixteen steps without a head are too many."""
    for steps, expected in ((15, []), (16, [("violation", Fault.HEAD_MISSING, (0, 0))])):
        world = World(permit_allowance='"40 GFLOP"')
        world.bind()
        run = world.opened("alpha")
        world.train(run, steps, world.permit(run))
        world.head(run, "stopped")
        world.stamp()
        assert faults(world.judged(run)) == expected


def test_steps_before_the_duty_need_no_permit() -> None:
    """Treaty 2.2: a run declared before its owner was bound; what it commits to after its first head since then needs
    a permit."""
    world = World(permit_allowance='"40 GFLOP"')
    run = world.opened("alpha")
    assert not run.bound
    world.train(run, 6)
    world.head(run, "running")
    world.bind()
    world.train(run, 9)
    world.head(run, "running")
    world.stamp()
    assert faults(world.judged(run)) == []
    world.train(run, 12)
    world.head(run, "stopped")
    world.stamp()
    assert faults(world.judged(run)) == [("violation", Fault.NO_PERMIT, (9, 12))]


def test_two_runs_glued_together() -> None:
    # Attack A-05: one run up to a stop, another from there on. The seam is always in the sample, whose replay opens
    # the first run's checkpoint and cannot arrive at the second's steps.
    world = World(audit_p_catch='"10 %"', permit_allowance='"40 GFLOP"')
    world.bind()
    run, other = world.opened("alpha"), world.opened("beta")
    permit = world.permit(run)
    world.train(run, 13, permit)
    world.head(run, "stopped")
    world.train(other, 27, permit)
    world.leaves[run.id] += world.leaves[other.id][14:]
    world.head(run, "opened", steps=13)
    world.head(run, "ended")
    world.stamp()
    honest = tuple(bent(x, state=sha256(x.state, b"honest")) for x in world.leaves[run.id][14:16])
    glued = world.replay(run, (12, 15), leaves=(world.leaves[run.id][13], *honest))
    for inspector in ("beta", "gamma", "delta"):
        findings = world.judged(run, inspector=inspector, replays={(12, 15): glued})
        assert ("violation", Fault.REPLAY_MISMATCH, (12, 15)) in faults(findings)


def reordered(leaves: list[Leaf], how: str) -> list[Leaf]:
    match how:
        case "reversed":
            return [leaves[0], *leaves[:0:-1]]
        case "swapped":
            return [*leaves[:5], leaves[6], leaves[5], *leaves[7:]]
        case "repeated":
            return [*leaves[:6], leaves[5], *leaves[7:]]
        case "skipped":
            return [*leaves[:5], *leaves[6:], bent(leaves[-1], step=13, flop=13 * STEP_FLOP)]
        case "late":
            return [*leaves[1:], bent(leaves[-1], step=13)]
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["reversed", "swapped", "repeated", "skipped", "late"])
@pytest.mark.parametrize("renumbered", [False, True])
def test_steps_in_another_order(how: str, renumbered: bool) -> None:
    # Attack A-06: with the numbers as they were, or made to look right. They are not those that were committed to.
    world, run = trained()
    leaves = reordered(world.leaves[run.id], how)
    if renumbered:
        empty = {"batch": bytes(32), "permit": bytes(32), "loss": 0.0}
        leaves = [
            bent(
                x,
                step=i,
                flop=i * STEP_FLOP,
                **(empty if i == 0 else {}),
                **({"loss": 1.0} if i and not x.loss else {}),
            )
            for i, x in enumerate(leaves)
        ]
    findings = world.judged(run, leaves=tuple(leaves))
    assert faults(findings) == violation(Fault.OPENING_MISSING, 0, 0)


def test_compute_that_does_not_count_up() -> None:
    # Committed to: the log's root has it.
    world = World()
    world.bind()
    run = world.opened("alpha")
    world.train(run, 12, world.permit(run))
    world.leaves[run.id][7] = bent(world.leaves[run.id][7], flop=6 * STEP_FLOP)
    world.head(run, "stopped")
    world.stamp()
    assert faults(world.judged(run)) == violation(Fault.STEP_ORDER, 7, 7)


def test_a_start_that_was_chosen() -> None:
    # Attacks: the inspector builds step 0 from the seed, and never opens it.
    world, run = trained()
    findings = world.judged(run, replays={(0, 3): world.replay(run, (0, 3), start_state=bytes(32))})
    assert faults(findings) == violation(Fault.INITIAL_STATE, 0, 3)


def test_data_of_another_seed() -> None:
    # Attack A-11.
    world, run = trained()
    leaves = tuple(bent(x, batch=sha256(x.batch)) for x in world.replay(run, (0, 3)).leaves)
    findings = world.judged(run, replays={(0, 3): world.replay(run, (0, 3), leaves=leaves)})
    assert faults(findings) == violation(Fault.REPLAY_MISMATCH, 0, 3)


def test_a_seed_depends_on_run_and_beacon() -> None:
    # Attack A-07: the seed is the log's, drawn after the declaration.
    world = World()
    world.bind()
    one, two = world.declare("alpha"), world.declare("alpha", name="again")
    assert one.seed != two.seed
    later = World()
    later.bind()
    later.vote("trip", "delta")
    assert later.declare("alpha").seed != one.seed


def test_a_checkpoint_that_is_another_state() -> None:
    world, run = trained()
    for environment in (None, OTHER):
        findings = world.judged(
            run, replays={(9, 12): world.replay(run, (9, 12), start_state=bytes(32))}, environment=environment
        )
        assert ("violation", Fault.OPENING_MISSING, (9, 12)) in faults(findings)


@pytest.mark.parametrize("shown", [0, 1, 6, 12, 14])
def test_a_transcript_of_another_length(shown: int) -> None:
    # Attack A-18: cut at the tail, cut to a prefix, empty, or more than was committed to.
    world, run = trained()
    leaves = [*world.leaves[run.id], bent(world.leaves[run.id][-1], step=13, flop=13 * STEP_FLOP)][:shown]
    findings = world.judged(run, leaves=tuple(leaves))
    assert faults(findings) == violation(Fault.OPENING_MISSING, 0, 0)


@given(step=st.integers(0, 12), field=st.sampled_from(["state", "batch", "permit", "loss"]))
def test_any_leaf_that_was_not_committed(step: int, field: str) -> None:
    # Treaty 7.2, attacks
    world, run = TRAINED
    if step == 0:
        field = "state"
    leaves = list(world.leaves[run.id])
    leaves[step] = bent(leaves[step], **{field: 0.123 if field == "loss" else sha256(b"bent")})
    assert faults(world.judged(run, leaves=tuple(leaves))) == violation(Fault.OPENING_MISSING, 0, 0)


TRAINED = trained()


def test_a_head_that_names_another_state() -> None:
    # The root is right, the state is not: the last leaf decides.
    world = World()
    world.bind()
    run = world.opened("alpha")
    world.train(run, 3, world.permit(run))
    assert world.head(run, "stopped", state=OTHER).reason is None
    world.stamp()
    assert faults(world.judged(run)) == violation(Fault.TRANSCRIPT_MISMATCH, 0, 0)


def test_a_head_too_old_to_be_audited_still_binds() -> None:
    # Treaty 7.10 lets old heads go; what they committed to is the run's past all the same.
    world = World(audit_within='"1 s"')
    world.bind()
    run = world.opened("alpha")
    world.train(run, 3, world.permit(run))
    assert world.head(run, "running", state=OTHER).reason is None
    world.stamp(3)
    old = run.heads[-1]
    world.train(run, 6, world.permit(run))
    world.head(run, "stopped")
    world.stamp()
    assert world.audit("beta", run, head=old.index).reason in (Reason.EXPIRED, Reason.FOREIGN)
    assert [h.head.steps for h in world.heads(run)] == [0, 3, 6]
    assert faults(world.judged(run)) == violation(Fault.TRANSCRIPT_MISMATCH, 0, 0)


def test_another_recipe_or_data_set() -> None:
    # Attacks. The recipe is shown by the lab; the data set is the inspector's own copy, which may differ.
    world, run = trained()
    for changes, severity, fault in (
        ({"recipe": OTHER}, "violation", Fault.OPENING_MISSING),
        ({"recipe": DATASET, "dataset": RECIPE}, "violation", Fault.OPENING_MISSING),
        ({"dataset": OTHER}, "gap", Fault.RECIPE_MISMATCH),
    ):
        findings = world.judged(run, **changes)
        assert faults(findings) == [(severity, fault, (0, 0))]


# --- checks that could not be made


def test_a_replay_that_is_missing_is_a_gap() -> None:
    # Attack A-22: the verifier owns the count, and no answer is no pass.
    world, run = trained()
    replays = {
        "none at all": {(0, 3): None},
        "of fewer steps": {(0, 3): world.replay(run, (0, 3), leaves=world.replay(run, (0, 3)).leaves[:2])},
        "of no step": {(0, 3): world.replay(run, (0, 3), leaves=())},
        "of other steps": {(0, 3): world.replay(run, (3, 6))},
    }
    for shown in replays.values():
        findings = world.judged(run, replays=shown)
        assert faults(findings) == [("gap", Fault.NOT_REPLAYED, (0, 3))]
        assert verdict(findings) == "inconclusive"


def test_what_the_inspector_met_on_the_way_is_passed_on() -> None:
    world, run = trained()
    met = Finding(fault=Fault.OPENING_MISSING, severity="violation", segment=(9, 12), detail="not shown")
    assert world.judged(run, replays={(9, 12): met}) == (met,)


def test_verdicts() -> None:
    def of(*severities: Any) -> str:
        return verdict(tuple(Finding(fault=Fault.NO_PERMIT, severity=s, segment=(0, 0), detail="") for s in severities))

    assert of() == of("notice") == "pass"
    assert of("gap") == of("notice", "gap") == "inconclusive"
    assert of("violation") == of("gap", "violation", "notice") == "fail"


# --- permits


def covered() -> tuple[World, Live]:
    world = World()
    world.bind()
    return world, world.opened("alpha")


def finish(world: World, run: Live) -> tuple[Finding, ...]:
    world.head(run, "stopped")
    world.stamp()
    return world.judged(run)


def test_steps_without_a_permit() -> None:
    # Treaty 5.1, attack A-30
    world, run = covered()
    permit = world.permit(run)
    world.train(run, 2, permit)
    world.train(run, 5)
    world.train(run, 6, permit)
    assert faults(finish(world, run)) == violation(Fault.NO_PERMIT, 2, 5)


@pytest.mark.parametrize("wrong", ["not shown", "of two signers", "of another run", "of nobody", "cut"])
def test_a_permit_that_is_none(wrong: str) -> None:
    world, run = covered()
    permit = world.permit(run)
    world.train(run, 6, permit)
    shown = {
        "not shown": [],
        "of two signers": [world.sealed(world.request(run), "alpha", "beta")],
        "of another run": [world.sealed(world.request(world.opened("beta")))],
        "of nobody": [b"{}", b"", b"\xff"],
        "cut": [world.permits[run.id][0][:-1]],
    }[wrong]
    if wrong == "of another run":
        world.leaves[run.id] = world.leaves[run.id][:1]
        world.train(run, 6, bytes.fromhex(open_envelope(shown[0]).digest))
    world.permits[run.id] = shown
    found = violation(Fault.OPENING_MISSING, 0, 0) if wrong != "of another run" else violation(Fault.NO_PERMIT, 0, 6)
    assert faults(finish(world, run)) == found


def test_compute_up_to_the_allowance_and_beyond() -> None:
    # Treaty 5.4
    world, run = covered()
    permit = world.permit(run)
    world.train(run, 6, permit)
    world.head(run, "running")
    world.stamp()
    assert world.judged(run) == ()
    world.train(run, 8, permit)
    assert faults(finish(world, run)) == violation(Fault.OVER_ALLOWANCE, 6, 8)


def next_epoch(world: World, run: Live) -> None:
    """Stop, trip, settle, lift."""
    world.head(run, "stopped")
    world.stamp()
    world.trip()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    world.vote("lift", *LABS)
    world.stamp(2)


def test_a_permit_of_an_ended_epoch() -> None:
    # Treaty 5.5, attack A-21: a permit from before the trip, named again after one from after it.
    world, run = covered()
    old = world.permit(run)
    world.train(run, 1, old)
    next_epoch(world, run)
    world.head(run, "opened")
    world.train(run, 3, world.permit(run))
    world.train(run, 5, old)
    assert faults(finish(world, run)) == violation(Fault.NO_PERMIT, 3, 5)


def test_an_old_permit_after_a_stop() -> None:
    # Treaty 5.5, attack A-30: hoarded before the trip, used after the stop. Its numbers alone would look right.
    world, run = covered()
    old = world.permit(run)
    world.train(run, 3, old)
    next_epoch(world, run)
    world.head(run, "opened")
    world.train(run, 6, old)
    assert faults(finish(world, run)) == violation(Fault.NO_PERMIT, 3, 6)


def test_a_permit_that_outlives_a_trip_until_it_lapses() -> None:
    # Steps between the trip and the stop are allowed: the news takes time, and the permit lapses by itself.
    world, run = covered()
    permit = world.permit(run)
    world.train(run, 3, permit)
    world.trip()
    world.train(run, 4, permit)
    assert finish(world, run) == ()


def test_a_permit_for_a_run_that_needs_none_must_still_be_real() -> None:
    world = World()
    world.bind("beta", "gamma", "delta")
    run = world.opened("alpha")
    world.train(run, 3, sha256(b"no such permit"))
    world.train(run, 6, NO_PERMIT)
    assert faults(finish(world, run)) == violation(Fault.OPENING_MISSING, 0, 0)


def test_stretches_of_steps_are_told_apart() -> None:
    world, run = covered()
    permit = world.permit(run)
    for to, named in ((1, NO_PERMIT), (3, permit), (4, NO_PERMIT), (5, sha256(b"unknown")), (7, permit)):
        world.train(run, to, named)
    assert faults(finish(world, run)) == [
        ("violation", Fault.NO_PERMIT, (0, 1)),
        ("violation", Fault.NO_PERMIT, (3, 4)),
        ("violation", Fault.OPENING_MISSING, (0, 0)),
        ("violation", Fault.OVER_ALLOWANCE, (6, 7)),
    ]
