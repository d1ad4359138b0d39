"""`brakeline signer`: sign permits."""

from pathlib import Path

import click

from brakeline.cli.common import address, home_option, host_option, log_url, port_option
from brakeline.core.errors import Misuse
from brakeline.node.client import Follower, LogClient
from brakeline.node.home import Home
from brakeline.node.signer import serve


@click.command()
@home_option
@host_option
@port_option
def command(home: Path, host: str | None, port: int | None) -> None:
    """Sign the permits that the log allows, at the address that the treaty names.

    Follows the log by itself and signs nothing when its view of it is stale.
    """
    party = Home(home)
    treaty = party.treaty
    me = party.me(treaty)
    if me.signer_key is None:
        raise Misuse(f"the treaty does not make {me.name} a permit signer (Treaty 1.2)")
    follower = Follower(LogClient(log_url(treaty)), treaty, home / "signer")
    host, port = address(me.signer_url, host, port)
    serve(
        follower,
        party.key("signer"),
        home / "signer" / "votes.jsonl",
        host=host,
        port=port,
        on_trouble=lambda e: click.echo(f"waiting: {e}", err=True),
    )
