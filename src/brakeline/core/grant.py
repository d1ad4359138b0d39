"""What a permit signer checks, in order, before it signs. Everything comes from its own view of the log."""

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason, Refused
from brakeline.core.fold import MAX_SKEW, Fold
from brakeline.core.permit import Permit, check_shape


def check_request(permit: Permit, fold: Fold, *, view_time: int, now: int) -> None:
    """That `permit` may be signed.

    `view_time` is the quorum time of the signer's newest cosigned checkpoint, `now` its own clock (POSIX s).

    Raises:
        Malformed: a number out of range.
        Refused: FOREIGN, ALLOWANCE, STALE, TAMPERED, EXPIRED, NOT_YET_VALID, PAUSED, REPLAYED, UNDECLARED, BARRED,
            PROHIBITED, MISSING: see the rule cited in the text.
    """
    treaty = fold.treaty
    check_shape(permit, treaty)
    # Treaty 6.4: a signer cut off from the log knows nothing, so it signs nothing.
    if now - view_time > treaty.stale_after:
        raise Refused(Reason.STALE, f"my newest checkpoint is {now - view_time} s old (Treaty 6.4)")
    # Treaty 6.3: while the log records no time, votes look as if they came from the future and do not count.
    if view_time - fold.clock > treaty.stale_after + treaty.heartbeat:
        raise Refused(Reason.STALE, f"the log has recorded no time for {view_time - fold.clock} s (Treaty 6.3)")
    if permit.size > fold.size:
        raise Refused(Reason.STALE, f"I have seen {fold.size} entries, not {permit.size}")
    if permit.root != fold.roots[permit.size].hex():
        raise Refused(Reason.TAMPERED, "that root is not in my view of the log")
    if permit.issued > now + MAX_SKEW or permit.issued > view_time + MAX_SKEW:
        raise Refused(Reason.NOT_YET_VALID, "issued in the future")
    if permit.expires <= now:
        raise Refused(Reason.EXPIRED, "already expired")
    state = fold.brake
    if state.phase is not Phase.CLEAR:  # Treaty 4.6
        raise Refused(Reason.PAUSED, f"the brake is {state.phase} in epoch {state.epoch}: {state.cause}")
    if permit.epoch != state.epoch:  # Treaty 5.5
        raise Refused(Reason.REPLAYED, f"request of epoch {permit.epoch} in epoch {state.epoch}")
    run = fold.run(permit.run)  # Treaty 7.1
    if run.barred:  # Treaty 5.6
        raise Refused(Reason.BARRED, f"barred: {run.barred}")
    if run.held and not fold.audited(run):  # Treaty 5.7
        raise Refused(Reason.MISSING, "the run was not settled before the lift: it waits for its audit (Treaty 5.7)")
    if unread := fold.unread(run):  # Treaty 5.8
        raise Refused(Reason.MISSING, f"no safety reading lets a successor of {unread[0][:16]}… train (Treaty 5.8)")
    if run.lineage_flop > treaty.prohibited_above:  # Treaty 3.3
        raise Refused(Reason.PROHIBITED, f"{run.lineage_flop} FLOP over its lineage exceed the treaty's limit")
    if run.last is None or run.last.status not in ("opened", "running"):  # Treaty 7.2
        raise Refused(Reason.MISSING, "the run has not logged where it stands: log an opening head first")
    done = run.last.steps * run.declaration.step_flop
    # Treaty 5.4: counted from the last logged head, so hoarding permits buys nothing.
    if permit.limit > done + treaty.permit_allowance:
        raise Refused(Reason.ALLOWANCE, f"asks for {permit.limit - done} FLOP beyond the last head (Treaty 5.4)")
    if permit.limit > run.declaration.total_flop:
        raise Refused(Reason.ALLOWANCE, "asks for more than the run declared")
