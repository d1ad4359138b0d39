"""A permit signer: follows the log by itself, and signs what `grant.check_request` lets pass."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import parse
from brakeline.core.errors import BrakelineError, Reason, Refused
from brakeline.core.grant import check_request, check_votes, held_vote, stands_still, unlogged
from brakeline.core.keys import PrivateKey
from brakeline.core.kinds import lane_of
from brakeline.core.permit import KIND, Permit, check_shape
from brakeline.core.snapshot import Snapshot
from brakeline.core.state import State
from brakeline.core.statement import MAX_BYTES, sign
from brakeline.node import ports
from brakeline.node.client import Follower
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.node.granted import Granted
from brakeline.node.http import HANDLERS, read_body
from brakeline.node.metrics import Health, Measure
from brakeline.node.metrics import routes as routes_of
from brakeline.node.outbox import Outbox
from brakeline.node.ports import Event
from brakeline.node.speech import alone
from brakeline.node.trouble import PASSING, Trouble

R = TypeVar("R")
_LIMIT: Final = 4096
_CATCH_UP: Final = 1.0  # s to wait for a checkpoint that the asker has seen and this signer has not
_AHEAD: Final = 4096  # entries that an asker may have seen and this signer has not
_WAITING: Final = 8  # askers that may wait at a time
_REFOLD_AGAIN: Final = 60.0  # s until a refold that the log did not serve is tried again
_THREADS: Final = 16  # that answer at a time: for permits, and as many for votes


class Signer:
    """Checks and signs permit requests on its own view of the log, and on the votes that it was shown."""

    def __init__(
        self,
        follower: Follower,
        key: Callable[[State], PrivateKey | None],
        clock: Callable[[], float],
        votes: Path,
        granted: Granted,
    ) -> None:
        """`key` gives the key with which this signer signs at a state, if it has one in force.

        `votes` is the file in which votes that the log may not show yet outlive a restart, `granted` what was signed.
        """
        self._follower = follower
        self._key = key
        self._clock = clock
        self._votes = votes
        self._granted = granted
        self._holding = ports.clock().lock()
        self._held: dict[tuple[str, int], int] = {}  # party and epoch → when the vote expires, POSIX s
        self._kept: dict[tuple[str, int], bytes] = {}  # the same votes
        self._written = self._kept  # as they are on the disk
        self._opened = False
        self._signed = 0  # permits
        self._waiting = 0  # askers; counted under the follower's lock

    def hold(self, envelope: bytes) -> None:
        """Take a vote to trip from whoever brings it. Treaty 4.7.

        Raises:
            Malformed, Refused: see `held_vote`.
        """
        self._check_view()
        with self._holding:
            self._open()
            self._take(envelope)
            # One that a full disk did not take counts, and is not said to be held: it is shown again.
            if self._kept is not self._written:
                # Written anew each time: one a party and epoch, so that nobody fills a signer's disk with votes.
                kept = self._kept
                write_atomic(self._votes, b"".join(b"%s\n" % vote for vote in kept.values()))
                self._written = kept

    def unlogged(self) -> list[bytes]:
        """Votes that it holds and the log does not count."""
        with self._follower.lock, self._holding:
            return [self._kept[key] for key in unlogged(self._follower.state, self._held) if key in self._kept]

    def _check_view(self) -> None:
        if self._follower.cosigned is None:
            raise Refused(Reason.STALE, "this signer has not seen the log yet (Treaty 6.4)", later=True)

    def _open(self) -> None:
        """Read the votes held before a restart, once the log's epoch is known: by an older one all were refused."""
        if self._opened:
            return
        with disk_errors():
            lines = self._votes.read_bytes().split(b"\n") if self._votes.exists() else ()
        for line in lines:
            with suppress(BrakelineError):  # expired since, of an epoch that is over, or torn by a crash
                self._take(line)
        self._opened, self._written = True, self._kept

    def _heed_keys(self, state: State) -> None:
        """Let go of votes by a key that was revoked: a thief's vote is nobody's (Treaty 12.2). A change of keys alone
        takes back no vote that may still be on its way."""
        mute = {party for party, _ in self._held if not state.keyring.of[party].statement.key}
        if mute:
            self._held = {k: v for k, v in self._held.items() if k[0] not in mute}
            self._kept = {k: v for k, v in self._kept.items() if k[0] not in mute}

    def _take(self, envelope: bytes) -> None:
        state = self._follower.state
        party, vote, expires = held_vote(state, envelope)
        # One a party and epoch, so that nobody fills a signer with votes.
        key = party, vote.epoch
        if expires > self._held.get(key, 0):
            self._kept = {k: v for k, v in self._kept.items() if k[1] >= state.epoch} | {key: envelope}
            self._held = {k: self._held.get(k, expires) for k in self._kept} | {key: expires}

    def sign(self, payload: bytes) -> bytes:
        """A DSSE envelope with this signer's one signature over exactly `payload`.

        Raises:
            Malformed: not a canonical permit. Refused: by the rule cited.
        """
        permit = parse(payload, Permit)
        self._catch_up(permit)
        with self._follower.lock:
            state, now = self._follower.state, int(self._clock())
            self._check_view()
            if self._follower.doubted:
                raise Refused(Reason.TAMPERED, "this signer's own state is not what the log gives (Treaty 6.6)")
            check_request(permit, state, view_time=self._follower.time, now=now)
            with self._holding:
                self._open()
                self._heed_keys(state)
                check_votes(state, self._held, now)
                key = self._key(state)
                if key is None:
                    raise Refused(Reason.RETIRED_KEY, "this signer has no key for permits in force (Treaty 5.2, 12.1)")
                # Under all locks: no trip and no closing can slip in between the check and the signature.
                with self._granted.signing(state.chain.log.key.name, permit.epoch):
                    self._signed += 1
                    return sign(KIND, permit, key)

    def health(self) -> Health:
        """How old its view of the log is, and what it shows."""
        with self._follower.lock:
            state, seen = self._follower.state, self._follower.time
        age, now = self._clock() - seen, int(self._clock())
        if not seen:
            trouble = "it has not seen the log yet"
        elif self._follower.doubted:
            trouble = "its own state is not what the log gives"
        else:
            trouble = f"its view of the log is {age:.0f} s old" if stands_still(state, view_time=seen, now=now) else ""
        try:
            self._key(state)
        except BrakelineError as e:
            trouble = f"its key cannot be used: {e}"
        return Health(
            trouble,
            (
                Measure("brakeline_signer_view_age_seconds", "Since its newest checkpoint was cosigned.", age),
                Measure("brakeline_signer_entries", "Entries that it has folded.", state.size),
                Measure("brakeline_signer_epoch", "The brake's epoch in its view.", state.epoch),
                Measure("brakeline_signer_braked", "1 unless the brake is off in its view.", state.phase != "clear"),
                Measure("brakeline_signer_held_votes", "Votes to trip that it was shown.", len(self._held)),
                Measure("brakeline_signer_permits", "Permits signed since it was started.", self._signed),
            ),
            {"phase": str(state.phase)},
        )

    def _catch_up(self, permit: Permit) -> None:
        """Wait a moment for what an asker in earnest has seen. Anybody may ask, so few wait, and none for nothing."""
        follower = self._follower
        check_shape(permit, follower.treaty)
        state = follower.state
        if permit.size <= state.size:
            return
        known = permit.run in state.runs.by_id and permit.size <= state.size + _AHEAD
        with follower.lock:
            if not known or self._waiting >= _WAITING:
                raise Refused(Reason.STALE, f"I have seen {state.size} entries, not {permit.size}", later=True)
            self._waiting += 1
            try:
                follower.lock.wait_for(lambda: follower.state.size >= permit.size, timeout=_CATCH_UP)
            finally:
                self._waiting -= 1


