"""An inspector at work: draw the sample, open the evidence, have it replayed, judge, and log what was found.

This process holds the key, the judge and the answers, so none of the lab's code runs in it: a `cell` runs that.
What counts against the lab is decided here, from what the lab shows; what fails in the cell is a gap.

The cheap comes before the dear: what is shown is compared with the heads in the log before anything is replayed. And
nobody is accused by accident. A copy that is not what its lab signed is fetched again; what comes out otherwise is made
once more, in a fresh cell, before a word is said.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from brakeline.core.encoding import Wire, b64encode, canonical, parse, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import SINCE_RULES_2, Audit, Fault, Finding, verdict
from brakeline.core.judge import Openings, check_transcript, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import ticket_message
from brakeline.core.state import State
from brakeline.core.state.audits import find_head, owed, required_sample
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import Run
from brakeline.core.transcript import Leaf, SegmentReplay, decode_leaf
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training import manifests
from brakeline.training.cell import Cell, Facts, Failed
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.dataset import root_of
from brakeline.training.environment import digest, profile
from brakeline.training.recipe import RECIPE
from brakeline.training.recorder import LEAVES
from brakeline.training.replay import conclude
from brakeline.training.shown import (
    NotShown,
    Shown,
    check_fault,
    checkpoint,
    distributions,
    open_shown,
    permits,
)
from brakeline.training.watch import Limits
from brakeline.training.weighing import by_word, weigh

Part = tuple[int, int]
Progress = Callable[[int, int], None]  # segments done, segments in all
Say = Callable[[str], None]
_COMPUTED: Final = {Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE}
_TOLD_APART: Final = (Fault.NOT_VERIFIED, "notice")  # what is measured beside the replays
_GRAVE_FIRST: Final = ("violation", "gap", "notice")


class Looking(NamedTuple):
    """How an inspector looks. `memory` keeps finished replays.

    The lab's code sees neither it, nor the evidence, nor the folders in `hidden`, nor anything else of this machine's
    disk but the system, Python and the folders in `data`; it gets what `limits` allow. `say` is told where the sandbox
    that should see to that is not complete, and what the lab's code says, which no finding repeats. Another `cell` may
    do for code that is trusted.
    """

    memory: Path
    hidden: Sequence[Path] = ()
    data: Sequence[Path] = ()
    limits: Limits | None = None
    progress: Progress = lambda done, total: None
    say: Say = lambda text: print(f"warning: {text}", file=sys.stderr)
    cell: type[Cell] = Cell


class _Kept(Wire, frozen=True):
    """A replay on the inspector's disk, so that an interrupted audit goes on where it was."""

    start: int
    end: int
    start_state: str
    leaves: tuple[str, ...]
    environment: str
    update_error: str | None  # as `float.hex` writes it: JSON has no infinity, which weights that never moved give
    rho: str | None


class _Replayed(NamedTuple):
    """What came of a cell: its environment, what the recipe says of itself, and the segments or why there are none.

    `facts` is None where the recipe could not be loaded. `exposed`: the cell had not all of its walls.
    """

    environment: str
    facts: Facts | None
    replays: Mapping[Part, SegmentReplay | Finding]
    problem: Finding | None
    exposed: bool = False


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
    asked = {part for part in accused if _is_segment(run, heads, part)}
    partial = bool(accused) and asked == set(accused)
    drawn = () if partial else required_sample(state.treaty, run, logged, inspector, ticket, key.public)
    parts = tuple(sorted({*asked, *drawn}))
    findings, done = _examined(state, run, heads, evidence, parts, how, ticket if drawn else b"")
    if not not_shown:
        _check_copy(copy, run, findings, f"{state.treaty.answer_within} s")
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
        verdict="partial" if partial else verdict(findings),
    )


