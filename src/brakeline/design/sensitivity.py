"""What decides: Sobol indices of the margin over the parameters' ranges, and how often the usual claims hold there."""

from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
from SALib.analyze import sobol as analyze
from SALib.sample import sobol as sample

from brakeline.design.model import (
    EXPONENTIAL,
    Array,
    Model,
    channels,
    lone_pause,
    margin,
    participation,
)
from brakeline.design.parameters import PARAMETERS
from brakeline.design.scenario import Scenario, build
from brakeline.design.thresholds import unverified

# Everything that the margin of compliance depends on and that people may disagree about or choose.
FACTORS: Final = (
    "risk",
    "loss",
    "arrival_rate",
    "fine",
    "safety_rate",
    "discount",
    "solo_relief",
    "pause_risk",
    "shared_value",
    "pause_cost",
    "leakage",
    "enmity",
    "covert_speed",
    "background",
    "inspections",
    "coverage",
)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Sobol indices of one factor with the half-width of their 95 % bootstrap interval.

    `low` and `high`: the margin with this factor alone at the ends of its range, for a tornado, in prizes.
    """

    factor: str
    label: str
    first: float
    first_half: float
    total: float
    total_half: float
    low: float
    high: float


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of draws from the uniform priors. Each is conditional on the one before it, as its name says."""

    draws: int
    lone_pause_irrational: float
    pause_beats_race: float
    of_those_unverified_unstable: float
    of_those_stable_when_verified: float


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """Sobol analysis of the least margin of covert cheating, over the parameters' ranges as independent priors."""

    scenario: str
    breakout: str
    samples: int
    seed: int
    margin: float
    indices: tuple[Index, ...]
    claims: Claims


def _draw(s: Scenario, unit: Array, names: tuple[str, ...]) -> dict[str, Array]:
    """Uniform values from unit cubes, one parameter a column. `shared_value` starts at 1/N."""
    low = np.array([1 / len(s.parties) if n == "shared_value" else PARAMETERS[n].low for n in names])
    high = np.array([PARAMETERS[n].high for n in names])
    values = low + unit * (high - low)
    return {name: values[:, [i]] for i, name in enumerate(names)}


def _margin(s: Scenario, changes: dict[str, Array]) -> Array:
    """The least margin over the parties against a cheat within declared runs."""
    m = build(_free(s), changes)
    return np.asarray(margin(m, channels(m)[0], s.breakout).min(-1))


def _free(s: Scenario) -> Scenario:
    """What follows another parameter by default must follow it in the draws as well."""
    values = {k: v for k, v in s.values.items() if k not in ("covert_risk", "cheat_cost")}
    return replace(s, values=values)


def sobol(s: Scenario, *, samples: int, seed: int, factors: tuple[str, ...] = FACTORS) -> Sensitivity:
    """Saltelli's scheme: `samples`, a power of two, times (factors + 2) evaluations. The seed fixes everything."""
    problem: dict[str, Any] = {
        "num_vars": len(factors),
        "names": list(factors),
        "bounds": [[0.0, 1.0]] * len(factors),
    }
    unit = sample.sample(problem, samples, calc_second_order=False, seed=seed)
    y = _margin(s, _draw(s, unit, factors))
    found = analyze.analyze(problem, y, calc_second_order=False, seed=seed)
    ends = {name: _margin(s, _draw(s, np.array([[0.0], [1.0]]), (name,))) for name in factors}
    indices = (
        Index(
            factor=name,
            label=s.label(name),
            first=float(found["S1"][i]),
            first_half=float(found["S1_conf"][i]),
            total=float(found["ST"][i]),
            total_half=float(found["ST_conf"][i]),
            low=float(ends[name][0]),
            high=float(ends[name][1]),
        )
        for i, name in enumerate(factors)
    )
    return Sensitivity(
        scenario=s.name,
        breakout=s.breakout,
        samples=samples,
        seed=seed,
        margin=float(_margin(s, {})),
        indices=tuple(sorted(indices, key=lambda x: -x.total)),
        claims=claims(s, draws=100_000, seed=seed),
    )


# What the claims without verification depend on; detection and fines come in with the rate of convictions.
DRAWN: Final = tuple(f for f in FACTORS if f not in {"fine", "background", "inspections", "coverage"})


def claims(s: Scenario, *, draws: int, seed: int) -> Claims:
    """How often, over uniform priors, a lone pause is irrational, a shared one worth it, unstable, and mended.

    Mended: stable against exponential cheating at a conviction rate uniform on .1 to 3 a year, without false alarms.
    """
    rng = np.random.default_rng(seed)
    changes = _draw(s, rng.random((draws, len(DRAWN))), DRAWN)
    m = build(_free(s), changes)
    u = unverified(m)
    worth = (participation(u) > 0).all(-1)
    unstable = worth & (u.pi > u.W_C).any(-1)
    rate = rng.uniform(0.1, 3, (draws, 1))
    v = _convicting(u, rate)
    mended = unstable & (margin(v, channels(v)[0], EXPONENTIAL) >= 0).all(-1)
    return Claims(
        draws=draws,
        lone_pause_irrational=float((lone_pause(m) < m.W_R).any(-1).mean()),
        pause_beats_race=float(worth.mean()),
        of_those_unverified_unstable=float(unstable.sum() / max(1, worth.sum())),
        of_those_stable_when_verified=float(mended.sum() / max(1, unstable.sum())),
    )


def _convicting(m: Model, rate: Array) -> Model:
    """The model in which cheats are convicted at `rate` a year, and nobody else."""
    return replace(m, eta=rate, nu=np.zeros(1))
