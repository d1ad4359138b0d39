"""What the log says. Every entry that does not count has its own reason, and nothing in a log raises."""

from typing import Any

import pytest

from brakeline.core.brake import Phase
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Reason
from brakeline.core.evidence import Evidence
from brakeline.core.keys import PrivateKey
from brakeline.core.kinds import KINDS
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.state import State, apply, audits, begin, readings, replay
from brakeline.core.state import events as ev
from brakeline.core.state.codec import digest, encode
from brakeline.core.state.said import authenticate, number, read
from brakeline.core.statement import open_envelope, pae, seal
from brakeline.core.treaty import BEHIND
from brakeline.core.treaty.values import SKEW
from succession import next_text, propose, revoke, rotate
from vector import refused
from world import World, bound, key, last_numbers, raw, violation

DIGEST = "ab" * 32
VOTE = {"motion": "trip", "epoch": 0, "reason": "test"}
HEAD = {"run": DIGEST, "steps": 0, "root": DIGEST, "state": DIGEST, "flop": "0", "status": "opened"}
STRANGER = PrivateKey(b"s" * 32)


# --- who may say what


def test_an_honest_log_takes_every_kind() -> None:
    world = bound(log_snapshot_every="16")
    run = world.finished("alpha")
    moved = {"run": run.id, "steps": 12, "environment": DIGEST}
    assert world.log("alpha", "moved", moved).reason is None
    world.audit("beta", run, violation())
    assert world.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3], "text": "no"})
    assert world.log("beta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3]})
    for inspector in ("beta", "gamma"):
        assert world.audit(inspector, run).reason is None
    world.vote("trip", "delta")
    world.read("speedup", 1.0, "beta")
    world.edge("alpha", "m", run=run.id)
    world.withdraw("gamma")
    world.log("beta", "designation", {"run": run.id, "tier": "covered"})
    world.log("beta", "snapshot", {"rules": 2, "size": 16, "root": DIGEST, "state": DIGEST})
    world.log("beta", "incident", {"incident": "safety", "known": world.now, "text": "a leak"})
    world.log("beta", "notice", {"about": -1, "text": "more to come"})
    request = world.log("beta", "request", {"party": "alpha", "text": "why?"})
    world.log("alpha", "report", {"about": request.index, "text": "because"})
    assert propose(world, next_text(world.treaty)).reason is None
    assert revoke(world, "gamma", "alpha", since=world.state.size)[0].reason is None
    assert rotate(world, "alpha").reason is None
    one, two = (world.statement("delta", "vote", VOTE, seq=7, expires=world.now + n) for n in (1, 2))
    both = sorted((one.decode(), two.decode()))
    world.log("beta", "evidence", Evidence(first=both[0], second=both[1]))
    assert world.of(ev.Void) == []
    assert {e.kind for e in world.of(ev.Entered)} == {k.name for k in KINDS}
    world.check()


def test_each_way_not_to_count() -> None:
    world = bound()
    good = world.statement("alpha", "vote", VOTE)
    bent = open_envelope(good)
    ((name, signature),) = bent.signatures
    at_the_door = {
        Reason.UNKNOWN_ISSUER: world.statement("alpha", "vote", VOTE, by=STRANGER),
        Reason.FORGED: seal("vote", bent.payload, [(name, signature[:-1] + bytes([signature[-1] ^ 1]))]),
        Reason.FOREIGN: world.statement("alpha", "vote", VOTE, treaty=DIGEST),
        Reason.MALFORMED: raw("alpha", "vote", b"rubbish"),
    }
    for expected, data in at_the_door.items():
        with pytest.raises(BrakelineError, check=lambda e, x=expected: getattr(e, "reason", Reason.MALFORMED) is x):
            authenticate(world.state, data)
        before = last_numbers(world.state, "alpha")
        assert world.append(data).reason is expected
        assert last_numbers(world.state, "alpha") == before  # it is nobody's statement: it takes nobody's number
    inside: list[tuple[Reason, str, object, dict[str, Any]]] = [
        (Reason.NOT_YET_VALID, "vote", VOTE, {"not_before": world.now + world.treaty.skew + 1}),
        (Reason.EXPIRED, "vote", VOTE, {"expires": world.now, "not_before": world.now - 5}),
        (Reason.EXPIRED, "vote", VOTE, {"not_before": world.now - BEHIND - 1}),
        (Reason.UNKNOWN_KIND, "meter", {"joules": 1}, {}),  # Treaty 1.4
        (Reason.REPLAYED, "vote", {**VOTE, "epoch": -1}, {}),
        (Reason.UNDECLARED, "head", HEAD, {}),
        (Reason.PROHIBITED, "declaration", world.declaration(purpose="profit"), {}),
        (Reason.MALFORMED, "vote", {**VOTE, "motion": "stop"}, {}),
        (Reason.MISSING, "report", {"about": 0, "text": "x"}, {}),
        (Reason.FOREIGN, "assent", Assent(text=DIGEST, articles=DIGEST), {}),
    ]
    for expected, kind, body, changes in inside:
        data = world.statement("alpha", kind, body, **changes)
        said = authenticate(world.state, data)
        outcome = world.append(data)
        assert (outcome.reason, outcome.kind, outcome.issuer) == (expected, kind, "alpha"), outcome
        assert outcome.text
        # Whatever else becomes of it, its number is spent: the same bytes never count again.
        assert world.state.members.by_name["alpha"].of(said.lane).what == f"{kind} {said.digest}"
        assert world.append(data).reason is Reason.DUPLICATE
    assert world.log("delta", "declaration", world.declaration()).reason is Reason.WRONG_ROLE  # Treaty 1.2
    assert world.append(good).reason is Reason.REPLAYED  # passed by later numbers: it must be signed anew
    assert world.vote("trip", "alpha")[0].reason is None
    assert world.append(world.entries[-1]).reason is Reason.DUPLICATE
    assert world.voters("trip") == {"alpha"}
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_nobody_speaks_for_another() -> None:
    world = bound()
    # A wrong name under a known key, and a key that signs beside another.
    for name in ("beta", "omega"):
        assert world.append(world.statement("alpha", "vote", VOTE, issuer=name)).reason is Reason.FORGED
    payload = open_envelope(world.statement("alpha", "vote", VOTE)).payload
    message = pae("vote", payload)
    lines = [(k.public.id, k.sign(message)) for k in (key("alpha"), key("beta"))]
    assert world.append(seal("vote", payload, lines)).reason is Reason.FORGED
    claimed = [(key("alpha").public.id, key("beta").sign(message))]
    assert world.append(seal("vote", payload, claimed)).reason is Reason.FORGED
    # The signature covers the kind.
    ((name, signature),) = open_envelope(world.statement("alpha", "vote", VOTE)).signatures
    assert world.append(seal("withdrawal", payload, [(name, signature)])).reason is Reason.FORGED
    # A signer's key is no party's key (Treaty 1.1).
    signer = key("alpha", "signer")
    assert world.append(world.statement("alpha", "vote", VOTE, by=signer)).reason is Reason.UNKNOWN_ISSUER
    assert world.voters("trip") == frozenset()
    assert last_numbers(world.state, "alpha") == last_numbers(world.state, "beta") == [1, -1, -1, -1]
    world.check()


def test_signatures_come_before_what_the_signed_bytes_say() -> None:
    # Who cannot sign cannot make anybody parse: the cheap refusals come first.
    world = World()
    for payload in (b"", b"rubbish", b"{}", b"[" * 40_000, b'{"a":' * 8_000):
        assert world.append(raw("alpha", "vote", payload, STRANGER)).reason is Reason.UNKNOWN_ISSUER
        forged = seal("vote", payload, [(key("alpha").public.id, bytes(64))])
        assert world.append(forged).reason is Reason.FORGED
        assert world.append(raw("alpha", "vote", payload)).reason is Reason.MALFORMED
    world.check()


def test_what_the_keeper_can_bring_about_by_its_order_is_told_apart() -> None:
    # For its number, its date or its budget alone: what was said may count when it is signed anew.
    world = World(**{"budget.brake": "16"})
    world.bind()

    def unjudged(data: bytes) -> tuple[Reason, bool]:
        (void,) = (e for e in world.append(data).events if isinstance(e, ev.Void))
        return void.reason, void.unjudged

    late = world.statement("alpha", "vote", VOTE)
    early = world.statement("alpha", "vote", VOTE, not_before=world.now + 99)
    old = world.statement("alpha", "vote", VOTE, not_before=0, expires=world.now)
    assert unjudged(early) == (Reason.NOT_YET_VALID, True)
    assert unjudged(old) == (Reason.EXPIRED, True)
    assert unjudged(late) == (Reason.REPLAYED, True)
    assert unjudged(old) == (Reason.DUPLICATE, False)
    assert unjudged(world.statement("alpha", "vote", {**VOTE, "epoch": 9})) == (Reason.REPLAYED, False)
    assert unjudged(world.statement("alpha", "meter", {})) == (Reason.UNKNOWN_KIND, False)
    assert unjudged(b"rubbish") == (Reason.MALFORMED, False)
    for _ in range(13):
        world.vote("trip", "alpha")
    assert unjudged(world.statement("alpha", "vote", VOTE)) == (Reason.BUDGET, True)
    other = world.statement("alpha", "vote", {**VOTE, "reason": "other"}, seq=last_numbers(world.state, "alpha")[0])
    assert unjudged(other) == (Reason.EQUIVOCATION, False)
    world.check()


# --- time


def test_a_statement_at_the_edges_of_time() -> None:
    # Treaty 6.5
    world = bound()
    assert world.log("alpha", "vote", VOTE, not_before=world.now + world.treaty.skew).reason is None
    assert world.log("beta", "vote", VOTE, not_before=world.now - 9, expires=world.now).reason is Reason.EXPIRED
    assert world.phase is Phase.CLEAR
    assert world.log("beta", "vote", VOTE, not_before=world.now - BEHIND - 1).reason is Reason.EXPIRED
    assert world.phase is Phase.CLEAR
    data = world.statement("beta", "vote", VOTE, not_before=world.now - BEHIND, expires=world.now + 1)
    assert world.append(data).reason is None
    assert world.phase is not Phase.CLEAR
    world.check()


@pytest.mark.parametrize("heartbeat", [1, 600, 3600])
def test_a_statement_may_be_ahead_of_the_log_by_its_heartbeat(heartbeat: int) -> None:
    # Treaty 6.5: an honest clock is right, and the log's own is a heartbeat behind.
    world = World(log_heartbeat=f'"{heartbeat} s"', log_stale_after=f'"{2 * heartbeat} s"')
    world.bind()
    assert world.treaty.skew == heartbeat + SKEW
    world.now += heartbeat + SKEW
    assert world.vote("trip", "alpha")[0].reason is None
    world.now += 1
    late = world.statement("beta", "vote", VOTE)
    _, why = number(world.state, authenticate(world.state, late))
    assert why is not None
    assert (why.reason, why.later) == (Reason.NOT_YET_VALID, True)  # whoever sent it keeps it
    world.stamp(0)
    assert world.append(late).reason is None
    assert world.phase is not Phase.CLEAR
    world.check()


def test_before_the_first_stamp_nothing_counts() -> None:
    # Treaty 6.2: without a time there is no budget's day and no date that is right.
    world = World()
    state = begin(world.treaty)
    data = world.statement("alpha", "pledge", Pledge(condition="quorum none\n"))
    said = authenticate(state, data)
    after, why = number(state, said)
    assert why is not None
    assert (why.reason, why.later) == (Reason.NOT_YET_VALID, True)
    state, events = apply(state, data)
    assert [e.reason for e in events if isinstance(e, ev.Void)] == [Reason.NOT_YET_VALID]
    assert last_numbers(after, "alpha") == last_numbers(state, "alpha") == [0, -1, -1, -1]
    assert state.members.by_name["alpha"].pledge is None
    assert state.members.by_name["alpha"].spent == ()


def test_an_empty_log_is_clear() -> None:
    state = begin(World().treaty)
    assert (state.size, state.time, state.phase, state.active) == (0, 0, Phase.CLEAR, frozenset())
    again, events = replay(state.treaty, [])
    assert (encode(again), events) == (encode(state), [])


# --- a value


def test_a_state_never_changes() -> None:
    world = bound()
    run = world.finished("alpha")
    states: list[tuple[State, bytes]] = []
    state = begin(world.treaty)
    world.audit("beta", run, violation())
    world.trip()
    world.vote("lift", "alpha", "beta", "gamma")
    for entry in world.entries:
        states.append((state, encode(state)))
        once, events = apply(state, entry)
        twice, again = apply(state, entry)
        assert encode(once) == encode(twice)
        assert events == again
        state = once
    assert all(encode(s) == before for s, before in states)
    world.check()


def test_what_a_log_server_asks_leaves_no_trace() -> None:
    world = bound()
    before = encode(world.state)
    data = world.statement("alpha", "vote", VOTE)
    said = authenticate(world.state, data)
    assert (said.issuer, said.kind, said.lane) == ("alpha", "vote", "brake")
    number(world.state, said)
    read(world.state, said)
    twice = authenticate(world.state, world.statement("alpha", "vote", VOTE, seq=1))
    with refused(Reason.EQUIVOCATION):
        number(world.state, twice)
    with pytest.raises(BrakelineError):
        authenticate(world.state, b"{}")
    assert encode(world.state) == before
    world.check()


def test_reading_the_state_does_not_change_it() -> None:
    world = bound()
    run = world.finished("alpha")
    world.audit("beta", run, violation())
    world.trip()
    world.vote("lift", "alpha", "beta", "gamma")
    before, state = encode(world.state), world.state
    world.unmet()
    world.voters("lift")
    state.concerned(run.now)
    state.root()
    audits.needed(world.treaty, run.open_allegations[0], world.state.time)
    readings.reached(world.treaty, state.readings, active=state.active)
    world.required("gamma", run)
    world.request(run)
    assert encode(state) == before
    world.check()


def test_a_digest_names_the_state() -> None:
    world = bound()
    assert digest(world.state) == sha256(encode(world.state)).hex()
    before = digest(world.state)
    world.append(b"rubbish")
    assert digest(world.state) != before  # another log is another state
