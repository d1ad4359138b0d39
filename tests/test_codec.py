"""The state as bytes: read back it is the same, it goes on alike, and damaged bytes are refused."""

import json
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.encoding import canonical, sha256
from brakeline.core.errors import BrakelineError, Malformed, Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.state import State, apply, begin
from brakeline.core.state import events as ev
from brakeline.core.state.codec import FORMAT, decode, digest, encode
from succession import adopted, assent, closings, next_text, propose, reopening, revoke, rotate, succeeding
from vector import refused
from world import DAY, LABS, PARTIES, Live, World, bound, treaty, violation

PARTS = ("chain", "keyring", "clock", "members", "runs", "ballot", "readings", "dues")
CHANGES = {
    "lift.settle_within": '"60 s"',
    "clocks.withdrawal": '"3 d"',
    "clocks.report": '"1 d"',
    "scope.tier.sum": "true",
    "budget.rest": "30",
    "log.snapshot_every": "16",
    "clocks.amendment": '"3 s"',
}


class Acts:
    """What parties do at random, so that a state has all that a state may have."""

    def __init__(self, seed: int) -> None:
        self.dice, self.world, self.runs = Random(seed), World(**CHANGES), list[Live]()
        self.world.bind(*PARTIES, expires=self.world.now + 900 * DAY)

    def any(self, *of: Any) -> Any:
        return self.dice.choice(of)

    def act(self) -> None:
        # Most acts are of a few kinds, or hardly any run would come far.
        kinds = [name for name in dir(self) if name.startswith("do_")]
        getattr(self, self.any(*kinds, "do_stamp", "do_train", "do_train", "do_audit", "do_run"))()

    def do_stamp(self) -> None:
        self.world.stamp(self.any(0, 1, 3, 20, 70))

    def do_day(self) -> None:
        self.world.stamp(self.any(DAY // 2, 2 * DAY))

    def do_vote(self) -> None:
        self.world.vote("trip", self.any(*PARTIES), expires=self.world.now + self.any(3, DAY))

    def do_lift(self) -> None:
        self.world.vote("lift", *self.dice.sample(PARTIES, 3))

    def do_read(self) -> None:
        lower, lasts, w = self.any(0.05, 0.2, 0.45, 1.0), self.any(3, 40, 9 * DAY), self.world
        gauge = self.any("lineage", "speedup", "authorship")
        subject, upper = f"s{self.any(1, 2)}", lower + self.any(0.01, 0.5)
        w.read(gauge, lower, self.any(*PARTIES), value=lower, upper=upper, subject=subject, expires=w.now + lasts)

    def do_run(self) -> None:
        purpose, steps = self.any("", "", "inference", "safety-research"), self.any(3, 12, 40)
        parents = tuple(sorted({r.id for r in self.dice.sample(self.runs, min(len(self.runs), self.any(0, 1, 2)))}))
        lab, rung, name = self.any(*LABS), self.any("attested", *["re-executable"] * 4), f"r{len(self.world.entries)}"
        changes = {"purpose": purpose, "steps": steps, "parents": parents, "rung": rung, "domain": "é"}
        self.runs.append(self.world.opened(lab, name=name, **changes) if self.world.phase == "clear" else
                         self.world.declare(lab, name=name, **changes))  # fmt: skip

    def do_train(self) -> None:
        if self.runs:
            run = self.any(*self.runs)
            self.world.train(run, min(run.declaration.steps, run.steps + self.any(0, 3, 5)))
            steps = run.steps if run.stopped else None
            self.world.head(run, self.any("opened", "running", "running", "stopped", "ended"), steps=steps)

    def do_move(self) -> None:
        if self.runs:
            run = self.any(*self.runs)
            body = {"run": run.id, "steps": run.steps + self.any(0, 0, 2), "environment": self.any("cd", "ef") * 32}
            self.world.log(run.owner, "moved", body)

    def do_audit(self) -> None:
        run = next((r for r in self.dice.sample(self.runs, len(self.runs)) if r.heads and r.heads[-1].beacon), None)
        if run is None:
            return
        gap = Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="")
        found = self.any((), (), (gap,), (violation(),), (violation(Fault.NO_PERMIT, (0, 0)),))
        where = self.any({}, {"environment": "cd" * 32})
        for inspector in self.dice.sample(PARTIES, self.any(1, 1, 4)):
            self.world.audit(inspector, run, *found, **where)

    def do_word(self) -> None:
        if self.runs:
            run, by = self.any(*self.runs), self.any(*PARTIES)
            for a in run.open_allegations[:1]:
                body = {"run": run.id, "fault": a.fault, "segment": a.segment}
                self.world.log(run.owner, "answer", {**body, "text": "no"})
                self.world.log(self.any(*sorted(a.accusers)), "retraction", body)
            self.world.log(by, "designation", {"run": run.id, "tier": "covered"})

    def do_edge(self) -> None:
        n = self.any(1, 2, 3, 4)
        self.world.edge(
            self.any(*LABS), f"m{n}", *self.any((), (f"m{n - 1}",)), run=self.any("", *(r.id for r in self.runs))
        )

    def do_duty(self) -> None:
        w, by = self.world, self.any(*PARTIES)
        w.log(by, "request", {"party": self.any(*PARTIES), "text": "why?"})
        w.log(by, "incident", {"incident": "safety", "known": w.now - self.any(0, 4 * DAY), "text": "x"})
        for o in list(w.state.dues.owed.values())[:1]:
            w.log(o.party, o.what, {"about": o.about, "text": "so"})

    def do_odd(self) -> None:
        w, by = self.world, self.any(*PARTIES)
        w.log(by, "meter", {"joules": 1})
        w.append(self.any(b"rubbish", *w.entries))
        w.append(w.checkpoint(root=sha256(b"another history")))
        w.log(by, "snapshot", {"rules": 2, "size": 16, "root": "ab" * 32, "state": self.any("ab", "cd") * 32})
        if self.dice.random() < 0.1:
            w.append(w.statement("gamma", "vote", {"motion": "trip", "epoch": 9, "reason": "x"}, seq=1))

    def do_succeed(self) -> None:
        w = self.world
        changes = {"lift.delay": f'"{self.any(1, 2, 3)} s"'}
        if "gamma" in w.treaty.parties and self.dice.random() < 0.6:
            changes |= {"drop": "gamma", "join": "epsilon"}
        next_ = next_text(w.treaty, **changes)
        if self.dice.random() < 0.5 and propose(w, next_, self.any(*PARTIES)).reason is None:
            assent(w, next_, *self.any(PARTIES, PARTIES[:3]))
        if self.dice.random() < 0.3:
            return
        w.now += self.any(0, 3, 3, 7)
        witnesses = self.any(None, None, PARTIES[1:])
        w.append(w.checkpoint(by=witnesses))

    def do_key(self) -> None:
        party = self.any(*PARTIES)
        if self.dice.random() < 0.3:
            rotate(self.world, party)
        elif self.dice.random() < 0.2:
            revoke(self.world, party, *self.dice.sample(PARTIES, self.any(1, 3)), since=len(self.world.entries) - 3)
            if not self.world.state.keyring.of[party].statement.key:
                rotate(self.world, party)

    def do_reopen(self) -> None:
        if self.dice.random() < 0.1 and len(self.world.state.chain.reopened) < 2:
            self.world.append(reopening(self.world, self.any(*LABS), closings=closings(self.world, *PARTIES)))

    def do_leave(self) -> None:
        if self.dice.random() < 0.2:
            self.world.withdraw(self.any(*PARTIES))


def lived(seed: int, acts: int) -> World:
    its = Acts(seed)
    for _ in range(acts):
        its.act()
    return its.world


@cache
def rich() -> World:
    """A log after which the state has a value of everything."""
    return lived(12, 150)


def waiting() -> World:
    """A text is adopted, and has not turned."""
    world = succeeding()
    adopted(world, next_text(world.treaty))
    return world


def same(one: State, other: State) -> None:
    assert encode(one) == encode(other)
    for part in PARTS:
        assert getattr(one, part) == getattr(other, part), part


@settings(max_examples=settings().max_examples // 4)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_state_read_back_is_the_same_and_goes_on_alike(seed: int, acts: int) -> None:
    world = lived(seed, acts)
    state, cut = begin(world.first), Random(seed).randrange(len(world.entries))
    other = state
    for i, entry in enumerate(world.entries):
        if i >= cut:
            other = decode(encode(other), world.first)
            other, events = apply(other, entry)
            state, expected = apply(state, entry)
            assert events == expected
            same(state, other)
        else:
            state, _ = apply(state, entry)
            other = state
    same(state, world.state)
    world.check()


def test_the_random_worlds_have_everything() -> None:
    """What is never made is never tested."""
    worlds = [lived(seed, 120) for seed in range(20)]
    kinds = {type(e) for w in worlds for e in w.events}
    told = set(ev.Event.__subclasses__())
    assert told - kinds <= {ev.NearBudget, ev.Withheld}, told - kinds
    seen: dict[str, bool] = {}
    for w in (*worlds, rich(), waiting()):
        written = json.loads(encode(w.state))
        empty = (None, [], {}, -1, "")
        for part in ("ballot", "dues", "clock", "succession"):
            for name, value in written[part].items():
                seen[f"{part}.{name}"] = seen.get(f"{part}.{name}", False) or value not in empty
        for part, many in (("members", written["members"]), ("run", written["runs"]["runs"])):
            for one in many.values():
                for name, value in one.items():
                    seen[f"{part}.{name}"] = seen.get(f"{part}.{name}", False) or value not in empty
    assert {name for name, found in seen.items() if not found} == set()


def test_equal_logs_have_equal_digests() -> None:
    world = rich()
    one, other = begin(world.first), begin(world.first)
    for entry in world.entries:
        one, _ = apply(one, entry)
    for entry in world.entries:
        other, _ = apply(other, entry)
    assert digest(one) == digest(other) == digest(world.state) == sha256(encode(world.state)).hex()
    assert len({digest(lived(seed, 5).state) for seed in range(10)}) == 10


def test_it_is_canonical_json() -> None:
    # RFC 8785, so that another language writes the same bytes.
    for world in (World(), bound(), rich()):
        written = encode(world.state)
        assert canonical(json.loads(written)) == written
        assert json.loads(written)["format"] == FORMAT
        assert json.loads(written)["rules"] == world.treaty.rules


def test_a_state_is_of_one_treaty_and_its_rules() -> None:
    world = bound()
    written = json.loads(encode(world.state))
    with refused(Reason.FOREIGN):
        decode(encode(world.state), treaty(lift_delay='"9 s"'))
    for change in ({"rules": 1}, {"format": FORMAT + 1}, {"treaty": "ab" * 32}):
        with refused(Reason.FOREIGN):
            decode(canonical({**written, **change}), world.first)


def test_a_state_has_no_gauge_that_the_treaty_has_not() -> None:
    world = bound()
    world.read("lineage", 0.1, "alpha", "beta")
    written = encode(world.state)
    assert written.count(b'"lineage"') == 3
    for other in (written.replace(b'"lineage"', b'"lineagf"'), written.replace(b'"lineage"', b'"lineagf"', 1)):
        with pytest.raises(Malformed):
            decode(other, world.first)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"[]", b"\xff", b"{" * 5000, b"[" * 100_000, b'{"format":1}'])