def _examined(
    state: State,
    run: Run,
    heads: Sequence[Committed],
    evidence: Path,
    required: Sequence[Part],
    how: Looking,
    ticket: bytes,
) -> tuple[tuple[Finding, ...], _Replayed]:
    """What is found in the evidence, and what was replayed for it. Without a ticket nothing beside it is measured."""
    names = distributions(evidence)
    nothing = _Replayed(digest(profile(names)), None, {}, None)
    try:
        shown = open_shown(evidence, heads[-1].head.steps)
    except NotShown as e:
        how.say(str(e))
        return (_finding(Fault.OPENING_MISSING, (0, 0), "leaves, permits or recipe are missing or damaged"),), nothing
    if stray := _stray(state, run, heads, shown, how.say):
        return stray, nothing
    given = permits(evidence, shown.leaves)
    root = _root(shown.recipe.data, how)

    def judged(done: _Replayed) -> tuple[Finding, ...]:
        openings = Openings(shown.leaves, given, shown.digest, _dataset(run, shown, done.facts, root))
        due = () if done.problem else required
        found = judge(state, run, heads, openings, due, done.replays, environment=done.environment)
        problem = (done.problem,) if done.problem else ()
        return (*problem, *_declared(run, shown, done.facts), *found)

    with disk_errors():
        how.memory.mkdir(parents=True, exist_ok=True)  # what is not there cannot be hidden
    done = _replayed(run, shown, evidence, required, names, how, how.memory)
    if not owed(state.treaty, run, state.time):
        done = done._replace(replays={part: _excused(r) for part, r in done.replays.items()})
    findings = judged(done)
    suspect = sorted({f.segment for f in findings if f.severity == "violation" and f.fault in _COMPUTED})
    if suspect:  # before anybody is accused: does the recipe agree with itself?
        again = how.memory / "again"
        with disk_errors():
            again.mkdir(exist_ok=True)
        second = _replayed(run, shown, evidence, suspect, names, how, again)
        done = done._replace(replays={**done.replays, **_reproduced(done.replays, second.replays)})
        findings = judged(done)
    if ticket and any(isinstance(r, SegmentReplay) for r in done.replays.values()):
        cell = how.cell(
            shown.recipe, shown.digest, (evidence, how.memory, *how.hidden), names, shown=how.data, limits=how.limits
        )
        findings += (*by_word(shown.recipe), *weigh(cell, run, shown, evidence, required, ticket, how.memory))
    if done.exposed:
        detail = "the inspector's machine gave the lab's code a cell without all of its walls"
        findings = (*findings, Finding(fault=Fault.EXPOSED, severity="notice", segment=(0, 0), detail=detail))
    return findings, done


def _root(names: Sequence[Path], how: Looking) -> str:
    """The root of the files that a recipe names as its data, among those that this inspector has; "" without them."""
    here = {path.resolve().name: path.resolve() for path in how.data}
    if absent := [name for name in map(str, names) if name not in here]:
        how.say(f"the data set is not here: show {', '.join(absent)} with --data")
        return ""
    return root_of([here[str(name)] for name in names]) if names else ""


def _dataset(run: Run, shown: Shown, facts: Facts | None, root: str) -> str:
    """The root of the data set here: as our own code finds it, where the recipe names the files."""
    if shown.recipe.data:
        return root
    return facts.dataset if facts else run.declaration.dataset


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
    told = (f for f in findings if f.fault is not Fault.EXPOSED and (f.fault, f.severity) != _TOLD_APART)
    return tuple(
        msgspec.structs.replace(f, fault=Fault.NOT_REPLAYED) if f.fault in SINCE_RULES_2 else f for f in told
    )


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
        return (_finding(Fault.OPENING_MISSING, (0, 0), "the leaves are damaged"),)
    except MemoryError:
        return (_finding(Fault.NOT_REPLAYED, (0, 0), "the inspector's memory does not hold the transcript"),)


def _replayed(
    run: Run,
    shown: Shown,
    evidence: Path,
    parts: Sequence[Part],
    names: Sequence[str],
    how: Looking,
    memory: Path,
) -> _Replayed:
    """Replay `parts`, ascending: the checkpoint at a segment's start gives away the end of none that is to come."""
    hidden = (evidence, how.memory, *how.hidden)
    with how.cell(shown.recipe, shown.digest, hidden, names, shown=how.data, limits=how.limits) as cell:
        if cell.exposed:
            how.say(f"the lab's code could see or change what it should not: {cell.exposed}")
        try:
            facts = cell.facts()
        except Failed as e:
            how.say(str(e))
            problem = _finding(Fault.NOT_REPLAYED, (0, 0), e.plain)
            return _Replayed(cell.environment, None, {}, problem, bool(cell.exposed))
        replays: dict[Part, SegmentReplay | Finding] = {}
        for done, part in enumerate(parts if run.seed else ()):
            how.progress(done, len(parts))
            replays[part] = _replay(cell, run, shown.leaves, evidence, part, memory, how.say)
        how.progress(len(parts), len(parts))
        return _Replayed(cell.environment, facts, replays, None, bool(cell.exposed))


