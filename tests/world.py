"""A treaty, its parties and its log in memory, on the real core: real keys, real signatures, a clock that tests set.

`World.check` folds the whole log anew after the fact and wants the same state, so every test that uses a world also
tests that the state is a function of the log. All is deterministic: keys follow from names.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from brakeline.core.brake import START as START_STATE
from brakeline.core.brake import Event, Phase, step
from brakeline.core.bundle import Bundle
from brakeline.core.encoding import b64encode, canonical, sha256
from brakeline.core.errors import Reason
from brakeline.core.finding import Audit, Fault, Finding
from brakeline.core.finding import verdict as verdict_of
from brakeline.core.gate import NO_PERMIT
from brakeline.core.grant import check_request, limit_of
from brakeline.core.judge import Openings, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.kinds import lane_of
from brakeline.core.lineage import FRESH, Data, Edge
from brakeline.core.permit import KIND, Permit
from brakeline.core.pledge import Assent, Pledge, Withdrawal, check_activation
from brakeline.core.reading import Reading
from brakeline.core.run import Declaration
from brakeline.core.sampling import ticket_message
from brakeline.core.state import State, apply, ballot, begin
from brakeline.core.state import events as ev
from brakeline.core.state.audits import required_sample
from brakeline.core.state.codec import decode, encode
from brakeline.core.state.runs import LoggedHead, Run, count
from brakeline.core.statement import GENESIS, Statement, open_envelope, pae, seal, sign
from brakeline.core.tlog.checkpoint import Checkpoint, cosign
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, sign_note
from brakeline.core.transcript import NONE, Head, Leaf, SegmentReplay
from brakeline.core.treaty import Lane, Treaty, articles_digest, parse_treaty
from brakeline.core.treaty.parties import digest_of

E = TypeVar("E", bound=ev.Event)
EXAMPLE = Path(__file__).parents[1] / "examples" / "treaties" / "demo.toml"
LABS = ("alpha", "beta", "gamma")
PARTIES = (*LABS, "delta")
START = 1_767_225_600 + 10_000  # POSIX s, a little after the example comes into force
DAY = 86_400
STEP_FLOP = 10**9
READING_FIELDS = frozenset(Reading.__struct_fields__)
RECIPE, DATASET, ENVIRONMENT = (sha256(x).hex() for x in (b"recipe", b"dataset", b"environment"))

# What the tests count on; the example may be tuned for watching.
PINNED = {
    "scope.covered_above": '"10 GFLOP"',
    "scope.prohibited_above": '"1 EFLOP"',
    "scope.tier.sum": "false",
    "lift.conditions": '["stopped", "audited"]',
    "lift.delay": '"2 s"',
    "lift.settle_within": '"1 h"',
    "permit.lifetime": '"10 s"',
    "permit.allowance": '"6 GFLOP"',
    "log.heartbeat": '"1 s"',
    "log.stale_after": '"5 s"',
    "audit.p_catch": '"95 %"',
    "audit.f_cheat": '"50 %"',
    "audit.segment_steps": "3",
    "audit.head_every": "5",
    "audit.update_error": "0.05",
    "budget.brake": "100000",
    "budget.runs": "100000",
    "budget.audits": "100000",
    "budget.rest": "100000",
    "budget.bytes": '"1 GiB"',
}
TIERS = {"scope.covered_above": 0, "scope.prohibited_above": 1}  # by the place of their tier in the example


@cache
def key(name: str, purpose: str = "statement") -> PrivateKey:
    return PrivateKey(sha256(f"{name} {purpose}".encode()))


def next_digest(name: str, purpose: str = "statement", number: int = 1) -> str:
    """The digest of the key that is to come after `number` - 1 others."""
    return digest_of(key(name, f"{purpose} {number}").public)


def edited(text: str, path: str, value: str, *, number: int = 0) -> str:
    """`text` with another value for `table.key`; `number` counts the tables of that name."""
    table, _, name = path.rpartition(".")
    lines, seen, here = text.split("\n"), -1, False
    for i, line in enumerate(lines):
        if line.startswith("["):
            here = line.strip("[] ") == table
            seen += here
        if here and seen == number and re.match(rf"{name}\s*=", line):
            lines[i] = f"{name} = {value}"
            return "\n".join(lines)
    raise AssertionError(f"no {path} in the treaty")


def enrolled(text: str) -> str:
    """The draft `text` with the keys of every party entered."""
    lines, name = [], ""
    for line in text.split("\n"):
        lines.append(line)
        if line.startswith("[party."):
            name = line[len("[party.") : -1]
        if name and line.startswith("roles"):
            lines.append(f'key = "{key(name).public.text}"')
            lines.append(f'next = "{next_digest(name)}"')
            if '"log"' in line:
                lines.append(f'log_key = "{log_key(name).text}"')
            if '"witness"' in line:
                lines.append(f'witness_key = "{witness_key(name).text}"')
            if '"permit-signer"' in line:
                lines.append(f'signer_key = "{key(name, "signer").public.text}"')
                lines.append(f'signer_next = "{next_digest(name, "signer")}"')
            name = ""
    return "\n".join(lines)


def model(name: str) -> str:
    """The digest of a model's weights."""
    return sha256(b"weights", name.encode()).hex()


