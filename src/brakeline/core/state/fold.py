"""The fold: `apply(state, entry) -> (state, events)`, the same for everybody who has the log.

An entry is a signed statement, or a stamp. Nothing in a log can make the fold raise: an entry that is not acceptable
has no effect, and the event says why. What is checked goes from the cheap to the dear: the envelope's grammar, the
signature, and only then what the signed bytes say, so that only parties can make anybody work.

Who may see a different result? Nobody: all that counts is the bytes up to a cosigned checkpoint and its quorum time,
and the rules that the treaty names.
"""

from collections.abc import Callable, Iterable

import msgspec

from brakeline.core import evidence as ev
from brakeline.core import kinds
from brakeline.core.brake import Phase, Vote
from brakeline.core.duty import Incident, Notice, Report, Request
from brakeline.core.encoding import Wire, sha256, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.evidence import Evidence
from brakeline.core.finding import Answer, Audit, Retraction
from brakeline.core.lineage import Edge
from brakeline.core.pledge import Assent, Pledge, Withdrawal
from brakeline.core.reading import Reading, Standing, check_reading
from brakeline.core.reopening import KIND, MARK
from brakeline.core.run import Declaration, Designation, Move
from brakeline.core.snapshot import Snapshot
from brakeline.core.state import audits, ballot, dues, labs, members, readings, reopen, succeed, tiers
from brakeline.core.state import events as e
from brakeline.core.state import keyring as k
from brakeline.core.state.chain import without
from brakeline.core.state.clock import Fork
from brakeline.core.state.events import Event
from brakeline.core.state.runs import Run
from brakeline.core.state.said import (
    Said,
    authenticate,
    check_depth,
    check_in_force,
    near_budget,
    number,
    read,
    rekeyed,
)
from brakeline.core.state.state import State, begin
from brakeline.core.statement import open_envelope
from brakeline.core.succession import Amend, KeyChange, Revocation
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.transcript import Head
from brakeline.core.treaty import Treaty

Step = tuple[State, tuple[Event, ...]]


def apply(state: State, data: bytes) -> Step:
    """Take the next entry. Never raises for what the entry contains."""
    index, leaf, before = state.size, leaf_hash(data), state
    kind, issuer, run, events, numbering = "", "", "", list[Event](), False
    try:
        if not data.startswith(b"{"):
            kind = "stamp"
            state, new = _stamp(state, index, data)
            events += new
        elif MARK in data and state.treaty.amends:
            kind = KIND
            state, new = _reopen(state, index, data)
            events += new
        else:
            said = authenticate(state, data, index, leaf)
            kind, issuer, numbering = said.kind, said.issuer, True
            state, refused = number(state, said)
            if refused:
                raise refused
            numbering = False
            events += near_budget(state, said)
            body = read(state, said)
            state, new = _effect(state, said, body)
            events += (e.Entered(entry=index, kind=kind, issuer=issuer, digest=said.digest), *new)
            run = said.digest if isinstance(body, Declaration) else body.run if isinstance(body, Head) else ""
    except Refused as err:
        unjudged = numbering and err.reason not in (Reason.DUPLICATE, Reason.EQUIVOCATION)
        void = e.Void(entry=index, kind=kind, issuer=issuer, reason=err.reason, text=str(err), unjudged=unjudged)
        events.append(void)
        if isinstance(err, Fork):
            state = _with(state, clock=msgspec.structs.replace(state.clock, forks=state.clock.forks + 1))
            events.append(e.Forked(entry=index, note=err.note))
        elif isinstance(err, members.Twice) and issuer not in state.members.equivocators:
            state, new = _equivocate(state, index, issuer, err.first, err.second)
            events += new
    except BrakelineError as err:
        reason = Reason.MALFORMED
        events.append(e.Void(entry=index, kind=kind, issuer=issuer, reason=reason, text=str(err)))
    state, new = _advance(before, _with(state, clock=state.clock.append(leaf, run)), index)
    return state, (*events, *new)


def replay(treaty: Treaty, entries: Iterable[bytes]) -> tuple[State, list[Event]]:
    """The state after a whole log, and all that happened."""
    state, events = begin(treaty), list[Event]()
    for entry in entries:
        state, new = apply(state, entry)
        events += new
    return state, events


def _with(state: State, **parts: object) -> State:
    return msgspec.structs.replace(state, **parts)


