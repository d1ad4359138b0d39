"""Sentences about what happened and what stands. They are for people: no code reads one back."""

from collections.abc import Iterable, Mapping
from typing import Final

from brakeline.core.brake import Phase
from brakeline.core.finding import Audit, Fault
from brakeline.core.pledge import Pledge
from brakeline.core.state import events as e
from brakeline.core.state.events import ByFinding, ByReadings, ByReopening, ByVotes, Cause
from brakeline.core.state.runs import Bar, Run
from brakeline.core.state.state import State
from brakeline.core.tlog.policy import Group
from brakeline.core.transcript import Head
from brakeline.core.treaty import duration
from brakeline.core.units import about_flop

FAULTS: Final[Mapping[Fault, str]] = {
    Fault.TRANSCRIPT_MISMATCH: "the steps shown are not the steps that were logged",
    Fault.HEAD_MISSING: "the run went on too long without committing to its steps",
    Fault.STEP_ORDER: "the recorded steps do not follow one another",
    Fault.INITIAL_STATE: "the run did not start where the log said it must",
    Fault.OPENING_MISSING: "what was asked for was not shown",
    Fault.OPENING_MISMATCH: "the checkpoint shown is not the one recorded",
    Fault.REPLAY_MISMATCH: "running the segment again gives another result",
    Fault.NO_PERMIT: "steps were taken without a permit",
    Fault.OVER_ALLOWANCE: "more compute was used than the permit allowed",
    Fault.RECIPE_MISMATCH: "the code or data are not those declared",
    Fault.ENVIRONMENT_MISMATCH: "the inspector's machine computes differently; this accuses nobody",
    Fault.NOT_REPLAYED: "the inspector could not finish the check",
    Fault.NOT_REPRODUCIBLE: "the recipe does not agree with itself, so that nothing can be checked",
    Fault.CONTESTED: "it comes out otherwise on the inspector's machine; whether it is wrong shows on the run's own",
    Fault.NOT_VERIFIED: "the inspector's machine cannot tell; this accuses nobody",
    Fault.EXPOSED: "the lab's code was replayed without all of its walls",
}
PHASES: Final[Mapping[Phase, str]] = {
    Phase.CLEAR: "training may go on",
    Phase.TRIPPED: "every covered run must stop",
    Phase.PAUSED: "every covered run has stopped, or has no permit left to run on",
    Phase.LIFTING: "a quorum wants to go on; the delay runs",
}
_SAID: Final = {"notice": "gave notice", "request": "asked another party for a report", "report": "gave a report"}


def names(parts: Iterable[str]) -> str:
    """`alpha, beta and gamma`."""
    *head, last = [*parts] or ["nobody"]
    return f"{', '.join(head)} and {last}" if head else last


