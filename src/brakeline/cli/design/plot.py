"""`brakeline design plot`: figures of a scenario."""

from pathlib import Path

import click

from brakeline.cli.design.common import load, measured_option, scenario_argument, write_figure
from brakeline.design.figures import FIGURES


@click.command()
@scenario_argument
@click.option("--kind", type=click.Choice(list(FIGURES)), multiple=True, help="One figure; repeatable [default: all]")
@click.option("--format", "suffix", type=click.Choice(["svg", "png"]), default="svg", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("design-plots"), show_default=True
)
@measured_option
def command(scenario: Path, kind: tuple[str, ...], suffix: str, out: Path, measured: Path | None) -> None:
    """Draw SCENARIO.

    \b
    beliefs   the verdict over risk and loss
    phase     the verdict over inspections and loss
    window    inspections that keep the pause stable, by false alarms
    roc       operating points of quorums, over lines of equal slack
    breakout  inspections needed, by the time a breakout takes
    timeline  what becomes of the pause, year by year

    Example: brakeline design plot examples/scenarios/verified.toml --kind phase --format png
    """
    s = load(scenario, measured)
    for name in kind or FIGURES:
        path = out / f"{name}.{suffix}"
        write_figure(path, FIGURES[name](s))
        click.echo(f"wrote {path}")
