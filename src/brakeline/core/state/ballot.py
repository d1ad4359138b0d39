"""Votes, and what moves the brake: `brake.TRANSITIONS` is the table, and here is what each event takes.

Two rules are easily got wrong.

**When have all permits lapsed?** A signer may have granted a last permit on a view that was not yet stale, and that
view need not have shown the trip. The log's own time at the trip is no bound for it: stamps may be late, so the trip
may look older than it is. The first stamp over the trip, at t, is one. A signer that has not seen the trip has seen
no stamp later than t, so that its checkpoint is no later than t + `stale_after` + `heartbeat` (Treaty 6.3), and its
clock no later than `stale_after` beyond that (Treaty 6.4): witnesses may have dated an old tree anew. Then a permit
lives for its lifetime, and clocks may differ. Before that stamp nothing has lapsed. A text that is no longer in force
may have longer permits: they count until they have run out, too.

**What answers what?** A trip answers the votes for it; a lift answers what stood in the log when people voted to lift;
a release answers all that was said before it. What is answered never counts again, or the brake would trip for ever on
the reading that it has been lifted over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from brakeline.core import brake as b
from brakeline.core.brake import BrakeState, Phase, Vote
from brakeline.core.errors import Reason, Refused
from brakeline.core.reading import trips
from brakeline.core.state import readings as r
from brakeline.core.state import runs as u
from brakeline.core.state.events import (
    ByFinding,
    ByReadings,
    ByReopening,
    ByVotes,
    Cause,
    Cleared,
    Event,
    Lifting,
    Paused,
    Tripped,
    Withheld,
)
from brakeline.core.state.members import Members
from brakeline.core.state.readings import Readings
from brakeline.core.state.runs import Runs
from brakeline.core.statement import Statement
from brakeline.core.treaty import Treaty
from brakeline.core.treaty.values import SKEW


class Upheld(msgspec.Struct, frozen=True, gc=False):
    """A finding that was upheld at `entry`, and no lift has answered yet."""

    entry: int
    cause: ByFinding


class Ballot(msgspec.Struct, frozen=True, gc=False):
    """The brake, the votes that stand (party → expiry, POSIX s), and what has been answered.

    `cause` is why the brake tripped last, at entry `tripped`. `lapse` is when every permit of before the trip has
    lapsed (POSIX s), -1 while that is not known; `paused` when the present pause began. Readings and findings up to
    entry `answered` do not trip the brake again.
    """

    brake: BrakeState = b.START
    cause: Cause | None = None
    trip: Mapping[str, int] = {}
    lift: Mapping[str, int] = {}
    tripped: int = -1
    lapse: int = -1
    paused: int = 0
    answered: int = -1
    upheld: tuple[Upheld, ...] = ()

    @property
    def phase(self) -> Phase:
        return self.brake.phase

    def without(self, party: str) -> "Ballot":
        """The ballot without the party's votes."""
        return msgspec.structs.replace(
            self,
            trip={p: e for p, e in self.trip.items() if p != party},
            lift={p: e for p, e in self.lift.items() if p != party},
        )


class Obstacle(msgspec.Struct, frozen=True, gc=False):
    """What is in the way of a lift. `subject` is a run's id or a gauge; `until`: POSIX s at which it ends by itself."""

    what: str  # "running" | "unsettled" | "gauge"
    subject: str
    until: int


def vote(ballot: Ballot, s: Statement, v: Vote) -> Ballot:
    """Raises:
    Refused(REPLAYED): the vote is for another epoch.
    """
    epoch = ballot.brake.epoch
    if v.epoch != epoch:
        raise Refused(Reason.REPLAYED, f"vote for epoch {v.epoch}; the brake is in epoch {epoch}")
    ballot = ballot.without(s.issuer)  # a vote for one motion takes back that for the other
    votes: Mapping[str, int] = getattr(ballot, v.motion)
    return msgspec.structs.replace(ballot, **{v.motion: {**votes, s.issuer: s.expires}})


def voters(votes: Mapping[str, int], members: Members, time: int) -> frozenset[str]:
    """Parties in force, with a seat, whose unexpired vote stands."""
    voice = members.voice
    return frozenset(p for p, expires in votes.items() if time < expires and p in voice)


def uphold(treaty: Treaty, ballot: Ballot, entry: int, cause: ByFinding) -> Ballot:
    """The ballot with a finding that may trip the brake. Treaty 4.4."""
    if not treaty.findings_trip or any(x.entry > ballot.answered for x in ballot.upheld):
        return ballot  # one unanswered finding trips as well as two
    return msgspec.structs.replace(ballot, upheld=(Upheld(entry, cause),))


def stamped(texts: Sequence[tuple[Treaty, int]], ballot: Ballot, size: int, time: int, least: int) -> Ballot:
    """The ballot after a stamp of `size` entries at `time`. Treaty 4.5; see the module's text.

    `least` is as `Chain.lapse`.

    `texts` are those in force so far, each with the time of the stamp at which the next one began, or else `time`: who
    has not seen that stamp may have granted by the old text (Treaty 11.4).
    """
    if ballot.lapse >= 0 or ballot.phase is Phase.CLEAR or size <= ballot.tripped:
        return ballot
    lapse = max(
        min(time, end) + 2 * t.stale_after + t.heartbeat + t.permit_lifetime for t, end in texts
    )
    return msgspec.structs.replace(ballot, lapse=max(lapse, least) + SKEW)


def lapsed(ballot: Ballot, time: int) -> bool:
    """Whether every permit of before the trip has lapsed at the log's own time."""
    return 0 <= ballot.lapse <= time


def held_back(treaty: Treaty, ballot: Ballot, time: int) -> bool:
    """Whether the pause has lasted long enough that nothing unsettled holds up a lift. Treaty 8.4."""
    return time >= ballot.paused + treaty.settle_within


