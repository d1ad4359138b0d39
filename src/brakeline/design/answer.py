"""The answer to a scenario: the game it is, propositions P1 to P5 and what binds, windows, coalitions, a verdict."""

from typing import Any, Final

import msgspec
import numpy as np

from brakeline.design.coalition import entry, members, payoffs, stable_coalitions
from brakeline.design.measured import clean_audits
from brakeline.design.model import (
    EXPONENTIAL,
    LUMP,
    TOLERANCE,
    Array,
    Model,
    catastrophe,
    channels,
    lone_pause,
    margin,
    stable,
)
from brakeline.design.parameters import TABLE
from brakeline.design.regime import Regime, Verdict, binding, game, verdict, verdicts
from brakeline.design.scenario import Scenario, build
from brakeline.design.thresholds import d0, d1, d2, d3, required_detection, required_rate, unverified
from brakeline.design.window import Interval, allowed, stable_where

BREAKOUTS: Final = (EXPONENTIAL, LUMP)


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One party's values, in prizes; thresholds in its loss D, None where there is none.

    `required_rate` (convictions a year) and `required_detection` (before a lump breakout) are None where no detection
    deters, because a cheat that is caught loses nothing; at most 0 means that none is needed.
    """

    name: str
    share: float
    race: float
    pause_alone: float
    pause: float
    inspected_pause: float
    win_by_cheating: float
    regime: str
    regime_if_conditional: str
    D: float
    D0: float | None
    D1: float | None
    D2: float | None
    D3: float | None
    required_rate: float | None
    required_detection: float | None
    joins_at: int | None


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """P1. A lone pause by `party`: worse for itself, and whether it makes a catastrophe likelier for all."""

    party: str
    privately_worse: bool
    globally_worse: bool
    catastrophe_race: float
    catastrophe_alone: float


class Treaty(msgspec.Struct, frozen=True, kw_only=True):
    """P3 to P5 under one breakout assumption, at one reading of the measured inputs.

    `binds` names the party and the condition with the least slack (prizes). The windows hold all other parameters as in
    the scenario: inspections a year, permit lifetime in years, unexplained share of compute, quorums.
    """

    breakout: str
    inputs: str
    conviction: float
    false_conviction: float
    stable: bool
    verdict: str
    binds: tuple[str, str, float]
    inspections: tuple[Interval, ...]
    longest_permit: float | None
    largest_residual: float | None
    smallest_quorum: int | None
    largest_false_alarm: float | None
    clean_audits_needed: int | None

    @property
    def summary(self) -> str:
        """The verdict, and whether the inspections break what would hold without them."""
        broken = self.verdict in (Verdict.DOMINANT, Verdict.NO_VERIFICATION, Verdict.BACKGROUND) and not self.stable
        return f"{self.verdict}; at this rate of inspections unstable" if broken else self.verdict


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that `brakeline design answer` says.

    `stable_coalitions`: those that nobody would leave, nor join, in the open; the full one only if no cheating pays.
    `pledged`: whom conditional pledges bind. `levers`: for which values of each parameter, the same for all parties,
    the pause is stable; without those of which the parties could not share a value.
    """

    scenario: str
    title: str
    policy: str
    headline: str
    holds: bool
    parties: tuple[Party, ...]
    alone: tuple[Alone, ...]
    treaties: tuple[Treaty, ...]
    stable_coalitions: tuple[tuple[str, ...], ...]
    pledged: tuple[str, ...]
    levers: dict[str, tuple[Interval, ...]]
    values: dict[str, dict[str, Any]]


