"""Two-faced parties: numbers that only rise, proofs by two envelopes, and that nobody honest can be framed."""

from time import process_time
from typing import Any

import pytest

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.evidence import Evidence
from brakeline.core.keys import PrivateKey
from brakeline.core.pledge import Pledge
from brakeline.core.state import apply
from brakeline.core.state import events as ev
from brakeline.core.state.codec import encode
from brakeline.core.statement import open_envelope, pae, seal, sign
from world import DAY, START, Outcome, World, bound, key, last_numbers, plain, raw

DIGEST = "ab" * 32
TRIP = {"motion": "trip", "epoch": 0, "reason": "test"}
FORGED, UNKNOWN, FOREIGN, NOTHING = (
    {r} for r in (Reason.FORGED, Reason.UNKNOWN_ISSUER, Reason.FOREIGN, Reason.MALFORMED)
)
LIFT = {"motion": "lift", "epoch": 0, "reason": ""}


def evidence(world: World, by: str, one: bytes, two: bytes, *, swap: bool = False) -> Outcome:
    first, second = sorted((one.decode(), two.decode()))
    body = Evidence(first=second, second=first) if swap else Evidence(first=first, second=second)
    return world.log(by, "evidence", body)


def named(data: bytes) -> str:
    """A statement by its kind and the digest of its payload."""
    envelope = open_envelope(data)
    return f"{envelope.kind} {envelope.digest}"


# --- numbers


def test_two_statements_with_one_number_are_both_void() -> None:
    # Treaty 2.4
    world = bound()
    world.vote("trip", "alpha")
    mine = world.entries[-1]
    world.read("lineage", 2.0, "alpha")
    other = world.statement("alpha", "vote", LIFT, seq=2)
    assert world.append(other).reason is Reason.EQUIVOCATION
    assert world.state.members.equivocators == {"alpha"}
    (found,) = world.of(ev.Equivocated)
    assert (found.issuer, found.first, found.second) == ("alpha", named(mine), named(other))
    assert world.voters("trip") == frozenset()
    world.vote("trip", "beta")
    world.read("lineage", 2.0, "beta")
    assert world.phase is Phase.CLEAR
    assert world.vote("trip", "alpha")[0].reason is Reason.EQUIVOCATION
    assert world.read("lineage", 2.0, "alpha")[0].reason is Reason.EQUIVOCATION
    assert world.log("alpha", "pledge", Pledge(condition="quorum none\n")).reason is Reason.EQUIVOCATION
    assert world.append(other).reason is Reason.REPLAYED
    assert len(world.of(ev.Equivocated)) == 1
    world.check()


def test_a_lower_number_is_replayed_whatever_it_says() -> None:
    # Only the newest number of a lane is remembered: older doubles are proven by both envelopes.
    world = bound()
    world.vote("trip", "alpha")
    world.vote("trip", "alpha")
    for seq in range(3):
        assert world.append(world.statement("alpha", "vote", LIFT, seq=seq)).reason is Reason.REPLAYED
    assert world.state.members.equivocators == frozenset()
    assert world.voters("trip") == {"alpha"}
    assert world.append(world.statement("alpha", "vote", LIFT, seq=3)).reason is Reason.EQUIVOCATION
    world.check()


def test_numbers_may_skip_and_lanes_do_not_meet() -> None:
    world = World()
    one, two = (world.statement("alpha", kind, body, seq=5) for kind, body in (("vote", TRIP), ("meter", {})))
    assert world.append(one).reason is None
    assert world.append(two).reason is Reason.UNKNOWN_KIND
    assert last_numbers(world.state, "alpha") == [5, -1, -1, 5]
    assert world.append(world.statement("alpha", "declaration", world.declaration(), seq=5)).reason is None
    assert world.append(world.statement("alpha", "withdrawal", {"reason": ""}, seq=2**53 - 2)).reason is None
    assert world.append(world.statement("alpha", "vote", TRIP, seq=6)).reason is Reason.REPLAYED
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_the_same_statement_twice_is_no_equivocation() -> None:
    world = bound()
    world.vote("trip", "alpha")
    assert world.append(world.entries[-1]).reason is Reason.DUPLICATE
    assert world.of(ev.Equivocated) == []
    assert world.voters("trip") == {"alpha"}
    world.check()


@pytest.mark.parametrize("how", ["number", "evidence"])
def test_one_payload_of_two_kinds_is_two_statements(how: str) -> None:
    # What was a notice here and a report there was not said once, though the payload is the same to the byte.
    world = bound()
    request = world.log("beta", "request", {"party": "alpha", "text": "why?"})
    body = {"about": request.index, "text": "because"}
    one = world.statement("alpha", "report", body)
    other = world.statement("alpha", "notice", body, seq=0, prev=open_envelope(one).statement.prev)
    assert open_envelope(one).payload == open_envelope(other).payload
    assert world.append(one).reason is None
    if how == "number":
        assert world.append(other).reason is Reason.EQUIVOCATION
    else:
        world.read("speedup", 1.0, "alpha")
        assert world.append(other).reason is Reason.REPLAYED
        assert evidence(world, "beta", one, other).reason is None
    assert world.state.members.equivocators == {"alpha"}
    world.check()


