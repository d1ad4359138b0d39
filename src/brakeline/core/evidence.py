"""Evidence: two signed things that prove to anybody that a party said both. Treaty 2.4.

Two envelopes of statements; or a checkpoint's note, and the envelope by which a witness on it had closed that log.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from brakeline.core.encoding import Wire, parse
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.reopening import CLOSE, Closed
from brakeline.core.statement import Envelope, Statement, open_envelope, verify
from brakeline.core.tlog.checkpoint import parse_checkpoint, verify_cosignature
from brakeline.core.tlog.note import Note, VerifierKey, parse_note


class Reopened(Protocol):
    """Where a log was reopened."""

    @property
    def entry(self) -> int: ...


class Evidence(Wire, frozen=True):
    """Body of an `evidence`: the texts of two envelopes, the smaller first, or of a note and an envelope.

    It is complete in itself.
    """

    first: str
    second: str


def read(body: Evidence) -> tuple[Envelope, Envelope]:
    """The two envelopes, not yet verified.

    Raises:
        Malformed: not two different envelopes of one kind of statement each, in order.
    """
    if body.first >= body.second:
        raise Malformed("evidence is two different envelopes, the smaller first")
    return open_envelope(body.first.encode()), open_envelope(body.second.encode())


def read_closed(body: Evidence) -> tuple[Note, Closed, Envelope]:
    """A note, and the closing that it contradicts, neither of them verified.

    Raises:
        Malformed: not these two.
    """
    envelope = open_envelope(body.second.encode())
    if envelope.kind != CLOSE:
        raise Malformed("beside a checkpoint, evidence is the closing of a witness")
    return parse_note(body.first.encode()), parse(envelope.payload, Closed), envelope


def check_cosigned_again(note: Note, closed: Closed, envelope: Envelope, key: VerifierKey) -> None:
    """That the witness whose `key` it is has closed an origin, and later cosigned for it. Treaty 11.10.

    Raises:
        Refused(FORGED). Malformed: both may be meant.
    """
    verify(envelope, key.key)
    line = next((line for line in note.lines if (line.name, line.key_id) == (key.name, key.id)), None)
    if closed.role != "witness" or line is None or parse_checkpoint(note.text).origin != closed.origin:
        raise Malformed(f"the checkpoint does not contradict the closing of {closed.party}")
    later = verify_cosignature(note.text, line, key) > closed.time
    if not later and parse_checkpoint(note.text).size <= closed.size:
        raise Malformed(f"{closed.party} cosigned this before it closed the log: that proves nothing")


def verified(envelope: Envelope, key: PublicKey, texts: Collection[str], issuer: str) -> Statement:
    """One of the two statements, where it is `issuer`'s under one of the `texts` (hex SHA-256).

    Raises:
        Refused: FORGED, FOREIGN. Malformed: not a statement.
    """
    verify(envelope, key)
    statement = envelope.statement
    statement.check()
    if statement.issuer != issuer or statement.treaty not in texts:
        raise Refused(Reason.FOREIGN, "evidence of another party or treaty")
    return statement


def contradict(first: Statement, second: Statement, reopened: Sequence[Reopened]) -> bool:
    """Whether two verified `snapshot` statements name two logs or two states at one size.

    `reopened`: where the log was. Treaty 11.9
    """
    one, two = first.body, second.body
    if one == two or any(one.get(k) != two.get(k) for k in ("rules", "size")):
        return False
    size = one.get("size")
    return isinstance(size, int) and same_log(one.get("root"), two.get("root"), size, reopened)


def same_log(root: object, other: object, size: int, reopened: Sequence[Reopened]) -> bool:
    """Whether an honest party has seen one log only at this size: not beyond where it was reopened. Treaty 11.9"""
    return root == other or not any(r.entry < size for r in reopened)
