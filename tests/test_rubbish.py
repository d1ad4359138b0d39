"""What no party would log: rubbish, bent bytes, wrong bodies, deep nests, and kinds that the rules do not know."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core import kinds
from brakeline.core.brake import Phase
from brakeline.core.encoding import Wire, canonical
from brakeline.core.errors import Malformed, Reason
from brakeline.core.kinds import KINDS, Kind
from brakeline.core.state import apply, replay
from brakeline.core.state import events as ev
from brakeline.core.state.codec import digest
from brakeline.core.state.said import MAX_DEPTH, authenticate
from brakeline.core.treaty import parse_treaty
from world import DAY, World, bound, last_numbers, raw

DIGEST = "ab" * 32
VOTE = {"motion": "trip", "epoch": 0, "reason": "test"}
HEAD = {"run": DIGEST, "steps": 0, "root": DIGEST, "state": DIGEST, "flop": "0", "status": "opened"}
READING = {
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
}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}",
        b"garbage",
        b"\x00" * 70_000,
        b"{" * 70_000,
        b'{"payload":"","payloadType":"application/vnd.brakeline.vote.v1+json","signatures":[]}',
        canonical({"payload": "e30=", "payloadType": "x", "signatures": []}),
    ],
)
def test_rubbish_has_no_effect_and_is_kept(data: bytes) -> None:
    world = bound()
    before = world.state
    outcome = world.append(data)
    assert outcome.reason is Reason.MALFORMED
    assert outcome.text
    after = world.state
    assert (after.members, after.runs, after.ballot, after.readings, after.dues) == (
        before.members, before.runs, before.ballot, before.readings, before.dues,
    )  # fmt: skip
    assert (after.time, after.size) == (before.time, before.size + 1)
    world.check()


BODIES: dict[str, dict[str, object]] = {
    "vote": VOTE,
    "assent": {"text": DIGEST, "articles": DIGEST},
    "pledge": {"condition": "quorum none\n"},
    "reading": READING,
    "head": HEAD,
    "evidence": {"first": "a", "second": "b"},
    "snapshot": {"rules": 2, "size": 1000, "root": DIGEST, "state": DIGEST},
    "designation": {"run": DIGEST, "tier": "covered"},
    "incident": {"incident": "safety", "known": 0, "text": "x"},
    "notice": {"about": -1, "text": "x"},
    "request": {"party": "beta", "text": "x"},
    "report": {"about": 3, "text": "x"},
    "answer": {"run": DIGEST, "fault": "no-permit", "segment": [0, 0], "text": "x"},
    "retraction": {"run": DIGEST, "fault": "no-permit", "segment": [0, 0]},
}
FIELDS = ("", *sorted({f for body in BODIES.values() for f in body}))


@given(
    kind=st.sampled_from([*(k.name for k in KINDS), "permit", "nothing"]),
    body=st.sampled_from([*BODIES.values(), {}, {"reason": ""}]),
    field=st.sampled_from(FIELDS),
    value=st.one_of(st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=5), st.just([])),
)
def test_no_body_makes_the_fold_raise(kind: str, body: dict[str, object], field: str, value: object) -> None:
    world = World()
    outcome = world.append(world.statement("alpha", kind, {**body, field: value} if field else body))
    assert outcome.index == 1
    assert last_numbers(world.state, "alpha").count(0) == 1  # whatever it says, it took a number
    world.check()


@given(st.data())
def test_a_bent_entry_has_no_effect(data: st.DataObject) -> None:
    world = World()
    if data.draw(st.booleans()):
        entry = world.statement("alpha", "vote", VOTE)
    else:
        entry = world.checkpoint()
    at = data.draw(st.integers(0, len(entry) - 1))
    bent = entry[:at] + bytes([entry[at] ^ data.draw(st.integers(1, 255))]) + entry[at + 1 :]
    outcome = world.append(bent)
    # A stamp may lose the line of one witness and still have a quorum.
    assert outcome.reason is not None or (world.state.clock.last and world.state.clock.last.size == 1)
    assert world.state.ballot.trip == {}
    world.check()


def test_bodies_say_what_their_kind_says() -> None:
    world = bound()
    for kind, body in {
        "vote": {"motion": "stop", "epoch": 0, "reason": ""},
        "reading": {**READING, "extra": 1},
        "pledge": {"condition": "quorum nobody\n"},
        "declaration": {},
        "evidence": {"first": "é", "second": "日"},
        "incident": {"incident": "safety", "known": 0.5, "text": "x"},
    }.items():
        assert world.log("alpha", kind, body).reason is Reason.MALFORMED
    for changes in ({"seq": -1}, {"seq": 2**53 - 1}, {"expires": 0}, {"prev": "x"}, {"not_before": -1}):
        assert world.append(world.statement("alpha", "vote", VOTE, **changes)).reason is Reason.MALFORMED
    world.check()


def deep(n: int, call: Any) -> Any:
    """`call()` with so many frames under it."""
    return call() if n == 0 else deep(n - 1, call)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 2, MAX_DEPTH - 1, 100, 200, 500, 900, 20_000])
def test_how_deep_a_statement_nests_is_judged_alike_on_every_stack(depth: int) -> None:
    # A parser goes as deep as the stack that it has left: what one process reads, another would void.
    world = World()
    head = b'{"body":{"a":%s},"expires":%d,"issuer":"alpha","not_before":%d,"prev":"%s","seq":0,"treaty":"%s"}'
    nest = b"[" * depth + b"]" * depth
    payload = head % (nest, world.now + DAY, world.now, b"0" * 64, world.treaty.digest.encode())
    data = raw("alpha", "mystery", payload)
    shallow, found = apply(world.state, data)
    low, again = deep(700, lambda: apply(world.state, data))
    assert digest(shallow) == digest(low)
    assert found == again
    (void,) = (e for e in found if isinstance(e, ev.Void))
    fits = depth + 2 <= MAX_DEPTH
    assert void.reason is (Reason.UNKNOWN_KIND if fits else Reason.MALFORMED)
    assert last_numbers(shallow, "alpha") == [-1, -1, -1, 0 if fits else -1]


@pytest.mark.parametrize("text", ["[" * 999, '"' + "{" * 99 + '\\"' * 99, "\\" * 999])
def test_brackets_in_a_text_nest_nothing(text: str) -> None:
    world = bound()
    assert world.log("alpha", "withdrawal", {"reason": text}).reason is None
    world.check()



@pytest.mark.parametrize("changes", [{"expires": 2**53}, {"body": {**READING, "lower": -(2**53)}}])
def test_no_number_is_so_large_that_the_state_cannot_be_written_down(changes: dict[str, object]) -> None:
    world = bound()
    plain = {
        "body": READING,
        "expires": world.now + DAY,
        "issuer": "alpha",
        "not_before": world.now,
        "prev": "0" * 64,
        "seq": 0,
        "treaty": world.treaty.digest,
    }
    payload = json.dumps({**plain, **changes}, sort_keys=True, separators=(",", ":")).encode()
    assert world.append(raw("alpha", "reading", payload)).reason is Reason.MALFORMED
    world.check()


# --- kinds, and the rules that know them


class Meter(Wire, frozen=True):
    joules: int


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call it to have a build that knows one more kind, of rules 3."""

    def grow() -> None:
        monkeypatch.setattr(kinds, "KINDS", (*KINDS, Kind("meter", Meter, None, "runs", since=3)))
        kinds.known.cache_clear()

    yield grow
    monkeypatch.undo()
    kinds.known.cache_clear()


