"""Run a command while it may run, and stop all of it when it may not."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from brakeline.cluster.guard import Guarded
from brakeline.cluster.supervise import NOTHING, StopReport
from brakeline.core.errors import Unavailable


class Exited(NamedTuple):
    """The command ended by itself. `code` is negative for a signal; `left` is what it left running."""

    code: int
    left: StopReport


class Survived(Unavailable):
    """Something went wrong, and not all of the command could be stopped after it."""


class Stopped(NamedTuple):
    """The command was stopped, or never started when the report counts no process."""

    report: StopReport


Outcome = Exited | Stopped


def run_under(
    cmd: Sequence[str],
    may_run: Callable[[], bool],
    *,
    poll: float = 0.1,
    grace: float = 10.0,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Run `cmd` while `may_run()`, asked every `poll` seconds, holds; stop all of it as soon as it does not.

    What the command leaves running when it exits is stopped too, as batch schedulers do. SIGINT, SIGTERM,
    SIGHUP and SIGQUIT are passed on to the command. Whatever `may_run` raises stops the command first: fail closed.
    It must answer promptly, for nothing is stopped while it thinks. When this process dies, a guard ends the command;
    while this process stands still, so does the command.

    Raises:
        Misuse, Unavailable: as `Guarded`. Survived.
    """
    if not may_run():
        return Stopped(NOTHING)
    with _caught(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT) as caught:
        job = Guarded(cmd, env=env, grace=grace)
        try:
            while (code := job.wait(poll)) is None:
                if not may_run():
                    return Stopped(job.stop(grace))
                job.keep()
                while caught:
                    job.signal(caught.pop(0))
            return Exited(code, job.stop(grace))
        except BaseException as e:
            if survivors := job.stop(grace).survivors:
                raise Survived(f"still running, whatever was tried: pids {', '.join(map(str, survivors))}") from e
            raise


@contextmanager
def _caught(*numbers: signal.Signals) -> Iterator[list[int]]:
    """Collect these signals in a list. Only the main thread can; elsewhere they keep their meaning."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)

    # Under nohup a terminal that closes is to change nothing.
    deaf = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    former = {number: signal.signal(number, note) for number in numbers if number not in deaf}
    try:
        yield caught
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
