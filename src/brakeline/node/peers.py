"""Requests to peers: each ends by a deadline, however slowly the peer drips, and each answer has a bound."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from brakeline.core.errors import Unavailable
from brakeline.node.ports import clock
from brakeline.node.wire import UNTIL, HttpWire


class Answer(Protocol):
    """Of a peer: all of it."""

    @property
    def status_code(self) -> int: ...
    @property
    def content(self) -> bytes: ...
    @property
    def is_success(self) -> bool: ...


class Caller(Protocol):
    """Asks on an event loop."""

    async def call(self, method: str, url: str, content: bytes, limit: int) -> tuple[int, bytes]:
        """Status and body. Raises Malformed, httpx.HTTPError, OSError."""


class Wire(Protocol):
    """What carries requests to peers: a port, as those of `brakeline.node.ports`."""

    def client(self, base_url: str) -> Any: ...
    def ask(
        self, client: Any, method: str, url: str, limit: int, *, seconds: float, content: bytes | None
    ) -> Answer: ...
    def caller(self, seconds: float) -> AbstractAsyncContextManager[Caller]: ...


_HTTP = HttpWire()
_WIRE: ContextVar[Wire] = ContextVar("wire")


def wire() -> Wire:
    return _WIRE.get(_HTTP)


def set_wire_for_this_context(wire: Wire) -> None:
    """What runs in this context asks over this one from here on."""
    _WIRE.set(wire)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """All that this context asks of peers meanwhile ends by then, together. The earlier of two such bounds holds."""
    token = UNTIL.set(min(UNTIL.get(), clock().monotonic() + seconds))
    try:
        yield
    finally:
        UNTIL.reset(token)


def http_client(base_url: str = "") -> Any:
    """A client for `ask`, to be closed; a context manager, too.

    Raises:
        Unavailable: this process may open no more files.
    """
    try:
        return wire().client(base_url)
    except OSError as e:
        raise Unavailable(f"nobody can be asked from here: {e}", hint="has this process run out of files?") from e


def ask(client: Any, method: str, url: str, limit: int, *, seconds: float, content: bytes | None = None) -> Answer:
    """A request and its answer, all of it within `seconds`, at most `limit` bytes of it ever held.

    Raises:
        httpx.HTTPError, OSError: no answer, or not in time. Malformed: the answer is longer, or is compressed.
    """
    with within(seconds):
        return wire().ask(client, method, url, limit, seconds=seconds, content=content)
