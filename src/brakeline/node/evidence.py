"""What a home keeps against a log or a witness: two notes that contradict one another, and receipts.

Proofs are named by what they are: no later one, and nothing else that is shown, takes the place of one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from brakeline.core.contradiction import contradiction, faults
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.policy import Policy
from brakeline.node.disk import disk_errors, write_atomic

FORKS: Final = "forks"
PROOFS: Final = "proofs"
RECEIPTS: Final = "receipts"  # named by the leaf hash; a few hundred bytes each, and rare


def keep_proof(memory: Path, first: bytes, second: bytes, policy: Policy, leaves: Sequence[bytes] = ()) -> Path | None:
    """Keep what proves to anybody that two notes contradict one another; None where they do not, by this policy.

    `leaves` as for `contradiction`.
    """
    try:
        found = contradiction(first, second, leaves)
        if not faults(found, policy):
            return None
    except BrakelineError:
        return None
    data = found.encode()
    return _keep(memory / PROOFS / f"{sha256(data).hex()[:16]}.json", data)


def shows(proof: Path) -> str:
    """What whoever meets trouble is told of a proof that was kept."""
    return f"`brakeline verify {proof} --treaty FILE` shows it to anybody"


def keep_notes(memory: Path, first: bytes, second: bytes) -> Path:
    """Keep two checkpoints of a log that has forked, as they are; returns the folder."""
    name = f"{checkpoint_in(first).size}-{sha256(first, second).hex()[:16]}"
    for part, data in (("a", first), ("b", second)):
        _keep(memory / FORKS / f"{name}-{part}", data)
    return memory / FORKS


def keep_receipt(memory: Path, entry: bytes, receipt: bytes) -> None:
    """Keep what the log has promised of an entry: the first promise, where it gives several."""
    _keep(_receipt(memory, entry), receipt)


def receipt_of(memory: Path, entry: bytes) -> bytes | None:
    """The receipt that is kept for an entry."""
    with disk_errors():
        path = _receipt(memory, entry)
        return path.read_bytes() if path.exists() else None


def _receipt(memory: Path, entry: bytes) -> Path:
    return memory / RECEIPTS / leaf_hash(entry).hex()


def _keep(path: Path, data: bytes) -> Path:
    if not path.exists():
        write_atomic(path, data)
    return path
