"""Statements: DSSE envelopes over canonical JSON, and who has signed them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import Wire, b64encode, canonical, sha256
from brakeline.core.errors import Malformed, Misuse, Reason
from brakeline.core.keys import PrivateKey, PublicKey
from brakeline.core.statement import (
    GENESIS,
    MAX_BYTES,
    Statement,
    open_envelope,
    pae,
    seal,
    sign,
    signing_parties,
    verify,
)
from vector import Vector, load, refused

ORION, VEGA, LYRA = (PrivateKey(bytes([i]) * 32) for i in range(3))
KEYS = {ORION.public: "orion", VEGA.public: "vega", LYRA.public: "lyra"}


class Body(Wire, frozen=True):
    text: str


def statement(**changes: object) -> Statement:
    fields = {
        "treaty": "11" * 32,
        "issuer": "orion",
        "seq": 0,
        "prev": GENESIS,
        "not_before": 1_700_000_000,
        "expires": 1_700_086_400,
        "body": {"text": "hello"},
    }
    return Statement(**{**fields, **changes})


PAYLOAD = canonical(statement())
MESSAGE = pae("pledge", PAYLOAD)


def line(key: PrivateKey, message: bytes = MESSAGE) -> tuple[str, bytes]:
    return key.public.id, key.sign(message)


def sealed(*lines: tuple[str, bytes]) -> bytes:
    return seal("pledge", PAYLOAD, lines)


@load("statement", 43)
def test_statement_vectors(v: Vector) -> None:
    data = v.bytes("envelope")
    keys = {PublicKey.parse(text): party for text, party in v.input["keys"].items()}
    with v.expected():
        envelope = open_envelope(data)
        read = envelope.statement
        assert seal(envelope.kind, canonical(read), envelope.signatures) == data
        parties = sorted(signing_parties(envelope, keys))
        assert {"parties": parties, "digest": envelope.digest, "kind": envelope.kind} == v.output


def test_pae_is_that_of_dsse() -> None:
    type_ = b"application/vnd.brakeline.pledge.v1+json"
    assert pae("pledge", b"hello") == b"DSSEv1 40 " + type_ + b" 5 hello"
    assert len(type_) == 40


def test_a_signed_statement() -> None:
    data = sign("pledge", statement(), ORION)
    envelope = open_envelope(data)
    verify(envelope, ORION.public)
    assert envelope.data == data
    assert (envelope.kind, envelope.statement) == ("pledge", statement())
    assert envelope.digest == sha256(PAYLOAD).hex()
    assert envelope.statement.body_as(Body) == Body(text="hello")
    with pytest.raises(Malformed):
        open_envelope(sign("pledge", statement(body={"other": 1}), ORION)).statement.body_as(Body)


STATEMENTS = st.builds(
    statement,
    issuer=st.text(st.characters(codec="utf-8")),
    seq=st.integers(-(2**53) + 1, 2**53 - 1),
    not_before=st.integers(-(2**53) + 1, 2**53 - 1),
    body=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
)


@given(STATEMENTS, st.from_regex(r"\A[a-z][a-z-]{0,20}\Z"))
def test_every_statement_is_read_back(wanted: Statement, kind: str) -> None:
    data = sign(kind, wanted, ORION, VEGA)
    envelope = open_envelope(data)
    assert (envelope.kind, envelope.statement) == (kind, wanted)
    assert seal(envelope.kind, envelope.payload, envelope.signatures) == data
    assert signing_parties(envelope, KEYS) == {"orion", "vega"}


@given(st.binary() | STATEMENTS.map(lambda s: sign("pledge", s, ORION)), st.data())
def test_every_envelope_is_malformed_or_read_back(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, len(data)))
    junk = more.draw(st.sampled_from([b"", b" ", b"\n", b"A", b"=", b"0", b'"', b","]))
    for candidate in (data, data[:at] + junk + data[at:], data[:at] + junk + data[at + 1 :]):
        try:
            envelope = open_envelope(candidate)
        except Malformed:
            continue
        assert seal(envelope.kind, envelope.payload, envelope.signatures) == candidate
        try:
            read = envelope.statement
        except Malformed:
            continue
        assert canonical(read) == envelope.payload


def test_every_flipped_bit_of_an_envelope_is_refused() -> None:
    data = sign("pledge", statement(body={}), ORION)
    for at in range(len(data)):
        for bit in range(8):
            bent = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                envelope = open_envelope(bent)
            except Malformed:
                continue
            with refused(Reason.FORGED):
                verify(envelope, ORION.public)


def test_a_statement_has_one_signature_its_issuers() -> None:
    with refused(Reason.FORGED):
        verify(open_envelope(sign("pledge", statement(), ORION, VEGA)), ORION.public)
    with refused(Reason.FORGED):
        verify(open_envelope(sign("pledge", statement(), VEGA)), ORION.public)
    with refused(Reason.FORGED):  # the right key under another id
        verify(open_envelope(sealed(("0" * 16, ORION.sign(MESSAGE)))), ORION.public)
    with refused(Reason.FORGED):  # the right id, another key
        verify(open_envelope(sealed((ORION.public.id, VEGA.sign(MESSAGE)))), ORION.public)
    with refused(Reason.FORGED):  # the same payload as another type
        verify(open_envelope(seal("vote", PAYLOAD, [line(ORION)])), ORION.public)


def test_keys_and_parties_count_once() -> None:
    def count(*lines: tuple[str, bytes]) -> frozenset[str]:
        return signing_parties(open_envelope(sealed(*lines)), KEYS)

    orion = ORION.sign(MESSAGE)
    assert count(line(ORION), line(VEGA), line(LYRA)) == {"orion", "vega", "lyra"}
    # One key under many ids: an id nobody has is the id of an unknown key.
    assert count(line(ORION), *((f"{i:016x}", orion) for i in range(9))) == {"orion"}
    assert count(*((f"{i:016x}", orion) for i in range(9))) == frozenset()
    # One key under the id of another party's key: that party's line is bad.
    with refused(Reason.FORGED):
        count(line(ORION), (VEGA.public.id, orion))
    # One party with two keys.
    parties = {ORION.public: "orion", VEGA.public: "orion", LYRA.public: "lyra"}
    assert signing_parties(open_envelope(sealed(line(ORION), line(VEGA))), parties) == {"orion"}


def test_a_bad_line_of_a_known_key_condemns_the_whole() -> None:
    for bad in (b"", b"?", VEGA.sign(MESSAGE), LYRA.sign(PAYLOAD)):
        with refused(Reason.FORGED):
            signing_parties(open_envelope(sealed(line(ORION), line(VEGA), (LYRA.public.id, bad))), KEYS)
    # The same line is nobody's where the key is not known.
    envelope = open_envelope(sealed(line(ORION), (LYRA.public.id, b"?")))
    assert signing_parties(envelope, {ORION.public: "orion"}) == {"orion"}


def test_signatures_are_sorted_and_distinct() -> None:
    one, two = sorted([line(ORION), line(VEGA)])
    assert open_envelope(sealed(two, one)).signatures == (one, two)
    with pytest.raises(Malformed):
        open_envelope(sealed(one, one))
    with pytest.raises(Malformed):
        open_envelope(sealed())
    swapped = sealed(one, two).replace(b64encode(one[1]).encode(), b"#")
    swapped = swapped.replace(b64encode(two[1]).encode(), b64encode(one[1]).encode())
    swapped = swapped.replace(b"#", b64encode(two[1]).encode())
    swapped = swapped.replace(one[0].encode(), b"#").replace(two[0].encode(), one[0].encode())
    with pytest.raises(Malformed):
        open_envelope(swapped.replace(b"#", two[0].encode()))


def test_a_statement_fits_a_log_entry() -> None:
    room = MAX_BYTES - len(seal("pledge", b"", [line(ORION)]))
    longest = seal("pledge", b"x" * (room // 4 * 3), [line(ORION)])
    assert MAX_BYTES - 4 < len(longest) <= MAX_BYTES
    assert open_envelope(longest).data == longest
    with pytest.raises(Malformed):
        open_envelope(seal("pledge", b"x" * (room // 4 * 3 + 3), [line(ORION)]))


def test_nobody_signs_nothing() -> None:
    with pytest.raises(Misuse):
        sign("pledge", statement())


def test_a_statement_says_only_what_json_can() -> None:
    for changes in ({"seq": 2**53}, {"issuer": "\ud800"}, {"body": {"x": float("nan")}}):
        with pytest.raises(Malformed):
            sign("pledge", statement(**changes), ORION)
