"""Figures as people read them: times, durations, and names that fit."""

from datetime import UTC, datetime


def duration(milliseconds: float) -> str:
    """`312 ms`, `1.8 s`, `4 min`, `3.0 h`, `12 d`."""
    steps = ((1, "ms", 999.5, 0), (1e3, "s", 9.95e3, 1), (1e3, "s", 120e3, 0), (60e3, "min", 7.2e6, 0))
    for factor, unit, below, digits in (*steps, (3.6e6, "h", 1.728e8, 1)):
        if abs(milliseconds) < below:
            return f"{milliseconds / factor:.{digits}f} {unit}"
    return f"{milliseconds / 86.4e6:,.0f} d"


def signed(seconds: float) -> str:
    """`+14 s`, as the chronicle counts; beyond two hours in hours or days."""
    return f"+{seconds:,.0f} s" if seconds < 7200 else f"+{duration(1000 * seconds)}"


def utc(time: float) -> str:
    """`2026-01-01 12:00:00`; a time that no calendar has stands as a number."""
    try:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time:.0f}"


def short(text: str, limit: int = 36) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