class Stater:
    """Logs what this permit signer says of the state, and folds the log anew on a schedule to check it. Treaty 6.6.

    Votes to trip that it was shown, and the log does not count, it brings there too: what they say is then for all to
    see, or that their number was spent on something else.
    """

    def __init__(
        self,
        follower: Follower,
        outbox: Callable[[State], Outbox],
        add: Callable[[bytes], int],
        show: Callable[[bytes], None],
        every: float,
        tell: Callable[[str], None],
    ) -> None:
        """`outbox` gives the one that speaks at a state; `add` brings an envelope to the log, `show`
        another party's; `every` seconds the whole
        log is folded anew."""
        self._follower, self._outbox, self._add, self._show = follower, outbox, add, show
        self._every, self._tell = every, tell

    def run(self, stop: Event, votes: Callable[[], list[bytes]]) -> None:
        """Until `stop` is set. Trouble is told and tried again. `votes` gives those that the log does not count."""
        brought: set[bytes] = set()
        told, due = 0, ports.clock().monotonic() + self._every
        trouble = Trouble(lambda e: self._tell(f"waiting: {e}"))
        while not stop.wait(1.0):
            try:
                if ports.clock().monotonic() >= due:
                    due = ports.clock().monotonic() + min(self._every, _REFOLD_AGAIN)  # where the log is away, or lies
                    self._follower.trail()
                    due = ports.clock().monotonic() + self._every
                if self._follower.cosigned is None or self._follower.doubted:
                    continue
                stated = self._follower.stated
                state = self._follower.state
                outbox = self._outbox(state)
                logged = partial(alone, state, outbox)
                if stated is not None and stated[0] > told:
                    size, root, digest = stated
                    rules = state.treaty.rules
                    body = Snapshot(rules=rules, size=size, root=root, state=digest)
                    outbox.write("snapshot", body, after=logged(lane_of("snapshot", rules)).seq)
                    told = size
                outbox.flush(self._add, logged)
                for vote in votes():
                    if vote not in brought:
                        with suppress(Refused):  # by a rule that holds tomorrow too
                            self._show(vote)
                        brought.add(vote)
                for void in outbox.review(self._follower.effect, state.size, logged):
                    self._tell(f"what was kept, entry {void.entry}, has no effect: {void.text}")
                trouble.over()
            except PASSING as e:
                trouble.met(e)
                if self._follower.doubted:  # what is not what the log gives is stated to nobody
                    return


