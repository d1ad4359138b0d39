"""Entries made by hand: envelopes and payloads that do not parse, and signatures that not everybody verifies alike."""

from collections.abc import Iterator, Mapping
from typing import Any

from brakeline.core.encoding import b64encode, canonical
from brakeline.core.errors import BrakelineError, Malformed
from brakeline.core.state.said import MAX_DEPTH, check_depth
from brakeline.core.statement import MAX_BYTES, MAX_SEQ, MAX_SIGNATURES, open_envelope, pae, seal
from scenes import crafted
from scenes.made import Made, entry, world
from scenes.shown import VOTE, scene
from world import START, World, key

ALPHA = key("alpha").public.id


def good(log: World) -> bytes:
    """A statement of alpha that is taken."""
    return log.statement("alpha", "notice", {"about": -1, "text": "x"})


def signed(payload: bytes, kind: str = "vote") -> bytes:
    """An envelope over any payload, truly signed by alpha."""
    return seal(kind, payload, [(ALPHA, key("alpha").sign(pae(kind, payload)))])


def envelopes(data: bytes) -> Mapping[str, tuple[str, bytes]]:
    """Name → what is wrong with it, and the bytes: `data` is a good envelope of one signature."""
    payload = open_envelope(data).payload
    sig = data.split(b'"sig":"')[1].split(b'"')[0]
    line = data[data.index(b'{"keyid"') : -2]

    def lines(*parts: bytes) -> bytes:
        return data[: data.index(b'{"keyid"')] + b",".join(parts) + b"]}"

    def kind(name: bytes) -> bytes:
        return data.replace(b"brakeline.notice", b"brakeline." + name)

    b64 = b64encode(payload).encode()
    odd = next(n for n in (payload + b" " * i for i in range(3)) if len(n) % 3 == 1)
    stray = b64encode(odd).encode()
    bent = stray[:-3] + bytes([stray[-3] + 1]) + stray[-2:]
    many = [b'{"keyid":"%032x","sig":"AAAA"}' % n for n in range(MAX_SIGNATURES + 1)]
    space = MAX_BYTES + 1 - len(data)
    return {
        "empty": ("No bytes.", b""),
        "brace": ("One brace.", b"{"),
        "empty-object": ("An object without fields.", b"{}"),
        "space": ("A space after a colon.", data.replace(b'":"', b'": "', 1)),
        "newline-at-its-end": ("A byte after the object.", data + b"\n"),
        "byte-order-mark": ("It begins with a mark of its byte order.", b"\xef\xbb\xbf" + data),
        "other-order": (
            "The fields in another order than RFC 8785 gives them.",
            b'{"payloadType":"application/vnd.brakeline.notice.v1+json","payload":"'
            + b64
            + b'","signatures":['
            + line
            + b"]}",
        ),
        "more-fields": ("A field that no envelope has.", data[:-1] + b',"more":0}'),
        "escaped-slash": ("The type with an escaped slash.", data.replace(b"application/", b"application\\/")),
        "other-version": ("The payload's type is of another version.", data.replace(b".v1+json", b".v2+json")),
        "other-vendor": ("The payload's type is no statement's.", data.replace(b"vnd.brakeline", b"vnd.in-toto")),
        "kind-empty": ("A kind without letters.", kind(b"")),
        "kind-in-capitals": ("A kind in capitals.", kind(b"Notice")),
        "kind-with-a-digit": ("A kind with a digit.", kind(b"notice2")),
        "kind-too-long": ("A kind of 33 letters.", kind(b"n" * 33)),
        "payload-unpadded": ("Base64 without its padding.", data.replace(b64, b64encode(odd).rstrip("=").encode())),
        "payload-stray-bits": ("Base64 with bits set that stand for nothing.", data.replace(b64, bent)),
        "payload-url-alphabet": (
            "Base64 in the alphabet for URLs.",
            data.replace(b64, b64encode(b"\xff" * 3).replace("/", "_").encode()),
        ),
        "payload-with-a-line-break": ("Base64 with a line break.", data.replace(b64, b64[:76] + b"\n" + b64[76:])),
        "no-signatures": ("Nobody signed.", lines()),
        "signatures-repeated": ("One signature twice.", lines(line, line)),
        "signatures-unsorted": ("Signatures out of order.", lines(many[1], many[0])),
        "signatures-too-many": (f"{MAX_SIGNATURES + 1} signatures.", lines(*many)),
        "keyid-in-capitals": ("The key's id in capitals.", data.replace(ALPHA.encode(), ALPHA.upper().encode())),
        "keyid-empty": ("A signature of no key.", data.replace(ALPHA.encode(), b"")),
        "signature-unpadded": ("A signature's base64 without its padding.", data.replace(sig, sig.rstrip(b"="))),
        "signature-first": (
            "A signature's fields in another order.",
            lines(b'{"sig":"' + sig + b'","keyid":"' + ALPHA.encode() + b'"}'),
        ),
        "too-long": (f"{MAX_BYTES + 1} bytes.", lines(line + b" " * space)),
        "cut-short": ("The last byte is missing.", data[:-1]),
    }


