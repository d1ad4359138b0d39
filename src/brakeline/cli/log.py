"""`brakeline log`: keep the transparency log."""

import time
from pathlib import Path

import click

from brakeline.cli.common import address, home_option, host_option, port_option
from brakeline.core.errors import Misuse
from brakeline.node.home import Home
from brakeline.node.http import run
from brakeline.node.judge import LogJudge
from brakeline.node.logserver import app
from brakeline.node.logstore import LogStore
from brakeline.node.sequencer import Sequencer, Timing


@click.command()
@home_option
@host_option
@port_option
def command(home: Path, host: str | None, port: int | None) -> None:
    """Keep the log of the treaty in HOME, at the address that the treaty names.

    Takes statements of the treaty's parties, and publishes only what a witness quorum has cosigned. Serves C2SP
    tlog-tiles. Everything it acknowledged survives a crash.
    """
    party = Home(home)
    treaty = party.treaty
    me = party.me(treaty)
    if me.log_key is None:
        raise Misuse(f"the treaty does not let {me.name} keep the log (Treaty 1.2)")
    with LogStore(home / "log", me.log_key.name) as store:
        judge = LogJudge(treaty, store, home / "log" / "state")
        timing = Timing(heartbeat=treaty.heartbeat)
        sequencer = Sequencer(store, party.key("log"), judge, time.time, timing)
        run(app(sequencer, judge.offered), *address(me.log_url, host, port))
