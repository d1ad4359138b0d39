"""The race-pause-brake model: check values, the identity by Monte Carlo, equilibria by nashpy, traps of the algebra."""

from dataclasses import replace
from typing import Any

import nashpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.design import thresholds
from brakeline.design.coalition import entry, members, payoffs, stable_coalitions
from brakeline.design.model import (
    EXPONENTIAL,
    LUMP,
    Channel,
    Model,
    catastrophe,
    channels,
    cheat_value,
    identity,
    lone_pause,
    lone_race,
    margin,
    participation,
    slack,
    stable,
)
from brakeline.design.quorum import CONFIRMED, INDEPENDENT, convict
from brakeline.design.regime import VERDICTS, Regime, Verdict, game, regime, verdict, verdicts
from brakeline.design.window import intervals

REFERENCE = {
    "lam": 0.3, "phi": 0.3, "q": 0.2, "kappa": 0.3, "e": 1, "D": 2, "q_s": 0.02, "g": 0.1, "v_C": 0.5, "c": 0.02,
    "r": 0.05, "psi": 0.5, "T_b": 0.25, "psi_s": 0, "ell": 0, "rho": 0, "eps": 0, "eta": 0, "nu": 0, "p": 0,
    "alpha": 0, "k": 0, "F": 0, "tau": 0,
}  # fmt: skip
INSPECTED = {"F": 0.1, "nu": 12, "p": 0.1, "alpha": 0.002, "k": 2e-4, "eta": 0.2}


def model(*, x: Any = (0.5, 0.5), **changes: Any) -> Model:
    letters = REFERENCE | changes
    letters = {"q_c": letters["q"], "c_h": letters["c"]} | letters
    return Model(x=np.array(x), **{k: np.atleast_1d(np.asarray(v, dtype=float)) for k, v in letters.items()})


def cheat(m: Model) -> Channel:
    return channels(m)[0]


# --- values


def test_the_reference_values() -> None:
    m = model(**INSPECTED)
    assert list(m.W_C) == pytest.approx([0.102020] * 2, abs=1e-6)
    assert cheat_value(m, cheat(m), EXPONENTIAL) == pytest.approx([-0.053002] * 2, abs=1e-6)
    assert identity(m, cheat(m)) == pytest.approx([0.255631] * 2, abs=1e-6)
    lump = model(**INSPECTED, T_b=0.4)
    assert cheat_value(lump, cheat(lump), LUMP) == pytest.approx([0.178275] * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("D", "race", "alone", "pause", "prize", "rate", "before"),
    [
        (1, 0.171429, -0.193061, 0.180000, 0.6, 3.675000, 0.980000),
        (2, 0.000000, -0.304490, 0.166667, 0.4, 0.105000, 0.583333),
        (3, -0.171429, -0.415918, 0.153333, 0.2, 0.010777, 0.125641),
        (4, -0.342857, -0.527347, 0.140000, 0.0, -0.021746, None),
    ],
)
def test_values_by_loss(
    D: float, race: float, alone: float, pause: float, prize: float, rate: float, before: float | None
) -> None:
    m = model(D=D)
    found = m.W_R[0], lone_pause(m)[0], m.W_C[0], m.pi[0]
    assert found == pytest.approx((race, alone, pause, prize), abs=1e-6)
    required = thresholds.required_rate(m)
    assert required.valid.all()
    assert required.value[0] == pytest.approx(rate, abs=1e-6)
    detection = thresholds.required_detection(m).value[0]
    assert detection == pytest.approx(before, abs=1e-6) if before is not None else detection < 0


def test_the_thresholds_in_the_loss() -> None:
    m = model()
    found = [t(m).at[0] for t in (thresholds.d0, thresholds.d1, thresholds.d2, thresholds.d3)]
    assert found == pytest.approx([0.945783, 7.074830, 3.25, 5.006935], abs=1e-6)
    assert thresholds.d2(model(q_c=0.14)).at[0] == pytest.approx(5.263158, abs=1e-6)


def test_the_first_threshold_agrees_with_its_formula() -> None:
    lam, phi, q, kappa, e, c, r = 0.4, 0.2, 0.15, 0.25, 0.7, 0.03, 0.06
    slow, risk = lam * (1 + phi) / 2, q * (1 - kappa)
    top = lam * (1 - q) * (2 - e) / 2 / (r + lam) - (-c + slow * (1 - risk) * (1 - e)) / (r + slow)
    d1 = top / (lam * q / (r + lam) - slow * risk / (r + slow))
    assert thresholds.d1(model(lam=lam, phi=phi, q=q, kappa=kappa, e=e, c=c, r=r)).at[0] == pytest.approx(d1)


