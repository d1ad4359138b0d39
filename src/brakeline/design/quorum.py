"""P5: what a quorum of inspectors, some of them corrupt, makes of one inspector's detection and false alarms."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc

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
        return Conviction(at_least(k_q, honest, p_1), at_least(k_q - b, honest, a_1))
    asked = np.maximum((n if confirmers is None else np.maximum(np.asarray(confirmers, dtype=float), n)) - b, 0)
    others = np.maximum(asked - 1, 0)
    # Who overlooks the cheat may still accuse it by mistake of something else.
    mistaken = a_1 * at_least(k_q - 1, others, a_1)
    p = np.where((asked >= k_q) & (b < k_q), 1 - ((1 - p_1) * (1 - mistaken)) ** honest, 0.0)
    framed = at_least(k_q - b, asked, a_1)
    upheld = at_least(k_q - b - 1, others, a_1)
    acquitted = (1 - a_1 * upheld) ** honest * (1 - np.where(b > 0, framed, 0.0))
    return Conviction(p, np.asarray(1 - acquitted))


def at_least(k: Array, n: Array, p: Array) -> Array:
    """P(Bin(n, p) >= k), by the incomplete beta function; 1 for k <= 0, and 0 for k > n."""
    k, n, p = np.broadcast_arrays(k, n, p)
    some = betainc(np.maximum(k, 1), np.maximum(n - k + 1, 1), p)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, some))
