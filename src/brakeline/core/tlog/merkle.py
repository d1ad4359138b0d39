"""RFC 6962 Merkle trees: roots, proofs and their verification.

Hashes are 32-byte SHA-256 digests. Trees are read through a `HashReader`, since a proof needs few of a tree's
hashes. The *perfect subtree* (level, index) has the 2**level leaves from index * 2**level on.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from brakeline.core.errors import Malformed, Misuse, Reason, Refused

HashReader = Callable[[int, int], bytes]

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(00 ‖ entry) (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(01 ‖ left ‖ right) (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf_hashes(entries: Iterable[bytes]) -> bytes:
    """`leaf_hash` of each, one after another."""
    return b"".join([hashlib.sha256(b"\x00" + entry).digest() for entry in entries])


def parent_hashes(hashes: bytes) -> bytes:
    """The hashes one level up, of hashes one after another; one that has no sibling is left out."""
    pairs = range(0, len(hashes) - HASH_BYTES, 2 * HASH_BYTES)
    return b"".join([hashlib.sha256(b"\x01" + hashes[i : i + 2 * HASH_BYTES]).digest() for i in pairs])


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that is needed to grow a tree: the roots of its perfect subtrees, the largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise Malformed(f"a tree of {self.size} leaves does not have {len(self.hashes)} perfect subtrees")
        if any(len(h) != HASH_BYTES for h in self.hashes):
            raise Malformed("a hash has 32 bytes")

    def append(self, leaf: bytes) -> "Frontier":
        """The frontier with one more leaf hash."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> "Frontier":
        """The frontier with more leaf hashes, in order."""
        size, hashes = self.size, list(self.hashes)
        for h in leaves:
            # Every low 1 bit of the old size is a perfect subtree that the new leaf completes.
            carry = size
            while carry & 1:
                h = node_hash(hashes.pop(), h)
                carry >>= 1
            hashes.append(h)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        return _fold(self.hashes)


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Root of the tree with these leaf hashes."""
    level = list(leaf_hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        level = _pair(level) + (level[-1:] if len(level) % 2 else [])
    return level[0]


def reader(leaf_hashes: Sequence[bytes]) -> HashReader:
    """A reader over leaf hashes held in memory; hashes the whole tree once."""
    levels = [list(leaf_hashes)]
    while len(levels[-1]) > 1:
        levels.append(_pair(levels[-1]))

    def read(level: int, index: int) -> bytes:
        if not (0 <= level < len(levels) and 0 <= index < len(levels[level])):
            raise Misuse(f"no perfect subtree {index} at level {level} in a tree of {len(levels[0])} leaves")
        return levels[level][index]

    return read


def subtree_root(size: int, read: HashReader) -> bytes:
    """Root of the first `size` leaves."""
    if size < 0:
        raise Misuse(f"no tree has {size} leaves")
    return _span(0, size, read)


def inclusion_proof(index: int, size: int, read: HashReader) -> tuple[bytes, ...]:
    """Siblings from leaf to root of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1).

    Raises:
        Misuse: no such leaf.
    """
    if not 0 <= index < size:
        raise Misuse(f"no leaf {index} in a tree of {size}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_span(middle, end, read))
            end = middle
        else:
            path.append(_span(start, middle, read))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old: int, new: int, read: HashReader) -> tuple[bytes, ...]:
    """That the tree of `old` leaves is a prefix of that of `new` (RFC 6962 §2.1.2). Empty for old = 0 or new.

    Raises:
        Misuse: old > new.
    """
    if not 0 <= old <= new:
        raise Misuse(f"a tree of {new} leaves does not extend one of {old}")
    if old == 0:
        return ()
    start, end, path = 0, new, []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_span(middle, end, read))
            end = middle
        else:
            path.append(_span(start, middle, read))
            start = middle
    if start:  # the verifier does not have this subtree: it is not the whole old tree
        path.append(_span(start, end, read))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """That the leaf hash `leaf` stands at `index` of the tree of `size` leaves with `root`.

    Raises:
        Malformed: no such index, or a hash that is not 32 bytes.
        Refused(TAMPERED): the proof does not lead to `root`.
    """
    if not 0 <= index < size:
        raise Malformed(f"no leaf {index} in a tree of {size}")
    _check_hashes(leaf, root, *proof)
    inner, border = _path_shape(index, size)
    if len(proof) != inner + border:
        raise Refused(Reason.TAMPERED, f"inclusion proof has {len(proof)} hashes, not {inner + border}")
    h = leaf
    for level, sibling in enumerate(proof):
        right = level >= inner or index >> level & 1
        h = node_hash(sibling, h) if right else node_hash(h, sibling)
    if h != root:
        raise Refused(Reason.TAMPERED, f"leaf {index} is not shown to be in the tree of size {size}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """That the tree (`old`, `old_root`) is a prefix of the tree (`new`, `new_root`).

    Raises:
        Malformed: sizes not 0 <= old <= new, or a hash that is not 32 bytes.
        Refused(TAMPERED): the proof does not connect the two roots.
    """
    if not 0 <= old <= new:
        raise Malformed(f"a tree of {new} leaves does not extend one of {old}")
    _check_hashes(old_root, new_root, *proof)
    for size, claimed in ((old, old_root), (new, new_root)):
        if size == 0 and claimed != EMPTY_ROOT:
            raise Refused(Reason.TAMPERED, "a tree of size 0 has the root SHA-256 of nothing")
    if old in (0, new):
        if proof:
            raise Refused(Reason.TAMPERED, f"a consistency proof from {old} to {new} is empty")
        if old == new and old_root != new_root:
            raise Refused(Reason.TAMPERED, f"two roots for one size {old}")
        return
    # The path of the last old leaf, from the largest perfect subtree that ends the old tree.
    shift = (old & -old).bit_length() - 1
    inner, border = _path_shape(old - 1, new)
    inner -= shift
    seeded = old != 1 << shift
    length = seeded + inner + border
    if len(proof) != length:
        raise Refused(Reason.TAMPERED, f"consistency proof has {len(proof)} hashes, not {length}")
    before = after = proof[0] if seeded else old_root
    for level, sibling in enumerate(proof[seeded:]):
        if level >= inner or (old - 1) >> shift >> level & 1:
            before = node_hash(sibling, before)
            after = node_hash(sibling, after)
        else:
            after = node_hash(after, sibling)
    if before != old_root or after != new_root:
        raise Refused(Reason.TAMPERED, f"the tree of {new} leaves is not shown to extend the one of {old}")


def _path_shape(index: int, size: int) -> tuple[int, int]:
    # Below `inner` levels a path has a sibling on either side; above, only where the path turns right.
    inner = (index ^ (size - 1)).bit_length()
    return inner, (index >> inner).bit_count()


def _split(width: int) -> int:
    """Largest power of two below `width`, for width > 1."""
    return 1 << (width - 1).bit_length() - 1


def _span(start: int, end: int, read: HashReader) -> bytes:
    """Hash of the leaves [start, end), a subtree of RFC 6962: `start` is a multiple of 2**k >= the width."""
    hashes = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read(level, start >> level))
        start += 1 << level
    return _fold(hashes)


def _fold(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    h = hashes[-1]
    for left in hashes[-2::-1]:
        h = node_hash(left, h)
    return h


def _pair(level: list[bytes]) -> list[bytes]:
    return [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]


def _check_hashes(*hashes: bytes) -> None:
    if any(len(h) != HASH_BYTES for h in hashes):
        raise Malformed("a hash has 32 bytes")
