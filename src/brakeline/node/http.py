"""Errors on the wire, both ways, and the few habits every server here shares."""

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from brakeline.core.encoding import Wire, canonical, decimal, parse
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.node.connections import BACKLOG, bounded, capacity
from brakeline.node.peers import Answer

_PLAIN: Final[Mapping[str, type[BrakelineError]]] = {
    "malformed": Malformed,
    "misuse": Misuse,
    "unavailable": Unavailable,
}
_STATUS: Final[Mapping[str, int]] = {
    "malformed": 400,
    "misuse": 400,
    "unavailable": 503,
    Reason.FORGED: 403,
    Reason.UNKNOWN_ISSUER: 403,
    Reason.WRONG_ROLE: 403,
}
_REFUSED_STATUS: Final = 409
_SHOWN: Final = 500  # characters of a peer's text


class ErrorBody(Wire, frozen=True):
    """What a failed request answers. `reason` is a `Reason`, or the class in lower case where there is none.

    `later` says that the same request may be granted another time.
    """

    error: str
    reason: str
    hint: str
    later: bool


def _code(error: BrakelineError) -> str:
    if isinstance(error, Refused):
        return str(error.reason)
    return next(code for code, kind in _PLAIN.items() if isinstance(error, kind))


def error_response(error: BrakelineError) -> Response:
    """The one place where an error becomes a status and a body."""
    code = _code(error)
    # A message may quote what a peer sent; a lone surrogate in it must not turn a refusal into a crash.
    text, hint = (s.encode("utf-8", "backslashreplace").decode() for s in (str(error), error.hint))
    later = isinstance(error, Unavailable) or (isinstance(error, Refused) and error.later)
    body = canonical(ErrorBody(error=text, reason=code, hint=hint, later=later))
    return Response(body, _STATUS.get(code, _REFUSED_STATUS), media_type="application/json")


async def _handle(request: Request, error: Exception) -> Response:
    assert isinstance(error, BrakelineError)
    return error_response(error)


HANDLERS: Final[Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]]] = {BrakelineError: _handle}
"""`exception_handlers` for a Starlette app whose endpoints raise our errors."""


def raise_for(response: Answer) -> None:
    """The inverse of `error_response`, for clients. Returns on 2xx.

    Raises:
        Malformed, Refused, Unavailable: the error the server raised; its Misuse is Malformed, for no peer says what
            mistake a user made here. An answer that is not ours is Unavailable on 429 and 5xx, which pass, and
            Malformed otherwise.
    """
    if response.is_success:
        return
    try:
        body = parse(response.content, ErrorBody)
    except Malformed:
        what = f"HTTP {response.status_code} without an error of ours"
        if response.status_code == 429 or response.status_code >= 500:
            raise Unavailable(what) from None
        raise Malformed(what, hint="is the address that of a brakeline server?") from None
    error, hint = _plain(body.error), _plain(body.hint)
    if body.reason == "misuse":
        raise Malformed(error, hint=hint)
    if body.reason in _PLAIN:
        raise _PLAIN[body.reason](error, hint=hint)
    if body.reason in Reason.__members__.values():
        raise Refused(Reason(body.reason), error, hint=hint, later=body.later)
    raise Malformed(f"unknown reason {body.reason[:40]!r}: {error}", hint=hint)


def _plain(text: str) -> str:
    """A peer's text for a terminal: short, on one line, and no command to it."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_SHOWN])
    return shown + "…" * (len(text) > _SHOWN)


async def read_body(request: Request, limit: int) -> bytes:
    """The request body, at most `limit` bytes of it ever held.

    Raises:
        Malformed: the body is longer.
    """
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise Malformed(f"request body over {limit} bytes")
    except ClientDisconnect as e:  # nobody hears this; but it is no fault of ours
        raise Unavailable("the client has hung up") from e
    return bytes(data)


def query_number(request: Request, name: str, default: int, *, bound: int = 2**63 - 1) -> int:
    """The decimal query parameter `name`.

    Raises:
        Malformed: not a canonical decimal, above `bound`, or given twice.
    """
    values = request.query_params.getlist(name)
    if not values:
        return default
    if len(values) > 1:
        raise Malformed(f"{name} is given {len(values)} times")
    return decimal(values[0].encode(), bound=bound)


class _Troubles:
    """What goes wrong in a loop, but for files that have run out, which asyncio says with every connection: once."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif not self._told:
            self._told = True
            print("this process has run out of files: connections wait", file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """Says where it listens once it does, so that whoever started it need not guess or poll."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_Troubles())
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(f"listening on http://{host}:{port}", flush=True)


def run(app: ASGIApp, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. Port 0 picks a free one; the line printed says which.

    Raises:
        Unavailable: the address is taken, or is not this machine's.
    """
    with _listening(host, port) as listener:
        _Server(_config(app)).run([listener])


def _config(app: ASGIApp, servers: int = 1) -> uvicorn.Config:
    """Of one of so many servers of this process. What strangers send is no line in its log."""
    return uvicorn.Config(
        app,
        loop="asyncio",  # also where uvloop is installed, whose transports are not bounded
        http=bounded(capacity() // servers),
        ws="none",
        backlog=BACKLOG,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=2,
    )


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as e:
            raise Unavailable(f"cannot listen on {host}:{port}: {e.strerror}") from e
        yield listener


class Service(NamedTuple):
    """An application, and where it is to be served."""

    app: ASGIApp
    host: str
    port: int


class _Quiet(_Server):
    """One of several servers of a process: signals are not its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_together(services: Sequence[Callable[[], Service]]) -> None:
    """Make and serve these, one after another, in one process, until SIGINT or SIGTERM, or until one of them ends.

    Each is made in a thread while those before it serve already: it may ask them something.

    Raises:
        Unavailable: an address is taken. Whatever making one raises; the others have been stopped by then.
    """
    asyncio.run(_together(services))


async def _together(services: Sequence[Callable[[], Service]]) -> None:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    servers: list[tuple[_Quiet, asyncio.Task[None]]] = []
    with ExitStack() as listening:
        try:
            for make in services:
                app, host, port = await asyncio.to_thread(make)
                if over.is_set():
                    break
                server = _Quiet(_config(app, len(services)))
                listener = listening.enter_context(_listening(host, port))
                task = loop.create_task(server.serve(sockets=[listener]))
                task.add_done_callback(lambda _: over.set())
                servers.append((server, task))
            await over.wait()
        finally:
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*(task for _, task in servers))
