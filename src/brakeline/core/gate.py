"""The gate: may this run take its next optimizer step? It decides offline, from the last permit it admitted.

Time here is a monotonic clock in nanoseconds that goes on while the machine sleeps. Wall clocks are never read: a
permit lives `expires - issued` from the moment it was *asked for*, and its nonce proves that it is no older than the
question. Setting a clock back buys nothing; replaying an old permit fails on the nonce.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from brakeline.core.brake import Phase
from brakeline.core.encoding import unhex32
from brakeline.core.errors import Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.permit import open_permit
from brakeline.core.run import Declaration
from brakeline.core.treaty import Treaty

NO_PERMIT: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class GateState:
    """`deadline` in monotonic ns; `permit` is the SHA-256 of the permit in force. `halted` says why it is shut."""

    run: str
    epoch: int = 0
    size: int = 0
    deadline: int = 0
    flop_limit: int = 0
    permit: bytes = NO_PERMIT
    halted: str = "no permit yet"


@dataclass(frozen=True, slots=True)
class Decision:
    """True when the step may be taken; otherwise `reason` says why not."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Status:
    """What a gate knows of its run, for whoever shows it. The last three are zero where no permit is in force.

    `decision` is about the next step. `seconds` are those until the permit lapses, `flop_limit` is what it reaches to.
    """

    run: str
    declaration: Declaration
    phase: Phase
    decision: Decision
    permit: bytes
    seconds: float
    flop_limit: int


_GO: Final = Decision(True, "")


def decide(state: GateState, *, now: int, flop: int) -> Decision:
    """Whether a step may be taken at `now` (ns) that brings the run's compute to `flop`. Treaty 5.1."""
    if state.halted:
        return Decision(False, state.halted)
    if now >= state.deadline:  # Treaty 5.3
        return Decision(False, "permit lapsed")
    if flop > state.flop_limit:  # Treaty 5.4
        return Decision(False, "compute allowance used up")
    return _GO


def status(state: GateState, declaration: Declaration, phase: Phase, *, now: int, steps: int) -> Status:
    """What is known at `now` (ns) with `steps` done, where the brake is in `phase`."""
    decision = decide(state, now=now, flop=(steps + 1) * declaration.step_flop)
    if state.halted or now >= state.deadline or state.permit == NO_PERMIT:
        return Status(state.run, declaration, phase, decision, NO_PERMIT, 0.0, 0)
    seconds = (state.deadline - now) / 1e9
    return Status(state.run, declaration, phase, decision, state.permit, seconds, state.flop_limit)


def is_due(state: GateState, treaty: Treaty, *, now: int, flop: int) -> bool:
    """Whether it is time to ask for the next permit, with `flop` done: half of its time or its compute is used up."""
    left = state.deadline - now
    low = state.flop_limit - flop < treaty.permit_allowance // 2
    return bool(state.halted) or left < treaty.permit_lifetime * 500_000_000 or low


def is_worth(state: GateState, treaty: Treaty, *, now: int, limit: int) -> bool:
    """Whether a permit up to `limit` FLOP would bring anything: the allowance cannot grow before the next head."""
    fresh = state.deadline - now > treaty.permit_lifetime * 500_000_000
    return not (fresh and limit == state.flop_limit)


def admit(
    state: GateState, data: bytes, treaty: Treaty, signers: Mapping[PublicKey, str], *, nonce: str, asked_at: int
) -> GateState:
    """Take a permit into force. `signers` as for `open_permit`.

    Raises:
        Refused: FORGED, NO_QUORUM, FOREIGN (another treaty or run), REPLAYED (another nonce), ROLLBACK (an epoch, or in
            one epoch a log, smaller than one seen before). The state given stays in force.
    """
    permit, envelope = open_permit(data, treaty, signers)
    if permit.run != state.run:
        raise Refused(Reason.FOREIGN, "the permit is for another run")
    if permit.nonce != nonce:
        raise Refused(Reason.REPLAYED, "the permit does not answer this request")
    # Treaty 5.5; a log that was reopened may be smaller, in a later epoch (Treaty 11.9).
    if (permit.epoch, permit.size) < (state.epoch, state.size):
        raise Refused(Reason.ROLLBACK, "the permit is older than one already seen")
    return GateState(
        run=state.run,
        epoch=permit.epoch,
        size=permit.size,
        deadline=asked_at + (permit.expires - permit.issued) * 1_000_000_000,
        flop_limit=permit.limit,
        permit=unhex32(envelope.digest),
        halted="",
    )


def halt(state: GateState, *, epoch: int, reason: str) -> GateState:
    """Shut the gate at once: the brake is on in the log. Only a permit of this epoch or a later one opens it."""
    return replace(state, epoch=max(epoch, state.epoch), halted=reason)


def stand_open(state: GateState, *, until: int) -> GateState:
    """For a run that the treaty does not bind: open until the monotonic time `until` (ns), with no permit to name."""
    return replace(state, deadline=until, flop_limit=2**128, permit=NO_PERMIT, halted="")