def test_a_lone_pause_of_the_careful_raises_the_risk_for_all() -> None:
    m = model(q=[0.1, 0.3], kappa=0.1)
    assert catastrophe(m, np.array([True, True])) == pytest.approx(0.20)
    assert catastrophe(m, np.array([False, True])) == pytest.approx(0.27)
    assert catastrophe(m, np.array([True, False])) < 0.20


@pytest.mark.parametrize(
    ("x", "kappa", "ratio"), [(0.3, 0.1, 1.5), (0.5, 0.1, 1.25), (0.7, 0.1, 7 / 6), (0.5, 0.3, 2.5)]
)
def test_the_ratio_of_risks_from_which_a_lone_pause_raises_the_risk(x: float, kappa: float, ratio: float) -> None:
    def rises(times: float) -> bool:
        m = model(x=[x, 1 - x], q=[0.1, 0.1 * times], kappa=kappa)
        return bool(catastrophe(m, np.array([False, True])) > catastrophe(m, np.array([True, True])))

    assert not rises(ratio - 1e-6)
    assert rises(ratio + 1e-6)


@pytest.mark.parametrize(("tau", "rate"), [(0, 0.105), (0.25, 0.109862), (1, 0.126289), (2, 0.153608)])
def test_longer_permits_cost_more_detection(tau: float, rate: float) -> None:
    assert thresholds.required_rate(model(tau=tau)).value[0] == pytest.approx(rate, abs=1e-6)
    at = model(tau=tau, eta=rate)
    assert margin(at, cheat(at), EXPONENTIAL)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("quorum", "corrupt", "p", "alpha"),
    [(2, 0, 0.670583, 0.002031), (3, 0, 0.352930, 0.000034), (3, 2, 0.163080, 0.049010), (2, 2, 0.471780, 1)],
)
def test_quorums(quorum: int, corrupt: int, p: float, alpha: float) -> None:
    found = convict(0.3, 0.01, 7, quorum, corrupt, INDEPENDENT)
    assert (float(found.p), float(found.alpha)) == pytest.approx((p, alpha), abs=1e-6)


def test_confirmation_catches_more_and_accuses_as_little() -> None:
    alone, confirmed = (convict(0.3, 0.01, 7, 3, 0, how) for how in (INDEPENDENT, CONFIRMED))
    assert confirmed.p == pytest.approx(1 - 0.7**7, abs=1e-4)
    assert confirmed.p > 2 * alone.p
    assert confirmed.alpha < 4 * alone.alpha < 2e-4
    assert convict(0.3, 0.01, 7, 3, 3, CONFIRMED) == (0, 1)  # who can clear the guilty can frame the innocent
    assert convict(0.3, 0.01, 3, 3, 1, CONFIRMED).p == 0  # two honest inspectors are no quorum of three ...
    # ... unless one more may confirm
    assert convict(0.3, 0.01, 3, 3, 1, CONFIRMED, 4).p == pytest.approx(1 - 0.7**2, abs=1e-4)


def test_breakout_times() -> None:
    days = thresholds.breakout_days
    assert [round(days(f, 1e4), 1) for f in (1e25, 1e26)] == [28.9, 289.4]
    assert [round(days(f, 5e4), 1) for f in (1e25, 1e26, 1e27)] == [5.8, 57.9, 578.7]
    assert [round(days(f, 2e5), 1) for f in (1e25, 1e26, 1e27)] == [1.4, 14.5, 144.7]


# --- the identity

unit = st.floats(0, 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(unit, min_size=16, max_size=16), st.integers(2, 5))
def test_the_core_identity_is_exact(u: list[float], n: int) -> None:
    names = ("lam", "phi", "q", "kappa", "e", "D", "q_s", "v_C", "c", "c_h", "psi", "eta", "nu", "p", "alpha", "F")
    high = (1, 1, 0.5, 0.5, 1.2, 10, 0.05, 0.9, 0.05, 0.05, 1, 0.5, 50, 1, 0.2, 0.5)
    letters = {name: 0.01 + value * top for name, value, top in zip(names, u, high, strict=True)}
    m = model(x=np.full(n, 1 / n), **letters)
    ch = cheat(m)
    denominator = m.r + m.psi * m.lam * m.x + m.g + ch.mu_d + m.mu_f - m.phi_f
    difference = (m.W_C - cheat_value(m, ch, EXPONENTIAL)) * denominator
    assert identity(m, ch) == pytest.approx(difference, abs=1e-11)


