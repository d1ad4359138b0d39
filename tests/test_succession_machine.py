"""Texts that follow one another and keys that change, in any order: what must hold after every entry.

All parties are honest here, and whoever keeps the log is not: it logs what it likes again, and what was signed with
keys that are retired.
"""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason
from brakeline.core.state import State
from brakeline.core.state import events as e
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.treaty import Treaty
from succession import NOTICE, SHORT, assent, fresh_key, joining, next_text, propose, revoke
from world import DAY, PARTIES, World, key, next_digest

POOL = (*PARTIES, "epsilon", "zeta")
NEARER = (Phase.CLEAR, Phase.LIFTING, Phase.PAUSED, Phase.TRIPPED)  # from the nearest to clear to the farthest
CHANGES: tuple[dict[str, str], ...] = (
    {},
    {"lift.delay": '"0 s"'},
    {"lift.conditions": "[]"},
    {"quorum.trip": "3"},
    {"permit.lifetime": '"2 s"', "clocks.withdrawal": '"9 s"'},
    {"treaty.version": "9"},
)
FREE = "quorum none\n"
who, some = st.sampled_from(POOL), st.lists(st.sampled_from(POOL), min_size=1, max_size=4, unique=True)
times = st.sampled_from([0, 1, 2, 3, 5, 70])


