"""`brakeline open`: show an inspector the states between two checkpoints."""

import re
from pathlib import Path

import click
import torch
from rich.progress import Progress

from brakeline.cli.common import home_option, own_run, tell
from brakeline.core.errors import Misuse
from brakeline.node.desk import Desk
from brakeline.node.home import Home
from brakeline.training.checkpoint import checkpoint_steps
from brakeline.training.elsewhere import OPENED
from brakeline.training.opening import open_between


@click.command()
@click.argument("name")
@click.argument("steps")
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses, as when the run was made.")
@home_option
def command(name: str, steps: str, threads: int | None, home: Path) -> None:
    """Show the states between two checkpoints of this lab's run NAME: of STEPS that an audit names, one (`44`) or all
    between two checkpoints (`40-48`).

    An inspector on another machine asks for them where it cannot tell from the checkpoints alone. They are made again
    here, each is checked against its leaf, and they are put beside the run's evidence, which is then to be shown again.
    """
    found = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", steps)
    if not found or (found[2] and int(found[1]) >= int(found[2])):
        raise Misuse(f"{steps!r} are no steps", hint="a number, or two, the smaller one first: 44, 40-48")
    if threads:
        torch.set_num_threads(threads)
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    run, evidence = own_run(desk.state, desk.me.name, home, name)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"making steps of {name} again", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        one, first = None if found[2] else int(found[1]), int(found[1])
        start = first if one is None else max((n for n in checkpoint_steps(evidence) if n < one), default=0)
        end = int(found[2] or min((n for n in checkpoint_steps(evidence) if n > first), default=first))
        number = open_between(run, evidence, start, end, show, only=one)
    click.echo(f"{number} of the states between steps {start} and {end} in {evidence / OPENED}: show them too")
