"""A permit signer: follows the log by itself, and signs what `grant.check_request` lets pass."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.brake import Vote
from brakeline.core.encoding import parse
from brakeline.core.errors import Reason, Refused
from brakeline.core.grant import check_request
from brakeline.core.keys import PrivateKey
from brakeline.core.permit import KIND, Permit
from brakeline.core.statement import MAX_BYTES, Statement, open_envelope, sign
from brakeline.node.client import Follower
from brakeline.node.http import HANDLERS, read_body, run

_LIMIT: Final = 4096
_CATCH_UP: Final = 1.0  # s to wait for a checkpoint that the asker has seen and this signer has not


class Signer:
    """Checks and signs permit requests on its own view of the log, and on the votes that it was shown."""

    def __init__(self, follower: Follower, key: PrivateKey, clock: Callable[[], float], votes: Path) -> None:
        """`votes` is the file in which votes that the log may not show yet outlive a restart."""
        self._follower = follower
        self._key = key
        self._clock = clock
        self._votes = votes
        self._held: dict[tuple[str, int], tuple[Statement, Vote]] = {}
        for line in votes.read_bytes().split(b"\n")[:-1] if votes.exists() else ():
            with suppress(Refused):  # expired since, or in the log by now
                self._take(line)

    def hold(self, envelope: bytes) -> None:
        """Take a vote to trip from whoever brings it. Treaty 4.7.

        Raises:
            Malformed, Refused: as the log would refuse it; or it is no vote to trip.
        """
        with self._follower.lock:
            if self._take(envelope):
                with self._votes.open("ab") as f:
                    f.write(envelope + b"\n")
                    f.flush()
                    os.fsync(f.fileno())

    def _take(self, envelope: bytes) -> bool:
        if open_envelope(envelope).kind != "vote":
            raise Refused(Reason.FOREIGN, "a permit signer holds votes to trip, nothing else")
        try:
            statement = self._follower.fold.authenticate(envelope)
        except Refused as e:
            if e.reason is Reason.DUPLICATE:  # the log has it: it counts there
                return False
            raise
        vote = statement.body_as(Vote)
        if vote.motion != "trip":
            raise Refused(Reason.FOREIGN, "a permit signer holds votes to trip, nothing else")
        new = (statement.issuer, statement.seq) not in self._held
        self._held[(statement.issuer, statement.seq)] = (statement, vote)
        return new

    def _check_votes(self) -> None:
        """Treaty 4.7: with f+1 votes in hand no permit is signed, even if the log's keeper hides some of them."""
        fold, now = self._follower.fold, int(self._clock())
        hidden = {
            s.issuer
            for s, vote in self._held.values()
            if vote.epoch == fold.brake.epoch and now < s.expires and not fold.seen(s.issuer, s.seq)
        }
        voters = (hidden & fold.bound().active) | fold.voters("trip")
        if hidden and len(voters) >= fold.treaty.trip:
            raise Refused(Reason.PAUSED, f"votes to trip of {', '.join(sorted(voters))} were shown to me (Treaty 4.7)")

    def sign(self, payload: bytes) -> bytes:
        """A DSSE envelope with this signer's one signature over exactly `payload`.

        Raises:
            Malformed: not a canonical permit. Refused: by the rule cited.
        """
        permit = parse(payload, Permit)
        with self._follower.lock:
            self._follower.lock.wait_for(lambda: self._follower.fold.size >= permit.size, timeout=_CATCH_UP)
            if self._follower.cosigned is None:
                raise Refused(Reason.STALE, "this signer has not seen the log yet (Treaty 6.4)")
            check_request(permit, self._follower.fold, view_time=self._follower.time, now=int(self._clock()))
            self._check_votes()
            # Under the lock: no trip can slip in between the check and the signature.
            return sign(KIND, permit, self._key)


def app(signer: Signer) -> Starlette:
    """POST /permit: canonical permit payload in, envelope with one signature out. POST /vote: an envelope to hold."""

    async def permit(request: Request) -> Response:
        payload = await read_body(request, _LIMIT)
        return Response(await run_in_threadpool(signer.sign, payload), media_type="application/json")

    async def vote(request: Request) -> Response:
        await run_in_threadpool(signer.hold, await read_body(request, MAX_BYTES))
        return Response(status_code=204)

    routes = [Route("/permit", permit, methods=["POST"]), Route("/vote", vote, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers=HANDLERS)


def serve(
    follower: Follower,
    key: PrivateKey,
    votes: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = time.time,
    on_trouble: Callable[[Exception], None] = lambda _: None,
) -> None:
    """Run a permit signer until it is stopped. Raises as `http.run`."""
    stop = threading.Event()
    thread = threading.Thread(target=follower.follow, args=(stop, on_trouble), daemon=True)
    thread.start()
    try:
        run(app(Signer(follower, key, clock, votes)), host, port)
    finally:
        stop.set()