def count(number: int, one: str, many: str = "") -> str:
    """`three runs`."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return f"{words[number] if number < len(words) else f'{number:,}'} {one if number == 1 else many or one + 's'}"


# ---- the brake, and what stands against a run ----


def cause(of: Cause | None) -> str:
    """Why the brake tripped."""
    match of:
        case ByVotes(parties):
            return f"votes of {', '.join(parties)}"
        case ByReadings(gauges):
            return f"readings: {', '.join(gauges)}"
        case ByFinding(run, fault, segment):
            return f"upheld finding on run {run[:16]}…: {place(fault, segment)}"
        case ByReopening(origin):
            return f"the log goes on as {origin}"
        case None:
            return ""


def place(fault: str, segment: tuple[int, int]) -> str:
    """A fault and where it is."""
    return f"{fault} at steps {segment[0]}-{segment[1]}" if segment != (0, 0) else f"{fault} in the whole transcript"


def bar(of: Bar | None) -> str:
    """Why a run is barred; empty where it is not."""
    return place(of.fault, of.segment) if of else ""


def standing(run: Run) -> str:
    """How a run stands with its inspectors."""
    if run.bar:
        return f"barred: {bar(run.bar)}"
    if run.open_allegations:
        return "disputed"
    if run.settlement == "settled":
        return "settled" if run.examined else "nothing to settle"
    if run.settlement == "tried":
        return "examined, not passed"
    return "passed so far" if any(x.verdict == "pass" for x in run.examined.values()) else "not yet audited"


# ---- who is bound ----


def group(of: Group) -> str:
    """`2 of beta, gamma, delta are`, `beta is`, `beta and gamma are`."""
    members = [m if isinstance(m, str) else f"({group(m)})" for m in of.members]
    verb = "is" if of.k == 1 else "are"
    return f"{names(members)} {verb}" if of.k == len(members) else f"{of.k} of {', '.join(members)} {verb}"


def bound(state: State, party: str) -> str:
    """Why a party is in force, or is not. Treaty 2.1-2.5."""
    member, activation = state.members.by_name[party], state.members.activation
    if member.equivocated >= 0:
        return "signed two statements that cannot both be meant, so its word is void"
    if not member.assented:
        return "has not signed the treaty"
    if member.pledge is None:
        return "has logged no pledge"
    wants = Pledge(condition=member.pledge.condition).group(frozenset(state.treaty.parties))
    condition = f"pledged if {group(wants)} bound" if wants else "pledged without condition"
    if party in activation.active:
        others = sorted(activation.satisfied.get(party, ()))
        leaving = "" if member.leaves is None else "; it has given notice that it leaves"
        because = f": {names(others)} {'is' if len(others) == 1 else 'are'}" if others else ""
        return f"{condition}{because}{leaving}"
    if party in activation.deleted:
        return f"{condition}: they are not"
    if state.time < state.treaty.effective:
        return f"{condition}; the treaty is not yet in force"
    if member.pledge.expires <= state.time:
        return f"{condition}; the pledge has expired"
    return f"{condition}; withdrew, and the notice has passed"


# ---- what happened ----


def sentence(event: e.Event, state: State, before: str = "") -> str:
    """What happened, in a sentence; empty where it is said better in a table.

    `state` is any state after it, which knows the names of runs. `before` is the status of the head that the run had
    logged before this one, if it is about a head.
    """
    match event:
        case e.Declared():
            return _declared(event, state.runs[event.run])
        case e.Committed():
            return progress(_name(state, event.head.run), event.head, before)
        case e.Shifted():
            return f"{_name(state, event.run)} goes on from step {event.steps:,} in another environment."
        case e.Audited():
            return audited(event.inspector, _name(state, event.audit.run), event.audit)
        case e.Entered(kind="withdrawal"):
            return f"{event.issuer} gave notice that it leaves."
        case e.Equivocated():
            return f"{event.issuer} contradicted itself in two signed statements: its word is void."
        case e.Forked():
            return "The log contradicted itself: a quorum cosigned two histories of it."
        case e.NearBudget():
            return f"{event.issuer} has logged four fifths of what it may log of one day in the lane {event.lane}."
        case e.Bound():
            are = "is" if len(event.parties) == 1 else "are"
            return f"{names(event.parties)} {are} bound now." if event.parties else "Nobody is bound now."
        case e.Disagreed():
            who = f"{event.first[0]} and {event.second[0]}"
            return f"{who} disagree on {event.gauge} of {event.subject}: one of the two is wrong."
        case e.Designated():
            return f"A quorum put {_name(state, event.run)} in the tier {event.tier}."
        case e.Stated():
            return f"{event.signer} stated the digest of the state after {count(event.size, 'entry', 'entries')}."
    return _moved(event, state) or _charged(event, state) or _owed(event) or _succeeded(event)


def _name(state: State, run: str) -> str:
    return f"“{state.runs[run].declaration.name}”"


def _declared(event: e.Declared, run: Run) -> str:
    d = run.declaration
    tiers = f", in {'the tier' if len(event.tiers) == 1 else 'the tiers'} {names(event.tiers)}" if event.tiers else ""
    return f"{event.owner} declared the run “{event.name}”: {d.steps} steps, {about_flop(d.total_flop)}{tiers}."


def progress(name: str, head: Head, before: str) -> str:
    """What a head says; nothing for one that only says that the run goes on."""
    match head.status, before:
        case "opened", "":
            return f"{name} began to train."
        case "opened", "stopped":
            return f"{name} went on from step {head.steps}."
        case "opened", _:
            return f"{name} broke off without a word and went on from step {head.steps}."
        case "stopped", _:
            return f"{name} stopped at step {head.steps}."
        case "ended", _:
            return f"{name} finished at step {head.steps}."
    return ""


def audited(inspector: str, name: str, audit: Audit) -> str:
    """What an inspector did, and its verdict."""
    accused = sum(f.severity == "violation" for f in audit.findings)
    said = f"{audit.verdict}, {count(accused, 'violation')}" if accused else audit.verdict
    return f"{inspector} ran {count(len(audit.segments), 'segment')} of {name} again: {said}."


def _moved(event: e.Event, state: State) -> str:
    match event:
        case e.Tripped():
            return f"The brake tripped: {cause(event.cause)}. Every covered run must stop."
        case e.Paused():
            return "The pause held: every covered run had stopped, or had no permit left to run on."
        case e.Lifting():
            return f"{names(event.parties)} voted to lift, and the treaty's conditions were met."
        case e.Withheld():
            return "Lifting was called off: a vote or a condition for it fell away."
        case e.Cleared():
            held = names(_name(state, run) for run in event.held)
            alone = "is" if len(event.held) == 1 else "are"
            rest = f" Only {held} {alone} held back until settled." if event.held else ""
            return f"The delay of {duration(state.treaty.lift_delay)} had passed: training may go on.{rest}"
    return ""


def _charged(event: e.Event, state: State) -> str:
    match event:
        case e.Retracted():
            what = place(event.fault, event.segment)
            return f"{event.inspector} took back what it alleged of {_name(state, event.run)}: {what}."
        case e.Answered():
            what = place(event.fault, event.segment)
            return f"{state.runs[event.run].owner} answered what is alleged of {_name(state, event.run)}: {what}."
        case e.Fell():
            return f"What was alleged of {_name(state, event.run)} fell: {place(event.fault, event.segment)}."
        case e.Barred():
            return f"{_name(state, event.run)} was barred: {place(event.fault, event.segment)}."
        case e.Settled():
            return f"{_name(state, event.run)} was settled up to its last head."
    return ""


def _succeeded(event: e.Event) -> str:
    match event:
        case e.Proposed():
            return f"{event.by} brought the next text {event.text[:16]}… before the parties."
        case e.Adopted():
            return f"Enough have assented to the text {event.text[:16]}…: it is adopted, and its notice runs."
        case e.Unadopted():
            return f"The text {event.text[:16]}… lapsed: the witnesses that it names were not there in time."
        case e.Turned():
            return f"Version {event.version} is in force, by the text {event.text[:16]}…"
        case e.Closed():
            return f"The succession to {event.text[:16]}… closed: the old text's witnesses are needed no more."
        case e.Reopened():
            return f"The log {names(event.over)} has ended, and goes on as {event.origin}, kept by {event.keeper}."
        case e.Rekeyed():
            what = "speaks" if event.purpose == "statement" else "signs permits"
            return f"{event.party} {what} with its next key."
        case e.Revoked():
            return f"{event.party}'s {event.purpose} key was revoked: its word since entry {event.since} has fallen."
        case e.Asked():
            return f"{event.by} asked that {event.party}'s {event.purpose} key be revoked since entry {event.since}."
    return ""


def _owed(event: e.Event) -> str:
    match event:
        case e.Due():
            return f"{event.party} owes a {event.what} within {duration(event.by - event.since)}."
        case e.Met():
            return f"{event.party} gave in time what it owed since entry {event.about}."
        case e.Lapsed(what="incident"):
            return f"{event.party} reported an incident later than the treaty allows."
        case e.Lapsed():
            return f"{event.party} did not give the {event.what} that it owed since entry {event.about}."
        case e.Reported():
            return f"{event.party} {_SAID.get(event.kind) or f'reported an incident: {event.incident}'}."
    return ""
