"""A statement: bytes with a type, signed. It knows nothing of what the bodies mean.

The envelope is DSSE v1 (secure-systems-lab/dsse), written as RFC 8785 JSON. The payload carries who says it, under
which treaty, when it counts, and a number: two payloads with one `(issuer, seq)` prove equivocation.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from brakeline.core.encoding import Wire, b64decode, b64encode, canonical, convert, parse, sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey, PublicKey

B = TypeVar("B")

MAX_BYTES: Final = 65_535  # C2SP tlog-tiles: an entry's length is a u16
GENESIS: Final = "0" * 64  # `prev` of an issuer's first statement
_TYPE: Final = re.compile(r"application/vnd\.brakeline\.([a-z][a-z-]*)\.v1\+json")


class Statement(Wire, frozen=True):
    """What is signed. Times are POSIX seconds; `treaty` and `prev` are lowercase hex SHA-256."""

    treaty: str
    issuer: str
    seq: int
    prev: str
    not_before: int
    expires: int
    body: dict[str, Any]

    def body_as(self, kind: type[B]) -> B:
        """The body as `kind`.

        Raises:
            Malformed: the body is not exactly a `kind`.
        """
        return convert(self.body, kind)


class _Signature(Wire, frozen=True):
    keyid: str
    sig: str


class _Envelope(Wire, frozen=True):
    payload: str
    payloadType: str
    signatures: tuple[_Signature, ...]


@dataclass(frozen=True, slots=True)
class Envelope:
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
    def statement(self) -> Statement:
        return parse(self.payload, Statement)


def payload_type(kind: str) -> str:
    return f"application/vnd.brakeline.{kind}.v1+json"


def pae(kind: str, payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: what is actually signed."""
    type_ = payload_type(kind).encode()
    return b"DSSEv1 %d %s %d %s" % (len(type_), type_, len(payload), payload)


def seal(kind: str, payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> bytes:
    """An envelope from signatures made elsewhere, as when a permit gathers those of several signers."""
    return canonical(
        _Envelope(
            payload=b64encode(payload),
            payloadType=payload_type(kind),
            signatures=tuple(_Signature(keyid=k, sig=b64encode(s)) for k, s in sorted(signatures)),
        )
    )


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
    raw = parse(data, _Envelope)
    kind = _TYPE.fullmatch(raw.payloadType)
    if not kind:
        raise Malformed(f"unknown payload type {raw.payloadType[:80]!r}")
    signatures = tuple((s.keyid, b64decode(s.sig)) for s in raw.signatures)
    if not signatures or list(signatures) != sorted(set(signatures)):
        raise Malformed("signatures must be present, sorted and distinct")
    return Envelope(data, kind.group(1), b64decode(raw.payload), signatures)


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