def test_a_statement_held_back_does_not_undo_a_newer_one() -> None:
    world = bound()
    late = [
        world.statement("alpha", "vote", TRIP),
        world.statement("alpha", "reading", plain(world.reading("speedup", 1.0))),
        world.statement("alpha", "withdrawal", {"reason": ""}),
        world.statement("alpha", "pledge", {"condition": "quorum none\n"}, expires=world.now + 2 * DAY),
    ]
    world.vote("trip", "alpha")
    world.read("speedup", 9.0, "alpha")
    world.log("alpha", "pledge", Pledge(condition="quorum none\n"), expires=world.now + 2 * DAY)
    for data in late:
        assert world.append(data).reason is Reason.REPLAYED
    member = world.state.members.by_name["alpha"]
    assert member.leaves is None
    assert member.pledge is not None
    assert member.pledge.expires == world.now + 2 * DAY
    assert world.state.readings.shown["speedup", "everything"].by["alpha"].reading.lower == 9.0
    world.check()


@pytest.mark.parametrize("how", ["number", "evidence"])
def test_equivocating_is_no_way_out_of_a_pledge(how: str) -> None:
    # Treaty 2.4, 2.5: duties end when the notice has passed, as after a withdrawal.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    one, two = world.entries[2], world.statement("alpha", "pledge", {"condition": "quorum beta\n"}, seq=1)
    if how == "number":
        assert world.append(two).reason is Reason.EQUIVOCATION
    else:
        assert evidence(world, "beta", one, two).reason is None
    assert world.declare("alpha").bound
    world.stamp(START + world.treaty.withdrawal_notice - 1 - world.now)
    assert "alpha" in world.state.active
    world.stamp(1)
    assert "alpha" not in world.state.active
    assert world.of(ev.Bound)[-1].parties == ("beta", "delta", "gamma")
    world.check()


def test_a_party_that_equivocates_still_reports_its_runs() -> None:
    world = bound()
    run = world.opened("alpha")
    assert world.append(world.statement("alpha", "vote", TRIP, seq=1)).reason is Reason.EQUIVOCATION
    assert world.head(run, "stopped").reason is None
    assert run.stopped
    assert world.declare("alpha", name="another").owner == "alpha"
    world.check()


def test_a_party_that_equivocates_decides_no_tier() -> None:
    # Treaty 2.4, 3.7: what it had decided no longer counts, nor what it decides.
    for liar in (True, False):
        world = bound()
        run = world.opened("alpha", steps=10)
        body = {"run": run.id, "tier": "covered"}
        assert world.log("gamma", "designation", body).reason is None
        if liar:
            last = open_envelope(world.entries[-1]).statement.seq
            other = world.statement("gamma", "designation", body | {"tier": "prohibited"}, seq=last)
            assert world.append(other).reason is Reason.EQUIVOCATION
            assert world.state.members.equivocators == {"gamma"}
        for party in ("beta", "delta"):
            assert world.log(party, "designation", body).reason is None
        assert (run.chosen, run.covered) == (((), False) if liar else (("covered",), True))
        world.check()


def test_sixteen_thousand_doubles_cost_no_more_than_the_first() -> None:
    world = bound()
    world.vote("trip", "gamma")
    state, size = world.state, 0

    def cost(statements: list[bytes]) -> float:
        nonlocal state
        begun = process_time()
        for data in statements:
            state, _ = apply(state, data)
        return (process_time() - begun) / len(statements)

    def honest(n: int) -> list[bytes]:
        return [world.statement("beta", "vote", {**TRIP, "epoch": 9, "reason": str(n)}) for _ in range(200)]

    doubles = [world.statement("gamma", "vote", {**TRIP, "reason": str(i)}, seq=2) for i in range(16_000)]
    first, then = min(cost(honest(i)) for i in range(3)), cost(doubles[:400])
    size = len(encode(state))
    cost(doubles[400:-400])
    assert cost(doubles[-400:]) < 5 * then
    assert min(cost(honest(i)) for i in range(3)) < 5 * first
    assert len(encode(state)) < size + 16_000 * 60  # a leaf of the log's tail each, until the next stamp but one
    assert state.members.equivocators == {"gamma"}
    assert not any(isinstance(e, ev.Equivocated) for e in apply(state, doubles[0])[1])  # it is known


# --- evidence


