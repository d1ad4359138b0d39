"""Audits on the real core: declared runs, permits, heads, seeded samples, the judge, adjudication and the brake.

What is real: the treaty; every statement, signed and folded; the log's stamps, which seed the samples; permits, refused
by the rules of `core.grant`; the sample each inspector draws; the judge, who compares what was replayed with what the
heads commit to; confirmation, adjudication and the trip of the brake.

What is abstract: a step of training is one SHA-256 of the state before it, so that replaying is recomputing it; an
inspector's mistake is a coin, as no real cause is known; there is no network, and time is a number.
"""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from brakeline.core.brake import Phase
from brakeline.core.encoding import b64encode, canonical, sha256
from brakeline.core.errors import Reason, Refused
from brakeline.core.finding import Audit, Fault, Finding
from brakeline.core.finding import verdict as verdict_of
from brakeline.core.grant import check_request, request
from brakeline.core.judge import Openings, judge
from brakeline.core.kinds import lane_of
from brakeline.core.permit import KIND
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.run import Declaration
from brakeline.core.sampling import draws_needed, miss, ticket_message
from brakeline.core.state import apply, begin
from brakeline.core.state.audits import required_sample
from brakeline.core.state.events import Committed, Void
from brakeline.core.state.runs import Allegation, LoggedHead, Run
from brakeline.core.statement import GENESIS, Statement, open_envelope, pae, seal, sign
from brakeline.core.tlog.checkpoint import Checkpoint, cosign
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.merkle import root as tree_root
from brakeline.core.tlog.note import sign_note
from brakeline.core.transcript import NONE, Head, Leaf, SegmentReplay
from brakeline.core.treaty import Lane, Treaty, articles_digest
from brakeline.design.standin import key, log_key, rehearsed, witness_key

SEGMENTS: Final = 24  # segments of a run, of one step each
CHEATED: Final = 3  # of them with another result than the recipe gives: a tenth, rounded up
STEP_FLOP: Final = 10**9
START: Final = 1_767_225_600 + 10_000  # POSIX s, after the treaty's effective date
KEEPER: Final = "keeper"  # keeps the log, witnesses it and signs permits: its honesty is not what is tried here
Part = tuple[int, int]
RECIPE, DATASET, ENVIRONMENT = (sha256(x).hex() for x in (b"recipe", b"dataset", b"environment"))

_TREATY: Final = """\
[treaty]
name = "rehearsal"
title = "Rehearsal of audits"
version = 1
rules = 1
effective = 2026-01-01T00:00:00Z
[quorum]
faults = 0
trip = 1
permit = 1
lift = {lift}
witnesses = 1
[scope]
window = "1 d"
[[scope.tier]]
name = "covered"
duties = ["declared", "permitted"]
above = "1 GFLOP"
[brake]
findings_trip = true
[lift]
conditions = ["stopped"]
delay = "1 s"
settle_within = "1 h"
[permit]
lifetime = "1 h"
allowance = "{steps} GFLOP"
[log]
heartbeat = "1 s"
stale_after = "1 h"
snapshot_every = 1000000
[audit]
inspectors = {inspectors}
adjudicators = {quorum}
p_catch = "{p_catch} %"
f_cheat = "{f_cheat} %"
segment_steps = 1
head_every = {steps}
update_error = 0.005
residual = "5 %"
attested_runs = false
within = "30 d"
findings = {steps}
[budget]
brake = 100
runs = 10000
audits = 10000
rest = 100
bytes = "1 GiB"
[[clocks.incident]]
name = "safety"
within = "72 h"
[clocks]
notification = "14 d"
report = "15 d"
amendment = "30 d"
withdrawal = "180 d"
[party.keeper]
roles = ["log", "witness", "permit-signer", "inspector"]
"""