def _effect(state: State, said: Said, body: Wire) -> Step:
    index, issuer, s = said.entry, said.issuer, said.statement
    treaty, time = state.treaty, state.time
    match body:
        case Assent():
            return succeed.assent(state, index, s, body), ()
        case Amend():
            return succeed.amend(state, index, issuer, body)
        case KeyChange():
            changed, news = succeed.change_key(state, index, issuer, body, itself=said.rekeys)
            return (rekeyed(changed, said) if said.rekeys else changed), news
        case Revocation():
            return succeed.revoke(state, index, issuer, body)
        case Pledge():
            return _with(state, members=members.pledge(treaty, state.members, index, s, body)), ()
        case Withdrawal():
            return _with(state, members=members.withdraw(treaty, state.members, s, time)), ()
        case Vote():
            if body.motion == "lift":
                check_in_force(state, said)
            box = ballot.vote(state.ballot, s, body)
            keyring = k.voted(state.keyring, issuer, index) if treaty.amends else state.keyring
            return _with(state, ballot=box, keyring=keyring), ()
        case Evidence():
            return _evidence(state, index, body)
        case Reading():
            check_reading(body, treaty)
            standing = Standing(index, time, s.expires, body)
            after, against = readings.add(treaty, state.readings, issuer, standing, active=state.voice)
            clash = [
                e.Disagreed(entry=index, gauge=body.gauge, subject=body.subject, first=other, second=(issuer, index))
                for other in against
            ]
            return _with(state, readings=after), (e.Read(entry=index, party=issuer, reading=body), *clash)
        case Declaration():
            return _declare(state, said, body)
        case Edge():
            told = e.Told(entry=index, child=body.child, run=body.run, issuer=issuer, edge=body)
            return _with(state, runs=labs.edge(state.runs, index, issuer, body)), (told,)
        case Head():
            return _head(state, said, body)
        case Move():
            shifted = e.Shifted(entry=index, run=body.run, steps=body.steps, environment=body.environment)
            return _on_run(state, body.run, lambda r: (labs.move(r, issuer, body), (shifted,)))
        case Audit():
            key = state.key_of(issuer)
            return _on_run(state, body.run, lambda r: audits.take(treaty, r, index, issuer, body, key, time=time))
        case Retraction():
            return _on_run(state, body.run, lambda r: audits.retract(treaty, r, index, issuer, body, time=time))
        case Answer():
            return _on_run(state, body.run, lambda r: audits.answer(treaty, r, index, issuer, body, time=time))
        case Designation():
            return _designate(state, index, issuer, body)
        case Snapshot():
            return _snapshot(state, said, body)
        case _:
            return _duty(state, index, issuer, body)


def _declare(state: State, said: Said, d: Declaration) -> Step:
    bound = said.issuer in state.active
    after, run = labs.declare(
        state.treaty, state.runs, said.digest, said.entry, said.issuer, d, time=state.time, bound=bound
    )
    owed, due = state.dues, tuple[Event, ...]()
    if bound and tiers.by_sum_alone(state.treaty, run):
        owed, due = dues.owe_notice(state.treaty, owed, said.issuer, said.entry, state.time)
    told = e.Declared(entry=said.entry, run=run.id, owner=run.owner, name=d.name, tiers=run.tiers)
    return _with(state, runs=after, dues=owed), (told, *due)


def _head(state: State, said: Said, h: Head) -> Step:
    run = state.run(h.run)
    labs.check_head(state.treaty, run, said.issuer, h)
    phase = state.phase
    concerned = state.concerned(run)
    # Treaty 4.5: what has stopped stays stopped, so that nobody holds up a lift by starting again and again. What was
    # trained before the stop may be committed to at any time: heads wait while the log is away.
    if h.status == "opened" and phase is not Phase.CLEAR and concerned:
        raise Refused(Reason.PAUSED, f"no run goes on while the brake is {phase} (Treaty 4.5)")
    bound = run.owner in state.active
    after = labs.commit(
        state.treaty, state.runs, run, said.entry, said.leaf, h, time=state.time, epoch=state.epoch, bound=bound
    )
    due = concerned and run.covered
    event = e.Committed(
        entry=said.entry, head=h, leaf=said.leaf, time=state.time, epoch=state.epoch, concerned=due
    )
    return _with(state, runs=after), (event,)


