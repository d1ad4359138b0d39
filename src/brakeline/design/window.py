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


def allowed(s: Scenario, name: str) -> Interval:
    """The range of a parameter in this scenario: its own, and what other values leave of it."""
    p, v = PARAMETERS[name], s.values
    if name == "shared_value":
        return 1 / len(s.parties), p.high
    if name == "covert_risk":
        return float((v["risk"] * (1 - v["solo_relief"])).max()), float(v["risk"].min())
    if name in ("quorum", "corrupt"):
        return p.low, float(v.get("confirmers" if name == "quorum" else "inspectors", v["inspectors"])[0])
    return (float(v["inspectors"][0]), p.high) if name == "confirmers" else (p.low, p.high)


def stable_where(
    s: Scenario, name: str, breakout: str, changes: Mapping[str, Array] | None = None
) -> tuple[Interval, ...]:
    """The values of a parameter, in its allowed range, for which compliance is stable, all others as they are."""
    low, high = allowed(s, name)

    def holds(points: Array) -> Mask:
        ok = stable(build(s, {**(changes or {}), name: points[:, None]}), breakout)
        return np.broadcast_to(ok, points.shape)

    if low >= high:  # one value is left, or none that all parties could share
        return ((low, low),) if low == high and holds(np.array([low]))[0] else ()
    if PARAMETERS[name].whole:
        counts = np.arange(low, high + 1)
        found = [(float(c), float(c)) for c, ok in zip(counts, holds(counts), strict=True) if ok]
        return _joined(found)
    return intervals(holds, grid(low, high))


def _joined(counts: list[Interval]) -> tuple[Interval, ...]:
    """Runs of consecutive whole numbers as one interval."""
    runs: list[Interval] = []
    for value, _ in counts:
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return tuple(runs)
