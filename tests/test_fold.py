"""What the log says. Every entry that does not count is kept with its own reason, and nothing in a log raises."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.encoding import b64encode, canonical, sha256
from brakeline.core.errors import BrakelineError, Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.fold import MAX_SKEW, Fold, RunRecord
from brakeline.core.keys import PrivateKey
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.reading import MAX_SUBJECTS
from brakeline.core.run import run_seed
from brakeline.core.statement import open_envelope
from vector import refused
from world import DAY, LABS, PARTIES, START, STEP_FLOP, World, key, model

DIGEST = "ab" * 32


def bound(**changes: str) -> World:
    """A world in which everybody is bound."""
    world = World(**changes)
    world.bind()
    return world


# --- who may say what


def test_an_honest_log_takes_everything() -> None:
    world = bound()
    run = world.finished("alpha")
    for inspector in ("beta", "gamma"):
        assert world.audit(inspector, run).reason is None
    world.vote("trip", "delta")
    world.read("speedup", 1.0, "beta")
    world.edge("alpha", "m", run=run.id)
    world.withdraw("gamma")
    assert {o.reason for o in world.fold.outcomes} == {None}
    assert {o.kind for o in world.fold.outcomes} == {
        *("stamp", "assent", "pledge", "withdrawal", "vote", "reading", "declaration", "edge", "head", "audit")
    }
    world.check()


def test_each_way_not_to_count() -> None:
    world = bound()
    vote = {"motion": "trip", "epoch": 0, "reason": "test"}
    stranger = PrivateKey(b"s" * 32)
    good = world.statement("alpha", "vote", vote)
    at_the_door = {
        Reason.FORGED: world.statement("alpha", "vote", vote, by=stranger, seq=50),
        Reason.FOREIGN: world.statement("alpha", "vote", vote, treaty=DIGEST, seq=51),
        Reason.EXPIRED: world.statement("alpha", "vote", vote, expires=world.now, not_before=0, seq=52),
        Reason.NOT_YET_VALID: world.statement("alpha", "vote", vote, not_before=world.now + MAX_SKEW + 1, seq=53),
        Reason.UNKNOWN_ISSUER: world.statement("omega", "vote", vote, by=stranger),
        Reason.WRONG_ROLE: world.statement("delta", "declaration", world.declaration()),  # Treaty 1.2
    }
    inside = {
        Reason.REPLAYED: world.statement("alpha", "vote", {**vote, "epoch": -1}, seq=54),
        Reason.UNDECLARED: world.statement("alpha", "head", head_body(), seq=55),
        Reason.PROHIBITED: world.statement("alpha", "declaration", world.declaration(purpose="profit"), seq=56),
    }
    for expected, data in at_the_door.items():
        with refused(expected):
            world.fold.authenticate(data)
        assert world.append(data).reason is expected
    for expected, data in inside.items():
        world.fold.authenticate(data)
        assert world.append(data).reason is expected
    assert world.append(good).reason is None
    with refused(Reason.DUPLICATE):
        world.fold.authenticate(good)
    assert world.append(good).reason is Reason.DUPLICATE
    assert (world.fold.outcomes[-1].kind, world.fold.outcomes[-1].issuer) == ("vote", "alpha")
    assert world.fold.seen("alpha", 2)
    assert not world.fold.seen("alpha", 3)
    # Another party's key, and one key under two names.
    assert world.append(world.statement("alpha", "vote", vote, by=key("beta"), seq=57)).reason is Reason.FORGED
    for name in ("beta", "gamma"):
        assert world.append(world.statement("alpha", "vote", vote, issuer=name, seq=58)).reason is Reason.FORGED
    assert world.fold.voters("trip") == {"alpha"}
    world.check()


def head_body() -> dict[str, object]:
    return {"run": DIGEST, "steps": 0, "root": DIGEST, "state": DIGEST, "flop": "0", "status": "opened"}


def test_a_vote_at_the_edges_of_time() -> None:
    world = bound()
    vote = {"motion": "trip", "epoch": 0, "reason": "test"}
    assert world.log("alpha", "vote", vote, not_before=world.now + MAX_SKEW, expires=world.now + DAY).reason is None
    assert world.log("beta", "vote", vote, not_before=0, expires=world.now).reason is Reason.EXPIRED
    assert world.phase is Phase.CLEAR
    assert world.log("beta", "vote", vote, not_before=0, expires=world.now + 1).reason is None
    assert world.phase is not Phase.CLEAR
    world.check()


def test_votes_expire_while_they_wait() -> None:
    world = bound()
    world.vote("trip", "alpha", expires=world.now + 5)
    world.stamp(5)
    assert world.fold.voters("trip") == frozenset()
    world.vote("trip", "beta")
    assert world.phase is Phase.CLEAR
    world.vote("trip", "gamma")
    assert world.phase is not Phase.CLEAR
    world.check()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}",
        b"garbage",
        b"\x00" * 70_000,
        b'{"payload":"","payloadType":"application/vnd.brakeline.vote.v1+json","signatures":[]}',
        canonical({"payload": "e30=", "payloadType": "x", "signatures": []}),
    ],
)
def test_rubbish_has_no_effect_and_is_kept(data: bytes) -> None:
    world = bound()
    before = {k: v for k, v in vars(world.fold).items() if k in ("brake", "votes", "pledges", "clock", "stamps")}
    assert world.append(data).reason is Reason.FORGED
    assert world.fold.outcomes[-1].text
    assert {k: v for k, v in vars(world.fold).items() if k in before} == before
    world.check()


BODIES = {
    "vote": {"motion": "trip", "epoch": 0, "reason": ""},
    "assent": {"text": DIGEST},
    "pledge": {"condition": "quorum none\n"},
    "reading": {
        "gauge": "speedup",
        "subject": "x",
        "inputs": DIGEST,
        "value": 1,
        "lower": 1,
        "upper": 1,
        "unit": "ratio",
        "complete": True,
        "alarms": [],
        "evidence": DIGEST,
    },
    "head": head_body(),
}


@given(
    kind=st.sampled_from([*BODIES, "declaration", "audit", "withdrawal", "permit", "nothing"]),
    body=st.sampled_from([*BODIES.values(), {}, {"reason": ""}]),
    field=st.sampled_from(["", "motion", "epoch", "text", "condition", "gauge", "lower", "steps", "flop", "run"]),
    value=st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=5), st.just([])),
)
def test_no_body_makes_the_fold_raise(kind: str, body: dict[str, object], field: str, value: object) -> None:
    world = World()
    outcome = world.append(world.statement("alpha", kind, {**body, field: value} if field else body))
    assert outcome.index == 1
    world.check()


@given(st.data())
def test_a_bent_entry_has_no_effect(data: st.DataObject) -> None:
    world = World()
    if data.draw(st.booleans()):
        entry = world.statement("alpha", "vote", BODIES["vote"])
    else:
        entry = world.checkpoint()
    at = data.draw(st.integers(0, len(entry) - 1))
    bent = entry[:at] + bytes([entry[at] ^ data.draw(st.integers(1, 255))]) + entry[at + 1 :]
    outcome = world.append(bent)
    # A stamp may lose the line of one witness and still have a quorum.
    assert outcome.reason is not None or world.fold.stamps[-1].size == 1
    assert world.fold.votes["trip"] == {}
    world.check()


def test_bodies_say_what_their_kind_says() -> None:
    world = bound()
    for kind, body in {
        "vote": {"motion": "stop", "epoch": 0, "reason": ""},
        "reading": {**BODIES["reading"], "extra": 1},
        "pledge": {"condition": "quorum nobody\n"},
        "permit": {},
        "declaration": {},
    }.items():
        assert world.log("alpha", kind, body).reason is Reason.FORGED
    assert world.log("alpha", "assent", Assent(text=DIGEST)).reason is Reason.FOREIGN
    for changes in ({"seq": -1}, {"expires": 0}, {"prev": "x"}):
        assert world.append(world.statement("alpha", "vote", BODIES["vote"], **changes)).reason is Reason.FORGED
    world.check()


# --- equivocation


def test_two_statements_with_one_number_are_both_void_and_kept_as_proof() -> None:
    # Treaty 2.4
    world = bound()
    world.vote("trip", "alpha")
    world.read("lineage", 2.0, "alpha")
    other = world.statement("alpha", "vote", {"motion": "lift", "epoch": 0, "reason": ""}, seq=2)
    assert world.append(other).reason is Reason.EQUIVOCATION
    assert world.fold.equivocators == {"alpha"}
    (proof,) = world.fold.equivocations
    first, second = open_envelope(proof.first), open_envelope(proof.second)
    assert (
        (first.statement.issuer, first.statement.seq) == (second.statement.issuer, second.statement.seq) == ("alpha", 2)
    )
    assert first.payload != second.payload
    assert proof.second == other
    assert world.fold.voters("trip") == frozenset()
    world.vote("trip", "beta")
    world.read("lineage", 2.0, "beta")
    assert world.phase is Phase.CLEAR
    assert world.vote("trip", "alpha")[0].reason is Reason.EQUIVOCATION
    assert world.read("lineage", 2.0, "alpha")[0].reason is Reason.EQUIVOCATION
    assert world.log("alpha", "pledge", Pledge(condition="quorum none\n")).reason is Reason.EQUIVOCATION
    assert world.append(other).reason is Reason.EQUIVOCATION
    world.check()


def test_a_party_that_equivocates_may_still_report_its_runs() -> None:
    world = bound()
    run = world.opened("alpha")
    world.append(world.statement("alpha", "vote", BODIES["vote"], seq=0))
    assert world.fold.equivocators == {"alpha"}
    assert world.head(run, "stopped").reason is None
    assert run.stopped
    world.check()


def test_equivocating_is_no_way_out_of_a_pledge() -> None:
    # Treaty 2.4, 2.5: duties end when the notice has passed, as after a withdrawal.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    world.append(world.statement("alpha", "vote", BODIES["vote"], seq=0))
    assert world.declare("alpha").bound
    world.stamp(START + world.treaty.withdrawal_notice - 1 - world.now)
    assert "alpha" in world.fold.bound().active
    world.stamp(1)
    assert "alpha" not in world.fold.bound().active
    world.check()


def test_the_same_statement_twice_is_no_equivocation() -> None:
    world = bound()
    world.vote("trip", "alpha")
    assert world.append(world.entries[-1]).reason is Reason.DUPLICATE
    assert world.fold.equivocations == []
    assert world.fold.voters("trip") == {"alpha"}
    world.check()


def test_a_statement_held_back_does_not_undo_a_newer_one() -> None:
    world = bound()
    late = {
        "vote": world.statement("alpha", "vote", BODIES["vote"]),
        "reading": world.statement("alpha", "reading", {**BODIES["reading"], "subject": "everything"}),
        "withdrawal": world.statement("alpha", "withdrawal", {"reason": ""}),
        "pledge": world.statement("alpha", "pledge", {"condition": "quorum none\n"}, expires=world.now + 2 * DAY),
    }
    world.vote("trip", "alpha")
    world.read("speedup", 9.0, "alpha")
    world.log("alpha", "pledge", Pledge(condition="quorum none\n"), expires=world.now + 2 * DAY)
    for data in late.values():
        assert world.append(data).reason is Reason.REPLAYED
    assert world.fold.withdrawals == {}
    assert world.fold.pledges["alpha"][0].expires == world.now + 2 * DAY
    assert world.fold.readings.standing["speedup", "everything"]["alpha"].reading.lower == 9.0
    world.check()


# --- stamps: time and beacons


def test_time_is_what_the_log_records_of_its_witnesses() -> None:
    # Treaty 6.2
    world = World()
    assert world.fold.clock == START
    world.append(world.checkpoint(now=START + 7))
    assert world.fold.clock == START + 7
    assert world.append(world.checkpoint(now=START + 3)).reason is None
    assert world.fold.clock == START + 7
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
    assert world.append(world.checkpoint(size=world.fold.size + 9, root=bytes(32))).reason is Reason.ROLLBACK
    assert len(world.fold.stamps) == 2
    world.check()


def test_another_history_under_a_quorum_is_kept_as_a_fork() -> None:
    world = bound()
    lie = world.checkpoint(size=3, root=sha256(b"another history"))
    clock = world.fold.clock
    world.now += 100
    assert world.append(lie).reason is Reason.EQUIVOCATION
    assert world.fold.forks == [lie]
    assert world.fold.clock == clock
    world.check()


def test_a_run_is_seeded_by_the_first_stamp_after_its_declaration() -> None:
    # Treaty 7.1, 7.3: neither the seed nor a sample's beacon exists when the run commits.
    world = bound()
    before = world.checkpoint()
    world.log("alpha", "declaration", world.declaration())
    run = next(iter(world.fold.runs.values()))
    world.append(before)
    assert run.seed is None
    world.stamp()
    first = world.fold.stamps[-1]
    world.stamp()
    assert run.seed == run_seed(run.id, first.beacon)
    world.check()


# --- who is bound


def test_a_party_assents_and_pledges_and_is_bound() -> None:
    # Treaty 2.1, 2.2
    world = World()
    world.log("gamma", "pledge", Pledge(condition="quorum none\n"))
    world.log("alpha", "pledge", Pledge(condition="quorum beta\n"))
    assert world.fold.bound().active == frozenset()
    world.log("alpha", "assent", Assent(text=world.treaty.digest))
    assert world.fold.bound().deleted == ("alpha",)
    world.bind("beta", condition="quorum alpha\n")
    assert world.fold.bound().active == {"alpha", "beta"}
    world.check()


def test_nothing_binds_before_the_treaty_is_in_force() -> None:
    # Treaty 2.3: and votes that were cast before then count from that moment on.
    begins = START - 10_000
    world = World(start=begins - 10)
    world.bind()
    world.vote("trip", *LABS)
    world.vote("lift", *LABS)
    world.stamp(9)
    assert world.fold.bound().active == frozenset()
    assert world.phase is Phase.CLEAR
    # Votes to lift that were cast before the trip lift nothing (Treaty 8.1), however the trip came about.
    world.stamp(1)
    assert world.fold.bound().active == frozenset(PARTIES)
    assert (world.phase, world.fold.brake.epoch) == (Phase.PAUSED, 1)
    world.check()


def test_a_pledge_ends_when_it_said() -> None:
    world = World()
    world.bind(expires=START + 50)
    world.stamp(49)
    assert world.fold.bound().active == frozenset(PARTIES)
    world.stamp(1)
    assert world.fold.bound().active == frozenset()
    world.check()


def test_leaving_takes_notice() -> None:
    # Treaty 2.5
    world = World()
    world.bind(expires=START + 1000 * DAY)
    assert world.withdraw("alpha").reason is None
    assert world.withdraw("beta").reason is None
    world.stamp(DAY)
    assert world.withdraw("alpha").reason is None  # a second one does not start the notice again
    # A party may stay after all.
    renewed = Pledge(condition="quorum none\n")
    assert world.log("beta", "pledge", renewed, expires=START + 1000 * DAY).reason is None
    world.stamp(world.treaty.withdrawal_notice - DAY - 1)
    assert world.fold.bound().active == frozenset(PARTIES)
    world.stamp(1)
    assert world.fold.bound().active == {"beta", "gamma", "delta"}
    world.check()


def test_a_pledge_in_force_cannot_be_weakened() -> None:
    # Treaty 2.5: else a pledge that can never hold would be the way out without notice.
    world = World()
    world.bind("alpha", condition="quorum beta\n")
    weak = Pledge(condition="group every all beta gamma delta\nquorum every\n")
    assert world.log("alpha", "pledge", weak).reason is None  # it is not bound yet
    world.bind("beta", "gamma", "delta")
    assert "alpha" in world.fold.bound().active
    for condition, expires in (
        ("quorum beta\n", START + 9 * DAY),
        (weak.condition, world.now + 1),
        ("quorum none\n", world.now + 1),
    ):
        outcome = world.log("alpha", "pledge", Pledge(condition=condition), expires=expires)
        assert outcome.reason is Reason.PROHIBITED
    for condition in (weak.condition, "quorum none\n"):
        assert world.log("alpha", "pledge", Pledge(condition=condition), expires=START + 9 * DAY).reason is None
    world.check()


def test_the_word_of_parties_that_are_not_bound_does_not_count() -> None:
    world = World()
    world.bind("alpha", "beta")
    world.vote("trip", "gamma", "delta")
    world.read("lineage", 5.0, "gamma", "delta")
    assert world.fold.voters("trip") == frozenset()
    assert world.phase is Phase.CLEAR
    world.bind("gamma")
    assert world.fold.voters("trip") == {"gamma"}
    world.vote("trip", "alpha")
    assert world.phase is not Phase.CLEAR
    world.check()


# --- runs


def test_a_run_is_declared_once_under_a_name() -> None:
    world = bound()
    run = world.declare("alpha")
    assert (run.owner, run.covered, run.bound, run.lineage_flop) == ("alpha", True, True, 30 * STEP_FLOP)
    again = world.log("alpha", "declaration", world.declaration(recipe=DIGEST))
    assert again.reason is Reason.DUPLICATE
    assert world.log("beta", "declaration", world.declaration()).reason is None
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"recipe": "x"},
        {"dataset": DIGEST.upper()},
        {"environment": ""},
        {"steps": 0},
        {"segment_steps": 0},
        {"flop_per_step": "0"},
        {"flop_per_step": "-1"},
        {"flop_per_step": "1e9"},
        {"flop_per_step": "٣"},
        {"flop_per_step": str(10**41)},
        {"parents": ("x",)},
        {"parents": (DIGEST, DIGEST)},
        {"rung": "trusted"},
    ],
)
def test_a_declaration_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    body = {**plain(world), **changes}
    assert world.log("alpha", "declaration", body).reason is Reason.FORGED
    world.check()


def plain(world: World) -> dict[str, object]:
    d = world.declaration()
    return {f: getattr(d, f) for f in d.__struct_fields__} | {"parents": list(d.parents)}


def test_compute_follows_the_weights() -> None:
    # Treaty 3.4, attacks: ten runs below the threshold are one run above it.
    world = bound()
    parents: tuple[str, ...] = ()
    for i in range(1, 13):
        run = world.declare(LABS[i % 3], name=f"part {i}", steps=1, parents=parents)
        assert run.lineage_flop == i * STEP_FLOP
        assert run.covered is (i > 10)
        parents = (run.id,)
    # A common ancestor counts once.
    root, *_ = world.fold.runs.values()
    left = world.declare("alpha", name="left", steps=1, parents=(root.id,))
    right = world.declare("beta", name="right", steps=1, parents=(root.id,))
    both = world.declare("gamma", name="both", steps=1, parents=tuple(sorted((left.id, right.id))))
    assert both.lineage_flop == 4 * STEP_FLOP
    world.check()


def test_a_parent_must_be_declared() -> None:
    world = bound()
    assert world.log("alpha", "declaration", world.declaration(parents=(DIGEST,))).reason is Reason.UNDECLARED
    world.check()


def test_exemptions_are_those_of_the_treaty() -> None:
    # Treaty 3.2: a large exempt run is not covered, but what descends from it carries its compute.
    world = bound()
    exempt = world.declare("alpha", name="serving", purpose="inference")
    assert not exempt.covered
    child = world.declare("alpha", name="child", steps=1, parents=(exempt.id,))
    assert child.covered
    assert world.log("alpha", "declaration", world.declaration(purpose="safety")).reason is Reason.PROHIBITED
    world.check()


def test_a_run_of_a_party_that_is_not_bound_is_not_stopped() -> None:
    world = World()
    world.bind("beta", "gamma", "delta")
    run = world.opened("alpha")
    assert (run.covered, run.bound) == (True, False)
    assert list(world.fold.covered_runs()) == []
    world.bind("alpha")
    assert list(world.fold.covered_runs()) == [run]
    world.check()


def test_attested_runs_are_admitted_where_the_treaty_says_so() -> None:
    # Treaty 7.8: behind such a run stands the lab's word, so having stopped is all that can be settled.
    world = bound()
    run = world.opened("alpha", rung="attested")
    assert not world.fold.audited(run)
    world.head(run, "stopped")
    assert world.fold.audited(run)
    world.check()
    strict = bound(audit_attested_runs="false")
    assert strict.log("alpha", "declaration", strict.declaration(rung="attested")).reason is Reason.PROHIBITED
    strict.check()


# --- heads


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
    assert run.last is not None
    assert run.last.steps == 1
    world.check()


def test_only_its_lab_reports_a_run() -> None:
    world = bound()
    run = world.declare("alpha")
    assert world.log("beta", "head", world.head_of(run, "opened")).reason is Reason.FOREIGN
    other = world.head_of(run, "opened", run=DIGEST)
    assert world.log("alpha", "head", other).reason is Reason.UNDECLARED
    world.check()


def test_heads_never_contradict_each_other() -> None:
    # Attacks: what was committed once stays the run's past.
    world = bound()
    run = world.opened("alpha")
    world.train(run, 6)
    assert world.head(run, "running").reason is None
    assert world.head(run, "running").reason is None
    for changes in ({"steps": 5}, {"root": DIGEST}, {"state": DIGEST}):
        assert world.head(run, "running", **changes).reason is Reason.EQUIVOCATION
    world.leaves[run.id] = world.leaves[run.id][:4]
    world.train(run, 5)
    assert world.head(run, "stopped").reason is Reason.EQUIVOCATION
    assert len(run.heads) == 3
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 31, "flop": str(31 * STEP_FLOP)},
        {"steps": 31},
        {"steps": -1},
        {"flop": "1"},
        {"flop": "06"},
        {"root": "x"},
        {"state": ""},
        {"status": "paused"},
    ],
)
def test_a_head_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    run = world.opened("alpha")
    honest = world.head_of(run, "running")
    body = {f: getattr(honest, f) for f in honest.__struct_fields__} | changes
    assert world.log("alpha", "head", body).reason is Reason.FORGED
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
    assert run.junctions == {6}
    assert world.head(run, "ended").reason is None
    assert world.head(run, "opened").reason is Reason.REPLAYED
    world.check()


# --- audits


def violation(fault: Fault = Fault.REPLAY_MISMATCH, segment: tuple[int, int] = (0, 3)) -> Finding:
    return Finding(fault=fault, severity="violation", segment=segment, detail="test")


def audited_world(**changes: str) -> tuple[World, RunRecord]:
    world = bound(**changes)
    return world, world.finished("alpha")


def test_a_sample_follows_from_head_beacon_and_ticket() -> None:
    # Treaty 7.3
    world, run = audited_world(audit_p_catch='"60 %"')
    logged = run.heads[-1]
    samples = set()
    for inspector in ("beta", "gamma", "delta"):
        ticket = world.ticket(inspector, logged)
        parts = world.fold.required_sample(run, logged, inspector, ticket)
        assert parts[0] == (0, 3)
        assert parts[-1] == (9, 12)
        samples.add(parts)
        with refused(Reason.FORGED):
            world.fold.required_sample(run, logged, inspector, ticket[:-1] + bytes([ticket[-1] ^ 1]))
        for bad in (b"", bytes(64), world.ticket("alpha", logged)):
            with refused(Reason.FORGED):
                world.fold.required_sample(run, logged, inspector, bad)
    world.head(run, "opened")
    with refused(Reason.MISSING):
        world.fold.required_sample(run, run.heads[-1], "beta", b"")
    world.check()


def test_seams_are_always_in_the_sample() -> None:
    # Treaty 7.4, attack A-05
    world = bound(audit_p_catch='"10 %"', permit_allowance='"40 GFLOP"')
    run = world.opened("alpha")
    for stop in (7, 15, 30):
        world.train(run, stop, world.permit(run))
        world.head(run, "stopped")
        world.head(run, "opened")
    world.stamp()
    logged = run.heads[-1]
    parts = world.fold.required_sample(run, logged, "beta", world.ticket("beta", logged))
    assert {(0, 3), (6, 9), (12, 15), (15, 18), (27, 30)} <= set(parts)
    assert len(parts) < 10
    world.check()


def test_a_run_of_a_quadrillion_steps_hangs_nobody() -> None:
    # A lab may claim any number of steps; the sample is drawn by arithmetic.
    world = bound(audit_p_catch='"99 %"', audit_f_cheat='"1 %"', permit_allowance='"1 EFLOP"')
    steps = 2**53 - 1
    run = world.opened("alpha", steps=steps, flop_per_step="1")
    head = {**head_body(), "run": run.id, "steps": steps, "flop": str(steps), "status": "stopped"}
    assert world.log("alpha", "head", head).reason is None
    world.stamp()
    assert world.audit("beta", run).reason is None
    assert 450 < len(run.audits[0][2].segments) < 470
    world.check()


def test_an_audit_that_does_not_count() -> None:
    world, run = audited_world()
    logged = run.heads[-1]
    cases = [
        ("alpha", {}, Reason.WRONG_ROLE),
        ("beta", {"run": DIGEST}, Reason.UNDECLARED),
        ("beta", {"beacon": 0}, Reason.FOREIGN),
        ("beta", {"segments": ((0, 3),)}, Reason.MISSING),
        ("beta", {"ticket": b64encode(world.ticket("gamma", logged))}, Reason.FORGED),
        ("beta", {"ticket": ""}, Reason.FORGED),
        ("beta", {"verdict": "fail"}, Reason.FORGED),
        ("beta", {"verdict": "pass", "findings": (violation(),)}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(1, 2)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(0, 4)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(1, 4)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(9, 11)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(12, 12)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(segment=(-3, 0)),), "verdict": "fail"}, Reason.FORGED),
        ("beta", {"findings": (violation(Fault.STEP_ORDER, (5, 13)),), "verdict": "fail"}, Reason.FORGED),
    ]
    for inspector, changes, expected in cases:
        outcome = world.audit(inspector, run, **changes)
        assert outcome.reason is expected, (changes, outcome)
    wrong = world.audit_of("beta", run)
    body = {f: getattr(wrong, f) for f in wrong.__struct_fields__} | {"head": 1, "findings": [], "segments": []}
    assert world.log("beta", "audit", body).reason is Reason.FOREIGN
    assert run.audits == []
    assert not world.fold.audited(run)
    world.check()


def test_only_inspectors_audit() -> None:
    # Treaty 1.2
    world, run = audited_world(**{"party.delta.roles": '["log", "witness", "permit-signer"]'})
    assert world.audit("delta", run).reason is Reason.WRONG_ROLE
    world.check()


def test_a_run_is_audited_when_enough_inspectors_passed_its_last_head() -> None:
    world, run = audited_world()
    world.audit("beta", run)
    world.audit("beta", run)
    assert not world.fold.audited(run)
    world.audit("gamma", run)
    assert world.fold.audited(run)
    # A new head is not audited yet.
    world.head(run, "opened")
    world.train(run, 13, world.permit(run))
    world.head(run, "stopped")
    assert not world.fold.audited(run)
    world.check()


def test_one_inspector_upholds_nothing() -> None:
    # Treaty 7.7
    world, run = audited_world()
    for _ in range(3):
        world.audit("beta", run, violation())
    assert (run.barred, world.phase) == ("", Phase.CLEAR)
    assert world.fold.disputed(run) == ((Fault.REPLAY_MISMATCH, (0, 3)),)
    world.check()


def test_two_inspectors_uphold_a_finding_in_their_own_words() -> None:
    # Treaty 7.7, 4.4, 5.6
    world, run = audited_world()
    world.audit("beta", run, violation())
    other = Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=(0, 3), detail="other words")
    world.audit("gamma", run, other)
    assert run.barred == "replay-mismatch at steps 0-3"
    assert world.fold.disputed(run) == ()
    assert world.phase is Phase.PAUSED
    assert "adjudicated" in world.fold.brake.cause
    assert world.fold.audited(run)  # barred is settled
    world.check()


@pytest.mark.parametrize(
    "second",
    [
        violation(segment=(3, 6)),
        violation(Fault.OPENING_MISMATCH),
        Finding(fault=Fault.REPLAY_MISMATCH, severity="notice", segment=(0, 3), detail=""),
        Finding(fault=Fault.REPLAY_MISMATCH, severity="gap", segment=(0, 3), detail=""),
    ],
)
def test_two_inspectors_who_do_not_agree_uphold_nothing(second: Finding) -> None:
    world, run = audited_world()
    world.audit("beta", run, violation())
    world.audit("gamma", run, second)
    assert run.barred == ""
    world.check()


def test_a_finding_trips_only_where_the_treaty_says_so() -> None:
    world, run = audited_world(brake_findings_trip="false")
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert run.barred
    assert world.phase is Phase.CLEAR
    world.check()


def test_an_allegation_falls_when_as_many_replayed_the_segment() -> None:
    world, run = audited_world()
    world.audit("beta", run, violation())
    world.audit("gamma", run)
    assert world.fold.disputed(run)
    world.audit("delta", run, segments=((0, 3),), verdict="partial")
    assert world.fold.disputed(run) == ()
    assert not world.fold.audited(run)  # one pass is not two
    world.audit("delta", run)
    assert world.fold.audited(run)
    world.check()


@pytest.mark.parametrize("fault", [Fault.TRANSCRIPT_MISMATCH, Fault.NO_PERMIT, Fault.OPENING_MISSING])
def test_an_allegation_against_the_whole_transcript_falls_too(fault: Fault) -> None:
    # Else one dishonest inspector could keep the brake on for ever.
    world, run = audited_world()
    world.audit("beta", run, violation(fault, (0, 0)))
    world.audit("gamma", run)
    assert world.fold.disputed(run)
    assert not world.fold.audited(run)
    world.audit("delta", run)
    assert world.fold.disputed(run) == ()
    assert world.fold.audited(run)
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
    assert world.fold.disputed(run)
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
    assert run.barred
    world.check()


# --- trips and lifts


def test_votes_trip_the_brake() -> None:
    # Treaty 4.1, 5.5
    world = bound()
    world.vote("trip", "alpha")
    assert world.phase is Phase.CLEAR
    world.vote("trip", "alpha")  # again: still one party
    assert world.phase is Phase.CLEAR
    world.vote("trip", "delta")
    assert (world.phase, world.fold.brake.epoch) == (Phase.PAUSED, 1)
    assert world.fold.brake.cause == "votes of alpha, delta"
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
    # Treaty 4.5: the permit of a signer on a view not yet stale, at its longest.
    world = bound()
    run = world.opened("alpha")
    world.trip()
    lapse = world.treaty.stale_after + world.treaty.permit_lifetime
    world.stamp(lapse - 1)
    assert world.phase is Phase.TRIPPED
    assert world.fold.unmet() == ("run has not stopped",)
    world.stamp(1)
    assert world.phase is Phase.PAUSED
    # Who never logs a stop cannot block the lift, may still do so, and may not go on.
    assert world.fold.unmet() == ()
    world.train(run, 1)
    assert world.head(run, "running").reason is Reason.PAUSED
    assert world.head(run, "stopped").reason is None
    world.check()


def trip_by_readings(*readings: tuple[str, float, tuple[str, ...]], **changes: str) -> World:
    world = bound(**changes)
    for gauge, lower, parties in readings:
        world.read(gauge, lower, *parties)
    world.check()
    return world


TWO = ("alpha", "beta")


@pytest.mark.parametrize(
    ("readings", "trips"),
    [
        ([("authorship", 0.8, TWO), ("speedup", 4.0, TWO)], True),  # two classes
        ([("authorship", 0.8, TWO), ("speedup", 4.0, ("gamma", "delta"))], True),  # whoever they are
        ([("lineage", 1.0, TWO)], True),  # Treaty 4.3: safety suffices alone
        ([("authorship", 0.8, PARTIES)], False),  # one class
        ([("speedup", 4.0, PARTIES)], False),
        ([("lineage", 1.0, ("alpha",))], False),  # one party's reading is a claim
        ([("lineage", 1.0, ("alpha", "alpha"))], False),
        ([("authorship", 0.8, TWO), ("speedup", 4.0, ("alpha",))], False),
        ([("lineage", 0.999, PARTIES)], False),  # by its lower bound, at the threshold
        ([("authorship", 0.8, TWO), ("speedup", 3.999, PARTIES)], False),
    ],
)
def test_what_readings_trip(readings: list[tuple[str, float, tuple[str, ...]]], trips: bool) -> None:
    # Treaty 4.2
    world = trip_by_readings(*readings)
    assert (world.phase is not Phase.CLEAR) is trips
    assert world.fold.brake.cause.startswith("readings: ") is trips


def test_the_newest_reading_counts_until_it_expires() -> None:
    world = bound()
    world.read("lineage", 2.0, "alpha")
    world.read("lineage", 0.5, "alpha")
    world.read("lineage", 2.0, "beta", expires=world.now + 3)
    assert world.phase is Phase.CLEAR
    world.stamp(3)
    world.read("lineage", 2.0, "alpha")
    assert world.phase is Phase.CLEAR
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"gauge": "vibes"},
        {"unit": "percent"},
        {"lower": 3},
        {"upper": 0},
        {"value": "1"},
        {"lower": True},
        {"subject": ""},
        {"subject": "a\nb"},
        {"subject": "x" * 201},
        {"inputs": "ab"},
        {"evidence": ""},
        {"alarms": ["anchors"]},  # only a safety gauge has any
    ],
)
def test_a_reading_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    body = {**BODIES["reading"], "value": 2, "upper": 4}
    assert world.log("alpha", "reading", body).reason is None
    assert world.log("alpha", "reading", {**body, **changes}).reason is Reason.FORGED
    world.check()


@pytest.mark.parametrize("alarms", [["b", "a"], ["a", "a"], [""], ["\n"]])
def test_alarms_are_sorted_distinct_and_printable(alarms: list[str]) -> None:
    world = bound()
    body = {**BODIES["reading"], "gauge": "lineage", "unit": "growth"}
    assert world.log("alpha", "reading", {**body, "alarms": ["a", "b"]}).reason is None
    assert world.log("alpha", "reading", {**body, "alarms": alarms}).reason is Reason.FORGED


OTHER = sha256(b"other inputs").hex()


@pytest.mark.parametrize(
    ("second", "disagree"),
    [
        ({"inputs": OTHER}, False),  # another measurement
        ({"subject": "something else"}, False),
        ({"from": 7.0}, True),  # as high, and yet not the same
        ({"from": -1.0, "upper": 0.9}, True),
        ({"alarms": ("anchors",)}, True),
        ({"complete": False}, True),
    ],
)
def test_a_reading_counts_when_a_second_party_found_the_same(second: dict[str, Any], disagree: bool) -> None:
    # Treaty 4.8
    world = bound()
    world.read("lineage", 2.0, "alpha")
    changes = dict(second)
    world.read("lineage", changes.pop("from", 2.0), "beta", **changes)
    assert world.phase is Phase.CLEAR
    readings = world.fold.readings
    assert [(d.first[0], d.second[0]) for d in readings.disagreements] == [("alpha", "beta")] * disagree
    world.read("lineage", 2.0, "gamma", upper=3.5)  # agrees with alpha
    assert world.phase is Phase.PAUSED
    world.check()


def test_who_disagrees_can_neither_hide_a_reading_nor_raise_it() -> None:
    # Treaty 4.8: the honest value is about 0.5; the liar's bounds include it, reach the threshold, or lie elsewhere.
    for lower, upper in ((0.0, 99.0), (0.4, 0.6), (50.0, 99.0), (1.0, 1.5)):
        world = bound()
        world.read("lineage", 0.4, "alpha", "beta", value=0.5, upper=1.2)
        world.read("lineage", lower, "gamma", value=lower, upper=upper)
        assert world.phase is Phase.CLEAR
        world.read("lineage", 1.1, "alpha", "beta", value=1.1, upper=1.2)
        assert world.phase is Phase.PAUSED
        world.check()


def test_an_alarm_suffices_when_two_parties_raise_it() -> None:
    # Treaty 4.3
    world = bound()
    world.read("lineage", 0.0, "alpha", alarms=("ancestry",))
    assert world.phase is Phase.CLEAR
    world.read("lineage", 0.0, "beta", alarms=("ancestry",))
    assert world.fold.brake.cause == "readings: lineage"
    world.check()


def share(world: World, lower: float, upper: float, *parties: str, **changes: Any) -> None:
    world.read("authorship", lower, *parties, value=lower, upper=upper, **changes)


def test_a_gauge_that_doubles_fast_counts_below_its_threshold() -> None:
    # Treaty 4.9; the example: authorship from 0.3 within 120 days, threshold 0.8
    for first, wait, second, counts in (
        ((0.15, 0.2), 30 * DAY, (0.4, 0.5), True),
        ((0.15, 0.21), 30 * DAY, (0.4, 0.5), False),  # by the earlier upper bound, not yet doubled
        ((0.05, 0.1), 30 * DAY, (0.29, 0.4), False),  # below the floor
        ((0.15, 0.2), 121 * DAY, (0.4, 0.5), False),  # too slow
    ):
        world = World()
        world.bind(expires=START + 1000 * DAY)
        world.read("speedup", 4.0, *TWO, expires=world.now + 1000 * DAY)
        share(world, *first, *TWO)
        world.stamp(wait)
        share(world, *second, "alpha")
        assert world.phase is Phase.CLEAR  # a claim
        share(world, *second, "gamma")
        assert (world.phase is not Phase.CLEAR) is counts, (first, wait, second)
        world.check()


def test_what_one_party_read_earlier_is_no_start_of_growth() -> None:
    # Treaty 4.9: else one party could make slow growth look fast.
    world = bound()
    world.read("speedup", 4.0, *TWO)
    share(world, 0.0, 0.01, "alpha")
    world.stamp(DAY // 2)
    share(world, 0.4, 0.5, *TWO)
    assert world.phase is Phase.CLEAR
    world.check()


def test_one_party_has_so_many_readings_in_force() -> None:
    world = bound()
    for i in range(MAX_SUBJECTS):
        assert world.read("speedup", 1.0, "alpha", subject=f"s{i}", expires=world.now + 5)[0].reason is None
    assert world.read("speedup", 1.0, "alpha", subject="more")[0].reason is Reason.ALLOWANCE
    assert world.read("speedup", 1.0, "alpha", subject="s1", expires=world.now + 5)[0].reason is None
    assert world.read("lineage", 0.0, "alpha", subject="more")[0].reason is None
    world.stamp(6)
    assert world.read("speedup", 1.0, "alpha", subject="more")[0].reason is None
    world.check()


def parent_and_child(**changes: str) -> tuple[World, RunRecord, RunRecord]:
    world = bound(**changes)
    parent = world.opened("alpha", name="parent")
    return world, parent, world.opened("beta", name="child", parents=(parent.id,))


def test_a_successor_trains_once_its_parent_has_a_safety_reading() -> None:
    # Treaty 5.8
    world, parent, child = parent_and_child()

    def permitted() -> bool:
        if not world.fold.unread(child):
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
    assert not permitted()  # it made another model, too
    world.read("lineage", 0.1, "alpha", subject=model("n"))  # its own word
    assert not permitted()
    world.read("lineage", 9.0, "gamma", subject=model("n"), inputs=OTHER)
    assert not permitted()
    world.read("lineage", 0.1, "beta", subject=model("n"), expires=world.now + 50)
    assert permitted()
    world.stamp(50)
    assert not permitted()  # the reading has expired
    world.check()


def test_an_incomplete_safety_reading_reassures_nobody() -> None:
    # Treaty 5.8
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", 0.0, *TWO, subject=model("m"), complete=False)
    assert (world.phase, world.fold.unread(child)) == (Phase.CLEAR, (parent.id,))
    world.read("lineage", 0.0, *TWO, subject=model("m"))
    assert world.fold.unread(child) == ()
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
    assert world.fold.unread(child) == (parent.id,)
    world.check()


def test_an_edge_tells_the_same_story_as_the_declaration() -> None:
    # Treaty 3.5
    world, parent, child = parent_and_child()
    assert world.edge("beta", "m", run=parent.id).reason is Reason.FOREIGN
    assert world.edge("alpha", "m", run="ab" * 32).reason is Reason.UNDECLARED
    assert world.edge("alpha", "m", run=parent.id, recipe="x").reason is Reason.FORGED
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
    assert world.fold.models(child.id) == (model("c"),)
    world.check()


def test_a_treaty_may_do_without_the_lineage_gate() -> None:
    # Treaty 5.8
    world, _, child = parent_and_child(permit_lineage_gate="false")
    world.grant(world.request(child))


def lift(world: World, *parties: str) -> None:
    world.vote("lift", *(parties or LABS))


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
    assert (world.phase, world.fold.brake.epoch) == (Phase.CLEAR, 1)
    # Nothing said before the release counts again.
    assert world.fold.voters("lift") == frozenset()
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
    still = "gauge lineage still reaches its threshold"
    # Of a run that has not stopped, no more than the opening is committed, so nothing waits for an audit.
    assert world.fold.unmet() == ("run has not stopped", still)
    world.head(run, "stopped")
    assert world.fold.unmet() == ("run is not audited at its last head", still)
    world.stamp()
    assert world.phase is Phase.PAUSED
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run)
    assert world.fold.unmet() == (still,)
    world.read("lineage", 0.1, "alpha")
    assert world.phase is Phase.CLEAR  # without delay, released at once
    world.check()


def test_a_run_that_cannot_be_settled_holds_up_nobody_and_gets_no_permit() -> None:
    # Treaty 5.7: its lab shows nothing that proves or disproves; the others go on, it waits.
    world = bound(lift_delay='"0 s"', audit_p_catch='"10 %"')
    run, other = world.finished("alpha", steps=12), world.finished("beta", steps=12)
    world.trip()
    for inspector in ("gamma", "delta"):
        world.audit(inspector, other)
        assert world.fold.unmet() != ()
        gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="test")
        world.audit(inspector, run, gap, verdict="inconclusive")
    assert world.fold.unmet() == ()
    lift(world)
    assert world.phase is Phase.CLEAR
    assert (run.held, other.held) == (True, False)
    for r, reason in ((other, None), (run, Reason.MISSING)):
        assert world.head(r, "opened").reason is None
        if reason is None:
            world.permit(r)
        else:
            with refused(reason):
                world.permit(r)
    world.stamp()
    for inspector in ("gamma", "delta"):
        world.audit(inspector, run)
    world.permit(run)
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
    replayed = {part for _, _, a in run.audits for part in a.segments}
    unseen = next((i, i + 3) for i in range(0, 30, 3) if (i, i + 3) not in replayed)
    world.audit("delta", run, violation(segment=unseen))
    assert (world.phase, world.fold.brake.epoch) == (Phase.PAUSED, 1)
    assert world.fold.unmet() == ("run is not audited at its last head",)
    for inspector in ("beta", "gamma"):
        assert world.phase is Phase.PAUSED
        world.audit(inspector, run, verdict="partial", segments=(unseen,))
    assert world.phase is Phase.LIFTING
    world.stamp(60)
    assert world.phase is Phase.CLEAR
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
        lift(world)
    world.stamp(60)
    assert world.phase is Phase.CLEAR
    assert world.head(run, "opened").reason is None
    world.check()


def test_the_brake_does_not_concern_a_run_that_is_not_covered() -> None:
    world = bound()
    small = world.opened("alpha", steps=10)
    world.trip()
    assert world.phase is Phase.PAUSED
    world.train(small, 5)
    assert world.head(small, "running").reason is None
    assert world.head(small, "opened").reason is None
    world.check()


def test_votes_to_lift_that_expire_withhold_the_lift() -> None:
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
    world = bound(lift_delay='"60 s"')
    world.trip()
    lift(world)
    world.vote("trip", "alpha", "delta")
    assert (world.phase, world.fold.brake.epoch) == (Phase.PAUSED, 2)
    world.stamp(100)
    assert world.phase is Phase.PAUSED
    world.check()


def test_readings_that_stood_when_the_lift_was_voted_do_not_trip_again() -> None:
    # Else a brake tripped by readings could be lifted only when they expire, condition or not.
    world = trip_by_readings(("lineage", 2.0, TWO))
    lift(world)
    assert world.phase is Phase.LIFTING
    world.read("lineage", 2.0, "alpha")  # one new one is a claim
    assert world.phase is Phase.LIFTING
    world.read("lineage", 2.0, "beta")  # two are not
    assert (world.phase, world.fold.brake.epoch) == (Phase.PAUSED, 2)
    lift(world)
    world.stamp(2)
    assert (world.phase, world.fold.brake.epoch) == (Phase.CLEAR, 2)
    world.check()


def test_a_finding_upheld_during_the_pause_does_not_trip_at_the_lift() -> None:
    world, run = audited_world()
    world.trip()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    assert (world.phase, bool(run.barred)) == (Phase.PAUSED, True)
    lift(world)
    assert (world.phase, world.fold.brake.epoch) == (Phase.LIFTING, 1)
    world.check()


def test_a_finding_trips_once() -> None:
    world, run = audited_world()
    for inspector in ("beta", "gamma"):
        world.audit(inspector, run, violation())
    lift(world)
    world.stamp(2)
    assert world.phase is Phase.CLEAR
    world.audit("delta", run, violation())
    assert (world.phase, world.fold.brake.epoch) == (Phase.CLEAR, 1)
    world.check()


def test_reading_the_state_does_not_change_it() -> None:
    world = bound()
    run = world.finished("alpha")
    world.audit("beta", run, violation())
    world.trip()
    lift(world)
    before = repr(vars(world.fold))
    world.fold.unmet()
    world.fold.bound()
    world.fold.voters("lift")
    world.fold.disputed(run)
    world.fold.audited(run)
    assert repr(vars(world.fold)) == before
    world.check()


def test_what_a_log_server_asks_leaves_no_trace() -> None:
    world = bound()
    before = repr(vars(world.fold))
    data = world.statement("alpha", "vote", BODIES["vote"])
    assert world.fold.authenticate(data).issuer == "alpha"
    for bad in (b"{}", world.statement("alpha", "vote", BODIES["vote"], seq=0)):
        with pytest.raises(BrakelineError):
            world.fold.authenticate(bad)
    assert repr(vars(world.fold)) == before
    world.check()


def test_an_empty_log_is_clear() -> None:
    fold = Fold(World().treaty)
    assert (fold.size, fold.brake.phase, fold.bound().active) == (0, Phase.CLEAR, frozenset())


# --- one dishonest party among four


def test_wide_bounds_do_not_open_the_lineage_gate() -> None:
    # Treaty 5.8: alpha alone has measured, and reads growth; the liar's bounds meet any.
    world, parent, child = parent_and_child()
    world.edge("alpha", "m", run=parent.id)
    world.read("lineage", 5.0, "alpha", subject=model("m"))
    world.read("lineage", -1e308, "gamma", subject=model("m"), value=0.0, upper=1e308)
    assert world.fold.unread(child) == (parent.id,)
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
        assert world.fold.unread(child) == ()
        assert world.phase is Phase.CLEAR


def test_a_reading_logged_again_makes_an_old_one_no_newer() -> None:
    # Treaty 4.9: doubled in 150 days is no growth within 120, whatever one party logs in between.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    world.read("speedup", 4.0, *TWO, expires=world.now + 1000 * DAY)
    share(world, 0.15, 0.2, *TWO, expires=world.now + 1000 * DAY)
    world.stamp(100 * DAY)
    share(world, 0.15, 0.2, "alpha")
    world.stamp(50 * DAY)
    share(world, 0.4, 0.5, "beta", "gamma")
    assert world.phase is Phase.CLEAR
    world.check()


def test_a_reading_logged_again_does_not_hide_growth() -> None:
    # Treaty 4.9: doubled in 60 days, and read so by two; a third one, later, moves the growth out of no window.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    share(world, 0.15, 0.2, *TWO)
    world.stamp(60 * DAY)
    share(world, 0.4, 0.5, *TWO, expires=world.now + 1000 * DAY)
    assert [t.gauge for t in world.fold.reached()] == ["authorship"]
    world.stamp(100 * DAY)
    share(world, 0.3, 0.5, "gamma")
    assert [t.gauge for t in world.fold.reached()] == ["authorship"]
    world.check()


def test_what_has_expired_is_forgotten() -> None:
    world = bound()
    for i in range(300):
        assert world.read("speedup", 1.0, "alpha", subject=f"s{i}", expires=world.now + 2)[0].reason is None
        share(world, 0.1, 0.2, "alpha", "beta")
        world.stamp(1)
    readings = world.fold.readings
    assert len(readings.standing) < 5
    assert len(readings.past[("authorship", "everything")]) <= 301
    world.stamp(121 * DAY)
    assert (readings.standing, readings.past) == ({}, {})
