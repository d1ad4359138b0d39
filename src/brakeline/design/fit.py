"""A treaty against a scenario: what its numbers are worth, what breaks first, and which numbers would hold."""

from dataclasses import replace
from itertools import product
from typing import Any

import msgspec
import numpy as np

from brakeline.core.treaty import Treaty
from brakeline.core.treaty.values import SKEW
from brakeline.design.model import TOLERANCE, Channel, channels, margin, participation, stable
from brakeline.design.regime import verdict
from brakeline.design.scenario import YEAR, Scenario, build
from brakeline.design.window import Interval, stable_where


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of stability: its least slack over the parties, in prizes, and the party that has it."""

    condition: str
    party: str
    slack: float
    holds: bool


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one of the treaty's numbers for which all conditions hold, the others as they are.

    `allowed` are intervals in the unit of the text; none means that no value of this number alone is enough.
    """

    key: str
    now: str
    unit: str
    allowed: tuple[Interval, ...]


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How a treaty fares in a scenario, at one reading of the measured inputs.

    `together` are the fewest numbers that make it stable when changed at once: {} when it is, None when none do.
    """

    treaty: str
    digest: str
    scenario: str
    inputs: str
    breakout: str
    stable: bool
    verdict: str
    binds: tuple[str, str]
    conviction: float
    false_conviction: float
    taken: dict[str, Any]
    checks: tuple[Check, ...]
    proposals: tuple[Proposal, ...]
    together: dict[str, float] | None


def under(treaty: Treaty, s: Scenario) -> Scenario:
    """The scenario with what the treaty decides in place of its own choices.

    Inspectors, adjudicators and faults become the quorum P5, and whoever has the role may confirm, but for the lab
    itself; a permit outlives its conviction by its lifetime, by the age at which a signer's view of the log counts as
    stale, and by what clocks may differ (Treaty 4.5); the residual is what the treaty lets go unexplained.
    One inspector detects with probability p_catch, or with what was measured, whichever is less. The rate of
    inspections, fines and beliefs stay the scenario's: no treaty text decides them.
    """
    permit = (treaty.permit_lifetime + _unseen(treaty)) / YEAR
    taken = {
        "inspectors": float(treaty.inspectors),
        "confirmers": float(len(treaty.with_role("inspector")) - 1),
        "quorum": float(treaty.adjudicators),
        "corrupt": float(min(treaty.faults, treaty.inspectors)),
        "permit_lifetime": min(permit, 2.0),
        "residual": float(treaty.residual),
    }
    values = {**s.values, **{name: np.array([value]) for name, value in taken.items()}}
    values["detection"] = np.minimum(s.values["detection"], float(treaty.p_catch))
    return replace(s, values=values, trigger="public", adjudication="confirmed", given=s.given | set(taken))


def _unseen(treaty: Treaty) -> int:
    """Seconds after a conviction in which a signer that has not seen it may still grant a permit."""
    return treaty.stale_after + SKEW


def fit(treaty: Treaty, s: Scenario, *, bounds: bool) -> Fit:
    """Check `treaty` against the scenario, with measured inputs at their estimates or at the `bounds` that hurt."""
    s = under(treaty, s.at_bounds() if bounds else s)
    m = build(s)
    names = (
        "detection",
        "inspectors",
        "confirmers",
        "quorum",
        "corrupt",
        "permit_lifetime",
        "residual",
        "inspections",
        "coverage",
    )
    checks = [_least("participation", participation(m), s)]
    checks += [_least(ch.name, margin(m, ch, s.breakout), s) for ch in channels(m)]
    if treaty.attested_runs:
        # Treaty 7.8: nothing of an attested run can be executed again, so a cheat in one meets no replay.
        free = Channel("attested", m.psi, m.nu * m.alpha + m.eta)
        checks.append(_least("attested", margin(m, free, s.breakout), s))
    audited = bool(stable(m, s.breakout))
    holds = audited and all(c.holds for c in checks)
    worst = min(checks, key=lambda c: c.slack)
    return Fit(
        treaty=f"{treaty.name} v{treaty.version}",
        digest=treaty.digest,
        scenario=s.name,
        inputs="bounds" if bounds else "estimates",
        breakout=s.breakout,
        stable=holds,
        verdict="unstable: attested runs escape replay" if audited and not holds else verdict(m, s.breakout),
        binds=(worst.party, worst.condition),
        conviction=float(m.p.max()),
        false_conviction=float(m.alpha.max()),
        taken={name: float(s.values[name].max()) for name in names},
        checks=tuple(checks),
        proposals=_proposals(treaty, s),
        together={} if holds else _together(treaty, s, [c.condition for c in checks if not c.holds]),
    )


def _least(name: str, slack: Any, s: Scenario) -> Check:
    row = np.broadcast_to(slack, (len(s.parties),))
    i = int(np.argmin(row))
    return Check(
        condition=name, party=s.parties[i], slack=float(min(row[i], 1e9)), holds=bool(row[i] >= -TOLERANCE)
    )


def _proposals(treaty: Treaty, s: Scenario) -> tuple[Proposal, ...]:
    """Each of the numbers that decide, alone. Quorums within the treaty's own rules (Treaty 7.7)."""
    least, most = treaty.faults + 1, len(treaty.with_role("inspector")) - 1

    def windows(name: str, scale: float = 1.0, low: float = 0.0, high: float = np.inf) -> tuple[Interval, ...]:
        found = ((max(a * scale, low), min(b * scale, high)) for a, b in stable_where(s, name, s.breakout))
        return tuple((a, b) for a, b in found if a <= b)

    unseen = _unseen(treaty)
    lifetimes = windows("permit_lifetime", YEAR, low=unseen)
    return (
        Proposal(
            key="audit.adjudicators",
            now=str(treaty.adjudicators),
            unit="parties",
            allowed=windows("quorum", low=least, high=most),
        ),
        Proposal(
            key="audit.inspectors",
            now=str(treaty.inspectors),
            unit="parties",
            allowed=windows("inspectors", low=least, high=most),
        ),
        Proposal(
            key="audit.p_catch",
            now=f"{100 * float(treaty.p_catch):g} %",
            unit="%",
            allowed=windows("detection", 100.0),
        ),
        Proposal(
            key="audit.residual",
            now=f"{100 * float(treaty.residual):g} %",
            unit="%",
            allowed=windows("residual", 100.0),
        ),
        Proposal(
            key="permit.lifetime",
            now=f"{treaty.permit_lifetime} s",
            unit="s",
            allowed=tuple((a - unseen, b - unseen) for a, b in lifetimes if b > unseen),
        ),
        Proposal(
            key="inspections of each party",
            now=f"{s.values['inspections'].max():g} a year",
            unit="1/yr",
            allowed=windows("inspections"),
        ),
    )


