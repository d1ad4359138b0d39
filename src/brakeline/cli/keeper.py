"""`brakeline keeper`: go on with a log whose keeper is dead or hostile, or whose key is lost. Rules 11.8 to 11.10."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from brakeline.cli.common import folding, home_option, read_file, tell
from brakeline.core import reopening
from brakeline.core.encoding import canonical
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused
from brakeline.core.reopening import Closed, Closing, Reopening
from brakeline.core.snapshot import unpack
from brakeline.core.state import State
from brakeline.core.state.codec import decode
from brakeline.core.state.reopen import check_closed, check_members, holds
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.note import ED25519, VerifierKey
from brakeline.core.tlog.policy import verify_all
from brakeline.core.treaty.values import SKEW
from brakeline.node.desk import Desk
from brakeline.node.disk import write_atomic
from brakeline.node.home import Home
from brakeline.node.keeping import folder_of, log_key, state_at, take
from brakeline.node.logstore import LogStore
from brakeline.node.memory import stamped_in
from brakeline.node.moving import FILE, begins, is_news, read_reopening
from brakeline.node.peers import within
from brakeline.node.witness import Witness, check_memory

_LOOKING = 10.0  # s for a log that may be dead
SIGNED = "signed.json"  # in a home: the reopening that it has signed

_source = click.option(
    "--from", "source", help="Check it against a copy of the log: a mirror's folder or address, or a bundle."
)
_files = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Go on with a log whose keeper is dead or hostile, or whose key is lost.

    Witnesses and permit signers `close` the old log; a new keeper drafts the `reopen`ing from a mirror; parties `sign`
    it; and all who serve or train `move`. The brake is on from there, until the parties lift it.
    """


class _Seen(NamedTuple):
    """The newest state that a home has kept, in whatever role; and what it has seen since: checkpoint and stamp."""

    state: State
    size: int
    stamped: int


def _seen(home: Home) -> _Seen:
    """What a home has seen. The log is asked, and may not answer."""
    desk = Desk(home, tell=tell)
    try:
        with within(_LOOKING):
            desk.update()
    except BrakelineError as e:
        click.echo(f"the log does not answer as it should, so this goes by what this home has seen: {e}", err=True)
    states, folders = [desk.state], [home.path / name for name in ("seen", "signer", "mirror/seen")]
    for folder in folders:
        with suppress(OSError, BrakelineError):
            states.append(decode(unpack((folder / "state").read_bytes()), home.treaty))
    newest = max(states, key=lambda state: (len(state.chain.reopened), state.size))
    size = max(newest.size, *_checkpoints(folders, newest.chain.log.key.name))
    stamped = max(newest.clock.mark.size, *(stamped_in(folder)[0] for folder in folders))
    # What the log kept of the one before it is no stamp of its own.
    began = newest.chain.reopened[-1].entry if newest.chain.reopened else -1
    return _Seen(newest, size, stamped if stamped > began else 0)


def _checkpoints(folders: Iterable[Path], origin: str) -> Iterator[int]:
    yield 0
    for folder in folders:
        with suppress(OSError, BrakelineError):
            checkpoint = checkpoint_in((folder / "checkpoint").read_bytes())
            if checkpoint.origin == origin:
                yield checkpoint.size


@command.command(name="close")
@home_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write what is signed.")
@click.option("--origin", help="The log to close.  [default: the one in force]")
def close_(home: Path, out: Path, origin: str | None) -> None:
    """Cosign nothing and sign no permit by this log ever again, as witness and permit signer.

    There is no way back: only a log that is reopened goes on. Permits that were given lapse by themselves.
    """
    party = Home(home)
    seen = _seen(party)
    state, current = seen.state, seen.state.chain.log.key.name
    ended = origin or current
    text = party.newest
    me = party.me(text)
    made: list[Closing] = []
    if me.witness_key:
        check_memory(home / "witness")
        witness = Witness(home / "witness", me.witness_key.name, party.key("witness"), (), time.time)
        cosigned, when = witness.close_log(ended)
        witness.close()
        made.append(_close(party, "witness", seen, ended, cosigned.size if cosigned else 0, 0, when))
    if me.signer_key and ended == current:
        epoch = max(party.granted().close(ended), state.epoch)
        made.append(_close(party, "permit-signer", seen, ended, seen.size, epoch, int(time.time())))
    if not made:
        raise Misuse(f"{party.name} is neither a witness nor a permit signer: there is nothing for it to close")
    write_atomic(out, reopening.encode_closings(made))
    roles = " and ".join(c.role for c in made)
    stamped = max(c.settled for c in made)
    click.echo(f"{party.name} has closed {ended} as {roles}; it has seen {stamped} entries stamped: {out}")


