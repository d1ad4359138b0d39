"""`brakeline design fit`: a treaty against a scenario."""

from pathlib import Path

import click

from brakeline.cli.common import EXIT_VERDICT, read_file
from brakeline.cli.design.common import json_option, load, measured_option, scenario_argument, span, to_json
from brakeline.design.fit import Fit, fit
from brakeline.design.standin import rehearsed

_KEYS = {
    "quorum": "audit.adjudicators",
    "inspectors": "audit.inspectors",
    "residual": "audit.residual",
    "inspections": "inspections a year",
    "attested_runs": "audit.attested_runs",
}


@click.command()
@scenario_argument
@click.option(
    "--treaty",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A treaty, or a draft without keys.",
)
@measured_option
@json_option
def command(scenario: Path, treaty: Path, measured: Path | None, as_json: bool) -> int:
    """Check a treaty against SCENARIO: does it make the pause stable, what breaks first, and which numbers would hold?

    Inspectors, adjudicators, faults, permit lifetime, p_catch and residual are the treaty's; how often parties are
    inspected, fines and all beliefs are the scenario's. Exit status 1 when the treaty is not stable, at the estimates
    or at the bounds of what was measured.

    Example: brakeline design fit examples/scenarios/verified.toml --treaty examples/treaties/demo.toml
    """
    s = load(scenario, measured)
    text = rehearsed(read_file(treaty))
    found = [fit(text, s, bounds=b) for b in (False, True)]
    if as_json:
        click.echo(to_json(found))
    else:
        for x in found:
            _print(x)
    return 0 if all(x.stable for x in found) else EXIT_VERDICT


def _print(x: Fit) -> None:
    click.echo(f"{x.treaty} in {x.scenario!r}, {x.breakout} breakout, measured inputs at their {x.inputs}")
    click.echo(f"  {'stable' if x.stable else 'NOT STABLE'}: {x.verdict}; binds: {x.binds[1]} of {x.binds[0]}")
    click.echo(f"  an inspection convicts a cheat with {x.conviction:.3f}, the honest with {x.false_conviction:.2g}")
    for c in x.checks:
        click.echo(f"  {'holds' if c.holds else 'FAILS'}  {c.condition:<14} {c.slack:+.4f}  {c.party}")
    click.echo("  each number alone, for all conditions but `attested`:")
    for p in x.proposals:
        click.echo(f"    {p.key:<24} now {p.now:<14} stable for {span(p.allowed, p.unit)}")
    if x.together is None:
        click.echo("  no combination of quorum, inspectors, residual and inspections is enough")
    elif x.together:
        changes = ", ".join(f"{_KEYS[name]} = {_text(name, value)}" for name, value in x.together.items())
        click.echo(f"  together enough: {changes}")
    if any(c.condition == "attested" and not c.holds for c in x.checks):
        click.echo("  audit.attested_runs = true lets a cheat choose a run of which nothing is replayed")


def _text(name: str, value: float) -> str:
    if name == "attested_runs":
        return "false"
    return f'"{value:.3%}"'.replace("%", " %") if name == "residual" else f"{value:g}"
