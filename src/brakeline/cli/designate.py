"""`brakeline designate`: put a run in a tier by decision."""

from pathlib import Path

import click

from brakeline.cli.common import find_run, home_option, tell
from brakeline.core.run import Designation
from brakeline.core.state.events import Designated
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("run")
@click.argument("tier")
@home_option
def command(run: str, tier: str, home: Path) -> None:
    """Want RUN in TIER of the treaty, whatever its numbers say. It is, once enough parties want it (Treaty 3.7)."""
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    found = find_run(desk.state, run)
    effect = desk.say("designation", Designation(run=found.id, tier=tier))
    decided = any(isinstance(e, Designated) for e in effect.events)
    wanted = ", ".join(desk.state.run(found.id).designated.get(tier, ()))
    click.echo(f"entry {effect.entry}: {found.name} is {'' if decided else 'not yet '}in {tier}; wanted by {wanted}")
