"""What a witness without its memory, or with an old one, takes back from the log: its own cosignatures, and the tree
that they are about.

The log's stamps carry cosignatures, and so does its newest checkpoint. What no stamp shows is a tree that the keeper
brought to this witness and published to nobody: as long as a witness can have forgotten one, it is one of the `f` that
may err.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from brakeline.core.errors import BrakelineError, Reason, Refused
from brakeline.core.tlog.checkpoint import Checkpoint, parse_checkpoint, verify_cosignature
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.tlog.note import VerifierKey, keyring, parse_note, verify_note
from brakeline.node.client import Follower
from brakeline.node.logclient import LogClient
from brakeline.node.witness import Seen, Witness

_ENVELOPE: Final = b"{"  # how an entry begins that is no stamp


class Own(NamedTuple):
    """A checkpoint that this witness has cosigned, and when (POSIX s)."""

    checkpoint: Checkpoint
    time: int


def own_in(notes: Iterable[bytes], log: VerifierKey, witness: VerifierKey) -> Iterator[Own]:
    """Of these notes those over the log's checkpoints that both the log's key and the witness's have signed."""
    for data in notes:
        with suppress(BrakelineError):
            note = parse_note(data)
            checkpoint = parse_checkpoint(note.text)
            if checkpoint.origin != log.name:
                continue
            verify_note(note, keyring([log]))
            for line in note.lines:
                if (line.name, line.key_id) == (witness.name, witness.id):
                    yield Own(checkpoint, verify_cosignature(note.text, line, witness))


def is_behind(client: LogClient, log: VerifierKey, witness: VerifierKey, known: int) -> bool:
    """Whether the log holds a cosignature of this witness on a tree larger than the `known` one.

    Raises:
        Unavailable, Malformed, Refused: the log cannot be read.
    """
    note = client.checkpoint()
    size = parse_checkpoint(parse_note(note).text).size
    stamps = (entry for entry in client.stream(min(known, size), size) if not entry.startswith(_ENVELOPE))
    return any(own.checkpoint.size > known for own in own_in((note, *stamps), log, witness))


def take_back(witness: Witness, follower: Follower) -> Seen:
    """Give a witness the memory that the log's newest checkpoint extends all that it has cosigned, after checking that.

    Raises:
        Unavailable, Malformed, Refused: the log cannot be read, or does not hold. Refused: MISSING, it shows no
            cosignature of this witness; EQUIVOCATION or ROLLBACK, it is not the one that this witness has cosigned;
            SUPERSEDED, this witness has closed it.
    """
    follower.update()
    state, cosigned = follower.state, follower.cosigned
    assert cosigned is not None
    log = state.chain.log.key
    leaves, found = list[bytes](), list(own_in([cosigned.note.encode()], log, witness.vkey))
    for entry in follower.client.stream(0, state.size):
        leaves.append(leaf_hash(entry))
        if not entry.startswith(_ENVELOPE):
            found += own_in([entry], log, witness.vkey)
    if (known := witness.last(log.name)) is not None:
        found.append(Own(Checkpoint(log.name, known.size, known.root), known.time))
    if not found:
        text = f"the log {log.name} shows no cosignature of {witness.name}: there is nothing to take back"
        raise Refused(Reason.MISSING, text, hint="if it has never cosigned: `brakeline witness --new`")
    if max(own.checkpoint.size for own in found) > state.size:
        raise Refused(Reason.ROLLBACK, f"the log shows {state.size} entries, and this witness has cosigned more")
    tree, done = Frontier(), 0
    for own in sorted(found, key=lambda own: own.checkpoint.size):
        tree, done = tree.extend(leaves[done : own.checkpoint.size]), own.checkpoint.size
        if tree.root() != own.checkpoint.root:
            raise Refused(Reason.EQUIVOCATION, f"of {done} entries the log shows others than this witness has cosigned")
    if tree.extend(leaves[done:]).root() != state.root():
        raise Refused(Reason.TAMPERED, "the log sent other entries than before")
    seen = witness.adopt(cosigned.note, log, max(own.time for own in found))
    for origin in state.chain.origins:
        if origin != log.name:  # a log that ended while this copy lay in a drawer
            witness.close_log(origin)
    return seen
