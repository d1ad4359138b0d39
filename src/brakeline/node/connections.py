"""Connections that are bounded, in number and in time, so that whoever opens many and says nothing keeps nobody out.

A request arrives in full within `REQUEST` seconds, an answer is taken within `ANSWER`, or the connection ends. When
there are as many as this process can hold, the one that has kept it waiting longest gives way to a newcomer. What is
being answered is never cut off for another.
"""

import asyncio
import resource
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST: Final = 10.0  # s for a request to arrive
ANSWER: Final = 30.0  # s without a byte of an answer taken
_RESERVED: Final = 128  # file descriptors for all that are no connections
_MOST: Final = 8192


def capacity() -> int:
    """How many connections this process may hold, of the files that it may open: as many of these as it is let have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _RESERVED if hard == resource.RLIM_INFINITY else min(hard, _MOST + _RESERVED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _MOST + _RESERVED if soft == resource.RLIM_INFINITY else soft
    return max(16, min(_MOST, files - _RESERVED))


class Bounded(H11Protocol):
    """One connection."""

    limit = _MOST
    _timer: asyncio.TimerHandle | None = None  # until when the request must have arrived
    _stalled: asyncio.TimerHandle | None = None  # until when the peer must have taken some of the answer
    _since = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.limit:
            self._make_room()

    def _make_room(self) -> None:
        others = (c for c in self.connections if isinstance(c, Bounded) and c is not self)
        idle = [c for c in others if not c.is_answering and not c.transport.is_closing()]
        (min(idle, key=lambda c: c._since) if idle else self).transport.abort()

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived in full, and is being answered."""
        return self._timer is None and self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST, self.transport.abort)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._wait()
        super().data_received(data)
        arriving = self.conn.their_state is h11.SEND_BODY or (
            self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        )
        if not arriving:
            self._rest()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(ANSWER, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._move()

    def _move(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        self._move()
        super().connection_lost(exc)


def bounded(limit: int | None = None) -> type[Bounded]:
    """The protocol for a server of this process."""
    return type("Bounded", (Bounded,), {"limit": capacity() if limit is None else limit})
