"""C2SP tlog-proof: that an entry is in a log, for anyone to check offline."""

from dataclasses import dataclass
from typing import Final

from brakeline.core.encoding import b64decode, b64encode, decimal
from brakeline.core.errors import Malformed
from brakeline.core.tlog.checkpoint import MAX_SIZE
from brakeline.core.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from brakeline.core.tlog.policy import Cosigned, Policy, verify_cosigned

_HEADER: Final = b"c2sp.org/tlog-proof@v1"
_MAX_HASHES: Final = 63


@dataclass(frozen=True, slots=True)
class Proof:
    """A parsed, not yet verified, proof: siblings from leaf to root, and the checkpoint note verbatim.

    Raises on construction:
        Malformed: an index beyond 2**63-1, or not 0..63 hashes of 32 bytes.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE:
            raise Malformed(f"no entry has the index {self.index}")
        if len(self.hashes) > _MAX_HASHES or any(len(h) != HASH_BYTES for h in self.hashes):
            raise Malformed(f"a proof has at most {_MAX_HASHES} hashes of {HASH_BYTES} bytes")

    def encode(self) -> bytes:
        hashes = "".join(b64encode(h) + "\n" for h in self.hashes).encode()
        return b"%s\nindex %d\n%s\n%s" % (_HEADER, self.index, hashes, self.checkpoint)


def parse_proof(data: bytes) -> Proof:
    """Read a proof; verify nothing.

    Raises:
        Malformed: another form. An `extra` line too is refused: nothing authenticates it.
    """
    head, blank, checkpoint = data.partition(b"\n\n")
    lines = head.split(b"\n", _MAX_HASHES + 2)
    if not blank or len(lines) < 2 or lines[0] != _HEADER or not lines[1].startswith(b"index "):
        raise Malformed("not a proof: want its header, `index <n>`, hashes, a blank line, a checkpoint")
    index = decimal(lines[1].removeprefix(b"index "))
    return Proof(index, tuple(b64decode(line) for line in lines[2:]), checkpoint)


def verify_proof(data: bytes, entry: bytes, policy: Policy) -> tuple[int, Cosigned]:
    """Where `entry` stands in a log of the policy, and the cosigned checkpoint that says so.

    Raises:
        Malformed: not a proof. Refused: as `verify_cosigned`, or TAMPERED when the entry is not in the tree.
    """
    proof = parse_proof(data)
    cosigned = verify_cosigned(proof.checkpoint, policy)
    tree = cosigned.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, tree.size, proof.hashes, tree.root)
    return proof.index, cosigned
