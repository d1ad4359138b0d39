"""What people and programs want to know of a state, as plain values. Nothing here decides.

`report` is all of it; `waiting` says, for everything that is blocked, who must do what.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from brakeline.core import words
from brakeline.core.brake import Phase
from brakeline.core.finding import Audit
from brakeline.core.grant import unread_parents
from brakeline.core.pledge import Pledge
from brakeline.core.state import State, audits, ballot, readings
from brakeline.core.state.audits import clocked
from brakeline.core.state.chain import lacking
from brakeline.core.state.codec import digest
from brakeline.core.state.events import Audited, Cleared, Event, Lifting, Paused, Tripped, Void, Withheld
from brakeline.core.state.runs import LoggedHead, Run
from brakeline.core.tlog.policy import Cosigned
from brakeline.core.treaty import duration


class Blocked(NamedTuple):
    """Something that does not go on: what it is, why, who can change that, and by doing what."""

    what: str
    why: str
    who: tuple[str, ...]
    do: str


def voters(state: State, motion: str) -> frozenset[str]:
    """Parties in force whose vote for `motion` (`trip` or `lift`) stands."""
    return ballot.voters(getattr(state.ballot, motion), state.members, state.time)


def missing_votes(state: State, motion: str) -> int:
    """How many more votes `motion` takes."""
    need = state.treaty.trip if motion == "trip" else state.treaty.lift
    return max(0, need - len(voters(state, motion)))


def tally(state: State, motion: str, party: str) -> str:
    """The votes that stand for a motion, for the party that has just voted; a trip or a release answers them."""
    if party not in state.active:
        return f"the vote waits: it counts once {party} is in force (Treaty 2.2)"
    need = state.treaty.trip if motion == "trip" else state.treaty.lift
    standing = len(voters(state, motion))
    return f"{standing} of {need} votes to {motion}" if standing else f"no vote to {motion} stands any more"


def liftable(state: State, party: str) -> bool:
    """Whether a vote of the party to lift would do anything: answer a pause, or take back its own vote to trip."""
    return state.phase is not Phase.CLEAR or party in state.ballot.trip


def unmet(state: State) -> tuple[str, ...]:
    """Lift conditions that do not hold now. Treaty 8.2."""
    return ballot.unmet(state.treaty, state.ballot, state.members, state.runs, state.readings, state.time)


Moved = Tripped | Paused | Lifting | Withheld | Cleared
_PHASES: Final[Mapping[type[Event], Phase]] = {
    Tripped: Phase.TRIPPED,
    Paused: Phase.PAUSED,
    Lifting: Phase.LIFTING,
    Withheld: Phase.PAUSED,
    Cleared: Phase.CLEAR,
}


def phases(events: Iterable[Event]) -> Iterator[tuple[Phase, Moved]]:
    """The brake's history: each phase and the event that began it."""
    for event in events:
        if isinstance(event, Moved):
            yield _PHASES[type(event)], event


def audits_of(events: Iterable[Event], run: str) -> list[tuple[str, Audit]]:
    """Inspector and audit of every audit of the run that counts, in order."""
    return [(e.inspector, e.audit) for e in events if isinstance(e, Audited) and e.audit.run == run]


def by_declaration(state: State) -> list[Run]:
    """All runs, in the order of their declarations."""
    return sorted(state.runs.by_id.values(), key=lambda run: run.index)


def accuses(audit: Audit) -> bool:
    """Whether an audit alleges a violation."""
    return any(f.severity == "violation" for f in audit.findings)


def segments_of(run: Run, logged: LoggedHead) -> int:
    """How many segments there are up to a head."""
    return len(run.segments(logged.steps))


def concerned_runs(state: State) -> list[Run]:
    """Runs that the brake concerns now, in the order of their declarations."""
    return [run for run in by_declaration(state) if state.concerned(run)]


def waiting(state: State) -> tuple[Blocked, ...]:
    """Everything that is blocked, and who must do what."""
    return (*_parties(state), *_succession(state), *_lift(state), *_runs(state), *_dues(state))