def two(world: World, party: str = "alpha", seq: int = 0) -> tuple[bytes, bytes]:
    """Two statements of one number, neither of which the log has noticed."""
    return world.statement(party, "vote", TRIP, seq=seq), world.statement(party, "vote", LIFT, seq=seq)


def test_two_envelopes_prove_it_to_anybody() -> None:
    # Treaty 2.4: of a number long passed, brought by a party that is not even in force.
    world = World()
    world.bind("alpha", "beta", "gamma")
    world.vote("trip", "alpha")
    world.read("speedup", 1.0, "alpha", "beta")
    one, other = two(world)
    outcome = evidence(world, "delta", one, other)
    assert outcome.reason is None
    assert world.state.members.equivocators == {"alpha"}
    assert world.state.members.by_name["alpha"].equivocated == outcome.index
    assert world.voters("trip") == frozenset()
    assert world.state.readings.shown["speedup", "everything"].by.keys() == {"beta"}
    (found,) = world.of(ev.Equivocated)
    assert {found.first, found.second} == {named(x) for x in (one, other)}
    assert evidence(world, "gamma", one, other).reason is Reason.DUPLICATE
    assert world.vote("trip", "alpha")[0].reason is Reason.EQUIVOCATION
    world.check()


def test_a_proof_by_evidence_undoes_no_history() -> None:
    # Votes that tripped the brake have tripped it; whoever cast two falls out of the next count.
    world = bound()
    world.trip()
    assert evidence(world, "gamma", *two(world)).reason is None
    assert (world.phase, world.state.epoch) == (Phase.PAUSED, 1)
    world.vote("lift", "beta", "gamma")
    assert world.vote("lift", "alpha")[0].reason is Reason.EQUIVOCATION
    assert world.phase is Phase.PAUSED
    world.vote("lift", "delta")
    assert world.phase is Phase.LIFTING
    world.check()


def malleable(data: bytes) -> bytes:
    """The same statement under R ‖ S + L, which a lax library takes for another signature."""
    envelope = open_envelope(data)
    ((name, sig),) = envelope.signatures
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(sig[32:], "little") + order
    return seal(envelope.kind, envelope.payload, [(name, sig[:32] + s.to_bytes(32, "little"))])


def test_nobody_honest_can_be_framed() -> None:
    # Treaty 2.4: each of these is brought by a dishonest beta against alpha, who never said two things.
    world = bound()
    said, pledge = world.entries[1:3]
    kind, seq = open_envelope(said).kind, open_envelope(said).statement.seq
    assert (kind, seq, open_envelope(pledge).statement.issuer) == ("assent", 0, "alpha")
    stranger = PrivateKey(b"s" * 32)
    payload = open_envelope(said).payload
    ((name, signature),) = open_envelope(said).signatures
    cases: list[tuple[str, bytes, bytes, set[Reason]]] = [
        ("forged", said, world.statement("alpha", "vote", LIFT, seq=seq, by=key("beta"), issuer="alpha"), FORGED),
        ("stranger", said, world.statement("alpha", "vote", LIFT, seq=seq, by=stranger), FORGED | UNKNOWN),
        ("claimed", said, seal("vote", b"{}", [(name, key("beta").sign(pae("vote", b"{}")))]), FORGED),
        ("kind", said, seal("withdrawal", payload, [(name, signature)]), FORGED),
        ("malleable", said, malleable(said), FORGED),
        ("two signers", said, sign(kind, plain(open_envelope(said).statement), key("alpha"), key("beta")), FORGED),
        ("numbers", said, world.statement("alpha", "vote", LIFT, seq=seq + 1), NOTHING),
        ("lanes", said, world.statement("alpha", "reading", LIFT, seq=seq), NOTHING),
        ("unknown lane", said, world.statement("alpha", "meter", LIFT, seq=seq), NOTHING),
        ("treaty", said, world.statement("alpha", "vote", LIFT, seq=seq, treaty=DIGEST), FOREIGN),
        ("edge outside", said, world.statement("alpha", "edge", {}, seq=seq, treaty="0" * 64), FOREIGN),
        ("other party", said, world.statement("beta", "vote", LIFT, seq=seq), FORGED | FOREIGN),
        ("wrong name", said, world.statement("alpha", "vote", LIFT, seq=seq, issuer="beta"), FOREIGN),
        ("number", said, world.statement("alpha", "vote", LIFT, seq=-1), NOTHING),
        ("rubbish", said, raw("alpha", "vote", b"rubbish"), NOTHING),
        ("nest", said, raw("alpha", "vote", b"[" * 400 + b"]" * 400), NOTHING),
    ]
    for what, one, other, reasons in cases:
        outcome = evidence(world, "beta", one, other)
        assert outcome.reason in reasons, (what, outcome)
    body = Evidence(first=said.decode(), second=said.decode())
    assert world.log("beta", "evidence", body).reason is Reason.MALFORMED
    assert evidence(world, "beta", said, pledge).reason is Reason.MALFORMED
    for text in ("", "x", "{}", "é", said.decode() + " "):
        first, second = sorted((text, said.decode()))
        assert world.log("beta", "evidence", Evidence(first=first, second=second)).reason is Reason.MALFORMED
    assert evidence(world, "beta", *two(world, "gamma", 9), swap=True).reason is Reason.MALFORMED
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_whoever_brings_evidence_of_itself_is_believed() -> None:
    world = bound()
    assert evidence(world, "alpha", *two(world, seq=50)).reason is None
    assert world.state.members.equivocators == {"alpha"}
    world.check()


