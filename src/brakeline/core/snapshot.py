"""A snapshot: a state as bytes that somebody may start from.

Whose word is taken? One's own, for one's own. For another's, only that of a quorum of permit signers, who each state
the digest of the state in the log (Treaty 6.6); the bytes may come from anywhere. Whoever trusts nobody folds the log
again from its first entry, and then compares.

    brakeline/snapshot/v1\\n ‖ the state's bytes ‖ 32 bytes SHA-256 of all before it
"""

from collections.abc import Iterable
from typing import Final

from brakeline.core.encoding import Wire, sha256
from brakeline.core.errors import Malformed, Reason, Refused

MAGIC: Final = b"brakeline/snapshot/v1\n"


class Snapshot(Wire, frozen=True):
    """Body of a `snapshot`: after `size` entries under `root`, the state by these `rules` has the digest `state`.

    Digests are hex SHA-256.
    """

    rules: int
    size: int
    root: str
    state: str


def pack(state: bytes) -> bytes:
    """The bytes of a state as they are kept, so that a torn file is told from a whole one."""
    body = MAGIC + state
    return body + sha256(body)


def unpack(data: bytes) -> bytes:
    """Raises:
    Malformed: not a snapshot, cut short, or damaged.
    """
    body, digest = data[:-32], data[-32:]
    if not body.startswith(MAGIC) or sha256(body) != digest:
        raise Malformed("not a snapshot, or damaged")
    return body.removeprefix(MAGIC)


def check_stated(stated: Iterable[tuple[str, Snapshot]], offered: Snapshot, need: int) -> None:
    """That enough distinct signers stated just what is offered. `stated`: who said what.

    Raises:
        Refused(NO_QUORUM): fewer than `need` did.
    """
    signers = {signer for signer, said in stated if said == offered}
    if len(signers) < need:
        raise Refused(
            Reason.NO_QUORUM,
            f"the state at {offered.size} entries is stated by {len(signers)} permit signers; {need} are needed "
            "(Treaty 6.6)",
            hint="fold the log from its first entry instead",
        )