@pytest.mark.parametrize("breakout", [EXPONENTIAL, LUMP])
def test_the_values_against_monte_carlo(breakout: str) -> None:
    """Draw the first of all competing events: only what each event is worth is taken from the model."""
    m = model(**INSPECTED, T_b=0.4, D=2)
    draws, rng = 400_000, np.random.default_rng(7)
    one = {name: float(getattr(m, name)[0]) for name in Model.__dataclass_fields__}
    race, safe, prize = 0.0, 0.98 * 0.5 - 0.02 * 2, 0.8 - 0.2 * 2
    false = one["nu"] * one["alpha"]

    def mean(rates: dict[str, tuple[float, float]], lump: float) -> tuple[float, float]:
        times = np.stack([rng.exponential(1 / rate, draws) for rate, _ in rates.values()] + [np.full(draws, lump)])
        first, at = times.argmin(0), times.min(0)
        worth = np.array([*(value for _, value in rates.values()), prize])[first]
        flow = one["c"] + one["k"] * one["nu"]
        paid = worth * np.exp(-one["r"] * at) - flow * -np.expm1(-one["r"] * at) / one["r"]
        return float(paid.mean()), float(paid.std() / draws**0.5)

    comply = {"safe": (one["g"], safe), "me": (false, race - 0.1), "other": (false, race)}
    found, error = mean(comply, np.inf)
    assert abs(found - m.W_C[0]) < 4.5 * error
    caught = one["nu"] * one["p"] + one["eta"]
    cheats = {"safe": (one["g"], safe), "caught": (caught, race - 0.1), "other": (false, race)}
    if breakout == EXPONENTIAL:
        cheats["win"] = (0.5 * 0.3 * 0.5, prize)
    found, error = mean(cheats, 0.4 if breakout == LUMP else np.inf)
    assert abs(found - cheat_value(m, cheat(m), breakout)[0]) < 4.5 * error


# --- traps


def test_the_sign_trap() -> None:
    """A negative rate looks as if no detection were needed. It is worthless where being caught costs nothing."""
    m = model(D=0.5)
    rate, before = thresholds.required_rate(m), thresholds.required_detection(m)
    assert rate.value[0] == pytest.approx(-0.546284, abs=1e-6)
    assert before.value[0] == pytest.approx(1.159140, abs=1e-6)
    assert not rate.valid.any()
    assert not before.valid.any()
    assert verdict(m, EXPONENTIAL) is Verdict.DO_NOT_PAUSE
    for detection in (0.0, 0.22, 5.0, 300.0):  # the cheat pays whatever the rate
        at = replace(m, eta=np.array([detection]))
        assert margin(at, cheat(at), EXPONENTIAL)[0] < 0
    # With a fine the number is lawful, and the pause is still not worth it.
    fined = model(D=0.5, F=0.1)
    assert thresholds.required_rate(fined).value[0] == pytest.approx(1.304032, abs=1e-6)
    assert thresholds.required_detection(fined).value[0] == pytest.approx(0.945614, abs=1e-6)
    assert thresholds.required_rate(fined).valid.all()
    assert (participation(fined) < 0).all()
    assert not stable(replace(fined, eta=np.array([50.0])), EXPONENTIAL)


@pytest.mark.parametrize(
    ("alpha", "low", "high"),
    [(0, 0.66, 124.9), (0.003, 0.72, 50.0), (0.01, 0.88, 20.8), (0.02, 1.30, 11.4), (0.03, 2.2, 7.8)],
)
def test_too_many_inspections_break_a_treaty(alpha: float, low: float, high: float) -> None:
    ((found_low, found_high),) = windows(EXPONENTIAL, p=0.1, k=2e-4, alpha=alpha)
    assert found_low == pytest.approx(low, rel=0.01)
    assert found_high == pytest.approx(high, rel=0.01)
    assert windows(EXPONENTIAL, p=0.1, k=2e-4, alpha=0.05) == ()


@pytest.mark.parametrize(
    ("T_b", "p", "least"),
    [(0.25, 0.2, (12.4, 15.4, None)), (0.25, 0.5, (4.96, 5.41, 9.89)), (0.08, 0.2, (39.2, 70.4, None))],
)
def test_the_least_inspections_before_a_lump_breakout(T_b: float, p: float, least: tuple[float | None, ...]) -> None:
    for alpha, low in zip((0, 0.001, 0.01), least, strict=True):
        found = windows(LUMP, p=p, alpha=alpha, T_b=T_b)
        assert found[0][0] == pytest.approx(low, rel=0.005) if low else found == ()


