"""The race-pause-brake model in closed form.

N blocs with compute shares x share one prize of 1. All race, or some pause; a full pause solves safety at rate g and
then all deploy together; a race ends when somebody wins, safely or not. Under a treaty a cheat is convicted in public
at rate mu_d and an honest party by mistake at rate phi_f; either ends the pause, and all race again.

States: PAUSE, RACE, done safely, done in catastrophe. Time in years, values in prizes, all discounted at r. Every
function takes arrays: the last axis counts the parties, all others broadcast.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

EXPONENTIAL: Final = "exponential"
LUMP: Final = "lump"
TOLERANCE: Final = 1e-12  # of differences between values of the order of one


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """The letters of the formulas. Each broadcasts to (..., N): what the parties share has a last axis of length 1.

    `p` and `alpha` are the probabilities that one inspection convicts a cheat and an honest party; `quorum.convict`
    gives them for inspectors that vote. See `parameters.TABLE` for the rest.
    """

    x: Array
    lam: Array
    phi: Array
    q: Array
    q_c: Array
    kappa: Array
    e: Array
    D: Array
    q_s: Array
    g: Array
    v_C: Array
    c: Array
    c_h: Array
    r: Array
    psi: Array
    T_b: Array
    psi_s: Array
    ell: Array
    rho: Array
    eps: Array
    eta: Array
    nu: Array
    p: Array
    alpha: Array
    k: Array
    F: Array
    tau: Array

    @property
    def parties(self) -> int:
        return int(self.x.shape[-1])

    @cached_property
    def W_R(self) -> Array:
        """What each party expects when all race."""
        return race_value(self, np.ones(self.parties, dtype=bool))

    @cached_property
    def W_C(self) -> Array:
        """What each party expects when all comply."""
        flow = -self.c - self.k * self.nu + self.g * self.w_s + self.mu_f * self.W_R - self.phi_f * self.F
        return np.asarray(flow / (self.r + self.g + self.mu_f))

    @cached_property
    def W_X(self) -> Array:
        """What a convict expects whose permits still run, for a time uniform on [0, tau]; W_R - F for tau = 0.

        Until the permits lapse it races at its open speed.
        """
        speed = self.lam * self.x
        s = speed + self.r
        y = s * self.tau
        lapse = np.where(y < 1e-8, 1 - y / 2, -np.expm1(-y) / np.where(y < 1e-8, 1.0, y))
        return np.asarray(speed * self.pi / s * (1 - lapse) + lapse * (self.W_R - self.F))

    @property
    def w_s(self) -> Array:
        """Value of the safe deployment that ends a full pause."""
        return (1 - self.q_s) * self.v_C - self.q_s * self.D

    @property
    def pi(self) -> Array:
        """Value of winning by cheating."""
        return (1 - self.q_c) - self.q_c * self.D

    @property
    def phi_f(self) -> Array:
        """False convictions of one party, 1/yr."""
        return self.nu * self.alpha

    @property
    def mu_f(self) -> Array:
        """False convictions of anybody, 1/yr."""
        return self.parties * self.nu * self.alpha


class Channel(NamedTuple):
    """A way to cheat: its speed, as a share of the party's open speed, and its convictions, 1/yr."""

    name: str
    speed: Array
    mu_d: Array


def channels(m: Model) -> tuple[Channel, ...]:
    """Within declared runs; split below the threshold; on compute that no account explains.

    A cheat meets at least the convictions that an honest party meets by mistake.
    """

    def rate(p: Array) -> Array:
        return m.nu * np.maximum(p, m.alpha) + m.eta

    return (
        Channel("cheat", m.psi, rate(m.p)),
        Channel("split", m.psi_s, rate(m.p * m.ell)),
        Channel("hide", np.minimum(m.rho + m.eps, 1.0), rate(np.zeros_like(m.p))),
    )


