"""`brakeline vote`: trip or lift."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, show_waiting, tell
from brakeline.core import views
from brakeline.core.brake import Vote
from brakeline.core.errors import Misuse
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("motion", type=click.Choice(["trip", "lift"]))
@click.option("--reason", required=True, help="Why; it is public and stays so.")
@home_option
def command(motion: str, reason: str, home: Path) -> None:
    """Vote to trip the brake, or to lift it.

    A vote to trip goes to every permit signer too: who keeps the log cannot hold it back. Exit status 4 means that the
    vote is in the log and has no effect.
    """
    desk = Desk(Home(home), tell=tell)
    seen = desk.look(soon=motion == "trip")
    if seen and motion == "lift" and not views.liftable(desk.state, desk.me.name):
        raise Misuse("the brake is clear: there is nothing to lift")
    vote = Vote(motion="trip" if motion == "trip" else "lift", epoch=desk.state.epoch, reason=reason)
    effect = desk.say("vote", vote)
    state = desk.state
    click.echo(f"entry {effect.entry}: {views.tally(state, motion, desk.me.name)}; the brake is {state.phase}")
    show_waiting(b for b in views.waiting(state) if b.what == "the lift")
