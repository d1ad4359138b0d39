"""An inspector at work: draw the sample, open the evidence, have it replayed, judge, and log what was found.

This process holds the key, the judge and the answers, so none of the lab's code runs in it: a `cell` runs that.
What counts against the lab is decided here, from what the lab shows; what fails in the cell is a gap.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from brakeline.core.encoding import Wire, b64encode, canonical, parse, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.finding import Audit, Fault, Finding, verdict
from brakeline.core.fold import Fold, LoggedHead, RunRecord
from brakeline.core.judge import Openings, judge
from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import ticket_message
from brakeline.core.transcript import Leaf, SegmentReplay, decode_leaf
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training.cell import Cell, Facts, Failed
from brakeline.training.digest import Snapshot
from brakeline.training.environment import digest, profile
from brakeline.training.recipe import MANIFEST, Recipe, deposited
from brakeline.training.recorder import LEAVES, checkpoint_path, checkpoint_steps, read_leaves
from brakeline.training.replay import conclude, open_recorded
from brakeline.training.session import PERMITS, RECIPE, evidence_permits

Part = tuple[int, int]
Progress = Callable[[int, int], None]  # segments done, segments in all
# Failures of the inspector's own machine. Any other one of a disk is what the lab made of a file it shows.
_OWN: Final = {
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
}


class _Kept(Wire, frozen=True):
    """A replay on the inspector's disk, so that an interrupted audit goes on where it was."""

    start: int
    end: int
    start_state: str
    leaves: tuple[str, ...]
    environment: str
    update_error: str | None  # as `float.hex` writes it: JSON has no infinity, which weights that never moved give
    rho: str | None


class _Shown(NamedTuple):
    """What the lab shows of a run. `recipe` is None where it is not the one declared."""

    leaves: tuple[Leaf, ...]
    permits: tuple[bytes, ...]
    digest: str
    recipe: Recipe | None


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
    fold: Fold,
    run: RunRecord,
    logged: LoggedHead,
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
    """Examine `run` up to the head `logged`, on the evidence its lab shows; returns the body of an audit statement.

    With `accused`, only those segments are replayed, to confirm or reject another inspector's finding. `memory` keeps
    finished replays. The lab's code sees neither it, nor the evidence, nor the folders in `hidden`; `say` is told
    where the sandbox that should see to that is not complete. Another `cell` may do for code that is trusted.

    Raises:
        Refused(MISSING): no checkpoint has been cosigned after the head yet, so there is no sample to draw.
        Misuse: the inspector audits its own run. Unavailable: there is no evidence folder at all: the inspector looks
            in the wrong place, which is no fault of the lab's; or the inspector's disk or memory fails.
    """
    if run.owner == inspector:
        raise Misuse("a lab does not inspect itself (Treaty 7.7)")
    if not evidence.is_dir():
        raise Unavailable(f"no evidence folder at {evidence}", hint="ask the lab where it shows the run's evidence")
    beacon = fold.beacon_for(logged.index)
    if beacon is None:
        raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
    ticket = key.sign(ticket_message(logged.leaf, beacon.beacon))
    required = tuple(accused) or fold.required_sample(run, logged, inspector, ticket)
    shown = _open(run, logged, evidence)
    done = _Replayed(digest(profile()), None, {}, shown if isinstance(shown, Finding) else None)
    if isinstance(shown, _Shown) and shown.recipe is not None:
        with disk_errors():
            memory.mkdir(parents=True, exist_ok=True)  # what is not there cannot be hidden
        with cell(shown.recipe, shown.digest, (evidence, memory, *hidden)) as lab:
            if lab.exposed:
                say(f"the lab's code could see or change what it should not: {lab.exposed}")
            done = _replayed(lab, run, shown, evidence, sorted(required), memory, progress)
    if isinstance(shown, Finding) or done.problem is not None:
        findings: tuple[Finding, ...] = tuple(f for f in (done.problem,) if f is not None)
    else:
        dataset = done.facts.dataset if done.facts else run.declaration.dataset
        openings = Openings(shown.leaves, shown.permits, shown.digest, dataset)
        judged = judge(fold, run, logged, openings, required, done.replays, environment=done.environment)
        findings = (*_declared(run, shown, done.facts), *judged)
    replayed = tuple(sorted(p for p, r in done.replays.items() if isinstance(r, SegmentReplay)))
    return Audit(
        run=run.id,
        head=logged.index,
        beacon=beacon.index,
        ticket=b64encode(ticket),
        segments=replayed,
        environment=done.environment,
        flop=str(sum(end - start for start, end in replayed) * run.declaration.step_flop),
        findings=findings,
        verdict="partial" if accused else verdict(findings),
    )