def payloads(log: World) -> Mapping[str, tuple[str, bytes]]:
    """Name → what is wrong with it, and the payload's bytes."""
    fields: dict[str, Any] = {
        "body": VOTE,
        "expires": START + 60,
        "issuer": "alpha",
        "not_before": START,
        "prev": "0" * 64,
        "seq": 0,
        "treaty": log.treaty.digest,
    }
    text = canonical(fields)
    rest = text.index(b',"expires"')

    large = b"9007199254740993"

    def but(**changes: Any) -> bytes:
        return canonical(fields | changes)

    def deep(levels: int) -> bytes:
        return text.replace(b'"epoch":0', b'"epoch":' + b"[" * levels + b"0" + b"]" * levels)

    return {
        "nothing": ("An empty payload.", b""),
        "no-json": ("Not JSON.", b"seq=0"),
        "a-list": ("A list.", b"[]"),
        "no-utf-8": ("Bytes that are no UTF-8.", text.replace(b"test", b"te\xff\xfet")),
        "lone-surrogate": ("Half a surrogate pair.", text.replace(b'"test"', b'"\\ud800"')),
        "unsorted": ("Fields out of order.", b"{" + text[rest + 1 : -1] + b"," + text[1:rest] + b"}"),
        "space": ("A space between fields.", text.replace(b',"seq"', b', "seq"')),
        "field-twice": ("One field twice, with one value.", text.replace(b'"seq":0', b'"seq":0,"seq":0')),
        "field-missing": ("Without a field.", text.replace(b',"seq":0', b"")),
        "field-more": ("A field that no statement has.", text[:-1] + b',"zebra":0}'),
        "seq-with-a-point": ("A whole number written as 0.0.", text.replace(b'"seq":0', b'"seq":0.0')),
        "seq-with-an-exponent": ("A whole number written as 0e0.", text.replace(b'"seq":0', b'"seq":0e0')),
        "seq-minus-zero": ("Minus zero.", text.replace(b'"seq":0', b'"seq":-0')),
        "seq-with-zeros": ("A leading zero.", text.replace(b'"seq":0', b'"seq":00')),
        "seq-negative": ("A number below zero.", but(seq=-1)),
        "seq-too-large": ("A number above the largest.", but(seq=MAX_SEQ + 1)),
        "seq-true": ("A truth value for a number.", but(seq=True)),
        "seq-null": ("No value for a number.", but(seq=None)),
        "seq-text": ("A text for a number.", but(seq="0")),
        "seq-beyond-53-bits": (
            "A number that not every reader of JSON keeps.",
            text.replace(b'"seq":0', b'"seq":' + large),
        ),
        "expires-before": ("It expires before it begins.", but(expires=START - 1)),
        "not-before-negative": ("It begins before 1970.", but(not_before=-1)),
        "prev-short": ("A digest of 63 digits.", but(prev="0" * 63)),
        "prev-in-capitals": ("A digest in capitals.", but(prev="A" * 64)),
        "issuer-null": ("Nobody issued it.", but(issuer=None)),
        "body-a-list": ("A body that is no object.", but(body=[])),
        "body-nan": ("A number that is none.", text.replace(b'"epoch":0', b'"epoch":NaN')),
        "body-1.0": ("1.0 for 1 in a body.", text.replace(b'"epoch":0', b'"epoch":1.0')),
        "body-beyond-53-bits": (
            "A number of the body beyond 53 bits.",
            text.replace(b'"epoch":0', b'"epoch":' + large),
        ),
        "escape-without-need": ("A letter written as an escape.", text.replace(b'"test"', b'"\\u0074est"')),
        "escape-in-capitals": ("An escape with capital digits.", text.replace(b'"test"', b'"\\u001F"')),
        "nested-too-deeply": (f"Nested {MAX_DEPTH + 1} deep.", deep(MAX_DEPTH - 1)),
    }


