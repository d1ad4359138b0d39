"""What was measured beside the evidence, on the machine of whoever writes the page; no bundle proves it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopTime:
    """How a run met the order to stop: its last step, and what it still did after the order was published."""

    run: str
    lab: str
    step: int
    milliseconds_after_quorum: float
    steps_after_quorum: int
    flop_after_quorum: int


@dataclass(frozen=True, slots=True)
class ReportTimes:
    """`quorum_at` is the wall time (POSIX s) at which the trip's checkpoint was published, None where nobody looked.

    `shadow_equal` says whether the honest run, trained again without interruption, ended in the same state; None when
    nobody tried.
    """

    quorum_at: float | None = None
    stops: tuple[StopTime, ...] = ()
    shadow_equal: bool | None = None
