"""Which checkpoints of a run may go: those that no audit can ask for any more, and that no other checkpoint needs."""

from pathlib import Path
from typing import NamedTuple

from brakeline.core.state import State
from brakeline.core.state.audits import owed
from brakeline.core.state.runs import Run
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps, referred


class Kept(NamedTuple):
    """One checkpoint: its bytes over all ranks, whether it may go, and why, or why not."""

    step: int
    size: int
    goes: bool
    why: str


def plan(state: State, run: Run, evidence: Path, *, every: int = 0) -> list[Kept]:
    """What may go of the checkpoints in `evidence`, ascending. Once nothing is owed, each `every`-th stays, if any.

    Raises:
        Malformed, Unavailable: a checkpoint cannot be read.
    """
    steps = checkpoint_steps(evidence)
    found = [_judged(state, run, steps, step, every) for step in steps]
    sizes = {step: sum(_size(part, step) for part in _parts(evidence)) for step in steps}
    kept = [(part, step) for step, why in found if not why[0] for part in _parts(evidence) if _size(part, step)]
    needed = {s for part, step in kept for s in referred(part, step)}
    return [
        Kept(step, sizes[step], False, "a later one refers to it")
        if goes and step in needed
        else Kept(step, sizes[step], goes, why)
        for step, (goes, why) in found
    ]


def _judged(state: State, run: Run, steps: list[int], step: int, every: int) -> tuple[int, tuple[bool, str]]:
    if step in (steps[0], steps[-1]):
        return step, (False, "the first" if step == steps[0] else "the last: the run resumes there")
    if not owed(state.treaty, run, state.time):
        if every and (steps.index(step) % every) == 0:
            return step, (False, f"each {every}th stays")
        return step, (True, "the run is settled, and nothing is owed any more (Treaty 7.4)")
    parts = run.segments(max(run.steps, step))
    if parts.whole(step) or step % run.declaration.segment_steps == 0:
        return step, (False, "a segment begins there, which an inspector may ask for (Treaty 7.4)")
    oldest = state.time - state.treaty.audit_within
    heads = [h for h in run.kept if h.steps == step and (h.time >= oldest or h.index == next(iter(run.kept)).index)]
    if heads:
        return step, (False, "a head stands there that may still be audited (Treaty 7.10)")
    return step, (True, "a stop within a segment; the run went on from it, and its head is too old to be audited")


def _size(evidence: Path, step: int) -> int:
    path = checkpoint_path(evidence, step)
    return path.stat().st_size if path.exists() else 0


def remove(evidence: Path, kept: Kept) -> None:
    """Remove what may go, of every rank."""
    for part in _parts(evidence):
        checkpoint_path(part, kept.step).unlink(missing_ok=True)


def _parts(evidence: Path) -> list[Path]:
    """The folders of all ranks that there ever were."""
    return [evidence, *sorted((evidence / "ranks").glob("[0-9]*"))]