async def _in(pool: ThreadPoolExecutor, work: Callable[..., R], *args: object) -> R:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


def app(signer: Signer, reopening: Callable[[], bytes | None] = lambda: None) -> Starlette:
    """POST /permit: canonical permit payload in, envelope with one signature out. POST /vote: an envelope to hold.

    GET /reopening: where the log has gone on, for those who do not find it any more; `reopening` gives the envelope.
    """
    permits, votes = ThreadPoolExecutor(_THREADS), ThreadPoolExecutor(_THREADS)  # who asks in vain keeps no vote out

    async def permit(request: Request) -> Response:
        payload = await read_body(request, _LIMIT)
        return Response(await _in(permits, signer.sign, payload), media_type="application/json")

    async def vote(request: Request) -> Response:
        await _in(votes, signer.hold, await read_body(request, MAX_BYTES))
        return Response(status_code=204)

    async def moved(_: Request) -> Response:
        data = await _in(votes, reopening)
        return Response(data or b"", 404 if data is None else 200, media_type="application/json")

    routes = [
        Route("/permit", permit, methods=["POST"]),
        Route("/vote", vote, methods=["POST"]),
        Route("/reopening", moved),
        *routes_of(signer.health),
    ]
    return Starlette(routes=routes, exception_handlers=HANDLERS)


@contextmanager
def serving(
    follower: Follower,
    key: Callable[[State], PrivateKey | None],
    votes: Path,
    granted: Granted,
    stater: Stater,
    *,
    on_trouble: Callable[[Exception], None] = lambda _: None,
    reopening: Callable[[], bytes | None] = lambda: None,
) -> Iterator[Starlette]:
    """What a permit signer serves, while its threads follow the log."""
    stop = ports.clock().event()
    ports.clock().start("brakeline-follow", lambda: follower.follow(stop, on_trouble))
    signer = Signer(follower, key, ports.clock().wall, votes, granted)
    ports.clock().start("brakeline-state", lambda: stater.run(stop, signer.unlogged))
    try:
        yield app(signer, reopening)
    finally:
        stop.set()
