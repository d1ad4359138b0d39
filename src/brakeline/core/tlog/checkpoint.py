"""C2SP tlog-checkpoint and tlog-cosignature: a tree head as a note text, and a witness's word for it."""

from dataclasses import dataclass
from typing import Final

from brakeline.core.encoding import b64decode, b64encode, decimal
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.merkle import HASH_BYTES
from brakeline.core.tlog.note import COSIGNATURE, MAX_TIME, SignatureLine, VerifierKey, cosignature_message, parse_note

MAX_SIZE: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `origin` names the log, `root` is the hash of its first `size` entries.

    Raises on construction:
        Malformed: an origin that is not 1..255 bytes of UTF-8 without control characters, a size beyond
            2**63-1, or a root that is not 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        try:
            length = len(self.origin.encode())
        except UnicodeEncodeError as e:
            raise Malformed("an origin is UTF-8") from e
        if not 1 <= length <= 255 or any(c < " " for c in self.origin):
            raise Malformed(f"an origin is one line of 1..255 bytes: {self.origin[:80]!r}")
        if not 0 <= self.size <= MAX_SIZE:
            raise Malformed(f"no tree has the size {self.size}")
        if len(self.root) != HASH_BYTES:
            raise Malformed(f"a root has {HASH_BYTES} bytes, not {len(self.root)}")

    @property
    def text(self) -> bytes:
        """The note text: origin, size and base64 root, a line each."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root)}\n".encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Read a note text as a checkpoint.

    Raises:
        Malformed: not exactly these three lines. Extension lines are refused: type 6 does not sign them.
    """
    lines = text.split(b"\n")
    if len(lines) != 4 or lines[3]:
        raise Malformed("a checkpoint is three lines: origin, size, root; no extension lines")
    try:
        origin = lines[0].decode()
    except UnicodeDecodeError as e:
        raise Malformed("an origin is UTF-8") from e
    return Checkpoint(origin, decimal(lines[1], bound=MAX_SIZE), b64decode(lines[2]))


def checkpoint_in(note: bytes) -> Checkpoint:
    """The checkpoint that a note is over; nothing is verified.

    Raises:
        Malformed: not a note over a checkpoint.
    """
    return parse_checkpoint(parse_note(note).text)


def cosign(note_text: bytes, name: str, key: PrivateKey, timestamp: int) -> SignatureLine:
    """A type 4 line: at `timestamp` (POSIX seconds) the largest consistent tree the cosigner had seen."""
    if not 0 < timestamp <= MAX_TIME:
        raise Misuse(f"a cosignature cannot carry the time {timestamp}")
    signature = key.sign(cosignature_message(note_text, timestamp))
    cosigner = VerifierKey(name, COSIGNATURE, key.public)
    return SignatureLine(name, cosigner.id, timestamp.to_bytes(8, "big") + signature)


def verify_cosignature(note_text: bytes, line: SignatureLine, vkey: VerifierKey) -> int:
    """The time (POSIX seconds) of a cosignature that is `vkey`'s.

    Raises:
        Refused(FORGED): another key's line, or it does not verify.
        Misuse: `vkey` is not a cosigner's key.
    """
    if vkey.type != COSIGNATURE:
        raise Misuse(f"{vkey.name} has no cosignature key")
    if (line.name, line.key_id) != (vkey.name, vkey.id) or not vkey.verify(note_text, line.blob):
        raise Refused(Reason.FORGED, f"the cosignature of {line.name} is not one of {vkey.name}")
    return timestamp_of(line)


def timestamp_of(line: SignatureLine) -> int:
    """The time (POSIX seconds) in a cosignature line that has been verified."""
    return int.from_bytes(line.blob[:8], "big")