def made() -> Iterator[Made]:
    """The vectors of the noun `envelope`: an envelope and its payload, read and not verified."""
    log = world()
    data = good(log)
    largest = log.statement("alpha", "vote", VOTE, seq=MAX_SEQ)
    for name, about, raw in (
        ("one-signature", "A statement.", data),
        ("largest-number", "The largest number that a statement may have.", largest),
        ("two-signatures", "Two signatures, sorted: well-formed, and no statement of one issuer.", _two(data)),
        ("deepest", f"Nested {MAX_DEPTH} deep: still read.", signed(_deepest(log))),
    ):
        e = open_envelope(raw)
        assert _reads(raw), name
        signatures = [[k, s.hex()] for k, s in e.signatures]
        output = {"kind": e.kind, "payload": e.payload.decode(), "digest": e.digest, "signatures": signatures}
        yield Made("envelope", name, about, "formats.md §Statement", _bytes("envelope", raw), "ok", output)
    corpus = {f"envelope-{n}": x for n, x in envelopes(data).items()}
    corpus |= {f"payload-{n}": (about, signed(raw)) for n, (about, raw) in payloads(log).items()}
    for name, (about, raw) in corpus.items():
        assert not _reads(raw), name
        yield Made("envelope", name, about, "formats.md §Statement", _bytes("envelope", raw), "malformed")


def _bytes(field: str, data: bytes) -> dict[str, Any]:
    """The field of a vector that holds bytes: as text, or in hex."""
    shown = entry(data)
    return {field: shown} if isinstance(shown, str) else {f"{field}_hex": shown["hex"]}


def _two(data: bytes) -> bytes:
    e = open_envelope(data)
    other = key("beta")
    return seal(e.kind, e.payload, [*e.signatures, (other.public.id, other.sign(pae(e.kind, e.payload)))])


def _deepest(log: World) -> bytes:
    return payloads(log)["nested-too-deeply"][1].replace(b"[[", b"[", 1).replace(b"]]", b"]", 1)


def _reads(data: bytes) -> bool:
    try:
        envelope = open_envelope(data)
        check_depth(envelope.payload)
        envelope.statement.check()
    except Malformed:
        return False
    except BrakelineError as e:
        raise AssertionError("a reader refuses nothing") from e
    return True


def resigned(data: bytes, signature: bytes) -> bytes:
    """The statement with another signature of alpha's key over it."""
    e = open_envelope(data)
    return seal(e.kind, e.payload, [(ALPHA, signature)])


def signatures(data: bytes) -> Mapping[str, tuple[bytes, bool, str]]:
    """The crafted signatures of alpha over a statement."""
    e = open_envelope(data)
    return crafted.signatures(key("alpha").seed, key("alpha").public.raw, pae(e.kind, e.payload))


def _signature_scene(name: str, counts: bool, about: str) -> None:
    @scene(
        f"signature-{name}", "RFC 8032 §5.1.7", f"{about[0].upper()}{about[1:]}.", expect="ok" if counts else "forged"
    )
    def _() -> World:
        log = world()
        data = good(log)
        log.append(resigned(data, signatures(data)[name][0]))
        return log


for _name, (_, _counts, _about) in signatures(good(world())).items():
    _signature_scene(_name, _counts, _about)


@scene("signed-by-two", "formats.md §Statement", "A statement carries one signature.", expect="forged")
def _() -> World:
    log = world()
    log.append(_two(good(log)))
    return log


@scene("malformed-entry", "formats.md §Entry", "Neither a statement nor a stamp.", expect="malformed")
def _() -> World:
    log = world()
    log.append(b"garbage")
    return log


@scene("malformed-statement", "formats.md §Statement", "Signed by a party, and not canonical.", expect="malformed")
def _() -> World:
    log = world()
    log.append(signed(payloads(log)["space"][1]))
    return log


@scene(
    "malformed-body",
    "formats.md §Statement",
    "A vote with a field that no vote has; its number is spent.",
    expect="malformed",
)
def _() -> World:
    log = world()
    log.log("alpha", "vote", {**VOTE, "more": 0})
    return log
