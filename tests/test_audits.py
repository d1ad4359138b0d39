"""Audits: what is sampled, what counts, what settles a run, and what a sample costs."""

from brakeline.core.encoding import b64encode
from brakeline.core.errors import Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import audits
from brakeline.core.state import events as ev
from brakeline.core.transcript import Head
from vector import refused
from world import LABS, Live, World, bound, plain, violation

DIGEST = "ab" * 32
OTHERS = ("beta", "gamma", "delta")


def audited_world(**changes: str) -> tuple[World, Live]:
    world = bound(**changes)
    return world, world.finished("alpha")


# --- samples


def test_a_sample_follows_from_head_beacon_and_ticket() -> None:
    # Treaty 7.3
    world, run = audited_world(audit_p_catch='"60 %"')
    logged = run.heads[-1]
    samples = set()
    for inspector in OTHERS:
        ticket = world.ticket(inspector, logged)
        mine = world.state.key_of(inspector)
        parts = audits.required_sample(world.treaty, run.now, logged, inspector, ticket, mine)
        assert parts[0] == (0, 3)
        assert parts[-1] == (9, 12)
        samples.add(parts)
        with refused(Reason.FORGED):
            bent = ticket[:-1] + bytes([ticket[-1] ^ 1])
            audits.required_sample(world.treaty, run.now, logged, inspector, bent, mine)
        for bad in (b"", bytes(64), world.ticket("alpha", logged)):
            with refused(Reason.FORGED):
                audits.required_sample(world.treaty, run.now, logged, inspector, bad, mine)
    world.head(run, "opened")
    with refused(Reason.MISSING):
        audits.required_sample(world.treaty, run.now, run.heads[-1], "beta", b"", world.state.key_of("beta"))
    world.check()


def test_seams_are_always_in_the_sample() -> None:
    # Treaty 7.4, attack A-05
    world = bound(audit_p_catch='"10 %"', permit_allowance='"1 EFLOP"')
    run = world.opened("alpha", steps=1500)
    for stop in (7, 900, 1500):
        world.train(run, stop, world.permit(run))
        world.head(run, "stopped")
        world.head(run, "opened")
    world.stamp()
    for inspector in OTHERS:  # of 500 segments, one is drawn, and each seam's two sides are there
        parts = world.required(inspector, run)
        assert {(0, 3), (6, 9), (897, 900), (900, 903), (1497, 1500)} <= set(parts)
        assert len(parts) <= 6
    world.check()


def test_a_run_of_a_quadrillion_steps_hangs_nobody() -> None:
    # A lab may claim any number of steps; the sample is drawn by arithmetic.
    world = bound(audit_p_catch='"99 %"', audit_f_cheat='"1 %"', permit_allowance='"1 EFLOP"')
    steps = 2**53 - 1
    run = world.opened("alpha", steps=steps, flop_per_step="1")
    head = Head(run=run.id, steps=steps, root=DIGEST, state=DIGEST, flop=str(steps), status="stopped")
    assert world.log("alpha", "head", head).reason is None
    world.stamp()
    assert world.audit("beta", run).reason is None
    assert 450 < len(world.of(ev.Audited)[0].audit.segments) < 470
    whole = violation(Fault.TRANSCRIPT_MISMATCH, (0, 0))
    last = violation(segment=(steps - steps % 3, steps))
    assert world.audit("gamma", run, whole, last, segments=()).reason is None
    assert run.settlement == "open"
    world.check()


# --- what counts