class Successions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(**SHORT)
        self.world.bind(expires=self.world.now + 300 * DAY)
        self.world.stamp()
        self.before: list[State] = []  # the state before each entry
        self.joins = dict.fromkeys(POOL, 0)  # how many texts a party has signed that let it in
        self.entered: dict[str, int] = {}  # which of its keys a party comes with
        self.brought: list[Treaty] = []
        self.tries: dict[str, int] = {}  # how often a party has shown its next key in vain
        append = self.world.append

        def kept(data: bytes):
            self.before.append(self.world.state)
            return append(data)

        self.world.append = kept  # type: ignore[method-assign]
        self.first = len(self.world.entries)

    def seated(self, party: str) -> bool:
        return party in self.world.treaty.parties

    def able(self, party: str) -> bool:
        """Whether it has a key with which it can say anything."""
        keys = self.world.state.keyring.of.get(party)
        return keys is not None and bool(keys.statement.key)

    @precondition(lambda self: self.world.state.chain.coming is None and not self.world.state.chain.open)
    @rule(by=who, out=st.sampled_from(["", "beta", "gamma", "epsilon"]), newest=st.booleans(), n=st.integers(0, 5))
    def bring(self, by: str, out: str, newest: bool, n: int) -> None:
        """A next text with other values, or with a party in the place of another."""
        w = self.world
        if not self.able(by):
            return
        into = [p for p in POOL if not self.seated(p)][-newest]
        if not (out and self.seated(out)):
            next_ = next_text(w.treaty, **CHANGES[n])
            propose(w, next_, by)
            self.brought.append(next_)
            return
        generation = sum(t.ground.treaty.parties.keys() >= {into} for t in w.state.chain.texts)
        next_ = next_text(w.treaty, drop=out, join=into, generation=generation, **CHANGES[n])
        mine = fresh_key(into, "statement", 10 * generation) if generation else key(into)
        said = joining(w, next_, into, by=mine, seq=self.joins[into])
        before = w.said.get((into, "brake"), [])
        propose(w, next_, by, joining=[said])
        w.said[(into, "brake")] = before
        self.joins[into] += 1
        self.entered[into] = 10 * generation
        self.brought.append(next_)

    @precondition(lambda self: self.brought)
    @rule(by=some, back=st.integers(1, 2))
    def assent(self, by: Sequence[str], back: int) -> None:
        for party in filter(self.able, by):
            assent(self.world, self.brought[-back:][0], party)

    @precondition(lambda self: self.world.state.chain.proposals)
    @rule(left=st.sampled_from(["", "", "gamma"]))
    def adopt(self, left: str) -> None:
        for party in POOL if self.brought else ():
            if self.seated(party) and not self.able(party):
                self.rotate(party=party, right=True)
            if self.seated(party) and self.world.state.chain.coming is None and party != left:
                assent(self.world, self.brought[-1], party)

    @precondition(lambda self: self.world.state.chain.coming is None and not self.world.state.chain.open)
    @rule(
        out=st.sampled_from(["", "beta", "gamma", "epsilon"]),
        newest=st.booleans(),
        n=st.integers(0, 5),
        turns=st.booleans(),
    )
    def succeed(self, out: str, newest: bool, n: int, turns: bool) -> None:
        """All of it but the close, or but the turn."""
        self.bring(by="alpha", out=out, newest=newest, n=n)
        self.adopt(left="")
        if turns:
            self.stamp(by=None, seconds=NOTICE)

    @precondition(lambda self: self.world.state.chain.coming or self.world.state.chain.open)
    @rule(which=st.sampled_from(["all", "old", "new"]), few=st.sampled_from(["", "alpha", "delta"]))
    def turn(self, which: str, few: str) -> None:
        """A stamp that is due, by the witnesses of either text or of both, with or without one of them."""
        chain = self.world.state.chain
        texts = [t.treaty for t in chain.texts] + ([chain.coming.treaty] if chain.coming else [])
        names = {"all": {*texts[-2].parties, *texts[-1].parties}, "old": texts[-2].parties, "new": texts[-1].parties}
        self.stamp(by=sorted({*names[which]} - {few}), seconds=NOTICE)

    @rule(by=st.one_of(st.none(), st.none(), st.lists(who, min_size=2, unique=True)), seconds=times)
    def stamp(self, by: Sequence[str] | None, seconds: int) -> None:
        self.world.now += seconds
        self.world.append(self.world.checkpoint(by=by))
        self.join()

    def join(self) -> None:
        """Whoever has come in at a turn goes on from what it joined with."""
        turned = [x for x in self.world.of(e.Turned) if x.entry == self.world.state.size - 1]
        if not turned:
            return
        last = self.before[-1]
        assert last.chain.coming is not None
        for name, spent in last.chain.coming.joined.items():
            self.world.generation[name] = self.entered[name]
            for name_, lane in list(self.world.said):
                if name_ == name:
                    del self.world.said[(name, lane)]
            data = joining(self.world, self.world.treaty, name, by=self.world.key(name))
            self.world.said[(name, "brake")] = [data.encode()] * (spent.seq + 1)
            self.joins[name] = 0

    @rule(party=who, right=st.sampled_from([True, True, False]))
    def rotate(self, party: str, right: bool) -> None:
        """Go on to the next key, or show it with another's key to come after it, by mistake."""
        w = self.world
        if party not in w.state.keyring.of:
            return
        tries, number = self.tries.get(party, 0), w.generation.get(party, 0) + 1
        new = key(party, f"statement {number}")
        body = {
            "purpose": "statement",
            "key": new.public.text,
            "next": next_digest(party, number=number + 1) if right else next_digest("delta"),
        }
        said = w.statement(party, "key", body, by=new, seq=tries)
        self.tries[party] = tries + 1
        if w.append(said).reason is None:
            self.tries[party], w.generation[party] = 0, number
            w.said = {at: before for at, before in w.said.items() if at[0] != party}
            w.said[(party, "brake")] = [said] * (tries + 1)

    @rule(party=who, by=some, back=st.integers(0, 9))
    def revoke(self, party: str, by: Sequence[str], back: int) -> None:
        for other in filter(self.able, by):
            if self.able(party) and back:
                revoke(self.world, party, other, since=max(0, self.world.state.size - back))

    @rule(by=some, motion=st.sampled_from(["trip", "lift", "lift"]))
    def vote(self, by: Sequence[str], motion: str) -> None:
        self.world.vote(motion, *filter(self.able, by))

    @rule(party=who, condition=st.sampled_from([FREE, FREE, "group g any alpha beta\nquorum g\n"]))
    def pledge(self, party: str, condition: str) -> None:
        if self.able(party):
            assent(self.world, self.world.treaty, party)
            self.world.log(party, "pledge", {"condition": condition}, expires=self.world.now + 300 * DAY)

    @rule(party=who)
    def withdraw(self, party: str) -> None:
        if self.able(party):
            self.world.withdraw(party)

    @rule(at=st.one_of(st.integers(0, 9), st.integers(0, 999)))
    def again(self, at: int) -> None:
        """Whoever keeps the log logs an entry once more, or what a joiner signed for a text."""
        entry = self.world.entries[at % len(self.world.entries)]
        body = open_envelope(entry).statement.body if entry.startswith(b"{") else {}
        self.world.append(entry)
        for said in body.get("joining", ()):
            self.world.append(said.encode())
        self.join()

    @precondition(lambda self: self.world.state.keyring.past)
    @rule(at=st.integers(0, 99), kind=st.sampled_from(["vote", "key"]))
    def thief(self, at: int, kind: str) -> None:
        """Who has a retired key speaks with it."""
        w, past = self.world, [p for p in self.world.state.keyring.past if p.purpose == "statement"]
        stolen = past[at % len(past)]
        body: dict[str, object] = {"motion": "trip", "epoch": w.state.epoch, "reason": "x"}
        if kind == "key":
            body = {"purpose": "statement", "key": key("mallory").public.text, "next": "ab" * 32}
        names = ("statement", *(f"statement {n}" for n in range(60)))
        old = next(k for k in (key(stolen.party, name) for name in names) if k.public.text == stolen.key)
        assert w.append(w.statement(stolen.party, kind, body, by=old, seq=10**6)).reason is Reason.RETIRED_KEY

    @invariant()
    def sound(self) -> None:
        w = self.world
        if not self.before:
            return
        states = [*self.before, w.state]
        new = [x for x in w.events if x.entry >= self.first]
        for before, after, entry in zip(states, states[1:], w.entries[self.first :], strict=False):
            self.step(before, after, entry, [x for x in new if x.entry == before.size])
        self.before, self.first = [], len(w.entries)
        assert w.state.members.equivocators == frozenset(), "all are honest"
        versions = [t.treaty.version for t in w.state.chain.texts]
        assert versions == list(range(1, len(versions) + 1))

    def step(self, before: State, after: State, entry: bytes, events: Sequence[e.Event]) -> None:
        assert after.epoch >= before.epoch
        assert after.time >= before.time
        turned = any(isinstance(x, e.Turned) for x in events)
        for event in events:
            if isinstance(event, e.Entered):
                keys = (after if event.kind == "key" else before).keyring.of[event.issuer]
                spoke = open_envelope(entry).signatures[0][0]
                known = {s.party: k for k, s in after.keyring.index.by_id.items()}  # type: ignore[union-attr]
                assert keys.statement.key
                assert spoke == known.get(event.issuer, spoke)
                assert after.keyring.retired(spoke) is None or event.kind in ("revoke",)
            elif isinstance(event, e.Stamped):
                for policy in before.chain.need(event.size):
                    verify_cosigned(entry, policy)
                if before.chain.open and event.size > before.chain.now.turned:
                    assert len(before.chain.need(event.size)) == 2
        if turned:
            assert before.chain.coming is not None
            for text in (before.treaty, after.treaty):
                verify_cosigned(entry, text.policy)
            assert after.treaty == before.chain.coming.treaty
            assert NEARER.index(after.phase) >= NEARER.index(before.phase)
            assert not after.ballot.lift
            self.bound(before, after)
        else:
            assert after.treaty == before.treaty

    def bound(self, before: State, after: State) -> None:
        """Nobody who was bound without a condition is free where a text turns, but for a notice that has passed."""
        for party in before.active - after.active:
            was, now = before.members.by_name[party], after.members.by_name[party]
            assert was.pledge is not None
            ended = was.pledge.expires <= after.time or (now.leaves is not None and now.leaves <= after.time)
            assert ended or was.pledge.condition != FREE

    def teardown(self) -> None:
        self.world.check()


Successions.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSuccessions = Successions.TestCase
