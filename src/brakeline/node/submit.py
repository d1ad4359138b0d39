"""Bring an entry to a log, and believe only a proof that it is there."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from brakeline.core.admission import Admission
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused, Unavailable
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.tlog.policy import Policy
from brakeline.core.tlog.proof import parse_proof, verify_proof
from brakeline.core.tlog.receipt import verify_receipt
from brakeline.node.client import Follower
from brakeline.node.evidence import keep_proof, keep_receipt, receipt_of, shows
from brakeline.node.logclient import LogClient, OutOfReach


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

    Otherwise one lying answer would lose an honest statement: it is refused for `later`, and kept. A log that holds an
    entry and does not publish it in time is asked for a receipt, and held to it, where the follower has a memory.
    """
    client.dial(follower.client.url)
    try:
        index = add_verified(client, lambda size: follower.state.chain.need(size), entry)
    except Refused as e:
        if not e.later:
            _check_refusal(follower, entry, e)
        raise
    except Unavailable as e:
        if follower.memory is not None and not isinstance(e, OutOfReach):
            _check_word(client, follower, follower.memory, entry, e)
        raise
    if follower.memory is not None:
        _broken_word(follower, follower.memory, entry, index)
    return index


def _check_word(client: LogClient, follower: Follower, memory: Path, entry: bytes, late: Unavailable) -> None:
    """Raises Unavailable: the log holds the entry, which is sent again; or has broken its word on it."""
    with suppress(BrakelineError):  # what it does not sign is no promise
        note = client.receipt(entry)
        if note and verify_receipt(note, follower.state.chain.log.key).leaf == leaf_hash(entry):
            keep_receipt(memory, entry, note)
    proof = _broken_word(follower, memory, entry)
    if proof is not None:
        hint = f"{shows(proof)}; the statement is kept, and sent again"
        raise Unavailable("the log has broken its word to publish what it holds", hint=hint) from late


def _broken_word(follower: Follower, memory: Path, entry: bytes, index: int | None = None) -> Path | None:
    """Where the proof is kept that the log has not kept its word on an entry, which may be at `index` now."""
    with suppress(BrakelineError):  # a log that goes on elsewhere, or is out of reach: not now
        kept = receipt_of(memory, entry)
        if kept is None or (promise := verify_receipt(kept, follower.state.chain.log.key)).index == index:
            return None
        follower.update()
        cosigned = follower.cosigned
        assert cosigned is not None
        new = cosigned.checkpoint
        leaves = [leaf_hash(e) for e in follower.client.stream(0, new.size)] if new.size > promise.index else []
        (policy, *_) = follower.state.chain.need(new.size)
        return keep_proof(memory, kept, cosigned.note.encode(), policy, leaves)
    return None


def _check_refusal(follower: Follower, entry: bytes, refused: Refused) -> None:
    """Raises Refused, for later: what the log refused for good is in order as far as is known here."""
    try:
        follower.update()
    except (Refused, Malformed) as trouble:
        text = f"the log refuses it, and does not hold itself: {trouble}"
        raise Refused(refused.reason, text, later=True) from refused
    try:
        Admission(follower.state).admit(entry)
    except BrakelineError as mine:
        if not (isinstance(mine, Refused) and mine.reason is Reason.DUPLICATE):
            return
        raise Refused(refused.reason, f"the log refuses what it holds: {refused}", later=True) from refused
    raise Refused(refused.reason, f"the log refuses what this home finds in order: {refused}", later=True) from refused
