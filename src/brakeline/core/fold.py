"""What the log says: a fold over its entries, the same for everybody who has them.

An entry is a signed statement, or a stamp: an earlier checkpoint of this very log with its cosignatures. Stamps are the
log's clock (the time is the witnesses', Treaty 6.2) and its source of randomness (a root nobody knew before). An entry
that is not acceptable has no effect and is kept with the reason; nothing in a log can make the fold raise.

Who may see a different result? Nobody: all that counts is the bytes up to a cosigned checkpoint and its quorum time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from brakeline.core import brake as b
from brakeline.core.brake import BrakeState, Event, Phase, Vote
from brakeline.core.encoding import Wire, b64decode, decimal, sha256, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.finding import REPLAYED, Audit, Finding
from brakeline.core.finding import verdict as verdict_of
from brakeline.core.lineage import Edge, check_edge
from brakeline.core.pledge import Activation, Assent, Pledge, Withdrawal, activate
from brakeline.core.reading import Reading, Readings, Standing, check_reading, trips
from brakeline.core.run import Declaration, check_declaration, run_seed
from brakeline.core.sampling import audit_seed, sample, ticket_message
from brakeline.core.statement import Envelope, Statement, open_envelope, verify
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.transcript import Head
from brakeline.core.treaty import Role, Treaty, Trigger

# Which bodies count, and the role that may say them (None: any party).
BODIES: Final[Mapping[str, tuple[type[Wire], Role | None]]] = {
    "assent": (Assent, None),
    "pledge": (Pledge, None),
    "withdrawal": (Withdrawal, None),
    "vote": (Vote, None),
    "reading": (Reading, None),
    "declaration": (Declaration, "lab"),
    "edge": (Edge, "lab"),
    "head": (Head, "lab"),
    "audit": (Audit, "inspector"),
}
MAX_SKEW: Final = 30  # s that an issuer's clock may run ahead of the witnesses'


@dataclass(frozen=True, slots=True)
class Stamp:
    """The log held `size` entries under `root` at `time` (POSIX s), says a witness quorum; it is entry `index`.

    `beacon` is the SHA-256 of its bytes: nobody knows it before the witnesses have cosigned, and trying for another one
    costs whoever keeps the log their cosignatures anew.
    """

    index: int
    size: int
    root: bytes
    time: int
    beacon: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one entry. `reason` is None when it took effect."""

    index: int
    kind: str
    issuer: str
    reason: Reason | None
    text: str


@dataclass(frozen=True, slots=True)
class LoggedHead:
    index: int
    leaf: bytes
    time: int
    epoch: int
    concerned: bool  # whether the brake and its permits concerned the run when it was logged
    head: Head


