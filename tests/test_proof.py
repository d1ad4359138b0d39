"""C2SP tlog-proof: an entry, its path, and a checkpoint that a policy accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import b64decode, sha256
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint
from brakeline.core.tlog.merkle import inclusion_proof, leaf_hash, reader, root, verify_inclusion
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, keyring, parse_note, sign_note, verify_note
from brakeline.core.tlog.policy import Group, Policy, parse_policy
from brakeline.core.tlog.proof import Proof, parse_proof, verify_proof
from vector import Vector, load, refused

LOG = PrivateKey(b"l" * 32)
WITNESSES = {f"w{i}": PrivateKey(bytes([i]) * 32) for i in range(4)}
POLICY = Policy(
    ((VerifierKey("log.example", ED25519, LOG.public), None),),
    {name: (VerifierKey(name, COSIGNATURE, key.public), None) for name, key in WITNESSES.items()},
    Group(3, tuple(WITNESSES)),
)
ENTRIES = [b"entry %d" % i for i in range(20)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
PROOFS = st.builds(
    Proof,
    st.integers(0, 2**63 - 2),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    st.binary(),
)


def cosigned(size: int) -> bytes:
    text = Checkpoint("log.example", size, root(LEAVES[:size])).text
    note = sign_note(text, "log.example", LOG)
    return note.with_lines(*(cosign(text, name, key, 1000) for name, key in WITNESSES.items())).encode()


@load("proof", 46)
def test_proof_vectors(v: Vector) -> None:
    data = v.bytes("proof")
    with v.expected():
        index, accepted = verify_proof(data, v.bytes("entry"), parse_policy(v.bytes("policy")))
        assert v.output == {
            "index": index,
            "size": accepted.checkpoint.size,
            "time": accepted.time,
            "witnesses": sorted(accepted.witnesses),
        }
        assert parse_proof(data).encode() == data


def test_the_test_log_proof_byte_for_byte() -> None:
    # The Tessera test log and its published TEST key.
    key = PrivateKey(b64decode("AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg")[1:])
    leaves = [leaf_hash(entry) for entry in (b"one", b"two", b"three")]
    text = Checkpoint("example.com/log/testdata", 3, root(leaves)).text
    note = sign_note(text, "example.com/log/testdata", key)
    assert note.lines[0].key_id.hex() == "33d7b496"
    data = Proof(2, inclusion_proof(2, 3, reader(leaves)), note.encode()).encode()
    assert (len(data), sha256(data).hex()) == (
        272,
        "68deea6a69947280c8311b9b29a9940989b86ee4700776172c0dd78bcb3b0bab",
    )
    proof = parse_proof(data)
    note = parse_note(proof.checkpoint)
    verify_note(note, keyring([VerifierKey("example.com/log/testdata", ED25519, key.public)]))
    tree = parse_checkpoint(note.text)
    verify_inclusion(leaf_hash(b"three"), proof.index, tree.size, proof.hashes, tree.root)


@given(PROOFS)
def test_every_proof_is_read_back(proof: Proof) -> None:
    assert parse_proof(proof.encode()) == proof


def test_the_longest_proof_is_read_back() -> None:
    proof = Proof(2**63 - 2, (bytes(32),) * 63, b"")
    assert parse_proof(proof.encode()) == proof


@given(st.binary() | PROOFS.map(Proof.encode), st.data())
def test_every_proof_is_malformed_or_read_back(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, min(len(data), 120)))
    junk = more.draw(st.sampled_from([b"", b"\n", b"\n\n", b" ", b"0", b"=", b"extra AAAA\n", b"\r"]))
    for candidate in (data, data[:at] + junk + data[at:], data[:at] + junk + data[at + 1 :]):
        try:
            proof = parse_proof(candidate)
        except Malformed:
            continue
        assert proof.encode() == candidate


def test_every_entry_of_every_size() -> None:
    read = reader(LEAVES)
    for size in range(1, len(LEAVES) + 1):
        note = cosigned(size)
        for index in range(0, size, 3):
            data = Proof(index, inclusion_proof(index, size, read), note).encode()
            where, accepted = verify_proof(data, ENTRIES[index], POLICY)
            assert (where, accepted.checkpoint.size, accepted.time) == (index, size, 1000)
            with refused(Reason.TAMPERED):
                verify_proof(data, b"not in the log", POLICY)


def test_every_changed_byte_of_a_proof_is_refused_or_harmless() -> None:
    data = Proof(9, inclusion_proof(9, 20, reader(LEAVES)), cosigned(20)).encode()
    note = data.index(b"\n\n") + 2
    lines = data.index(b"\n\n", note) + 2
    for at in range(len(data)):
        bent = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if at < lines:
            with pytest.raises((Malformed, Refused)):
                verify_proof(bent, ENTRIES[9], POLICY)
            continue
        try:
            index, accepted = verify_proof(bent, ENTRIES[9], POLICY)
        except (Malformed, Refused):
            continue
        assert index == 9  # a line has become one of an unknown key; three of four are left
        assert len(accepted.witnesses) == 3


@pytest.mark.parametrize(
    ("index", "hashes"), [(-1, ()), (2**63 - 1, ()), (0, (bytes(31),)), (0, (bytes(33),)), (0, (bytes(32),) * 64)]
)
def test_there_is_no_such_proof(index: int, hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        Proof(index, hashes, b"")
