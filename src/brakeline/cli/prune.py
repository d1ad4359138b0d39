"""`brakeline prune`: say which checkpoints of a run may go, and remove them."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from brakeline.cli.common import home_option, own_run, tell
from brakeline.node.desk import Desk
from brakeline.node.home import Home
from brakeline.training.prune import plan, remove


@click.command()
@click.argument("name")
@click.option("--every", type=click.IntRange(2), default=None, help="Let each so many-th stay.")
@click.option("--yes", is_flag=True, help="Remove what may go.")
@home_option
def command(name: str, every: int | None, yes: bool, home: Path) -> None:
    """Say which checkpoints of this lab's run NAME may go, and why the others may not; with --yes, remove them.

    What an audit may ask for stays: all of a run until it has ended, enough inspectors have passed it, and nothing of
    it can be audited any more. What is removed cannot be made again without training.
    """
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    run, evidence = own_run(desk.state, desk.me.name, home, name)
    found = plan(desk.state, run, evidence, every=every or 0)
    table = Table("step", "MB", "", "why", box=None)
    for it in found:
        table.add_row(str(it.step), f"{it.size / 1e6:,.1f}", "may go" if it.goes else "stays", it.why)
    Console(highlight=False, width=120).print(table)
    going = [it for it in found if it.goes]
    size = sum(it.size for it in going) / 1e6
    if yes:
        for it in going:
            remove(evidence, it)
        click.echo(f"removed {len(going)} of {len(found)} checkpoints, {size:,.1f} MB")
    else:
        click.echo(f"{len(going)} of {len(found)} checkpoints may go, {size:,.1f} MB; --yes removes them")
