"""RFC 6962 trees against a naive recursive reference, and every way to bend a proof."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    reader,
    root,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)
from vector import Vector, load, refused

N = 64
LEAVES = [leaf_hash(b"%d" % i) for i in range(N)]
READ = reader(LEAVES)


# The reference: RFC 6962 §2.1, §2.1.1 and §2.1.2 word for word.
def mth(d: list[bytes]) -> bytes:
    if not d:
        return hashlib.sha256(b"").digest()
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return hashlib.sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: list[bytes]) -> tuple[bytes, ...]:
    if len(d) == 1:
        return ()
    k = split(len(d))
    if m < k:
        return (*path(m, d[:k]), mth(d[k:]))
    return (*path(m - k, d[k:]), mth(d[:k]))


def subproof(m: int, d: list[bytes], whole: bool) -> tuple[bytes, ...]:
    if m == len(d):
        return () if whole else (mth(d),)
    k = split(len(d))
    if m <= k:
        return (*subproof(m, d[:k], whole), mth(d[k:]))
    return (*subproof(m - k, d[k:], False), mth(d[:k]))


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


ROOTS = [mth(LEAVES[:n]) for n in range(N + 1)]


@load("merkle", 11, "published-")
def test_root_vectors(v: Vector) -> None:
    leaves = [leaf_hash(entry) for entry in v.hexes("entries_hex")]
    assert root(leaves).hex() == v.output["root"]
    assert Frontier().extend(leaves).root().hex() == v.output["root"]


@load("merkle", 17, "inclusion-")
def test_inclusion_vectors(v: Vector) -> None:
    with v.expected():
        verify_inclusion(
            bytes.fromhex(v.input["leaf"]),
            v.input["index"],
            v.input["size"],
            v.hexes("proof"),
            bytes.fromhex(v.input["root"]),
        )


@load("merkle", 18, "consistency-")
def test_consistency_vectors(v: Vector) -> None:
    with v.expected():
        verify_consistency(
            v.input["old"],
            bytes.fromhex(v.input["old_root"]),
            v.input["new"],
            bytes.fromhex(v.input["new_root"]),
            v.hexes("proof"),
        )


def test_hashes_have_distinct_prefixes() -> None:
    assert leaf_hash(b"a") == hashlib.sha256(b"\x00a").digest()
    assert node_hash(LEAVES[0], LEAVES[1]) == hashlib.sha256(b"\x01" + LEAVES[0] + LEAVES[1]).digest()
    assert leaf_hash(b"\x01" + LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_every_root() -> None:
    frontier = Frontier()
    for n in range(N + 1):
        assert ROOTS[n] == root(LEAVES[:n]) == subtree_root(n, READ) == frontier.root()
        assert frontier == Frontier().extend(LEAVES[:n])
        if n < N:
            frontier = frontier.append(LEAVES[n])


def test_every_inclusion_proof() -> None:
    for size in range(1, N + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, READ)
            assert proof == path(index, LEAVES[:size])
            verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


def test_every_consistency_proof() -> None:
    for new in range(N + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, READ)
            assert proof == (subproof(old, LEAVES[:new], True) if old else ())
            verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)


def test_a_proof_holds_for_nothing_else() -> None:
    for size in range(1, 17):
        for index in range(size):
            proof = inclusion_proof(index, size, READ)
            for other in set(range(size)) - {index}:
                with refused(Reason.TAMPERED):
                    verify_inclusion(LEAVES[index], other, size, proof, ROOTS[size])
            # The same proof under another size: only one whose root it also leads to, and that needs its root.
            for other in set(range(index + 1, 33)) - {size}:
                with refused(Reason.TAMPERED):
                    verify_inclusion(LEAVES[index], index, other, proof, ROOTS[other])


def test_a_consistency_proof_holds_for_nothing_else() -> None:
    for new in range(1, 17):
        for old in range(1, new):
            proof = consistency_proof(old, new, READ)
            for other in set(range(1, new + 1)) - {old}:
                with refused(Reason.TAMPERED):
                    verify_consistency(other, ROOTS[old], new, ROOTS[new], proof)
            for fork in (ROOTS[17], leaf_hash(b"fork")):
                with refused(Reason.TAMPERED):
                    verify_consistency(old, fork, new, ROOTS[new], proof)
                with refused(Reason.TAMPERED):
                    verify_consistency(old, ROOTS[old], new, fork, proof)


def flips(data: bytes) -> list[bytes]:
    return [data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :] for i in range(len(data)) for bit in range(8)]


def refuses(verify, *args) -> bool:
    try:
        verify(*args)
    except Refused as e:
        return e.reason is Reason.TAMPERED
    return False


def test_every_flipped_bit_of_an_inclusion_proof_is_refused() -> None:
    for size in range(1, 17):
        for index in range(size):
            leaf, proof = LEAVES[index], inclusion_proof(index, size, READ)
            for i, h in enumerate(proof):
                for bad in flips(h):
                    bent = (*proof[:i], bad, *proof[i + 1 :])
                    assert refuses(verify_inclusion, leaf, index, size, bent, ROOTS[size])
            for bad in flips(leaf):
                assert refuses(verify_inclusion, bad, index, size, proof, ROOTS[size])
            for bad in flips(ROOTS[size]):
                assert refuses(verify_inclusion, leaf, index, size, proof, bad)


def test_every_flipped_bit_of_a_consistency_proof_is_refused() -> None:
    for new in range(17):
        for old in range(new + 1):
            proof = consistency_proof(old, new, READ)
            for i, h in enumerate(proof):
                for bad in flips(h):
                    bent = (*proof[:i], bad, *proof[i + 1 :])
                    assert refuses(verify_consistency, old, ROOTS[old], new, ROOTS[new], bent)
            for bad in flips(ROOTS[old]):
                assert refuses(verify_consistency, old, bad, new, ROOTS[new], proof)
            # From the empty tree every tree is reachable: there the new root is held by nothing.
            for bad in flips(ROOTS[new]) if old else ():
                assert refuses(verify_consistency, old, ROOTS[old], new, bad, proof)


def test_every_other_length_of_a_proof_is_refused() -> None:
    for size in range(1, 17):
        for index in range(size):
            proof = inclusion_proof(index, size, READ)
            for bent in (proof[:-1], proof[1:], (*proof, LEAVES[0]), (LEAVES[0], *proof)):
                if len(bent) != len(proof):
                    assert refuses(verify_inclusion, LEAVES[index], index, size, bent, ROOTS[size])
        for old in range(size + 1):
            proof = consistency_proof(old, size, READ)
            for bent in (proof[:-1], proof[1:], (*proof, LEAVES[0]), (LEAVES[0], *proof)):
                if len(bent) != len(proof):
                    assert refuses(verify_consistency, old, ROOTS[old], size, ROOTS[size], bent)


@given(st.integers(-2, 2**64), st.integers(-2, 2**64), st.lists(st.binary(min_size=31, max_size=33), max_size=64))
def test_verifiers_refuse_whatever_is_not_a_proof(a: int, b: int, proof: list[bytes]) -> None:
    with pytest.raises((Malformed, Refused)):
        verify_inclusion(LEAVES[0], a, b, proof, leaf_hash(b"no root"))
    with pytest.raises((Malformed, Refused)):
        verify_consistency(a, LEAVES[0], b, leaf_hash(b"no root"), proof)


@given(st.integers(1, 2**63 - 1), st.data())
def test_proofs_of_huge_trees_have_the_right_length(size: int, data: st.DataObject) -> None:
    # A tree whose leaves are all alike: the hash of a perfect subtree depends on its level alone.
    perfect = [LEAVES[0]]
    for _ in range(63):
        perfect.append(node_hash(perfect[-1], perfect[-1]))

    def read(level: int, index: int) -> bytes:
        assert index >= 0
        assert (index + 1) << level <= size
        return perfect[level]

    whole = subtree_root(size, read)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    proof = inclusion_proof(index, size, read)
    assert len(proof) <= 63
    verify_inclusion(LEAVES[0], index, size, proof, whole)
    verify_consistency(old, subtree_root(old, read), size, whole, consistency_proof(old, size, read))


def test_the_empty_tree() -> None:
    assert root([]) == Frontier().root() == subtree_root(0, READ) == EMPTY_ROOT
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, ())


def test_frontier_checks_its_parts() -> None:
    with pytest.raises(Malformed):
        Frontier(3, (LEAVES[0],))
    with pytest.raises(Malformed):
        Frontier(1, (b"short",))
    with pytest.raises(Malformed):
        Frontier(-1, (LEAVES[0],))
    with pytest.raises(Malformed):
        Frontier().append(b"short")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: inclusion_proof(3, 3, READ),
        lambda: inclusion_proof(-1, 3, READ),
        lambda: inclusion_proof(0, 0, READ),
        lambda: consistency_proof(4, 3, READ),
        lambda: consistency_proof(-1, 3, READ),
        lambda: subtree_root(-1, READ),
        lambda: READ(0, N),
        lambda: READ(7, 0),
        lambda: READ(-1, 0),
        lambda: READ(0, -1),
    ],
)
def test_misuse(wrong) -> None:
    with pytest.raises(Misuse):
        wrong()
