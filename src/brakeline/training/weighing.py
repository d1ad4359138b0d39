"""What an inspector measures beside the replays: what a step costs, what stands beside it, and whether the seed decides
what the run starts from.

In a cell of its own, after the replays, of which a failure here takes none away. What is counted can accuse: that the
compute declared is not half of what is usual. What is unusual and honest all the same is a notice; weights that no
seed gave and no parent is named for are a gap, for what they come from nobody can see.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from brakeline.core.encoding import Wire, canonical, parse, tagged
from brakeline.core.errors import Malformed
from brakeline.core.finding import Fault, Finding
from brakeline.core.state.runs import Run
from brakeline.core.units import show_flop
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training.cell import Cell, Failed
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.digest import Snapshot, Tree
from brakeline.training.measured import Measured, compute_fault, usual
from brakeline.training.ranks import Together
from brakeline.training.recipe import Recipe
from brakeline.training.seeded import Start, seedless
from brakeline.training.shown import NotShown, Shown, checkpoint

Part = tuple[int, int]
_STEPS: Final = 32  # of a segment, at most: each costs what it costs again


class _Kept(Wire, frozen=True):
    """On the inspector's disk. `failed` is empty, or why something could not be measured."""

    measured: tuple[Measured, ...]
    start: Start
    failed: str


class Opened(NamedTuple):
    """A checkpoint, and how many ranks make the steps beyond it."""

    state: Snapshot | Together
    ranks: int


def weigh(
    cell: Cell, run: Run, shown: Shown, evidence: Path, parts: Sequence[Part], ticket: bytes, memory: Path
) -> tuple[Finding, ...]:
    """Findings on what is measured of two of the replayed `parts`, the first and one that the draw has chosen.

    `cell` is not entered yet; `ticket` is the inspector's, which nobody could know when the run began; `memory` keeps
    what was measured, so that an interrupted audit goes on.

    Raises:
        Unavailable: the inspector's disk, or a cell cannot be started.
    """
    kept = memory / "measured.json"
    with disk_errors():
        if kept.exists():
            return findings(run, parse(kept.read_bytes(), _Kept))
    if not parts or not run.seed:
        return ()
    try:
        with cell:
            found = _measured(cell, run, shown, evidence, parts, ticket)
    except NotShown:
        return ()  # what is missing is found by the replays
    write_atomic(kept, canonical(found))
    return findings(run, found)


def by_word(recipe: Recipe) -> tuple[Finding, ...]:
    """What only the recipe's own code says of the data: nobody else could read one byte of it (attack A-12)."""
    return () if recipe.data else (_notice("the data set's digest is what the recipe's code says: it names no files"),)


def findings(run: Run, it: _Kept) -> tuple[Finding, ...]:
    """What follows from what was measured."""
    said = [_notice(f"not all could be measured: {it.failed}")] if it.failed else []
    return (*_compute(run, it), *_start(run, it.start), *_beside(it.measured), *said)


def _measured(
    cell: Cell, run: Run, shown: Shown, evidence: Path, parts: Sequence[Part], ticket: bytes
) -> _Kept:
    measured: list[Measured] = []
    start, failed = Start(), ""
    declared = shown.recipe.ranks
    try:
        cell.facts()
        first = _opened(run, shown, evidence, 0, declared)
        last = max((end for _, end in parts if checkpoint_path(evidence, end).exists()), default=0)
        later = _opened(run, shown, evidence, last, declared).state.tree
        other = {} if run.declaration.parents else _other_start(cell, ticket, first)
        start = seedless(first.state.tree, other, later)
        for begin, end in sorted({parts[0], parts[len(parts) // 2]}):
            before = _opened(run, shown, evidence, begin, declared)
            measured.append(cell.measure(run.seed, begin, min(_STEPS, end - begin), before.state, before.ranks))
            usual((*measured[-1].weighed, *measured[-1].counted))  # is it numbers?
    except Failed as e:
        failed = e.plain
    except MemoryError:
        failed = "the inspector's memory does not hold the checkpoints"
    except Malformed:
        measured, failed = [], "the answer cannot be read"
    return _Kept(measured=tuple(measured), start=start, failed=failed)


def _other_start(cell: Cell, ticket: bytes, first: Opened) -> Mapping[str, Tree]:
    """What the recipe builds from another seed than the run's: of the cell's first task, so that nothing is left of
    one before."""
    seed = tagged("brakeline/second-seed/v1", ticket)
    end = cell.run(seed, 0, 0, first.state, first.ranks).end
    return end.tree if end is not None else {}


def _opened(run: Run, shown: Shown, evidence: Path, step: int, declared: int) -> Opened:
    state = checkpoint(evidence, shown.leaves[step], run.ranks(step - 1, declared))
    return Opened(state, run.ranks(step, declared))


def _compute(run: Run, it: _Kept) -> Iterator[Finding]:
    declared = run.declaration.step_flop
    if fault := compute_fault(declared, it.measured):
        yield Finding(fault=Fault.RECIPE_MISMATCH, severity="violation", segment=(0, 0), detail=fault)
        return
    whole = usual([step for one in it.measured for step in one.counted])
    if 2 * declared < whole:
        yield _notice(f"{show_flop(declared)} a step are declared, {show_flop(whole)} were counted, attention included")
    elif declared < 2 * it.start.trained:
        yield _notice(f"{show_flop(declared)} a step are declared for {it.start.trained} weights that it trains")


def _start(run: Run, it: Start) -> Iterator[Finding]:
    if run.declaration.parents:
        return
    text = "the weights it starts from do not depend on the seed, and no parent is declared"
    if it.seedless and 2 * it.seedless >= it.trained:
        yield Finding(fault=Fault.INITIAL_STATE, severity="gap", segment=(0, 0), detail=text)
    elif it.seedless:
        yield _notice(f"{it.seedless} of {it.trained} weights that it trains start from values that no seed decides")
    if it.resting > it.trained:
        yield _notice(f"{it.resting} values that no seed decides are never trained, {it.trained} weights are")


def _beside(measured: Sequence[Measured]) -> Iterator[Finding]:
    updates, beside, processes = (
        max((getattr(it, name) for it in measured), default=0) for name in ("updates", "beside", "processes")
    )
    if updates > 1:
        yield _notice(f"one optimizer stepped {updates} times within a recorded step")
    if beside > 0:
        yield _notice(f"{beside} bytes of parameters are in memory that are not in the recorded state")
    if processes > 0:
        yield _notice(f"processes that ran beside the steps, as those that load data do: {processes}")


def _notice(detail: str) -> Finding:
    return Finding(fault=Fault.NOT_VERIFIED, severity="notice", segment=(0, 0), detail=detail)
