"""`brakeline key`: go on to the next key, and revoke one."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, tell
from brakeline.core.errors import Misuse
from brakeline.core.state.keyring import lacking
from brakeline.core.succession import MAX_REASON, Purpose, Revocation
from brakeline.core.words import count
from brakeline.node.desk import Desk
from brakeline.node.home import Home

_purpose = click.option(
    "--purpose", type=click.Choice(["statement", "signer"]), default="statement", show_default=True, help="Which key."
)


@click.group()
def command() -> None:
    """Change this party's keys, or revoke one."""


@command.command()
@home_option
@_purpose
def rotate(home: Path, purpose: Purpose) -> None:
    """Go on to the next key, to which this party committed beforehand, and commit to another one.

    The old key counts for nothing from the entry in the log on, and is destroyed here; what was said with it stands.
    What waits to be sent is signed anew. Run it again after a crash: it goes on where it was.
    """
    desk = Desk(Home(home), tell=tell)
    entry = desk.rekey(purpose)
    click.echo(f"{desk.home.name} uses its next {purpose} key (entry {entry}); the old one counts no more")


@command.command()
@home_option
def reclaim(home: Path) -> None:
    """Speak with this home from here on, and with no other: take back from the log what it holds of this party.

    For a home that was put back from a copy, or copied, when the log holds what it never said. Stop the other one
    first. If there is none, the key is stolen: `brakeline key rotate`, twice where the copy holds the next key, too.
    """
    party = Home(home)
    desk = Desk(party, tell=lambda text: click.echo(text, err=True))
    desk.update()
    party.doubt()
    desk.update()
    click.echo(f"this home speaks for {party.name}")


@command.command()
@click.argument("party")
@home_option
@_purpose
@click.option("--since", type=click.IntRange(min=0), required=True, help="The log entry from which its word falls.")
@click.option("--reason", default="", help="For people; at most 400 characters.")
def revoke(party: str, home: Path, purpose: Purpose, since: int, reason: str) -> None:
    """Ask that PARTY's key count no more; one's own falls at once, another's when enough parties ask for the same.

    What stands and was logged since the entry SINCE falls with it: votes, readings, assents. What was done stays done.
    """
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    keys = desk.state.keyring.of.get(party)
    if keys is None or not keys.of(purpose).key:
        raise Misuse(f"{party} has no {purpose} key in force", hint="brakeline status shows the parties")
    if len(reason) > MAX_REASON:
        raise Misuse(f"a reason has at most {MAX_REASON} characters")
    body = Revocation(party=party, purpose=purpose, key=keys.of(purpose).key, since=since, reason=reason)
    effect = desk.say("revoke", body)
    short = lacking(desk.state.keyring, body, desk.treaty.members)
    more = count(short, "more party asks", "more parties ask")
    state = f"falls when {more} for the same" if short else "counts no more"
    click.echo(f"entry {effect.entry}: {party}'s {purpose} key {state} (Treaty 12.2)")
