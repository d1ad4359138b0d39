"""C2SP signed-note: parsing is exact, and one bad line of a known key condemns the note."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.note import (
    COSIGNATURE,
    ED25519,
    MAX_BYTES,
    MAX_LINES,
    Note,
    SignatureLine,
    VerifierKey,
    keyring,
    parse_line,
    parse_note,
    parse_vkey,
    sign_note,
    verify_note,
)
from vector import Vector, load, refused

KEY = PrivateKey(bytes(range(32)))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1).filter(
    lambda name: "+" not in name
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\n")).map(
    lambda text: text.encode() + b"\n"
)
LINES = st.builds(SignatureLine, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=100))
NOTES = st.builds(Note, TEXTS, st.lists(LINES, min_size=1, max_size=4).map(tuple))


@load("note", 56)
def test_note_vectors(v: Vector) -> None:
    data = v.bytes("note")
    keys = [parse_vkey(text) for text in v.input["keys"]]
    with v.expected():
        note = parse_note(data)
        assert note.encode() == data
        verified = verify_note(note, keyring(keys))
        assert [key.name for key, _ in verified] == v.output["verified"]
        assert note.text.decode() == v.output["text"]


@load("vkey", 25)
def test_vkey_vectors(v: Vector) -> None:
    with v.expected():
        key = parse_vkey(v.input["vkey"])
        assert {"name": key.name, "type": key.type, "id": key.id.hex()} == v.output
        assert key.text == v.input["vkey"]


@given(NOTES)
def test_every_note_is_read_back(note: Note) -> None:
    assert parse_note(note.encode()) == note


@given(st.binary() | st.text().map(lambda t: t.encode("utf-8", "surrogatepass")) | NOTES.map(Note.encode), st.data())
def test_every_note_is_malformed_or_read_back(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, len(data)))
    bent = data[:at] + more.draw(st.sampled_from([b"", b"\n", b" ", b"\n\n", b"=", b"\x0b", b"A"])) + data[at:]
    for candidate in (data, bent):
        try:
            note = parse_note(candidate)
        except Malformed:
            continue
        assert note.encode() == candidate


@given(LINES)
def test_every_line_is_read_back(line: SignatureLine) -> None:
    assert parse_line(line.encode()[:-1]) == line


@given(NAMES, st.sampled_from([ED25519, COSIGNATURE]))
def test_every_vkey_is_read_back(name: str, type_: int) -> None:
    key = VerifierKey(name, type_, KEY.public)
    assert parse_vkey(key.text) == key
    assert key.id == sha256(name.encode() + b"\n" + bytes([type_]) + KEY.public.raw)[:4]


@given(st.text())
@example("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2l")
def test_every_vkey_is_refused_or_read_back(text: str) -> None:
    try:
        key = parse_vkey(text)
    except (Malformed, Refused):
        return
    assert key.text == text


@given(TEXTS, NAMES)
def test_a_signed_note_verifies_under_its_own_key_only(text: bytes, name: str) -> None:
    key = VerifierKey(name, ED25519, KEY.public)
    note = parse_note(sign_note(text, name, KEY).encode())
    assert verify_note(note, keyring([key])) == ((key, note.lines[0]),)
    with refused(Reason.NO_QUORUM):
        verify_note(note, keyring([VerifierKey(name, ED25519, PrivateKey(bytes(32)).public)]))
    with refused(Reason.NO_QUORUM):
        verify_note(note, keyring([VerifierKey(name + "x", ED25519, KEY.public)]))
    with refused(Reason.NO_QUORUM):
        verify_note(note, keyring([]))


def test_every_flipped_bit_of_a_note_is_refused() -> None:
    key = VerifierKey("a", ED25519, KEY.public)
    data = sign_note(b"one line\n", "a", KEY).encode()
    for i in range(len(data)):
        for bit in range(8):
            bent = data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :]
            with pytest.raises((Malformed, Refused)):
                verify_note(parse_note(bent), keyring([key]))


def test_with_lines_appends() -> None:
    one, two = (SignatureLine(name, b"\0\0\0\0", b"?") for name in "ab")
    assert Note(b"text\n", (one,)).with_lines(two) == Note(b"text\n", (one, two))


def test_sizes_are_capped() -> None:
    line = SignatureLine("a", b"\0\0\0\0", b"?")
    lines = tuple(SignatureLine(f"a{i}", b"\0\0\0\0", b"?") for i in range(MAX_LINES))
    assert len(parse_note(Note(b"\n", lines).encode()).lines) == MAX_LINES
    with pytest.raises(Malformed):
        Note(b"\n", lines).with_lines(line)
    longest = Note(b"\n", (line,)).encode()
    longest = b"x" * (MAX_BYTES - len(longest)) + longest
    assert parse_note(longest).encode() == longest
    with pytest.raises(Malformed):
        parse_note(b"x" + longest)


@pytest.mark.parametrize("text", [b"", b"no newline", b"tab\t\n", b"\xff\n", b"\x00\n", b"\r\n"])
def test_a_note_holds_no_other_text(text: bytes) -> None:
    with pytest.raises(Malformed):
        sign_note(text, "a", KEY)


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\nb", "a\tb", "\x00", "\u00a0", "\u2028", "\u3000", "\x85", "\ud800"]
)
def test_a_key_has_no_other_name(name: str) -> None:
    with pytest.raises(Malformed):
        VerifierKey(name, ED25519, KEY.public)
    with pytest.raises(Malformed):
        SignatureLine(name, b"\0\0\0\0", b"?")


@pytest.mark.parametrize("type_", [-1, 0, 2, 3, 5, 6, 255])
def test_a_key_has_no_other_type(type_: int) -> None:
    with pytest.raises(Malformed):
        VerifierKey("a", type_, KEY.public)


def test_a_line_has_a_key_id_and_a_signature() -> None:
    for key_id, blob in ((b"\0\0\0", b"?"), (b"\0\0\0\0\0", b"?"), (b"\0\0\0\0", b"")):
        with pytest.raises(Malformed):
            SignatureLine("a", key_id, blob)


def test_two_keys_of_one_name_and_id_are_ambiguous() -> None:
    # Anyone can search for a key with a given 32-bit id. These two were found in seconds.
    one, two = (VerifierKey("a", ED25519, PrivateKey(i.to_bytes(32)).public) for i in (77213, 80252))
    assert one.id == two.id
    note = sign_note(b"text\n", "a", PrivateKey((77213).to_bytes(32)))
    assert verify_note(note, keyring([one, one])) == ((one, note.lines[0]),)
    with refused(Reason.FORGED):
        verify_note(note, keyring([two]))
    with pytest.raises(Misuse):
        verify_note(note, keyring([one, two]))