def test_an_audit_that_does_not_count() -> None:
    world, run = audited_world()
    logged = run.heads[-1]
    cases: list[tuple[str, dict[str, object], Reason]] = [
        ("alpha", {}, Reason.WRONG_ROLE),  # Treaty 7.7
        ("beta", {"run": DIGEST}, Reason.UNDECLARED),
        ("beta", {"beacon": 0}, Reason.FOREIGN),
        ("beta", {"segments": ((0, 3),)}, Reason.MISSING),
        ("beta", {"segments": ()}, Reason.MISSING),
        ("beta", {"ticket": b64encode(world.ticket("gamma", logged))}, Reason.FORGED),
        ("beta", {"ticket": ""}, Reason.FORGED),
        ("beta", {"ticket": "x"}, Reason.MALFORMED),
        ("beta", {"verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"verdict": "inconclusive"}, Reason.MALFORMED),
        ("beta", {"verdict": "pass", "findings": (violation(),)}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(1, 2)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(0, 4)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(1, 4)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(9, 11)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(12, 12)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(12, 15)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(segment=(-3, 0)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(Fault.STEP_ORDER, (5, 13)),), "verdict": "fail"}, Reason.MALFORMED),
        ("beta", {"findings": (violation(Fault.STEP_ORDER, (5, 4)),), "verdict": "partial"}, Reason.MALFORMED),
    ]
    for inspector, changes, expected in cases:
        outcome = world.audit(inspector, run, **changes)
        assert outcome.reason is expected, (changes, outcome)
    wrong = {**plain(world.audit_of("beta", run)), "head": 1}
    assert world.log("beta", "audit", wrong).reason is Reason.FOREIGN
    assert world.of(ev.Audited) == []
    assert (run.examined, run.allegations, run.settlement) == ({}, {}, "open")
    world.check()


def test_only_inspectors_audit() -> None:
    # Treaty 1.2
    world, run = audited_world(**{"party.delta.roles": '["log", "witness", "permit-signer"]'})
    assert world.audit("delta", run).reason is Reason.WRONG_ROLE
    world.check()


def test_an_attested_run_is_not_audited() -> None:
    # Treaty 7.8: it has nothing to show, so what it did not show must not bar it.
    world = bound()
    run = world.finished("alpha", rung="attested")
    for found in ((), (violation(Fault.OPENING_MISSING),)):
        for inspector in OTHERS:
            assert world.audit(inspector, run, *found).reason is Reason.PROHIBITED
    assert (run.bar, run.allegations, run.settlement) == (None, {}, "settled")
    world.check()


def test_an_audit_waits_for_the_stamp_after_the_head() -> None:
    # Treaty 7.3: no sample is known before it.
    world = bound()
    run = world.finished("alpha", steps=6)
    body = world.audit_of("beta", run)
    world.head(run, "opened")
    later = {**plain(body), "head": run.heads[-1].index}
    assert world.log("beta", "audit", later).reason is Reason.FOREIGN
    world.check()


def test_an_audit_carries_so_many_findings() -> None:
    # Treaty 7.10
    world, run = audited_world(audit_findings="5")
    notes = [Finding(fault=Fault.STEP_ORDER, severity="notice", segment=(i, i + 1), detail="") for i in range(6)]
    assert world.audit("beta", run, *notes).reason is Reason.ALLOWANCE
    assert run.examined == {}
    assert world.audit("beta", run, *notes[:5]).reason is None
    assert world.audit("gamma", run, *(violation(segment=(3 * i, 3 * i + 3)) for i in range(4))).reason is None
    world.check()


# --- what settles a run


def test_a_run_is_settled_when_enough_inspectors_passed_its_last_head() -> None:
    # Treaty 7.4
    world, run = audited_world()
    assert run.settlement == "open"
    world.audit("beta", run)
    world.audit("beta", run)
    assert run.settlement == "open"
    world.audit("gamma", run)
    assert run.settlement == "settled"
    assert [e.run for e in world.of(ev.Settled)] == [run.id]
    # A new head is not audited yet.
    world.head(run, "opened")
    world.train(run, 13, world.permit(run))
    world.head(run, "stopped")
    assert run.settlement == "open"
    world.check()


def test_a_run_that_took_no_step_has_nothing_to_settle() -> None:
    world = bound()
    run = world.declare("alpha")
    assert run.settlement == "settled"
    world.head(run, "opened")
    assert run.settlement == "settled"
    world.train(run, 1)
    world.head(run, "running")
    assert run.settlement == "open"
    world.check()


def test_who_could_not_check_has_tried() -> None:
    # Treaty 5.7
    world, run = audited_world()
    gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 3), detail="")
    for inspector, settlement in (("beta", "open"), ("gamma", "tried")):
        assert world.audit(inspector, run, gap, segments=()).reason is None
        assert run.settlement == settlement
    world.audit("delta", run)
    assert run.settlement == "tried"
    world.audit("beta", run)
    assert run.settlement == "settled"
    world.check()


def test_the_newest_audit_of_an_inspector_counts() -> None:
    world, run = audited_world()
    for inspector in LABS[1:]:
        world.audit(inspector, run)
    assert run.settlement == "settled"
    gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 3), detail="")
    world.audit("beta", run, gap, segments=())
    assert run.settlement == "tried"
    assert [run.examined[i].verdict for i in ("beta", "gamma")] == ["inconclusive", "pass"]
    world.check()


def test_a_barred_run_is_settled() -> None:
    # Treaty 5.6, 7.4
    world, run = audited_world(brake_findings_trip="false")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert (run.settlement, run.open_allegations) == ("settled", ())
    assert run.bar == audits.Bar(Fault.REPLAY_MISMATCH, (0, 3))
    assert world.of(ev.Settled) == []
    # What is said later changes nothing.
    world.audit("delta", run, violation(segment=(3, 6)))
    for inspector in OTHERS:
        assert world.audit(inspector, run).reason is None
    assert run.bar == audits.Bar(Fault.REPLAY_MISMATCH, (0, 3))
    assert len(world.of(ev.Barred)) == 1
    world.check()


def test_every_audit_that_counts_is_told() -> None:
    world, run = audited_world()
    world.audit("beta", run)
    world.audit("gamma", run, violation(), verdict="partial", segments=())
    world.audit("alpha", run)
    assert [(e.inspector, e.audit.verdict) for e in world.of(ev.Audited)] == [("beta", "pass"), ("gamma", "partial")]
    assert [(e.inspector, e.finding.key) for e in world.of(ev.Alleged)] == [("gamma", "replay-mismatch@0-3")]
    world.check()
