"""Sentences about what happened. They are for people: no code reads one back."""

from brakeline.core.state.events import ByFinding, ByReadings, ByVotes, Cause
from brakeline.core.state.runs import Bar


def cause(of: Cause | None) -> str:
    """Why the brake tripped."""
    match of:
        case ByVotes(parties):
            return f"votes of {', '.join(parties)}"
        case ByReadings(gauges):
            return f"readings: {', '.join(gauges)}"
        case ByFinding(run, fault, segment):
            return f"upheld finding on run {run[:16]}…: {place(fault, segment)}"
        case None:
            return ""


def place(fault: str, segment: tuple[int, int]) -> str:
    """A fault and where it is."""
    return f"{fault} at steps {segment[0]}-{segment[1]}" if segment != (0, 0) else f"{fault} in the whole transcript"


def bar(of: Bar | None) -> str:
    """Why a run is barred; empty where it is not."""
    return place(of.fault, of.segment) if of else ""
