"""Allegations: what upholds one, what refutes it and how strictly, and that nobody can flood or hold one for ever."""

from itertools import permutations
from time import process_time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import apply, audits
from brakeline.core.state import events as ev
from brakeline.core.state.audits import MAX_ALLEGATIONS, MAX_ANSWER
from brakeline.core.state.codec import encode
from brakeline.core.transcript import Head
from world import DAY, ENVIRONMENT, Live, Outcome, World, bound, violation

DIGEST = "ab" * 32
ELSEWHERE = "cd" * 32  # another environment than the declared one
OTHERS = ("beta", "gamma", "delta")
PART = (0, 3)


def audited_world(**changes: str) -> tuple[World, Live]:
    world = bound(**changes)
    return world, world.finished("alpha")


def looked(world: World, inspector: str, run: Live, part: tuple[int, int] = PART, where: str = ENVIRONMENT) -> Outcome:
    """The inspector ran the segment again and found nothing."""
    return world.audit(inspector, run, segments=(part,), verdict="partial", environment=where)


def open_keys(run: Live) -> list[tuple[str, tuple[int, int]]]:
    return [(a.fault, a.segment) for a in run.open_allegations]


def test_one_inspector_upholds_nothing() -> None:
    # Treaty 7.7
    world, run = audited_world()
    for _ in range(3):
        world.audit("beta", run, violation())
    assert (run.bar, world.phase) == (None, Phase.CLEAR)
    assert open_keys(run) == [(Fault.REPLAY_MISMATCH, PART)]
    assert len(world.of(ev.Alleged)) == 1
    world.check()


def test_two_inspectors_uphold_a_finding_in_their_own_words() -> None:
    # Treaty 7.7, 4.4, 5.6
    world, run = audited_world()
    world.audit("beta", run, violation())
    other = Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=PART, detail="other words")
    world.audit("gamma", run, other)
    assert run.bar == audits.Bar(Fault.REPLAY_MISMATCH, PART)
    assert run.open_allegations == ()
    assert world.phase is Phase.PAUSED
    assert world.state.ballot.cause == ev.ByFinding(run.id, Fault.REPLAY_MISMATCH, PART)
    assert run.settlement == "settled"
    world.check()


@pytest.mark.parametrize(
    "second",
    [
        violation(segment=(3, 6)),
        violation(Fault.OPENING_MISMATCH),
        Finding(fault=Fault.REPLAY_MISMATCH, severity="notice", segment=PART, detail=""),
        Finding(fault=Fault.REPLAY_MISMATCH, severity="gap", segment=PART, detail=""),
    ],
)
def test_two_inspectors_who_do_not_agree_uphold_nothing(second: Finding) -> None:
    world, run = audited_world()
    world.audit("beta", run, violation())
    world.audit("gamma", run, second)
    assert run.bar is None
    world.check()


def test_a_finding_trips_only_where_the_treaty_says_so() -> None:
    # Treaty 4.4
    world, run = audited_world(brake_findings_trip="false")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert run.bar
    assert world.phase is Phase.CLEAR
    world.check()


# --- what refutes one


def test_an_allegation_falls_when_as_many_replayed_the_segment() -> None:
    # Treaty 7.7
    world, run = audited_world()
    world.audit("beta", run, violation())
    world.audit("gamma", run)
    assert run.open_allegations
    assert looked(world, "delta", run).reason is None
    assert run.open_allegations == ()
    assert [(e.fault, e.segment) for e in world.of(ev.Fell)] == [(Fault.REPLAY_MISMATCH, PART)]
    assert run.settlement == "tried"  # one pass is not two
    world.audit("delta", run)
    assert run.settlement == "settled"
    world.check()


@pytest.mark.parametrize("fault", [Fault.TRANSCRIPT_MISMATCH, Fault.NO_PERMIT, Fault.OPENING_MISSING])
def test_an_allegation_against_the_whole_transcript_falls_too(fault: Fault) -> None:
    # Else one dishonest inspector could keep the brake on for ever.
    world, run = audited_world()
    world.audit("beta", run, violation(fault, (0, 0)))
    world.audit("gamma", run)
    assert run.open_allegations
    assert run.settlement == "open"
    world.audit("delta", run)
    assert run.open_allegations == ()
    assert run.settlement == "settled"
    world.check()