def test_a_kind_of_later_rules_means_the_same_to_a_build_that_knows_it(later: Any) -> None:
    # Treaty 1.4: one log, one treaty, two builds; the rules that the treaty names say what is known.
    world = bound()
    outcome = world.log("alpha", "meter", {"joules": 1})
    assert outcome.reason is Reason.UNKNOWN_KIND
    world.read("speedup", 1.0, "alpha")
    world.vote("trip", "alpha", "beta")
    assert world.phase is not Phase.CLEAR
    old = [digest(world.state), [e for e in world.events if isinstance(e, ev.Void)]]
    later()
    assert "meter" in kinds.known(3)
    state, events = replay(world.treaty, world.entries)
    assert [digest(state), [e for e in events if isinstance(e, ev.Void)]] == old
    assert state.members.equivocators == frozenset()
    assert last_numbers(state, "alpha") == [2, -1, -1, 1]
    # A build that knows it in none of its lanes, and one that does, put the next one at the same place.
    data = world.statement("alpha", "meter", {"joules": 2})
    assert authenticate(state, data).lane == authenticate(world.state, data).lane == "rest"
    world.check()


def test_an_unknown_kind_changes_nothing_but_its_number() -> None:
    # Treaty 1.4, 1.5
    world, other = bound(), bound()
    for body in ({"joules": 1}, {}, {"motion": "trip", "epoch": 0, "reason": ""}):
        assert world.log("alpha", "meter", body).reason is Reason.UNKNOWN_KIND
    assert last_numbers(world.state, "alpha") == [1, -1, -1, 2]
    assert world.state.members.by_name["alpha"].spent[-1].counts == (2, 0, 0, 3)
    mine, theirs = world.state.members.by_name, other.state.members.by_name
    assert {p: m for p, m in mine.items() if p != "alpha"} == {p: m for p, m in theirs.items() if p != "alpha"}
    for part in ("runs", "ballot", "readings", "dues"):
        assert getattr(world.state, part) == getattr(other.state, part)
    world.check()


def test_a_new_build_with_other_rules_does_not_judge_this_log() -> None:
    text = World().treaty.text.replace(b"rules = 2 ", b"rules = 3 ")
    with pytest.raises(Malformed, match=r"Treaty 1\.4"):
        parse_treaty(text)
