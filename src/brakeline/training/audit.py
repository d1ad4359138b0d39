"""An inspector at work: draw the sample, open the evidence, have it replayed, judge, and log what was found.

This process holds the key, the judge and the answers, so none of the lab's code runs in it: a `cell` runs that.
What counts against the lab is decided here, from what the lab shows; what fails in the cell is a gap.

The cheap comes before the dear: what is shown is compared with the heads in the log before anything is replayed. And
nobody is accused by accident. A copy that is not what its lab signed is fetched again; what comes out otherwise is made
once more, in a fresh cell, before a word is said.
"""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Final

import msgspec

from brakeline.core.encoding import b64encode
from brakeline.core.errors import BrakelineError, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import SINCE_RULES_2, Audit, Fault, Finding, verdict
from brakeline.core.judge import Openings, check_transcript, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import audit_seed, ticket_message
from brakeline.core.state import State
from brakeline.core.state.audits import clocked, find_head, owed, required_sample
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import Run
from brakeline.core.transcript import SegmentReplay
from brakeline.core.treaty import duration
from brakeline.node.disk import disk_errors
from brakeline.training import manifests
from brakeline.training.cell import Facts
from brakeline.training.environment import digest, profile
from brakeline.training.recipe import RECIPE
from brakeline.training.recorder import LEAVES
from brakeline.training.replays import Looking, Part, Replayed, Replays, Say, finding
from brakeline.training.shown import (
    NotShown,
    Shown,
    check_fault,
    distributions,
    open_shown,
    permits,
)
from brakeline.training.survey import survey

_COMPUTED: Final = {Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE}
_GRAVE_FIRST: Final = ("violation", "gap", "notice")


def inspect(
    state: State,
    run: Run,
    heads: Sequence[Committed],
    evidence: Path,
    inspector: str,
    key: PrivateKey,
    how: Looking,
    *,
    accused: Sequence[Part] = (),
    not_shown: bool = False,
) -> Audit:
    """Examine `run` up to the last of `heads`, which are all of its heads that count in the log, in order, on the
    evidence that its lab shows. Returns the body of an audit statement. Of its own run a lab gets it too, for itself.

    With `accused`, only those segments are replayed, to confirm or reject what another inspector found. Where one is no
    segment, what is alleged shows in the whole transcript: it is rejected only by passing that (Treaty 7.7), so the
    sample is replayed as well. With `not_shown` a copy that is not what its lab signed counts as all that it shows.

    Raises:
        Refused: MISSING, the run has logged no head, or no checkpoint has been cosigned after it yet, so that there is
            no sample to draw; FOREIGN, it is no head of the run that may still be audited.
        Misuse: the run cannot be executed again, or the evidence is another run's.
        Unavailable: there is no evidence there, or not all that its lab signed; the inspector's disk or memory fails.
    """
    if run.declaration.rung == "attested":
        raise Misuse(f"{run.name} is an attested run: there is nothing of it to execute again (Treaty 7.8)")
    if not heads:
        raise Refused(Reason.MISSING, f"{run.name} has logged no head yet")
    if not any((evidence / name).exists() for name in (LEAVES, RECIPE)):
        raise Unavailable(f"no evidence at {evidence}", hint="ask the lab where it shows the run's evidence")
    copy = manifests.opened(evidence, run.id, heads[-1].head, state.keyring.of_party(run.owner))
    logged = find_head(run, heads[-1].entry)
    if not logged.beacon:
        raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
    ticket = key.sign(ticket_message(logged.leaf, logged.beacon))
    places = {part for part in accused if _is_segment(run, heads, part)}
    only = bool(accused) and places == set(accused)
    drawn = () if only else required_sample(state.treaty, run, logged, inspector, ticket, key.public)
    required = tuple(sorted({*places, *drawn}))
    asked = not_shown and clocked(state.treaty)
    seed = audit_seed(logged.leaf, logged.beacon, inspector, ticket)
    findings, done = _examined(state, run, heads, evidence, required, how, seed, asked=asked, beside=not only)
    if asked:
        findings = tuple(_not_opened(f, done.replays.get(f.segment)) for f in findings)
    if not not_shown:
        _check_copy(copy, run, findings, duration(state.treaty.answer_within))
    findings = _gravest(_known(findings, state.treaty.rules), state.treaty.findings)
    replayed = tuple(sorted(p for p, r in done.replays.items() if isinstance(r, SegmentReplay)))
    return Audit(
        run=run.id,
        head=logged.index,
        beacon=logged.stamp,
        ticket=b64encode(ticket),
        segments=replayed,
        environment=done.environment,
        flop=str(sum(end - start for start, end in replayed) * run.declaration.step_flop),
        findings=findings,
        verdict="partial" if only else verdict(findings),
    )


