"""What a permit signer checks, in order, before it signs, and what a lab may ask for, from its own view of the log."""

from collections.abc import Mapping
from typing import Final, Literal

from brakeline.core import words
from brakeline.core.brake import Phase, Vote
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.permit import Permit, check_permit, check_shape, read_permit
from brakeline.core.state import State
from brakeline.core.state.ballot import voters
from brakeline.core.state.readings import passes
from brakeline.core.state.runs import Run, unread
from brakeline.core.state.said import authenticate, read
from brakeline.core.statement import Envelope
from brakeline.core.treaty import Treaty
from brakeline.core.treaty.values import SKEW

_ANCESTORS: Final = 4096  # that are looked at for a permit


def limit_of(state: State, run: Run) -> int:
    """The most compute, in FLOP since the run's start, that a permit for it may allow now. Treaty 5.4.

    Counted from the last logged head, so hoarding permits buys nothing.
    """
    done = run.steps * run.declaration.step_flop
    return min(done + state.treaty.permit_allowance, run.declaration.total_flop)


def request(state: State, run: Run, *, time: int, nonce: str) -> Permit:
    """The largest permit that a lab may ask for at this state; `time` is its checkpoint's quorum time (POSIX s)."""
    treaty = state.treaty
    return Permit(
        treaty=state.ground.digest,
        run=run.id,
        epoch=state.epoch,
        size=state.size,
        root=state.root().hex(),
        issued=time,
        expires=time + treaty.permit_lifetime,
        flop_limit=str(limit_of(state, run)),
        nonce=nonce,
    )


def check_request(permit: Permit, state: State, *, view_time: int, now: int) -> None:
    """That `permit` may be signed.

    `view_time` is the quorum time of the signer's newest cosigned checkpoint, `now` its own clock (POSIX s).

    Raises:
        Malformed: a number out of range.
        Refused: FOREIGN, ALLOWANCE, STALE, TAMPERED, EXPIRED, NOT_YET_VALID, PAUSED, REPLAYED, UNDECLARED, BARRED,
            PROHIBITED, MISSING: see the rule cited in the text.
    """
    treaty = state.treaty
    check_shape(permit, treaty)
    # Treaty 6.4: a signer cut off from the log knows nothing, so it signs nothing.
    if stands_still(state, view_time=view_time, now=now):
        raise Refused(Reason.STALE, f"my newest checkpoint is {now - view_time} s old (Treaty 6.4)")
    # Treaty 6.3: while the log records no time, votes look as if they came from the future and do not count.
    if view_time - state.time > treaty.stale_after + treaty.heartbeat:
        raise Refused(Reason.STALE, f"the log has recorded no time for {view_time - state.time} s (Treaty 6.3)")
    if permit.size > state.size:
        raise Refused(Reason.STALE, f"I have seen {state.size} entries, not {permit.size}")
    try:
        root = state.root(permit.size)
    except Misuse as e:
        raise Refused(Reason.STALE, f"asked at {permit.size} entries: too old a view", later=True) from e
    if permit.root != root.hex():
        raise Refused(Reason.TAMPERED, "that root is not in my view of the log")
    if permit.issued > now + SKEW or permit.issued > view_time + SKEW:
        raise Refused(Reason.NOT_YET_VALID, "issued in the future")
    if permit.expires <= now:
        raise Refused(Reason.EXPIRED, "already expired")
    if state.phase is not Phase.CLEAR:  # Treaty 4.6
        why = words.cause(state.ballot.cause)
        raise Refused(Reason.PAUSED, f"the brake is {state.phase} in epoch {state.epoch}: {why}")
    if permit.epoch != state.epoch:  # Treaty 5.5
        raise Refused(Reason.REPLAYED, f"request of epoch {permit.epoch} in epoch {state.epoch}")
    run = state.run(permit.run)  # Treaty 7.1
    if run.bar:  # Treaty 5.6
        raise Refused(Reason.BARRED, f"barred: {words.bar(run.bar)}")
    if source := tainted(state, run):  # Treaty 5.6, 5.7
        raise Refused(Reason.BARRED, f"it descends from {source.name}, which is barred or not settled (Treaty 5.6)")
    if run.held and run.settlement != "settled":  # Treaty 5.7
        raise Refused(Reason.MISSING, "the run was not settled before the lift: it waits for its audit (Treaty 5.7)")
    if waits := unread_parents(state, run):  # Treaty 5.8
        raise Refused(Reason.MISSING, f"no safety reading lets a successor of {waits[0][:16]}… train (Treaty 5.8)")
    if run.prohibited:  # Treaty 3.3
        raise Refused(Reason.PROHIBITED, f"{run.lineage} FLOP over its lineage: it is in a tier that is prohibited")
    if run.head is None or run.head.status not in ("opened", "running"):  # Treaty 7.2
        raise Refused(Reason.MISSING, "the run has not logged where it stands: log an opening head first")
    done = run.steps * run.declaration.step_flop
    if permit.limit > done + treaty.permit_allowance:  # Treaty 5.4
        raise Refused(Reason.ALLOWANCE, f"asks for {permit.limit - done} FLOP beyond the last head (Treaty 5.4)")
    if permit.limit > run.declaration.total_flop:
        raise Refused(Reason.ALLOWANCE, "asks for more than the run declared")


def stands_still(state: State, *, view_time: int, now: int) -> bool:
    """Whether a view of the log is too old to act on: there is no news of it. Treaty 6.4."""
    return now - view_time > state.treaty.stale_after


