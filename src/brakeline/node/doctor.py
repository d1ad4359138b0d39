"""What is wrong with a home, its clock, its disk and its peers. Nothing is changed by looking."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from brakeline.core.errors import BrakelineError, Unavailable
from brakeline.core.grant import clock_off
from brakeline.core.tlog.policy import verify_all
from brakeline.core.treaty import Party, Treaty
from brakeline.node import ports
from brakeline.node.disk import database_errors, disk_errors, write_atomic
from brakeline.node.home import Home, Purpose
from brakeline.node.logclient import LogClient
from brakeline.node.memory import RESTORED
from brakeline.node.peers import ask, http_client

_ROOM: Final = 2**30  # bytes free below which a home is told to have little
_ANSWER: Final = 5.0  # s for a peer
_LIMIT: Final = 2**20


class Check(NamedTuple):
    """One thing that was looked at. `trouble` is empty where all is well; then `found` says what there is."""

    what: str
    found: str = ""
    trouble: str = ""
    hint: str = ""


def examine(home: Home) -> Iterator[Check]:
    """Everything that can be looked at, what other things rest on first.

    Raises:
        Unavailable, Malformed: the home has no treaty, or one that does not pass: there is nothing to compare with.
    """
    treaty = home.newest
    yield _checked("keys", lambda: _keys(home, treaty))
    yield _checked("disk", lambda: _disk(home.path))
    for name in ("outbox.sqlite", "witness/witness.db"):
        if (home.path / name).exists():
            yield _checked(name, lambda name=name: _database(home.path / name))  # type: ignore[misc]
    if (home.path / RESTORED).exists():
        text = "this home is a copy that has not been compared with the log yet"
        yield Check("copy", trouble=text, hint="the next command that signs compares it; see docs/operator.md")
    yield _checked("statements", lambda: _waiting(home.path / "outbox.sqlite"))
    yield from _log(home, treaty)
    for party in treaty.parties.values():
        for kind, url in (("witness", party.witness_url), ("permit signer", party.signer_url)):
            if url:
                yield _checked(f"{party.name}'s {kind}", lambda url=url: _peer(url))  # type: ignore[misc]


def _checked(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, look())
    except BrakelineError as e:
        return Check(what, trouble=str(e), hint=e.hint)


def _purposes(me: Party) -> list[Purpose]:
    wanted: list[tuple[Purpose, bool]] = [
        ("statement", True),
        ("log", me.log_key is not None),
        ("witness", me.witness_key is not None),
        ("signer", me.signer_key is not None),
    ]
    return [purpose for purpose, there in wanted if there]


def _keys(home: Home, treaty: Treaty) -> str:
    purposes = _purposes(home.me(treaty))
    for purpose in purposes:
        home.key(purpose)
    return f"{', '.join(purposes)} of {home.name}"


def _disk(folder: Path) -> str:
    probe = folder / "doctor"
    write_atomic(probe, b"")
    with disk_errors():
        probe.unlink()
        free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise Unavailable(f"only {free / 2**20:.0f} MiB are free", hint="a disk that is full stops what this home runs")
    return f"{free / 2**30:.0f} GiB free"


def _database(path: Path) -> str:
    with database_errors(), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        ((found,),) = db.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise Unavailable(f"it is damaged: {found}", hint="brakeline restore makes the home again from its backup")
    return "whole"


def _waiting(path: Path) -> str:
    if not path.exists():
        return "none yet"
    with database_errors(), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        ((waiting,),) = db.execute("SELECT count(*) FROM said WHERE idx IS NULL AND refused IS NULL").fetchall()
    if waiting:
        hint = "any command that reaches the log sends them: brakeline status"
        raise Unavailable(f"{waiting} signed, and not in the log yet", hint=hint)
    return "all are in the log"


def _log(home: Home, treaty: Treaty) -> Iterator[Check]:
    url = home.treaty.with_role("log")[0].log_url
    try:
        client = LogClient(url)
        cosigned = verify_all(client.checkpoint(), lambda _: (treaty.policy,))
    except BrakelineError as e:
        yield Check("log", trouble=str(e), hint=e.hint or "is it reopened elsewhere? brakeline status")
        return
    yield Check("log", f"{cosigned.checkpoint.size} entries at {url}, cosigned by {len(cosigned.witnesses)}")
    if off := clock_off(treaty, view_time=cosigned.time, now=int(ports.clock().wall())):
        side = "behind" if off < 0 else "ahead of"
        text = f"this clock is {abs(off)} s {side} the witnesses', or the log stands still"
        yield Check("clock", trouble=text, hint="is time synchronized here (timedatectl)? is the log's checkpoint new?")
    else:
        yield Check("clock", "as the witnesses'")


def _peer(url: str) -> str:
    try:
        with http_client() as client:
            answer = ask(client, "GET", f"{url.rstrip('/')}/healthz", _LIMIT, seconds=_ANSWER)
        trouble = json.loads(answer.content)["trouble"]
    except (httpx.HTTPError, OSError) as e:
        raise Unavailable(f"{url} is out of reach: {e}", hint="is it running? is the way there open?") from e
    except (ValueError, KeyError, TypeError) as e:
        raise Unavailable(f"{url} does not answer as a Brakeline server", hint="is it another build?") from e
    if trouble:
        raise Unavailable(f"{url}: {str(trouble)[:200]}")
    return f"well, at {url}"