def _on_run(
    state: State, id_: str, act: Callable[[Run], tuple[Run, tuple[Event, ...]]]
) -> Step:
    """What an inspector or a lab says about a run, and whether that settles it."""
    before = state.run(id_)
    run, events = act(before)
    after = state.runs.put(state.treaty, run)
    index = state.size
    if before.settlement != "settled" and after.by_id[id_].settlement == "settled" and not run.bar:
        events = (*events, e.Settled(entry=index, run=id_))
    box = state.ballot
    for event in events:
        # Treaty 2.2, 2.3, 4.4: a finding on a run that the brake does not concern stops nobody else's.
        if isinstance(event, e.Barred) and run.brakes and (run.bound or run.owner in state.active):
            box = ballot.uphold(state.treaty, box, index, e.ByFinding(event.run, event.fault, event.segment))
    return _with(state, runs=after, ballot=box), events


def _designate(state: State, index: int, issuer: str, d: Designation) -> Step:
    if issuer not in state.voice:
        raise Refused(Reason.WRONG_ROLE, f"{issuer} is not in force: it decides on no tier (Treaty 3.7)")
    counted = state.voice - state.members.equivocators
    after, decided = tiers.designate(state.treaty, state.runs, issuer, d, counted)
    if not decided:
        return _with(state, runs=after), ()
    run, owed, due = after.by_id[d.run], state.dues, tuple[Event, ...]()
    if run.bound or run.owner in state.active:  # Treaty 2.2: nobody else owes anything
        owed, due = dues.owe_notice(state.treaty, owed, run.owner, index, state.time)
    return _with(state, runs=after, dues=owed), (e.Designated(entry=index, run=d.run, tier=d.tier), *due)


def _snapshot(state: State, said: Said, s: Snapshot) -> Step:
    """Treaty 6.6. What it says is not checked here: who refolds the log compares."""
    check_in_force(state, said)
    unhex32(s.root)
    unhex32(s.state)
    size, what = state.members.by_name[said.issuer].stated
    if not 0 < s.size <= said.entry or s.size % state.treaty.snapshot_every:
        every = state.treaty.snapshot_every
        raise Malformed(f"a state is stated after a multiple of {every} entries that the log holds")
    if s.rules != state.treaty.rules:
        raise Refused(Reason.FOREIGN, f"a state by rules {s.rules}; this log is judged by {state.treaty.rules}")
    if s.size < size:
        raise Refused(Reason.REPLAYED, f"{said.issuer} has stated the state at {size} entries already")
    mine = f"{s.root} {s.state}"
    if s.size == size and mine != what and ev.same_log(s.root, what.split(" ")[0], s.size, state.chain.reopened):
        return _equivocate(state, said.entry, said.issuer, what, mine)
    event = e.Stated(entry=said.entry, signer=said.issuer, size=s.size, root=s.root, state=s.state)
    return _with(state, members=state.members.put(said.issuer, stated=(s.size, mine))), (event,)


def _duty(state: State, index: int, issuer: str, body: Wire) -> Step:
    treaty, time = state.treaty, state.time
    match body:
        case Incident():
            owed, events = dues.incident(treaty, state.dues, issuer, index, body, time)
        case Request():
            owed, events = dues.request(treaty, state.dues, issuer, index, body, time)
        case Notice() | Report():
            owed, events = dues.meet(state.dues, issuer, index, body, time)
        case _:
            raise AssertionError(f"no effect is written for {type(body).__name__}")
    return _with(state, dues=owed), events


def _evidence(state: State, index: int, body: Evidence) -> Step:
    """Treaty 2.4. Whoever brings it need not be believed: both envelopes are verified here."""
    if not body.first.startswith("{"):
        return _cosigned_again(state, index, body)
    one, two = ev.read(body)
    for envelope in (one, two):
        check_depth(envelope.payload)
    # With a key that counts no more anybody may have signed: it proves nothing against its owner. Treaty 12.2
    speaker = state.keyring.speaker(one.signatures[0][0])
    if speaker is None:
        raise Refused(Reason.UNKNOWN_ISSUER, "evidence of a party that the treaty does not know")
    texts = frozenset(t.ground.digest for t in state.chain.texts)
    first, second = (ev.verified(x, speaker.key, texts, speaker.party) for x in (one, two))
    lanes = {kinds.lane_of(x.kind, state.treaty.rules) for x in (one, two)}
    twice = len(lanes) == 1 and first.seq == second.seq and (one.kind, first) != (two.kind, second)
    states = one.kind == two.kind == "snapshot" and ev.contradict(first, second, state.chain.reopened)
    if not twice and not states:
        raise Malformed("the two statements can both be meant: they prove nothing")
    if speaker.party in state.members.equivocators:
        raise Refused(Reason.DUPLICATE, f"{speaker.party} is known to have equivocated")
    return _equivocate(state, index, speaker.party, one.what, two.what)


