"""One process on one host: its ports, its tasks, and how it dies."""

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from starlette.applications import Starlette

from brakeline.node import peers, ports
from brakeline.testing.disk import Connection, Dead, HostDisk
from brakeline.testing.loop import Condition, Event, block, fiber, in_fiber
from brakeline.testing.wire import Answer, Client, Network, caller

T = TypeVar("T")
R = TypeVar("R")
_HERE: contextvars.ContextVar["Process"] = contextvars.ContextVar("process")


def here() -> "Process":
    """The process that runs."""
    return _HERE.get()


class Host:
    """A machine: a clock that may be wrong, a disk, and the processes on it."""

    def __init__(self, name: str, root: Path, rng: Random, loop: asyncio.AbstractEventLoop, start: float) -> None:
        self.name, self.skew, self.start = name, 0.0, start
        self.loop = loop
        self.processes: dict[str, Process] = {}
        self.home = root / name
        self.power_fails = 0.0  # probability that it goes at an operation of the disk
        self.on_power_failure: Callable[[Host], None] = lambda _: None
        self._rng = rng
        self.disk = HostDisk(self.home, rng, self._point, _pause)

    def _point(self, what: str) -> None:
        if not here().alive:
            raise Dead(what)
        if self.power_fails and self._rng.random() < self.power_fails:
            self.on_power_failure(self)
            raise Dead(what)

    def wall(self) -> float:
        return self.start + self.loop.time() + self.skew

    def lose_power(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.disk.lose_power()


def _pause(seconds: float) -> None:
    if in_fiber():
        block(asyncio.sleep(seconds))


class Process:
    """It runs `main`, and is dead for good once it has been killed: what was started again is another one.

    `failed` is told what ended it, unless it was killed.
    """

    def __init__(self, host: Host, name: str, network: Network, failed: Callable[["Process", Exception], None]) -> None:
        self.host, self.name, self.network, self._failed = host, name, network, failed
        self.alive = True
        self.app: Starlette | None = None  # what it serves
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in order, unlike a set
        self._connections: list[Connection] = []
        self._locks: list[Path] = []
        self._context = contextvars.copy_context()
        self._context.run(self._enter)
        host.processes[name] = self
        network.serve(name, self)

    def _enter(self) -> None:
        _HERE.set(self)
        ports.set_for_this_context(ports.Ports(_Clock(self), _Disk(self), self.network.dice))
        peers.set_wire_for_this_context(_Wire(self))

    @property
    def host_name(self) -> str:
        return self.host.name

    async def exchange(self, method: str, url: str, body: bytes) -> Answer:
        """Ask a peer. Raises ConnectionError."""
        return await self.network.exchange(self, method, url, body)

    def spawn(self, work: Coroutine[Any, Any, T], *, quiet: bool = False) -> asyncio.Task[T]:
        """A task of this process. What it raises ends the process, or, where it is `quiet`, reaches whoever waits."""
        task = self.host.loop.create_task(work, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(partial(self._done, quiet))
        return task

    def _done(self, quiet: bool, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or (error := task.exception()) is None or quiet or not self.alive:
            return
        if isinstance(error, Exception):
            self._failed(self, error)

    def kill(self) -> None:
        """As SIGKILL: what was written stays in the page cache, what was not committed is gone."""
        if not self.alive:
            return
        self.alive, self.app = False, None
        for task in list(self._tasks):
            task.cancel()
        for connection in self._connections:
            with suppress(sqlite3.Error):
                connection.close()
        self.host.disk.let_go(self._locks)


class _Clock:
    """`ports.Clock` on the virtual loop."""

    def __init__(self, process: Process) -> None:
        self._process, self._loop = process, process.host.loop

    def wall(self) -> float:
        return self._process.host.wall()

    def monotonic(self) -> float:
        return self._loop.time()

    def boot_ns(self) -> int:
        return int(self._loop.time() * 1e9) + 10**12

    def sleep(self, seconds: float) -> None:
        block(asyncio.sleep(seconds))

    def lock(self) -> Condition:
        return Condition()

    def condition(self) -> Condition:
        return Condition()

    def event(self) -> Event:
        return Event()

    def start(self, name: str, work: Callable[[], object]) -> "_Thread":
        return _Thread(self._process.spawn(fiber(work)))

    def at_once(
        self, work: Callable[[T], R], items: Iterable[T], seconds: float | None = None
    ) -> Generator[R, None, None]:
        left = [self._process.spawn(fiber(work, item), quiet=True) for item in items]
        end = None if seconds is None else self._loop.time() + seconds
        while left:
            wait = None if end is None else max(0.0, end - self._loop.time())
            done, _ = block(asyncio.wait(left, timeout=wait, return_when=asyncio.FIRST_COMPLETED))
            if not done:
                return
            for task in [t for t in left if t in done]:  # in our order: `done` is a set
                left.remove(task)
                yield task.result()


class _Thread:
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def is_alive(self) -> bool:
        return not self._task.done()


class _Wire:
    """`peers.Wire` on the network of the world."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def client(self, base_url: str) -> Client:
        return Client(base_url)

    def ask(self, client: Client, method: str, url: str, limit: int, *, seconds: float, content: bytes | None) -> Any:
        return client.ask(self._process, method, url, limit, content or b"")

    def caller(self, seconds: float) -> Any:
        return caller(self._process)


class _Disk:
    """`ports.Disk` of the host, as this process uses it."""

    def __init__(self, process: Process) -> None:
        disk = process.host.disk
        self._process = process
        self.write, self.create, self.rename, self.sync, self.remove = (
            disk.write,
            disk.create,
            disk.rename,
            disk.sync,
            disk.remove,
        )

    def connect(self, path: Path) -> Connection:
        connection = self._process.host.disk.connect(path)
        self._process._connections.append(connection)
        return connection

    @contextmanager
    def lock(self, path: Path, seconds: float) -> Generator[None, None, None]:
        with self._process.host.disk.lock(path, seconds):
            self._process._locks.append(path)
            try:
                yield
            finally:
                if self._process.alive:  # if not, another one may hold it by now
                    self._process._locks.remove(path)
