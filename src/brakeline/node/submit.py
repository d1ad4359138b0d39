"""Bring an entry to a log, and believe only a proof that it is there."""

from collections.abc import Callable, Sequence

from brakeline.core.admission import Admission
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.policy import Policy
from brakeline.core.tlog.proof import parse_proof, verify_proof
from brakeline.node.client import Follower
from brakeline.node.logclient import LogClient


def add_verified(client: LogClient, need: Callable[[int], Sequence[Policy]], entry: bytes) -> int:
    """Submit an entry and verify the proof that it is in the log under a witness quorum; returns its index.

    `need` as for `verify_all`.

    Raises:
        Unavailable, Refused, Malformed: the log did not take it, or its proof does not hold; then, `later`.
    """
    proof = client.add(entry)
    try:
        size = checkpoint_in(parse_proof(proof).checkpoint).size
    except Malformed as e:
        raise Malformed(f"the log's proof is none: {e}", hint="the statement is kept, and sent again") from e
    try:
        for policy in need(size):
            index, _ = verify_proof(proof, entry, policy)
        return index
    except Refused as e:  # what is wrong is the answer: the entry may well be in the log
        raise Refused(e.reason, f"the log's proof does not hold: {e}", later=True) from e


def add_judged(client: LogClient, follower: Follower, entry: bytes) -> int:
    """As `add_verified`; and a log that refuses for good is believed only where the state followed refuses, too.

    Otherwise one lying answer would lose an honest statement: it is refused for `later`, and kept.
    """
    client.dial(follower.client.url)
    try:
        return add_verified(client, lambda size: follower.state.chain.need(size), entry)
    except Refused as e:
        if e.later:
            raise
        try:
            follower.update()
        except (Refused, Malformed) as trouble:
            raise Refused(e.reason, f"the log refuses it, and does not hold itself: {trouble}", later=True) from e
        try:
            Admission(follower.state).admit(entry)
        except BrakelineError as mine:
            if not (isinstance(mine, Refused) and mine.reason is Reason.DUPLICATE):
                raise e from None
            raise Refused(e.reason, f"the log refuses what it holds: {e}", later=True) from e
        raise Refused(e.reason, f"the log refuses what this home finds in order: {e}", later=True) from e
