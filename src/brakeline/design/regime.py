"""Which game it is: from temptation, reward, punishment and the sucker's value, and from a whole model to a verdict."""

from dataclasses import replace
from enum import StrEnum
from functools import reduce
from typing import Final

import numpy as np

from brakeline.design.coalition import pausing_dominant, payoffs
from brakeline.design.model import (
    TOLERANCE,
    Array,
    Mask,
    Model,
    channels,
    cheat_value,
    lone_pause,
    lone_race,
    margin,
    participation,
    stable,
)
from brakeline.design.thresholds import unverified


class Regime(StrEnum):
    """The 2 x 2 game between one party and the others: pause or race."""

    RACING = "racing dominant"  # and the pause is no better for anybody: a deadlock, not a dilemma
    PAUSING = "pausing dominant"
    DILEMMA = "prisoner's dilemma"
    ASSURANCE = "assurance game"
    CHICKEN = "chicken"  # leaving pays, but so does pausing alone
    COORDINATION = "coordination game in which the race is better"  # nobody would leave either alone


def regime(T: float, R: float, P: float, S: float) -> Regime:
    """T: leaving a pause; R: the pause; P: the race; S: pausing alone. The pause is worth it when R > P."""
    if T > R + TOLERANCE:
        if S >= P - TOLERANCE:
            return Regime.CHICKEN
        return Regime.DILEMMA if R > P + TOLERANCE else Regime.RACING
    if S >= P - TOLERANCE:
        return Regime.PAUSING
    return Regime.ASSURANCE if R > P + TOLERANCE else Regime.COORDINATION


def temptation(m: Model, breakout: str, *, conditional: bool) -> Array:
    """What the best way out of an unverified pause is worth, by party, (..., N).

    Cheating when nobody looks, by the fastest channel; or leaving in the open: alone, or with all others answering.
    """
    u = unverified(m)
    covert = [np.where(ch.speed > 0, cheat_value(u, ch, breakout), -np.inf) for ch in channels(u)]
    leave = u.W_R if conditional else lone_race(u)
    return reduce(np.maximum, covert, leave)


def game(m: Model, breakout: str, *, conditional: bool) -> tuple[Regime, ...]:
    """The regime of every party in the game without verification."""
    u = unverified(m)
    values = (temptation(m, breakout, conditional=conditional), u.W_C, u.W_R, lone_pause(u))
    rows = zip(*(np.broadcast_to(v, (m.parties,)) for v in values), strict=True)
    return tuple(regime(*map(float, row)) for row in rows)


class Verdict(StrEnum):
    """What a model says of a conditional pause, from the least intervention to none that helps."""

    DO_NOT_PAUSE = "do not pause"  # for somebody the race is at least as good, inspections or not
    DOMINANT = "pausing is dominant"  # each pauses whatever the others do: no treaty needed
    NO_VERIFICATION = "no verification needed"  # nobody gains by cheating unseen: a conditional pledge is enough
    BACKGROUND = "no inspections needed"  # background detection and the answer to it are enough
    STABLE = "stable as inspected"
    UNSTABLE = "unstable at this rate of inspections, stable at another"
    NO_RATE = "unstable at every rate of inspections"


VERDICTS: Final = tuple(Verdict)
RATES: Final = np.geomspace(0.05, 400, 60)  # inspections a year that a verdict tries


def verdicts(m: Model, breakout: str) -> np.ndarray:
    """Index into VERDICTS, for every model of a batch, (...).

    A verdict about the parties together: the weakest link decides. `NO_RATE` also covers the sign trap: where nothing
    is lost by being caught, a formula may give a rate, but no rate deters.
    """
    calm = replace(m, nu=np.zeros(1))
    u = unverified(m)
    worth = (participation(u) > TOLERANCE).all(-1)
    alone = (lone_pause(u) >= u.W_R - TOLERANCE).all(-1)
    honest = (temptation(m, breakout, conditional=True) <= u.W_C + TOLERANCE).all(-1)
    stays = (lone_race(u) <= u.W_C + TOLERANCE).all(-1)
    some = reduce(np.logical_or, (stable(replace(m, nu=np.array([rate])), breakout) for rate in RATES))
    conditions = [
        ~worth,
        _dominant(u, np.asarray(worth & alone & honest & stays)),
        honest,
        stable(calm, breakout),
        stable(m, breakout),
        some,
    ]
    return np.select(np.broadcast_arrays(*conditions), list(range(6)), default=6)


def _dominant(u: Model, candidates: Mask) -> Mask:
    """Which of the `candidates`, (...), pass against every set of others that pause, not only all and none."""
    found = candidates.copy()
    if u.parties == 2 or not found.any():
        return found
    letters = {name: getattr(u, name) for name in Model.__dataclass_fields__}
    rows = {name: np.broadcast_to(v, (*found.shape, v.shape[-1]))[found] for name, v in letters.items()}
    step = max(1, 2**18 >> u.parties)  # so many at once fit into memory
    parts = (Model(**{name: v[i : i + step] for name, v in rows.items()}) for i in range(0, int(found.sum()), step))
    found[found] = np.concatenate([pausing_dominant(payoffs(part, whole_is_stable=True)) for part in parts])
    return found


def verdict(m: Model, breakout: str) -> Verdict:
    """The verdict on a single model."""
    return VERDICTS[int(verdicts(m, breakout))]


def binding(m: Model, breakout: str) -> tuple[int, str, float]:
    """The party and the condition with the least slack, and that slack, in prizes: what breaks first."""
    rows = {"participation": participation(m)}
    rows |= {ch.name: margin(m, ch, breakout) for ch in channels(m)}
    table = np.stack([np.broadcast_to(v, (m.parties,)) for v in rows.values()])
    row, party = np.unravel_index(int(np.argmin(table)), table.shape)
    return int(party), list(rows)[row], float(table[row, party])
