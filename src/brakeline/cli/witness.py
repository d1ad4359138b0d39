"""`brakeline witness`: cosign what is consistent."""

from pathlib import Path

import click

from brakeline.cli.common import address, home_option, host_option, port_option
from brakeline.core.errors import Misuse
from brakeline.core.tlog.note import VerifierKey
from brakeline.node.home import Home
from brakeline.node.moving import FILE, read_reopening
from brakeline.node.witness import serve


@click.command()
@home_option
@host_option
@port_option
def command(home: Path, host: str | None, port: int | None) -> None:
    """Witness the treaty's log (C2SP tlog-witness), at the address that the treaty names.

    Cosigns a checkpoint only when it extends every one cosigned before. Remembers across restarts.
    """
    party = Home(home)
    treaty = party.newest  # a witness that joins is there before the text turns (Treaty 11.2)
    me = party.me(treaty)
    if me.witness_key is None:
        raise Misuse(f"the treaty does not make {me.name} a witness (Treaty 1.2)")
    logs = [p.log_key for p in treaty.with_role("log") if p.log_key]
    host, port = address(me.witness_url, host, port)

    def news() -> list[VerifierKey]:
        found = read_reopening(home / FILE)  # its operator has put it there: brakeline keeper move
        return [found[0].key] if found else []

    own = party.key("witness")
    serve(home / "witness", me.witness_key.name, own, logs, host=host, port=port, news=news)