def log_key(name: str, number: int = 0) -> VerifierKey:
    """The key of the log that `name` keeps, the `number`th after the first."""
    origin, purpose = ("log.example/demo", "log") if not number else (f"log.example/demo-{number}", f"log {number}")
    return VerifierKey(origin, ED25519, key(name, purpose).public)


def witness_key(name: str) -> VerifierKey:
    return VerifierKey(f"{name}.example/witness", COSIGNATURE, key(name, "witness").public)


@cache
def treaty_text(**changes: str) -> str:
    """The example with keys, the pinned values and `changes`: `lift_delay='"0 s"'` sets `lift.delay`."""
    text = EXAMPLE.read_text()
    paths = {k if "." in k else k.replace("_", ".", 1): v for k, v in changes.items()}
    for path, value in (PINNED | paths).items():
        tier = TIERS.get(path)
        text = edited(text, path if tier is None else "scope.tier.above", value, number=tier or 0)
    if "scope.prohibited_above" in paths:  # no exemption reaches beyond it
        for number in (0, 1):
            text = edited(text, "scope.exempt.up_to", paths["scope.prohibited_above"], number=number)
    return enrolled(text)


@cache
def treaty(**changes: str) -> Treaty:
    return parse_treaty(treaty_text(**changes).encode())


class Outcome(NamedTuple):
    """What became of an entry: `reason` is None when it took effect."""

    index: int
    kind: str
    issuer: str
    reason: Reason | None
    text: str
    events: tuple[ev.Event, ...]


class Live:
    """A run as it is now: reads every attribute from the newest state of its world."""

    def __init__(self, world: "World", id_: str) -> None:
        self.world, self.id = world, id_

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)

    @property
    def now(self) -> Run:
        return self.world.state.run(self.id)