def solve(s: Scenario) -> Answer:
    """Answer a scenario: well under a second, for twelve parties too."""
    bounds = s.at_bounds()
    m = build(bounds)
    treaties = tuple(_treaty(x, label, b) for b in BREAKOUTS for x, label in ((s, "estimates"), (bounds, "bounds")))
    whole = bool(stable(m, s.breakout))
    table = payoffs(m, whole_is_stable=whole)
    joined = entry(table)
    lone = tuple(_alone(s, m, i) for i in range(len(s.parties)))
    people = _parties(s, m, joined.least)
    lasting = stable_coalitions(payoffs(m, whole_is_stable=True))
    lasting[-1] &= all((margin(m, ch, s.breakout) >= -TOLERANCE).all() for ch in channels(m))
    coalitions = members(len(s.parties))[lasting]
    headline, holds = _headline(s, lone, people, treaties)
    return Answer(
        scenario=s.name,
        title=s.title,
        policy=s.policy,
        headline=headline,
        holds=holds,
        parties=people,
        alone=lone,
        treaties=treaties,
        stable_coalitions=tuple(tuple(np.array(s.parties)[row].tolist()) for row in coalitions),
        pledged=tuple(s.parties[i] for i in sorted(joined.bound)),
        levers=levers(bounds),
        values=_values(s),
    )


def levers(s: Scenario) -> dict[str, tuple[Interval, ...]]:
    """Each parameter's values, in its allowed range, for which compliance is stable; common to all parties."""
    used = [p.name for p in TABLE if not (p.name == "breakout" and s.breakout == EXPONENTIAL)]
    ranges = {name: allowed(s, name) for name in used}
    return {name: stable_where(s, name, s.breakout) for name, (low, high) in ranges.items() if low <= high}


def _alone(s: Scenario, m: Model, i: int) -> Alone:
    everybody = np.ones(m.parties, dtype=bool)
    others = everybody.copy()
    others[i] = False
    race, alone = float(catastrophe(m, everybody)), float(catastrophe(m, others))
    return Alone(
        party=s.parties[i],
        privately_worse=bool((lone_pause(m) < m.W_R)[..., i]),
        globally_worse=alone > race + TOLERANCE,
        catastrophe_race=race,
        catastrophe_alone=alone,
    )


def _parties(s: Scenario, m: Model, least: tuple[float, ...]) -> tuple[Party, ...]:
    u, n = unverified(m), m.parties
    rate, before = required_rate(m), required_detection(m)
    columns: dict[str, Array] = {
        "share": m.x,
        "race": m.W_R,
        "pause_alone": lone_pause(m),
        "pause": u.W_C,
        "inspected_pause": m.W_C,
        "win_by_cheating": m.pi,
        "D": m.D,
        "D0": _positive(d0(m)),
        "D1": _positive(d1(m)),
        "D2": _positive(d2(m)),
        "D3": _positive(d3(m)),
        "required_rate": np.where(rate.valid, rate.value, np.nan),
        "required_detection": np.where(before.valid, before.value, np.nan),
    }
    rows = {name: np.broadcast_to(column, (n,)) for name, column in columns.items()}
    open_, answered = (game(m, s.breakout, conditional=c) for c in (False, True))
    return tuple(
        Party(
            name=s.parties[i],
            regime=open_[i],
            regime_if_conditional=answered[i],
            joins_at=int(least[i]) if np.isfinite(least[i]) else None,
            **{name: _finite(row[i]) for name, row in rows.items()},  # type: ignore[arg-type]
        )
        for i in range(n)
    )


def _positive(t: Any) -> Array:
    """A threshold below which an inequality holds; NaN where it turns the other way or not at all."""
    return np.where(t.below, t.at, np.nan)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _treaty(s: Scenario, inputs: str, breakout: str) -> Treaty:
    m = build(s)
    party, condition, slack = binding(m, breakout)

    def largest(name: str) -> float | None:
        found = stable_where(s, name, breakout)
        return found[-1][1] if found else None

    quorums = stable_where(s, "quorum", breakout)
    windows = stable_where(s, "inspections", breakout)
    alarm = largest("false_alarm")
    said = verdict(m, breakout)
    if said is Verdict.NO_RATE and windows:  # narrower than the rates that a verdict tries
        said = Verdict.UNSTABLE
    return Treaty(
        breakout=breakout,
        inputs=inputs,
        conviction=float(m.p.max()),
        false_conviction=float(m.alpha.max()),
        stable=bool(stable(m, breakout)),
        verdict=said,
        binds=(s.parties[party], condition, slack),
        inspections=windows,
        longest_permit=largest("permit_lifetime"),
        largest_residual=largest("residual"),
        smallest_quorum=int(quorums[0][0]) if quorums else None,
        largest_false_alarm=alarm,
        clean_audits_needed=clean_audits(alarm) if alarm is not None and 0 < alarm < 1 else None,
    )


