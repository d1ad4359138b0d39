"""What a log promises of an entry that is durable and not yet published: its place, and by when it will be published.

A note of its own, which no parser of checkpoints reads as one: its second line is no number.
"""

from dataclasses import dataclass
from typing import Final

from brakeline.core.encoding import b64decode, b64encode, decimal
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import MAX_SIZE
from brakeline.core.tlog.merkle import HASH_BYTES
from brakeline.core.tlog.note import MAX_TIME, Note, VerifierKey, keyring, parse_note, sign_note, verify_note

HEADER: Final = b"brakeline/receipt/v1\n"
_FIELDS: Final = (b"origin ", b"index ", b"leaf ", b"until ")


@dataclass(frozen=True, slots=True)
class Receipt:
    """The entry with this `leaf` hash is entry `index` of the log, and is published `until` then (POSIX s).

    Raises on construction:
        Malformed: an index or a time beyond 2**63-1, or a leaf that is not 32 bytes.
    """

    origin: str
    index: int
    leaf: bytes
    until: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE or not 0 < self.until <= MAX_TIME or len(self.leaf) != HASH_BYTES:
            raise Malformed("a receipt has an index, a leaf hash of 32 bytes and a time")

    @property
    def text(self) -> bytes:
        """The note text."""
        values = (self.origin.encode(), b"%d" % self.index, b64encode(self.leaf).encode(), b"%d" % self.until)
        return HEADER + b"".join(name + value + b"\n" for name, value in zip(_FIELDS, values, strict=True))


def is_receipt(note: bytes) -> bool:
    """Whether the note says that it is one."""
    return note.startswith(HEADER)


def parse_receipt(text: bytes) -> Receipt:
    """Read a note text as a receipt.

    Raises:
        Malformed: not exactly its five lines.
    """
    lines = text.removeprefix(HEADER).split(b"\n")
    if not text.startswith(HEADER) or len(lines) != 5 or lines.pop():
        raise Malformed("a receipt is five lines: its header, origin, index, leaf, until")
    if not all(line.startswith(name) for name, line in zip(_FIELDS, lines, strict=True)):
        raise Malformed("a receipt names its origin, index, leaf and time, in this order")
    origin, index, leaf, until = (line.removeprefix(name) for name, line in zip(_FIELDS, lines, strict=True))
    try:
        return Receipt(origin.decode(), decimal(index), b64decode(leaf), decimal(until))
    except UnicodeDecodeError as e:
        raise Malformed("an origin is UTF-8") from e


def sign_receipt(receipt: Receipt, key: PrivateKey) -> Note:
    """The receipt, signed with the log's key."""
    return sign_note(receipt.text, receipt.origin, key)


def verify_receipt(note: bytes, key: VerifierKey) -> Receipt:
    """A receipt that the log with this key has signed.

    Raises:
        Malformed: not a receipt. Refused: FOREIGN, of another log; NO_QUORUM, FORGED, DUPLICATE: not signed by it.
    """
    parsed = parse_note(note)
    receipt = parse_receipt(parsed.text)
    if receipt.origin != key.name:
        raise Refused(Reason.FOREIGN, f"a receipt of another log, {receipt.origin!r}")
    verify_note(parsed, keyring([key]))
    return receipt