class World:
    def __init__(self, *, start: int = START, treaty: Treaty | None = None, **changes: str) -> None:
        self.first = treaty or globals()["treaty"](**changes)
        self.state = begin(self.first)
        self.generation: dict[str, int] = {}  # how many keys for statements a party has had before this one
        self.events: list[ev.Event] = []
        self.entries: list[bytes] = []
        self.now = start
        self.said: dict[tuple[str, Lane], list[bytes]] = {}
        self.leaves: dict[str, list[Leaf]] = {}
        self.permits: dict[str, list[bytes]] = {}
        self.stamp(0)

    @property
    def treaty(self) -> Treaty:
        """The text in force."""
        return self.state.treaty

    def key(self, party: str) -> PrivateKey:
        """The key with which the party speaks now."""
        number = self.generation.get(party, 0)
        return key(party, f"statement {number}" if number else "statement")

    @property
    def lapse(self) -> int:
        """From the first stamp over a trip until every permit has lapsed, seconds. Treaty 4.5"""
        t = self.treaty
        return 2 * t.stale_after + t.heartbeat + t.permit_lifetime + 30

    # the log

    def append(self, data: bytes) -> Outcome:
        index = len(self.entries)
        self.entries.append(data)
        self.state, events = apply(self.state, data)
        self.events += events
        for event in events:
            if isinstance(event, ev.Entered):
                return Outcome(index, event.kind, event.issuer, None, "", events)
            if isinstance(event, ev.Void):
                return Outcome(index, event.kind, event.issuer, event.reason, event.text, events)
        return Outcome(index, "stamp", "", None, "", events)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [e for e in self.events if isinstance(e, kind)]

    def checkpoint(
        self,
        size: int | None = None,
        *,
        root: bytes | None = None,
        by: Sequence[str] | None = None,
        now: int | None = None,
    ) -> bytes:
        """The log's checkpoint, cosigned; with `root` a lie."""
        size = len(self.entries) if size is None else size
        if root is None:
            kept = size >= self.state.clock.base.size
            root = self.state.root(size) if kept else tree_root([leaf_hash(e) for e in self.entries[:size]])
        now = self.now if now is None else now
        number = sum(r.entry < size for r in self.state.chain.reopened)
        keeper = self.state.chain.reopened[number - 1].keeper if number else self.first.with_role("log")[0].name
        if by is None:
            coming = [self.state.chain.coming.ground.policy] if self.state.chain.coming else []
            by = sorted({name for policy in (*self.state.chain.need(size), *coming) for name in policy.witnesses})
        origin = log_key(keeper, number).name
        text = Checkpoint(origin, size, root).text
        lines = (cosign(text, witness_key(w).name, key(w, "witness"), now) for w in by)
        own = key(keeper, f"log {number}" if number else "log")
        return sign_note(text, origin, own).with_lines(*lines).encode()

    def stamp(self, seconds: int = 1) -> Outcome:
        """Let time pass, then have the log record its checkpoint."""
        self.now += seconds
        return self.append(self.checkpoint())

    # statements

    def statement(
        self,
        party: str,
        kind: str,
        body: object,
        *,
        by: PrivateKey | None = None,
        issuer: str | None = None,
        **changes: Any,
    ) -> bytes:
        """The party's next statement, or one with something wrong about it, which takes no number; not logged yet."""
        earlier = self.said.setdefault((party, lane_of(kind, self.treaty.rules)), [])
        made = Statement(
            **{
                "treaty": self.treaty.digest,
                "issuer": issuer or party,
                "seq": len(earlier),
                "prev": open_envelope(earlier[-1]).digest if earlier else GENESIS,
                "not_before": self.now,
                "expires": self.now + DAY,
                "body": body if isinstance(body, dict) else plain(body),
                **changes,
            }
        )
        data = sign(kind, made, by or self.key(party))
        if changes.keys() <= {"not_before", "expires"} and by is None and issuer is None:
            earlier.append(data)
        return data

    def log(self, party: str, kind: str, body: object, **changes: Any) -> Outcome:
        return self.append(self.statement(party, kind, body, **changes))

    def wrong(self, party: str, kind: str, body: object, **changes: Any) -> Outcome:
        """Log the party's next statement with something wrong about it; it takes its number all the same."""
        data = self.statement(party, kind, body, **changes)
        said = self.said[(party, lane_of(kind, self.treaty.rules))]
        if said[-1:] != [data]:
            said.append(data)
        return self.append(data)

    def bind(self, *parties: str, condition: str = "quorum none\n", **changes: Any) -> None:
        """Assent and pledge; everybody without condition unless told otherwise."""
        articles = articles_digest(self.treaty)
        for party in parties or tuple(self.treaty.parties):
            assert self.log(party, "assent", Assent(text=self.treaty.digest, articles=articles)).reason is None
            assert self.log(party, "pledge", Pledge(condition=condition), **changes).reason is None

    def withdraw(self, party: str) -> Outcome:
        return self.log(party, "withdrawal", Withdrawal(reason="leaving"))

    def vote(self, motion: str, *parties: str, epoch: int | None = None, **changes: Any) -> tuple[Outcome, ...]:
        epoch = self.state.epoch if epoch is None else epoch
        body = {"motion": motion, "epoch": epoch, "reason": "test"}
        return tuple(self.log(p, "vote", body, **changes) for p in parties)

    def trip(self) -> None:
        self.vote("trip", "alpha", "beta")
        assert self.phase in (Phase.TRIPPED, Phase.PAUSED)

    def read(self, gauge: str, lower: float, *parties: str, **changes: Any) -> tuple[Outcome, ...]:
        """Each party logs one and the same reading, two units wide; a field of it may be given in `changes`."""
        body = self.reading(gauge, lower, **{k: changes.pop(k) for k in list(changes) if k in READING_FIELDS})
        return tuple(self.log(p, "reading", body, **changes) for p in parties)

    def reading(self, gauge: str, lower: float, **changes: Any) -> Reading:
        unit = next(t.unit for t in self.treaty.triggers if t.gauge == gauge)
        fields: dict[str, Any] = {
            "gauge": gauge,
            "subject": "everything",
            "inputs": sha256(gauge.encode()).hex(),
            "value": lower + 1,
            "lower": lower,
            "upper": lower + 2,
            "unit": unit,
            "complete": True,
            "alarms": (),
            "evidence": sha256(b"evidence").hex(),
        }
        return Reading(**{**fields, **changes})

    @property
    def phase(self) -> Phase:
        return self.state.phase

    def voters(self, motion: str) -> frozenset[str]:
        """Parties in force whose vote stands."""
        return ballot.voters(getattr(self.state.ballot, motion), self.state.members, self.state.time)

    def unmet(self) -> tuple[str, ...]:
        """Lift conditions that do not hold."""
        s = self.state
        return ballot.unmet(s.treaty, s.ballot, s.members, s.runs, s.readings, s.time)

    # runs

    def declaration(self, **changes: Any) -> Declaration:
        fields: dict[str, Any] = {
            "name": "run",
            "rung": "re-executable",
            "recipe": RECIPE,
            "dataset": DATASET,
            "environment": ENVIRONMENT,
            "steps": 30,
            "segment_steps": 3,
            "flop_per_step": str(STEP_FLOP),
            "parents": (),
            "purpose": "",
            "chips": 1,
            "flop_per_second": "0",
            "domain": "",
        }
        return Declaration(**{**fields, **changes})

    def declare(self, lab: str, **changes: Any) -> Live:
        """Declare a run, and stamp, so that it has its seed."""
        outcome = self.log(lab, "declaration", self.declaration(**changes))
        assert outcome.reason is None, outcome.text
        run = Live(self, open_envelope(self.entries[-1]).digest)
        self.stamp()
        self.leaves[run.id] = [Leaf(0, sha256(run.seed, b"init"), NONE, NONE, 0.0, 0)]
        self.permits[run.id] = []
        return run

    def train(self, run: Live, steps: int, permit: bytes = NO_PERMIT) -> None:
        """Record synthetic steps up to `steps`."""
        leaves = self.leaves[run.id]
        for at in range(len(leaves), steps + 1):
            state, batch = (sha256(leaves[0].state, b"%d" % at, x) for x in (b"state", b"batch"))
            leaves.append(Leaf(at, state, batch, permit, 1 / at, at * run.declaration.step_flop))

    def head_of(self, run: Live, status: str, /, *, steps: int | None = None, **changes: Any) -> Head:
        leaves = self.leaves[run.id]
        steps = len(leaves) - 1 if steps is None else steps
        fields: dict[str, Any] = {
            "run": run.id,
            "steps": steps,
            "root": tree_root([leaf_hash(x.encode()) for x in leaves[: steps + 1]]).hex(),
            "state": leaves[steps].state.hex(),
            "flop": str(steps * run.declaration.step_flop),
            "status": status,
        }
        return Head(**{**fields, **changes})

    def head(self, run: Live, status: str, /, **changes: Any) -> Outcome:
        return self.log(run.owner, "head", self.head_of(run, status, **changes))

    def opened(self, lab: str, **changes: Any) -> Live:
        """A run that is declared and has logged where it starts."""
        run = self.declare(lab, **changes)
        assert self.head(run, "opened").reason is None
        return run

    def finished(self, lab: str, steps: int = 12, status: str = "stopped", **changes: Any) -> Live:
        """A run trained under a permit for `steps` steps in all, then stamped, so that it can be audited."""
        run = self.opened(lab, **changes)
        while (done := len(self.leaves[run.id]) - 1) < steps:
            permit = self.permit(run)
            self.train(run, min(steps, done + self.treaty.permit_allowance // STEP_FLOP), permit)
            last = len(self.leaves[run.id]) - 1 == steps
            assert self.head(run, status if last else "running").reason is None
        self.stamp()
        return run

    def edge(self, lab: str, child: str, *parents: str, run: str = "", **changes: Any) -> Outcome:
        """Log how the model `child` (a name) came to be of its parents (names): people made its data."""
        data = Data(digest=DATASET, labelled_by=(lab,), curated_by=(lab,))
        fields: dict[str, Any] = {
            "child": model(child),
            "run": run,
            "parents": tuple(sorted(map(model, parents))),
            "data": (data,),
            "recipe": RECIPE,
            "initialisation": FRESH,
        }
        return self.log(lab, "edge", Edge(**{**fields, **changes}))

    # permits

    def request(self, run: Live, /, **changes: Any) -> Permit:
        """What a lab asks for: all that the treaty allows."""
        limit = limit_of(self.state, run.now)
        fields: dict[str, Any] = {
            "treaty": self.treaty.digest,
            "run": run.id,
            "epoch": self.state.epoch,
            "size": self.state.size,
            "root": self.state.root().hex(),
            "issued": self.now,
            "expires": self.now + self.treaty.permit_lifetime,
            "flop_limit": str(limit),
            "nonce": f"{len(self.entries):032x}",
        }
        return Permit(**{**fields, **changes})

    def grant(self, permit: Permit, *, view_time: int | None = None, now: int | None = None) -> None:
        """What a permit signer checks, on this world's log."""
        now = self.now if now is None else now
        check_request(permit, self.state, view_time=self.now if view_time is None else view_time, now=now)

    def sealed(self, permit: Permit, *signers: str) -> bytes:
        """The permit under the signatures of `signers`, checked or not."""
        data = canonical(permit)
        message = pae(KIND, data)
        keys = [key(s, "signer") for s in signers or LABS]
        return seal(KIND, data, [(k.public.id, k.sign(message)) for k in keys])

    def permit(self, run: Live, /, **changes: Any) -> bytes:
        """Ask for a permit, have it checked and signed, keep it; returns its digest, which leaves name."""
        permit = self.request(run, **changes)
        self.grant(permit)
        data = self.sealed(permit)
        self.permits[run.id].append(data)
        return bytes.fromhex(open_envelope(data).digest)

    # audits

    def ticket(self, inspector: str, logged: LoggedHead) -> bytes:
        assert logged.beacon
        return self.key(inspector).sign(ticket_message(logged.leaf, logged.beacon))

    def openings(self, run: Live, **changes: Any) -> Openings:
        shown = Openings(tuple(self.leaves[run.id]), tuple(self.permits[run.id]), RECIPE, DATASET)
        return replace(shown, **changes)

    def replay(self, run: Live, part: tuple[int, int], **changes: Any) -> SegmentReplay:
        """An honest inspector's replay of an honest segment in the declared environment."""
        start, end = part
        leaves = self.leaves[run.id]
        honest = SegmentReplay(
            start, end, leaves[start].state, tuple(leaves[start + 1 : end + 1]), run.declaration.environment
        )
        return replace(honest, **changes)

    def judged(
        self, run: Live, *, inspector: str = "delta", environment: str | None = None, **changes: Any
    ) -> tuple[Finding, ...]:
        """The findings of one inspector on the run's last head. `replays` overrides the honest ones by segment."""
        logged = run.heads[-1]
        required = self.required(inspector, run, logged)
        replays = {part: self.replay(run, part) for part in required} | changes.pop("replays", {})
        openings = self.openings(run, **changes)
        where = run.declaration.environment if environment is None else environment
        return judge(self.state, run.now, self.heads(run), openings, required, replays, environment=where)

    def required(self, inspector: str, run: Live, logged: LoggedHead | None = None) -> tuple[tuple[int, int], ...]:
        """The segments that the treaty makes an inspector replay, by default up to the run's last head."""
        logged = logged or run.heads[-1]
        ticket, mine = self.ticket(inspector, logged), self.state.key_of(inspector)
        return required_sample(self.treaty, run.now, logged, inspector, ticket, mine)

    def heads(self, run: Live) -> list[ev.Committed]:
        """Every head of the run that counts."""
        return [e for e in self.of(ev.Committed) if e.head.run == run.id]

    def audit_of(self, inspector: str, run: Live, /, *findings: Finding, **changes: Any) -> Audit:
        logged = next(h for h in run.heads if h.index == changes.get("head", run.heads[-1].index))
        ticket = self.ticket(inspector, logged)
        fields: dict[str, Any] = {
            "run": run.id,
            "head": logged.index,
            "beacon": logged.stamp,
            "ticket": b64encode(ticket),
            "segments": self.required(inspector, run, logged),
            "environment": ENVIRONMENT,
            "flop": "0",
            "findings": findings,
            "verdict": verdict_of(changes.get("findings", findings)),
        }
        return Audit(**{**fields, **changes})

    def audit(self, inspector: str, run: Live, /, *findings: Finding, **changes: Any) -> Outcome:
        return self.log(inspector, "audit", self.audit_of(inspector, run, *findings, **changes))

    # proofs

    def bundle(self, *runs: Live, **changes: Any) -> Bundle:
        opened = {r.id: b"".join(x.encode() for x in self.leaves[r.id][: r.steps + 1]) for r in runs}
        fields: dict[str, Any] = {
            "treaty": self.first.text,
            "checkpoint": self.checkpoint(),
            "entries": tuple(self.entries),
            "transcripts": opened,
        }
        return Bundle(**{**fields, **changes})

    def check(self) -> None:
        """Everything that must hold of any log: folding it again gives this state, and the state is sound.

        Folding again goes on twice from what was written down: who starts from a snapshot finds the same as all others.
        """
        again, events = begin(self.first), list[ev.Event]()
        for i, entry in enumerate(self.entries):
            if i and i % (len(self.entries) // 3 + 1) == 0:
                again = decode(encode(again), self.first)
            again, new = apply(again, entry)
            events += new
        assert events == self.events
        written = encode(self.state)
        assert encode(again) == written, "folding the log again gives another state"
        back = decode(written, self.first)
        for part in ("chain", "keyring", "clock", "members", "runs", "ballot", "readings", "dues"):
            assert getattr(back, part) == getattr(self.state, part), f"{part} differs when it is read back"
        assert self.state.root() == tree_root([leaf_hash(e) for e in self.entries])
        assert self.state.size == len(self.entries)
        check_history(self.events, self.state)
        activation = self.state.members.activation
        parties = frozenset(self.state.members.by_name)
        named = {p: self.state.members.by_name[p].pledge for p in (*activation.active, *activation.deleted)}
        conditions = {p: Pledge(condition=x.condition).group(parties) for p, x in named.items() if x}
        check_activation(conditions, activation)
        for what in ("running", "unsettled"):
            slow = [r for r in self.state.runs.by_id.values() if r.brakes and (r.bound or r.owner in activation.active)]
            counted = sum(not r.stopped if what == "running" else r.covered and r.settlement == "open" for r in slow)
            assert count(self.state.runs, activation.active, what) == counted


def bound(**changes: str) -> World:
    """A world in which everybody is bound."""
    world = World(**changes)
    world.bind()
    return world


def violation(fault: Fault = Fault.REPLAY_MISMATCH, segment: tuple[int, int] = (0, 3)) -> Finding:
    return Finding(fault=fault, severity="violation", segment=segment, detail="test")


def raw(party: str, kind: str, payload: bytes, by: PrivateKey | None = None) -> bytes:
    """Any bytes, signed."""
    by = by or key(party)
    return seal(kind, payload, [(by.public.id, by.sign(pae(kind, payload)))])


def last_numbers(state: State, party: str) -> list[int]:
    """The party's newest numbers, by lane."""
    return [x.seq for x in state.members.by_name[party].last]


MOVES: dict[type[ev.Event], Event] = {
    ev.Tripped: Event.TRIP,
    ev.Paused: Event.STOPPED,
    ev.Lifting: Event.LIFT,
    ev.Withheld: Event.WITHHELD,
    ev.Cleared: Event.RELEASED,
}


def check_history(events: Sequence[ev.Event], state: State) -> None:
    """The brake moved only by its table, time only forwards, and the epoch by one with every trip.

    Where the log was reopened it may rise by more (Treaty 11.9).
    """
    brake = START_STATE
    for event in events:
        if isinstance(event, ev.Tripped) and isinstance(event.cause, ev.ByReopening):
            assert event.epoch > brake.epoch
            brake = step(replace(brake, epoch=event.epoch - 1), Event.REOPENED, now=event.time)
        elif move := MOVES.get(type(event)):
            brake = step(brake, move, now=event.time)  # type: ignore[attr-defined]
            assert not isinstance(event, ev.Tripped) or event.epoch == brake.epoch
    assert brake == state.ballot.brake


def plain(body: object) -> dict[str, Any]:
    """A body as JSON values, as it stands in a statement."""
    built = msgspec.to_builtins(body)
    assert isinstance(built, dict)
    return built
