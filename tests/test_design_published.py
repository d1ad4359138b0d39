"""Published models: the check values of each, and brute force or a second derivation where there is one."""

from decimal import Decimal
from itertools import combinations
from math import inf

import nashpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core import pledge
from brakeline.core.sampling import draws_needed
from brakeline.design.published import cooperation as c
from brakeline.design.published import inspection as i
from brakeline.design.published.race import DevelopmentRace, disaster

PD = c.Dilemma(T=5, R=3, P=1, S=0)


@pytest.mark.parametrize(
    ("n", "mu", "e", "none", "private", "public"),
    [
        (2, 1, 1, 0.5, 0.666667, 0.666667),
        (2, 1, 0.5, 0, 0.555556, 0.416667),
        (5, 1, 1, 0.8, 0.833333, 0.833333),
        (5, 1, 0.5, 0.6, 0.722222, 0.671875),
        (2, 2, 1, 0, 0.333333, 0.416667),
        (5, 3, 1, 0.4, 0.5, 0.543896),
        (2, 0.5, 0.25, 0, 0.733333, 0.416667),
        (5, 10, 1, 0, 0.005208, 0.219068),
    ],
)
def test_racing_to_the_precipice(n: int, mu: float, e: float, none: float, private: float, public: float) -> None:
    found = [disaster(n, mu, e, info) for info in ("none", "private", "public")]
    assert found == pytest.approx([none, private, public], abs=1e-6)


@given(st.integers(2, 12), st.floats(0.01, 20), st.floats(0.01, 1))
def test_no_information_is_the_safest(n: int, mu: float, e: float) -> None:
    none = disaster(n, mu, e, "none")
    assert none <= min(disaster(n, mu, e, "private"), disaster(n, mu, e, "public")) + 1e-12


@pytest.mark.parametrize(
    ("n", "m", "v"), [(2, 1, -1 / 3), (3, 1, -1 / 2), (3, 2, -1 / 7), (5, 2, -0.375), (12, 3, -0.551839)]
)
def test_dreshers_game(n: int, m: int, v: float) -> None:
    assert i.dresher(n, m) == pytest.approx(v, abs=1e-6)


def test_dreshers_formula_is_his_recursion() -> None:
    for n in range(1, 20):
        for m in range(n + 1):
            assert i.dresher(n, m) == pytest.approx(i.dresher_recursive(n, m), abs=1e-14)


def test_a_period_of_dreshers_game_against_nashpy() -> None:
    stage = np.array([[1, i.dresher(4, 1)], [-1, i.dresher(4, 2)]])
    row, column = next(iter(nashpy.Game(stage).support_enumeration()))
    assert row @ stage @ column == pytest.approx(i.dresher(5, 2))


def test_announcing_inspections_helps_the_inspector() -> None:
    found = i.leadership(a=0.5, b=1)
    assert (found.simultaneous, found.announced) == pytest.approx((-2 / 3, -1 / 3))
    inspector = np.array([[-1, -0.5], [0, -1]])
    inspectee = np.array([[1, -1], [0, 1]])
    row, column = next(iter(nashpy.Game(inspector, inspectee).support_enumeration()))
    assert row[0] == pytest.approx(found.inspect)
    assert row @ inspector @ column == pytest.approx(found.simultaneous)


@pytest.mark.parametrize(
    ("b", "f", "d", "alpha"), [(1, 0.1, 2, 0.022906), (1, 0.1, 3, 0.001351), (4, 0.2, 1.5, 0.009636)]
)
def test_the_false_alarms_that_deterrence_costs(b: float, f: float, d: float, alpha: float) -> None:
    assert i.deterrence_alarm(b, f, d) == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize(
    ("s", "society", "dominant"),
    [(1.5, 0.333333, 0.768116), (2, 0.497537, 0.826087), (3, 0.663366, 0.884106), (5, 0.797217, 0.930516)],
)
def test_the_development_race(s: float, society: float, dominant: float) -> None:
    assert DevelopmentRace(s=s).thresholds() == pytest.approx((society, dominant), abs=1e-6)
    rich = DevelopmentRace(s=s, B=1e12)  # a prize that dwarfs the rounds
    assert rich.thresholds() == pytest.approx((1 - 1 / s, 1 - 1 / (3 * s)), abs=1e-6)


def test_the_development_race_in_a_population() -> None:
    assert DevelopmentRace().payoffs() == pytest.approx(np.array([[51, 1.8], [75.6, 38.25]]))
    assert DevelopmentRace(p_r=0.78).safe_share() == pytest.approx(0.733274, abs=1e-6)
    assert DevelopmentRace(p_r=0.75).safe_share() == pytest.approx(0.084614, abs=1e-6)


