"""C2SP signed-note: a text, and lines that sign it.

`text ‖ \\n ‖ lines`, each line `— <name> <base64(key id ‖ signature)>\\n`. A signature covers the text with
its last newline, not the blank line; nothing covers the other lines.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from brakeline.core.encoding import b64decode, b64encode, sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import KeyType, PrivateKey, PublicKey

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04  # Ed25519 with a timestamp (C2SP tlog-cosignature)

MAX_BYTES: Final = 2**20
MAX_LINES: Final = 128
MAX_TIME: Final = 2**63 - 1

_KEY_TYPES: Final = {ED25519: KeyType.ED25519, COSIGNATURE: KeyType.ED25519}
_DASH: Final = "— ".encode()
_CONTROL: Final = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_NAME: Final = re.compile(r"[!-*,-~]+")  # printable ASCII but the space and `+`


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name, for one use: a log's signature (type 1) or a witness's cosignature (type 4).

    Raises on construction:
        Malformed: a name that is empty or holds a space, `+` or control character; a type not of this key.
    """

    name: str
    type: int
    key: PublicKey

    def __post_init__(self) -> None:
        _check_name(self.name)
        if _KEY_TYPES.get(self.type) != self.key.type:
            raise Malformed(f"signature type {self.type:02x} is not one this key can make")

    @property
    def id(self) -> bytes:
        """SHA-256(name ‖ 0A ‖ type ‖ key)[:4]: an identifier anyone can collide, never a proof."""
        return _key_id(self.name, self.type, self.key.raw)

    @property
    def text(self) -> str:
        """The vkey: `<name>+<hex id>+<base64(type ‖ key)>`."""
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.type]) + self.key.raw)}"

    def verify(self, text: bytes, blob: bytes) -> bool:
        """Whether `blob` is this key's signature of its type over a note text."""
        if self.type == ED25519:
            return self.key.verify(blob, text)
        timestamp = int.from_bytes(blob[:8], "big")
        return timestamp <= MAX_TIME and self.key.verify(blob[8:], cosignature_message(text, timestamp))


Keyring = Mapping[tuple[str, bytes], VerifierKey]  # by name and key id


@lru_cache(maxsize=1024)
def _key_id(name: str, kind: int, raw: bytes) -> bytes:
    return sha256(name.encode(), b"\n", bytes([kind]), raw)[:4]


def parse_vkey(text: str) -> VerifierKey:
    """Read a vkey.

    Raises:
        Malformed: bad syntax, wrong key id, unknown type. Refused(WEAK_KEY): see `PublicKey`.
    """
    parts = text.split("+", 2)  # base64 may hold `+` too
    if len(parts) != 3:
        raise Malformed(f"not a verifier key <name>+<id>+<key>: {text[:80]!r}")
    name, id_, data = parts[0], parts[1], b64decode(parts[2])
    if not data or data[0] not in _KEY_TYPES:
        raise Malformed(f"verifier key of unknown type {data[:1].hex() or 'nothing'}")
    key = VerifierKey(name, data[0], PublicKey(_KEY_TYPES[data[0]], data[1:]))
    if key.id.hex() != id_:
        raise Malformed(f"verifier key claims the id {id_} but has {key.id.hex()}")
    return key


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line: who claims to have signed, and the signature bytes after the key id."""

    name: str
    key_id: bytes
    blob: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.key_id) != 4 or not self.blob:
            raise Malformed("a signature line holds a 4-byte key id and a signature")

    def encode(self) -> bytes:
        return b"%s%s %s\n" % (_DASH, self.name.encode(), b64encode(self.key_id + self.blob).encode())


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed, not yet verified, note. `text` ends with a newline.

    Raises on construction:
        Malformed: text that is not UTF-8, lacks its last newline or holds a control character; not 1..128
            lines.
    """

    text: bytes
    lines: tuple[SignatureLine, ...]

    def __post_init__(self) -> None:
        _check_text(self.text)
        if not self.text.endswith(b"\n"):
            raise Malformed("the text of a note ends with a newline")
        if not 1 <= len(self.lines) <= MAX_LINES:
            raise Malformed(f"a note has 1..{MAX_LINES} signature lines, not {len(self.lines)}")

    def encode(self) -> bytes:
        return self.text + b"\n" + b"".join(line.encode() for line in self.lines)

    def with_lines(self, *lines: SignatureLine) -> "Note":
        """The note with further signature lines."""
        return Note(self.text, self.lines + lines)


