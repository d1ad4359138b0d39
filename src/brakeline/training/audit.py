"""An inspector at work: draw the sample, open the evidence, have it replayed, judge, and log what was found.

This process holds the key, the judge and the answers, so none of the lab's code runs in it: a `cell` runs that.
What counts against the lab is decided here, from what the lab shows; what fails in the cell is a gap.

The cheap comes before the dear. What is shown is measured before it is read, read once, and compared with the heads in
the log before anything is replayed. A head may claim 2**53 steps; nothing here is as long as what a lab claims, only as
what it shows, and the log's heads bound that (Treaty 7.2).
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, overload

import msgspec

from brakeline.core.encoding import Wire, b64encode, canonical, parse, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import Audit, Fault, Finding, verdict
from brakeline.core.judge import Openings, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import ticket_message
from brakeline.core.state import State
from brakeline.core.state.audits import find_head, owed, required_sample
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import Run
from brakeline.core.statement import open_envelope
from brakeline.core.transcript import LEAF_BYTES, Leaf, SegmentReplay, decode_leaf
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training.cell import Cell, Facts, Failed
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.digest import Snapshot
from brakeline.training.environment import PROFILE, digest, kept_distributions, profile
from brakeline.training.ranks import Together, folder
from brakeline.training.recipe import MANIFEST, RECIPE, Recipe, deposited
from brakeline.training.recorder import LEAVES
from brakeline.training.replay import conclude, open_recorded
from brakeline.training.session import PERMITS, evidence_permits

Part = tuple[int, int]
Progress = Callable[[int, int], None]  # segments done, segments in all
# Failures of the inspector's own machine. Any other one of a disk is what the lab made of a file it shows.
_OWN: Final = {
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
}
# With one of these it is not the transcript that the log's heads commit to: no replay has anything to compare with.
_STRAY: Final = {Fault.RECIPE_MISMATCH, Fault.TRANSCRIPT_MISMATCH, Fault.HEAD_MISSING, Fault.STEP_ORDER}
_GRAVE_FIRST: Final = ("violation", "gap", "notice")


class _Kept(Wire, frozen=True):
    """A replay on the inspector's disk, so that an interrupted audit goes on where it was."""

    start: int
    end: int
    start_state: str
    leaves: tuple[str, ...]
    environment: str
    update_error: str | None  # as `float.hex` writes it: JSON has no infinity, which weights that never moved give
    rho: str | None


