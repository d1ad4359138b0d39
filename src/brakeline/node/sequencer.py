"""The loop that makes a log of a store: judge, queue, commit, sign, ask the witnesses, publish.

An entry goes through these states, and only the last is answered with a proof:

    arrived → queued (`Admission.admit`) → durable (`LogStore.append`) → signed → published (a quorum has cosigned)

Whatever fails on the way, the loop fails closed: nothing is published, the submitters get `Unavailable`, and the next
round signs the tree as it then is, entries left over included. Submitting again is idempotent.

Time in a log is what its stamps say. So before entries are judged, and before any is appended, the newest stamp must be
no older than the heartbeat. After a silence (a start, an outage, a machine that slept) the published checkpoint is as
old as the silence: the tree is cosigned once more, then that checkpoint is stamped, and only then do entries follow.

What ends the loop for good is doubt about our own history: a row that changed, or our own signature, held by a witness,
on a tree that we do not have. A copy restored from a backup looks like that. So before signing anything new the loop
asks the quorum, with the checkpoint already published, how far it has seen us go.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar

from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in
from brakeline.core.tlog.merkle import EMPTY_ROOT, consistency_proof, inclusion_proof, verify_consistency
from brakeline.core.tlog.note import Note, keyring, parse_note, sign_note, verify_note
from brakeline.core.tlog.policy import Policy, verify_all
from brakeline.core.tlog.proof import Proof
from brakeline.core.tlog.receipt import Receipt, sign_receipt
from brakeline.core.tlog.tile import MAX_ENTRY
from brakeline.node.admission import Admission, Place, Terms
from brakeline.node.cosigners import Cosigners
from brakeline.node.logstore import LogStore
from brakeline.node.ports import clock
from brakeline.node.queue import FairQueue

MAX_BATCH: Final = 1000
MAX_ARRIVED: Final = 256  # entries that are not judged yet: nobody knows whose they are
FRESH: Final = 1.0  # s; cosignatures count whole seconds, so a younger checkpoint would get the same time again
SLICE: Final = 0.01  # s of judging at a stretch, so that a durable batch need not wait for a crowd of arrivals
R = TypeVar("R")


class Timing(NamedTuple):
    """Seconds: `interval` between batches, `heartbeat` between stamps, `patience` for a quorum, `retry` after none."""

    interval: float = 0.02
    heartbeat: float = 10.0
    patience: float = 5.0
    retry: float = 0.25


DEFAULT_TIMING: Final = Timing()


class Latest(NamedTuple):
    """The published checkpoint and its size."""

    size: int
    note: bytes


class Progress(NamedTuple):
    """Seconds since cosignatures were asked for with success, and since the store took something; how many the first
    may be; how many entries wait."""

    cosigned: float
    written: float
    limit: float
    waiting: int


@dataclass(eq=False, slots=True)
class _Ticket:
    """An entry on its way, and all who wait for it: an entry that is submitted twice has one ticket."""

    entry: bytes
    digest: bytes
    alone: bool  # it is refused where another statement has its number
    done: asyncio.Future[int]  # its index, once published
    waiters: int = 0
    where: Literal["arrived", "queued", "in a batch"] = "arrived"


class Sequencer:
    """Publishes `store` under `policy`; `run` it beside whatever calls `submit`."""

    def __init__(
        self,
        store: LogStore,
        key: PrivateKey,
        admission: Admission,
        clock: Callable[[], float],
        timing: Timing = DEFAULT_TIMING,
        tell: Callable[[str], None] = print,
    ) -> None:
        """`admission` has read all that `store` holds; `clock` gives POSIX seconds; `tell` says why it ended.

        Raises:
            Misuse: the admission's policy does not trust `key` as the log `store.origin`.
        """
        self._terms = admission.terms  # as of what it was told last
        own = [k for p in self._terms.need for k, _ in p.logs if k.name == store.origin and k.key == key.public]
        if not own:
            raise Misuse(f"the policy does not name this key as that of the log {store.origin}")
        self.store = store
        self.failure: BrakelineError | None = None
        self.latest: Latest | None = None
        self.cosigners = Cosigners(store, own[0], self._terms.need, timing.patience)
        self._key, self._own = key, own[0]
        self._admission = admission
        self._clock = clock
        self._timing = timing
        self._tell = tell
        self._signed = Checkpoint(store.origin, 0, EMPTY_ROOT)
        self._tickets: dict[bytes, _Ticket] = {}  # by digest: all that are neither published nor failed
        self._arrived: dict[bytes, _Ticket] = {}
        self._queue: FairQueue[_Ticket] = FairQueue()
        self._dropped: list[bytes] = []  # what the admission is still to be told
        self._told = store.size  # entries that the admission knows of
        # Threads of their own: no crowd of readers can take them, and one thread is one call at a time.
        self._judge_thread = ThreadPoolExecutor(1)
        self._store_thread = ThreadPoolExecutor(1)
        self._arrival = asyncio.Event()
        self._work = asyncio.Event()
        self._fresh_stamp = asyncio.Event()
        self._news = asyncio.Condition()
        # By our own clock: one that differs from the witnesses' must not make every stamp look old.
        self._stamped = float("-inf")  # when the newest stamp was published
        self._cosigned = float("-inf")  # when the cosignatures of `latest` were asked for
        self._written = float("-inf")  # when the store took something last
        self._committed = float("-inf")  # when the last batch was collected, by the event loop's clock
        self._trouble: Unavailable | None = None
        note = store.published()
        if note is not None:
            self._signed = checkpoint_in(note)
            self.latest = Latest(self._signed.size, note)

    # What callers see

    async def submit(self, entry: bytes, *, alone: bool = False) -> bytes:
        """Append `entry`; returns its tlog-proof once it is published. One that is published already is only proven.

        With `alone` it is refused where another statement has its number, instead of being taken for evidence.

        Raises:
            Malformed: empty, over 65,535 bytes, or not an envelope. Whatever `Admission.admit` raises.
            Unavailable: too many wait already, or it was not published in time. Submit the same entry again.
            Refused: the loop has ended; the reason says why.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        # Only the log writes stamps: to all who read time from them, a stamp is the log's own word.
        if not entry.startswith(b"{") or len(entry) > MAX_ENTRY:
            raise Malformed(f"an entry is a DSSE envelope of at most {MAX_ENTRY} bytes")
        digest = sha256(entry)
        index = self.store.index_of(digest)
        try:
            async with asyncio.timeout(2 * self._timing.patience):
                index = await (self._publication(digest, entry, alone) if index is None else self._reached(index))
        except TimeoutError:
            late = Unavailable("not published in time", hint="submit the same entry again: it cannot count twice")
            raise (self._trouble or late).with_traceback(None) from None
        return self._prove(index)

    async def _publication(self, digest: bytes, entry: bytes, alone: bool) -> int:
        ticket = self._tickets.get(digest)
        if ticket is None:
            if len(self._arrived) >= MAX_ARRIVED:
                raise Unavailable("the log is busy", hint="submit again in a moment")
            ticket = _Ticket(entry, digest, alone, asyncio.get_running_loop().create_future())
            self._tickets[digest] = self._arrived[digest] = ticket
            self._arrival.set()
        ticket.waiters += 1
        try:
            return await asyncio.shield(ticket.done)
        finally:
            ticket.waiters -= 1
            # Nobody waits any more. What is in a batch stays known until the batch is through.
            if not (ticket.waiters or ticket.done.done() or ticket.where == "in a batch"):
                if ticket.where == "queued":
                    self._dropped.append(entry)
                self._settle(ticket, -1)

    async def _reached(self, index: int) -> int:
        """`index` of an entry that is durable already, once it is published."""
        async with self._news:
            await self._news.wait_for(lambda: self.failure or (self.latest and self.latest.size > index))
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        return index

    def _prove(self, index: int) -> bytes:
        assert self.latest is not None
        size, note = self.latest
        return Proof(index, inclusion_proof(index, size, self.store.read), note).encode()

    def receipt(self, digest: bytes) -> Note | None:
        """What the log promises of the entry with this digest, where it is durable."""
        index = self.store.index_of(digest)
        if index is None or self.failure is not None:
            return None
        until = int(self._clock() + self._terms.promise)
        return sign_receipt(Receipt(self.store.origin, index, self.store.read(0, index), until), self._key)

    def progress(self) -> Progress:
        """How it goes, by this log's own clock."""
        heartbeat = self._terms.heartbeat or self._timing.heartbeat
        now, limit = self._clock(), 2 * heartbeat + self._timing.patience
        return Progress(now - self._cosigned, now - self._written, limit, len(self._tickets))

    async def published(self, after: int, wait: float) -> Latest | None:
        """The published checkpoint, once it is larger than `after`; after `wait` seconds, whatever it then is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait), self._news:
                await self._news.wait_for(lambda: self.latest and self.latest.size > after)
        return self.latest

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The loop, running beside the body of the `with`."""
        loop = asyncio.create_task(self.run())
        try:
            yield
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop

    async def run(self) -> None:
        """Sequence until cancelled, or until the log may not go on: then `failure` says why, and nothing is signed."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.cosigners.run())
                group.create_task(self._admit())
                group.create_task(self._sequence())
        except* BrakelineError as errors:
            failure: BaseException = errors
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
            assert isinstance(failure, BrakelineError)
            self.failure = failure
            self._tell(f"{self.store.origin} has stopped signing: {failure}")
        finally:
            if self.failure is None:
                self.failure = Unavailable("the log has stopped")
            for ticket in tuple(self._tickets.values()):
                self._settle(ticket, self.failure)
            async with self._news:
                self._news.notify_all()
            self._judge_thread.shutdown()
            self._store_thread.shutdown()  # nobody may close the store under its hands

    # Tickets

    def _settle(self, ticket: _Ticket, result: int | Exception) -> None:
        if ticket.done.done():
            return
        del self._tickets[ticket.digest]
        self._arrived.pop(ticket.digest, None)
        if not ticket.waiters:
            ticket.done.cancel()
        elif isinstance(result, Exception):
            ticket.done.set_exception(result)
        else:
            ticket.done.set_result(result)

    # Admission

    async def _admit(self) -> None:
        """Have arrivals judged, in their order, while the log's clock is fresh."""
        while True:
            await self._arrival.wait()
            if self._stamp_due_in(self._clock()) == 0:
                self._fresh_stamp.clear()
                self._work.set()
                await self._fresh_stamp.wait()
            arrived = tuple(self._arrived.values())
            verdicts = await self._consult(partial(self._judge, arrived))
            for ticket, verdict in zip(arrived, verdicts, strict=False):
                self._place(ticket, verdict)
            if not self._arrived:
                self._arrival.clear()

    async def _consult(self, ask: Callable[[], R]) -> R:
        """Ask the admission in its thread; it hears first what was dropped."""
        dropped, self._dropped = self._dropped, []

        def work() -> R:
            for entry in dropped:
                self._admission.dropped(entry)
            return ask()

        return await asyncio.get_running_loop().run_in_executor(self._judge_thread, work)

    async def _stored(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, work)

    def _judge(self, tickets: Sequence[_Ticket]) -> list[Place | Exception]:
        """Verdicts on the first of `tickets`, for as long as `SLICE`."""
        end = clock().monotonic() + SLICE
        verdicts: list[Place | Exception] = []
        for ticket in tickets:
            try:
                verdicts.append(self._admission.admit(ticket.entry, alone=ticket.alone))
            except Exception as e:  # one entry that the admission chokes on must not stop the log
                verdicts.append(e)
            if clock().monotonic() > end:
                break
        return verdicts

    def _place(self, ticket: _Ticket, verdict: Place | Exception) -> None:
        if isinstance(verdict, Exception):
            self._settle(ticket, verdict)
        elif ticket.done.done():
            self._dropped.append(ticket.entry)
        elif self._queue.put(ticket, verdict.party, brake=verdict.brake, parties=self._admission.parties):
            del self._arrived[ticket.digest]
            ticket.where = "queued"
            self._work.set()
        else:
            self._dropped.append(ticket.entry)
            busy = Unavailable(f"{verdict.party} has too many statements waiting", hint="submit again in a moment")
            self._settle(ticket, busy)

    # The loop

    async def _sequence(self) -> None:
        await self._retried(self._begin)
        while True:
            await self._pace()
            await self._retried(self._turn)

    async def _retried(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await step()
            except Unavailable as e:
                self._trouble = e
                self._stamped = self._cosigned = float("-inf")  # nothing may be appended before a fresh stamp
                await asyncio.sleep(self._timing.retry)

    async def _begin(self) -> None:
        """Ask a quorum about what is already public, before anything new is signed: see the module's text."""
        if self.latest is None:
            note = sign_note(self._signed.text, self.store.origin, self._key)
        else:
            published = parse_note(self.latest.note)
            own = tuple(line for _, line in verify_note(published, keyring([self._own])))
            note = Note(published.text, own)
        await self.cosigners.cosign(self._signed, note, self._terms.need)

    async def _pace(self) -> None:
        """Wait for work (an entry, a stamp due, entries left over), and then for the rest of the interval."""
        if self._all_published:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stamp_due_in(self._clock())):
                    await self._work.wait()
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._committed + self._timing.interval - now))
        self._committed = asyncio.get_running_loop().time()

    def _stamp_due_in(self, now: float) -> float:
        # A clock set back must not silence the log until it has caught up.
        elapsed = now - self._stamped
        heartbeat = self._terms.heartbeat or self._timing.heartbeat
        return max(0.0, heartbeat - elapsed) if elapsed >= 0 else 0.0

    @property
    def _all_published(self) -> bool:
        return self.latest is not None and self.latest.size == self.store.size

    async def _turn(self) -> None:
        """A stamp if one is due, and after it one batch of what is queued."""
        if self._stamp_due_in(self._clock()) == 0:
            await self._stamp()
        batch = [ticket for ticket in self._queue.take(MAX_BATCH) if not ticket.done.done()]
        if not self._queue:
            self._work.clear()
        if not batch and self._all_published:
            return
        for ticket in batch:
            ticket.where = "in a batch"
        try:
            indices = await self._append([ticket.entry for ticket in batch])
            await self._advance()
        except Unavailable as e:
            for ticket in batch:
                self._settle(ticket, e)
            raise
        for ticket, index in zip(batch, indices, strict=True):
            self._settle(ticket, index)

    async def _stamp(self) -> None:
        """Stamp a checkpoint with fresh cosignatures, and publish that before any entry follows."""
        wish = self._terms.wish
        if wish or self.latest is None or not 0 <= self._clock() - self._cosigned < FRESH:
            await self._advance(wish)
        assert self.latest is not None
        await self._append([self.latest.note])
        await self._advance()
        self._stamped = self._clock()
        self._fresh_stamp.set()

    async def _append(self, entries: Sequence[bytes]) -> list[int]:
        """Make `entries` durable, and let the admission know; returns their indices."""
        if not entries:
            return []
        try:
            indices = await self._stored(partial(self.store.append, entries))
        except Unavailable:
            self._dropped += (entry for entry in entries if entry.startswith(b"{"))  # a stamp was not waiting
            raise
        self._written = self._clock()
        # What the store has, not what we gave it: a commit that failed before may have lasted all the same.
        grown = await self._stored(partial(self.store.entries, self._told, self.store.size))
        self._terms = await self._consult(partial(self._taken, grown))
        self._told += len(grown)
        return indices

    def _taken(self, grown: Sequence[bytes]) -> Terms:
        self._admission.taken(grown)
        return self._admission.terms

    async def _advance(self, wish: Sequence[Policy] = ()) -> None:
        """Sign the tree as it is, and publish that under every quorum that it needs; wait for those of `wish`, too."""
        need = self._terms.need
        checkpoint = Checkpoint(self.store.origin, self.store.size, self.store.root())
        # A bit flipped in memory must not be signed: the tree extends what we signed last, or we stop.
        old, new = self._signed, checkpoint
        proof = consistency_proof(old.size, new.size, self.store.read)
        verify_consistency(old.size, old.root, new.size, new.root, proof)
        self._signed = checkpoint
        note = sign_note(checkpoint.text, checkpoint.origin, self._key)
        began = self._clock()
        lines = await self.cosigners.cosign(checkpoint, note, need, wish)
        data = note.with_lines(*lines).encode()
        # What goes out is what every verifier will accept, by the verifiers' own function.
        verify_all(data, lambda _: need)
        await self._stored(partial(self.store.publish, data))
        self._cosigned, self._trouble = began, None
        async with self._news:
            self.latest = Latest(checkpoint.size, data)
            self._news.notify_all()
