"""`brakeline witness`: cosign what is consistent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from starlette.types import ASGIApp

from brakeline.cli.common import address, home_option, host_option, log_url, port_option
from brakeline.core.errors import BrakelineError, Misuse
from brakeline.core.tlog.note import VerifierKey
from brakeline.core.treaty.values import SKEW
from brakeline.node.client import Follower
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.node.home import Home
from brakeline.node.http import run
from brakeline.node.logclient import LogClient
from brakeline.node.memory import RESTORED
from brakeline.node.moving import FILE, read_reopening
from brakeline.node.peers import within
from brakeline.node.recall import is_behind, take_back
from brakeline.node.witness import MEMORY, Witness

_LOOKING = 10.0  # s for a log that may not be there yet


@click.command()
@home_option
@host_option
@port_option
@click.option("--new", is_flag=True, help="It has never cosigned this log, on no machine: begin without a memory.")
@click.option("--clock-was-ahead", is_flag=True, help="Its clock is right again: sign its time from here on.")
def command(home: Path, host: str | None, port: int | None, new: bool, clock_was_ahead: bool) -> None:
    """Witness the treaty's log (C2SP tlog-witness), at the address that the treaty names.

    Cosigns a checkpoint only when it extends every one cosigned before. Remembers across restarts; a memory that is
    gone, or older than what the log shows, is taken back from the log before anything is cosigned.
    """
    with serving(Home(home), new=new, clock_was_ahead=clock_was_ahead) as (served, url):
        run(served, *address(url, host, port))


@contextmanager
def serving(party: Home, *, new: bool = False, clock_was_ahead: bool = False) -> Iterator[tuple[ASGIApp, str]]:
    """What the home's witness serves, and the address in the treaty, once its memory has been compared."""
    treaty = party.newest  # a witness that joins is there before the text turns (Treaty 11.2)
    me = party.me(treaty)
    if me.witness_key is None:
        raise Misuse(f"the treaty does not make {me.name} a witness (Treaty 1.2)")
    logs = [p.log_key for p in treaty.with_role("log") if p.log_key]

    def news() -> list[VerifierKey]:
        found = read_reopening(party.path / FILE)  # its operator has put it there: brakeline keeper move
        return [found[0].key] if found else []

    memory = party.path / "witness"
    copy = memory / RESTORED
    if not new and not (memory / MEMORY).exists():
        write_atomic(copy, b"")  # first: what is made below must not pass for a memory after a crash
    witness = Witness(memory, me.witness_key.name, party.key("witness"), logs, time.time, news)
    try:
        if new:
            witness.check_new(_log(party)[0].name)
            with disk_errors():
                copy.unlink(missing_ok=True)
        _remember(party, witness, copy, clock_was_ahead)
        yield witness.app(), me.witness_url
    finally:
        witness.close()


def _remember(party: Home, witness: Witness, copy: Path, clock_was_ahead: bool) -> None:
    """Compare what the witness remembers with the log, and take back what it has forgotten."""
    if copy.exists() or _is_behind(party, witness):
        write_atomic(copy, b"")
        seen = take_back(witness, _follower(party))
        with disk_errors():
            copy.unlink()
        click.echo(f"its memory was gone or old: from the log it took back a tree of {seen.size} entries", err=True)
    if clock_was_ahead:
        follower = _follower(party)
        follower.update()
        if time.time() < follower.time - SKEW:
            raise Misuse("this machine's clock is behind the log's time", hint="set the clock first")
        witness.set_back()
    if witness.ahead():
        hint = "if its clock ran ahead and is right again: `brakeline witness --clock-was-ahead`"
        click.echo(f"this witness has signed a time that has not come, and goes on signing it; {hint}", err=True)


def _follower(party: Home) -> Follower:
    treaty = party.treaty
    return Follower(LogClient(log_url(treaty)), treaty, party.path / "seen", put=party.path / FILE)


def _log(party: Home) -> tuple[VerifierKey, str]:
    """Key and address of the log, as far as this home has been told."""
    found = read_reopening(party.path / FILE)
    keeper = party.newest.with_role("log")[0]
    assert keeper.log_key is not None
    return (found[0].key, found[0].url) if found else (keeper.log_key, keeper.log_url)


def _is_behind(party: Home, witness: Witness) -> bool:
    """Whether the log shows more of this witness than it remembers. A log that does not answer shows nothing."""
    key, url = _log(party)
    known = witness.last(key.name)
    if witness.has_closed(key.name):
        return False
    try:
        with within(_LOOKING):
            return is_behind(LogClient(url), key, witness.vkey, known.size if known else 0)
    except BrakelineError as e:
        click.echo(f"its memory could not be compared with the log: {e}", err=True)
        return False
