"""`brakeline rehearse`: find out whether a recipe can be stopped, resumed and replayed."""

from pathlib import Path

import click
import torch

from brakeline.training.recipe import read_recipe
from brakeline.training.rehearsal import STEPS, disk, rehearse


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--steps", type=click.IntRange(2), default=STEPS, show_default=True, help="Steps to make.")
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses.")
def command(recipe: Path, steps: int, threads: int | None) -> None:
    """Rehearse the RECIPE file: a few steps in fresh processes, stopped, killed, resumed, and replayed as an inspector
    would. Nothing is declared.

    Exit status 2 means that they differ; the error says which variable the state lacks, and what to pass.
    """
    found = rehearse(
        read_recipe(recipe), steps=steps, threads=threads or torch.get_num_threads(), tell=click.echo
    )
    found.check()
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"passed: {found.steps} steps of {found.seconds * 1e3:,.0f} ms came out the same each time\n"
        f"a checkpoint takes {found.checkpoint / 1e6:,.1f} MB: 1,000 steps in segments of 50 leave "
        f"{disk(found, 50) / 1e6:,.0f} MB"
    )
