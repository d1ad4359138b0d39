"""`brakeline design simulate`: the agent-based check."""

import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT
from brakeline.cli.design.common import json_option, load, measured_option, scenario_argument, to_json
from brakeline.design.simulate import simulate
from brakeline.node.disk import write_atomic


@click.command()
@scenario_argument
@measured_option
@click.option("--episodes", type=click.IntRange(200, 10**7), default=10_000, show_default=True, help="Audits, about.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=os.cpu_count() or 1, help="Processes [default: all cores]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("design-simulation"),
    show_default=True,
    help="What is done so far; the same command goes on from it.",
)
@json_option
def command(
    scenario: Path, measured: Path | None, episodes: int, seed: int, workers: int, out: Path, as_json: bool
) -> int:
    """Check the closed forms for SCENARIO with parties whose every inspection is an audit on Brakeline's real core.

    Runs are declared, permitted, logged, sampled, judged and adjudicated as in a treaty in force; a step of training
    is one hash. Exit status 1 when a prediction lies outside the 99 % interval of what was simulated: of five right
    predictions one or another does so in at most one run of twenty.

    Example: brakeline design simulate examples/scenarios/verified.toml --episodes 2000
    """
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=None)
        found = simulate(
            load(scenario, measured),
            episodes=episodes,
            seed=seed,
            out=out,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_atomic(out / "simulation.json", to_json(found).encode())
    if as_json:
        click.echo(to_json(found))
    else:
        click.echo(f"{found.episodes} audits in {found.lives} lives of {found.party}, seed {seed}")
        for c in found.comparisons:
            mark = "agrees" if c.agrees else "DIFFERS"
            interval = f"{c.simulated:.4f}, 99 % {c.lower:.4f} to {c.upper:.4f}"
            click.echo(f"  {c.name:<26} predicted {c.predicted:.4f}, simulated {interval}  {mark}")
        said = {True: "stable", False: "unstable", None: "undecided"}
        click.echo(f"  predicted {said[found.predicted_stable]}, simulated {said[found.simulated_stable]}")
    return 0 if all(c.agrees for c in found.comparisons) else EXIT_VERDICT
