"""Rates, growth and evidence: exact bounds for counts, and an e-process that may be looked at after every generation.

Counts are `bad` of `n` probes, each bad or not. A level `alpha` is one-sided: a bound fails with that probability.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaincc, betaincinv, betaln

_PRIOR: Final = 0.5  # Jeffreys


@dataclass(frozen=True, slots=True)
class Count:
    """`bad` of `n` probes were bad."""

    bad: int
    n: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate between one-sided bounds."""

    lower: float
    value: float
    upper: float


def rate(count: Count, alpha: float) -> Bounds:
    """Bad rate with Clopper-Pearson bounds (Biometrika 26, 1934), each at `alpha`."""
    k, n = count.bad, count.n
    lower = float(betaincinv(k, n - k + 1, alpha)) if k else 0.0
    upper = float(betaincinv(k + 1, n - k, 1 - alpha)) if k < n else 1.0
    return Bounds(lower, k / n, upper)


def growth(parent: Count, child: Count, alpha: float) -> Bounds:
    """R = child's rate / parent's rate, with bounds at `alpha` each; all finite.

    Given the sum of two Poisson counts the child's is binomial with share R·n₁ / (R·n₁ + n₀), so Clopper-Pearson bounds
    on the share are exact bounds on R (Przyborowski & Wilenski, Biometrika 31, 1940). Probes are binomial, whose
    variance is smaller, so the bounds are on the safe side. The estimate adds half a bad probe to both sides. `n`
    probes show no rate between 0 and 1/n, so a growth beyond n₀ is not told from n₀: that is where the bounds end.
    """
    scale = parent.n / child.n
    top = float(parent.n)
    share = rate(Count(child.bad, child.bad + parent.bad), alpha) if child.bad + parent.bad else Bounds(0.0, 0.5, 1.0)
    lower, upper = (min(top, scale * s / (1 - s)) if s < 1 else top for s in (share.lower, share.upper))
    value = scale * (child.bad + 0.5) / (parent.bad + 0.5)
    return Bounds(lower, min(max(value, lower), upper), upper)


def log_evidence(count: Count, limit: float) -> float:
    """ln of one look's e-value against H0: every probe is bad with probability at most `limit`, given the past.

    The likelihood ratio against `limit` is, for every rate above it, a supermartingale under H0; this is its mixture
    over the Jeffreys prior cut to (limit, 1), in closed form (Robbins, Ann. Math. Stat. 41, 1970).
    """
    a, b = count.bad + _PRIOR, count.n - count.bad + _PRIOR
    mixed = _log_above(a, b, limit) - _log_above(_PRIOR, _PRIOR, limit)
    null = count.bad * math.log(limit) + (count.n - count.bad) * math.log1p(-limit)
    return mixed - null


def _log_above(a: float, b: float, limit: float) -> float:
    """ln of the integral of q^(a-1)·(1-q)^(b-1) from `limit` to 1; -inf where it is smaller than any float."""
    share = float(betaincc(a, b, limit))
    return float(betaln(a, b)) + math.log(share) if share else -math.inf


def e_process(counts: Iterable[Count], limit: float) -> list[float]:
    """ln of the e-value after each look. Under H0 the chance that e ever reaches 1/alpha is at most alpha (Ville 1939).

    The product of the looks' e-values loses what it earns when a lineage begins clean. So this is the mean of products
    that begin at look 1, 2, 3, …, the k-th with the weight 1 / (k·(k+1)), which count 1 until they begin.
    """
    result = []
    begun = -math.inf  # ln of the weighted sum of the products that have begun
    for k, count in enumerate(counts, 1):
        begun = log_evidence(count, limit) + np.logaddexp(begun, -math.log(k * (k + 1)))
        result.append(float(np.logaddexp(begun, -math.log(k + 1))))
    return result