def test_who_could_not_look_denies_nothing() -> None:
    # Treaty 7.7: of the whole transcript only a pass is a look.
    world, run = audited_world()
    gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="")
    for _ in ("before", "after"):
        for inspector in ("gamma", "delta"):
            world.audit(inspector, run, gap, segments=())
            world.audit(inspector, run, verdict="partial", segments=(PART,))
        world.audit("beta", run, violation(Fault.NO_PERMIT, (0, 0)))
        assert open_keys(run) == [(Fault.NO_PERMIT, (0, 0))]
    world.check()


def test_a_pass_of_fewer_steps_does_not_deny() -> None:
    world = bound()
    run = world.finished("alpha", steps=6)
    world.audit("gamma", run)
    world.audit("delta", run)
    world.head(run, "opened")
    world.train(run, 12, world.permit(run))
    world.head(run, "stopped")
    world.stamp()
    world.audit("beta", run, violation(Fault.NO_PERMIT, (6, 12)))
    assert run.open_allegations
    world.check()


NOTICE = Finding(fault=Fault.ENVIRONMENT_MISMATCH, severity="notice", segment=(9, 12), detail="computes differently")
GAP = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(9, 12), detail="out of time")


@pytest.mark.parametrize("says", [NOTICE, GAP], ids=lambda f: f.severity)
@pytest.mark.parametrize("first", [True, False])
def test_an_audit_that_says_it_did_not_look_there_refutes_nothing(says: Finding, first: bool) -> None:
    # Treaty 7.7: it lists the segment as replayed in the declared environment, and its own finding says otherwise.
    world = bound()
    run = world.finished("alpha", steps=30)
    drawn = {part for p in ("gamma", "delta") for part in world.required(p, run)}
    part = next((i, i + 3) for i in range(0, 30, 3) if (i, i + 3) not in drawn)
    says = msgspec.structs.replace(says, segment=part)

    def look() -> None:
        for inspector in ("gamma", "delta"):
            world.audit(inspector, run, says, segments=(part,), verdict="partial")
            whole = (*world.required(inspector, run), part)
            world.audit(inspector, run, says, segments=tuple(sorted(whole)))

    if first:
        look()
    world.audit("beta", run, violation(segment=part), segments=(part,), verdict="partial")
    look()
    assert open_keys(run) == [(Fault.REPLAY_MISMATCH, part)]
    assert run.settlement == "open"
    world.check()


def test_a_segment_cut_short_by_an_earlier_head_can_still_be_judged() -> None:
    world = bound()
    run = world.finished("alpha", steps=5)
    world.audit("beta", run, violation(segment=(3, 5)))
    world.head(run, "opened")
    world.train(run, 12, world.permit(run))
    world.head(run, "stopped")
    world.stamp()
    assert world.audit("gamma", run, violation(segment=(3, 5)), verdict="partial", segments=()).reason is None
    assert run.bar
    world.check()


STRICT, LOOSE = ENVIRONMENT, ELSEWHERE
SAID_ANYWHERE = Fault.OPENING_MISMATCH  # shows in a segment, and accuses whatever machine one looks with


@pytest.mark.parametrize("fault", [Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE])
def test_what_comes_out_in_another_environment_accuses_nobody(fault: Fault) -> None:
    # Treaty 7.7: not by an inspector's good will, but by rule.
    world, run = audited_world()
    for inspector in ("beta", "gamma", "delta"):
        assert world.audit(inspector, run, violation(fault), environment=LOOSE).reason is Reason.MALFORMED
    assert (run.allegations, run.bar) == ({}, None)
    assert world.audit("beta", run, violation(fault), environment=STRICT).reason is None
    world.check()


