"""What must hold after every event of a simulated world, whatever happened: an observer who sees all of it.

S1 one history. S2 what was acknowledged is in the log. S3 nobody honest is void, barred or accused, and no process ends
but by what is away. S4 who has folded the same entries has the same state. S5 no permit is signed, admitted or used
beyond its bounds. S6 memory never falls. S7 output commit: what leaves a process is implied by what a power cut at that
moment would leave. L1 after healing the circle lifts, trains, trips and pauses in time.
"""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random
from typing import Any, Final
from unittest.mock import patch

from brakeline.core import gate, statement
from brakeline.core.admission import Admission
from brakeline.core.brake import Phase, Vote
from brakeline.core.encoding import parse, sha256
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.permit import Permit
from brakeline.core.state import State, apply, begin
from brakeline.core.state.codec import digest
from brakeline.core.state.events import Alleged, Barred, ByVotes, Equivocated, Event, Tripped
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.checkpoint import MAX_SIZE, checkpoint_in
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.note import parse_note
from brakeline.core.tlog.receipt import parse_receipt
from brakeline.core.treaty import Lane
from brakeline.core.treaty.values import SKEW
from brakeline.node import permits
from brakeline.node import signer as node_signer
from brakeline.node.client import Follower
from brakeline.node.logstore import LogStore, entries_in
from brakeline.node.outbox import Outbox
from brakeline.node.permits import LiveGate
from brakeline.testing.process import Host, Process, here
from brakeline.testing.report import Violation
from brakeline.testing.treaty import KEEPER, treaty
from brakeline.testing.wire import Answer, Request

_STEP: Final = 0.25  # s that a step takes
_ASKED: Final = 0.3  # s that a head may take between the question and the step
_LATE_STEPS: Final = 2  # that may follow a trip which the watching thread folds between the loop's look and its step