def _succession(state: State) -> Iterator[Blocked]:
    """Who must do what for the next text, for a turn to close, and for a revocation. Articles 11 and 12."""
    chain = state.chain
    for digest_, p in chain.proposals.items():
        lacks = lacking(chain, p, state.members, state.time)
        some = (*state.treaty.parties, *p.treaty.parties) if lacks.members or lacks.next_members else ()
        may = {n for n in some if n not in p.assents and n not in state.members.equivocators}
        why = (
            f"the next text {digest_[:16]}… lacks {words.count(lacks.members, 'assent')} of this text's parties, "
            f"{words.count(lacks.next_members, 'assent')} of its own, and that of "
            f"{words.count(len(lacks.named), 'party', 'parties')} whom it must have (Treaty 11.1)"
        )
        who = tuple(sorted({*lacks.named, *may}))
        yield Blocked(f"version {p.treaty.version}", why, who, "brakeline treaty assent FILE")
    if (coming := chain.coming) is not None:
        what, late = f"version {coming.treaty.version}", _at(coming.lapses)
        if state.time < coming.due:
            why = f"it is adopted, and its notice runs until {_at(coming.due)} (Treaty 11.2)"
            yield Blocked(what, why, (), "wait")
        else:
            new = tuple(p.name for p in coming.treaty.with_role("witness"))
            why = f"a stamp by the witnesses of both texts is due; without one it lapses at {late} (Treaty 11.2)"
            yield Blocked(what, why, new, "brakeline witness")
    if chain.open:
        both = {p.name for t in chain.texts[-2:] for p in t.treaty.with_role("witness")}
        why = "the turn closes at the next stamp by the witnesses of both texts (Treaty 11.3)"
        yield Blocked(f"version {state.treaty.version}", why, tuple(sorted(both)), "brakeline witness")
    for a in state.keyring.asked:
        need = state.treaty.members - len(a.by)
        why = f"{words.count(need, 'more party', 'more parties')} must ask for it since entry {a.since} (Treaty 12.2)"
        who = tuple(sorted(state.members.seats - state.members.equivocators - {a.party, *a.by}))
        yield Blocked(f"the revocation of {a.party}'s {a.purpose} key", why, who, f"brakeline key revoke {a.party}")
    for name, keys in sorted(state.keyring.of.items()):
        if name in state.members.seats and not keys.statement.key:
            why = "its key was revoked (Treaty 12.2)"
            yield Blocked(name, why, (name,), "brakeline key rotate")


def succession(state: State) -> dict[str, Any]:
    """How the texts have followed one another, and what is under way, as plain values."""
    chain, coming = state.chain, state.chain.coming
    return {
        "first": state.first,
        "log": {"origin": chain.log.key.name, "keeper": chain.log.keeper, "url": chain.log.url},
        "reopened": [{"entry": r.entry, "origin": r.origin, "keeper": r.keeper, "url": r.url} for r in chain.reopened],
        "texts": [
            {"version": t.treaty.version, "sha256": t.ground.digest, "turned": t.turned, "closed": t.closed}
            for t in chain.texts
        ],
        "proposed": [
            {"version": p.treaty.version, "sha256": d, "by": p.by, "assents": sorted(p.assents)}
            for d, p in chain.proposals.items()
        ],
        "adopted": None
        if coming is None
        else {
            "version": coming.treaty.version,
            "sha256": coming.ground.digest,
            "entry": coming.entry,
            "due": coming.due,
            "lapses": coming.lapses,
        },
    }


def _parties(state: State) -> Iterator[Blocked]:
    for name, m in ((name, state.members.by_name[name]) for name in state.treaty.parties):
        if m.equivocated >= 0:
            yield Blocked(name, f"it equivocated at entry {m.equivocated}", (), "only an amendment re-admits it")
        elif not m.assented:
            yield Blocked(name, "it has not assented", (name,), "brakeline treaty sign FILE, then any statement")
        elif m.pledge is None or state.time >= m.pledge.expires:
            yield Blocked(name, "it has no pledge in force", (name,), "brakeline pledge")
        elif name not in state.active and m.leaves is None:
            group = Pledge(condition=m.pledge.condition).group(frozenset(state.treaty.parties))
            if group is None or state.time < state.treaty.effective:
                why = f"the treaty is in force from {_at(state.treaty.effective)} (Treaty 2.3)"
                yield Blocked(name, why, (), "wait")
            else:
                others = tuple(sorted(group.leaves - state.active - {name}))
                yield Blocked(name, "the condition of its pledge does not hold", others, "brakeline pledge")