def _headline(
    s: Scenario, lone: tuple[Alone, ...], people: tuple[Party, ...], treaties: tuple[Treaty, ...]
) -> tuple[str, bool]:
    """The verdict on the policy of the scenario, and whether the claim usually made about that policy holds here.

    The claims: a unilateral pause is counter-productive, a coordinated but unverified one unstable, a verified and
    conditional one an equilibrium.
    """
    if s.policy == "unilateral":
        a = next(x for x in lone if x.party == s.pauses)
        private = "worse" if a.privately_worse else "no worse"
        common = "raises" if a.globally_worse else "does not raise"
        text = (
            f"a lone pause by {a.party} is {private} for {a.party} than the race, and {common} the probability of "
            f"a catastrophe ({a.catastrophe_race:.3f} to {a.catastrophe_alone:.3f})"
        )
        return text, a.privately_worse and a.globally_worse
    if s.policy == "coordinated":
        leavers = [p.name for p in people if p.regime in (Regime.DILEMMA, Regime.RACING, Regime.CHICKEN)]
        worth = all(p.pause > p.race for p in people)
        if not worth:
            return "the pause is not worth it: for somebody the race is at least as good", False
        if leavers:
            return f"worth it for all, and unstable: leaving pays for {', '.join(leavers)}", True
        return "worth it for all, and stable without verification", False
    both = [t for t in treaties if t.breakout == s.breakout]
    at_estimates, at_bounds = (t.stable for t in both)
    text = {
        (True, True): "complying is an equilibrium, at the measured estimates and at their bounds",
        (True, False): "complying is an equilibrium at the measured estimates, not at their bounds: measure more",
        (False, True): "complying is an equilibrium only at the bounds of the measured inputs",
        (False, False): f"complying is no equilibrium: {both[1].summary}",
    }[at_estimates, at_bounds]
    return text, at_estimates and at_bounds


def _values(s: Scenario) -> dict[str, dict[str, Any]]:
    """Every parameter with its value, unit and label, so that no answer travels without its assumptions."""
    shown: dict[str, dict[str, Any]] = {}
    for p in TABLE:
        value = s.values.get(p.name, s.values.get(p.same_as))
        assert value is not None
        row: dict[str, Any] = {"value": value.tolist() if len(value) > 1 else float(value[0])}
        row |= {"unit": p.unit, "label": s.label(p.name), "source": p.source}
        if p.name in s.measured and p.name not in s.given:
            row |= {"bound": s.measured[p.name].bound, "source": s.measured[p.name].source}
        shown[p.name] = row
    return shown


def belief_map(s: Scenario, *, risk: Array, loss: Array) -> np.ndarray:
    """Verdicts over contested beliefs: index into `regime.VERDICTS`, rows by `loss`, columns by `risk`.

    One belief for all parties. Measured inputs at their bounds.
    """
    from_ = s.at_bounds()
    q, D = np.meshgrid(risk, loss)
    changes = {"risk": q[..., None], "loss": D[..., None]}
    if "covert_risk" in from_.values:
        ratio = from_.values["covert_risk"] / from_.values["risk"]
        changes["covert_risk"] = changes["risk"] * ratio
    return verdicts(build(from_, changes), s.breakout)