class Observer:
    """Of one world. `liars` are the Byzantine parties' hosts: nothing is asked of them."""

    def __init__(self, seed: int, loop: asyncio.AbstractEventLoop, hosts: dict[str, Host]) -> None:
        self.seed, self.hosts = seed, hosts
        self.violations: list[Violation] = []
        self.counts: dict[str, int] = {}
        self.lines: list[str] | None = None  # of the trace, where somebody wants to read it
        self.liars: set[str] = set()
        self.restored: set[str] = set()  # services whose old state was put back
        self.truth: State = begin(treaty())
        self.stop: asyncio.Future[None] = loop.create_future()
        self.tripped: dict[int, float] = {}  # epoch → when its trip was visible
        self._loop = loop
        self._trace = hashlib.blake2b(digest_size=8)
        self._roots: dict[int, bytes] = {}
        self._brakes: dict[int, tuple[Phase, int]] = {0: (self.truth.phase, 0)}
        self._signed: dict[int, bytes] = {}
        self._digests: dict[int, str] = {}
        self._acknowledged: set[bytes] = set()
        self._promised: dict[int, bytes] = {}  # index → leaf hash, of the log's receipts
        self._floors: dict[str, int] = {}
        self._signers: dict[Process, Follower] = {}
        self._gates: dict[Process, Follower] = {}
        self._shown: dict[str, dict[int, dict[str, int]]] = {}  # signer → epoch → party → expiry of its vote
        self._late = 0

    def dice_for(self, purpose: str) -> Random:
        """A stream of its own for each purpose: one more draw in one place changes no other."""
        return Random(f"{self.seed}/{purpose}")

    # Telling

    def trace(self, *what: object) -> None:
        text = f"{self._loop.time():.6f} " + " ".join(map(str, what))
        self._trace.update(text.encode())
        if self.lines is not None:
            self.lines.append(text)

    @property
    def digest(self) -> str:
        return self._trace.hexdigest()

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def violated(self, invariant: str, text: str) -> None:
        self.trace("VIOLATION", invariant, text)
        self.violations.append(Violation(invariant, self._loop.time(), text))
        if not self.stop.done():
            self.stop.set_result(None)

    def troubled(self, process: Process, error: Exception) -> None:
        """A process met an error and goes on."""
        if not process.alive or process.host.name in self.liars:  # it died in the middle of it, or made it itself
            return
        if isinstance(error, Unavailable) or (isinstance(error, Refused) and error.later):
            self.count(f"unavailable to {process.name.split('.')[0]}")
            return
        lies = KEEPER in self.liars or f"log.{KEEPER}" in self.restored
        if lies and isinstance(error, Refused) and error.reason in (Reason.ROLLBACK, Reason.NO_QUORUM):
            self.count("a lying log was refused")
            return
        name = type(error).__name__
        self.violated("S3", f"{process.name}: {name} {error}")

    def told(self, process: Process, text: str) -> None:
        self.count(f"{process.name.split('.')[0]} told something")

    def ended(self, process: Process, error: Exception) -> bool:
        """Whether the supervisor of a process that ended starts it again."""
        self.trace("ended", process.name, type(error).__name__)
        if isinstance(error, Unavailable):
            self.count("process ended: unavailable")
        elif process.name in self.restored and isinstance(error, Refused) and error.reason is Reason.ROLLBACK:
            self.count("an old log was found out")
            return False
        elif process.host.name in self.liars and isinstance(error, BrakelineError):
            self.count("a liar's process ended")
        elif isinstance(error, BrakelineError):
            self.violated("S3", f"{process.name} ended: {type(error).__name__} {error}")
        else:
            self.violated("S3", f"{process.name} ended with a traceback: {type(error).__name__} {error}")
        return True

    # The log, as it is

    def _learn(self, size: int) -> None:
        """Fold what the log holds up to there."""
        path = self.hosts[KEEPER].home / "log" / "log.db"
        with closing(sqlite3.connect(path)) as db:
            rows = entries_in(db, self.truth.size, size)
        for data in rows:
            before = self.truth.epoch
            self.truth, events = apply(self.truth, data)
            self._roots.setdefault(self.truth.size, self.truth.root())
            self._brakes[self.truth.size] = (self.truth.phase, self.truth.epoch)
            if self.truth.size % treaty().snapshot_every == 0:
                self._digests[self.truth.size] = digest(self.truth)
            if self.truth.epoch > before:
                self.tripped[self.truth.epoch] = self._loop.time()
                self.trace("TRIP", self.truth.epoch)
            self._judge(events)

    def _judge(self, events: tuple[Event, ...]) -> None:
        for event in events:
            if isinstance(event, Barred) or (isinstance(event, Equivocated) and event.issuer not in self.liars):
                self.violated("S3", f"{event}")
            if isinstance(event, Equivocated):
                self.count("said: twice")
            if isinstance(event, Alleged):
                self.count("said: accuse")
            if isinstance(event, Tripped):
                voters = event.cause.parties if isinstance(event.cause, ByVotes) else ()
                if not {*voters} - self.liars:
                    self.violated("S3", f"no honest party tripped the brake: {event}")

    def log_starts(self, process: Process, store: LogStore) -> None:
        rows = {sha256(entry) for entry in store.entries(0, store.size)}
        if process.name in self.restored:
            return
        if lost := self._acknowledged - rows:
            self.violated("S2", f"{len(lost)} acknowledged statements are not in the log")

    def finish(self) -> None:
        """At the end: what was acknowledged is there."""
        with closing(sqlite3.connect(self.hosts[KEEPER].home / "log" / "log.db")) as db:
            rows = entries_in(db, 0, MAX_SIZE)
        if lost := self._acknowledged - {sha256(row) for row in rows}:
            self.violated("S2", f"{len(lost)} acknowledged statements are not in the log")
        for index, leaf in self._promised.items():
            if index >= len(rows) or leaf_hash(rows[index]) != leaf:
                self.violated("S2", f"another entry than was promised stands at {index}")

    def gave_up(self, data: bytes, why: str) -> None:
        """A party's outbox does not send a statement any more: rightly, if the log as it is would not take it."""
        try:
            Admission(self.truth).admit(data)
        except BrakelineError:
            self.count("statements rightly given up")
            return
        self.violated("S2", f"{here().name} gave up what the log may take: {why}")

    # Followers

    def followed(self, follower: Follower) -> None:
        process, state = here(), follower.state
        size = state.size
        if size > self.truth.size:
            self._learn(size)
        if process.host.name in self.liars:
            return
        if self._roots.get(size, state.root()) != state.root():
            self.violated("S1", f"{process.name} follows another history at {size} entries")
            return
        if self._brakes.get(size) not in (None, (state.phase, state.epoch)):
            self.violated("S4", f"{process.name}: another brake after {size} entries")
        if size in self._digests and digest(state) != self._digests[size]:
            self.violated("S4", f"{process.name}: another state after {size} entries")
        if follower.memory is None:
            return
        slot = f"{process.name} {follower.memory}"
        if size < self._floors.get(slot, 0):
            self.violated("S6", f"{process.name} accepted {size} entries after {self._floors[slot]}")
        self._floors[slot] = size

    # Permits

    def signer_starts(self, process: Process, follower: Follower) -> None:
        self._signers[process] = follower

    def signing(self, permit: Permit) -> None:
        process = here()
        if process.host.name in self.liars:
            return
        state = self._signers[process].state
        if state.phase is not Phase.CLEAR or permit.epoch != state.epoch:
            text = f"{process.name} signs a permit of epoch {permit.epoch} in {state.phase} {state.epoch}"
            self.violated("S5", text)
        now = process.host.wall()
        shown = self._shown.get(process.name, {}).get(state.epoch, {})
        votes = {party for party, expires in shown.items() if expires > now} - set(state.members.equivocators)
        if len(votes | state.ballot.trip.keys()) >= treaty().trip:
            self.violated("S5", f"{process.name} signs though it holds {treaty().trip} votes to trip")
        if (age := now - self._signers[process].time) > treaty().stale_after + 1:
            self.violated("S5", f"{process.name} signs on a view that is {age:.1f} s old")
        self.count("permits signed")

    def admitted(self, epoch: int) -> None:
        process = here()
        state = self._gates[process].state
        if state.epoch > epoch or state.phase is not Phase.CLEAR:
            self.violated("S5", f"a gate opens on epoch {epoch} while its own log shows {state.phase} {state.epoch}")

    def gate_opens(self, process: Process, follower: Follower) -> None:
        self._gates[process], self._late = follower, 0

    def stepped(self, follower: Follower, live: LiveGate) -> None:
        state, now = follower.state, self._loop.time()
        epoch = live._state.epoch
        if state.phase in (Phase.TRIPPED, Phase.PAUSED) and epoch < state.epoch:
            self._late += 1
            if self._late > _LATE_STEPS:
                self.violated("S5", "steps go on after the gate's own log shows a trip")
        else:
            self._late = 0
        beyond = (self._loop.time() - _STEP) * 1e9 + 10**12 - live._state.deadline  # it was asked before the step
        if beyond > _ASKED * 1e9:
            self.violated("S5", f"a step {beyond / 1e9:.1f} s after its permit has lapsed")
        bound = treaty().stale_after + treaty().permit_lifetime + SKEW
        for tripped, at in self.tripped.items():
            if epoch < tripped and now > at + bound:
                self.violated("S5", f"a step {now - at:.1f} s after the trip was visible")

    # What leaves a process

    def emitted(self, request: Request, answer: Answer) -> None:
        self.trace(request.source.name, request.service, request.path, answer.status_code, len(answer.content))
        kind, _, host = request.service.partition(".")
        if request.path == "/add-checkpoint" and KEEPER not in self.liars:
            checkpoint = checkpoint_in(request.body.partition(b"\n\n")[2])
            if self._signed.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
                self.violated("S1", f"the log signed another root of size {checkpoint.size}")
        if host in self.liars or answer.status_code not in (200, 204):
            return
        match kind, request.path:
            case "witness", "/add-checkpoint":
                self._cosigned(host, request)
            case "log", "/checkpoint":
                self._published(answer)
            case "log", "/add":
                self._took(request)
            case "log", path if path.startswith("/receipt/"):
                self._promises(answer)
            case "signer", "/vote":
                self._holds(request, host)
            case "signer", "/permit":
                self._granted(request, host)

    def _one_root(self, size: int, root: bytes, who: str) -> None:
        if self._roots.setdefault(size, root) != root:
            self.violated("S1", f"{who}: another root of size {size}")

    def _cosigned(self, host: str, request: Request) -> None:
        checkpoint = checkpoint_in(request.body.partition(b"\n\n")[2])
        if KEEPER not in self.liars:
            self._one_root(checkpoint.size, checkpoint.root, request.service)
        path = self.hosts[host].home / "witness" / "witness.db"
        with closing(sqlite3.connect(path)) as db:
            (size,) = db.execute("SELECT max(size) FROM logs").fetchone()
        if not self.hosts[host].disk.is_durable(path) or (size or 0) < checkpoint.size:
            self.violated("S7", f"{request.service} answered before its memory was durable")

    def _published(self, answer: Answer) -> None:
        checkpoint = checkpoint_in(answer.content)
        self._one_root(checkpoint.size, checkpoint.root, "the log published")
        path = self.hosts[KEEPER].home / "log" / "log.db"
        with closing(sqlite3.connect(path)) as db:
            row = db.execute("SELECT note FROM published").fetchone()
        if not self.hosts[KEEPER].disk.is_durable(path) or not row or checkpoint_in(row[0]).size < checkpoint.size:
            self.violated("S7", f"the log published {checkpoint.size} entries before that was durable")

    def _took(self, request: Request) -> None:
        self._acknowledged.add(sha256(request.body))
        if not self.hosts[KEEPER].disk.is_durable(self.hosts[KEEPER].home / "log" / "log.db"):
            self.violated("S7", "the log acknowledged an entry before it was durable")
        source = request.source
        if source.host_name not in self.liars:
            host = self.hosts[source.host_name]
            if not host.disk.is_durable(host.home / "outbox.sqlite"):
                self.violated("S7", f"{source.name} sent a statement before its outbox was durable")

    def _promises(self, answer: Answer) -> None:
        receipt = parse_receipt(parse_note(answer.content).text)
        if self._promised.setdefault(receipt.index, receipt.leaf) != receipt.leaf:
            self.violated("S1", f"the log promised two entries at {receipt.index}")
        if not self.hosts[KEEPER].disk.is_durable(self.hosts[KEEPER].home / "log" / "log.db"):
            self.violated("S7", "the log promised an entry before it was durable")

    def _holds(self, request: Request, host: str) -> None:
        said = open_envelope(request.body).statement
        vote = said.body_as(Vote)
        shown = self._shown.setdefault(request.service, {}).setdefault(vote.epoch, {})
        shown[said.issuer] = max(said.expires, shown.get(said.issuer, 0))
        epoch = next(f.state.epoch for p, f in self._signers.items() if p.name == request.service and p.alive)
        if vote.epoch < epoch:
            return
        for data in self.hosts[host].disk.possible(self.hosts[host].home / "signer" / "votes.jsonl"):
            lines = (data or b"").split(b"\n")
            held = {(e.statement.issuer, e.statement.body_as(Vote).epoch) for e in map(_read, lines) if e is not None}
            if (said.issuer, vote.epoch) not in held:
                self.violated("S7", f"{request.service} took a vote before it was durable")

    def _granted(self, request: Request, host: str) -> None:
        permit = parse(request.body, Permit)
        for data in self.hosts[host].disk.possible(self.hosts[host].home / "signer" / "granted.json"):
            if permit.epoch and (data is None or json.loads(data)["epoch"] < permit.epoch):
                self.violated("S7", f"{request.service} granted epoch {permit.epoch} before that was durable")


def _read(line: bytes) -> Any:
    try:
        return open_envelope(line)
    except Malformed:
        return None


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """The observer stands where the code under test already calls out."""
    update, admit, sign, mark = Follower.update, gate.admit, statement.sign, Outbox._mark

    def updated(self: Follower, **options: Any) -> bool:
        grown = update(self, **options)
        observer.followed(self)
        return grown

    def admitted(*args: Any, **options: Any) -> gate.GateState:
        after = admit(*args, **options)
        observer.admitted(after.epoch)
        return after

    def signed(kind: str, payload: object, *keys: PrivateKey) -> bytes:
        if isinstance(payload, Permit):
            observer.signing(payload)
        return sign(kind, payload, *keys)

    def marked(self: Outbox, lane: Lane, seq: int, column: str, value: object) -> None:
        if column == "refused":
            row = self._db.execute("SELECT data FROM said WHERE lane = ? AND seq = ?", (lane, seq)).fetchone()
            observer.gave_up(row[0], str(value))
        mark(self, lane, seq, column, value)

    with (
        patch.object(Outbox, "_mark", marked),
        patch.object(Follower, "update", updated),
        patch.object(permits, "admit", admitted),
        patch.object(node_signer, "sign", signed),
    ):
        yield
