"""PGR, the share of the gap between weak supervisor and ceiling that a method recovers, with its interval."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brakeline.core.errors import Misuse
from brakeline.gauges.research.problem import generator

Bools = NDArray[np.bool_]

RESAMPLES: Final = 2000


class Score(NamedTuple):
    """PGR with its 95 % bounds; `accuracy` of the method, the `weak` supervisor and the `ceiling`, over all seeds."""

    pgr: float
    lower: float
    upper: float
    accuracy: float
    weak: float
    ceiling: float


def pgr(right: Bools, weak: Bools, ceiling: Bools) -> float:
    """(a − w)/(c − w), each the share of right answers over [seeds, items]. Burns et al. 2023, §3.

    Raises:
        Misuse: there is no gap to recover.
    """
    a, w, c = right.mean(), weak.mean(), ceiling.mean()
    if not c > w:
        raise Misuse("the ceiling is no better than the weak supervisor: there is no gap to recover")
    return float((a - w) / (c - w))


def score(right: Bools, weak: Bools, ceiling: Bools) -> Score:
    """PGR with a paired bootstrap: seeds and items are drawn with replacement, the same for all three rows.

    The items are the same for every seed, so an item's luck is counted once and not once a seed.

    Raises:
        Misuse: there is no gap to recover.
    """
    value = pgr(right, weak, ceiling)
    rng = generator("bootstrap", *right.shape)
    seeds, items = right.shape
    all_three = np.stack((right, weak, ceiling)).astype(float)
    # How often each is drawn, in place of indexing: a weighted mean is the mean of the resample.
    s = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    i = rng.multinomial(items, np.full(items, 1 / items), RESAMPLES) / items
    a, w, c = np.einsum("rsb,bs->rb", all_three @ i.T, s)
    gap = c > w
    lower, upper = np.quantile((a[gap] - w[gap]) / (c[gap] - w[gap]), (0.025, 0.975))
    means = [float(row.mean()) for row in all_three]
    return Score(value, min(float(lower), value), max(float(upper), value), *means)
