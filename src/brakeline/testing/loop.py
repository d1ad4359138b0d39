"""An event loop whose clock is a number, and fibers: blocking code that waits on it, in one thread.

Code that blocks runs in a greenlet. Where it waits, it hands an awaitable to the task that carries it. So the node's
threads become tasks of one loop, which takes them in one order, the same for every run of a seed.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import greenlet

_ROUNDS: Final = 20_000  # of the loop, in which time must move on
_STEP: Final = 0.5  # s that it must have moved on by then


class Stuck(Exception):
    """Nothing is scheduled any more, or time stands still."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Time passes only while all wait, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now, self._mark, self.rounds = 0.0, -1.0, 0
        self._selector: Any = self
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """In place of a selector: nothing comes from outside, so time moves to what is scheduled next."""
        self.rounds += 1
        if timeout is None:
            raise Stuck("nothing is scheduled any more")
        self._now += timeout
        if self.rounds % _ROUNDS == 0:
            if self._now - self._mark < _STEP:
                raise Stuck(f"time stands still at {self._now:.3f} s")
            self._mark = self._now
        return []

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """No executor here has threads: a fiber does it."""
        return self.create_task(fiber(func, *args))


class _Fiber(greenlet.greenlet):  # type: ignore[misc]
    pass


async def fiber(work: Callable[..., Any], *args: Any) -> Any:
    """Run blocking code; what it waits for with `block` is awaited here."""
    g = _Fiber(work, greenlet.getcurrent())
    g.gr_context = contextvars.copy_context()
    got = g.switch(*args)
    while not g.dead:
        try:
            value = await got
        except BaseException as e:  # a cancellation, too: the code below must unwind
            got = g.throw(e)
        else:
            got = g.switch(value)
    return got


def in_fiber() -> bool:
    return isinstance(greenlet.getcurrent(), _Fiber)


def block(awaitable: Awaitable[Any]) -> Any:
    """Wait for it, in a fiber."""
    parent = greenlet.getcurrent().parent
    assert parent, "only a fiber may wait"
    return parent.switch(awaitable)


async def _until(waiters: deque[asyncio.Future[None]], timeout: float | None) -> None:
    future = asyncio.get_running_loop().create_future()
    waiters.append(future)
    try:
        async with asyncio.timeout(timeout):
            await future
    except TimeoutError:
        pass
    finally:
        if future in waiters:
            waiters.remove(future)


def _wake(waiters: deque[asyncio.Future[None]], count: int | None = None) -> None:
    for future in list(waiters)[:count]:
        if not future.done():
            future.set_result(None)


class Event:
    """`threading.Event` for fibers."""

    def __init__(self) -> None:
        self._flag, self._waiters = False, deque[asyncio.Future[None]]()

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True
        _wake(self._waiters)

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._flag:
            block(_until(self._waiters, timeout))
        return self._flag


class Condition:
    """`threading.Condition` for fibers, whose lock its holder may take again; also a lock."""

    def __init__(self) -> None:
        self._owner: greenlet.greenlet | None = None
        self._depth = 0
        self._waiters = deque[asyncio.Future[None]]()
        self._sleepers = deque[asyncio.Future[None]]()

    def __enter__(self) -> bool:
        me = greenlet.getcurrent()
        while self._owner not in (None, me):
            block(_until(self._waiters, None))
        self._owner, self._depth = me, self._depth + 1
        return True

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            _wake(self._waiters, 1)

    def wait(self, timeout: float | None = None) -> bool:
        depth, self._depth, self._owner = self._depth, 0, None
        _wake(self._waiters, 1)
        try:
            block(_until(self._sleepers, timeout))
        finally:
            try:
                self.__enter__()
            finally:  # also where the process dies meanwhile: whoever unwinds gives back what it took
                self._owner, self._depth = greenlet.getcurrent(), depth
        return True

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while not (found := predicate()):
            left = None if end is None else end - loop.time()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify_all(self) -> None:
        _wake(self._sleepers)


def run(loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> Any:
    """Run it to its end on the virtual loop."""
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
