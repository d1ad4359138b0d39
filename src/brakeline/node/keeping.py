"""From where a log is reopened: what somebody has of it, as a folder, an address or a bundle; and where it is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from brakeline.core.bundle import parse_bundle
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.reopening import Reopening
from brakeline.core.state import State, apply, begin
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.policy import Cosigned, verify_all
from brakeline.core.treaty import Treaty
from brakeline.core.treaty.parties import digest_of
from brakeline.node.home import Home, new_key, save_key
from brakeline.node.logclient import LogClient, Progress
from brakeline.node.logstore import LogStore
from brakeline.node.mirror import store_of
from brakeline.node.ports import disk

_CHUNK: Final = 1000  # entries written at once


class Found(NamedTuple):
    """A log folded from its first entry to a cosigned checkpoint."""

    state: State
    cosigned: Cosigned


@contextmanager
def entries_of(source: str) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """The checkpoint's note and the entries under it, of what may be a folder, an address or a bundle; not verified.

    Raises:
        Misuse: it is none of them. Unavailable, Malformed, Refused: it cannot be read.
    """
    path = Path(source)
    if source.startswith(("http://", "https://")):
        client = LogClient(source)
        note = client.checkpoint()
        yield note, client.stream(0, checkpoint_in(note).size)
    elif (path / "log.db").exists() and (path / "checkpoint").exists():
        note = (path / "checkpoint").read_bytes()
        checkpoint = checkpoint_in(note)
        with LogStore(path, checkpoint.origin) as store:
            yield note, _rows(store, checkpoint.size)
    elif path.is_file():
        bundle = parse_bundle(path.read_bytes())
        yield bundle.checkpoint, iter(bundle.entries)
    else:
        hint = "give a mirror's or a log's folder (with log.db and checkpoint), its address, or a bundle"
        raise Misuse(f"{source} is no copy of a log", hint=hint)


def _rows(store: LogStore, size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK):
        yield from store.entries(start, min(size, start + _CHUNK))


def take(treaty: Treaty, source: str, store: LogStore, progress: Progress) -> Found:
    """Fold the log in `source`, and write it into `store`, whose origin is another one.

    Raises:
        Refused(TAMPERED): the entries are not those of the checkpoint. Others as `entries_of` and `verify_all`.
    """
    state, batch = begin(treaty), list[bytes]()
    with entries_of(source) as (note, entries):
        size = checkpoint_in(note).size
        for entry in entries:
            state, _ = apply(state, entry)
            batch.append(entry)
            if len(batch) == _CHUNK:
                _write(store, state, batch)
                progress(state.size, size)
        _write(store, state, batch)
    checkpoint = checkpoint_in(note)
    if (state.size, state.root()) != (checkpoint.size, checkpoint.root):
        raise Refused(Reason.TAMPERED, f"the entries in {source} are not those that its checkpoint commits to")
    return Found(state, verify_all(note, state.chain.need))


def state_at(treaty: Treaty, source: str, size: int, progress: Progress) -> State:
    """The state after the first `size` entries in `source`. Whether they are the log's is for the caller to check.

    Raises:
        Refused(ROLLBACK): it has fewer. Others as `entries_of`.
    """
    state = begin(treaty)
    with entries_of(source) as (_, entries):
        for entry in islice(entries, size):
            state, _ = apply(state, entry)
            progress(state.size, size)
    if state.size != size:
        raise Refused(Reason.ROLLBACK, f"{source} has {state.size} entries, and it takes {size}")
    return state


def _write(store: LogStore, state: State, batch: list[bytes]) -> None:
    """Behind what the store has; where it has something else, it is no store of this log."""
    new = batch[max(0, store.size - (state.size - len(batch))) :]
    store.append(new, as_is=True)
    if store.root(state.size) != state.root():
        text = f"{store.directory} holds another log"
        raise Refused(Reason.TAMPERED, text, hint="move it away, and try again")
    batch.clear()


def folder_of(home: Home, origin: str) -> Path:
    """Where a home keeps the log of an origin: the first one of its treaty in `log`."""
    first = home.treaty.with_role("log")[0].log_key
    return home.path / "log" if first and first.name == origin else store_of(home.path / "logs", origin)


def log_key(home: Home, state: State) -> PrivateKey:
    """A key under which this home may go on with the log: the one it has, or a new one where the log has known that.

    The one before stays beside it.
    """
    path = home.path / "keys" / "log.pem"
    if home.holds("log") and digest_of(home.key("log").public) in state.chain.log_keys:
        number = next(i for i in range(1, 1000) if not path.with_name(f"log.{i}.pem").exists())
        disk().rename(path, path.with_name(f"log.{number}.pem"))
    if not home.holds("log"):
        encrypted = b"ENCRYPTED" in path.with_name("statement.pem").read_bytes()
        save_key(path, new_key(), home.passphrase() if encrypted else None)
    return home.key("log")


def serves(home: Home, r: Reopening) -> bool:
    """Whether this home is the one that keeps the log from there on."""
    return r.keeper == home.name and home.holds("log") and home.key("log").public == r.key.key