class Terms(NamedTuple):
    """What is rehearsed: `blocs` labs, `inspectors` of which `corrupt` are, a `quorum`, a probability of a mistake.

    `confirmers` are all inspectors there are; those beyond `inspectors` are honest and only answer accusations.
    `p_catch` is the treaty's, in per cent: the sample is as large as it takes to catch a cheat on a tenth of the
    segments that often. A corrupt inspector passes every cheat and accuses every honest run.
    """

    blocs: int
    inspectors: int
    confirmers: int
    quorum: int
    corrupt: int
    false_alarm: float
    p_catch: int = 50

    @property
    def detection(self) -> float:
        """p_1 in closed form: an inspector's sample holds a cheated segment (formula F-5)."""
        t = treaty_of(self)
        return float(1 - miss(SEGMENTS, CHEATED, draws_needed(SEGMENTS, t.p_catch, t.f_cheat)))


@cache
def treaty_of(terms: Terms) -> Treaty:
    """The treaty that is rehearsed."""
    parties = terms.blocs + terms.confirmers + 1
    text = _TREATY.format(
        lift=parties // 2 + 1,
        steps=SEGMENTS,
        inspectors=terms.inspectors,
        quorum=terms.quorum,
        p_catch=terms.p_catch,
        f_cheat=10,
    )
    for i in range(terms.blocs):
        text += f'[party.bloc-{i}]\nroles = ["lab"]\n'
    for i in range(terms.confirmers):
        text += f'[party.inspector-{i}]\nroles = ["inspector"]\n'
    return rehearsed(text.encode())


@cache
def articles_of(terms: Terms) -> str:
    """The digest of that treaty's articles, which every assent signs."""
    return articles_digest(treaty_of(terms))


class Episode(NamedTuple):
    """What became of one audited run."""

    cheated: bool
    convicted: bool