def _lift(state: State) -> Iterator[Blocked]:
    if state.phase not in (Phase.PAUSED, Phase.TRIPPED):
        return
    need = missing_votes(state, "lift")
    if need:
        who = tuple(sorted(state.active - voters(state, "lift")))
        votes = f"{need} more {'vote is' if need == 1 else 'votes are'} needed"
        yield Blocked("the lift", f"{votes} (Treaty 8.1)", who, "brakeline vote lift")
    unmet_now = unmet(state)
    if "stopped" in unmet_now or state.phase is Phase.TRIPPED:
        for run in concerned_runs(state):
            if not run.stopped:
                until = state.ballot.lapse
                end = f"its permits lapse at {_at(until)}" if until >= 0 else "its permits lapse after the next stamp"
                yield Blocked("the lift", f"{run.name} has not logged that it stopped", (run.owner,), f"wait: {end}")
    if "audited" in unmet_now:
        alone = state.ballot.paused + state.treaty.settle_within
        for run in concerned_runs(state):
            if run.settlement == "open":
                yield from _unsettled(state, run, "the lift", f", or wait: from {_at(alone)} on it is held back alone")
    if "readings" in unmet_now:
        for t in readings.reached(state.treaty, state.readings, active=state.active):
            do = f"measure again: brakeline gauge {t.gauge}, then brakeline reading"
            yield Blocked("the lift", f"gauge {t.gauge} stands at its threshold", tuple(sorted(state.active)), do)


def _unsettled(state: State, run: Run, what: str, otherwise: str = "") -> Iterator[Blocked]:
    """Who can settle a run, and how. Treaty 7.7."""
    inspectors = {p.name for p in state.treaty.with_role("inspector")} - {run.owner}
    for a in run.open_allegations:
        place = words.place(a.fault, a.segment)
        up, down = audits.needed(state.treaty, a, state.time)
        denied = a.denied_strict if a.strict else (*a.denied_strict, *a.denied_loose)
        fresh = tuple(sorted(inspectors - a.accusers - set(denied)))
        how = "" if not a.strict or a.open_to_all else " in the declared environment"
        why = f"{', '.join(sorted(a.accusers))} alleges of {run.name}: {place}"
        if a.not_shown and clocked(state.treaty):
            how = ""
            if a.answered < 0 and state.time < a.since + state.treaty.answer_within:  # Treaty 7.7
                left = duration(a.since + state.treaty.answer_within - state.time)
                do = f"show it, then brakeline allegation answer {run.name} {a.fault} {a.segment[0]}-{a.segment[1]}"
                yield Blocked(what, f"{why}; it has {left} left to answer", (run.owner,), do)
                continue
            fresh = tuple(sorted(inspectors - set(a.strict) - set(denied)))
        do = f"brakeline audit {run.name} --confirm: {up} more uphold it, {down} that looked there{how} refute it"
        yield Blocked(what, why, fresh, do + otherwise)
    if not run.open_allegations:
        last = run.heads[-1].index
        passed = {i for i, x in run.examined.items() if x.head == last and x.verdict == "pass"}
        why = f"{run.name} is passed by {len(passed)} of {state.treaty.inspectors} inspectors at its last head"
        yield Blocked(what, why, tuple(sorted(inspectors - passed)), f"brakeline audit {run.name}{otherwise}")


def _runs(state: State) -> Iterator[Blocked]:
    for run in concerned_runs(state):
        if run.bar:
            why = f"barred: {words.bar(run.bar)} (Treaty 5.6)"
            yield Blocked(run.name, why, (run.owner,), "declare another run")
        elif run.prohibited:
            why = "it is in a tier that is prohibited (Treaty 3.3)"
            yield Blocked(run.name, why, (run.owner,), "declare a smaller run")
        elif run.held and run.settlement != "settled":
            yield from _unsettled(state, run, run.name)
        else:
            for parent in unread_parents(state, run):
                yield _unread(state, run, state.run(parent))


def _unread(state: State, run: Run, parent: Run) -> Blocked:
    """Who lets a successor train. Treaty 5.8."""
    if not state.runs.models.get(parent.id):
        why = f"no edge says which model its parent {parent.name} made (Treaty 3.5)"
        return Blocked(run.name, why, (parent.owner,), "brakeline edge")
    why = f"no safety reading of its parent {parent.name} counts (Treaty 5.8)"
    who = tuple(sorted(state.active))
    return Blocked(run.name, why, who, "brakeline gauge lineage, then brakeline reading")


def _dues(state: State) -> Iterator[Blocked]:
    for o in state.dues.owed.values():
        what = f"a {o.what} about entry {o.about}"
        do = f"brakeline duty {o.what} --about {o.about}"
        yield Blocked(what, f"due by {_at(o.by)} (Treaty 10.4)", (o.party,), do)


def _at(time: int) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"