def test_the_shortest_breakout_that_is_deterred() -> None:
    """P3, lump: T_b >= ln[(pi - B/A) / (W_C - B/A)] / A, here written out from the letters."""
    m = model(F=0.1, eta=2.5)
    ends = 0.05 + 0.1 + 2.5
    rest = (-0.02 + 0.1 * m.w_s[0] + 2.5 * (m.W_R[0] - 0.1)) / ends
    least = np.log((m.pi[0] - rest) / (m.W_C[0] - rest)) / ends
    sooner, later = (replace(m, T_b=np.array([least + d])) for d in (-1e-6, 1e-6))
    assert margin(sooner, cheat(sooner), LUMP)[0] < 0 < margin(later, cheat(later), LUMP)[0]


def windows(breakout: str, **changes: Any) -> tuple[tuple[float, float], ...]:
    def holds(nu: Any) -> Any:
        return stable(model(F=0.1, nu=nu[:, None], **changes), breakout)

    return intervals(holds, np.geomspace(0.05, 300, 400))


def test_background_detection_is_far_too_slow_for_a_short_breakout() -> None:
    assert [-np.expm1(-eta * 0.25) for eta in (0.22, 0.48)] == pytest.approx([0.05, 0.11], abs=0.005)
    for eta in (0.22, 0.48):
        slow, soon = model(eta=eta), model(eta=eta)
        assert margin(slow, cheat(slow), EXPONENTIAL)[0] > 0
        assert margin(soon, cheat(soon), LUMP)[0] < 0


def test_an_account_with_a_hole_is_found_out_by_the_margin_of_hiding() -> None:
    """The cheat that inspections cannot meet: it pays without the bound on the residual, and not under it."""
    sound = model(**INSPECTED | {"p": 0.9, "nu": 26, "alpha": 0}, rho=0.005)
    leaky = replace(sound, rho=np.array([0.2]))
    assert stable(sound, LUMP)
    assert (margin(leaky, channels(leaky)[0], LUMP) > 0).all()  # within declared runs nobody cheats
    assert (margin(leaky, channels(leaky)[2], LUMP) < 0).all()
    assert not stable(leaky, LUMP)


def test_splitting_pays_where_lineage_is_not_counted() -> None:
    counted = model(**INSPECTED | {"p": 0.9, "alpha": 0, "eta": 0}, psi_s=0.4, ell=0.9)
    blind = replace(counted, ell=np.zeros(1))
    assert (margin(counted, channels(counted)[1], LUMP) > 0).all()
    assert (margin(blind, channels(blind)[1], LUMP) < 0).all()


# --- games


def test_regimes_by_their_payoffs() -> None:
    assert regime(5, 3, 1, 0) is Regime.DILEMMA
    assert regime(2, 3, 1, 0) is Regime.ASSURANCE
    assert regime(2, 3, 1, 2) is Regime.PAUSING
    assert regime(5, 1, 2, 0) is Regime.RACING
    assert regime(5, 3, 0, 1) is Regime.CHICKEN
    assert regime(2, 3, 4, 0) is Regime.COORDINATION  # neither is dominant: all race, or all pause, which is worse


def test_a_dominant_pause_is_best_against_every_coalition() -> None:
    """Three parties: pausing alone pays, and so does staying in a full pause, yet somebody would leave between."""
    m = model(x=[0.09, 0.27, 0.64], e=0, D=8, g=0.35, v_C=0.9, phi=0, q=0.1, kappa=0.5)
    u = thresholds.unverified(m)
    assert (lone_pause(u) >= u.W_R).all()
    assert (lone_race(u) <= u.W_C).all()
    table = payoffs(u, whole_is_stable=True)
    gains = [table[i | 1 << j, j] - table[i, j] for i in range(8) for j in range(3) if not i >> j & 1]
    assert min(gains) < 0
    assert verdict(m, EXPONENTIAL) is Verdict.NO_VERIFICATION


@pytest.mark.parametrize(
    ("D", "expected", "said"),
    [
        (0.5, Regime.RACING, Verdict.DO_NOT_PAUSE),
        (2, Regime.DILEMMA, Verdict.NO_RATE),
        (4, Regime.ASSURANCE, Verdict.NO_VERIFICATION),
        (9, Regime.PAUSING, Verdict.DOMINANT),
    ],
)
def test_the_game_changes_with_the_loss(D: float, expected: Regime, said: Verdict) -> None:
    m = model(D=D)
    assert set(game(m, EXPONENTIAL, conditional=True)) == {expected}
    assert verdict(m, EXPONENTIAL) is said