def _close(
    party: Home, role: reopening.Role, seen: _Seen, origin: str, size: int, epoch: int, when: int
) -> Closing:
    key = party.key("witness" if role == "witness" else "signer")
    said = Closed(
        treaty=seen.state.first,
        origin=origin,
        party=party.name,
        role=role,
        key=key.public.id,
        size=size,
        settled=seen.stamped if origin == seen.state.chain.log.key.name else 0,
        epoch=epoch,
        time=when,
    )
    return reopening.close(said, key)


@command.command()
@home_option
@click.option("--from", "source", required=True, help="A copy of the log: a mirror's folder or address, or a bundle.")
@click.option(
    "--closing", "closings", multiple=True, type=click.Path(path_type=Path), help="What a party wrote that closed it."
)
@click.option("--url", required=True, help="Where this party will keep the log.")
@click.option("--origin", help="The new log's name.  [default: this party's name, /log, and a number]")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write the reopening.")
def reopen(
    home: Path,
    source: str,
    closings: tuple[Path, ...],
    url: str,
    origin: str | None,
    reason: str,
    out: Path,
) -> None:
    """Draft the reopening of the log with this party as its keeper, for the parties to sign.

    Copies the old log's entries into this home, behind which `brakeline log` goes on. A log that an earlier reopening
    named and that was never published ends with it, where its closings are given, too.
    """
    party = Home(home)
    found = [c for path in closings for c in reopening.decode_closings(read_file(path))]
    name = origin or _origin(party, (c.origin for c in found))
    with LogStore(folder_of(party, name), name) as store, folding() as progress:
        state, cosigned = take(party.treaty, source, store, progress)
    found = [c for c in found if _counts(state, c)]
    key, ended = log_key(party, state), state.chain.log.key.name
    made = Reopening(
        treaty=state.first,
        over=(ended, *sorted({c.origin for c in found} - {ended})),
        keeper=party.name,
        log_key=VerifierKey(name, ED25519, key.public).text,
        url=url,
        stamp=cosigned.note.encode().decode(),
        closings=reopening.ordered(found),
        reason=reason,
    )
    late = max((c.settled for c in found), default=0)
    if late > state.size:
        raise Refused(
            Reason.ROLLBACK,
            f"{source} has {state.size} entries, and a closer has seen {late} stamped",
            hint="find a copy that goes further: ask whoever runs a mirror",
        )
    check_closed(state, made, size=state.size)
    _check_seen(_seen(party), made)
    write_atomic(out, canonical(made))
    _show(made)
    click.echo(f"{state.treaty.members} parties sign it: brakeline keeper sign {out}")


def _counts(state: State, closing: Closing) -> bool:
    """Whether a closing may go into a draft: what is forged, or dated so that nothing later contradicts it, may not."""
    if closing.time > time.time() + SKEW:
        click.echo(f"left out: {closing.party} closes {closing.origin} at a time that has not come", err=True)
    elif not holds(state, closing):
        click.echo(f"left out: the closing of {closing.party} as {closing.role} is not signed by its key", err=True)
    else:
        return True
    return False


def _origin(party: Home, over: Iterable[str]) -> str:
    """A name that no log of this home's treaty has had, as far as this home knows."""
    used = {*over, *(p.name for p in _kept(party))}
    names = (f"{party.name}/log{f'-{i}' if i > 1 else ''}" for i in range(1, 1000))
    return next(name for name in names if name not in used)


def _kept(party: Home) -> list[VerifierKey]:
    keys = [p.log_key for p in party.treaty.with_role("log") if p.log_key]
    moved = [read_reopening(party.path / name) for name in (FILE, SIGNED)]
    return [*keys, *(found[0].key for found in moved if found)]


