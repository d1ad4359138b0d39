"""`brakeline duty`: what parties owe one another on the record."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from brakeline.cli.common import home_option, tell
from brakeline.core.duty import Incident, Notice, Report, Request
from brakeline.core.errors import Malformed, Misuse, Refused
from brakeline.core.state import dues
from brakeline.core.state.events import Due, Lapsed, Met
from brakeline.node.desk import Desk
from brakeline.node.home import Home

_text = click.option("--text", required=True, help="What to put on record; it is public and stays so.")
_about = click.option("--about", type=click.IntRange(-1), required=True, help="The log entry that it answers.")


@click.group()
def command() -> None:
    """Report an incident, notify, ask another party for a report, and give one. `status` shows what is due."""


def _say(home: Path, kind: str, body: object) -> None:
    desk = Desk(Home(home), tell=tell)
    desk.look(soon=False)
    _check(desk, body)
    effect = desk.say(kind, body)
    click.echo(f"entry {effect.entry}: {kind} on record")
    for event in effect.events:
        match event:
            case Due(party=party, what=what, by=by):
                click.echo(f"{party} owes a {what} by {datetime.fromtimestamp(by, UTC):%Y-%m-%d %H:%M:%S} UTC")
            case Met(about=about):
                click.echo(f"what was due about entry {about} is done")
            case Lapsed(by=by):
                click.echo(f"it was due by {datetime.fromtimestamp(by, UTC):%Y-%m-%d %H:%M:%S} UTC: recorded as late")


def _check(desk: Desk, body: object) -> None:
    """Raises:
    Misuse: the treaty has no such class, or no such party. Found here, it spends no number of the party.
    """
    me, now, none = desk.me.name, int(time.time()), dues.Dues()
    try:
        with suppress(Refused):  # what is owed is for the log to say
            match body:
                case Incident():
                    dues.incident(desk.treaty, none, me, 0, body, now)
                case Request():
                    dues.request(desk.treaty, none, me, 0, body, now)
                case Notice() | Report():
                    dues.meet(none, me, 0, body, now)
    except Malformed as e:
        raise Misuse(str(e)) from e


@command.command()
@click.option("--class", "incident", required=True, help="One of the treaty's classes of incidents.")
@click.option("--known-since", type=click.DateTime(["%Y-%m-%dT%H:%M:%S"]), help="UTC; default: now.")
@_text
@home_option
def incident(incident: str, known_since: datetime | None, text: str, home: Path) -> None:
    """Report a safety incident. Its clock runs from when it was known."""
    known = int(known_since.replace(tzinfo=UTC).timestamp() if known_since else time.time())
    _say(home, "incident", Incident(incident=incident, known=known, text=text))


@command.command()
@click.option("--about", type=click.IntRange(-1), default=-1, help="The entry that made a notice due, if one did.")
@_text
@home_option
def notice(about: int, text: str, home: Path) -> None:
    """Notify that a run is in a tier, or that it is known to be soon."""
    _say(home, "notice", Notice(about=about, text=text))


@command.command()
@click.argument("party")
@_text
@home_option
def request(party: str, text: str, home: Path) -> None:
    """Ask PARTY for a report."""
    _say(home, "request", Request(party=party, text=text))


@command.command()
@_about
@_text
@home_option
def report(about: int, text: str, home: Path) -> None:
    """Give the report that entry ABOUT asked for."""
    _say(home, "report", Report(about=about, text=text))
