"""Repeated games, pledges, thresholds of public goods, and coalitions: when does cooperation carry itself?"""

from collections.abc import Sequence
from math import ceil, comb
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from brakeline.core.pledge import activate
from brakeline.core.tlog.policy import Group


class Dilemma(NamedTuple):
    """Temptation, reward, punishment and sucker's payoff of a prisoner's dilemma: T > R > P > S."""

    T: float = 5
    R: float = 3
    P: float = 1
    S: float = 0


def patience(game: Dilemma, d: float, fine: float = 0.0) -> float:
    """delta*: the least discount factor at which grim trigger holds, when a deviation is seen with probability `d`."""
    gain, loss = game.T - game.R, game.R - game.P
    return (gain - d * fine) / (gain - d * fine + d * loss)


def public_monitoring(game: Dilemma, likelihood_ratio: float) -> float:
    """Best symmetric value under imperfect public monitoring: R - (T - R) / (l - 1) (Abreu, Milgrom, Pearce 1991).

    At most P, and so no better than no cooperation, for l below 1 + (T - R) / (R - P).
    """
    return game.R - (game.T - game.R) / (likelihood_ratio - 1)


def pledge_holds(game: Dilemma, d: float, false_alarm: float = 0.0, *, public: bool = True) -> bool:
    """Whether (K, K) is an equilibrium of the one-shot game; K: "I cooperate unless the trigger shows a defection".

    A defection shows with probability `d`. A false alarm comes with probability `false_alarm`: once for both when the
    trigger is a `public` entry, else for each party on its own; who is alarmed defects, which then shows to the other
    with probability `d` again. The deviations are D, always defect, and C, never mind the trigger.
    """
    T, R, P, S = game
    a = false_alarm
    defect = d * P + (1 - d) * T
    ignore = (1 - a) * R + a * S
    if public:
        keep = (1 - a) * R + a * P
    else:
        keep = (1 - a) ** 2 * R + a**2 * P + a * (1 - a) * (2 * d * P + (1 - d) * (T + S))
    return keep >= max(defect, ignore if a else defect) - 1e-12


def pledged(thresholds: Sequence[float]) -> frozenset[int]:
    """BCCM (Reischmann, Oechssler 2018): the largest set in which each `i` counts at least `thresholds[i]` members.

    The fixpoint is `core.pledge.activate`, the same that binds parties of a treaty; `i` counts itself. Who asks for
    more members than there are never pledges.
    """
    n = len(thresholds)
    names = [f"p{i:03d}" for i in range(n)]
    gates = {
        name: None if k <= 1 else Group(ceil(k) - 1, tuple(x for x in names if x != name))
        for name, k in zip(names, thresholds, strict=True)
        if k <= n
    }
    return frozenset(names.index(name) for name in activate(gates).active)


def contributions(n: int, w: int, cost: float, *, refund: bool = False) -> tuple[float, ...]:
    """Symmetric mixed equilibria of Palfrey and Rosenthal 1984: `w` of `n` contributions give everybody 1.

    Interior probabilities of contributing, ascending. With `refund`, a contribution to a failed good costs nothing.
    """

    def gain(p: float) -> float:
        pivotal = comb(n - 1, w - 1) * p ** (w - 1) * (1 - p) ** (n - w)
        price = cost * (float(binom.sf(w - 2, n - 1, p)) if refund else 1.0)
        return pivotal - price

    grid = np.linspace(0, 1, 2001)[1:-1]
    signs = np.sign([gain(p) for p in grid])
    roots = (brentq(gain, a, b) for a, b, s, t in zip(grid, grid[1:], signs, signs[1:], strict=False) if s * t < 0)
    return tuple(float(p) for p in roots)


def linear_quadratic_gain(k: int) -> float:
    """What a member of a coalition of `k` loses by leaving, in units of b^2/c: -(k^2 - 4k + 3) / 2.

    Barrett's game of linear benefits and quadratic costs (Self-enforcing agreements, 1994): no coalition above 3.
    """
    return -(k * k - 4 * k + 3) / 2


def binary_coalition(benefit: float, cost: float) -> int:
    """Smallest coalition whose members do better by acting: each action costs `cost` and gives everybody `benefit`."""
    return ceil(cost / benefit)


def threshold_contribution(n: int, cost: float, impact: float, low: float, high: float) -> float:
    """What all contribute in the best symmetric equilibrium, when a loss `impact` is averted above a threshold.

    Barrett and Dannenberg 2012: the threshold is uniform on [low, high], so a unit lowers the risk by 1 / (high - low).
    With a known threshold each of `n` gives its n-th part while that costs less than `impact`. An uncertain location
    makes it a dilemma when impact / (high - low) < cost; an uncertain impact of the same mean changes nothing.
    """
    if high == low:
        return high if cost * high / n <= impact else 0.0
    return high if impact / (high - low) >= cost else 0.0


def split_compliance(attribution: float, detection: float, fine: float, cost: float) -> float:
    """Share that complies with a compute threshold rather than splitting runs: 1 - c / (a d F)."""
    return 1 - cost / (attribution * detection * fine)
