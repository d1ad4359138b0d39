"""`brakeline log`: keep the transparency log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from starlette.types import ASGIApp

from brakeline.cli.common import address, home_option, host_option, port_option, tell
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.statement import open_envelope
from brakeline.node.home import Home
from brakeline.node.http import run
from brakeline.node.judge import LogJudge
from brakeline.node.keeping import folder_of, serves
from brakeline.node.logserver import app
from brakeline.node.logstore import LogStore
from brakeline.node.moving import FILE, begins, read_reopening
from brakeline.node.sequencer import Sequencer, Timing


@click.command()
@home_option
@host_option
@port_option
@click.option("--check", is_flag=True, help="Check all that is stored, repair what is made of it, and end.")
def command(home: Path, host: str | None, port: int | None, check: bool) -> None:
    """Keep the log of the treaty in HOME, at the address that the treaty names.

    Takes statements of the treaty's parties, and publishes only what a witness quorum has cosigned. Serves C2SP
    tlog-tiles. Everything it acknowledged survives a crash. A log that was reopened (`brakeline keeper`) goes on behind
    the reopening, at the address that this names.
    """
    party = Home(home)
    if check:
        with _store(party) as (store, _):
            store.entries(0, store.size)
            kept = f"{store.size} entries of {store.origin}, {store.published_size} of them published"
            click.echo(f"{kept}: every row and the root are right; {store.repaired} tiles were made anew")
        return
    with serving(party) as (served, url):
        run(served, *address(url, host, port))


@contextmanager
def _store(party: Home) -> Iterator[tuple[LogStore, str]]:
    """What is kept of the log that this home serves, and at which address.

    Raises:
        Misuse: it serves none.
    """
    me, found = party.me(party.treaty), read_reopening(party.path / FILE)
    if found and not serves(party, found[0]):
        r = found[0]
        raise Misuse(f"the log goes on as {r.key.name}, kept by {r.keeper} at {r.url} (Treaty 11.8)")
    if found is None and me.log_key is None:
        raise Misuse(f"the treaty does not let {me.name} keep the log (Treaty 1.2)")
    origin, url = (found[0].key.name, found[0].url) if found else (me.log_key.name if me.log_key else "", me.log_url)
    with LogStore(folder_of(party, origin), origin) as store:
        if found:
            _go_on(store, found[1], begins(found[0]))
        yield store, url


@contextmanager
def serving(party: Home) -> Iterator[tuple[ASGIApp, str]]:
    """What the home's log serves, and the address at which it is known. Raises as `LogStore`."""
    treaty = party.treaty
    with _store(party) as (store, url):
        judge = LogJudge(treaty, store, store.directory / "state")
        timing = Timing(heartbeat=treaty.heartbeat)
        yield app(Sequencer(store, party.key("log"), judge, time.time, timing, tell), judge.offered), url


def _go_on(store: LogStore, reopening: bytes, start: int) -> None:
    """Have the reopening as the first entry of the new log, behind those of the old one."""
    if store.size == start:
        store.append([reopening])
    # Others may have signed it since: it is the same reopening.
    if store.size <= start or open_envelope(store.entry(start)).payload != open_envelope(reopening).payload:
        raise Refused(
            Reason.TAMPERED,
            f"{store.directory} does not hold the {start} entries behind which the log goes on",
            hint="draft the reopening in this home, or move its store away: `brakeline keeper reopen`",
        )
