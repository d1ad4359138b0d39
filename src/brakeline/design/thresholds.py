"""Where the answer turns: critical losses D0 to D3, required detection, breakout days. Propositions P1 to P3.

Every value of the model is linear in the party's own loss D, so a threshold in D is the root of a straight line.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from brakeline.design.model import (
    Array,
    Model,
    lone_pause,
    lone_race,
)


def unverified(m: Model) -> Model:
    """The same game without inspections, background detection, fines and permits: nu = eta = F = tau = 0, c_h = c."""
    none = np.zeros(1)
    return replace(m, nu=none, eta=none, k=none, F=none, tau=none, c_h=m.c)


class Threshold(NamedTuple):
    """The loss at which an inequality turns: it holds for D below `at`, where `rises`; above it, where not.

    `at` is NaN where the difference does not depend on D. Both (..., N).
    """

    at: Array
    below: np.ndarray


def _turns(m: Model, difference: Callable[[Model], Array]) -> Threshold:
    """Where `difference` changes sign in D; `below` where it is positive under the threshold."""
    zero = difference(replace(m, D=np.zeros(1)))
    slope = difference(replace(m, D=np.ones(1))) - zero
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(slope == 0, np.nan, -zero / slope)
    return Threshold(at, slope < 0)


def d0(m: Model) -> Threshold:
    """P2: the unverified pause is worse than the race for D below D0."""
    return _turns(unverified(m), lambda u: u.W_R - u.W_C)


def d1(m: Model) -> Threshold:
    """P1: pausing alone is worse for the pauser than racing for D below D1."""
    return _turns(m, lambda u: u.W_R - lone_pause(u))


def d2(m: Model) -> Threshold:
    """P2: racing in secret pays, when nobody looks, for D below D2. The speed of cheating does not matter."""
    return _turns(unverified(m), lambda u: u.pi - u.W_C)


def d3(m: Model) -> Threshold:
    """P2: leaving openly pays, when the others pause whatever happens, for D below D3."""
    return _turns(unverified(m), lambda u: lone_race(u) - u.W_C)


class Requirement(NamedTuple):
    """`value` as the algebra gives it, and whether it means anything: `valid` where W_C > W_X.

    With permits that lapse at once, W_X = W_R - F.
    Where `valid` is false no detection deters, however the number looks: a cheat that is caught loses nothing.
    Where it is true, a value of at most 0 means that none is needed.
    """

    value: Array
    valid: np.ndarray


def required_rate(m: Model) -> Requirement:
    """mu*, 1/yr: the conviction rate that deters exponential cheating, for alpha = k = 0 (P3, P4)."""
    quiet = replace(m, alpha=np.zeros(1), k=np.zeros(1))
    comply = quiet.W_C
    lost = comply - quiet.W_X
    won = m.psi * m.lam * m.x * (m.pi - comply) + m.c - m.c_h
    with np.errstate(divide="ignore", invalid="ignore"):
        return Requirement(won / lost, lost > 0)


def required_detection(m: Model) -> Requirement:
    """beta*: the probability of detection before a lump breakout that deters it, as T_b goes to 0 (P3).

    The (T - R) / (T - P + F) of the one-shot pledge and of the folk theorem, with P - F = W_X.
    """
    quiet = replace(m, alpha=np.zeros(1), k=np.zeros(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Requirement((m.pi - quiet.W_C) / (m.pi - quiet.W_X), quiet.W_C > quiet.W_X)


def breakout_days(flop: float, chips: float, *, flop_per_second: float = 4e14) -> float:
    """Days to spend `flop` on `chips` at `flop_per_second` each; the default is 1e15 FLOP/s at 40 % utilisation."""
    return flop / (chips * flop_per_second) / 86_400
