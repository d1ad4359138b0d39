"""The wire of the machine itself: HTTP. `brakeline.node.peers` says what it promises, to which it is held here."""

import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpcore
import httpx

from brakeline.core.errors import Malformed

UNTIL: ContextVar[float] = ContextVar("until", default=float("inf"))
"""When whatever is asked in this context must have ended, on the monotonic clock."""


_HEADS: Final = 32768  # bytes of an answer that are not its body
_RAW: ContextVar[list[int]] = ContextVar("raw")  # bytes that may still come


def _left(timeout: float | None) -> float:
    left = UNTIL.get() - time.monotonic()
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


class _AsyncStream(httpcore.AsyncNetworkStream):
    """A connection on which an answer is no longer than is asked for, whatever it is cut into or preceded by."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        budget = _RAW.get()
        budget[0] -= len(data)
        if budget[0] < 0:
            raise httpcore.ReadError("an answer that does not end")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, inner: httpcore.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _no_cookies() -> CookieJar:
    """Nothing that one peer sends may reach another, or fill our memory."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


class HttpWire:
    """`peers.Wire` over httpx."""

    @staticmethod
    def client(base_url: str) -> httpx.Client:
        client = httpx.Client(headers={"accept-encoding": "identity"}, cookies=_no_cookies(), base_url=base_url)
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                # httpx bounds each read alone: headers that drip would hold a request for a day.
                pool: Any = transport._pool
                pool._network_backend = _Backend(pool._network_backend)
        return client

    @staticmethod
    def ask(
        client: httpx.Client, method: str, url: str, limit: int, *, seconds: float, content: bytes | None
    ) -> httpx.Response:
        with client.stream(method, url, content=content, timeout=seconds) as response:
            _check_plain(response)
            data = bytearray()
            for chunk in response.iter_bytes():
                _take(data, chunk, limit)
                if time.monotonic() > UNTIL.get():
                    raise httpx.ReadTimeout("the peer is too slow")
        return httpx.Response(response.status_code, content=bytes(data))

    @staticmethod
    @asynccontextmanager
    async def caller(seconds: float) -> AsyncIterator["HttpCaller"]:
        async with httpx.AsyncClient(
            headers={"accept-encoding": "identity"}, cookies=_no_cookies(), timeout=seconds, trust_env=False
        ) as client:
            pool: Any = client._transport._pool  # type: ignore[attr-defined]
            pool._network_backend = _AsyncBackend(pool._network_backend)
            yield HttpCaller(client)


class HttpCaller:
    """`peers.Caller` over httpx."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def call(self, method: str, url: str, content: bytes, limit: int) -> tuple[int, bytes]:
        _RAW.set([limit + _HEADS])
        async with self._client.stream(method, url, content=content) as response:
            _check_plain(response)
            data = bytearray()
            async for chunk in response.aiter_raw():
                _take(data, chunk, limit)
            return response.status_code, bytes(data)


def _check_plain(response: httpx.Response) -> None:
    # A peer must not be able to fill our memory with a small compressed answer.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Malformed("a compressed answer was not asked for")


def _take(data: bytearray, chunk: bytes, limit: int) -> None:
    data += chunk
    if len(data) > limit:
        raise Malformed(f"answer over {limit} bytes")
