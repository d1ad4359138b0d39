"""C2SP tlog-checkpoint and tlog-cosignature."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import b64encode, sha256
from brakeline.core.errors import Malformed, Misuse, Reason
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint, verify_cosignature
from brakeline.core.tlog.note import (
    COSIGNATURE,
    ED25519,
    Note,
    SignatureLine,
    VerifierKey,
    keyring,
    parse_line,
    parse_vkey,
    sign_note,
    verify_note,
)
from vector import Vector, load, refused

KEY = PrivateKey(b"w" * 32)
VKEY = VerifierKey("witness.example/w1", COSIGNATURE, KEY.public)
CHECKPOINT = Checkpoint("example.com/pause-log", 300, sha256(b"root"))
ORIGINS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60)
CHECKPOINTS = st.builds(Checkpoint, ORIGINS, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))


@load("checkpoint", 38)
def test_checkpoint_vectors(v: Vector) -> None:
    with v.expected():
        checkpoint = parse_checkpoint(v.bytes("text"))
        assert checkpoint.text == v.bytes("text")
        assert v.output == {
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": b64encode(checkpoint.root),
        }


@load("cosignature", 15)
def test_cosignature_vectors(v: Vector) -> None:
    text, key = v.bytes("text"), parse_vkey(v.input["vkey"])
    line = parse_line(v.bytes("line")[:-1])
    with v.expected():
        if key.type == ED25519:
            assert verify_note(Note(text, (line,)), keyring([key])) == ((key, line),)
            signed = sign_note(text, key.name, PrivateKey(bytes.fromhex(v.output["seed"]))).lines[0]
        else:
            assert verify_cosignature(text, line, key) == v.output["time"]
            signed = cosign(text, key.name, PrivateKey(bytes.fromhex(v.output["seed"])), v.output["time"])
        assert signed == line  # Ed25519 is deterministic: the same seed signs the same bytes


@given(CHECKPOINTS)
def test_every_checkpoint_is_read_back(checkpoint: Checkpoint) -> None:
    assert parse_checkpoint(checkpoint.text) == checkpoint


@given(st.binary() | CHECKPOINTS.map(lambda c: c.text), st.data())
def test_every_checkpoint_is_malformed_or_read_back(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, len(data)))
    junk = more.draw(st.sampled_from([b"", b"\n", b" ", b"0", b"+", b"_", b"=", b"\x1c", "٣".encode()]))
    for candidate in (data, data[:at] + junk + data[at:], data[:at] + junk + data[at + 1 :]):
        try:
            checkpoint = parse_checkpoint(candidate)
        except Malformed:
            continue
        assert checkpoint.text == candidate


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 0, bytes(32)),
        ("o" * 256, 0, bytes(32)),
        ("é" * 128, 0, bytes(32)),
        ("a\nb", 0, bytes(32)),
        ("a\x00b", 0, bytes(32)),
        ("\ud800", 0, bytes(32)),
        ("o", -1, bytes(32)),
        ("o", 2**63, bytes(32)),
        ("o", 0, bytes(31)),
        ("o", 0, bytes(33)),
    ],
)
def test_there_is_no_such_checkpoint(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(Malformed):
        Checkpoint(origin, size, root)


@given(CHECKPOINTS, st.integers(1, 2**63 - 1))
def test_a_cosignature_tells_its_time(checkpoint: Checkpoint, time: int) -> None:
    assert verify_cosignature(checkpoint.text, cosign(checkpoint.text, VKEY.name, KEY, time), VKEY) == time


@pytest.mark.parametrize("time", [0, -1, 2**63])
def test_nobody_cosigns_at_such_a_time(time: int) -> None:
    with pytest.raises(Misuse):
        cosign(CHECKPOINT.text, VKEY.name, KEY, time)


def test_every_flipped_bit_of_a_cosignature_is_refused() -> None:
    line = cosign(CHECKPOINT.text, VKEY.name, KEY, 1679315147)
    for i in range(len(line.blob)):
        for bit in range(8):
            blob = line.blob[:i] + bytes([line.blob[i] ^ 1 << bit]) + line.blob[i + 1 :]
            with refused(Reason.FORGED):
                verify_cosignature(CHECKPOINT.text, SignatureLine(line.name, line.key_id, blob), VKEY)


def test_a_log_key_cosigns_nothing() -> None:
    line = sign_note(CHECKPOINT.text, VKEY.name, KEY).lines[0]
    with pytest.raises(Misuse):
        verify_cosignature(CHECKPOINT.text, line, VerifierKey(VKEY.name, ED25519, KEY.public))
    with refused(Reason.FORGED):
        verify_cosignature(CHECKPOINT.text, line, VKEY)


def test_a_cosignature_does_not_cover_the_name() -> None:
    # The hazard behind "one key, one witness": the same bytes verify under any name of the key.
    other = VerifierKey("witness.example/w2", COSIGNATURE, KEY.public)
    line = cosign(CHECKPOINT.text, VKEY.name, KEY, 1)
    assert verify_cosignature(CHECKPOINT.text, SignatureLine(other.name, other.id, line.blob), other) == 1
