"""The brake: its table, and a machine that does to a log whatever dishonest parties can, step by step."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from brakeline.core.brake import START, TRANSITIONS, BrakeState, Event, Phase, step
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason
from brakeline.core.finding import Fault, Finding
from brakeline.core.gate import GateState, admit, decide, halt
from brakeline.core.permit import Permit
from brakeline.core.state import events as ev
from brakeline.core.statement import open_envelope
from succession import reopening
from vector import refused
from world import DAY, LABS, PARTIES, Live, World

DIAGRAM = {  # as drawn at the top of brake.py
    "clear": {"trip": "tripped"},
    "tripped": {"stopped": "paused"},
    "paused": {"lift": "lifting"},
    "lifting": {"trip": "tripped", "withheld": "paused", "released": "clear"},
}

# --- the table


def test_the_table_is_the_diagram() -> None:
    drawn = {(Phase(a), Event(e)): Phase(b) for a, arrows in DIAGRAM.items() for e, b in arrows.items()}
    drawn |= {(phase, Event.REOPENED): Phase.TRIPPED for phase in Phase}
    assert drawn == TRANSITIONS
    assert {p for p, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(Phase)
    assert {e for _, e in TRANSITIONS} == set(Event)


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
def test_every_event_in_every_phase(phase: Phase, event: Event) -> None:
    state = BrakeState(phase, 3, 1000)
    copy = replace(state)
    if (phase, event) not in TRANSITIONS:
        with pytest.raises(Misuse):
            step(state, event, now=1000)
    else:
        epoch = 4 if event in (Event.TRIP, Event.REOPENED) else 3  # Treaty 5.5, 11.9
        assert step(state, event, now=1000) == BrakeState(TRANSITIONS[phase, event], epoch, 1000)
        assert step(state, event, now=2000) == BrakeState(TRANSITIONS[phase, event], epoch, 2000)
        with pytest.raises(Misuse):
            step(state, event, now=999)
    assert state == copy


@given(st.lists(st.tuples(st.sampled_from(Event), st.integers(0, 5)), max_size=30))
def test_no_history_leaves_the_table(events: list[tuple[Event, int]]) -> None:
    state, now, trips = START, 0, 0
    for event, later in events:
        now += later
        try:
            state = step(state, event, now=now)
        except Misuse:
            continue
        trips += event in (Event.TRIP, Event.REOPENED)
        assert (state.epoch, state.since) == (trips, now)


def test_the_brake_is_off_only_at_the_start_and_after_a_release() -> None:
    into_clear = [(p, e) for (p, e), to in TRANSITIONS.items() if to is Phase.CLEAR]
    assert START.phase is Phase.CLEAR
    assert into_clear == [(Phase.LIFTING, Event.RELEASED)]


def test_the_brake_dominates() -> None:
    # Treaty 4.6: at one moment both the votes to trip and the signatures for a permit can be had; the trip wins.
    world = World()
    world.bind()
    run = world.opened("alpha")
    before = world.request(run)
    signed = world.sealed(before)
    state = admit(GateState(run.id), signed, world.treaty, world.treaty.signer_keys, nonce=before.nonce, asked_at=0)
    world.trip()
    after = world.request(run)
    with refused(Reason.PAUSED):
        world.grant(after)
    with refused(Reason.PAUSED):
        world.grant(replace_epoch(after, 0))
    shut = halt(state, epoch=world.state.epoch, reason="brake")
    with refused(Reason.ROLLBACK):
        admit(shut, signed, world.treaty, world.treaty.signer_keys, nonce=before.nonce, asked_at=0)
    assert not decide(shut, now=1, flop=1)
    world.check()


def replace_epoch(permit: Permit, epoch: int) -> Permit:
    return Permit(**{f: getattr(permit, f) for f in permit.__struct_fields__} | {"epoch": epoch})


# --- the machine

ANY = st.sampled_from(PARTIES)
SOME = st.lists(ANY, unique=True, min_size=1)
NAP = st.sampled_from([0, 1, 2, 5, 16])


class Adversary(RuleBasedStateMachine):
    """Parties vote, read, audit, equivocate, replay and withhold; runs start and stop; time passes.

    delta never pledges in some worlds, so that unbound parties try as well. The model keeps its own books of who
    voted, and of what the brake needs to move.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World(lift_conditions='["stopped"]')
        self.gates: dict[str, GateState] = {}
        self.old: list[tuple[Live, Permit, bytes]] = []
        self.seen_epoch = 0
        self.trip_voters: set[str] = set()
        self.lifters: set[str] = set()
        self.readers: set[str] = set()
        self.accusers: set[str] = set()
        self.phase = Phase.CLEAR
        self.known = self.tripped = 0
        self.reopened = False

    @initialize(bound=st.sampled_from([PARTIES, LABS]))
    def begin(self, bound: tuple[str, ...]) -> None:
        self.world.bind(*bound)
        self.bound = set(bound)
        self.runs = [self.world.opened("alpha"), self.world.opened("beta")]
        self.gates = {r.id: GateState(r.id) for r in self.runs}

    # what parties do

    @rule(keeper=st.sampled_from(LABS))
    def reopen(self, keeper: str) -> None:
        """The keeper is replaced, by all who still count. Treaty 11.8"""
        able = [p for p in PARTIES if p not in self.world.state.members.equivocators]
        if len(self.world.state.chain.reopened) < 2:
            outcome = self.world.append(reopening(self.world, keeper, *able))
            assert outcome.reason is None, outcome.text

    @rule(parties=SOME, motion=st.sampled_from(["trip", "lift", "lift"]), age=st.sampled_from([-1, 0, 0, 0, 0, 1]))
    def vote(self, parties: list[str], motion: str, age: int) -> None:
        expires = self.world.now + (2 if age else DAY)
        for party in parties:
            equivocated = party in self.world.state.members.equivocators
            if age == 0 and not equivocated:
                (self.trip_voters if motion == "trip" else self.lifters).add(party)
            (outcome,) = self.world.vote(motion, party, epoch=self.world.state.epoch + age, expires=expires)
            assert (outcome.reason is None) == (age == 0 and not equivocated)
            self.honest()

    @rule(parties=SOME, gauge=st.sampled_from(["authorship", "speedup", "lineage"]), high=st.booleans())
    def read(self, parties: list[str], gauge: str, high: bool) -> None:
        for party in parties:
            if high:
                self.readers.add(party)
            self.world.read(gauge, 9.0 if high else 0.0, party)
            self.honest()

    @rule(motion=st.sampled_from(["trip", "lift"]), wait=NAP)
    def agree(self, motion: str, wait: int) -> None:
        """Without this, few examples would get any further than one trip."""
        honest = [p for p in PARTIES if p in self.bound - self.world.state.members.equivocators]
        if motion == "trip":
            self.vote(honest[:2], motion, 0)
        else:
            self.all_stop()
            self.vote(honest[:3], motion, 0)
            self.world.stamp(wait)

    @rule()
    def all_stop(self) -> None:
        for run in self.runs:
            self.world.head(run, "stopped", steps=run.steps)
            self.honest()

    @rule(seconds=NAP)
    def stamp(self, seconds: int) -> None:
        self.world.stamp(seconds)

    @rule(back=st.integers(0, 9), seconds=NAP)
    def late_stamp(self, back: int, seconds: int) -> None:
        """The keeper records a checkpoint of before, with its true cosignatures."""
        last = self.world.state.clock.last
        assert last is not None
        size = max(0, self.world.state.size - back)
        self.world.now += seconds
        outcome = self.world.append(self.world.checkpoint(size=size))
        assert outcome.reason is (None if size >= last.size else Reason.ROLLBACK)

    @rule(by=st.sampled_from([LABS, PARTIES, LABS[:2]]), seconds=NAP)
    def lying_stamp(self, by: tuple[str, ...], seconds: int) -> None:
        root = sha256(b"another history")
        outcome = self.world.append(self.world.checkpoint(root=root, by=by, now=self.world.now + 10**6))
        assert outcome.reason in (Reason.EQUIVOCATION, Reason.NO_QUORUM)

    @rule(at=st.integers(0, 200))
    def replay(self, at: int) -> None:
        self.world.append(self.world.entries[at % len(self.world.entries)])

    @rule(party=ANY, back=st.integers(0, 2))
    def equivocate(self, party: str, back: int) -> None:
        """With the last number of the lane, or with an older one that only both envelopes prove."""
        said = self.world.said.get((party, "brake"), [])
        known = self.world.state.members.equivocators
        if len(known | {party}) > self.world.treaty.faults or back >= len(said):
            return
        one = said[-1 - back]
        body = {"motion": "trip", "epoch": self.world.state.epoch, "reason": "two-faced"}
        other = self.world.statement(party, "vote", body, seq=open_envelope(one).statement.seq)
        outcome = self.world.append(other)
        assert outcome.reason is (Reason.REPLAYED if back else Reason.EQUIVOCATION)
        if back:
            first, second = sorted((one.decode(), other.decode()))
            by = next(p for p in PARTIES if p != party)
            outcome = self.world.log(by, "evidence", {"first": first, "second": second})
            assert outcome.reason is (Reason.DUPLICATE if party in known else None)
        assert party in self.world.state.members.equivocators

    @rule(party=ANY)
    def withdraw(self, party: str) -> None:
        self.world.withdraw(party)

    @rule(data=st.binary(max_size=20))
    def rubbish(self, data: bytes) -> None:
        assert self.world.append(data).reason is not None

    @rule(
        which=st.booleans(),
        status=st.sampled_from(["opened", "running", "stopped", "stopped"]),
        steps=st.integers(0, 3),
    )
    def report(self, which: bool, status: str, steps: int) -> None:
        run = self.runs[which]
        if status != "opened":
            self.world.train(run, min(30, len(self.world.leaves[run.id]) - 1 + steps))
        self.world.head(run, status, steps=run.steps if run.stopped else None)

    @rule(party=ANY, which=st.booleans(), upheld=st.booleans())
    def accuse(self, party: str, which: bool, upheld: bool) -> None:
        run = self.runs[which]
        logged = run.heads[-1]
        if not logged.beacon:
            return
        if upheld and party != run.owner and party not in self.world.state.members.equivocators:
            self.accusers.add(party)
        finding = Finding(fault=Fault.NO_PERMIT, severity="violation", segment=(0, 0), detail="")
        self.world.audit(party, run, *([finding] if upheld else []))

    # what signers and gates do

    @rule(which=st.booleans(), aged=st.integers(0, 8), epoch=st.sampled_from([-1, 0, 0, 0]))
    def ask(self, which: bool, aged: int, epoch: int) -> None:
        world, run = self.world, self.runs[which]
        permit = world.request(run, issued=world.now - aged, expires=world.now - aged + world.treaty.permit_lifetime)
        permit = replace_epoch(permit, permit.epoch + epoch)
        try:
            world.grant(permit, view_time=world.now - aged)
        except (BrakelineError, Malformed):
            return
        # No signer grants while the brake is on, for an ended epoch, or for a run that stands still or is barred.
        assert world.phase is Phase.CLEAR
        assert permit.epoch == world.state.epoch
        assert not run.stopped
        assert run.bar is None
        assert not (run.held and run.settlement != "settled")
        data = world.sealed(permit)
        self.old.append((run, permit, data))
        self.gates[run.id] = admit(
            self.gates[run.id],
            data,
            world.treaty,
            world.treaty.signer_keys,
            nonce=permit.nonce,
            asked_at=world.now * 10**9,
        )
        assert decide(self.gates[run.id], now=world.now * 10**9, flop=1)

    @rule(which=st.booleans())
    def look(self, which: bool) -> None:
        state, run = self.world.state, self.runs[which]
        if state.phase is not Phase.CLEAR:
            self.gates[run.id] = halt(self.gates[run.id], epoch=state.epoch, reason=state.phase)
            assert not decide(self.gates[run.id], now=0, flop=1)

    @rule(at=st.integers(0, 100))
    def replay_permit(self, at: int) -> None:
        if not self.old:
            return
        run, permit, data = self.old[at % len(self.old)]
        gate = self.gates[run.id]
        try:
            opened = admit(gate, data, self.world.treaty, self.world.treaty.signer_keys, nonce=permit.nonce, asked_at=0)
        except BrakelineError:
            return
        # Treaty 5.5: only its own epoch or an earlier gate admits it, and never one that has seen a later trip.
        assert permit.epoch >= gate.epoch
        assert opened.epoch == permit.epoch
        with refused(Reason.REPLAYED):
            admit(gate, data, self.world.treaty, self.world.treaty.signer_keys, nonce="0" * 32, asked_at=0)

    # what must hold

    @invariant()
    def honest(self) -> None:
        state = self.world.state
        new, self.known = self.world.events[self.known :], len(self.world.events)
        for event in new:
            if isinstance(event, ev.Tripped) and isinstance(event.cause, ev.ByReopening):
                self.trip_voters, self.lifters = set(), set()
                self.tripped, self.reopened = self.world.now, True
            elif isinstance(event, ev.Tripped):
                # Treaty 4.1-4.4: f parties trip nothing, whatever they sign, and unbound ones do not count.
                voters, readers = self.trip_voters & self.bound, self.readers & self.bound
                assert max(len(voters), len(readers), len(self.accusers)) > self.world.treaty.faults
                self.trip_voters, self.lifters = set(), set()
                self.tripped, self.reopened = self.world.now, False
            if isinstance(event, ev.Paused):
                # Treaty 4.5: all have said that they stopped, or no permit of before can be alive; 11.9: the latter.
                stopped = all(r.stopped for r in self.runs if state.concerned(r.now)) and not self.reopened
                assert stopped or self.world.now >= self.tripped + self.world.treaty.permit_lifetime + 30
            if isinstance(event, ev.Lifting):
                assert len(self.lifters & self.bound) >= self.world.treaty.lift  # Treaty 8.1
                assert set(event.parties) <= self.lifters
            if isinstance(event, ev.Cleared):
                self.trip_voters, self.lifters, self.readers = set(), set(), set()
                assert self.phase in (Phase.LIFTING, Phase.PAUSED)
        assert state.epoch >= self.seen_epoch
        self.seen_epoch = state.epoch
        self.phase = state.phase
        assert len(state.members.equivocators) <= self.world.treaty.faults

    def teardown(self) -> None:
        if hasattr(self, "runs"):
            self.world.check()
            for _, permit, data in self.old:
                assert open_envelope(data).kind == "permit"
                assert permit.epoch <= self.world.state.epoch


Adversary.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)
TestAdversary = Adversary.TestCase


@settings(max_examples=settings().max_examples // 3)
@given(
    who=st.sampled_from(PARTIES),
    votes=st.lists(st.sampled_from(["vote", "read", "accuse", "stamp", "repledge"]), max_size=12),
)
def test_one_party_never_trips_the_brake(who: str, votes: list[str]) -> None:
    # Treaty 1.3, 4.1: with f = 1, whatever one party says, in any order and as often as it likes.
    world = World()
    world.bind()
    run = world.finished("alpha" if who != "alpha" else "beta", steps=3)
    for what in votes:
        if what == "vote":
            world.vote("trip", who)
        elif what == "read":
            for gauge in ("authorship", "speedup", "lineage"):
                world.read(gauge, 99.0, who)
        elif what == "accuse":
            finding = Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=(0, 3), detail="")
            world.audit(who, run, finding)
        elif what == "repledge":
            world.bind(who, expires=world.now + 2 * DAY)
        else:
            world.stamp()
    assert (world.phase, world.of(ev.Tripped)) == (Phase.CLEAR, [])
    world.check()
