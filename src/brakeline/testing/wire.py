"""A network between hosts, on the virtual loop: it delays, cuts off, resets and delivers twice.

As TCP does, it loses nothing for ever: what a real network drops arrives late here, or the connection is reset. Bytes
go from ASGI application to ASGI application; sockets, headers and slow clients are for tests with real servers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from brakeline.core.errors import Malformed
from brakeline.node.wire import UNTIL
from brakeline.testing.loop import block


class Process(Protocol):
    """As much of a process as the network knows: it asks, and it serves."""

    name: str
    alive: bool
    app: Any

    @property
    def host_name(self) -> str: ...
    def exchange(self, method: str, url: str, body: bytes) -> Awaitable["Answer"]: ...
    def spawn(self, work: Coroutine[Any, Any, Any], *, quiet: bool = False) -> asyncio.Task[Any]: ...


class Answer(NamedTuple):
    status_code: int
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300


class Request(NamedTuple):
    """As it reaches `service`, from the process `source`."""

    source: Process
    service: str
    method: str
    path: str
    query: bytes
    body: bytes


Tamper = Callable[[Request, Answer], Answer]
Emitted = Callable[[Request, Answer], None]


class Network:
    """Every process by its name, which is the host of its URL.

    `loss`, `tail` and `double` are probabilities: of a message that comes 0.2 to 3 s late or resets the connection, of
    one that comes 0.05 to 3 s late, of a request that is carried out twice.
    """

    def __init__(self, rng: Random, dice: Callable[[int], bytes]) -> None:
        self.loss = self.tail = self.double = 0.0
        self.requests = 0
        self.dice = dice
        self.cut: dict[tuple[str, str], float] = {}  # from host to host, until when
        self.tamper: list[Tamper] = []  # what a Byzantine server answers instead
        self.on_answer: list[Callable[[Request], float]] = []  # says how long it is to wait
        self.emitted: list[Emitted] = []  # what has left a process
        self._rng = rng
        self._services: dict[str, Process] = {}

    def serve(self, name: str, process: Process) -> None:
        self._services[name] = process

    def heal(self) -> None:
        self.cut.clear()
        self.loss = self.tail = self.double = 0.0

    async def _leg(self, a: str, b: str) -> None:
        if a == b:
            await asyncio.sleep(0.0001)
            return
        rng, now = self._rng, asyncio.get_running_loop().time()
        until = self.cut.get((a, b), 0.0)
        if until > now:  # TCP tries again until the cut is over, or gives up
            await asyncio.sleep(until - now + rng.uniform(0, until - now))
            if rng.random() < 0.3:
                raise ConnectionResetError("connection reset")
        elif self.loss and rng.random() < self.loss:
            await asyncio.sleep(rng.uniform(0.2, 3))
            if rng.random() < 0.3:
                raise ConnectionResetError("connection reset")
        late = self.tail and rng.random() < self.tail
        await asyncio.sleep(rng.uniform(0.05, 3.0) if late else rng.uniform(0.0002, 0.005))

    async def exchange(self, source: Process, method: str, url: str, body: bytes) -> Answer:
        """One request and its answer.

        Raises:
            ConnectionError: refused, or reset.
        """
        self.requests += 1
        parts = urlsplit(url)
        request = Request(source, parts.hostname or "", method, parts.path, parts.query.encode(), body)
        host = request.service.split(".")[1]
        await self._leg(source.host_name, host)
        server = self._services.get(request.service)
        if server is None or not server.alive or server.app is None:
            raise ConnectionRefusedError("connection refused")
        task = server.spawn(_asgi(server.app, request), quiet=True)
        if self.double and self._rng.random() < self.double:
            asyncio.get_running_loop().call_later(self._rng.random(), self._again, server, request)
        await asyncio.wait([task])
        if task.cancelled() or task.exception() is not None:
            raise ConnectionResetError("connection reset")
        answer: Answer = task.result()
        for tamper in self.tamper:
            answer = tamper(request, answer)
        for emitted in self.emitted:
            emitted(request, answer)
        for heed in self.on_answer:
            if wait := heed(request):
                await asyncio.sleep(wait)
        await self._leg(host, source.host_name)
        return answer

    @staticmethod
    def _again(server: Process, request: Request) -> None:
        if server.alive and server.app is not None:
            server.spawn(_asgi(server.app, request), quiet=True)


async def _asgi(app: Any, request: Request) -> Answer:
    """One request through an ASGI application."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": [(b"host", request.service.encode())],
        "client": (request.source.name, 1),
        "server": (request.service, 80),
        "state": {},
    }
    sent, status, out = False, 500, bytearray()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:  # nobody hangs up
            await asyncio.get_running_loop().create_future()
        sent = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            out.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Answer(status, bytes(out))


class Client:
    """What `peers.Wire.client` gives here."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def close(self) -> None: ...

    def ask(self, process: Process, method: str, url: str, limit: int, content: bytes) -> Answer:
        # Here, and not in the coroutine: that runs in the context of the task that carries this fiber.
        left = max(0.0, UNTIL.get() - asyncio.get_running_loop().time())

        async def bounded() -> Answer:
            async with asyncio.timeout(left):
                return await process.exchange(method, self._base + url, content)

        return _of_size(block(bounded()), limit)


def _of_size(answer: Answer, limit: int) -> Answer:
    if len(answer.content) > limit:
        raise Malformed(f"answer over {limit} bytes")
    return answer


@asynccontextmanager
async def caller(process: Process) -> AsyncIterator["Caller"]:
    yield Caller(process)


class Caller:
    """`peers.Caller` on the network of the world."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def call(self, method: str, url: str, content: bytes, limit: int) -> tuple[int, bytes]:
        answer = _of_size(await self._process.exchange(method, url, content), limit)
        return answer.status_code, answer.content