def clock_off(treaty: Treaty, *, view_time: int, now: int) -> int:
    """Seconds that a clock is ahead of a log's newest cosigned time, or behind it where negative; 0 where that is no
    more than honest clocks and a log that goes on may differ. Treaty 6.3, 6.4.
    """
    off = now - view_time
    return 0 if -SKEW <= off <= treaty.heartbeat + treaty.stale_after + SKEW else off


def open_past(state: State, data: bytes) -> tuple[Permit, Envelope]:
    """A permit that was given some time, by the text and the keys that were in force where it was asked for.

    Raises as `open_permit`.
    """
    permit, envelope = read_permit(data)
    size = max(0, permit.size)  # below, it is no permit by any text
    text = state.chain.at(size).treaty
    check_permit(permit, envelope, text, state.keyring.signers_at(text, size))
    return permit, envelope


def stance(state: State, run: Run) -> Literal["open", "ask", "shut"]:
    """What a run's gate does at this state: stand open without permits, ask for one, or shut. Treaty 2.2, 4.5, 5.1."""
    if not state.concerned(run):
        return "open"
    return "shut" if run.bar or state.phase is not Phase.CLEAR else "ask"


def tainted(state: State, run: Run) -> Run | None:
    """An ancestor that gets no permit itself: barred, or held back and not settled. Treaty 5.6: under no other name."""
    seen: set[str] = set()
    todo = list(run.declaration.parents)
    while todo and len(seen) < _ANCESTORS:
        id_ = todo.pop()
        if id_ in seen:
            continue
        seen.add(id_)
        parent = state.run(id_)
        if parent.bar or (parent.held and parent.settlement != "settled"):
            return parent
        todo += parent.declaration.parents
    return None


def check_hope(state: State, run: Run) -> None:
    """That a permit for this run may be had some day.

    Raises:
        Refused: BARRED (Treaty 5.6), PROHIBITED (Treaty 3.3), ALLOWANCE (Treaty 5.4): waiting for one is in vain.
    """
    if run.bar:
        raise Refused(Reason.BARRED, f"{run.name} is barred: {words.bar(run.bar)} (Treaty 5.6)")
    if run.prohibited and state.concerned(run):
        tiers = ", ".join(run.tiers)
        raise Refused(Reason.PROHIBITED, f"{run.name} gets no permit: it is in the tier {tiers} (Treaty 3.3)")
    step, most = run.declaration.step_flop, state.treaty.permit_allowance
    if step > most and run.covered:
        text = f"a step of {run.name} takes {step} FLOP; no permit allows more than {most} (Treaty 5.4)"
        raise Refused(Reason.ALLOWANCE, text)


def unread_parents(state: State, run: Run) -> tuple[str, ...]:
    """Parents that made no model, or one without a safety reading that lets a successor train. Treaty 5.8."""
    return tuple(
        parent
        for parent, models in unread(state.treaty, state.runs, run)
        if not models or not all(passes(state.treaty, state.readings, x, active=state.voice) for x in models)
    )


# ---- votes that the log may hide ----


def is_trip(kind: str, body: object) -> bool:
    """Whether permit signers heed this statement before the log shows it. Treaty 4.7."""
    return kind == "vote" and isinstance(body, Vote) and body.motion == "trip"


def held_vote(state: State, envelope: bytes) -> tuple[str, Vote, int]:
    """The party, vote and expiry (POSIX s) of a vote to trip that a signer is shown.

    Treaty 4.7: whatever date it bears. Its number may be one that the log has passed: whoever keeps the log may have
    logged a later statement to hide this one.

    Raises:
        Malformed, Refused: not a vote to trip, by a party that is entitled to it, for this epoch or the next.
    """
    said = authenticate(state, envelope)
    if said.kind != "vote":
        raise Refused(Reason.FOREIGN, "a permit signer holds votes to trip, nothing else")
    vote = read(state, said)
    if not isinstance(vote, Vote) or vote.motion != "trip":
        raise Refused(Reason.FOREIGN, "a permit signer holds votes to trip, nothing else")
    if vote.epoch not in (state.epoch, state.epoch + 1):
        raise Refused(Reason.REPLAYED, f"a vote for epoch {vote.epoch}; the brake is in epoch {state.epoch}")
    if said.statement.expires <= state.time:
        raise Refused(Reason.EXPIRED, f"expired at {said.statement.expires}; the log's time is {state.time}")
    return said.issuer, vote, said.statement.expires


def unlogged(state: State, held: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
    """Of the votes held, as `check_votes` has them, those for this epoch that the log does not count. Treaty 4.7

    Whoever cast one and keeps it from the log would hold up every permit until it expires, and no lift could end it.
    """
    counted = voters(state.ballot.trip, state.members, state.time)
    return sorted(k for k in held if k[1] == state.epoch and k[0] not in counted | state.members.equivocators)


def check_votes(state: State, held: Mapping[tuple[str, int], int], now: int) -> None:
    """Treaty 4.7: with f+1 votes in hand no permit is signed, even if the log's keeper hides some of them.

    `held` maps party and epoch to when its vote expires (POSIX s).

    Raises:
        Refused(PAUSED): they suffice.
    """
    hidden = {party for (party, epoch), expires in held.items() if epoch == state.epoch and now < expires}
    hidden &= state.voice - state.members.equivocators
    who = hidden | voters(state.ballot.trip, state.members, state.time)
    if hidden and len(who) >= state.treaty.trip:
        raise Refused(Reason.PAUSED, f"votes to trip of {', '.join(sorted(who))} were shown to me (Treaty 4.7)")
