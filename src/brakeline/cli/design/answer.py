"""`brakeline design answer`: what a scenario implies."""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from brakeline.cli.design.common import (
    json_option,
    load,
    measured_option,
    scenario_argument,
    span,
    to_json,
    write_csv,
)
from brakeline.design.answer import Answer, Party, Treaty, belief_map, solve
from brakeline.design.parameters import PARAMETERS
from brakeline.design.regime import VERDICTS
from brakeline.design.scenario import Scenario
from brakeline.design.window import allowed
from brakeline.node.disk import write_atomic


@click.command()
@scenario_argument
@measured_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write answer.json, levers.csv and map.csv here."
)
@json_option
def command(scenario: Path, measured: Path | None, out: Path | None, as_json: bool) -> None:
    """Say which game SCENARIO is, whether a pause is an equilibrium in it, and which treaty makes it one.

    Private and global verdicts stand apart, measured inputs are taken at their estimates and at their 95 % bounds,
    and contested beliefs are never decided: map.csv has the verdict for every pair of risk and loss.

    Example: brakeline design answer examples/scenarios/verified.toml --out answer
    """
    s = load(scenario, measured)
    answer = solve(s)
    if out:
        write_atomic(out / "answer.json", to_json(answer).encode())
        rows = [(name, a, b, PARAMETERS[name].unit) for name, found in answer.levers.items() for a, b in found]
        write_csv(out / "levers.csv", ("parameter", "stable from", "to", "unit"), rows)
        write_csv(out / "map.csv", ("risk", "loss", "verdict"), _map(s))
    if as_json:
        click.echo(to_json(answer))
        return
    _print(s, answer)
    if out:
        click.echo(f"wrote answer.json, levers.csv and map.csv in {out}")


def _map(s: Scenario) -> list[tuple[float, float, str]]:
    risk, loss = np.linspace(0.004, 0.5, 63), np.linspace(0, 10, 51)
    codes = belief_map(s, risk=risk, loss=loss)
    return [
        (round(float(q), 6), round(float(d), 6), VERDICTS[codes[i, j]])
        for i, d in enumerate(loss)
        for j, q in enumerate(risk)
    ]


def _print(s: Scenario, a: Answer) -> None:
    click.echo(f"{a.title}\n{a.headline}\n")
    beliefs = [name for name, row in a.values.items() if row["label"] == "belief" and name in s.given]
    shown = ", ".join(f"{name} {_value(a.values[name]['value'])}" for name in beliefs or ("risk", "loss"))
    click.echo(f"Under the beliefs {shown}; all values in prizes. `brakeline design plot` maps other beliefs.\n")
    for p in a.parties:
        _print_party(p)
    click.echo("\nP1 pausing alone")
    for x in a.alone:
        private = "worse than racing" if x.privately_worse else "no worse than racing"
        common = "raised" if x.globally_worse else "not raised"
        shares = f"{x.catastrophe_race:.3f} when all race, {x.catastrophe_alone:.3f} when it pauses"
        click.echo(f"  {x.party}: privately {private}; globally, catastrophe is {common}: {shares}")
    click.echo("\nP3-P5 a conditional pause with inspections")
    for t in a.treaties:
        _print_treaty(t, t.breakout == s.breakout)
    whole = next(t.stable for t in a.treaties if t.breakout == s.breakout and t.inputs == "bounds")
    coalitions = [" + ".join(c) or "nobody" for c in a.stable_coalitions]
    click.echo(f"\nWithout conditions these coalitions are stable: {', '.join(coalitions) or 'none'}")
    vain = "; but the pause that follows is not stable" if len(a.pledged) == len(a.parties) and not whole else ""
    click.echo(f'Conditional pledges "I pause if at least k do" bind: {", ".join(a.pledged) or "nobody"}{vain}')
    click.echo(f"\nWhat would change the verdict ({s.breakout} breakout, measured inputs at their bounds)")
    for name, found in a.levers.items():
        row = PARAMETERS[name]
        if found and found != (allowed(s, name),):
            now = _value(a.values[name].get("bound", a.values[name]["value"]))
            click.echo(f"  {name:<16} stable for {span(found, row.unit):<30} now {now} ({a.values[name]['label']})")
    if not whole and (never := [name for name, found in a.levers.items() if not found]):
        click.echo(f"  no value of these alone is enough: {', '.join(never)}")


def _print_party(p: Party) -> None:
    click.echo(f"{p.name} (share {p.share:g}): {p.regime}; with a conditional pledge: {p.regime_if_conditional}")
    click.echo(
        f"  race {p.race:.3f}, pause alone {p.pause_alone:.3f}, pause {p.pause:.3f}, inspected pause "
        f"{p.inspected_pause:.3f}, win by cheating {p.win_by_cheating:.3f}"
    )
    lines = ", ".join(f"{n} {v:.3f}" if v is not None else f"no {n}" for n, v in _thresholds(p))
    click.echo(f"  where its loss D = {p.D:g} would turn an answer: {lines}")
    if p.required_rate is None or p.required_detection is None:
        click.echo("  no detection deters: a cheat that is caught loses nothing (W_C <= W_X)")
    else:
        rate, before = max(p.required_rate, 0), max(p.required_detection, 0)
        click.echo(f"  to deter, without false alarms: {rate:.3f} convictions/yr, or {before:.0%} before a breakout")


def _thresholds(p: Party) -> list[tuple[str, float | None]]:
    return [("D0", p.D0), ("D2", p.D2), ("D3", p.D3), ("D1", p.D1)]


def _print_treaty(t: Treaty, chosen: bool) -> None:
    mark = "*" if chosen else " "
    party, condition, slack = t.binds
    click.echo(f"{mark} {t.breakout} breakout, measured inputs at their {t.inputs}: {t.summary}")
    click.echo(f"    an inspection convicts a cheat with {t.conviction:.3f}, the honest with {t.false_conviction:.2g}")
    click.echo(f"    binds: {condition} of {party}, slack {slack:+.4f}")
    permit = _most("permit_lifetime", t.longest_permit, lambda x: f"{x * 365.25:.3g} d")
    residual = _most("residual", t.largest_residual, lambda x: f"{x:.2%}")
    click.echo(
        f"    inspections {span(t.inspections, 'a year')}; smallest quorum {t.smallest_quorum or 'none'}; "
        f"longest permit {permit}; largest residual {residual}"
    )
    if t.clean_audits_needed is not None and t.largest_false_alarm is not None:
        needed = f"{t.clean_audits_needed} honest audits without one show it"
        click.echo(f"    bears a false alarm of one inspector up to {t.largest_false_alarm:.2g}: {needed}")


def _most(name: str, value: float | None, text: Callable[[float], str]) -> str:
    if value is None:
        return "none"
    return "any" if value == PARAMETERS[name].high else text(value)


def _value(value: object) -> str:
    return "/".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value:.4g}"