@pytest.mark.parametrize("order", list(permutations(["beta", "gamma", "delta"])))
@pytest.mark.parametrize(
    ("accuser", "deniers", "falls"),
    [
        (STRICT, (LOOSE, LOOSE), False),  # what hides in a tolerance refutes nothing that was seen without one
        (STRICT, (LOOSE, STRICT), False),
        (STRICT, (STRICT, STRICT), True),
        (LOOSE, (LOOSE, LOOSE), True),
        (LOOSE, (STRICT, LOOSE), True),
        (LOOSE, (STRICT, STRICT), True),
    ],
)
def test_a_replay_elsewhere_never_refutes_one_in_the_declared_environment(
    accuser: str, deniers: tuple[str, str], falls: bool, order: tuple[str, ...]
) -> None:
    # Treaty 7.7, whoever comes first: beta alleges, gamma and delta looked there too.
    world, run = audited_world()
    where = {"beta": accuser, "gamma": deniers[0], "delta": deniers[1]}
    alleged = violation() if accuser == STRICT else violation(SAID_ANYWHERE)
    for inspector in order:
        findings = (alleged,) if inspector == "beta" else ()
        assert world.audit(inspector, run, *findings, environment=where[inspector]).reason is None
    assert (run.open_allegations == ()) is falls
    assert (run.settlement == "settled") is falls
    assert run.bar is None
    world.check()


def test_what_shows_without_a_replay_needs_no_environment() -> None:
    # A missing permit shows in what the lab opens, whatever machine one looks with.
    world, run = audited_world()
    world.audit("beta", run, violation(Fault.NO_PERMIT, (0, 0)), environment=STRICT)
    for inspector in ("gamma", "delta"):
        world.audit(inspector, run, environment=LOOSE)
    assert run.open_allegations == ()
    world.check()


def test_a_stricter_look_counts_more_than_an_earlier_one() -> None:
    # Two loose denials let a loose allegation fall; seen strictly after all, it stands again.
    world, run = audited_world()
    world.audit("beta", run, violation(SAID_ANYWHERE), environment=LOOSE)
    for inspector in ("gamma", "delta"):
        looked(world, inspector, run, where=LOOSE)
    assert run.open_allegations == ()
    world.audit("beta", run, violation(SAID_ANYWHERE), environment=STRICT)
    assert open_keys(run) == [(SAID_ANYWHERE, PART)]
    assert audits.needed(world.treaty, run.open_allegations[0], world.state.time) == (1, 2)
    for inspector in ("gamma", "delta"):
        assert run.open_allegations
        looked(world, inspector, run, where=STRICT)
    assert run.open_allegations == ()
    world.check()


def test_nobodys_strict_look_alone_stands_for_ever_against_all_who_looked() -> None:
    # Treaty 7.7: one liar in the declared environment, and all honest inspectors on other machines.
    world = World(audit_within='"10 d"')
    world.bind(expires=world.now + 900 * DAY)
    run = world.finished("alpha")
    world.audit("beta", run, violation(), environment=STRICT)
    for inspector in ("gamma", "delta"):
        looked(world, inspector, run, where=LOOSE)
    assert open_keys(run) == [(Fault.REPLAY_MISMATCH, PART)]
    assert audits.needed(world.treaty, run.open_allegations[0], world.state.time) == (1, 2)
    world.stamp(10 * DAY)
    assert audits.needed(world.treaty, run.open_allegations[0], world.state.time) == (1, 0)
    looked(world, "delta", run, where=LOOSE)
    assert (open_keys(run), run.bar) == ([], None)
    world.check()


def test_who_looks_again_undoes_no_look_of_another() -> None:
    world, run = audited_world()
    world.audit("beta", run, violation(SAID_ANYWHERE), environment=LOOSE)
    looked(world, "gamma", run, where=STRICT)
    world.audit("beta", run, violation(SAID_ANYWHERE), environment=STRICT)
    (a,) = run.open_allegations
    assert (a.strict, a.loose, a.denied_strict, a.denied_loose) == (("beta",), (), ("gamma",), ())
    looked(world, "delta", run, where=LOOSE)
    looked(world, "gamma", run, where=LOOSE)  # it has looked more strictly before
    assert run.open_allegations
    looked(world, "delta", run, where=STRICT)
    assert run.open_allegations == ()
    world.check()