def _cosigned_again(state: State, index: int, body: Evidence) -> Step:
    """A witness that has cosigned for an origin after it closed it. Treaty 11.10."""
    note, closed, envelope = ev.read_closed(body)
    texts = (t.treaty.parties.get(closed.party) for t in state.chain.texts)
    once = (p.witness_key for p in texts if p and p.witness_key and p.witness_key.key.id == closed.key)
    key = next(once, None)
    if key is None or closed.treaty != state.first:
        raise Refused(Reason.UNKNOWN_ISSUER, "evidence of a witness that the treaty does not know")
    ev.check_cosigned_again(note, closed, envelope, key)
    if closed.party in state.members.equivocators:
        raise Refused(Reason.DUPLICATE, f"{closed.party} is known to have equivocated")
    return _equivocate(state, index, closed.party, envelope.what, f"cosignature {sha256(note.text).hex()}")


def _equivocate(state: State, index: int, issuer: str, first: str, second: str) -> Step:
    treaty = state.treaty
    after = _with(
        state,
        members=members.equivocate(treaty, state.members, issuer, index, state.time),
        ballot=state.ballot.without(issuer),
        readings=readings.refresh(treaty, state.readings, now=state.time, active=state.voice, gone=issuer),
        chain=without(state.chain, issuer, 0),
    )
    return after, (e.Equivocated(entry=index, issuer=issuer, first=first, second=second),)


def _stamp(state: State, index: int, data: bytes) -> Step:
    clock, stamp, waited = state.clock.stamp(index, data, state.chain.need)
    texts = state.chain.spans(stamp.time)
    owed, lapses = dues.pass_time(state.dues, index, stamp.time)
    after = _with(
        state,
        clock=clock,
        runs=labs.stamped(state.treaty, state.runs, waited, index, stamp.size, stamp.beacon),
        ballot=ballot.stamped(
            texts, state.ballot, stamp.size, stamp.time, state.chain.lapse(state.ballot.tripped, stamp.time)
        ),
        dues=owed,
    )
    after, new = succeed.stamped(after, index, stamp.size, stamp.time, data)
    return after, (e.Stamped(entry=index, size=stamp.size, root=stamp.root, time=stamp.time), *lapses, *new)


def _reopen(state: State, index: int, data: bytes) -> Step:
    """Treaty 11.8, 11.9. The checkpoint that it begins from is a stamp, too."""
    envelope = open_envelope(data)
    r = reopen.check(state, envelope)
    stamped, told = _stamp(state, index, r.stamp.encode())
    after, new = reopen.reopen(stamped, index, r)
    return after, (e.Entered(entry=index, kind=KIND, issuer="", digest=envelope.digest), *told, *new)


def _advance(before: State, state: State, index: int) -> Step:
    """What follows without anybody saying it: who is in force, what has expired, where the brake moves."""
    treaty, time = state.treaty, state.time
    events: list[Event] = []
    active = before.members.active
    if time >= state.members.until:
        settled = members.settle(treaty, state.members, time)
        state = _with(state, members=settled)
        if settled.active != active:
            events.append(e.Bound(entry=index, parties=tuple(sorted(settled.active))))
    state, adopted = succeed.settle(before, state, index)
    events += adopted
    rebound = state.members.active != active
    if rebound or time >= state.readings.until:
        state = _with(state, readings=readings.refresh(treaty, state.readings, now=time, active=state.voice))
    if rebound or _may_move(before, state):
        turning = state.chain.now.turned == index
        box, after, new = ballot.advance(
            treaty, state.ballot, state.members, state.runs, state.readings, entry=index, time=time, turning=turning
        )
        state = _with(state, ballot=box, runs=after)
        events += new
    return state, tuple(events)


def _may_move(before: State, state: State) -> bool:
    """Whether anything changed that the brake depends on; most entries are heads while it is off."""
    return (
        state.ballot is not before.ballot
        or state.readings is not before.readings
        or state.clock.time != before.clock.time
        or (state.runs is not before.runs and state.phase is not Phase.CLEAR)
    )