def test_a_statement_that_never_counted_proves_as_well() -> None:
    # Expired, of an unknown kind, of no role: signed is signed.
    world = bound()
    one = world.statement("delta", "meter", {"joules": 1}, seq=3, not_before=0, expires=1)
    other = world.statement("delta", "meter", {"joules": 2}, seq=3, not_before=0, expires=1)
    assert evidence(world, "beta", one, other).reason is None
    assert world.state.members.equivocators == {"delta"}
    world.check()


# --- snapshots


def stated(world: World, party: str, size: int, digest: str, /, **changes: Any) -> Outcome:
    body = {"rules": 2, "size": size, "root": DIGEST, "state": digest}
    return world.log(party, "snapshot", {**body, **changes})


def snapshots() -> World:
    world = bound(log_snapshot_every="16")
    while world.state.size < 40:
        world.stamp()
    return world


def test_permit_signers_state_the_state() -> None:
    # Treaty 6.6
    world = snapshots()
    assert stated(world, "alpha", 16, DIGEST).reason is None
    assert stated(world, "alpha", 32, "cd" * 32).reason is None
    assert stated(world, "beta", 32, "ef" * 32).reason is None  # one of the two errs; that alone proves nothing
    assert [(e.signer, e.size, e.state) for e in world.of(ev.Stated)] == [
        ("alpha", 16, DIGEST), ("alpha", 32, "cd" * 32), ("beta", 32, "ef" * 32),
    ]  # fmt: skip
    assert world.state.members.by_name["alpha"].stated == (32, f"{DIGEST} {'cd' * 32}")
    assert world.state.members.equivocators == frozenset()
    for changes, reason in (
        ({"size": 16}, Reason.REPLAYED),
        ({"size": 33}, Reason.MALFORMED),
        ({"size": 0}, Reason.MALFORMED),
        ({"size": 160}, Reason.MALFORMED),
        ({"rules": 1}, Reason.FOREIGN),
        ({"root": "x"}, Reason.MALFORMED),
        ({"state": ""}, Reason.MALFORMED),
    ):
        assert stated(world, "alpha", 32, "cd" * 32, **changes).reason is reason, changes
    world.check()


def test_only_permit_signers_state_it() -> None:
    world = bound(
        **{"party.delta.roles": '["log", "witness", "inspector"]', "quorum.permit": "2", "quorum.faults": "0"}
    )
    assert stated(world, "delta", 1000, DIGEST).reason is Reason.WRONG_ROLE
    world.check()


def test_one_signer_with_two_states_has_equivocated() -> None:
    # Treaty 6.6: under two numbers, too, since it says that one log has two states.
    world = snapshots()
    stated(world, "alpha", 32, DIGEST)
    world.vote("trip", "alpha")
    assert stated(world, "alpha", 32, DIGEST).reason is None
    assert world.state.members.equivocators == frozenset()
    stated(world, "alpha", 32, "cd" * 32)
    assert world.state.members.equivocators == {"alpha"}
    assert world.of(ev.Equivocated)[0].issuer == "alpha"
    assert world.voters("trip") == frozenset()
    world.check()


@pytest.mark.parametrize(
    ("changes", "proves"),
    [
        ({"state": "cd" * 32}, True),
        ({"root": "cd" * 32}, True),  # of one log there is one tree
        ({}, False),
        ({"size": 16}, False),
        ({"rules": 1}, False),  # by other rules the state is another
    ],
)
def test_two_states_are_proven_by_both_envelopes(changes: dict[str, object], proves: bool) -> None:
    # Treaty 6.6: of sizes that the signer has gone past.
    world = snapshots()
    body = {"rules": 2, "size": 32, "root": DIGEST, "state": DIGEST}
    one = world.statement("alpha", "snapshot", body, seq=3)
    other = world.statement("alpha", "snapshot", {**body, **changes}, seq=4)
    outcome = evidence(world, "beta", one, other)
    assert outcome.reason is (None if proves else Reason.MALFORMED)
    assert world.state.members.equivocators == ({"alpha"} if proves else frozenset())
    world.check()
