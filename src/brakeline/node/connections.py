"""Connections that are bounded, in number and in time, so that whoever opens many and says nothing keeps nobody out.

A request arrives in full within `REQUEST` seconds, and of an answer something is taken every `ANSWER` seconds, or the
connection ends. When there are as many as this process can hold, the one that has kept it waiting longest gives way to
a newcomer. What is being answered is never cut off for another.

Requests are small and whole: a head of more than `HEAD` bytes, or a body in chunks, is refused before it is parsed, for
parsing costs its reader far more than its writer.
"""

import asyncio
import re
import resource
from collections.abc import MutableMapping
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST: Final = 10.0  # s for a request to arrive
ANSWER: Final = 30.0  # s in which at least `TAKEN` bytes of an answer are taken, or all that is left
TAKEN: Final = 16384
HEAD: Final = 16384
BACKLOG: Final = 256  # connections that are accepted at a stretch, before any of them is counted
_READ: Final = 65536  # bytes taken from a connection at a time
_RESERVED: Final = 256 + BACKLOG  # file descriptors for all that are no connections, or are not counted yet
_MOST: Final = 8192
_BLANK: Final = re.compile(rb"\n\r?\n")
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)


def capacity() -> int:
    """How many connections this process may hold, of the files that it may open: as many of these as it is let have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _RESERVED if hard == resource.RLIM_INFINITY else min(hard, _MOST + _RESERVED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _MOST + _RESERVED if soft == resource.RLIM_INFINITY else soft
    return max(16, min(_MOST, files - _RESERVED))


class _Requests(h11.Connection):
    """Whoever sends these knows how long they are before they are sent."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            data = self.trailing_data[0][:HEAD]
            end = _BLANK.search(data)
            if end is None and len(data) == HEAD:
                raise h11.RemoteProtocolError(f"a head of more than {HEAD} bytes")
            if end is not None and _CHUNKED.search(data, 0, end.end()):
                raise h11.RemoteProtocolError("a body in chunks")
        return super().next_event()


class Bounded(H11Protocol):
    """One connection."""

    limit: ClassVar[int] = _MOST
    idle: ClassVar[MutableMapping["Bounded", None]] = {}  # those that are not being answered, the longest so first
    _arrival: asyncio.TimerHandle | None = None  # until when the request must have arrived
    _taking: asyncio.TimerHandle | None = None  # until when the peer must have taken some of the answer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Requests(h11.SERVER, HEAD)

    def connection_made(self, transport: Any) -> None:
        transport.max_size = _READ
        super().connection_made(transport)
        self.idle[self] = None
        self._await_request()
        if len(self.connections) > self.limit:
            first = next(iter(self.idle))  # itself, where all others are being answered
            del self.idle[first]  # it ends with the loop's next turn, and others may come in this one
            first.transport.abort()

    @property
    def _is_arriving(self) -> bool:
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def handle_events(self) -> None:
        """Parse what has come, also when an answer that has gone out lets the next request be read."""
        super().handle_events()
        if self._is_arriving:
            self.idle.setdefault(self)
            if self._arrival is None:
                self._await_request()
        else:
            self._stop_arrival()
            if self._is_answering:
                self.idle.pop(self, None)
            else:
                self.idle.setdefault(self)
        self._watch_taking()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering:  # the next request may have come behind this one
            self.idle.setdefault(self)
        self._watch_taking()

    # Time

    def _await_request(self) -> None:
        self._arrival = self.loop.call_later(REQUEST, self.transport.abort)

    def _stop_arrival(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def _watch_taking(self) -> None:
        """While an answer waits to be taken: look again in a while, whether something was."""
        left = self.transport.get_write_buffer_size()
        if left and self._taking is None:
            self._taking = self.loop.call_later(ANSWER, self._check_taking, left)

    def _check_taking(self, before: int) -> None:
        self._taking = None
        if self.transport.get_write_buffer_size() > max(0, before - TAKEN):
            self.transport.abort()
        self._watch_taking()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_arrival()
        if self._taking is not None:
            self._taking.cancel()
        self.idle.pop(self, None)
        super().connection_lost(exc)


def bounded(limit: int) -> type[Bounded]:
    """The protocol of one server, which holds at most so many connections."""
    return type("Bounded", (Bounded,), {"limit": limit, "idle": {}})
