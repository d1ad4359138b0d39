"""The sample: how much is enough, by published figures and by brute force, and that nobody can steer or foresee it."""

from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from math import ceil, comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core import sampling
from brakeline.core.errors import Misuse
from brakeline.core.sampling import audit_seed, draw, draws_needed, miss, sample, ticket_message

P95, P99 = Decimal("0.95"), Decimal("0.99")
SEED = bytes(range(32))


def seeds(count: int) -> list[bytes]:
    return [audit_seed(SEED, i.to_bytes(32, "big"), "beta", b"ticket") for i in range(count)]


# --- how many


@pytest.mark.parametrize(
    ("n", "f", "for_95", "for_99"),
    [
        # F-3: N chips, K of them cheating
        (10**5, "0.01", 298, 458),
        (10**5, "0.001", 2950, 4499),
        (10**6, "0.0025", 1197, 1839),
        # F-5: finite n
        (1000, "0.01", 258, 368),
        (6000, "0.01", 291, 442),
        # F-5: large n
        (10**12, "0.1", 29, 44),
        (10**12, "0.05", 59, 90),
        (10**12, "0.01", 299, 459),
        (10**12, "0.001", 2995, 4603),
    ],
)
def test_published_figures(n: int, f: str, for_95: int, for_99: int) -> None:
    # Treaty 7.4
    assert draws_needed(n, P95, Decimal(f)) == for_95
    assert draws_needed(n, P99, Decimal(f)) == for_99


def test_the_published_probability() -> None:
    assert round(float(1 - miss(6000, 60, 299)), 4) == 0.9542


