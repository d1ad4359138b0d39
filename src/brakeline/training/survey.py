"""Which segments of a run stand out: the checkpoints are read, as many as the inspector's budget allows, and measured.

Every leaf is shown, so losses and states cost nothing. The size of an update takes two checkpoints, which is cheaper
than the steps between them and not free. Each that is read is compared with its leaf: one that is made up to look
smooth is not the recorded state.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from brakeline.core.encoding import Wire, canonical, parse, tagged
from brakeline.core.errors import BrakelineError
from brakeline.core.sampling import draw
from brakeline.core.state.runs import Run
from brakeline.core.transcript import Leaf
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training.checkpoint import listed_bytes
from brakeline.training.digest import RNG, Tree
from brakeline.training.outliers import BY_LOSS, BY_UPDATE, by_counts, by_losses, by_updates, foremost, repeated
from brakeline.training.ranks import folder
from brakeline.training.shown import NotShown, checkpoint

BUDGET: Final = 64 << 30  # bytes of checkpoints that are read to be measured; the inspector's number, never the lab's
_KEPT: Final = "outliers.json"
_COUNT: Final = "step"  # where torch's optimizers keep how often they stepped

Part = tuple[int, int]


class Outliers(Wire, frozen=True):
    """The segments that stand out, ascending; of how many the update was measured, and how many there are."""

    chosen: tuple[Part, ...]
    measured: int
    segments: int


class Moved(NamedTuple):
    """What changed over a segment: by kind, the size of the change of all floating-point tensors of that kind; and by
    how much the optimizers' counters advanced, all together, NaN where there are none."""

    sizes: Mapping[str, float]
    advance: float


def survey(
    run: Run, leaves: Sequence[Leaf], evidence: Path, ranks: int, seed: bytes, memory: Path, *, owed: bool
) -> Outliers:
    """What stands out in a run whose `leaves` are those that it committed to; `ranks` are its recipe's.

    `seed` draws what is measured where the budget does not allow all. A checkpoint that is not shown makes its
    segments stand out where it is `owed`. Kept in `memory` once all was read, so that an audit that goes on asks for
    the same.

    Raises:
        Unavailable: the inspector cannot read what is there, or its own disk.
    """
    if kept := remembered(memory):
        return kept
    parts = run.segments(len(leaves) - 1)
    leaps = foremost(by_losses([leaf.loss for leaf in leaves], parts), BY_LOSS)
    measured = [Moved({}, math.nan)] * len(parts)
    missing, count, last = [], 0, parts[-1][0] if parts else 0
    opened = _Opened(run, leaves, evidence, ranks)
    planned = _affordable(len(parts), _bytes(evidence, last, run.ranks(last - 1, ranks)), leaps, seed)
    for i in planned:
        try:
            before, after = (opened.tree(step) for step in parts[i])
            measured[i], count = moved(before, after), count + 1
        except NotShown:
            missing.append(i)
        except MemoryError:
            break
    advance = [m.advance / (end - start) for m, (start, end) in zip(measured, parts, strict=True)]
    returns = [parts.around(step)[0] for step in repeated([leaf.state for leaf in leaves])]
    chosen = {
        *leaps,
        *foremost(by_updates([m.sizes for m in measured]), BY_UPDATE),
        *foremost(by_counts(advance), BY_UPDATE),
        *returns[:BY_UPDATE],
        *(missing[:BY_UPDATE] if owed else ()),
    }
    found = Outliers(chosen=tuple(parts[i] for i in sorted(chosen)), measured=count, segments=len(parts))
    if count == len(planned):  # else a copy with holes would choose for the whole one that is fetched after it
        write_atomic(memory / _KEPT, canonical(found))
    return found


def remembered(memory: Path) -> Outliers | None:
    """What a survey left in `memory`. Raises Unavailable: the disk."""
    with disk_errors():
        return parse((memory / _KEPT).read_bytes(), Outliers) if (memory / _KEPT).exists() else None


def moved(before: Mapping[str, Tree], after: Mapping[str, Tree]) -> Moved:
    """What changed between two states: (component, last name of the place) is a kind, all ranks together.

    What is in one of them alone, or has another shape there, is left out: an optimizer makes its state as it steps.
    """
    squares: dict[str, float] = {}
    counts: list[float] = []
    for name in (name for name in before if name in after):
        component = name.rpartition(":")[2]
        if component == RNG:
            continue
        counting = isinstance(after[name], dict) and "param_groups" in after[name]
        for key, old, new in _pairs(before[name], after[name], ""):
            if counting and key == _COUNT:
                counts.append(_number(new) - _number(old))
            elif isinstance(old, torch.Tensor) and old.is_floating_point() and old.shape == new.shape:
                kind = f"{component} {key}"
                squares[kind] = squares.get(kind, 0.0) + float((new.double() - old.double()).square().sum())
    return Moved({kind: square**0.5 for kind, square in squares.items()}, sum(counts) if counts else math.nan)


def _pairs(before: Tree, after: Tree, key: str) -> Iterator[tuple[str, Tree, Tree]]:
    """Values of the same type at equal places of two trees, with the last name of the place."""
    if isinstance(before, dict) and isinstance(after, dict):
        for k in (k for k in before if k in after):
            yield from _pairs(before[k], after[k], str(k).rpartition(".")[2])
    elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        for old, new in zip(before, after, strict=False):
            yield from _pairs(old, new, key)
    elif type(before) is type(after):
        yield key, before, after


def _number(value: Tree) -> float:
    """Of a counter; NaN where it is none: a lab may write there what it likes."""
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 and not value.is_complex() else math.nan
    return float(value) if isinstance(value, (int, float)) and abs(value) < 2**53 else math.nan


class _Opened:
    """The states at a run's boundaries; the last two are held, for of neighbours one is the same."""

    def __init__(self, run: Run, leaves: Sequence[Leaf], evidence: Path, ranks: int) -> None:
        self._run, self._leaves, self._evidence, self._ranks = run, leaves, evidence, ranks
        self._held: dict[int, Mapping[str, Tree]] = {}

    def tree(self, step: int) -> Mapping[str, Tree]:
        if step not in self._held:
            while len(self._held) > 1:
                del self._held[min(self._held)]
            ranks = self._run.ranks(step - 1, self._ranks)
            self._held[step] = checkpoint(self._evidence, self._leaves[step], ranks).tree
        return self._held[step]


def _affordable(count: int, size: int, first: Sequence[int], seed: bytes) -> list[int]:
    """Which of `count` segments are measured, ascending, where a checkpoint has `size` bytes: all, or `first` and as
    many drawn as the budget allows."""
    if count * size <= BUDGET:
        return list(range(count))
    pairs = BUDGET // (2 * size)
    drawn = draw(tagged("brakeline/audit-survey/v1", seed), min(max(0, pairs - len(first)), count), count)
    return sorted({*first, *drawn})


def _bytes(evidence: Path, step: int, ranks: int) -> int:
    """Of the state at `step`, which is read in any case: more than the budget where nothing says how many."""
    try:
        return sum(listed_bytes(folder(evidence, rank), step) for rank in range(ranks))
    except (BrakelineError, OSError):
        return BUDGET + 1
