"""The brake: four phases, six events, one table.

            trip                stopped               lift                released
    clear ────────▶ tripped ────────────▶ paused ────────────▶ lifting ────────────▶ clear
                       ▲                     ▲   withheld         │ │
                       │                     └────────────────────┘ │
                       └────────────────────── trip ────────────────┘

    from everywhere: reopened ──▶ tripped

Rule 1: everything that moves the brake is an event in this table; whoever holds the log computes the same events.
Rule 2: a state is a value. `step` returns a new one or raises, so a refused event cannot half-apply.
Rule 3: the brake dominates (Treaty 4.6). At n=7, f=2 both 3 trip votes and 5 permit signatures can be had at once; the
permits then count for nothing, because a trip raises the epoch and a permit of an older epoch opens no gate.

What is not here: who may vote, when a vote is stale, when a run has stopped. That is `state.ballot`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from brakeline.core.encoding import Wire
from brakeline.core.errors import Misuse


class Phase(StrEnum):
    CLEAR = "clear"
    TRIPPED = "tripped"  # every run must stop
    PAUSED = "paused"  # every run has stopped, or its permits have lapsed
    LIFTING = "lifting"  # quorum and conditions are met; the delay runs


class Event(StrEnum):
    TRIP = "trip"  # Treaty 4.1-4.4
    STOPPED = "stopped"  # Treaty 4.5
    LIFT = "lift"  # Treaty 8.1, 8.2
    WITHHELD = "withheld"  # Treaty 8.3: a condition fails again during the delay
    RELEASED = "released"  # Treaty 8.3
    REOPENED = "reopened"  # Treaty 11.9: the log goes on under another keeper


class Vote(Wire, frozen=True):
    """Body of a `vote`. It counts in the epoch it names and in no other."""

    motion: Literal["trip", "lift"]
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class BrakeState:
    """`epoch` counts the trips so far; `since` is the quorum time (POSIX s) at which the phase began."""

    phase: Phase
    epoch: int
    since: int


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.CLEAR, Event.TRIP): Phase.TRIPPED,
    (Phase.TRIPPED, Event.STOPPED): Phase.PAUSED,
    (Phase.PAUSED, Event.LIFT): Phase.LIFTING,
    (Phase.LIFTING, Event.TRIP): Phase.TRIPPED,
    (Phase.LIFTING, Event.WITHHELD): Phase.PAUSED,
    (Phase.LIFTING, Event.RELEASED): Phase.CLEAR,
    **{(phase, Event.REOPENED): Phase.TRIPPED for phase in Phase},
}

START: Final = BrakeState(Phase.CLEAR, 0, 0)


def step(state: BrakeState, event: Event, *, now: int) -> BrakeState:
    """The next state.

    Raises:
        Misuse: the event has no place in this phase, or time runs backwards. The state given is unchanged.
    """
    phase = TRANSITIONS.get((state.phase, event))
    if phase is None:
        raise Misuse(f"{event} has no meaning while the brake is {state.phase}")
    if now < state.since:
        raise Misuse(f"time runs backwards: {now} < {state.since}")
    # Treaty 5.5: a trip raises the epoch, which voids every permit granted before it.
    epoch = state.epoch + (event in (Event.TRIP, Event.REOPENED))
    return replace(state, phase=phase, epoch=epoch, since=now)
