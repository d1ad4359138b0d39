"""Inspection games: Dresher 1962, leadership after Avenhaus, von Stengel, Zamir 2002, deterrence with false alarms."""

from functools import cache
from math import comb
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.stats import norm


def dresher(n: int, m: int) -> float:
    """Value for the inspector of Dresher's game: `m` inspections in `n` periods, one violation, worth -1 or +1."""
    if m >= n:
        return 0.0
    return -comb(n - 1, m) / sum(comb(n, i) for i in range(m + 1))


@cache
def dresher_recursive(n: int, m: int) -> float:
    """The same by its recursion: a 2 x 2 game in every period."""
    if m >= n:
        return 0.0
    if m == 0:
        return -1.0
    # Rows: inspect, do not; columns: violate, wait.
    a, b, c, d = 1.0, dresher_recursive(n - 1, m - 1), -1.0, dresher_recursive(n - 1, m)
    return (a * d - b * c) / (a + d - b - c)


class Leadership(NamedTuple):
    """Value to the inspector of one stage with one inspection in two periods.

    `simultaneous`: nobody knows the other's choice. `announced`: the inspector commits to the same probability of
    inspecting in public, and an indifferent inspectee stays legal.
    """

    inspect: float
    simultaneous: float
    announced: float


def leadership(a: float, b: float) -> Leadership:
    """Avenhaus, von Stengel, Zamir (Handbook of Game Theory III, 2002), n = 2, m = 1.

    A caught violation costs the inspector `a` and the inspectee `b`; one not caught pays -1 and +1; legal behaviour 0.
    """
    # The continuation is -1, +1 when the inspection is spent and 0, 0 when it is kept.
    inspect = 1 / (2 + b)
    violate = 1 / (2 - a)
    return Leadership(inspect, -violate, -inspect)


def deterrence_limit(alpha: float, b: float, f: float) -> float:
    """Largest probability of a miss that still deters: beta <= (b - f alpha) / (1 + b).

    An undetected violation is worth 1, a detected one costs `b`, a false alarm costs `f`.
    """
    return (b - f * alpha) / (1 + b)


def deterrence_alarm(b: float, f: float, d: float) -> float:
    """The least false-alarm probability at which a detector of sensitivity `d` deters.

    The receiver operating characteristic of two normal distributions of unit variance, `d` apart.

    Raises:
        ValueError: no such probability.
    """
    return float(brentq(lambda a: norm.cdf(norm.isf(a) - d) - deterrence_limit(a, b, f), 1e-12, 0.5))