def _examined(
    state: State,
    run: Run,
    heads: Sequence[Committed],
    evidence: Path,
    required: Sequence[Part],
    how: Looking,
    seed: bytes,
    *,
    asked: bool,
    beside: bool,
) -> tuple[tuple[Finding, ...], Replayed]:
    """What is found in the evidence, and what was replayed for it: what is `required`, and, if wanted, what stands out
    `beside` it. What is drawn here (noise, signs, checkpoints to measure) follows from `seed`."""
    names = distributions(evidence)
    nothing = Replayed(digest(profile(names)), None, {}, None)
    try:
        shown = open_shown(evidence, heads[-1].head.steps)
    except NotShown as e:
        how.say(str(e))
        return (finding(Fault.OPENING_MISSING, (0, 0), "leaves, permits or recipe are missing or damaged"),), nothing
    if stray := _stray(state, run, heads, shown, how.say):
        return stray, nothing
    given = permits(evidence, shown.leaves)
    replays = Replays(state.treaty, run, shown, evidence, how, int.from_bytes(seed[:6], "big"))

    def judged(done: Replayed) -> tuple[Finding, ...]:
        dataset = done.facts.dataset if done.facts else run.declaration.dataset
        openings = Openings(shown.leaves, given, shown.digest, dataset)
        due = () if done.problem else required
        found = judge(state, run, heads, openings, due, done.replays, environment=done.environment)
        problem = (done.problem,) if done.problem else ()
        named = _profiles(run, heads[-1].head.steps, {done.environment, *replays.profiles}, asked=asked)
        return (*problem, *_declared(run, shown, done.facts), *named, *done.measured, *found, *done.drift)

    with disk_errors():
        how.memory.mkdir(parents=True, exist_ok=True)  # what is not there cannot be hidden
    if beside and run.seed:
        due = owed(state.treaty, run, state.time)
        apart = survey(run, shown.leaves, evidence, shown.recipe.ranks, seed, how.memory, owed=due)
        required = sorted({*required, *apart.chosen})
    done = replays.make(required, how.memory)
    if not owed(state.treaty, run, state.time):
        done = done._replace(replays={part: _excused(r) for part, r in done.replays.items()})
    findings = judged(done)
    suspect = sorted({f.segment for f in findings if f.severity == "violation" and f.fault in _COMPUTED})
    if suspect:  # before anybody is accused: does the recipe agree with itself?
        again = how.memory / "again"
        with disk_errors():
            again.mkdir(exist_ok=True)
        second = replays.make(suspect, again)
        done = done._replace(replays={**done.replays, **_reproduced(done.replays, second.replays)})
        findings = judged(done)
    if done.exposed:
        detail = "the inspector's machine gave the lab's code a cell without all of its walls"
        findings = (*findings, Finding(fault=Fault.EXPOSED, severity="notice", segment=(0, 0), detail=detail))
    return findings, done


def _not_opened(it: Finding, replay: SegmentReplay | Finding | None) -> Finding:
    """What smaller steps may settle was asked for, and was not shown. Treaty 7.7"""
    if isinstance(replay, SegmentReplay) and replay.likeness and replay.likeness.kind == "undecided":
        return finding(Fault.OPENING_MISSING, it.segment, "the states between were not opened")
    return it


def _check_copy(copy: manifests.Copy, run: Run, findings: Sequence[Finding], time: str) -> None:
    """Raises:
    Unavailable: something was not shown, and this copy is not what the lab signed.
    """
    missing = [f for f in findings if f.fault is Fault.OPENING_MISSING and f.severity == "violation"]
    if not missing:
        return
    steps = {step for f in missing for step in f.segment}
    if why := copy.torn(run.declaration.recipe, steps):
        hint = (
            "fetch the evidence again, or ask the lab for it; if it shows no more than this, --not-shown says so in "
            f"the log, and it has {time} to answer"
        )
        raise Unavailable(f"{missing[0].detail}; {why}", hint=hint)