class _Leaves(Sequence[Leaf]):
    """The leaves that a lab shows, `most` at most. To count them costs nothing; they are read when one is asked for.

    Once: a file that is read twice may say two things. Raises, when they are read:
        Malformed: damaged or out of order. OSError, MemoryError.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._count = min(path.stat().st_size // LEAF_BYTES, most)
        self._leaves: tuple[Leaf, ...] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Leaf: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Leaf, ...]: ...
    def __getitem__(self, at: int | slice) -> Leaf | tuple[Leaf, ...]:
        return self._read()[at]

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self._read())

    def _read(self) -> tuple[Leaf, ...]:
        if self._leaves is None:
            leaves: list[Leaf] = []
            with self._path.open("rb") as f:
                for step in range(self._count):
                    leaf = decode_leaf(f.read(LEAF_BYTES))
                    if leaf.step != step:  # at the first one: a file of holes is as long as anybody likes
                        raise Malformed(f"{LEAVES} is out of order at step {step}")
                    leaves.append(leaf)
            self._leaves = tuple(leaves)
        return self._leaves


class _Shown(NamedTuple):
    """What the lab shows of a run: its leaves, and its recipe with the digest that it has."""

    leaves: _Leaves
    digest: str
    recipe: Recipe


class _Replayed(NamedTuple):
    """What came of the cell: its environment, what the recipe says of itself, and the segments or why there are none.

    `facts` is None where the recipe could not be loaded.
    """

    environment: str
    facts: Facts | None
    replays: dict[Part, SegmentReplay | Finding]
    problem: Finding | None


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def inspect(
    state: State,
    run: Run,
    heads: Sequence[Committed],
    evidence: Path,
    inspector: str,
    key: PrivateKey,
    *,
    memory: Path,
    hidden: Sequence[Path] = (),
    accused: Sequence[Part] = (),
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = warn,
    cell: type[Cell] = Cell,
) -> Audit:
    """Examine `run` up to the last of `heads`, which are all of its heads that count in the log, in order, on the
    evidence that its lab shows. Returns the body of an audit statement.

    With `accused`, only those segments are replayed, to confirm or reject what another inspector found. Where one is no
    segment, what is alleged shows in the whole transcript: it is rejected only by passing that (Treaty 7.7), so the
    sample is replayed as well. `memory` keeps finished replays. The lab's code sees neither it, nor the evidence, nor
    the folders in `hidden`; `say` is told where the sandbox that should see to that is not complete. Another `cell` may
    do for code that is trusted.

    Raises:
        Refused: MISSING, the run has logged no head, or no checkpoint has been cosigned after it yet, so that there is
            no sample to draw; FOREIGN, it is no head of the run that may still be audited.
        Misuse: the inspector audits its own run, or one that cannot be executed again.
        Unavailable: there is no evidence there at all: the inspector looks in the wrong place, which is no fault of
            the lab's; or the inspector's disk or memory fails.
    """
    if run.owner == inspector:
        raise Misuse("a lab does not inspect itself (Treaty 7.7)")
    if run.declaration.rung == "attested":
        raise Misuse(f"{run.name} is an attested run: there is nothing of it to execute again (Treaty 7.8)")
    if not heads:
        raise Refused(Reason.MISSING, f"{run.name} has logged no head yet")
    if not any((evidence / name).exists() for name in (LEAVES, RECIPE)):
        raise Unavailable(f"no evidence at {evidence}", hint="ask the lab where it shows the run's evidence")
    logged = find_head(run, heads[-1].entry)
    if not logged.beacon:
        raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
    ticket = key.sign(ticket_message(logged.leaf, logged.beacon))
    asked = {part for part in accused if _is_segment(run, heads, part)}
    partial = bool(accused) and asked == set(accused)
    drawn = () if partial else required_sample(state.treaty, run, logged, inspector, ticket, key.public)
    required = tuple(sorted({*asked, *drawn}))
    shown = _open(run, heads, evidence)
    stray = (shown,) if isinstance(shown, Finding) else _stray(state, run, heads, shown)
    distributions = _distributions(evidence)
    done = _Replayed(digest(profile(distributions)), None, {}, None)
    if isinstance(shown, Finding) or stray:
        findings = stray
    else:
        permits = _permits(evidence, shown.leaves)
        with disk_errors():
            memory.mkdir(parents=True, exist_ok=True)  # what is not there cannot be hidden
        with cell(shown.recipe, shown.digest, (evidence, memory, *hidden), distributions) as lab:
            if lab.exposed:
                say(f"the lab's code could see or change what it should not: {lab.exposed}")
            done = _replayed(lab, run, shown, evidence, required, memory, progress)
        if not owed(state.treaty, run, state.time):
            done = done._replace(replays={part: _excused(r) for part, r in done.replays.items()})
        openings = Openings(
            shown.leaves, permits, shown.digest, done.facts.dataset if done.facts else run.declaration.dataset
        )
        due = () if done.problem else required
        judged = judge(state, run, heads, openings, due, done.replays, environment=done.environment)
        findings = (*((done.problem,) if done.problem else ()), *_declared(run, shown, done.facts), *judged)
    replayed = tuple(sorted(p for p, r in done.replays.items() if isinstance(r, SegmentReplay)))
    findings = _gravest(findings, state.treaty.findings)
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


def _open(run: Run, heads: Sequence[Committed], evidence: Path) -> _Shown | Finding:
    """Open what the lab shows. What was asked for and not shown counts against the one who was asked.

    Raises:
        Unavailable: the inspector cannot read what is there.
    """
    try:
        for name in (LEAVES, PERMITS, f"{RECIPE}/{MANIFEST}"):
            _check_plain(evidence / name)
        recipe = deposited(evidence / RECIPE)
        for name in (recipe.source.name, *recipe.files):
            _check_within(evidence / RECIPE, name)
        return _Shown(_Leaves(evidence / LEAVES, heads[-1].head.steps + 1), recipe.digest, recipe)
    except (BrakelineError, OSError, TypeError, ValueError) as e:
        _check_fault(e)
        return _finding(Fault.OPENING_MISSING, (0, 0), str(e))


def _excused(found: SegmentReplay | Finding) -> SegmentReplay | Finding:
    """What the lab owes nobody any more is missing, and no fault. Treaty 7.4"""
    if isinstance(found, Finding) and found.fault is Fault.OPENING_MISSING:
        return msgspec.structs.replace(found, severity="gap")
    return found


def _distributions(evidence: Path) -> tuple[str, ...]:
    """Those that the run's profile names: where it shows none, its environment is nobody's."""
    try:
        _check_plain(evidence / PROFILE)
    except (BrakelineError, OSError):
        return ()
    return kept_distributions(evidence)


def _stray(state: State, run: Run, heads: Sequence[Committed], shown: _Shown) -> tuple[Finding, ...]:
    """Why what is shown is not what the log commits to; (), and all leaves read, where it is. Raises as `_open`."""
    openings = Openings(shown.leaves, (), shown.digest, run.declaration.dataset)
    try:
        found = judge(state, run, heads, openings, (), {}, environment="")
    except (BrakelineError, OSError) as e:
        _check_fault(e)
        return (_finding(Fault.OPENING_MISSING, (0, 0), str(e)),)
    except MemoryError:
        return (_finding(Fault.NOT_REPLAYED, (0, 0), "the inspector's memory does not hold the transcript"),)
    return tuple(f for f in found if f.fault in _STRAY)  # the rest is about permits, which are not shown yet


def _permits(evidence: Path, leaves: Sequence[Leaf]) -> tuple[bytes, ...]:
    """Of the permits shown, those that the transcript names. Raises as `_open`."""
    named = {leaf.permit for leaf in leaves}
    kept: dict[bytes, bytes] = {}
    try:
        for line in evidence_permits(evidence):
            with suppress(BrakelineError):
                it = bytes.fromhex(open_envelope(line).digest)
                if it in named:
                    kept.setdefault(it, line)
    except Unavailable as e:
        _check_fault(e)
    return tuple(kept.values())


def _replayed(
    cell: Cell, run: Run, shown: _Shown, evidence: Path, parts: Sequence[Part], memory: Path, progress: Progress
) -> _Replayed:
    """Replay `parts`, ascending: the checkpoint at a segment's start gives away the end of none that is to come."""
    try:
        facts = cell.facts()
    except Failed as e:
        return _Replayed(cell.environment, None, {}, _finding(Fault.NOT_REPLAYED, (0, 0), str(e)))
    replays: dict[Part, SegmentReplay | Finding] = {}
    for done, part in enumerate(parts if run.seed else ()):
        progress(done, len(parts))
        replays[part] = _replay(cell, run, shown.leaves, evidence, part, memory)
    progress(len(parts), len(parts))
    return _Replayed(cell.environment, facts, replays, None)


