"""A statement: bytes with a type, signed. It knows nothing of what the bodies mean.

The envelope is DSSE v1 (secure-systems-lab/dsse), written as RFC 8785 JSON. The payload carries who says it, under
which treaty, when it counts, and a number: two payloads with one `(issuer, seq)` prove equivocation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from brakeline.core.encoding import Wire, b64decode, b64encode, canonical, convert, parse, sha256, unhex32
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey, PublicKey

B = TypeVar("B")

MAX_BYTES: Final = 65_535  # C2SP tlog-tiles: an entry's length is a u16
GENESIS: Final = "0" * 64  # `prev` of an issuer's first statement
MAX_SEQ: Final = 2**53 - 2  # the largest number of a statement
MAX_SIGNATURES: Final = 128
# The whole grammar of an envelope in RFC 8785 JSON: nothing in it has a second spelling. What it costs to read is what
# it costs to hash, so that whoever cannot sign cannot make anybody work.
_HEAD: Final = b'{"payload":"'
_MIDDLE: Final = b'","payloadType":"application/vnd.brakeline.'
_TAIL: Final = b'.v1+json","signatures":['
_KIND: Final = re.compile(rb"[a-z][a-z-]{0,31}")
_SIGNATURE: Final = re.compile(rb'{"keyid":"([0-9a-f]{1,64})","sig":"([A-Za-z0-9+/]*={0,2})"}')


class Statement(Wire, frozen=True):
    """What is signed. Times are POSIX seconds; `treaty` and `prev` are lowercase hex SHA-256.

    `seq` counts the issuer's statements of one lane.
    """

    treaty: str
    issuer: str
    seq: int
    prev: str
    not_before: int
    expires: int
    body: dict[str, Any]

    def check(self) -> None:
        """Raises:
        Malformed: a number out of range, it expires before it begins, or a `prev` that is no digest.
        """
        if not 0 <= self.seq <= MAX_SEQ or not 0 <= self.not_before <= self.expires:
            raise Malformed("a statement's numbers count up from 0, and it expires after it begins")
        unhex32(self.prev)

    def body_as(self, kind: type[B]) -> B:
        """The body as `kind`.

        Raises:
            Malformed: the body is not exactly a `kind`.
        """
        return convert(self.body, kind)


class Envelope(NamedTuple):
    """A parsed, not yet verified, DSSE envelope. `data` are its exact bytes."""

    data: bytes
    kind: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the payload: what `prev` points to and what evidence names."""
        return sha256(self.payload).hex()

    @property
    def what(self) -> str:
        """Kind and digest: what takes a number, so that two kinds of one payload are two statements."""
        return f"{self.kind} {self.digest}"

    @property
    def statement(self) -> Statement:
        return parse(self.payload, Statement)


def payload_type(kind: str) -> str:
    return f"application/vnd.brakeline.{kind}.v1+json"


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: what is actually signed."""
    name = kind.encode()
    return b"DSSEv1 %d application/vnd.brakeline.%s.v1+json %d %s" % (34 + len(name), name, len(payload), payload)


def seal(kind: str, payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    """An envelope from signatures made elsewhere, as when a permit gathers those of several signers."""
    lines = ",".join(f'{{"keyid":"{k}","sig":"{b64encode(sig)}"}}' for k, sig in sorted(signatures))
    text = f'{{"payload":"{b64encode(payload)}","payloadType":"{payload_type(kind)}","signatures":[{lines}]}}'
    return text.encode()


def sign(kind: str, payload: object, *keys: PrivateKey) -> bytes:
    """The envelope over `payload`, signed by every key."""
    if not keys:
        raise Misuse("a statement needs at least one signing key")
    data = canonical(payload)
    message = pae(kind, data)
    return seal(kind, data, [(key.public.id, key.sign(message)) for key in keys])


def open_envelope(data: bytes) -> Envelope:
    """Parse, without verifying.

    Raises:
        Malformed: not a canonical envelope, or over 65,535 bytes, or signatures unsorted or repeated.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(f"statement of {len(data)} bytes; the limit is {MAX_BYTES}")
    # Of each mark the first is meant: none can stand in base64 or in a kind, which are checked.
    middle = data.find(_MIDDLE)
    tail = data.find(_TAIL, middle)
    kind = data[middle + len(_MIDDLE) : tail]
    if not (data.startswith(_HEAD) and data.endswith(b"]}") and 0 < middle < tail and _KIND.fullmatch(kind)):
        raise Malformed("not a statement's envelope in canonical JSON")
    payload = b64decode(data[len(_HEAD) : middle])
    return Envelope(data, kind.decode(), payload, _signatures(data[tail + len(_TAIL) : -2]))


def _signatures(lines: bytes) -> tuple[tuple[str, bytes], ...]:
    if one := _SIGNATURE.fullmatch(lines):
        return ((one[1].decode(), b64decode(one[2])),)
    found = list(_SIGNATURE.finditer(lines))
    if b",".join(m[0] for m in found) != lines or not 0 < len(found) <= MAX_SIGNATURES:
        raise Malformed(f"an envelope carries 1 to {MAX_SIGNATURES} signatures, each with the id of its key")
    signatures = tuple((m[1].decode(), b64decode(m[2])) for m in found)
    if list(signatures) != sorted(set(signatures)):
        raise Malformed("signatures must be sorted and distinct")
    return signatures


def verify(envelope: Envelope, key: PublicKey) -> None:
    """That the envelope carries exactly one signature, and that it is `key`'s.

    Raises:
        Refused(FORGED): otherwise.
    """
    message = pae(envelope.kind, envelope.payload)
    if len(envelope.signatures) != 1:
        raise Refused(Reason.FORGED, "a statement carries one signature, its issuer's")
    keyid, signature = envelope.signatures[0]
    if keyid != key.id or not key.verify(signature, message):
        raise Refused(Reason.FORGED, f"the {envelope.kind} is not signed by its issuer's key {key.id}")


def signing_parties(envelope: Envelope, keys: Mapping[PublicKey, str]) -> frozenset[str]:
    """The distinct *parties* whose distinct *keys* signed.

    One key under two names counts once, and so does one party with two keys. A line that claims a known key and does
    not verify condemns the whole envelope; lines of unknown keys are ignored.

    Raises:
        Refused(FORGED): a signature under a known key is bad.
    """
    message = pae(envelope.kind, envelope.payload)
    by_id = {key.id: key for key in keys}
    good: set[PublicKey] = set()
    for keyid, signature in envelope.signatures:
        key = by_id.get(keyid)
        if key is None:
            continue
        if not key.verify(signature, message):
            raise Refused(Reason.FORGED, f"bad signature under the key {keyid} of {keys[key]}")
        good.add(key)
    return frozenset(keys[key] for key in good)