def _open(run: RunRecord, logged: LoggedHead, evidence: Path) -> _Shown | Finding:
    """Read what the lab shows. What was asked for and not shown counts against the one who was asked.

    Raises:
        Unavailable: the inspector cannot read what is there.
    """
    try:
        for name in (LEAVES, PERMITS, f"{RECIPE}/{MANIFEST}"):
            _check_plain(evidence / name)
        recipe = deposited(evidence / RECIPE)
        _check_plain(recipe.source)
        shown = recipe.digest
        leaves = read_leaves(evidence)[: logged.head.steps + 1]
        permits = evidence_permits(evidence)
    except (BrakelineError, OSError, TypeError, ValueError) as e:
        _check_fault(e)
        return _finding(Fault.OPENING_MISSING, (0, 0), str(e))
    return _Shown(leaves, permits, shown, recipe if shown == run.declaration.recipe else None)


def _replayed(
    cell: Cell, run: RunRecord, shown: _Shown, evidence: Path, parts: Sequence[Part], memory: Path, progress: Progress
) -> _Replayed:
    """Replay `parts`, ascending: the checkpoint at a segment's start gives away the end of none that is to come."""
    try:
        facts = cell.facts()
    except Failed as e:
        return _Replayed(cell.environment, None, {}, _finding(Fault.NOT_REPLAYED, (0, 0), str(e)))
    replays: dict[Part, SegmentReplay | Finding] = {}
    for done, part in enumerate(parts if run.seed is not None else ()):
        progress(done, len(parts))
        replays[part] = _replay(cell, run, shown.leaves, evidence, part, memory)
    progress(len(parts), len(parts))
    return _Replayed(cell.environment, facts, replays, None)


def _replay(
    cell: Cell, run: RunRecord, leaves: Sequence[Leaf], evidence: Path, part: Part, memory: Path
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
        before = _checkpoint(evidence, recorded[0])
        after = _checkpoint(evidence, recorded[-1]) if end in checkpoint_steps(evidence) else None
    except Unavailable as e:
        return _finding(Fault.OPENING_MISSING, part, str(e))
    except (Malformed, Refused) as e:
        return _finding(Fault.OPENING_MISMATCH, part, str(e))
    except MemoryError:
        return _finding(Fault.NOT_REPLAYED, part, "the inspector's memory does not hold the checkpoints")
    assert run.seed is not None
    try:
        again = cell.run(run.seed, start, end - start, before)
        if start:
            again = again._replace(start_state=recorded[0].state)  # of what was handed over
        result = conclude(recorded, before, after, again, cell.environment)
    except (Failed, Malformed) as e:
        return _finding(Fault.NOT_REPLAYED, part, str(e))
    write_atomic(kept, canonical(_keep(result)))
    return result


def _checkpoint(evidence: Path, leaf: Leaf) -> Snapshot:
    """As `open_recorded`. Raises MemoryError too."""
    try:
        _check_plain(checkpoint_path(evidence, leaf.step))
        return open_recorded(evidence, leaf)
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


def _check_fault(e: BaseException) -> None:
    """Raises Unavailable where `e` goes back to the inspector's own machine."""
    cause: BaseException | None = e
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OWN:
            raise Unavailable(f"cannot read the evidence: {cause}", hint="check the disk and the permissions") from e
        cause = cause.__cause__


def _declared(run: RunRecord, shown: _Shown, facts: Facts | None) -> list[Finding]:
    """Treaty 5.4 counts compute by what was declared: it must be what the recipe says."""
    found = []
    for what, said, declared in (
        ("steps", str(shown.recipe.steps) if shown.recipe else None, str(run.declaration.steps)),
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
