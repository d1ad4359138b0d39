"""DSSE v1: an envelope that others read, around what a party says outside the log. The log's own is in `statement`."""

from collections.abc import Sequence

from brakeline.core.encoding import Wire, b64encode


class Signature(Wire, frozen=True):
    """`keyid` is a hint for finding the key, `sig` base64."""

    keyid: str
    sig: str


class Envelope(Wire, frozen=True):
    """`payload` is base64, `payloadType` a media type; the fields are named as DSSE names them."""

    payload: str
    payloadType: str
    signatures: tuple[Signature, ...]


def pae(kind: str, payload: bytes) -> bytes:
    """The bytes that a signature is over (DSSE v1.0.0, Signature Definition)."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def envelope(kind: str, payload: bytes, signatures: Sequence[tuple[str, bytes]]) -> Envelope:
    """`payload` with signatures over `pae(kind, payload)`, each with its key's hint."""
    signed = tuple(Signature(keyid=keyid, sig=b64encode(sig)) for keyid, sig in signatures)
    return Envelope(payload=b64encode(payload), payloadType=kind, signatures=signed)