def test_leaving_in_the_open_tempts_longer_when_nobody_answers() -> None:
    m = model(D=4)  # between D2 and D3
    assert set(game(m, EXPONENTIAL, conditional=False)) == {Regime.DILEMMA}
    assert set(game(m, EXPONENTIAL, conditional=True)) == {Regime.ASSURANCE}


def test_verdicts_of_a_batch_are_those_of_its_members() -> None:
    D = np.linspace(0.2, 9, 23)
    batch = verdicts(model(D=D[:, None], nu=3, p=0.5, F=0.1), EXPONENTIAL)
    single = [verdict(model(D=d, nu=3, p=0.5, F=0.1), EXPONENTIAL) for d in D]
    assert [VERDICTS[i] for i in batch] == single
    assert len(set(single)) >= 4


@pytest.mark.parametrize("D", [0.5, 2, 4, 9])
def test_regimes_against_nashpy(D: float) -> None:
    m = model(D=D)
    T, R, P, S = max(m.W_R[0], cheat_value(m, cheat(m), EXPONENTIAL)[0]), m.W_C[0], m.W_R[0], lone_pause(m)[0]
    row = np.array([[R, S], [T, P]])
    found = {tuple(int(s.argmax()) for s in e) for e in nashpy.Game(row, row.T).support_enumeration() if max(e[0]) == 1}
    pure = {
        Regime.RACING: {(1, 1)},
        Regime.DILEMMA: {(1, 1)},
        Regime.ASSURANCE: {(0, 0), (1, 1)},
        Regime.PAUSING: {(0, 0)},
    }
    assert found == pure[regime(T, R, P, S)]


@pytest.mark.parametrize("times", [0.9, 1.1])
def test_compliance_against_nashpy_on_both_sides_of_the_required_rate(times: float) -> None:
    m = model(D=2)
    rate = times * float(thresholds.required_rate(m).value[0])
    at = replace(m, eta=np.array([rate]))
    a = 0.5 * 0.3 * 0.5
    lost = -0.2 * 2  # the other won covertly: nothing of the prize (e = 1), and the risk
    victim = (-0.02 + 0.1 * at.w_s[0] + a * lost + rate * at.W_R[0]) / (0.05 + 0.1 + a + rate)
    row = np.array([[at.W_C[0], victim], [cheat_value(at, cheat(at), EXPONENTIAL)[0], at.W_R[0]]])
    pure = [e for e in nashpy.Game(row, row.T).support_enumeration() if e[0][0] == e[1][0] == 1]
    assert bool(pure) == (times > 1)
    assert (slack(at, EXPONENTIAL) >= 0).all() == (times > 1)


# --- coalitions


def test_pauses_stable_without_conditions() -> None:
    table = payoffs(model(D=2), whole_is_stable=True)
    assert members(2)[stable_coalitions(table)].tolist() == [[False, False]]
    both = payoffs(model(D=6), whole_is_stable=True)
    assert members(2)[stable_coalitions(both)].tolist() == [[False, False], [True, True]]


def test_barretts_linear_quadratic_coalitions() -> None:
    n = 6
    size = members(n).sum(1)[:, None]
    total = np.where(size > 0, size * size, 0) + (n - size)
    table = np.where(members(n), total - size**2 / 2, total - 1 / 2)
    sizes = set(members(n)[stable_coalitions(table)].sum(1).tolist())
    assert max(sizes) == 3
    assert sizes == {0, 2, 3}  # ties: the first member, and the third, gain nothing by joining


def test_barretts_binary_coalition() -> None:
    n, benefit, cost = 6, 3, 10
    size = members(n).sum(1)[:, None]
    acts = size * benefit >= cost
    table = np.where(acts, size * benefit - members(n) * cost, 0)
    assert {4} <= set(members(n)[stable_coalitions(table)].sum(1).tolist()) <= {0, 1, 2, 4}


def test_entry_counts_the_worst_coalition() -> None:
    m = model(x=[0.6, 0.2, 0.2], D=3)
    table = payoffs(m, whole_is_stable=True)
    found = entry(table)
    for i, k in enumerate(found.least):
        here = members(3)[:, i] & (members(3).sum(1) >= k)
        assert (table[here, i] >= table[0, i] - 1e-12).all()
    assert found.bound == {0, 1, 2}
    assert entry(payoffs(m, whole_is_stable=False)).least == (3, 3, 3)  # a pause that ends in the race costs nothing