@pytest.mark.parametrize(("d", "fine", "delta"), [(1, 0, 0.5), (0.5, 0, 2 / 3), (0.1, 0, 0.909091), (0.5, 2, 0.5)])
def test_patience(d: float, fine: float, delta: float) -> None:
    found = c.patience(PD, d, fine)
    assert found == pytest.approx(delta, abs=1e-6)
    # At the threshold both are worth the same: R for ever, or T (less the fine) once, and P or R after it.
    punished = PD.P / (1 - found)
    deviate = PD.T - d * fine + found * (d * punished + (1 - d) * PD.R / (1 - found))
    assert deviate == pytest.approx(PD.R / (1 - found))


def test_public_monitoring() -> None:
    assert c.public_monitoring(PD, 10) == pytest.approx(2.777778, abs=1e-6)
    assert c.public_monitoring(PD, 2) == PD.P


def test_the_one_shot_pledge() -> None:
    assert [c.pledge_holds(PD, d) for d in (0.4, 0.5, 0.6, 1)] == [False, True, True, True]


def test_a_pledge_needs_a_public_trigger() -> None:
    """Alarms of one's own: whoever ignores them gains, since in equilibrium every alarm is false, and answered."""
    assert not c.pledge_holds(PD, 0.9, 0.1, public=False)
    assert c.pledge_holds(PD, 0.9, 0.1, public=True)
    assert c.pledge_holds(PD, 0.9, 0.0, public=False)  # it is the false alarms


@pytest.mark.parametrize(
    ("asked", "bound"),
    [
        ((2, 2, 3, 5, inf), {0, 1, 2}),
        ((3, 3, 3), {0, 1, 2}),
        ((2, 3, 3), {0, 1, 2}),
        ((1, 4, 4, 4), {0, 1, 2, 3}),
        ((5, 5, 5, 5), set()),
    ],
)
def test_binding_conditional_commitments(asked: tuple[float, ...], bound: set[int]) -> None:
    assert c.pledged(asked) == bound


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_pledges_are_the_union_of_all_consistent_sets(asked: list[int]) -> None:
    n = len(asked)
    sets = (frozenset(s) for k in range(n + 1) for s in combinations(range(n), k))
    consistent = [s for s in sets if all(len(s) >= asked[j] for j in s)]
    assert c.pledged(asked) == frozenset().union(*consistent)


def test_the_model_pledges_as_the_treaty_does() -> None:
    assert c.activate is pledge.activate


@pytest.mark.parametrize(
    ("n", "w", "cost", "refund", "expected"),
    [
        (3, 2, 0.3, False, (0.183772, 0.816228)),
        (3, 2, 0.6, False, ()),
        (3, 2, 0.3, True, (0.823529,)),
        (7, 4, 0.2, False, (0.314106, 0.685894)),
        (7, 4, 0.2, True, (0.699436,)),
    ],
)
def test_contributions_to_a_threshold(n: int, w: int, cost: float, refund: bool, expected: tuple[float, ...]) -> None:
    assert c.contributions(n, w, cost, refund=refund) == pytest.approx(expected, abs=1e-6)


def test_barretts_coalitions() -> None:
    assert [k for k in range(1, 9) if c.linear_quadratic_gain(k) >= 0] == [1, 2, 3]
    assert [c.linear_quadratic_gain(k) for k in (1, 3)] == [0, 0]
    assert c.binary_coalition(3, 10) == 4


def test_an_uncertain_threshold_ends_cooperation_and_an_uncertain_impact_does_not() -> None:
    known = c.threshold_contribution(10, 0.1, 15, 150, 150)
    assert known == 150
    assert c.threshold_contribution(10, 0.1, 15, 50, 250) == 0  # the same mean: each unit saves 15/200 < .1
    for low, high in ((10, 20), (0, 30)):  # an impact of the same mean
        assert c.threshold_contribution(10, 0.1, (low + high) / 2, 150, 150) == known


def test_splitting_below_a_threshold() -> None:
    assert c.split_compliance(0.6, 0.6, 0.6, 0.1) == pytest.approx(0.537, abs=1e-3)


def test_samples_by_the_core() -> None:
    assert draws_needed(10_000, Decimal("0.9"), Decimal("0.01")) == 227
    assert draws_needed(10_000, Decimal("0.2"), Decimal("0.01")) == 23
    assert draws_needed(1000, Decimal("0.9"), Decimal("0.01")) == 205
