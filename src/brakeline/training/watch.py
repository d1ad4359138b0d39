"""What a cell may use of the inspector's machine: memory, processes and time, of which the inspector's process keeps
the account. The lab's code would otherwise decide how long an audit lasts, and whether it ends.
"""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

_OFTEN: Final = 0.25  # s between two looks
_SHARE: Final = 4  # of the memory, what a state that is handed over may take, and the files of a cell


class Limits(NamedTuple):
    """`memory` in bytes, of all processes of a cell together; `seconds` for each answer; `processes` at a time."""

    memory: int
    seconds: float = 3600.0
    processes: int = 256

    @property
    def state(self) -> int:
        """Bytes that a state may have which a cell hands over, and all files together that it writes."""
        return self.memory // _SHARE


def of_this_machine(seconds: float = 3600.0) -> Limits:
    """Three quarters of the memory that is free here."""
    return Limits(psutil.virtual_memory().available * 3 // 4, seconds)


class Watch:
    """Looks at a process and all that came of it, as often as it is asked but not more than a few times a second."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid = pid
        self._limits = limits
        self._next, self._end = 0.0, math.inf

    def begin(self) -> None:
        """From now on the next answer is waited for."""
        self._end = time.monotonic() + self._limits.seconds

    def exceeded(self) -> str:
        """Which limit is exceeded, in words; "" for none."""
        now = time.monotonic()
        if now > self._end:
            return f"no answer within {self._limits.seconds:g} s"
        if now < self._next:
            return ""
        self._next = now + _OFTEN
        with suppress(psutil.Error):
            here = psutil.Process(self._pid)
            family = [here, *here.children(recursive=True)]
            if len(family) > self._limits.processes:
                return f"it started more than {self._limits.processes} processes"
            if (used := sum(map(_memory, family))) > self._limits.memory:
                return f"it took {used / 1e9:.1f} GB of memory, allowed were {self._limits.memory / 1e9:.1f}"
        return ""


def _memory(process: psutil.Process) -> int:
    """Bytes that are a process's own: what several share counts once, so that a fork costs nothing."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return 1024 * int(rollup.partition("\nPss:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        with suppress(psutil.Error):
            return int(process.memory_info().rss)
        return 0
