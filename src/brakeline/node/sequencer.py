"""The loop that makes a log of a store: collect, commit, sign, ask the witnesses, publish.

An entry goes through four states, and only the last is answered with a proof:

    queued → durable (`LogStore.append`) → signed → published (the policy's quorum has cosigned)

Whatever fails on the way, the loop fails closed: nothing is published, the submitters get `Unavailable`, and
the next round signs the tree as it then is, entries left over included. Submitting again is idempotent.

What ends the loop for good is doubt about our own history: a row that changed, or our own signature, held by
a witness, on a tree that we do not have. A copy restored from a backup looks like that. So before signing
anything new the loop asks the quorum, with the checkpoint already published, how far it has seen us go.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, MutableSequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, NamedTuple

import httpx

from brakeline.core.encoding import b64encode, decimal, sha256
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, parse_checkpoint, verify_cosignature
from brakeline.core.tlog.merkle import EMPTY_ROOT, consistency_proof, inclusion_proof, verify_consistency
from brakeline.core.tlog.note import Note, SignatureLine, VerifierKey, parse_note, sign_note, verify_note
from brakeline.core.tlog.policy import Policy, verify_cosigned
from brakeline.core.tlog.proof import Proof
from brakeline.core.tlog.tile import MAX_ENTRY
from brakeline.node.http import read_answer
from brakeline.node.logstore import LogStore

_LOGGER: Final = logging.getLogger(__name__)

MAX_BATCH: Final = 1000
MAX_QUEUE: Final = 4096
MAX_ANSWER: Final = 128 * 1024


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


class _Submission(NamedTuple):
    entry: bytes
    done: asyncio.Future[int]  # its index, once published


@dataclass
class _Round:
    """One signed checkpoint on its way to a quorum."""

    checkpoint: Checkpoint
    note: Note
    waiting: set[str]  # witnesses that have not answered yet
    lines: dict[str, SignatureLine] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)  # have seen more of us, but no more than we have
    settled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Link:
    """A witness as the log sees it. `size` is the last that it is known to have cosigned; no `trouble` is well."""

    name: str
    key: VerifierKey
    url: str
    size: int = 0
    trouble: str = "not asked yet"
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Sequencer:
    """Publishes `store` under `policy`; `run` it beside whatever calls `submit`."""

    def __init__(
        self,
        store: LogStore,
        key: PrivateKey,
        policy: Policy,
        validate: Callable[[bytes], None],
        clock: Callable[[], float],
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """`validate` raises what the submitter of a bad entry is to get.

        Raises:
            Misuse: the policy does not trust `key` as the log `store.origin`.
        """
        own = [log for log, _ in policy.logs if log.name == store.origin and log.key == key.public]
        if not own:
            raise Misuse(f"the policy does not name this key as that of the log {store.origin}")
        self.store = store
        self.failure: BrakelineError | None = None
        self.latest: Latest | None = None
        self._key = key
        self._own = own[0]
        self._policy = policy
        self._validate = validate
        self._clock = clock
        self._timing = timing
        self._links = [_Link(name, vkey, url.rstrip("/")) for name, (vkey, url) in policy.witnesses.items() if url]
        self._round: _Round | None = None
        self._signed = Checkpoint(store.origin, 0, EMPTY_ROOT)
        self._queue: deque[_Submission] = deque()
        self._work = asyncio.Event()
        self._news = asyncio.Condition()
        self._stamped = float("-inf")
        self._committed = float("-inf")
        note = store.published()
        if note is not None:
            self._signed = parse_checkpoint(parse_note(note).text)
            self.latest = Latest(self._signed.size, note)

    # What callers see

    async def submit(self, entry: bytes) -> bytes:
        """Append `entry`; returns its tlog-proof once it is published. One that is published already is only proven.

        Raises:
            Malformed: empty, over 65,535 bytes, or not an envelope. Whatever `validate` raises.
            Unavailable: the queue is full, or no quorum cosigned in time. Submit the same entry again.
            Refused: the loop has ended; the reason says why.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        # Only the log writes stamps: to all who read time from them, a stamp is the log's own word.
        if not entry.startswith(b"{") or len(entry) > MAX_ENTRY:
            raise Malformed(f"an entry is a DSSE envelope of at most {MAX_ENTRY} bytes")
        index = self.store.index_of(sha256(entry))
        if index is None:
            self._validate(entry)
        if self.latest is None or index is None or index >= self.latest.size:
            index = await self._publication(entry)
        return self._prove(index)

    async def _publication(self, entry: bytes) -> int:
        if len(self._queue) >= MAX_QUEUE:
            raise Unavailable("the log is busy", hint="submit again in a moment")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append(_Submission(entry, future))
        self._work.set()
        try:
            return await asyncio.wait_for(future, 2 * self._timing.patience)
        except TimeoutError:
            raise Unavailable(
                "not published in time", hint="submit the same entry again: it cannot count twice"
            ) from None

    def _prove(self, index: int) -> bytes:
        assert self.latest is not None
        size, note = self.latest
        return Proof(index, inclusion_proof(index, size, self.store.read), note).encode()

    async def published(self, after: int, wait: float) -> Latest | None:
        """The published checkpoint, once it is larger than `after`; after `wait` seconds, whatever it then is."""

        def news() -> bool:
            return self.latest is not None and self.latest.size > after

        with suppress(TimeoutError):
            async with asyncio.timeout(wait), self._news:
                await self._news.wait_for(news)
        return self.latest

    def troubles(self) -> dict[str, str]:
        """What is wrong with each witness; empty text where nothing is."""
        return {link.name: link.trouble for link in self._links}

    # The loop

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
        # Nothing that one witness sends may reach another: the jar takes no cookies.
        self._http = httpx.AsyncClient(
            headers={"accept-encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=self._timing.patience,
            trust_env=False,
        )
        try:
            async with self._http, asyncio.TaskGroup() as group:
                for link in self._links:
                    group.create_task(self._attend(link))
                group.create_task(self._sequence())
        except* BrakelineError as errors:
            failure = errors.exceptions[0]
            assert isinstance(failure, BrakelineError)
            self.failure = failure
            _LOGGER.critical("%s has stopped signing: %s", self.store.origin, failure)
        finally:
            if self.failure is None:
                self.failure = Unavailable("the log has stopped")
            self._fail(self._queue, self.failure)

    async def _sequence(self) -> None:
        await self._begin()
        while True:
            batch = await self._collect()
            try:
                await self._commit(batch)
            except Unavailable as e:
                self._fail(batch, e)
                await asyncio.sleep(self._timing.retry)
            except BrakelineError as e:
                self._fail(batch, e)
                raise

    async def _begin(self) -> None:
        """Ask a quorum about what is already public, before anything new is signed. See the module's text."""
        if self.latest is None:
            note = sign_note(self._signed.text, self.store.origin, self._key)
        else:
            published = parse_note(self.latest.note)
            own = tuple(line for _, line in verify_note(published, [self._own]))
            note = Note(published.text, own)
        while True:
            try:
                lines = await self._cosigned(self._signed, note)
                if self.latest is None and self._policy.quorum.holds(frozenset(lines)):
                    await self._publish(self._signed, note, lines)
                return
            except Unavailable as e:
                self._fail(self._queue, e)
                await asyncio.sleep(self._timing.retry)

    async def _collect(self) -> list[_Submission]:
        """Wait for work (an entry, a stamp due, entries left over), and then for the rest of the interval."""
        if self._all_published:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stamp_due_in(self._clock())):
                    await self._work.wait()
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._committed + self._timing.interval - now))
        self._committed = asyncio.get_running_loop().time()
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
        if not self._queue:
            self._work.clear()
        return batch

    @property
    def _all_published(self) -> bool:
        return self.latest is not None and self.latest.size == self.store.size

    def _stamp_due_in(self, now: float) -> float:
        # A clock set back must not silence the log until it has caught up.
        elapsed = now - self._stamped
        return max(0.0, self._timing.heartbeat - elapsed) if elapsed >= 0 else 0.0

    async def _commit(self, batch: list[_Submission]) -> None:
        now = self._clock()
        stamps = [self.latest.note] if self.latest and self._stamp_due_in(now) == 0 else []
        entries = [*stamps, *(submission.entry for submission in batch)]
        if not entries and self._all_published:
            return
        indices = await asyncio.to_thread(self.store.append, entries) if entries else []
        if stamps:
            self._stamped = now
        checkpoint = Checkpoint(self.store.origin, self.store.size, self.store.root())
        # A bit flipped in memory must not be signed: the tree extends what we signed last, or we stop.
        old, new = self._signed, checkpoint
        proof = consistency_proof(old.size, new.size, self.store.read)
        verify_consistency(old.size, old.root, new.size, new.root, proof)
        self._signed = checkpoint
        note = sign_note(checkpoint.text, checkpoint.origin, self._key)
        lines = await self._cosigned(checkpoint, note)
        await self._publish(checkpoint, note, lines)
        for submission, index in zip(batch, indices[len(stamps) :], strict=True):
            if not submission.done.done():
                submission.done.set_result(index)

    async def _publish(self, checkpoint: Checkpoint, note: Note, lines: dict[str, SignatureLine]) -> None:
        data = note.with_lines(*(lines[name] for name in sorted(lines))).encode()
        # What goes out is what every verifier will accept, by the verifiers' own function.
        verify_cosigned(data, self._policy)
        await asyncio.to_thread(self.store.publish, data)
        async with self._news:
            self.latest = Latest(checkpoint.size, data)
            self._news.notify_all()

    async def _cosigned(self, checkpoint: Checkpoint, note: Note) -> dict[str, SignatureLine]:
        """The cosignatures there are when the quorum holds; later ones are dropped.

        Raises:
            Unavailable: every witness has answered, or `patience` is over, and there is no quorum.
        """
        current = self._round = _Round(checkpoint, note, {link.name for link in self._links})
        for link in self._links:
            link.news.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.patience):
                await current.settled.wait()
        if not self._policy.quorum.holds(frozenset(current.lines) | current.ahead):
            raise Unavailable(
                f"no quorum, nothing published: {len(current.lines)} of {len(self._links)} witnesses cosigned",
                hint="submit the same entry again once the witnesses are back",
            )
        return dict(current.lines)

    @staticmethod
    def _fail(batch: MutableSequence[_Submission], error: BrakelineError) -> None:
        for submission in batch:
            if not submission.done.done():
                submission.done.set_exception(error)
        batch.clear()

    # The witnesses

    async def _attend(self, link: _Link) -> None:
        """Bring the newest signed checkpoint to one witness, whenever there is a new one."""
        while True:
            await link.news.wait()
            link.news.clear()
            current = self._round
            assert current is not None
            try:
                async with asyncio.timeout(self._timing.patience):
                    await self._ask(link, current)
                link.trouble = ""
            except (httpx.HTTPError, TimeoutError) as e:
                link.trouble = f"{type(e).__name__}: {e}"
            except (Malformed, Unavailable) as e:
                link.trouble = str(e)
            current.waiting.discard(link.name)
            if not current.waiting or self._policy.quorum.holds(frozenset(current.lines) | current.ahead):
                current.settled.set()

    async def _ask(self, link: _Link, current: _Round) -> None:
        """One add-checkpoint (C2SP tlog-witness), and a second one when the witness knows another size.

        Raises:
            Refused(ROLLBACK): it holds our signature on a tree that is not ours.
            Malformed, Unavailable, httpx.HTTPError: no cosignature.
        """
        size = current.checkpoint.size
        if link.size > size:
            link.size = 0
        for _ in range(2):
            proof = consistency_proof(link.size, size, self.store.read)
            head = b"".join([b"old %d\n" % link.size, *(b64encode(h).encode() + b"\n" for h in proof)])
            status, body = await self._call("POST", f"{link.url}/add-checkpoint", head + b"\n" + current.note.encode())
            if status == 200:
                current.lines[link.name] = self._cosignature(link, current.note, body)
                link.size = size
                return
            if status != 409:
                break
            known = decimal(body.removesuffix(b"\n"))
            if known > self.store.size:
                break
            if known > size:
                await self._check_history(link)
                current.ahead.add(link.name)
                return
            link.size = known
        if status in (409, 422):
            await self._check_history(link)
        raise Unavailable(f"the witness answered {status}: {body[:200].decode(errors='replace').strip()}")

    def _cosignature(self, link: _Link, note: Note, body: bytes) -> SignatureLine:
        for line in parse_note(note.text + b"\n" + body).lines:
            if line.name == link.key.name and line.key_id == link.key.id:
                try:
                    verify_cosignature(note.text, line, link.key)
                except Refused as e:
                    raise Malformed(f"the witness sent a bad cosignature: {e}") from e
                return line
        raise Malformed("the witness sent no cosignature under its key")

    async def _check_history(self, link: _Link) -> None:
        """Stop for good if the witness can show that we signed what we do not have. Its word alone stops nobody.

        Raises:
            Refused(ROLLBACK): it has our signature on a larger tree, or on another root.
        """
        log_id = sha256(self.store.origin.encode()).hex()
        status, body = await self._call("GET", f"{link.url}/{log_id}/checkpoint", b"")
        if status != 200:
            return
        note = parse_note(body)
        theirs = parse_checkpoint(note.text)
        try:
            verify_note(note, [self._own])
        except Refused as e:
            raise Malformed(f"the witness shows a checkpoint that we did not sign: {e}") from e
        if theirs.size > self.store.size or self.store.root(theirs.size) != theirs.root:
            raise Refused(
                Reason.ROLLBACK,
                f"the witness {link.name} has our signature on another tree, of {theirs.size} entries",
                hint="this log was restored from an older copy, or runs twice; bring back the newest copy",
            )

    async def _call(self, method: str, url: str, content: bytes) -> tuple[int, bytes]:
        async with self._http.stream(method, url, content=content) as response:
            return response.status_code, await read_answer(response, MAX_ANSWER)
