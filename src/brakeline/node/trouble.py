"""Trouble that is met again and again by a thread that goes on: told when it is new, not as often as it is met."""

from collections.abc import Callable
from typing import Final

from brakeline.core.errors import BrakelineError, Unavailable

PASSING: Final = (BrakelineError, OSError)  # what such a thread outlives: a machine may be out of files for a while


class Trouble:
    """What `tell` was told last, whatever numbers are in it: times and sizes go on."""

    def __init__(self, tell: Callable[[BrakelineError], None]) -> None:
        self._tell = tell
        self._told = ""

    def met(self, error: BrakelineError | OSError) -> None:
        what = error if isinstance(error, BrakelineError) else Unavailable(f"the machine fails: {error}")
        if what.gist != self._told:
            self._tell(what)
        self._told = what.gist

    def over(self) -> None:
        self._told = ""
