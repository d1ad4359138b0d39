"""How a log goes on under another keeper, or another key, without the old one's help. Rules 11.8 to 11.10.

Whoever keeps the log can be silent, or show everybody something else; it never logs its own removal. So this is said
outside of the log. Witnesses and permit signers *close* the old origin: each says how far it has seen it stamped, and
cosigns or signs nothing for it ever again. A quorum of parties signs a *reopening*: another origin, key and address,
that begins with the old log's entries up to a checkpoint that a witness quorum has cosigned. The reopening is the entry
at which the new log begins to differ, and carries all that it takes to check it.

Why nothing is lost that anybody may count on: what is stamped in a published tree was cosigned by a quorum, which
shares an honest witness with the closers, and that one names the stamp (spec/model/takeover.py).
"""

import re
from collections.abc import Iterable
from typing import Final, Literal

from brakeline.core.encoding import Wire, b64decode, b64encode, canonical, is_text, parse
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey, PublicKey
from brakeline.core.statement import Envelope, open_envelope, pae, payload_type, seal
from brakeline.core.tlog.note import ED25519, VerifierKey, parse_vkey

KIND: Final = "reopen"
CLOSE: Final = "close"
_ORIGIN: Final = re.compile(r"[a-z0-9][a-z0-9./-]{0,63}")
MARK: Final = payload_type(KIND).encode()  # in an entry, nowhere but in the envelope's type
MAX_REASON: Final = 400  # characters
_LARGEST: Final = 2**40  # entries of any log, and seconds of any date

Role = Literal["witness", "permit-signer"]


class Closed(Wire, frozen=True):
    """What is signed by a witness's or a permit signer's key: for this `origin` it signs nothing any more.

    `key` is the id of that key. `size` is the largest tree that it has cosigned, or has seen; `settled` that of the
    highest stamp of this origin that its party has seen, `epoch` the highest in which it signed a permit; `time`: POSIX
    s.
    """

    treaty: str
    origin: str
    party: str
    role: Role
    key: str
    size: int
    settled: int
    epoch: int
    time: int


class Closing(Wire, frozen=True):
    """A `Closed`, less its treaty, with the signature (base64) that its key made over it as an envelope `close`."""

    origin: str
    party: str
    role: Role
    key: str
    size: int
    settled: int
    epoch: int
    time: int
    signature: str

    def said(self, treaty: str) -> Closed:
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "signature"}
        return Closed(treaty=treaty, **fields)


class Reopening(Wire, frozen=True):
    """Payload of a `reopen`, which members sign together.

    `treaty` is the digest (hex) of the log's first text. `over` are the origins that have ended: that of the log so
    far, and any that an earlier reopening named and nothing was published under. `keeper` goes on with `log_key` (a
    vkey, whose name is the new origin) at `url`, behind the `stamp`: a cosigned checkpoint (a note's text).
    """

    treaty: str
    over: tuple[str, ...]
    keeper: str
    log_key: str
    url: str
    stamp: str
    closings: tuple[Closing, ...]
    reason: str

    @property
    def key(self) -> VerifierKey:
        """The new log's key. Raises as `parse_vkey`."""
        return parse_vkey(self.log_key)


def close(said: Closed, key: PrivateKey) -> Closing:
    """The closing, signed."""
    signature = key.sign(pae(CLOSE, canonical(said)))
    fields = {name: getattr(said, name) for name in said.__struct_fields__ if name != "treaty"}
    return Closing(signature=b64encode(signature), **fields)


def check_closing(closing: Closing, treaty: str, key: PublicKey) -> None:
    """That a closing is what the key signed, and can be meant.

    Raises:
        Malformed: numbers out of range. Refused(FORGED).
    """
    numbers = (closing.size, closing.settled, closing.time)
    if not all(0 <= n <= _LARGEST for n in numbers) or closing.epoch < 0:
        raise Malformed(f"{closing.party}'s closing has a number that no log gives")
    if not key.verify(b64decode(closing.signature), pae(CLOSE, canonical(closing.said(treaty)))):
        raise Refused(Reason.FORGED, f"the closing of {closing.party} is not signed by its {closing.role}'s key")


