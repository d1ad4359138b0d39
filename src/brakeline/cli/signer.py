"""`brakeline signer`: sign permits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from starlette.types import ASGIApp

from brakeline.cli.common import address, home_option, host_option, log_url, port_option, tell
from brakeline.core import units
from brakeline.core.errors import Misuse
from brakeline.core.state import State
from brakeline.node import signer as node_signer
from brakeline.node.client import Follower
from brakeline.node.home import Home
from brakeline.node.http import run
from brakeline.node.logclient import LogClient
from brakeline.node.memory import REOPENED
from brakeline.node.moving import FILE, known
from brakeline.node.outbox import Outbox
from brakeline.node.signer import Stater
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
    with serving(Home(home), new=new, refold_every=refold_every) as (served, url):
        run(served, *address(url, host, port))


@contextmanager
def serving(party: Home, *, new: bool = False, refold_every: str = "24 h") -> Iterator[tuple[ASGIApp, str]]:
    """What the home's permit signer serves, and the address in the treaty."""
    home = party.path
    treaty = party.treaty
    me = party.me(treaty)
    if me.signer_key is None:
        raise Misuse(f"the treaty does not make {me.name} a permit signer (Treaty 1.2)")
    party.key("signer")  # one that cannot be read is found out now, and not at the first permit
    every = units.seconds(refold_every)
    if every < 1:
        raise Misuse(f"--refold-every {refold_every} is less than a second")
    follower = Follower(LogClient(log_url(treaty)), treaty, home / "signer", stating=True, put=home / FILE)
    client = LogClient(log_url(treaty))
    box = Outbox(home, treaty, me.name, party.key("statement"), time.time)

    def outbox(state: State) -> Outbox:
        nonlocal box
        box = settled(party, box, state)
        compared(box, client, state)
        return box

    stater = Stater(follower, outbox, lambda entry: add_judged(client, follower, entry), client.show, every, tell)
    with node_signer.serving(
        follower,
        PermitKey(party),
        home / "signer" / "votes.jsonl",
        party.granted(new=new),
        stater,
        on_trouble=lambda e: tell(f"waiting: {e}"),
        reopening=lambda: known(home / FILE, home / "signer" / REOPENED),
    ) as served:
        yield served, me.signer_url
