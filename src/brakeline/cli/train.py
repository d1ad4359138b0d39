"""`brakeline train`: train a recipe through the gate."""

from pathlib import Path

import click
import torch

from brakeline.cli.common import home_option
from brakeline.core.run import MAX_RANKS
from brakeline.node.desk import Lab
from brakeline.node.home import Home
from brakeline.training.launch import attend, placed
from brakeline.training.recipe import read_recipe
from brakeline.training.rehearsal import rehearsed
from brakeline.training.session import Session


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses; part of the environment profile.")
@click.option("--ranks", type=click.IntRange(1, MAX_RANKS), help="Go on with others than the recipe's: a move.")
@click.option("--moved", is_flag=True, help="Let it go on in another environment or with other ranks, which is logged.")
@click.option("--unchecked", is_flag=True, help="Neither rehearse it nor replay its last segment first, at your risk.")
@click.option("--attested", is_flag=True, help="Declare it without a rehearsal, on your word alone.")
@home_option
def command(
    recipe: Path, threads: int | None, ranks: int | None, moved: bool, unchecked: bool, attested: bool, home: Path
) -> None:
    """Train the RECIPE file: declare the run, wait for permits, record every step, stop when told, go on when allowed.

    A recipe with several ranks starts them on this machine, or is started by torchrun on all of them.

    Before it is declared it is rehearsed (`brakeline rehearse`), once. Killed at any moment, the same command resumes
    from the last checkpoint, bit for bit.
    """
    if threads:
        torch.set_num_threads(threads)
    party, it = Home(home), read_recipe(recipe)
    with placed(ranks or it.ranks, it.ranks) as rank:
        if rank:
            attend(home / "runs" / it.name, it.source)
            return
        lab = Lab(party, tell=lambda text: click.echo(text))
        session = Session(
            lab, it, attested=attested, moved=moved, checked=not unchecked, rehearse=None if unchecked else rehearsed
        )
        last = session.train()
    click.echo(f"ended at step {last.steps}, state {last.state}")
