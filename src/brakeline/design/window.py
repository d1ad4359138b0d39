"""For which values of one parameter compliance stays stable: inspections, permit lifetimes, residuals, and others."""

from collections.abc import Callable, Mapping
from typing import Any, Final

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
    """The range of a parameter in this scenario: its own, and what the values of others leave of it.

    What a scenario file with this one value changed may say, in common for all parties; empty, with the first above the
    second, where the parties differ too much to share a value.
    """
    p, v = PARAMETERS[name], s.values
    risk, relief, covert = v["risk"], v["solo_relief"], v.get("covert_risk")
    n, asked, k_q, b = (float(v[x][0]) if x in v else None for x in ("inspectors", "confirmers", "quorum", "corrupt"))
    rules: dict[str, tuple[Any, Any]] = {
        "shared_value": (1 / len(s.parties), None),
        "covert_risk": ((risk * (1 - relief)).max(), risk.min()),
        "inspectors": (max(b or 0, k_q or 0) if asked is None else b, asked),
        "confirmers": (max(n or 0, k_q or 0), None),
        "quorum": (None, n if asked is None else asked),
        "corrupt": (None, n),
    }
    if covert is not None:
        rules["risk"] = covert.max(), (covert / (1 - relief)).min()
        rules["solo_relief"] = (1 - covert / risk).max(), None
    low, high = rules.get(name, (None, None))
    return (
        p.low if low is None else max(p.low, float(low)),
        p.high if high is None else min(p.high, float(high)),
    )


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
