"""The ratio of two periods' typical engineer, with an interval in which engineers, not lines, are the sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from brakeline.core.errors import Reason, Refused

MIN_ENGINEERS: Final = 5  # in each period; with fewer, one person is the typical one
DRAWS: Final = 4000
SEED: Final = 0  # fixed: one that followed from the commits could be ground for

Statistic = Callable[..., NDArray[np.float64]]


@dataclass(frozen=True)
class Ratio:
    """Now over base, with its 95 % bounds. `engineers` counts those of the base and of now."""

    value: float
    lower: float
    upper: float
    engineers: tuple[int, int]


def ratio(base: Mapping[str, float], now: Mapping[str, float], statistic: Statistic = np.nanmedian) -> Ratio:
    """Ratio of the statistic over engineers, `now` over `base` (each: lines a day by person).

    The bounds are percentiles of a bootstrap that draws persons, with all they did in both periods (Davison & Hinkley,
    "Bootstrap Methods and their Application", 1997, §3.8), widened to cover the ratio without any single person: what
    one engineer's leaving would undo is not a lower bound.

    Raises:
        Refused: too few engineers in a period, or a base too near zero to divide by (reason `missing`).
    """
    if min(len(base), len(now)) < MIN_ENGINEERS:
        raise Refused(
            Reason.MISSING,
            f"{len(base)} engineers in the base period and {len(now)} now: each needs {MIN_ENGINEERS}",
            hint="measure more repositories of the same team together",
        )
    people = sorted(base.keys() | now.keys())
    table = np.array([[base.get(p, np.nan), now.get(p, np.nan)] for p in people])
    value = float(_of(table[None], statistic)[0])
    rng = np.random.default_rng(SEED)
    chosen = np.split(rng.integers(len(people), size=(DRAWS, len(people))), DRAWS // 200)  # in parts: they are large
    draws = np.concatenate([_of(table[part], statistic) for part in chosen])
    without = _of(np.stack([np.delete(table, i, axis=0) for i in range(len(people))]), statistic)
    # A draw without any engineer in one period says nothing: it counts as 0 below and as infinite above.
    low = np.quantile(np.nan_to_num(draws, nan=0.0), 0.025, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 0.975, method="inverted_cdf")
    lower, upper = min(low, without.min(), value), max(high, without.max(), value)
    if not np.isfinite([value, lower, upper]).all():
        raise Refused(Reason.MISSING, "the typical engineer of the base period merged next to nothing")
    return Ratio(value, float(lower), float(upper), (len(base), len(now)))


def _of(tables: NDArray[np.float64], statistic: Statistic) -> NDArray[np.float64]:
    """The ratio in each table of persons × (base, now); NaN where a period has nobody."""
    filled = (~np.isnan(tables)).sum(axis=1)  # engineers by table and period
    empty = filled.min(axis=1) == 0
    result = np.full(len(tables), np.nan)
    sums = statistic(tables[~empty], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        result[~empty] = np.where(sums[:, 0] > 0, sums[:, 1] / sums[:, 0], np.inf)
    return result