def _replay(
    cell: Cell, run: Run, leaves: Sequence[Leaf], evidence: Path, part: Part, memory: Path, say: Say
) -> SegmentReplay | Finding:
    kept = memory / f"replay-{part[0]:08d}-{part[1]:08d}-{cell.environment[:16]}.json"
    with disk_errors():
        if kept.exists():
            return _restore(parse(kept.read_bytes(), _Kept))
    start, end = part
    recorded = leaves[start : end + 1]
    if not start < end or len(recorded) != end - start + 1:
        return _finding(Fault.NOT_REPLAYED, part, "these steps are not recorded")
    try:
        ranks, there = (run.ranks(step, cell.recipe.ranks) for step in (start, start - 1))
        before = checkpoint(evidence, recorded[0], there)
        after = checkpoint(evidence, recorded[-1], ranks) if checkpoint_path(evidence, end).exists() else None
    except NotShown as e:
        say(f"steps {start}-{end}: {e}")
        return _finding(Fault.OPENING_MISSING, part, "a checkpoint is missing, or is not the recorded state")
    except MemoryError:
        return _finding(Fault.NOT_REPLAYED, part, "the inspector's memory does not hold the checkpoints")
    try:
        again = cell.run(run.seed, start, end - start, before, ranks)
        if start:
            again = again._replace(start_state=recorded[0].state)  # of what was handed over
        result = conclude(recorded, before, after, again, cell.environment)
    except Failed as e:
        say(f"steps {start}-{end}: {e}")
        return _finding(Fault.NOT_REPLAYED, part, e.plain)
    except Malformed as e:
        say(f"steps {start}-{end}: {e}")
        return _finding(Fault.NOT_REPLAYED, part, "what was replayed cannot be compared with the checkpoints")
    write_atomic(kept, canonical(_keep(result)))
    return result


def _declared(run: Run, shown: Shown, facts: Facts | None) -> list[Finding]:
    """Treaty 5.4 counts compute by what was declared: it must be what the recipe says."""
    found = []
    for what, said, declared in (
        ("steps", str(shown.recipe.steps), str(run.declaration.steps)),
        ("FLOP a step", facts.flop_per_step if facts else None, str(run.declaration.step_flop)),
    ):
        if said is not None and said != declared:
            detail = f"the recipe says another number of {what} than declared, which is {declared}"
            found.append(_finding(Fault.RECIPE_MISMATCH, (0, 0), detail))
    return found


def _finding(fault: Fault, part: Part, detail: str) -> Finding:
    severity: Literal["violation", "gap"] = "gap" if fault is Fault.NOT_REPLAYED else "violation"
    # A name that the lab chose may be in it; a lone surrogate could not be signed.
    text = detail[:300].encode("utf-8", "backslashreplace").decode()
    return Finding(fault=fault, severity=severity, segment=part, detail=text)


def _keep(r: SegmentReplay) -> _Kept:
    return _Kept(
        start=r.start,
        end=r.end,
        start_state=r.start_state.hex(),
        leaves=tuple(leaf.encode().hex() for leaf in r.leaves),
        environment=r.environment,
        update_error=None if r.update_error is None else r.update_error.hex(),
        rho=None if r.rho is None else r.rho.hex(),
    )


def _restore(k: _Kept) -> SegmentReplay:
    leaves = tuple(decode_leaf(bytes.fromhex(x)) for x in k.leaves)
    error, rho = (None if text is None else float.fromhex(text) for text in (k.update_error, k.rho))
    return SegmentReplay(k.start, k.end, unhex32(k.start_state), leaves, k.environment, error, rho)
