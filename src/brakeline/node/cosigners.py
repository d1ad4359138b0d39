"""The witnesses as the log sees them: each is brought the newest signed checkpoint, and what it answers is checked.

A witness may be away, slow or lying. Its word alone stops nobody; what stops the log for good is its own signature,
held by a witness, on a tree that the log does not have.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import httpx

from brakeline.core.encoding import b64encode, decimal, sha256
from brakeline.core.errors import Malformed, Reason, Refused, Unavailable
from brakeline.core.tlog.checkpoint import Checkpoint, parse_checkpoint, verify_cosignature
from brakeline.core.tlog.merkle import consistency_proof
from brakeline.core.tlog.note import Note, SignatureLine, VerifierKey, keyring, parse_note, verify_note
from brakeline.core.tlog.policy import Policy
from brakeline.node.logstore import LogStore
from brakeline.node.peers import wire

MAX_ANSWER: Final = 128 * 1024
_REST: Final = 0.25  # s until a witness that gave no good answer is asked again


@dataclass
class _Round:
    """One signed checkpoint on its way to a quorum."""

    checkpoint: Checkpoint
    note: Note
    need: Sequence[Policy]
    wish: Sequence[Policy]
    waiting: set[VerifierKey]  # witnesses that have not answered yet
    lines: dict[VerifierKey, SignatureLine] = field(default_factory=dict)
    ahead: set[VerifierKey] = field(default_factory=set)  # have seen more of us, but no more than we have
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def holds(self, policies: Sequence[Policy]) -> bool:
        """Whether the quorums of all of these have answered well."""
        there = self.lines.keys() | self.ahead
        return all(
            p.quorum.holds(frozenset(name for name, (key, _) in p.witnesses.items() if key in there))
            for p in policies
        )


@dataclass
class _Link:
    """One witness. `size` is the last that it is known to have cosigned; no `trouble` is well."""

    name: str
    key: VerifierKey
    url: str
    size: int = 0
    trouble: str = "not asked yet"
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Cosigners:
    """The witnesses of those policies that a checkpoint needs. `run` it beside whatever calls `cosign`, which holds one
    round at a time, and may come to need others."""

    def __init__(self, store: LogStore, own: VerifierKey, policies: Sequence[Policy], patience: float) -> None:
        """`own` is the log's key; `patience` bounds a round, and one exchange with a witness, in seconds."""
        self._store = store
        self._own = own
        self._patience = patience
        self._links: list[_Link] = []
        self._group: asyncio.TaskGroup | None = None  # while it runs
        self._round: _Round | None = None
        self._attend_to(policies)

    def _attend_to(self, policies: Sequence[Policy]) -> None:
        """Link to the witnesses of these policies, and leave the others."""
        wanted = {(key, url.rstrip("/")): name for p in policies for name, (key, url) in p.witnesses.items() if url}
        known = {(link.key, link.url): link for link in self._links}
        self._links = [known.get(at) or _Link(name, *at) for at, name in wanted.items()]
        if self._group is None:
            return
        for link in self._links:
            if link.task is None:
                link.task = self._group.create_task(self._attend(link))
        for at, link in known.items():
            if at not in wanted and link.task is not None:
                link.task.cancel()

    async def cosign(
        self, checkpoint: Checkpoint, note: Note, need: Sequence[Policy], wish: Sequence[Policy] = ()
    ) -> tuple[SignatureLine, ...]:
        """The cosignatures there are, by the witnesses' names, once the quorums of all of `need` hold.

        Later ones are dropped.

        Those of `wish` are waited for as well, and may be missing in the end.

        A witness that has seen more of this log than `checkpoint` counts for the quorum, and gives no line.

        Raises:
            Unavailable: every witness has answered, or `patience` is over, and there is no quorum.
        """
        self._attend_to((*need, *wish))
        current = self._round = _Round(checkpoint, note, need, wish, {link.key for link in self._links})
        for link in self._links:
            link.news.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await current.settled.wait()
        if not current.holds(need):
            raise Unavailable(
                f"no quorum, nothing published: {len(current.lines)} of {len(self._links)} witnesses cosigned",
                hint="submit the same entry again once the witnesses are back",
            )
        return tuple(line for _, line in sorted(current.lines.items(), key=lambda item: item[0].name))

    def troubles(self) -> dict[str, str]:
        """What is wrong with each witness; empty text where nothing is."""
        return {link.name: link.trouble for link in self._links}

    async def run(self) -> None:
        """Attend to the witnesses until cancelled.

        Raises (in an exception group):
            Refused(ROLLBACK): a witness holds our signature on a tree that is not ours.
        """
        async with wire().caller(self._patience) as self._caller, asyncio.TaskGroup() as group:
            self._group = group
            for link in self._links:
                link.task = group.create_task(self._attend(link))

    async def _attend(self, link: _Link) -> None:
        """Bring the newest signed checkpoint to one witness, whenever there is a new one."""
        while True:
            await link.news.wait()
            link.news.clear()
            current = self._round
            assert current is not None
            try:
                async with asyncio.timeout(self._patience):
                    await self._ask(link, current)
                link.trouble = ""
            except (httpx.HTTPError, OSError) as e:
                link.trouble = f"{type(e).__name__}: {e}"
            except (Malformed, Unavailable) as e:
                link.trouble = str(e)
            current.waiting.discard(link.key)
            if not current.waiting or current.holds((*current.need, *current.wish)):
                current.settled.set()
            if link.trouble:  # one that babbles must not cost all of our time
                await asyncio.sleep(_REST)

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
            proof = consistency_proof(link.size, size, self._store.read)
            head = b"".join([b"old %d\n" % link.size, *(b64encode(h).encode() + b"\n" for h in proof)])
            status, body = await self._call("POST", f"{link.url}/add-checkpoint", head + b"\n" + current.note.encode())
            if status == 200:
                current.lines[link.key] = self._cosignature(link, current.note, body)
                link.size = size
                return
            if status != 409:
                break
            known = decimal(body.removesuffix(b"\n"))
            if known > self._store.size:
                break
            if known > size:
                await self._check_history(link)
                current.ahead.add(link.key)
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
        log_id = sha256(self._store.origin.encode()).hex()
        status, body = await self._call("GET", f"{link.url}/{log_id}/checkpoint", b"")
        if status != 200:
            return
        note = parse_note(body)
        theirs = parse_checkpoint(note.text)
        try:
            verify_note(note, keyring([self._own]))
        except Refused as e:
            raise Malformed(f"the witness shows a checkpoint that we did not sign: {e}") from e
        if theirs.size > self._store.size or self._store.root(theirs.size) != theirs.root:
            raise Refused(
                Reason.ROLLBACK,
                f"the witness {link.name} has our signature on another tree, of {theirs.size} entries",
                hint="this log was restored from an older copy, or runs twice; bring back the newest copy",
            )

    async def _call(self, method: str, url: str, content: bytes) -> tuple[int, bytes]:
        return await self._caller.call(method, url, content, MAX_ANSWER)