def test_rubbish_is_no_state(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, treaty())


@given(st.data())
def test_a_damaged_state_is_refused_or_says_what_it_says(data: st.DataObject) -> None:
    # Whether it is true shows in its digest; that it is read at all must break nothing.
    written = bytearray(encode(rich().state))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        match data.draw(st.sampled_from(["set", "drop", "add"])):
            case "set":
                written[at] = data.draw(st.sampled_from(b'0123456789abcdef{}[]",:-.ex\xff'))
            case "drop":
                del written[at]
            case _:
                written.insert(at, data.draw(st.sampled_from(b'0123456789-."e')))
    damaged = bytes(written)
    try:
        state = decode(damaged, rich().treaty)
    except BrakelineError:
        return
    assert encode(state) == damaged


def paths(value: Any, at: tuple[Any, ...] = ()) -> Any:
    """Every place in a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


@cache
def places() -> list[tuple[Any, ...]]:
    return list(paths(json.loads(encode(rich().state))))[1:]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=4),
    st.sampled_from(["1_0", " 1", "٣", "vibes", "0" * 70, [], {}, 0.5, [0, 3]]),
)  # fmt: skip


@given(st.data())
def test_a_state_with_another_value_is_refused_or_says_what_it_says(data: st.DataObject) -> None:
    written = json.loads(encode(rich().state))
    *way, last = data.draw(st.sampled_from(places()))
    place = written
    for key in way:
        place = place[key]
    place[last] = data.draw(ODD)
    changed = canonical(written)
    try:
        state = decode(changed, rich().treaty)
    except BrakelineError:
        return
    assert encode(state) == changed


@pytest.mark.parametrize(
    "spelling",
    [
        lambda b: b.replace(b'"size":', b'"size": ', 1),
        lambda b: b + b"\n",
        lambda b: b" " + b,
        lambda b: b.replace(b'"epoch":', b'"\\u0065poch":', 1),
        lambda b: b[:-1] + b',"extra":1}',
        lambda b: b.replace(b'"dues":{', b'"dues":{"extra":1,', 1),
        lambda b: b.replace(b'"forks":0', b'"forks":00', 1),
        lambda b: b.replace(b'"forks":0', b'"forks":0.0', 1),
        lambda b: b.replace(b'"forks":0', b'"forks":0,"forks":0', 1),
    ],
)
def test_a_state_has_one_spelling(spelling: Any) -> None:
    world = bound()
    written = encode(world.state)
    other = spelling(written)
    assert other != written
    with pytest.raises(Malformed):
        decode(other, world.first)