def _reproduced(
    first: Mapping[Part, SegmentReplay | Finding], second: Mapping[Part, SegmentReplay | Finding]
) -> dict[Part, Finding]:
    """The segments of `second` that came out otherwise the first time: nobody can say what is right."""
    found = {}
    for part, again in second.items():
        before = first[part]
        if isinstance(again, Finding) or isinstance(before, Finding):
            detail = "a second replay, in a fresh cell, did not come to its end"
        elif (again.start_state, again.leaves) == (before.start_state, before.leaves):
            continue
        else:
            step = next((b.step for a, b in zip(again.leaves, before.leaves, strict=False) if a != b), part[0])
            detail = f"two replays of one recipe in one environment differ at step {step}"
        found[part] = Finding(fault=Fault.NOT_REPRODUCIBLE, severity="gap", segment=part, detail=detail)
    return found


def _known(findings: tuple[Finding, ...], rules: int) -> tuple[Finding, ...]:
    """As findings of these rules: what rules 1 have no word for is a check that was not made."""
    if rules > 1:
        return findings
    told = (f for f in findings if f.fault is not Fault.EXPOSED)
    return tuple(msgspec.structs.replace(f, fault=Fault.NOT_REPLAYED) if f.fault in SINCE_RULES_2 else f for f in told)


def _is_segment(run: Run, heads: Sequence[Committed], part: Part) -> bool:
    """Whether it is one that can be replayed up to the last head; a head may cut one short."""
    start, end = part
    found = run.segments(heads[-1].head.steps).whole(start)
    if found is None or not start < end <= found[1]:
        return False
    return end == found[1] or any(h.head.steps == end for h in heads)


def _gravest(findings: tuple[Finding, ...], most: int) -> tuple[Finding, ...]:
    """As many as an audit may carry (Treaty 7.10), with which its verdict is the same."""
    kept = sorted(enumerate(findings), key=lambda x: (_GRAVE_FIRST.index(x[1].severity), x[0]))[:most]
    return tuple(finding for _, finding in sorted(kept, key=lambda x: x[0]))


def _excused(found: SegmentReplay | Finding) -> SegmentReplay | Finding:
    """What the lab owes nobody any more is missing, and no fault. Treaty 7.4"""
    if isinstance(found, Finding) and found.fault is Fault.OPENING_MISSING:
        return msgspec.structs.replace(found, severity="gap")
    return found


def _stray(state: State, run: Run, heads: Sequence[Committed], shown: Shown, say: Say) -> tuple[Finding, ...]:
    """Why what is shown is not what the log commits to; (), and all leaves read, where it is. Raises Unavailable."""
    openings = Openings(shown.leaves, (), shown.digest, run.declaration.dataset)
    try:
        return check_transcript(state, run, heads, openings)
    except (BrakelineError, OSError) as e:
        check_fault(e)
        say(str(e))
        return (finding(Fault.OPENING_MISSING, (0, 0), "the leaves are damaged"),)
    except MemoryError:
        return (finding(Fault.NOT_REPLAYED, (0, 0), "the inspector's memory does not hold the transcript"),)


def _profiles(run: Run, steps: int, known: Set[str], *, asked: bool) -> list[Finding]:
    """An environment is a digest in the log: unless it is the inspector's own it takes the profile to know that there
    is one. `known` are both; `asked`: the lab was asked for it. Treaty 7.5"""
    entered = run.environments[: 1 + sum(m.steps < steps for m in run.moves)]
    if known >= set(entered):
        return []
    detail = "the profile of the environment that was declared is not shown"
    if asked:
        return [finding(Fault.OPENING_MISSING, (0, 0), detail)]
    return [Finding(fault=Fault.NOT_VERIFIED, severity="gap", segment=(0, 0), detail=detail)]


def _declared(run: Run, shown: Shown, facts: Facts | None) -> list[Finding]:
    """Treaty 5.4 counts compute by what was declared: it must be what the recipe says."""
    found = []
    for what, said, declared in (
        ("steps", str(shown.recipe.steps), str(run.declaration.steps)),
        ("FLOP a step", facts.flop_per_step if facts else None, str(run.declaration.step_flop)),
    ):
        if said is not None and said != declared:
            detail = f"the recipe says another number of {what} than declared, which is {declared}"
            found.append(finding(Fault.RECIPE_MISMATCH, (0, 0), detail))
    return found
