"""Who pauses together: payoffs of every coalition, Barrett's stability, and the set that conditional pledges bind.

A coalition is a row of 2^N: bit i of its index says whether party i pauses. N is at most 12, so all are enumerated.
"""

from typing import NamedTuple

import numpy as np

from brakeline.design.model import TOLERANCE, Array, Mask, Model, race_value
from brakeline.design.published.cooperation import pledged


def members(n: int) -> Mask:
    """(2^N, N): who pauses in each coalition."""
    return np.asarray((np.arange(2**n)[:, None] >> np.arange(n)) & 1, dtype=bool)


def payoffs(m: Model, *, whole_is_stable: bool) -> Array:
    """(2^N, ..., N): what every party expects under every coalition, the others racing.

    A full pause is worth W_C if it is stable; if not, it ends in the race, and is worth no more than W_R.
    """
    pausing = members(m.parties)
    batch = np.broadcast_shapes(m.W_C.shape, (m.parties,))[:-1]
    values = np.empty((len(pausing), *batch, m.parties))
    values[:-1] = race_value(m, ~pausing[:-1].reshape(-1, *(1 for _ in batch), m.parties))
    values[-1] = m.W_C if whole_is_stable else np.minimum(m.W_C, m.W_R)
    return values


def pausing_dominant(values: Array) -> Mask:
    """Whether every party does best to pause, whoever else pauses, (...); a tie counts."""
    index = np.arange(len(values))
    holds = np.ones(values.shape[1:-1], dtype=bool)
    for i in range(values.shape[-1]):
        out = index[index >> i & 1 == 0]
        holds &= (values[out | 1 << i, ..., i] >= values[out, ..., i] - TOLERANCE).all(0)
    return holds


def stable_coalitions(values: Array) -> Mask:
    """Barrett: no member gains by leaving, and nobody outside by joining; a tie moves nobody, (2^N,)."""
    index = np.arange(len(values))
    holds = np.ones(len(values), dtype=bool)
    for i in range(values.shape[1]):
        holds &= values[index, i] >= values[index ^ (1 << i), i] - TOLERANCE
    return holds


class Entry(NamedTuple):
    """`least[i]`: the k of party i's pledge "I pause if at least k do"; infinite if it never should.

    `bound`: whom those pledges bind, the largest self-consistent set.
    """

    least: tuple[float, ...]
    bound: frozenset[int]


def entry(values: Array) -> Entry:
    """k_i* = the least k such that every coalition of at least k with i in it gives i what the race gives, or more.

    Every coalition, not the best one: a pledge that counts heads cannot choose which.
    """
    n = values.shape[1]
    pausing = members(n)
    size = pausing.sum(1)
    race = values[0]
    least = []
    for i in range(n):
        safe = [bool((values[(size == k) & pausing[:, i], i] >= race[i] - TOLERANCE).all()) for k in range(1, n + 1)]
        bad = [k for k, ok in enumerate(safe, 1) if not ok]
        k = max(bad, default=0) + 1
        least.append(float(k) if k <= n else np.inf)
    return Entry(tuple(least), pledged(least))