@command.command()
@_files
@home_option
@_source
@click.option("--out", type=click.Path(path_type=Path), help="Where to write it.  [default: over the first of FILES]")
def sign(files: tuple[Path, ...], home: Path, source: str | None, out: Path | None) -> None:
    """Sign the reopening in FILES as a party; copies with others' signatures are put together.

    Refuses one that begins before what this home has seen stamped, and a second one over the same log.
    """
    party = Home(home)
    seen = _seen(party)
    state = seen.state
    data = [read_file(path) for path in files]
    payload = reopening.payload_of(data[0])
    made = reopening.check(payload)
    if not is_news(state, made) or made.over[0] != state.chain.log.key.name:
        raise Refused(Reason.FOREIGN, f"it reopens {made.over[0]}; the log is {state.chain.log.key.name}")
    if any(c.time > time.time() + SKEW for c in made.closings):
        raise Refused(Reason.NOT_YET_VALID, "a closing is of a time that has not come: nothing could contradict it")
    _check_seen(seen, made)
    check_closed(_at(party, made, source) or state, made, size=begins(made))
    _remember(party, made, payload)
    write_atomic(out or files[0], reopening.signed(payload, party.key("statement"), *data))
    _show(made)
    click.echo(f"signed by {party.name}: {out or files[0]}")


def _check_seen(seen: _Seen, made: Reopening) -> None:
    start = begins(made)
    if made.over[0] == seen.state.chain.log.key.name and seen.stamped > start:
        text = f"it begins behind {start} entries, and this home has seen {seen.stamped} stamped (Treaty 11.8)"
        raise Refused(Reason.ROLLBACK, text, hint="what is stamped must not be lost: draft it from a copy that has it")


def _at(party: Home, made: Reopening, source: str | None) -> State | None:
    """The state from which it goes on, where there is a copy of the log to fold."""
    if source is None:
        return None
    with folding() as progress:
        state = state_at(party.treaty, source, begins(made), progress)
    cosigned = verify_all(made.stamp.encode(), state.chain.need)
    if cosigned.checkpoint.root != state.root():
        raise Refused(Reason.TAMPERED, f"{source} is a copy of another log than the one that it goes on from")
    return state


def _remember(party: Home, made: Reopening, payload: bytes) -> None:
    """Remember what is signed before it is: of two reopenings over one log an honest party signs one. Treaty 11.8.

    Another one only, if it ends what the first one began.
    """
    path = party.path / SIGNED
    before = read_reopening(path)
    if before is None and path.exists():
        raise Malformed(f"{path} is damaged", hint="put it back from a copy: it says which reopening this party signed")
    if before and reopening.read(before[1])[1].payload != payload:
        first = before[0]
        if set(first.over) & set(made.over) and not {*first.over, first.key.name} <= set(made.over):
            name = first.key.name
            raise Refused(
                Reason.EQUIVOCATION,
                f"{party.name} has signed another reopening, by which {first.keeper} goes on as {name}",
                hint=f"if {name} was never published: `keeper close --origin {name}`, and draft anew with it",
            )
    write_atomic(path, reopening.signed(payload, party.key("statement")))


@command.command()
@_files
@home_option
@_source
def move(files: tuple[Path, ...], home: Path, source: str | None) -> None:
    """Go on with the log as the reopening in FILES says, which enough parties have signed.

    Puts it into HOME, where this party's running witness, permit signer, mirror and trainings find it, and from where
    its permit signer tells others.
    """
    party = Home(home)
    state = _seen(party).state
    data = [read_file(path) for path in files]
    merged = reopening.joined(reopening.payload_of(data[0]), (), data)
    made, envelope = reopening.read(merged)
    if is_news(state, made):
        at = _at(party, made, source) or state
        check_closed(at, made, size=begins(made))
        check_members(at, made, envelope, size=begins(made))
    elif made.treaty != state.first:
        raise Refused(Reason.FOREIGN, "it reopens the log of another treaty")
    write_atomic(home / FILE, merged)
    click.echo(f"{party.name} goes on with {made.key.name}, kept by {made.keeper} at {made.url}")


def _show(made: Reopening) -> None:
    """What a person decides on who signs it."""
    start = begins(made)
    largest = max((c.size for c in made.closings), default=start)
    latest = max((c.time for c in made.closings), default=0)
    click.echo(f"{made.over[0]} ends, and goes on as {made.key.name}, kept by {made.keeper} at {made.url}")
    click.echo(f"  it begins behind {start} entries; a closer has cosigned or seen {largest}")
    for closing in made.closings:
        told = f"closed as {closing.role}; {closing.settled} entries seen stamped"
        click.echo(f"  {closing.party} {told}")
    when = datetime.fromtimestamp(min(latest, 253_370_764_799), UTC)
    click.echo(f"  the last of them closed it at {when:%Y-%m-%d %H:%M:%S} UTC; the brake is on from there")