def report(state: State, cosigned: Cosigned) -> dict[str, Any]:
    """The state at a cosigned checkpoint as plain values. Times in POSIX seconds, compute in FLOP as text."""
    treaty, box = state.treaty, state.ballot
    return {
        "treaty": {
            "name": treaty.name,
            "version": treaty.version,
            "rules": treaty.rules,
            "sha256": state.ground.digest,
            "articles": state.ground.articles,
        },
        "succession": succession(state),
        "state": digest(state),
        "checkpoint": {
            "size": cosigned.checkpoint.size,
            "root": cosigned.checkpoint.root.hex(),
            "time": cosigned.time,
            "witnesses": sorted(cosigned.witnesses),
        },
        "brake": {
            "phase": str(state.phase),
            "epoch": state.epoch,
            "since": box.brake.since,
            "cause": words.cause(box.cause),
        },
        "votes": {m: sorted(voters(state, m)) for m in ("trip", "lift")},
        "waiting": [dict(b._asdict(), who=list(b.who)) for b in waiting(state)],
        "parties": [_party(state, name) for name in treaty.parties],
        "readings": _readings(state),
        "disagreements": [
            {"gauge": k[0], "subject": k[1], "first": list(a), "second": list(b)}
            for k, a, b in readings.disagreements(state.readings)
        ],
        "runs": [run(state, r) for r in by_declaration(state)],
        "due": [msgspec.to_builtins(o) for _, o in sorted(state.dues.owed.items())],
        "lapses": {p: msgspec.to_builtins(ls) for p, ls in sorted(state.dues.lapses.items())},
        "forks": state.clock.forks,
    }


def history(events: Iterable[Event]) -> dict[str, Any]:
    """What a state does not remember: how the brake moved, and which entries had no effect."""
    events = tuple(events)
    return {
        "history": [
            {"entry": e.entry, "phase": str(phase), "time": e.time, "cause": words.cause(getattr(e, "cause", None))}
            for phase, e in phases(events)
        ],
        "refused": [
            {"entry": e.entry, "kind": e.kind, "issuer": e.issuer, "reason": str(e.reason), "text": e.text}
            for e in events
            if isinstance(e, Void)
        ],
    }


def _party(state: State, name: str) -> dict[str, Any]:
    m, activation = state.members.by_name[name], state.members.activation
    spent = m.spent[-1] if m.spent else None
    return {
        "name": name,
        "assented": m.assented,
        "bound": name in activation.active,
        "because": sorted(activation.satisfied.get(name, ())),
        "leaves": m.leaves,
        "equivocated": m.equivocated >= 0,
        "spent": {"day": spent.day, "bytes": spent.bytes, **_lanes(spent.counts)} if spent else None,
    }


def _lanes(counts: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(("brake", "runs", "audits", "rest"), counts, strict=True))


def _readings(state: State) -> list[dict[str, Any]]:
    """Every gauge of the treaty: what was reproduced, by whom, and whether it reaches its threshold."""
    found = list(readings.current(state.readings))
    return [
        {
            "gauge": t.gauge,
            "class": t.gauge_class,
            "at_least": t.at_least,
            "unit": t.unit,
            "reproduced": [
                {
                    "subject": r.subject,
                    "lower": r.lower,
                    "upper": r.upper,
                    "alarms": list(r.alarms),
                    "parties": list(r.parties),
                    "reaches": readings.reaches(state.treaty, state.readings, r),
                }
                for r in found
                if r.gauge == t.gauge
            ],
        }
        for t in state.treaty.triggers
    ]


def run(state: State, r: Run) -> dict[str, Any]:
    """One run as plain values."""
    return {
        "id": r.id,
        "name": r.declaration.name,
        "owner": r.owner,
        "rung": r.declaration.rung,
        "tiers": list(r.tiers),
        "exempt": r.exempt,
        "covered": r.covered,
        "steps": r.declaration.steps,
        "lineage_flop": r.lineage,
        "done": r.steps,
        "status": r.head.status if r.head else "declared",
        "barred": words.bar(r.bar),
        "held": r.held and r.settlement != "settled",
        "settlement": r.settlement,
        "unread_parents": list(unread_parents(state, r)),
        "examined": {i: x.verdict for i, x in sorted(r.examined.items())},
        "allegations": [
            {
                "fault": a.fault,
                "segment": list(a.segment),
                "accusers": sorted(a.accusers),
                "denied": sorted({*a.denied_strict, *a.denied_loose}),
                "answered": a.answered,
                "fell": a.fell,
            }
            for _, a in sorted(r.allegations.items())
        ],
    }
