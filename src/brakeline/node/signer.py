"""A permit signer: follows the log by itself, and signs what `grant.check_request` lets pass."""

import threading
import time
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.encoding import parse
from brakeline.core.errors import Reason, Refused
from brakeline.core.grant import check_request
from brakeline.core.keys import PrivateKey
from brakeline.core.permit import KIND, Permit
from brakeline.core.statement import sign
from brakeline.node.client import Follower
from brakeline.node.http import HANDLERS, read_body, run

_LIMIT: Final = 4096
_CATCH_UP: Final = 1.0  # s to wait for a checkpoint that the asker has seen and this signer has not


class Signer:
    """Checks and signs permit requests on its own view of the log."""

    def __init__(self, follower: Follower, key: PrivateKey, clock: Callable[[], float]) -> None:
        self._follower = follower
        self._key = key
        self._clock = clock

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
            # Under the lock: no trip can slip in between the check and the signature.
            return sign(KIND, permit, self._key)


def app(signer: Signer) -> Starlette:
    """POST /permit: canonical permit payload in, envelope with one signature out."""

    async def permit(request: Request) -> Response:
        payload = await read_body(request, _LIMIT)
        return Response(await run_in_threadpool(signer.sign, payload), media_type="application/json")

    return Starlette(routes=[Route("/permit", permit, methods=["POST"])], exception_handlers=HANDLERS)


def serve(
    follower: Follower,
    key: PrivateKey,
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
        run(app(Signer(follower, key, clock)), host, port)
    finally:
        stop.set()