def test_who_denied_may_find_it_after_all() -> None:
    world, run = audited_world()
    world.audit("beta", run, violation())
    looked(world, "gamma", run)
    world.audit("gamma", run, violation(), verdict="partial", segments=())
    assert run.bar
    world.check()


def test_who_alleges_it_does_not_deny_it_by_passing() -> None:
    world, run = audited_world()
    world.audit("beta", run, violation())
    world.audit("beta", run)
    looked(world, "gamma", run)
    assert open_keys(run) == [(Fault.REPLAY_MISMATCH, PART)]
    world.check()


@settings(max_examples=settings().max_examples // 4)
@given(st.lists(st.tuples(st.sampled_from(OTHERS), st.booleans(), st.booleans()), max_size=14))
def test_one_liar_neither_bars_nor_frees(said: list[tuple[str, bool, bool]]) -> None:
    # Treaty 7.7: with f = 1, whatever gamma says in any order, and whenever, of what beta and delta agree on.
    for truth in (False, True):
        world, run = audited_world()
        for inspector, accuses, strict in said:
            accuses = accuses if inspector == "gamma" else truth
            where = STRICT if strict or inspector != "gamma" else LOOSE
            finding = (violation(),) if accuses else ()
            refused = Reason.MALFORMED if accuses and where == LOOSE else None
            assert world.audit(inspector, run, *finding, environment=where).reason is refused
        for inspector in ("beta", "delta"):
            world.audit(inspector, run, *((violation(),) if truth else ()))
        assert bool(run.bar) is truth
        assert run.settlement == "settled"
        world.check()


# --- floods


def long_run(world: World) -> Live:
    """A run of which many things may be alleged."""
    run = world.opened("alpha", steps=200)
    flop = str(200 * run.declaration.step_flop)
    head = Head(run=run.id, steps=200, root="11" * 32, state="22" * 32, flop=flop, status="stopped")
    assert world.log("alpha", "head", head).reason is None
    world.stamp()
    return run


MANY = [violation(Fault.NO_PERMIT, (a, b)) for a in range(20) for b in range(a + 1, a + 40)]


def test_nobody_alleges_so_much_that_no_other_can() -> None:
    # Treaty 7.10: gamma floods the record of a run that beta and delta find to cheat.
    world = bound()
    run = long_run(world)
    for i in range(0, MAX_ALLEGATIONS, 64):
        outcome = world.audit("gamma", run, *MANY[i : i + 64], verdict="partial", segments=())
        assert outcome.reason is None
    assert len(run.allegations) == MAX_ALLEGATIONS
    more = world.audit("gamma", run, MANY[MAX_ALLEGATIONS], verdict="partial", segments=())
    assert more.reason is Reason.ALLOWANCE
    assert world.audit("gamma", run, MANY[0], verdict="partial", segments=()).reason is None  # again
    for inspector in ("beta", "delta"):
        assert world.audit(inspector, run, violation(segment=(0, 3)), verdict="partial", segments=()).reason is None
    assert run.bar == audits.Bar(Fault.REPLAY_MISMATCH, (0, 3))
    world.check()


def test_an_audit_costs_little_more_beside_a_flood() -> None:
    def cost(world: World, run: Live) -> float:
        audit = world.statement("beta", "audit", world.audit_of("beta", run))
        times = []
        for _ in range(20):
            begun = process_time()
            apply(world.state, audit)
            times.append(process_time() - begun)
        return min(times)

    calm, flooded = bound(), bound()
    few = cost(calm, long_run(calm))
    run = long_run(flooded)
    for i in range(0, MAX_ALLEGATIONS, 64):
        flooded.audit("gamma", run, *MANY[i : i + 64], verdict="partial", segments=())
    assert cost(flooded, run) < 20 * few


# --- retraction and answer


def retract(world: World, inspector: str, run: Live, fault: str = "replay-mismatch") -> Outcome:
    return world.log(inspector, "retraction", {"run": run.id, "fault": fault, "segment": PART})


def test_an_allegation_may_be_taken_back() -> None:
    # Treaty 7.9
    world, run = audited_world()
    world.audit("beta", run, violation())
    assert retract(world, "gamma", run).reason is Reason.MISSING
    assert retract(world, "beta", run, "no-permit").reason is Reason.MISSING
    assert retract(world, "beta", run).reason is None
    assert run.open_allegations == ()
    assert [type(e) for e in world.events if isinstance(e, ev.Retracted | ev.Fell)] == [ev.Retracted, ev.Fell]
    assert retract(world, "beta", run).reason is Reason.MISSING
    for inspector in ("gamma", "delta"):
        world.audit(inspector, run)
    assert run.settlement == "settled"
    world.audit("gamma", run, violation())
    assert run.bar is None  # one that was taken back upholds nothing
    world.check()


def test_what_was_upheld_stays_upheld() -> None:
    # Treaty 7.9
    world, run = audited_world()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert retract(world, "beta", run).reason is Reason.MISSING
    assert run.bar
    world.check()


def test_a_retraction_settles_what_waited_for_it() -> None:
    # Treaty 7.4, 7.9
    world, run = audited_world()
    world.audit("beta", run, violation())
    for inspector in ("gamma", "beta"):
        world.audit(inspector, run)
    assert run.settlement == "open"
    retract(world, "beta", run)
    assert run.settlement == "settled"
    assert [e.run for e in world.of(ev.Settled)] == [run.id]
    world.check()


def test_who_retracts_does_not_allege_it_again() -> None:
    # Treaty 7.9: else one inspector would keep a run unsettled for ever, at no cost.
    world, run = audited_world()
    size = len(encode(world.state))
    for _ in range(50):
        world.audit("beta", run, violation(), verdict="partial", segments=())
        retract(world, "beta", run)
        assert run.open_allegations == ()
    assert [(a.retracted, a.accusers, a.fell) for a in run.allegations.values()] == [(("beta",), frozenset(), True)]
    # Others may, and then nothing is different.
    for inspector in ("gamma", "delta"):
        world.audit(inspector, run, violation(), verdict="partial", segments=())
    assert run.bar
    world.stamp()
    world.stamp()
    assert len(encode(world.state)) < size + 2000
    world.check()


def test_the_lab_answers_on_the_record() -> None:
    # Treaty 7.9: which decides nothing.
    world, run = audited_world()
    body = {"run": run.id, "fault": "replay-mismatch", "segment": PART, "text": "our cluster computes otherwise"}
    assert world.log("alpha", "answer", body).reason is Reason.MISSING
    world.audit("beta", run, violation())
    for lab, changes, reason in (
        ("beta", {}, Reason.FOREIGN),
        ("delta", {}, Reason.WRONG_ROLE),
        ("alpha", {"segment": (3, 6)}, Reason.MISSING),
        ("alpha", {"fault": "bad-weather"}, Reason.MALFORMED),
        ("alpha", {"text": ""}, Reason.MALFORMED),
        ("alpha", {"text": "x" * (MAX_ANSWER + 1)}, Reason.MALFORMED),
        ("alpha", {"text": "a\x1b[2Jb"}, Reason.MALFORMED),
        ("alpha", {"run": DIGEST}, Reason.UNDECLARED),
    ):
        assert world.log(lab, "answer", {**body, **changes}).reason is reason, changes
    outcome = world.log("alpha", "answer", body)
    assert outcome.reason is None
    (told,) = world.of(ev.Answered)
    assert (told.run, told.text) == (run.id, body["text"])
    (a,) = run.open_allegations
    assert (a.answered, a.accusers) == (outcome.index, {"beta"})
    world.audit("gamma", run, violation())
    assert run.bar
    assert world.log("alpha", "answer", {**body, "text": "still"}).reason is None
    world.check()