def race_value(m: Model, racers: Mask) -> Array:
    """W_i(S): what each party expects while those in `racers` race and the others pause, (..., N).

    `racers` broadcasts to (..., N) and names at least one.
    """
    share = np.where(racers, m.x, 0.0)
    total = share.sum(-1, keepdims=True)
    speed = m.lam * (total + m.phi * (1 - total))
    crowd = (racers.sum(-1, keepdims=True) - 1) / (m.parties - 1)
    risk = m.q * (1 - m.kappa * (1 - crowd))
    win = share / total
    safe, disaster = win * (1 - risk), (win * risk).sum(-1, keepdims=True)
    # Own safe wins count 1, those of others 1 - e.
    gain = safe.sum(-1, keepdims=True) * (1 - m.e) + m.e * safe - disaster * m.D
    value: Array = (speed * gain - m.c * ~racers) / (m.r + speed)
    return value


def _each(m: Model, racers: Mask) -> Array:
    return np.stack([race_value(m, row)[..., i] for i, row in enumerate(racers)], axis=-1)


def lone_pause(m: Model) -> Array:
    """W_S: what each party expects when it alone pauses."""
    return _each(m, ~np.eye(m.parties, dtype=bool))


def lone_race(m: Model) -> Array:
    """What each party expects when it alone races, the others pausing whatever it does: open exit."""
    return _each(m, np.eye(m.parties, dtype=bool))


def _cheating(m: Model, mu_d: Array) -> tuple[Array, Array]:
    """A and B: the rate at which the pause of a cheater ends, but for its success, and the flow it lives on."""
    others = m.mu_f - m.phi_f
    ends = m.r + m.g + mu_d + others
    flow = -m.c_h - m.k * m.nu + m.g * m.w_s + mu_d * m.W_X + others * m.W_R
    return ends, flow


def cheat_value(m: Model, channel: Channel, breakout: str) -> Array:
    """W_T: what each party expects when it alone cheats by `channel`.

    `exponential`: success arrives at rate speed x lam x_i. `lump`: it comes for certain after T_b, or longer at a speed
    below psi, unless the pause has ended before.
    """
    ends, flow = _cheating(m, channel.mu_d)
    if breakout == EXPONENTIAL:
        success = channel.speed * m.lam * m.x
        return np.asarray((flow + success * m.pi) / (ends + success))
    with np.errstate(divide="ignore", over="ignore"):
        survive = np.where(channel.speed > 0, np.exp(-ends * m.T_b * m.psi / channel.speed), 0.0)
    return np.asarray(flow / ends + (m.pi - flow / ends) * survive)


def margin(m: Model, channel: Channel, breakout: str) -> Array:
    """W_C - W_T, by party; infinite where the channel has no speed, so that nobody can go that way."""
    value = m.W_C - cheat_value(m, channel, breakout)
    return np.where(channel.speed > 0, value, np.inf)


def identity(m: Model, channel: Channel) -> Array:
    """The core identity, for exponential cheating: (W_C - W_T) times the denominator of W_T.

        mu_d (W_C - W_X) - phi_f (W_C - W_R + F)  -  [a (pi - W_C) + c - c_h]

    With tau = 0 the first two terms are (mu_d - phi_f)(W_C - W_R + F): the net discriminating rate times what is lost
    when caught, less the rate of covert success times what is won.
    """
    success = channel.speed * m.lam * m.x
    kept = channel.mu_d * (m.W_C - m.W_X) - m.phi_f * (m.W_C - m.W_R + m.F)
    value: Array = kept - (success * (m.pi - m.W_C) + m.c - m.c_h)
    return value


def participation(m: Model) -> Array:
    """W_C - W_R: what each party gains by the pause over the race. Open exit from a conditional pause yields W_R."""
    return m.W_C - m.W_R


def slack(m: Model, breakout: str) -> Array:
    """The smallest of participation and the margins of all channels, by party; the pause is stable where it is >= 0."""
    margins = (margin(m, channel, breakout) for channel in channels(m))
    return reduce(np.minimum, margins, participation(m))


def stable(m: Model, breakout: str) -> Mask:
    """Whether complying is an equilibrium for all parties, (...)."""
    return np.asarray((slack(m, breakout) >= -TOLERANCE).all(-1))


def catastrophe(m: Model, racers: Mask) -> Array:
    """Probability that the race of `racers` ends in catastrophe, however long it takes, (...)."""
    share = np.where(racers, m.x, 0.0)
    total = share.sum(-1, keepdims=True)
    crowd = (racers.sum(-1, keepdims=True) - 1) / (m.parties - 1)
    return np.asarray((share / total * m.q * (1 - m.kappa * (1 - crowd))).sum(-1))
