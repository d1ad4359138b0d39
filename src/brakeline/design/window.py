"""For which values of one parameter compliance stays stable: inspections, permit lifetimes, residuals, and others."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from brakeline.design.model import Array, Mask, stable
from brakeline.design.parameters import PARAMETERS
from brakeline.design.scenario import Scenario, build

Interval = tuple[float, float]
POINTS: Final = 240


def grid(low: float, high: float) -> Array:
    """Even steps, and even ratios down to a ten-thousandth of the range: windows may be narrow near zero."""
    start = max(low, (high - low) * 1e-4)
    return np.unique(np.concatenate([np.linspace(low, high, POINTS), np.geomspace(start, high, POINTS)]))


def intervals(holds: Callable[[Array], Mask], points: Array) -> tuple[Interval, ...]:
    """Where `holds` is true between the first and the last of `points`, its ends narrowed down to a 10^-9 of a cell."""
    ok = holds(points)
    edges = np.flatnonzero(np.diff(ok.astype(int)))
    turns = [_narrow(holds, points[i], points[i + 1], bool(ok[i])) for i in edges]
    if ok[0]:
        turns.insert(0, float(points[0]))
    if ok[-1]:
        turns.append(float(points[-1]))
    return tuple(zip(turns[::2], turns[1::2], strict=True))


def _narrow(holds: Callable[[Array], Mask], a: float, b: float, first: bool) -> float:
    """The end, on the side where `holds` is true, of a cell in which it changes."""
    for _ in range(5):
        cell = np.linspace(a, b, 65)
        change = int(np.argmax(holds(cell) != first))
        a, b = float(cell[change - 1]), float(cell[change])
    return a if first else b


def stable_where(
    s: Scenario, name: str, breakout: str, changes: Mapping[str, Array] | None = None, low: float | None = None
) -> tuple[Interval, ...]:
    """The values of a parameter, in its allowed range, for which compliance is stable, all others as they are."""
    p = PARAMETERS[name]

    def holds(points: Array) -> Mask:
        ok = stable(build(s, {**(changes or {}), name: points[:, None]}), breakout)
        return np.broadcast_to(ok, points.shape)

    if p.whole:
        counts = np.arange(p.low, min(p.high, 64) + 1)
        found = [(float(c), float(c)) for c, ok in zip(counts, holds(counts), strict=True) if ok]
        return _joined(found)
    return intervals(holds, grid(p.low if low is None else low, p.high))


def _joined(counts: list[Interval]) -> tuple[Interval, ...]:
    """Runs of consecutive whole numbers as one interval."""
    runs: list[Interval] = []
    for value, _ in counts:
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return tuple(runs)
