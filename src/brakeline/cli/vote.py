"""`brakeline vote`: trip or lift."""

from pathlib import Path

import click

from brakeline.cli.common import home_option
from brakeline.core.brake import Phase, Vote
from brakeline.core.errors import Unavailable
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("motion", type=click.Choice(["trip", "lift"]))
@click.option("--reason", required=True, help="Why; it is public and stays so.")
@home_option
def command(motion: str, reason: str, home: Path) -> None:
    """Vote to trip the brake, or to lift it.

    A vote to trip goes to every permit signer too: who keeps the log cannot hold it back.
    """
    desk = Desk(Home(home), say=lambda text: click.echo(text, err=True))
    try:
        desk.catch_up()
    except Unavailable as e:
        if motion == "lift":
            raise
        click.echo(f"the log does not answer: {e}", err=True)
    fold = desk.fold
    vote = Vote(motion="trip" if motion == "trip" else "lift", epoch=fold.brake.epoch, reason=reason)
    if motion == "trip":
        held = desk.show_signers(desk.outbox.write("vote", vote))
        click.echo(f"shown to {held} permit signers")
        (*_, sent) = desk.outbox.flush(desk.add)
    else:
        sent = desk.log("vote", vote)
    desk.catch_up()
    fold = desk.fold
    outcome = fold.outcomes[sent.index]
    if outcome.reason:
        click.echo(f"entry {sent.index} has no effect: {outcome.text}")
        return
    state = fold.brake
    needed = desk.treaty.trip if motion == "trip" else desk.treaty.lift
    standing = len(fold.voters(motion))
    # A trip answers the votes for it: then none stands any more, and the phase says what came of them.
    tally = f"{standing} of {needed} votes to {motion}; " if standing else ""
    click.echo(f"entry {sent.index}: {tally}the brake is {state.phase}")
    if motion == "lift" and state.phase is Phase.PAUSED:
        for what in fold.unmet():
            click.echo(f"  still in the way: {what}")