def parse_note(data: bytes) -> Note:
    """Read a note; verify nothing.

    Raises:
        Malformed: not a note, more than 2**20 bytes, or more than 128 lines.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(f"note of {len(data)} bytes; the limit is {MAX_BYTES}")
    # C2SP signed-note §Format: the text may hold blank lines, so the last one separates.
    text, blank, lines = data.rpartition(b"\n\n")
    if not blank or not lines.endswith(b"\n"):
        raise Malformed("a note is a text, a blank line and signature lines")
    return Note(text + b"\n", tuple(parse_line(line) for line in lines[:-1].split(b"\n", MAX_LINES)))


def parse_line(line: bytes) -> SignatureLine:
    """Read one signature line, without its newline.

    Raises:
        Malformed: not `— <name> <base64>`.
    """
    words = line.removeprefix(_DASH).split(b" ")
    if not line.startswith(_DASH) or len(words) != 2:
        raise Malformed(f"not a signature line: {line[:80]!r}")
    data = b64decode(words[1])
    try:
        return SignatureLine(words[0].decode(), data[:4], data[4:])
    except UnicodeDecodeError as e:
        raise Malformed(f"a key name is UTF-8: {line[:80]!r}") from e


def sign_note(text: bytes, name: str, key: PrivateKey) -> Note:
    """A note over `text` with one Ed25519 line (type 1)."""
    signer = VerifierKey(name, ED25519, key.public)
    return Note(text, (SignatureLine(name, signer.id, key.sign(text)),))


def cosignature_message(text: bytes, timestamp: int) -> bytes:
    """What a type 4 line signs (C2SP tlog-cosignature): the time too, but not the cosigner's name."""
    return b"cosignature/v1\ntime %d\n%s" % (timestamp, text)


def keyring(keys: Iterable[VerifierKey]) -> Keyring:
    """The keys, as `verify_note` looks them up.

    Raises:
        Misuse: two of them share their name and id.
    """
    distinct = set(keys)
    known = {(key.name, key.id): key for key in distinct}
    if len(known) != len(distinct):
        raise Misuse("two verifier keys share their name and key id")
    return known


def verify_note(note: Note, known: Keyring) -> tuple[tuple[VerifierKey, SignatureLine], ...]:
    """The lines of known keys, all verified. Lines of unknown (name, key id) are ignored.

    Raises:
        Refused(DUPLICATE): two lines of one known key.
        Refused(FORGED): a line of a known key does not verify: the whole note is bad.
        Refused(NO_QUORUM): no line is of a known key.
    """
    verified = []
    for line in note.lines:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        if not key.verify(note.text, line.blob):
            raise Refused(Reason.FORGED, f"the signature of {line.name} does not verify")
        verified.append((key, line))
    if not verified:
        raise Refused(Reason.NO_QUORUM, "no line of the note is signed by a known key")
    if len({key for key, _ in verified}) != len(verified):
        raise Refused(Reason.DUPLICATE, "the note has two signature lines of one key")
    return tuple(verified)


def _check_text(data: bytes) -> None:
    if _CONTROL.search(data):
        raise Malformed("a note holds no control character but the newline")
    try:
        data.decode()
    except UnicodeDecodeError as e:
        raise Malformed(f"a note is UTF-8: {e}") from e


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name):  # nearly always
        return
    if not name or "+" in name or any(c.isspace() or c < " " for c in name):
        raise Malformed(f"a key name is not empty and has no space, `+` or control character: {name[:80]!r}")
    try:
        name.encode()
    except UnicodeEncodeError as e:
        raise Malformed(f"a key name is UTF-8: {name[:80]!r}") from e
