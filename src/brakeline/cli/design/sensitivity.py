"""`brakeline design sensitivity`: what decides."""

from pathlib import Path

import click
from rich.console import Console

from brakeline.cli.design.common import (
    json_option,
    load,
    measured_option,
    scenario_argument,
    to_json,
    write_csv,
    write_figure,
)
from brakeline.core.errors import Misuse
from brakeline.design.figures import tornado
from brakeline.design.sensitivity import sobol
from brakeline.node.disk import write_atomic


@click.command()
@scenario_argument
@measured_option
@click.option("--samples", type=click.IntRange(64, 2**20), default=4096, show_default=True, help="A power of two.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write sobol.json, sobol.csv and sobol.svg here.",
)
@json_option
def command(scenario: Path, measured: Path | None, samples: int, seed: int, out: Path | None, as_json: bool) -> None:
    """Say which parameters decide whether cheating pays in SCENARIO, each over its whole allowed range.

    Sobol indices of the margin W_C - W_T, by SALib: `total` is the share of the variance that a parameter has a part
    in. The ranges serve as priors: another prior gives other shares.

    Example: brakeline design sensitivity examples/scenarios/verified.toml --out sensitivity
    """
    if samples & (samples - 1):
        raise Misuse(f"--samples {samples} is not a power of two", hint=f"try {1 << samples.bit_length()}")
    s = load(scenario, measured)
    with Console(stderr=True).status("evaluating"):
        found = sobol(s, samples=samples, seed=seed)
    if out:
        write_atomic(out / "sobol.json", to_json(found).encode())
        header = ("factor", "label", "first", "first_half", "total", "total_half", "low", "high")
        write_csv(out / "sobol.csv", header, [[getattr(i, name) for name in header] for i in found.indices])
        write_figure(out / "sobol.svg", tornado(found))
    if as_json:
        click.echo(to_json(found))
        return
    click.echo(f"margin W_C - W_T of {found.scenario}: {found.margin:+.4f} prizes ({found.breakout} breakout)")
    click.echo(f"{'factor':<18}{'label':<12}{'total':>8}{'+-':>7}{'first':>8}   margin over its range")
    for i in found.indices:
        row = f"{i.factor:<18}{i.label:<12}{i.total:>8.3f}{i.total_half:>7.3f}{i.first:>8.3f}"
        click.echo(f"{row}   {i.low:+.3f} to {i.high:+.3f}")
    c = found.claims
    click.echo(f"\nof {c.draws} draws from all beliefs and assumptions over their ranges:")
    click.echo(f"  a lone pause is worse for somebody who pauses: {c.lone_pause_irrational:.3f}")
    click.echo(f"  a shared pause beats the race for all:         {c.pause_beats_race:.3f}")
    click.echo(f"  of those, unstable without verification:       {c.of_those_unverified_unstable:.3f}")
    click.echo(f"  of those, stable at .1 to 3 convictions/yr:    {c.of_those_stable_when_verified:.3f}")
    click.echo(f"seed {found.seed}, {found.samples} samples a factor")