def envelope_of(closing: Closing, treaty: str) -> bytes:
    """The closing as an envelope `close`: what evidence shows."""
    signature = b64decode(closing.signature)
    return seal(CLOSE, canonical(closing.said(treaty)), [(closing.key, signature)])


def read(data: bytes) -> tuple[Reopening, Envelope]:
    """A reopening, with whatever signatures are on it; neither they nor its closings are verified.

    Raises:
        Malformed: not a reopening. Refused(WEAK_KEY).
    """
    envelope = open_envelope(data)
    if envelope.kind != KIND:
        raise Malformed(f"a {envelope.kind} is no reopening")
    return check(envelope.payload), envelope


def check(payload: bytes) -> Reopening:
    """What the payload of a `reopen` says. Raises as `read`."""
    r = parse(payload, Reopening)
    if not is_text(r.reason) or len(r.reason) > MAX_REASON:
        raise Malformed(f"a reason is up to {MAX_REASON} characters of printable text")
    if not r.url or len(r.url) > MAX_REASON or not all("!" <= c <= "~" for c in r.url):
        raise Malformed("a log's address is one word of printable ASCII")
    if r.key.type != ED25519:
        raise Malformed("a log's key is a verifier key of type 01")
    if not _ORIGIN.fullmatch(r.key.name):
        raise Malformed("a new origin is up to 64 lowercase letters, digits, dots, hyphens and slashes")
    if not r.over or len(set(r.over)) != len(r.over) or r.key.name in r.over:
        raise Malformed("a reopening is over one or more origins, and has another one")
    ids = [_place(c) for c in r.closings]
    if ids != sorted(set(ids)):
        raise Malformed("closings are sorted, one for each origin, role and key")
    return r


def payload_of(data: bytes) -> bytes:
    """What a file says that is a draft, or an envelope with signatures. Raises as `read`."""
    if data.startswith(b'{"payload"'):
        return read(data)[1].payload
    check(data)
    return data


def signed(payload: bytes, key: PrivateKey, *files: bytes) -> bytes:
    """The envelope over `payload` with this key's signature, and those in `files`, drafts or envelopes of the same.

    Raises:
        Malformed: one of them is of something else.
    """
    return joined(payload, [(key.public.id, key.sign(pae(KIND, payload)))], files)


def joined(payload: bytes, signatures: Iterable[tuple[str, bytes]], files: Iterable[bytes]) -> bytes:
    """One envelope with all signatures there are over `payload`. Raises as `signed`."""
    found = set(signatures)
    for data in files:
        if payload_of(data) != payload:
            raise Malformed("these are files of different reopenings")
        found |= set() if data == payload else set(open_envelope(data).signatures)
    if not found:
        raise Malformed("nobody has signed the reopening yet", hint="brakeline keeper sign FILE")
    return seal(KIND, payload, sorted(found))


def closings_of(r: Reopening, role: Role, origin: str) -> tuple[Closing, ...]:
    """Who closed an origin in a role."""
    return tuple(c for c in r.closings if (c.role, c.origin) == (role, origin))


def encode_closings(closings: Iterable[Closing]) -> bytes:
    """A file of closings, as they are handed to whoever writes the reopening."""
    return b"".join(canonical(c) + b"\n" for c in closings)


def decode_closings(data: bytes) -> tuple[Closing, ...]:
    """Raises:
    Malformed: not a file of closings.
    """
    lines = data.split(b"\n")
    if lines[-1]:
        raise Malformed("a file of closings ends with a newline")
    return tuple(parse(line, Closing) for line in lines[:-1])


def ordered(closings: Iterable[Closing]) -> tuple[Closing, ...]:
    """In the order that a reopening has them, of each key its newest for an origin."""
    newest = {_place(c): c for c in sorted(closings, key=lambda c: c.time)}
    return tuple(c for _, c in sorted(newest.items()))


def _place(c: Closing) -> tuple[str, str, str, str]:
    return c.origin, c.role, c.party, c.key
