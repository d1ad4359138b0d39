"""Requests to peers: each ends by a deadline, however slowly the peer drips, and each answer has a bound."""

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from brakeline.core.errors import Malformed

_NOW = threading.local()  # `until`: when whatever this thread asks must have ended, on the monotonic clock


def _until() -> float:
    until: float = getattr(_NOW, "until", float("inf"))
    return until


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """All that this thread asks of peers meanwhile ends by then, together. The earlier of two such bounds holds."""
    before = _until()
    _NOW.until = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _NOW.until = before


def _left(timeout: float | None) -> float:
    left = _until() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the peer is too slow")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection whose every read and write ends with what its thread asks."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(_left(seconds))


def http_client(**options: Any) -> httpx.Client:
    """A client for `ask`."""
    client = httpx.Client(headers={"accept-encoding": "identity"}, **options)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            # httpx bounds each read alone: headers that drip would hold a request for a day.
            pool: Any = transport._pool
            pool._network_backend = _Backend(pool._network_backend)
    return client


def ask(
    client: httpx.Client, method: str, url: str, limit: int, *, seconds: float, content: bytes | None = None
) -> httpx.Response:
    """A request and its answer, all of it within `seconds`, at most `limit` bytes of it ever held. Raises as httpx.

    Raises:
        Malformed: the answer is longer, or is compressed.
    """
    with within(seconds), client.stream(method, url, content=content, timeout=seconds) as response:
        # A peer must not be able to fill our memory with a small compressed answer.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Malformed("a compressed answer was not asked for")
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > limit:
                raise Malformed(f"answer over {limit} bytes")
            if time.monotonic() > _until():
                raise httpx.ReadTimeout("the peer is too slow")
    return httpx.Response(response.status_code, content=bytes(data))
