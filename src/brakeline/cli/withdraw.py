"""`brakeline withdraw`: leave the treaty, after its notice."""

from datetime import UTC, datetime
from pathlib import Path

import click

from brakeline.cli.common import home_option, tell
from brakeline.core.pledge import Withdrawal
from brakeline.core.treaty import duration
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.option("--reason", required=True, help="Why; it is public and stays so.")
@home_option
def command(reason: str, home: Path) -> None:
    """Withdraw this party's pledge. It stays bound until the treaty's notice has passed; a new pledge takes it back."""
    desk = Desk(Home(home), tell=tell)
    effect = desk.say("withdrawal", Withdrawal(reason=reason))
    ends = desk.state.members.by_name[desk.me.name].leaves or 0
    when = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d %H:%M:%S")
    notice = duration(desk.treaty.withdrawal_notice)
    click.echo(f"entry {effect.entry}: {desk.me.name} leaves after {notice}, at {when} UTC; until then it is bound")
