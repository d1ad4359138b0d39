"""Which segments an inspector replays, and how likely a cheat escapes."""

from decimal import Decimal
from fractions import Fraction
from math import ceil, comb
from typing import Final

from brakeline.core.encoding import tagged
from brakeline.core.errors import Misuse

_DRAW: Final = "brakeline/audit-draw/v1"
_BITS: Final = 256


def ticket_message(head: bytes, beacon: bytes) -> bytes:
    """What an inspector signs to draw its sample: 32 bytes over the head's leaf hash and the beacon."""
    return tagged("brakeline/audit-ticket/v1", head, beacon)


def audit_seed(head: bytes, beacon: bytes, inspector: str, ticket: bytes) -> bytes:
    """Seed of one inspector's sample: H(head ‖ beacon ‖ inspector ‖ ticket), 32 bytes. Treaty 7.3.

    `head` is the RFC 6962 leaf hash of the logged head statement, `beacon` that of the first stamp
    after it, `ticket` the inspector's signature over both. The trainer commits before the beacon exists. A log operator
    who grinds roots for a friendly lab still cannot foresee the ticket, and each inspector draws its own sample, so
    bribing one shows nothing of another's.
    """
    return tagged("brakeline/audit-seed/v1", head, beacon, inspector.encode(), ticket)


def draw(seed: bytes, count: int, population: int) -> tuple[int, ...]:
    """`count` distinct indices below `population`, uniformly, sorted: a pure function of the seed.

    Raises:
        Misuse: more draws than there are indices.
    """
    if not 0 <= count <= population:
        raise Misuse(f"cannot draw {count} of {population}")
    chosen: dict[int, int] = {}
    picked = []
    # Fisher-Yates with a sparse array. Rejection keeps every index equally likely.
    for i in range(count):
        j = i + _uniform(seed, i, population - i)
        picked.append(chosen.get(j, j))
        chosen[j] = chosen.get(i, i)
    return tuple(sorted(picked))


def _uniform(seed: bytes, counter: int, below: int) -> int:
    limit = 2**256 - 2**256 % below
    attempt = 0
    while True:
        value = int.from_bytes(tagged(_DRAW, seed, counter.to_bytes(8, "big"), attempt.to_bytes(8, "big")), "big")
        if value < limit:
            return value % below
        attempt += 1


def miss(n: int, k: int, s: int) -> Fraction:
    """Probability that `s` of `n` segments, drawn without replacement, contain none of the `k` bad ones.

    Formula F-5: C(n-k, s) / C(n, s). Exact.
    """
    if not (0 <= k <= n and 0 <= s <= n):
        raise Misuse(f"no such sample: {s} of {n} with {k} bad")
    return Fraction(comb(n - k, s), comb(n, s))


def draws_needed(n: int, p_catch: Decimal, f_cheat: Decimal) -> int:
    """Smallest `s` such that a cheat on a share `f_cheat` of `n` segments is caught with probability `p_catch`.

    Treaty 7.4. Check values: n=6000, f=1 %: 291 for 95 %, 442 for 99 %. Exact, and costs one multiplication a draw,
    however large `n` is: a lab chooses that.
    """
    k, target = ceil(n * Fraction(f_cheat)), 1 - Fraction(p_catch)
    goal = target.numerator << _BITS
    # The chance to miss after s draws, between two bounds in units of 2**-_BITS: rounding keeps them 2 s apart at most.
    low = high = 1 << _BITS
    for s in range(n):
        if high * target.denominator <= goal:
            return s
        if low * target.denominator <= goal and miss(n, k, s) <= target:  # too close to tell by the bounds
            return s
        low, high = low * (n - k - s) // (n - s), -(-high * (n - k - s) // (n - s))
    return n


def sample(seed: bytes, n: int, junctions: frozenset[int], p_catch: Decimal, f_cheat: Decimal) -> tuple[int, ...]:
    """Indices of the segments that one inspector must replay: first, last, junctions and a seeded draw, sorted.

    Treaty 7.4. The draw is over all segments, so that the mandatory ones never weaken it.
    """
    if n == 0:
        return ()
    mandatory = {0, n - 1} | {j for j in junctions if 0 <= j < n}
    return tuple(sorted(mandatory | set(draw(seed, draws_needed(n, p_catch, f_cheat), n))))