@given(st.integers(1, 80), st.integers(1, 99), st.integers(1, 100))
def test_no_fewer_draws_would_do(n: int, p: int, f: int) -> None:
    p_catch, f_cheat = Decimal(p) / 100, Decimal(f) / 100
    k = -(-n * f // 100)
    enough = [s for s in range(n + 1) if 1 - miss(n, k, s) >= Fraction(p_catch)]
    assert draws_needed(n, p_catch, f_cheat) == min(enough)


@given(st.integers(0, 2**53), st.integers(900, 999), st.integers(5, 1000))
def test_no_fewer_draws_would_do_of_any_number_of_segments(n: int, p: int, f: int) -> None:
    p_catch, f_cheat = Decimal(p) / 1000, Decimal(f) / 1000
    s, k = draws_needed(n, p_catch, f_cheat), ceil(n * Fraction(f_cheat))
    assert miss(n, k, s) <= 1 - Fraction(p_catch) or s == n
    assert s == 0 or miss(n, k, s - 1) > 1 - Fraction(p_catch)


def test_a_probability_that_is_just_enough_is_enough() -> None:
    # Equal to the last bit: no rounding may decide here. Half of the segments are bad, and 1 - 1/2 are to be caught.
    for n in (2, 10, 2**53):
        assert draws_needed(n, Decimal("0.5"), Decimal("0.5")) == 1
    assert draws_needed(8, Decimal("0.875"), Decimal("0.125")) == 7  # one bad segment of eight


def test_what_a_lab_claims_does_not_make_the_sample_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    def comb(n: int, k: int) -> int:
        raise AssertionError(f"a binomial of {n}")

    monkeypatch.setattr(sampling, "comb", comb)
    assert draws_needed(2**53 // 4, P95, Decimal("0.0001")) == 29956  # ln(.05) / ln(.9999), rounded up
    assert len(sample(SEED, 2**53 // 4, frozenset({5, 2**60}), P99, Decimal("0.01"))) == 459 + 3


def test_the_chance_to_miss_by_counting_every_sample() -> None:
    for n in range(1, 9):
        for k in range(n + 1):
            bad = frozenset(range(k))
            for s in range(n + 1):
                missed = sum(not bad & set(c) for c in combinations(range(n), s))
                assert miss(n, k, s) == Fraction(missed, comb(n, s))


@pytest.mark.parametrize(("n", "k", "s"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, -1)])
def test_there_is_no_such_sample(n: int, k: int, s: int) -> None:
    with pytest.raises(Misuse):
        miss(n, k, s)
    with pytest.raises(Misuse):
        draw(SEED, n + 1, n)


# --- which


@given(st.binary(min_size=32, max_size=32), st.integers(1, 500), st.data())
def test_a_draw_is_distinct_sorted_and_a_function_of_its_seed(seed: bytes, n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    drawn = draw(seed, count, n)
    assert len(drawn) == count == len(set(drawn))
    assert list(drawn) == sorted(drawn)
    assert all(0 <= i < n for i in drawn)
    assert draw(seed, count, n) == drawn


def test_the_draw_is_fixed_for_ever() -> None:
    # Old audits must still verify: another draw for an old seed would be a change of format.
    assert draw(SEED, 5, 1000) == (225, 272, 452, 505, 889)
    assert draw(SEED, 10, 10) == tuple(range(10))
    assert draw(SEED, 0, 0) == ()


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((c - expected) ** 2 / expected for c in counts)


def test_every_index_is_equally_likely() -> None:
    n, s, rounds = 40, 7, 2000
    counts = [0] * n
    for seed in seeds(rounds):
        for i in draw(seed, s, n):
            counts[i] += 1
    # 39 degrees of freedom, a little fewer for draws without replacement: 99.9 % lie below 72.1, 0.1 % below 16.3.
    assert 16.3 < chi_square(counts) < 72.1


def test_every_set_is_equally_likely() -> None:
    sets = dict.fromkeys(combinations(range(6), 3), 0)
    for seed in seeds(2000):
        sets[draw(seed, 3, 6)] += 1
    # 19 degrees of freedom: 99.9 % lie below 43.8, 0.1 % below 5.4.
    assert 5.4 < chi_square(list(sets.values())) < 43.8


def test_a_cheat_is_caught_as_often_as_promised() -> None:
    # The worst case for the sample: 10 % of 200 segments, chosen without knowing the seed.
    n, bad = 200, frozenset(range(90, 110))
    s = draws_needed(n, P95, Decimal("0.1"))
    caught = sum(bool(bad & set(draw(seed, s, n))) for seed in seeds(1000))
    assert 920 <= caught <= 985  # 950.. expected, 4.4 standard deviations down


def test_another_beacon_head_inspector_or_ticket_gives_another_sample() -> None:
    # Treaty 7.3, formula F-6
    base = (SEED, bytes(32), "beta", b"ticket")
    first = audit_seed(*base)
    others = [
        audit_seed(bytes(32), bytes(32), "beta", b"ticket"),
        audit_seed(SEED, SEED, "beta", b"ticket"),
        audit_seed(SEED, bytes(32), "gamma", b"ticket"),
        audit_seed(SEED, bytes(32), "beta", b"ticket2"),
        audit_seed(SEED, bytes(32), "betat", b"icket"),  # no two inputs share an encoding
    ]
    samples = {draw(seed, 20, 10_000) for seed in [first, *others]}
    assert len(samples) == 6
    assert ticket_message(SEED, bytes(32)) != ticket_message(bytes(32), SEED)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 300), st.frozensets(st.integers(-5, 305), max_size=9))
def test_first_last_and_seams_are_always_in(seed: bytes, n: int, seams: frozenset[int]) -> None:
    # Treaty 7.4, attacks
    taken = sample(seed, n, seams, P95, Decimal("0.05"))
    if n == 0:
        assert taken == ()
        return
    assert {0, n - 1} <= set(taken)
    assert {j for j in seams if 0 <= j < n} <= set(taken) <= set(range(n))
    # The draw is over all segments: what must be in anyway does not weaken it.
    assert set(draw(seed, draws_needed(n, P95, Decimal("0.05")), n)) <= set(taken)
