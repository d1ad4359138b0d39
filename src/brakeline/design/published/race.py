"""Races with risk: Armstrong, Bostrom, Shulman 2016, and Han, Pereira, Lenaerts et al. 2020."""

from typing import Literal, NamedTuple

import numpy as np

from brakeline.design.model import Array

Information = Literal["none", "private", "public"]


def disaster(n: int, mu: float, e: float, information: Information) -> float:
    """Probability of disaster in "Racing to the precipice" (Armstrong, Bostrom, Shulman, AI & Society 31, 2016).

    `n` teams draw their capability uniformly from [0, mu]; enmity `e`; each chooses its safety, knowing nobody's
    capability, its own, or everybody's.
    """
    if information == "none":
        return max(0.0, 1 - mu / (n * e)) if e else 0.0
    if information == "private":
        m = n * e - e + 1
        return 1 - n / (n + 1) * mu / m if mu <= m else (m / mu) ** n / (n + 1)
    if mu <= e:
        return 1 - mu / (e * (n + 1))
    y = e / mu
    return 1 - (1 - (1 - y) ** (n + 1)) / (y * (n + 1)) if y else 0.0


class DevelopmentRace(NamedTuple):
    """The DSAI race of Han, Pereira, Lenaerts, Santos ("To regulate or not", JAIR 69, 2020): safe against unsafe.

    `b` benefit of a round, `c` cost of safety, `B` the prize, `W` rounds to it, `s` speed of the unsafe, `p_fo`
    probability that an unsafe party is found out in a round, `p_r` probability of disaster for the unsafe.
    """

    b: float = 4
    c: float = 1
    B: float = 1e4
    W: float = 100
    s: float = 1.5
    p_fo: float = 0.5
    p_r: float = 0.5

    def payoffs(self) -> Array:
        """2 x 2 average payoffs of the row, (safe, unsafe) against (safe, unsafe)."""
        b, s, f, survive = self.b, self.s, self.p_fo, 1 - self.p_r
        safe_unsafe = -self.c + (1 - f) * b / (s + 1) + f * b
        unsafe_safe = survive * (s * self.B / self.W + (1 - f) * s * b / (s + 1))
        unsafe_both = survive * (s * self.B / (2 * self.W) + (1 - f**2) * b / 2)
        return np.array([[self.B / (2 * self.W) + b / 2 - self.c, safe_unsafe], [unsafe_safe, unsafe_both]])

    def thresholds(self) -> tuple[float, float]:
        """The disaster probabilities above which society prefers safety, and above which safety is risk-dominant."""
        certain = self._replace(p_r=0.0).payoffs()
        society = 1 - certain[0, 0] / certain[1, 1]
        return float(society), float(1 - certain[0].sum() / certain[1].sum())

    def safe_share(self, population: int = 100, selection: float = 0.01) -> float:
        """Long-run share of time in the safe state: Fermi imitation, rare mutation, `population` parties."""
        p = self.payoffs()
        safe_fixes = fixation(p, population, selection)
        return safe_fixes / (safe_fixes + fixation(p[::-1, ::-1], population, selection))


def fixation(payoffs: Array, population: int, selection: float) -> float:
    """Probability that one mutant of the first strategy takes over a population of the second (Fermi process)."""
    k = np.arange(1, population)
    (a, b), (c, d) = payoffs
    mutant = ((k - 1) * a + (population - k) * b) / (population - 1)
    resident = (k * c + (population - k - 1) * d) / (population - 1)
    return float(1 / (1 + np.exp(np.cumsum(-selection * (mutant - resident))).sum()))