@dataclass(slots=True)
class RunRecord:
    """All that the log knows of one run. `seed` is None until a stamp follows the declaration."""

    id: str
    owner: str
    declaration: Declaration
    index: int
    lineage_flop: int
    covered: bool
    bound: bool
    seed: bytes | None = None
    heads: list[LoggedHead] = field(default_factory=list)
    audits: list[tuple[int, str, Audit]] = field(default_factory=list)
    barred: str = ""
    held: bool = False

    @property
    def last(self) -> Head | None:
        return self.heads[-1].head if self.heads else None

    @property
    def stopped(self) -> bool:
        """No permit can be in force: it never opened, or its last head says stopped or ended."""
        return not self.heads or self.heads[-1].head.status in ("stopped", "ended")

    @property
    def junctions(self) -> frozenset[int]:
        """Steps at which the run was opened again: the seams a glued transcript would hide in (attack A-05)."""
        return frozenset(h.head.steps for h in self.heads if h.head.status == "opened" and h.head.steps > 0)


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two different statements with one `(issuer, seq)`: both envelopes prove it to anybody."""

    issuer: str
    seq: int
    first: bytes
    second: bytes


class Fold:
    """Feed entries in log order with `apply`; read the state at any time. Holds no clock and does no I/O."""

    def __init__(self, treaty: Treaty) -> None:
        self.treaty = treaty
        self.frontier = Frontier(0, ())
        self.roots: list[bytes] = [self.frontier.root()]
        self.clock = 0
        self.stamps: list[Stamp] = []
        self.outcomes: list[Outcome] = []
        self.assents: set[str] = set()
        self.pledges: dict[str, tuple[Statement, Pledge]] = {}
        self.withdrawals: dict[str, int] = {}
        self.runs: dict[str, RunRecord] = {}
        self.brake: BrakeState = b.START
        self.history: list[tuple[int, BrakeState]] = []
        self.votes: dict[str, dict[str, tuple[int, Vote]]] = {"trip": {}, "lift": {}}
        self.readings = Readings(treaty)
        self.edges: list[tuple[str, Edge]] = []  # issuer, how a model came to be; in the order they became public
        self.made_by: dict[str, str] = {}  # model → run
        self.adjudicated: dict[tuple[str, tuple[str, tuple[int, int]]], bool] = {}
        self.equivocations: list[Equivocation] = []
        self.forks: list[bytes] = []
        self._seen: dict[tuple[str, int], bytes] = {}
        self._told: set[str] = set()  # models of which an edge says how they came to be
        self._newest: dict[tuple[str, str], int] = {}
        self._activation: tuple[tuple[tuple[str, int], ...], Activation] = ((), activate({}))
        self._lapse = 0  # when every permit of before the last trip has lapsed, POSIX s
        self._open_findings: list[tuple[int, str]] = []  # index, cause
        self._answered = -1  # readings and findings up to this index do not trip the brake again

    @property
    def size(self) -> int:
        return self.frontier.size

    # ---- entries ----

    def apply(self, data: bytes) -> Outcome:
        """Take the next entry. Never raises for what the entry contains."""
        index, kind, issuer = self.size, "stamp", ""
        leaf = leaf_hash(data)
        self.frontier = self.frontier.append(leaf)
        self.roots.append(self.frontier.root())
        try:
            if data.startswith(b"{"):
                envelope = open_envelope(data)
                kind = envelope.kind
                statement = envelope.statement
                issuer = statement.issuer
                body = self._authenticate(envelope, statement)
                self._effect(index, leaf, envelope, statement, body)
            else:
                self._stamp(index, data)
            outcome = Outcome(index, kind, issuer, None, "")
        except Refused as e:
            outcome = Outcome(index, kind, issuer, e.reason, str(e))
        except BrakelineError as e:
            outcome = Outcome(index, kind, issuer, Reason.FORGED, f"malformed: {e}")
        self.outcomes.append(outcome)
        self._advance(index)
        return outcome

    def _stamp(self, index: int, data: bytes) -> None:
        cosigned = verify_cosigned(data, self.treaty.policy)  # Treaty 6.1
        size, root = cosigned.checkpoint.size, cosigned.checkpoint.root
        if size > index:
            raise Refused(Reason.ROLLBACK, f"stamp of {size} entries at entry {index}")
        if root != self.roots[size]:
            # A quorum cosigned another history of this log: keep the proof.
            self.forks.append(data)
            raise Refused(Reason.EQUIVOCATION, f"the log showed another history at size {size}")
        self.clock = max(self.clock, cosigned.time)  # Treaty 6.2
        self.readings.forget(self.clock)
        stamp = Stamp(index, size, root, cosigned.time, sha256(data))
        self.stamps.append(stamp)
        for run in self.runs.values():
            if run.seed is None and size > run.index:
                run.seed = run_seed(run.id, stamp.beacon)

    def authenticate(self, data: bytes) -> Statement:
        """What a log server checks before it takes a statement: the same rules as the fold's, without effect.

        Raises:
            Malformed, Refused: as the fold would.
        """
        envelope = open_envelope(data)
        statement = envelope.statement
        self._authenticate(envelope, statement, record=False)
        return statement

    def _authenticate(self, envelope: Envelope, s: Statement, *, record: bool = True) -> Wire:
        if s.treaty != self.treaty.digest:
            raise Refused(Reason.FOREIGN, "the statement belongs to another treaty")
        party = self.treaty.parties.get(s.issuer)
        if party is None:
            raise Refused(Reason.UNKNOWN_ISSUER, f"{s.issuer[:60]!r} is no party to the treaty")
        verify(envelope, party.key)
        if envelope.kind not in BODIES:
            raise Malformed(f"no such statement: {envelope.kind}")
        kind, role = BODIES[envelope.kind]
        if role is not None and role not in party.roles:  # Treaty 1.2
            raise Refused(Reason.WRONG_ROLE, f"{s.issuer} may not log a {envelope.kind}: it is no {role}")
        if s.seq < 0 or s.not_before > s.expires:
            raise Malformed("a statement's numbers count up from 0, and it expires after it begins")
        unhex32(s.prev)
        self._check_seq(envelope, s, record)
        if self.clock and s.not_before > self.clock + MAX_SKEW:
            raise Refused(Reason.NOT_YET_VALID, f"not valid before {s.not_before}; the log's time is {self.clock}")
        if s.expires <= self.clock:
            raise Refused(Reason.EXPIRED, f"expired at {s.expires}; the log's time is {self.clock}")
        return s.body_as(kind)

    def _check_seq(self, envelope: Envelope, s: Statement, record: bool) -> None:
        seen = self._seen.get((s.issuer, s.seq))
        if seen is None:
            if record:
                self._seen[(s.issuer, s.seq)] = envelope.data
            return
        if open_envelope(seen).payload == envelope.payload:
            raise Refused(Reason.DUPLICATE, f"{s.issuer} has logged this statement already")
        if record:
            # Treaty 2.4: both statements are void, and so is the party's word until an amendment re-admits it. Its
            # duties last as long as after a withdrawal: signing twice must not be the fast way out of a pledge.
            self.equivocations.append(Equivocation(s.issuer, s.seq, seen, envelope.data))
            self.withdrawals.setdefault(s.issuer, self.clock + self.treaty.withdrawal_notice)
            for votes in self.votes.values():
                votes.pop(s.issuer, None)
            self.readings.drop(s.issuer)
        raise Refused(Reason.EQUIVOCATION, f"{s.issuer} signed two different statements number {s.seq}")

    def _effect(self, index: int, leaf: bytes, envelope: Envelope, s: Statement, body: Wire) -> None:
        issuer = s.issuer
        if issuer in self.equivocators and not isinstance(body, Head | Declaration):
            raise Refused(Reason.EQUIVOCATION, f"{issuer} has equivocated: its {envelope.kind} does not count")
        match body:
            case Assent():
                if body.text != self.treaty.digest:
                    raise Refused(Reason.FOREIGN, "assent to another text")
                self.assents.add(issuer)  # Treaty 2.1
            case Pledge():
                group = body.group(frozenset(self.treaty.parties))
                if issuer in self.bound().active:
                    # Treaty 2.5: a weaker pledge would be a withdrawal without notice.
                    stands, its = self.pledges[issuer]
                    if s.expires < stands.expires or (group is not None and body.condition != its.condition):
                        raise Refused(Reason.PROHIBITED, "a pledge in force may only be renewed, or made unconditional")
                self._supersede(s, "pledge")
                self.pledges[issuer] = (s, body)  # Treaty 2.2
                self.withdrawals.pop(issuer, None)
            case Withdrawal():
                self._supersede(s, "pledge")
                # Treaty 2.5: leaving takes notice, so nobody leaves to race.
                self.withdrawals.setdefault(issuer, self.clock + self.treaty.withdrawal_notice)
            case Vote():
                if body.epoch != self.brake.epoch:
                    raise Refused(
                        Reason.REPLAYED, f"vote for epoch {body.epoch}; the brake is in epoch {self.brake.epoch}"
                    )
                self._supersede(s, f"vote {body.motion}")
                self.votes[body.motion][issuer] = (s.expires, body)
            case Reading():
                check_reading(body, self.treaty)
                self._supersede(s, f"reading {body.gauge} {body.subject}")
                self.readings.add(issuer, Standing(index, self.clock, s.expires, body), active=self.bound().active)
            case Declaration():
                self._declare(index, envelope.digest, issuer, body)
            case Edge():
                self._edge(issuer, body)
            case Head():
                self._head(index, leaf, issuer, body)
            case Audit():
                self._audit(index, issuer, body)

    def _supersede(self, s: Statement, subject: str) -> None:
        # Where the newest statement counts, one that somebody held back must not come in later and undo it.
        if s.seq < self._newest.get((s.issuer, subject), 0):
            raise Refused(Reason.REPLAYED, f"{s.issuer} has logged a newer {subject} than number {s.seq}")
        self._newest[(s.issuer, subject)] = s.seq

    def seen(self, issuer: str, seq: int) -> bool:
        """Whether the log holds a statement of that number."""
        return (issuer, seq) in self._seen

    @property
    def equivocators(self) -> frozenset[str]:
        return frozenset(e.issuer for e in self.equivocations)

    # ---- who is bound ----

    def bound(self) -> Activation:
        """The parties in force at the log's own time. Treaty 2.1-2.5."""
        now = self.clock
        standing = tuple(
            (issuer, s.seq)
            for issuer, (s, _) in self.pledges.items()
            if issuer in self.assents and now < s.expires and now < self.withdrawals.get(issuer, now + 1)
            if now >= self.treaty.effective  # Treaty 2.3
        )
        if self._activation[0] != standing:  # asked at every entry, and rarely another answer
            parties = frozenset(self.treaty.parties)
            conditions = {issuer: self.pledges[issuer][1].group(parties) for issuer, _ in standing}
            self._activation = standing, activate(conditions)
        return self._activation[1]

    # ---- runs ----

    def _declare(self, index: int, digest: str, issuer: str, d: Declaration) -> None:
        check_declaration(d)
        if any(r.owner == issuer and r.declaration.name == d.name for r in self.runs.values()):
            raise Refused(Reason.DUPLICATE, f"{issuer} has declared a run named {d.name!r}")
        unknown = [p for p in d.parents if p not in self.runs]
        if unknown:
            raise Refused(Reason.UNDECLARED, f"parent {unknown[0][:16]}… is not a declared run (Treaty 3.4)")
        if d.segment_steps != self.treaty.segment_steps:  # the treaty fixes what an inspector replays (attack A-16)
            raise Refused(Reason.PROHIBITED, f"segments have {self.treaty.segment_steps} steps (Treaty 7.2)")
        # Treaty 3.4: compute follows the weights, so splitting a run hides nothing.
        lineage = d.total_flop + sum(self.runs[p].declaration.total_flop for p in self._ancestors(d.parents))
        exempt = d.purpose in self.treaty.exempt  # Treaty 3.2
        if d.purpose and not exempt:
            raise Refused(Reason.PROHIBITED, f"{d.purpose!r} is no exemption of the treaty (Treaty 3.2)")
        if d.rung == "attested" and not self.treaty.attested_runs:  # Treaty 7.8
            raise Refused(Reason.PROHIBITED, "the treaty admits no run that cannot be executed again (Treaty 7.8)")
        covered = lineage > self.treaty.covered_above and not exempt  # Treaty 3.1: above, not at
        bound = issuer in self.bound().active
        self.runs[digest] = RunRecord(digest, issuer, d, index, lineage, covered, bound)

    def _edge(self, issuer: str, edge: Edge) -> None:
        check_edge(edge)
        untold = [p for p in edge.parents if p not in self._told]
        if untold:  # else a parent told later would be an ancestor that the run never declared
            raise Refused(Reason.UNDECLARED, f"no edge says how the parent {untold[0][:16]}… was made (Treaty 3.5)")
        if edge.run:
            run = self.run(edge.run)
            if run.owner != issuer:
                raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
            named = {self.made_by[p] for p in edge.parents if p in self.made_by}
            # Treaty 3.5: a model that is an ancestor in one story and none in the other is the flaw to be found.
            if named != set(run.declaration.parents):
                raise Refused(Reason.TAMPERED, "the edge names other parents than the run's declaration (Treaty 3.5)")
            self.made_by.setdefault(edge.child, edge.run)
        self._told.add(edge.child)
        self.edges.append((issuer, edge))

    def models(self, run: str) -> tuple[str, ...]:
        """The models that a run made, as its lab logged them: hex SHA-256 of the weights."""
        return tuple(m for m, r in self.made_by.items() if r == run)

    def _ancestors(self, parents: tuple[str, ...]) -> frozenset[str]:
        found: set[str] = set()
        todo = list(parents)
        while todo:
            run = todo.pop()
            if run not in found:
                found.add(run)
                todo += self.runs[run].declaration.parents
        return frozenset(found)

    def run(self, run: str) -> RunRecord:
        """Raises:
        Refused(UNDECLARED): no such run.
        """
        if run not in self.runs:
            raise Refused(Reason.UNDECLARED, f"no run {run[:16]}… has been declared (Treaty 7.1)")
        return self.runs[run]

    def _head(self, index: int, leaf: bytes, issuer: str, h: Head) -> None:
        run = self.run(h.run)
        if run.owner != issuer:
            raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
        unhex32(h.root)
        unhex32(h.state)
        if not 0 <= h.steps <= run.declaration.steps:
            raise Malformed(f"head at step {h.steps} of {run.declaration.steps}")
        if decimal(h.flop.encode(), bound=10**40) != h.steps * run.declaration.step_flop:
            raise Malformed("a head's compute is its steps times the declared compute of a step")
        last = run.last
        if last is None and (h.status, h.steps) != ("opened", 0):
            raise Refused(Reason.MISSING, "a run's first head opens it at step 0 (Treaty 7.2)")
        if last is not None:
            if last.status == "ended" or (last.status == "stopped" and h.status != "opened"):
                raise Refused(Reason.REPLAYED, f"the run has {last.status}; only opening it again may follow a stop")
            # Steps beyond the stop would have been taken while the log said that the run stood still (attack A-30).
            if last.status == "stopped" and h.steps != last.steps:
                raise Refused(Reason.PROHIBITED, f"the run stopped at step {last.steps}: it opens there (Treaty 4.5)")
            # A run never un-commits: what was logged once stays its past (attacks ).
            if h.steps < last.steps or (h.steps == last.steps and (h.root, h.state) != (last.root, last.state)):
                raise Refused(Reason.EQUIVOCATION, f"head at step {h.steps} contradicts the one at step {last.steps}")
        # Treaty 4.5: what has stopped stays stopped, so that nobody holds up a lift by starting again and again.
        late = h.status == "opened" or (h.status == "running" and self.brake.phase is not Phase.TRIPPED)
        if late and self.brake.phase is not Phase.CLEAR and self.concerned(run):
            raise Refused(Reason.PAUSED, f"no run goes on while the brake is {self.brake.phase} (Treaty 4.5)")
        run.heads.append(LoggedHead(index, leaf, self.clock, self.brake.epoch, self.concerned(run), h))

    # ---- audits ----

    def beacon_for(self, head_index: int) -> Stamp | None:
        """The first stamp that covers this log entry. Treaty 7.3: first, so that nobody chooses among later ones."""
        return next((s for s in self.stamps if s.size > head_index), None)

    def required_sample(
        self, run: RunRecord, logged: LoggedHead, inspector: str, ticket: bytes
    ) -> tuple[tuple[int, int], ...]:
        """The segments that `inspector` must replay for an audit up to `logged`. Treaty 7.3, 7.4.

        Raises:
            Refused: MISSING, no stamp follows the head yet; FORGED, the ticket is not the inspector's signature.
        """
        beacon = self.beacon_for(logged.index)
        if beacon is None:
            raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
        if not self.treaty.parties[inspector].key.verify(ticket, ticket_message(logged.leaf, beacon.beacon)):
            raise Refused(Reason.FORGED, "the sample's ticket is not signed by the inspector")
        # By arithmetic: a list of all segments of a run that claims 2**53 steps would fill the memory.
        steps, size = logged.head.steps, self.treaty.segment_steps
        seams = frozenset(i for j in run.junctions if j <= steps for i in ((j - 1) // size, j // size))
        seed = audit_seed(logged.leaf, beacon.beacon, inspector, ticket)
        drawn = sample(seed, -(-steps // size), seams, self.treaty.p_catch, self.treaty.f_cheat)
        return tuple((i * size, min((i + 1) * size, steps)) for i in drawn)

    def _audit(self, index: int, issuer: str, audit: Audit) -> None:
        run = self.run(audit.run)
        if run.owner == issuer:  # Treaty 7.7
            raise Refused(Reason.WRONG_ROLE, "a lab does not inspect itself")
        logged = next((h for h in run.heads if h.index == audit.head), None)
        if logged is None:
            raise Refused(Reason.FOREIGN, f"entry {audit.head} is no head of this run")
        beacon = self.beacon_for(audit.head)
        if beacon is None or beacon.index != audit.beacon:
            raise Refused(Reason.FOREIGN, "the sample's beacon is not the first stamp after the head (Treaty 7.3)")
        for finding in audit.findings:
            self._check_place(finding, run, logged.head.steps)
        if audit.verdict != "partial":
            required = self.required_sample(run, logged, issuer, b64decode(audit.ticket))
            missing = set(required) - set(audit.segments)
            if missing and audit.verdict == "pass":  # Treaty 7.4: the verifier owns the count
                raise Refused(Reason.MISSING, f"{len(missing)} of the required segments were not replayed")
            if audit.verdict != verdict_of(audit.findings):
                raise Malformed("the verdict does not follow from the findings")
        run.audits.append((index, issuer, audit))
        for finding in audit.findings:
            if finding.severity != "violation" or (audit.run, finding.key) in self.adjudicated:
                continue
            # Treaty 7.7
            if len(self._accusers(run, finding.key)) >= self.treaty.adjudicators:
                self.adjudicated[(audit.run, finding.key)] = True
                run.barred = f"{finding.fault} at steps {finding.segment[0]}-{finding.segment[1]}"
                self._open_findings.append((index, f"adjudicated finding on {run.declaration.name}: {run.barred}"))

    def _check_place(self, finding: Finding, run: RunRecord, steps: int) -> None:
        """An allegation about steps that nobody can check could never fall (Treaty 7.7)."""
        start, end = finding.segment
        full = start + self.treaty.segment_steps  # a head may cut the last segment short
        part = start % self.treaty.segment_steps == 0 and (
            end == full or (start < end < full and any(h.head.steps == end for h in run.heads))
        )
        if not 0 <= start <= end <= steps or not (part or finding.segment == (0, 0) or finding.fault not in REPLAYED):
            raise Malformed(f"a {finding.fault} at steps {start}-{end} of {steps}: no segment that can be replayed")

    @staticmethod
    def _accusers(run: RunRecord, key: tuple[str, tuple[int, int]]) -> frozenset[str]:
        return frozenset(
            i for _, i, a in run.audits if any(f.key == key and f.severity == "violation" for f in a.findings)
        )

    def disputed(self, run: RunRecord) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Violations alleged and neither adjudicated nor rejected.

        Treaty 7.7: an allegation falls when as many inspectors as could uphold it checked the same steps and did not
        find it: by replaying the segment, or, where no replay is needed to see it, by passing as many steps or more.
        """
        keys = {f.key for _, _, a in run.audits for f in a.findings if f.severity == "violation"}
        open_ = []
        for key in sorted(keys):
            accusers = self._accusers(run, key)
            first = min(a.head for _, _, a in run.audits if any(f.key == key for f in a.findings))
            whole = key[0] not in REPLAYED or key[1] == (0, 0)
            deniers = {
                i
                for _, i, a in run.audits
                if key[1] in a.segments or (whole and a.verdict == "pass" and a.head >= first)
            } - accusers
            if len(accusers) < self.treaty.adjudicators and len(deniers) < self.treaty.adjudicators:
                open_.append(key)
        return tuple(open_)

    def audited(self, run: RunRecord) -> bool:
        """Whether the run is settled up to its last head: barred, or passed by enough inspectors and undisputed.

        An attested run has nothing to execute again: it is settled by having stopped (Treaty 7.8).
        """
        if run.declaration.rung == "attested":
            return run.stopped
        if run.barred or not run.heads or run.last is None or run.last.steps == 0:
            return True
        passed = {i for _, i, a in run.audits if a.head == run.heads[-1].index and a.verdict == "pass"}
        return len(passed) >= self.treaty.inspectors and not self.disputed(run)

    def _tried(self, run: RunRecord) -> bool:
        """Whether as many inspectors as could pass the run have examined its last head, and no allegation is open.

        Treaty 5.7: a lab whose run cannot be settled must not hold up everybody's lift; its run is held back instead.
        """
        tried = {i for _, i, a in run.audits if a.head == run.heads[-1].index and a.verdict != "partial"}
        return len(tried) >= self.treaty.inspectors and not self.disputed(run)

    # ---- brake ----

    def covered_runs(self) -> Iterator[RunRecord]:
        """Runs the brake stops: covered by the treaty and owned by a party in force."""
        return (r for r in self.runs.values() if self.concerned(r))

    def concerned(self, run: RunRecord) -> bool:
        """Whether the brake and its permits concern this run. Treaty 2.2, 3.1: nobody is asked to stop alone."""
        return run.covered and (run.bound or run.owner in self.bound().active)

    def unmet(self) -> tuple[str, ...]:
        """Lift conditions that do not hold, in words. Treaty 8.2."""
        found: list[str] = []
        if "stopped" in self.treaty.lift_conditions:
            # Who never logs a stop must not block a lift: once its last permit has lapsed, it counts as stopped.
            running = (r for r in self.covered_runs() if not r.stopped and self.clock < self._lapse)
            found += [f"{r.declaration.name} has not stopped" for r in running]
        if "audited" in self.treaty.lift_conditions:
            open_ = [r.declaration.name for r in self.covered_runs() if not self.audited(r) and not self._tried(r)]
            found += [f"{name} is not audited at its last head" for name in open_]
        if "readings" in self.treaty.lift_conditions:
            found += [f"gauge {t.gauge} still reaches its threshold" for t in self.reached()]
        return tuple(found)

    def reached(self, after: int = -1) -> tuple[Trigger, ...]:
        """Triggers reached by readings of parties in force that the log shows after the entry `after`."""
        return self.readings.reached(now=self.clock, active=self.bound().active, after=after)

    def unread(self, run: RunRecord) -> tuple[str, ...]:
        """Parents that made no model, or one without a safety reading that lets a successor train. Treaty 5.8."""
        now, active = self.clock, self.bound().active
        parents = run.declaration.parents if self.treaty.lineage_gate else ()
        made = ((p, self.models(p)) for p in parents)
        passes = self.readings.passes
        return tuple(p for p, ms in made if not ms or not all(passes(m, now=now, active=active) for m in ms))

    def voters(self, motion: str) -> frozenset[str]:
        """Parties in force whose unexpired vote for `motion` stands in the present epoch."""
        active, epoch = self.bound().active, self.brake.epoch
        votes = self.votes[motion].items()
        return frozenset(p for p, (expires, v) in votes if self.clock < expires and v.epoch == epoch and p in active)

    def _trip_cause(self) -> str:
        voters = self.voters("trip")
        if len(voters) >= self.treaty.trip:  # Treaty 4.1
            return f"votes of {', '.join(sorted(voters))}"
        # Who votes to lift knows what stands in the log; only what is logged after it trips the brake again.
        triggers = self.reached(self._answered)
        if trips(triggers):
            return "readings: " + ", ".join(t.gauge for t in triggers)
        if self.treaty.findings_trip:  # Treaty 4.4
            return next((cause for index, cause in self._open_findings if index > self._answered), "")
        return ""

    def _next(self) -> tuple[Event, str] | None:
        match self.brake.phase:
            case Phase.CLEAR:
                if cause := self._trip_cause():
                    return Event.TRIP, cause
            case Phase.TRIPPED:
                if self.clock >= self._lapse or all(r.stopped for r in self.covered_runs()):
                    return Event.STOPPED, ""
            case Phase.PAUSED:
                if len(self.voters("lift")) >= self.treaty.lift and not self.unmet():  # Treaty 8.1, 8.2
                    return Event.LIFT, ""
            case Phase.LIFTING:
                if cause := self._trip_cause():
                    return Event.TRIP, cause
                if len(self.voters("lift")) < self.treaty.lift or self.unmet():
                    return Event.WITHHELD, ""
                if self.clock >= self.brake.since + self.treaty.lift_delay:  # Treaty 8.3
                    return Event.RELEASED, ""
        return None

    def _advance(self, index: int) -> None:
        while event := self._next():
            self.brake = b.step(self.brake, event[0], now=self.clock, cause=event[1])
            self.history.append((index, self.brake))
            if event[0] in (Event.LIFT, Event.RELEASED):
                self._answered = index
            if event[0] is Event.TRIP:
                # Treaty 4.5: a signer may have granted a last permit on a view that was not yet stale.
                self._lapse = self.clock + self.treaty.stale_after + self.treaty.permit_lifetime
            if event[0] in (Event.TRIP, Event.RELEASED):
                # A trip answers the votes for it, a release all that was said before it: none counts twice.
                self.votes = {"trip": {}, "lift": {}}
                self._open_findings = []
                if event[0] is Event.RELEASED:
                    for run in self.covered_runs():
                        run.held = "audited" in self.treaty.lift_conditions and not self.audited(run)


def replay_log(treaty: Treaty, entries: list[bytes]) -> Fold:
    """The fold of a whole log."""
    fold = Fold(treaty)
    for entry in entries:
        fold.apply(entry)
    return fold