def _replay(
    cell: Cell, run: Run, leaves: Sequence[Leaf], evidence: Path, part: Part, memory: Path
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
        before = _checkpoint(evidence, recorded[0], there)
        after = _checkpoint(evidence, recorded[-1], ranks) if checkpoint_path(evidence, end).exists() else None
    except Unavailable as e:
        return _finding(Fault.OPENING_MISSING, part, str(e))
    except (Malformed, Refused) as e:
        return _finding(Fault.OPENING_MISMATCH, part, str(e))
    except MemoryError:
        return _finding(Fault.NOT_REPLAYED, part, "the inspector's memory does not hold the checkpoints")
    try:
        again = cell.run(run.seed, start, end - start, before, ranks)
        if start:
            again = again._replace(start_state=recorded[0].state)  # of what was handed over
        result = conclude(recorded, before, after, again, cell.environment)
    except (Failed, Malformed) as e:
        return _finding(Fault.NOT_REPLAYED, part, str(e))
    write_atomic(kept, canonical(_keep(result)))
    return result


def _checkpoint(evidence: Path, leaf: Leaf, ranks: int) -> Snapshot | Together:
    """As `open_recorded`. Raises MemoryError too."""
    try:
        for rank in range(ranks):
            _check_plain(checkpoint_path(folder(evidence, rank), leaf.step))
        return open_recorded(evidence, leaf, ranks)
    except (BrakelineError, OSError) as e:
        _check_fault(e)
        if "allocate memory" in str(e.__cause__):  # torch reports it as RuntimeError
            raise MemoryError from e
        if isinstance(e, OSError):
            raise Unavailable(f"there is no checkpoint of step {leaf.step}: {e.strerror}") from e
        raise


def _check_plain(path: Path) -> None:
    """A pipe would be read for ever, and a device too. Raises FileNotFoundError."""
    if path.exists() and not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not a plain file", str(path))


def _check_within(folder: Path, name: str) -> None:
    """A link may lead to what is the inspector's own, of which a digest would then be logged. Raises
    FileNotFoundError."""
    _check_plain(folder / name)
    if not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder)):  # loops do not raise
        raise FileNotFoundError(errno.ENOENT, "it leads out of the recipe's folder", name)


def _check_fault(e: BaseException) -> None:
    """Raises Unavailable where `e` goes back to the inspector's own machine."""
    cause: BaseException | None = e
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OWN:
            raise Unavailable(f"cannot read the evidence: {cause}", hint="check the disk and the permissions") from e
        cause = cause.__cause__


def _declared(run: Run, shown: _Shown, facts: Facts | None) -> list[Finding]:
    """Treaty 5.4 counts compute by what was declared: it must be what the recipe says."""
    found = []
    for what, said, declared in (
        ("steps", str(shown.recipe.steps), str(run.declaration.steps)),
        ("FLOP a step", facts.flop_per_step if facts else None, str(run.declaration.step_flop)),
    ):
        if said is not None and said != declared:
            detail = f"the recipe says {said} {what}, declared were {declared}"
            found.append(_finding(Fault.RECIPE_MISMATCH, (0, 0), detail))
    return found


def _finding(fault: Fault, part: Part, detail: str) -> Finding:
    severity: Literal["violation", "gap"] = "gap" if fault is Fault.NOT_REPLAYED else "violation"
    # The lab's code chooses the words of its errors; a lone surrogate among them could not be signed.
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