class Stage:
    """One log with its blocs, all bound. Runs are declared, trained, logged and audited together, then all is over."""

    def __init__(self, terms: Terms, random: Random) -> None:
        self.terms, self.random = terms, random
        self.treaty = treaty_of(terms)
        self.state = begin(self.treaty)
        self.entries: list[bytes] = []
        self.now = START
        self._said: dict[tuple[str, Lane], tuple[int, str]] = {}
        self._heads: dict[str, list[Committed]] = {}
        self._leaves: dict[str, list[Leaf]] = {}
        self._permits: dict[str, bytes] = {}
        self.blocs = [f"bloc-{i}" for i in range(terms.blocs)]
        everybody = [f"inspector-{i}" for i in range(terms.confirmers)]
        self.corrupt, self.honest = everybody[: terms.corrupt], everybody[terms.corrupt :]
        self.auditors = self.honest[: max(0, terms.inspectors - terms.corrupt)]
        self._stamp()
        articles = articles_of(terms)
        for bloc in self.blocs:
            self._log(bloc, "assent", Assent(text=self.treaty.digest, articles=articles))
            self._log(bloc, "pledge", Pledge(condition="quorum none\n"))

    def play(self, cheats: Sequence[bool]) -> list[Episode]:
        """Audit one run for each element of `cheats`; says of each whether it was convicted."""
        ids = [self._declare(i) for i in range(len(cheats))]
        self._stamp()
        for id_, cheat in zip(ids, cheats, strict=True):
            self._train(self.state.run(id_), cheat)
        self._stamp()
        for id_, cheat in zip(ids, cheats, strict=True):
            self._inspect(id_, cheat)
        runs = [self.state.run(id_) for id_ in ids]
        self._check_brake(runs)
        return [Episode(cheat, run.bar is not None) for run, cheat in zip(runs, cheats, strict=True)]

    # the log

    def _stamp(self) -> None:
        self.now += 1
        text = Checkpoint(log_key(KEEPER).name, self.state.size, self.state.root()).text
        line = cosign(text, witness_key(KEEPER).name, key(KEEPER, "witness"), self.now)
        self._append(sign_note(text, log_key(KEEPER).name, key(KEEPER, "log")).with_lines(line).encode())

    def _log(self, party: str, kind: str, body: object) -> str:
        """Log the party's next statement; the digest of its payload."""
        lane = lane_of(kind, self.treaty.rules)
        seq, prev = self._said.get((party, lane), (0, GENESIS))
        made = Statement(
            treaty=self.treaty.digest,
            issuer=party,
            seq=seq,
            prev=prev,
            not_before=self.now,
            expires=self.now + 86_400,
            body=msgspec.to_builtins(body),
        )
        data = sign(kind, made, key(party))
        self._append(data)
        digest = open_envelope(data).digest
        self._said[party, lane] = (seq + 1, digest)
        return digest

    def _append(self, entry: bytes) -> None:
        self.entries.append(entry)
        self.state, events = apply(self.state, entry)
        for event in events:
            if isinstance(event, Void):  # every statement here is lawful: another outcome would be our mistake
                raise Refused(event.reason, f"the rehearsal's own {event.kind} was refused: {event.text}")
            if isinstance(event, Committed):
                self._heads.setdefault(event.head.run, []).append(event)

    # runs

    def _declare(self, number: int) -> str:
        body = Declaration(
            name=f"run-{number}",
            rung="re-executable",
            recipe=RECIPE,
            dataset=DATASET,
            environment=ENVIRONMENT,
            steps=SEGMENTS,
            segment_steps=1,
            flop_per_step=str(STEP_FLOP),
            parents=(),
            purpose="",
            chips=1,
            flop_per_second="0",
            domain="",
        )
        return self._log(self.blocs[number % len(self.blocs)], "declaration", body)

    def _train(self, run: Run, cheat: bool) -> None:
        """Open the run, get a permit, take every step, commit. A cheat avoids the segments that are always replayed."""
        leaves = [Leaf(0, sha256(run.seed, b"init"), NONE, NONE, 0.0, 0)]
        self._head(run, leaves, "opened")
        permit = self._permit(run)
        secret = set(self.random.sample(range(2, SEGMENTS), CHEATED)) if cheat else set()
        for n in range(1, SEGMENTS + 1):
            leaves.append(_step(leaves[-1], permit, b"secret" if n in secret else b"declared"))
        self._leaves[run.id] = leaves
        self._head(run, leaves, "ended")

    def _head(self, run: Run, leaves: list[Leaf], status: Any) -> None:
        steps = len(leaves) - 1
        root = tree_root([leaf_hash(x.encode()) for x in leaves]).hex()
        flop = str(steps * STEP_FLOP)
        body = Head(run=run.id, steps=steps, root=root, state=leaves[-1].state.hex(), flop=flop, status=status)
        self._log(run.owner, "head", body)

    def _ask(self, run: str) -> bytes:
        """A permit that its signer granted, as canonical bytes. Raises as `check_request`."""
        nonce = f"{self.state.size:032x}"
        permit = request(self.state, self.state.run(run), time=self.now, nonce=nonce)
        check_request(permit, self.state, view_time=self.now, now=self.now)
        return canonical(permit)

    def _permit(self, run: Run) -> bytes:
        data = self._ask(run.id)
        signer = key(KEEPER, "signer")
        self._permits[run.id] = seal(KIND, data, [(signer.public.id, signer.sign(pae(KIND, data)))])
        return sha256(data)

    # audits

    def _inspect(self, id_: str, cheat: bool) -> None:
        """Every inspector audits; then each accusation is checked by the others, one after another, until it stands."""
        run = self.state.run(id_)
        logged = run.heads[-1]
        tickets = {i: key(i).sign(ticket_message(logged.leaf, logged.beacon)) for i in (*self.auditors, *self.corrupt)}
        samples = {
            i: required_sample(self.treaty, run, logged, i, ticket, key(i).public) for i, ticket in tickets.items()
        }
        for inspector in self.auditors:
            others = {part for i in self.auditors if i != inspector for part in samples[i]}
            found = self._replayed(run, samples[inspector], others)
            self._audit(run, logged, inspector, samples[inspector], found, ticket=tickets[inspector])
        for inspector in self.corrupt:
            seen = {part for i in self.auditors for part in samples[i]}
            segments, found = self._lie(self.state.run(id_), cheat, samples[inspector], seen)
            self._audit(run, logged, inspector, segments, found, ticket=tickets[inspector])
        answered: set[tuple[str, Part]] = set()
        while True:
            waiting = [a for a in self.state.run(id_).open_allegations if (a.fault, a.segment) not in answered]
            if not waiting:
                return
            answered.add((waiting[0].fault, waiting[0].segment))
            self._confirm(id_, logged, waiting[0])

    def _confirm(self, id_: str, logged: LoggedHead, accused: Allegation) -> None:
        part = accused.segment
        for inspector in self.honest:
            run = self.state.run(id_)
            if inspector not in accused.accusers and not run.bar:
                self._audit(run, logged, inspector, (part,), self._replayed(run, (part,), set()))

    def _replayed(self, run: Run, parts: Sequence[Part], others: set[Part]) -> tuple[Finding, ...]:
        """What the judge finds after an honest inspector has executed `parts` again, with at most one mistake.

        The mistake is where none of the `others` has looked, if there is such a place: elsewhere they deny it at once.
        """
        leaves = self._leaves[run.id]
        wrong = None
        if self.random.random() < self.terms.false_alarm:
            wrong = self.random.choice([p for p in parts if p not in others] or list(parts))
        replays: dict[Part, SegmentReplay | Finding] = {}
        for part in parts:
            start, end = part
            again = _step(leaves[start], leaves[end].permit, b"mistaken" if part == wrong else b"declared")
            replays[part] = SegmentReplay(start, end, leaves[start].state, (again,), ENVIRONMENT)
        shown = Openings(tuple(leaves), (self._permits[run.id],), RECIPE, DATASET)
        return judge(self.state, run, self._heads[run.id], shown, parts, replays, environment=ENVIRONMENT)

    def _lie(
        self, run: Run, cheat: bool, sample: tuple[Part, ...], seen: set[Part]
    ) -> tuple[tuple[Part, ...], tuple[Finding, ...]]:
        """What a corrupt inspector claims to have replayed and found, after it has read all honest audits.

        The guilty pass, on every segment of which anybody accuses them. The innocent are accused of whatever an honest
        inspector accuses them of by mistake, and, by all corrupt ones alike, of a segment that nobody can deny yet.
        """
        accused = {a.segment for a in run.allegations.values()}
        if cheat:
            return tuple(sorted({*sample, *accused})), ()
        free = next(((i, i + 1) for i in range(1, SEGMENTS) if (i, i + 1) not in seen), (0, 1))
        return (), tuple(
            Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=part, detail="invented")
            for part in sorted({*accused, free})
        )

    def _audit(
        self,
        run: Run,
        logged: LoggedHead,
        inspector: str,
        segments: tuple[Part, ...],
        findings: tuple[Finding, ...],
        *,
        ticket: bytes | None = None,
    ) -> None:
        """Log an audit: of the inspector's own sample with its `ticket`, else an answer to another's finding."""
        body = Audit(
            run=run.id,
            head=logged.index,
            beacon=logged.stamp,
            ticket=b64encode(ticket or b""),
            segments=segments,
            environment=ENVIRONMENT,
            flop="0",
            findings=findings,
            verdict="partial" if ticket is None else verdict_of(findings),
        )
        self._log(inspector, "audit", body)

    # the brake

    def _check_brake(self, runs: Sequence[Run]) -> None:
        """The public trigger: one conviction stops everybody, and without one nobody is stopped.

        Raises:
            Refused: the brake did otherwise, which the closed forms take for granted.
        """
        convicted = any(run.bar for run in runs)
        if convicted == (self.state.phase is Phase.CLEAR):
            raise Refused(Reason.TAMPERED, f"convicted: {convicted}, and the brake is {self.state.phase}")
        if convicted:
            for run in runs:
                try:
                    self._ask(run.id)
                except Refused as e:
                    if e.reason is Reason.PAUSED:
                        continue
                    raise
                raise Refused(Reason.TAMPERED, "a permit would be granted while the brake is on")


def _step(before: Leaf, permit: bytes, data: bytes) -> Leaf:
    """One step: the next state is a hash of the last one, of the step's number and of the data."""
    n = before.step + 1
    batch = sha256(b"batch", n.to_bytes(8, "big"))
    return Leaf(n, sha256(before.state, batch, data), batch, permit, 1 / n, n * STEP_FLOP)
