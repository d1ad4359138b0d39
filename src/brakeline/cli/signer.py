"""`brakeline signer`: sign permits."""

import time
from pathlib import Path

import click

from brakeline.cli.common import address, home_option, host_option, log_url, port_option, tell
from brakeline.core import units
from brakeline.core.errors import Misuse
from brakeline.core.state import State
from brakeline.node.client import Follower
from brakeline.node.home import Home
from brakeline.node.logclient import LogClient
from brakeline.node.memory import REOPENED
from brakeline.node.moving import FILE, known
from brakeline.node.outbox import Outbox
from brakeline.node.signer import Stater, serve
from brakeline.node.speech import PermitKey, compared, settled
from brakeline.node.submit import add_judged


@click.command()
@home_option
@host_option
@port_option
@click.option("--refold-every", default="24 h", show_default=True, help="How often to fold the whole log anew.")
@click.option("--new", is_flag=True, help="It has closed no log, on no machine: begin without a memory.")
def command(home: Path, host: str | None, port: int | None, refold_every: str, new: bool) -> None:
    """Sign the permits that the log allows, at the address that the treaty names.

    Follows the log by itself and signs nothing when its view of it is stale. States the digest of the state in the log
    where the treaty asks for it, and folds the log anew on a schedule, so that it never states what it only remembers.
    """
    party = Home(home)
    treaty = party.treaty
    me = party.me(treaty)
    if me.signer_key is None:
        raise Misuse(f"the treaty does not make {me.name} a permit signer (Treaty 1.2)")
    every = units.seconds(refold_every)
    follower = Follower(LogClient(log_url(treaty)), treaty, home / "signer", stating=True, put=home / FILE)
    host, port = address(me.signer_url, host, port)

    client = LogClient(log_url(treaty))
    box = Outbox(home, treaty, me.name, party.key("statement"), time.time)

    def outbox(state: State) -> Outbox:
        nonlocal box
        box = settled(party, box, state)
        compared(box, client, state)
        return box

    stater = Stater(follower, outbox, lambda entry: add_judged(client, follower, entry), every, tell)
    serve(
        follower,
        PermitKey(party),
        home / "signer" / "votes.jsonl",
        party.granted(new=new),
        stater,
        host=host,
        port=port,
        on_trouble=lambda e: tell(f"waiting: {e}"),
        reopening=lambda: known(home / FILE, home / "signer" / REOPENED),
    )