def _together(treaty: Treaty, s: Scenario, failing: list[str]) -> dict[str, float] | None:
    """The fewest changes, then the mildest, of quorum, inspectors, residual and inspections; None if none is enough.

    Tried: every quorum and number of inspectors that the treaty's parties allow, the residual by halves, the
    inspections by doubling.
    """
    least, most = treaty.faults + 1, len(treaty.with_role("inspector")) - 1
    now = {name: float(s.values[name].max()) for name in ("quorum", "inspectors", "residual", "inspections")}
    tried = {
        "quorum": [float(k) for k in range(least, most + 1)],
        "inspectors": [float(n) for n in range(least, most + 1)],
        "residual": [now["residual"] / 2**i for i in range(5)],
        "inspections": [now["inspections"] * 2**i for i in range(5) if now["inspections"] * 2**i <= 400],
    }
    rows = np.array(list(product(*tried.values())))
    changed = (rows != np.array(list(now.values()))).sum(1)
    good = stable(build(s, {name: rows[:, [i]] for i, name in enumerate(tried)}), s.breakout)
    if not good.any():
        return None
    far = np.abs(np.log(np.maximum(rows, 1e-9) / np.maximum(list(now.values()), 1e-9))).sum(1)
    best = min(np.flatnonzero(good), key=lambda i: (changed[i], far[i]))
    found = dict(zip(tried, rows[best].tolist(), strict=True))
    if "attested" in failing:
        found["attested_runs"] = 0.0
    return {name: value for name, value in found.items() if value != now.get(name)}
