"""P5: what a quorum of inspectors, some of them corrupt, makes of one inspector's detection and false alarms."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from brakeline.design.model import Array

INDEPENDENT: Final = "independent"
CONFIRMED: Final = "confirmed"


class Conviction(NamedTuple):
    """Probabilities that one inspection convicts a cheat (`p`) and an honest party (`alpha`)."""

    p: Array
    alpha: Array


def convict(
    p_1: ArrayLike,
    a_1: ArrayLike,
    inspectors: ArrayLike,
    quorum: ArrayLike,
    corrupt: ArrayLike,
    adjudication: str,
    confirmers: ArrayLike | None = None,
) -> Conviction:
    """P5. `quorum` of `inspectors` must agree; `corrupt` of them spare every cheat and accuse every honest party.

    `independent`: each inspector looks once, on its own, and findings are counted:
    p = P(Bin(n-b, p_1) >= k_q), alpha = P(Bin(n-b, a_1) >= k_q - b), which is 1 if b >= k_q.

    `confirmed`: as `brakeline audit --confirm` does it. What one inspector finds, each of the `confirmers` checks again
    at the same place (all inspectors that there are; at least those who audit). An honest one then sees a true
    violation for certain, and a false one with probability a_1. So one honest finder is enough against a cheat, if
    there are k_q honest confirmers, and fewer than k_q corrupt ones, who could clear the cheat by denying it. Against
    an honest party each accusation has its own chance: one by each honest auditor, and one by the corrupt together.
    """
    p_1, a_1, n, k_q, b = (np.asarray(v, dtype=float) for v in (p_1, a_1, inspectors, quorum, corrupt))
    honest = np.maximum(n - b, 0)
    if adjudication == INDEPENDENT:
        alpha = np.where(b >= k_q, 1.0, binom.sf(k_q - b - 1, honest, a_1))
        return Conviction(np.asarray(binom.sf(k_q - 1, honest, p_1)), alpha)
    asked = np.maximum((n if confirmers is None else np.maximum(np.asarray(confirmers, dtype=float), n)) - b, 0)
    p = np.where((asked >= k_q) & (b < k_q), 1 - (1 - p_1) ** honest, 0.0)
    framed = np.where(b >= k_q, 1.0, binom.sf(k_q - b - 1, asked, a_1))
    upheld = np.where(b + 1 >= k_q, 1.0, binom.sf(k_q - b - 2, np.maximum(asked - 1, 0), a_1))
    acquitted = (1 - a_1 * upheld) ** honest * (1 - np.where(b > 0, framed, 0.0))
    return Conviction(p, np.asarray(1 - acquitted))