def unmet(
    treaty: Treaty, ballot: Ballot, members: Members, runs: Runs, readings: Readings, time: int
) -> tuple[str, ...]:
    """Lift conditions that do not hold. Treaty 8.2, 8.4."""
    found: list[str] = []
    if "stopped" in treaty.lift_conditions and not lapsed(ballot, time) and u.count(runs, members.active, "running"):
        # Who never logs a stop must not block a lift: once its last permit has lapsed, it counts as stopped.
        found.append("stopped")
    unsettled = "audited" in treaty.lift_conditions and not held_back(treaty, ballot, time)
    if unsettled and u.count(runs, members.active, "unsettled"):
        found.append("audited")
    if "readings" in treaty.lift_conditions and r.reached(treaty, readings, active=members.voice):
        found.append("readings")
    return tuple(found)


def _cause(treaty: Treaty, ballot: Ballot, members: Members, readings: Readings, time: int) -> Cause | None:
    who = voters(ballot.trip, members, time)
    if len(who) >= treaty.trip:  # Treaty 4.1
        return ByVotes(tuple(sorted(who)))
    # Who votes to lift knows what stands in the log; only what is logged after it trips the brake again.
    triggers = r.reached(treaty, readings, active=members.voice, after=ballot.answered)
    if trips(triggers):
        return ByReadings(tuple(t.gauge for t in triggers))
    return next((x.cause for x in ballot.upheld if x.entry > ballot.answered), None)  # Treaty 4.4


def advance(
    treaty: Treaty,
    ballot: Ballot,
    members: Members,
    runs: Runs,
    readings: Readings,
    *,
    entry: int,
    time: int,
    turning: bool = False,
) -> tuple[Ballot, Runs, tuple[Event, ...]]:
    """Move the brake as far as it goes at this entry; nothing goes nearer to clear where a text turns. Treaty 11.4."""
    events: list[Event] = []

    def move(ballot: Ballot, event: b.Event, **changes: object) -> Ballot:
        return msgspec.structs.replace(ballot, brake=b.step(ballot.brake, event, now=time), **changes)

    while True:
        match ballot.phase:
            case Phase.CLEAR | Phase.LIFTING if cause := _cause(treaty, ballot, members, readings, time):
                # A trip answers the votes for it: none counts twice. Permits of before are alive until `lapse`.
                ballot = move(ballot, b.Event.TRIP, cause=cause, trip={}, lift={}, tripped=entry, lapse=-1, upheld=())
                events.append(Tripped(entry=entry, cause=cause, epoch=ballot.brake.epoch, time=time))
            case Phase.LIFTING if not _may_lift(treaty, ballot, members, runs, readings, time):
                ballot = move(ballot, b.Event.WITHHELD)
                events.append(Withheld(entry=entry, time=time))
            case _ if turning:
                return ballot, runs, tuple(events)
            case Phase.TRIPPED if lapsed(ballot, time) or _all_stopped(ballot, members, runs):  # Treaty 4.5
                ballot = move(ballot, b.Event.STOPPED, paused=time)
                events.append(Paused(entry=entry, time=time))
            case Phase.PAUSED if _may_lift(treaty, ballot, members, runs, readings, time):  # Treaty 8.1, 8.2
                who = tuple(sorted(voters(ballot.lift, members, time)))
                ballot = move(ballot, b.Event.LIFT, answered=entry)
                events.append(Lifting(entry=entry, time=time, parties=who))
            case Phase.LIFTING if time >= ballot.brake.since + treaty.lift_delay:  # Treaty 8.3
                ballot = move(ballot, b.Event.RELEASED, trip={}, lift={}, answered=entry, upheld=())
                runs, held = hold(treaty, runs, members)
                events.append(Cleared(entry=entry, time=time, held=held))
            case _:
                return ballot, runs, tuple(events)


def _all_stopped(ballot: Ballot, members: Members, runs: Runs) -> bool:
    """Whether every run says so. Treaty 11.9: what the old log held last was lost, and may have opened one."""
    return not isinstance(ballot.cause, ByReopening) and not u.count(runs, members.active, "running")


def reopened(ballot: Ballot, cause: ByReopening, epoch: int, *, entry: int, time: int) -> Ballot:
    """The brake is on, in an epoch above its own and above `epoch`, and every permit has yet to lapse. Treaty 11.9.

    Findings and votes of before are answered by it, as by any trip.
    """
    brake = b.step(replace(ballot.brake, epoch=max(epoch, ballot.brake.epoch)), b.Event.REOPENED, now=time)
    return msgspec.structs.replace(
        ballot, brake=brake, cause=cause, trip={}, lift={}, tripped=entry, lapse=-1, upheld=()
    )


def _may_lift(
    treaty: Treaty, ballot: Ballot, members: Members, runs: Runs, readings: Readings, time: int
) -> bool:
    if len(voters(ballot.lift, members, time)) < treaty.lift:
        return False
    return not unmet(treaty, ballot, members, runs, readings, time)


def hold(treaty: Treaty, runs: Runs, members: Members) -> tuple[Runs, tuple[str, ...]]:
    """Hold back, alone, every run that is not settled when the brake is released. Treaty 5.7, 8.4."""
    held: list[str] = []
    for run in sorted(runs.by_id.values(), key=lambda run: run.index):
        concerned = run.covered and u.concerned(run, members.active, Phase.LIFTING)
        unsettled = concerned and "audited" in treaty.lift_conditions and run.settlement != "settled"
        if unsettled:
            held.append(run.id)
        if unsettled != run.held:
            runs = runs.put(treaty, msgspec.structs.replace(run, held=unsettled))
    return runs, tuple(held)
