"""Segments of a run that stand out from their neighbours, by what costs less than to execute them again.

Runs glued together, and single steps that are none, leave a mark where the trajectory breaks: the weights jump, or the
loss does, or the optimizer's count of steps. An honest run has spikes too. So standing out accuses nobody: it chooses
what is executed again *beside* the drawn sample, never instead of it (attacks A-02, A-05), and the replay decides.

All scores are in units of the ordinary change from one neighbour to the next, so that neither scale nor schedule
matters. Pure: numbers in, numbers out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# The inspector's numbers, never the lab's; what they are worth is measured in bench/outliers.py.
LEAST: Final = 4.0  # what a score has to be, in ordinary changes
BY_LOSS: Final = 2  # segments that are replayed for a sign, at most, of up to `_MANY`
BY_UPDATE: Final = 4
_MANY: Final = 6000
_SIDE: Final = 4  # neighbours on either side that a segment is compared with
_AROUND: Final = 16  # neighbours on either side that say what an ordinary change is

Scores = NDArray[np.float64]
_MOST: Final = float(np.finfo(np.float64).max) ** 0.5  # stands for what is not finite, and can be squared


def by_losses(losses: Sequence[float], parts: Sequence[tuple[int, int]]) -> Scores:
    """One score for each of `parts`, ascending segments (start, end): how far the loss leaps, or its level changes.

    `losses[step]` is that of a leaf; leaf 0 has none. The loss of a step is that of the weights which the step before
    left.
    """
    if not len(parts):
        return np.zeros(0)
    flat = _finite(losses)
    # Of the states that a segment made: the losses of one step later.
    made = np.array([flat[min(s + 2, e) : e + 2].mean() for s, e in parts])
    return np.maximum(_prominence(made), _change(made))


def by_updates(moved: Sequence[Mapping[str, float]]) -> Scores:
    """One score for each segment, in order: how far the size of its update stands out, in the kind where it does most.

    `moved` has for each segment the size of the change over it, by kind (`model weight`, `optimizer exp_avg`), and none
    where it was not measured.
    """
    kinds = sorted({kind for sizes in moved for kind in sizes})
    best = np.zeros(len(moved))
    for kind in kinds:
        at = [i for i, sizes in enumerate(moved) if kind in sizes]
        sizes = _finite([moved[i][kind] for i in at])
        best[at] = np.maximum(best[at], _prominence(np.log(np.maximum(sizes, 1 / _MOST))))
    return best


def by_counts(advance: Sequence[float]) -> Scores:
    """One score for each segment: how far what a counter advances by, a step, is from what it is in most of them; NaN
    is not known."""
    known = np.asarray(advance, dtype=np.float64)
    if np.isnan(known).all():
        return np.zeros(len(known))
    far = np.abs(np.nan_to_num(known - np.nanmedian(known)))
    return np.asarray(np.where(far > 0, LEAST + far, 0.0), dtype=np.float64)


def repeated(states: Sequence[bytes]) -> list[int]:
    """The steps, ascending, at which a run comes back to a state that it was in before, each stretch once.

    A run whose state says all that follows comes back at no step, or, where steps change nothing, at all of them.
    """
    seen: set[bytes] = set()
    back, found = False, []
    for step, state in enumerate(states):
        if state in seen and not back:
            found.append(step)
        back = state in seen
        seen.add(state)
    return found


def foremost(scores: Scores, most: int) -> list[int]:
    """The indices of those that stand out, the farthest first: `most` at most, and of many more in proportion."""
    order = np.argsort(-scores, kind="stable")[: most * max(1, len(scores) // _MANY)]
    return [int(i) for i in order if scores[i] >= LEAST]


def _prominence(values: Scores) -> Scores:
    """How far each value lies beyond its neighbours of *both* sides, in ordinary changes; 0 for the first and the last.

    A schedule that rises, falls or drops moves a value away from one side, or from the sides in opposite directions.
    """
    before, after = _sides(values)
    left, right = values - before, values - after
    alike = np.sign(left) == np.sign(right)  # NaN beyond the ends: never
    beyond = np.where(alike, np.minimum(np.abs(left), np.abs(right)), 0.0)
    return np.asarray(beyond / _ordinary(values))


def _change(values: Scores) -> Scores:
    """How far the mean of the values from each on is from that of those before, beyond what it is elsewhere around, in
    ordinary changes; 0 but where it is farthest."""
    if len(values) < 2:
        return np.zeros(len(values))
    windows, shift = _windows(values, _SIDE), np.zeros(len(values))
    shift[1:] = np.abs(np.nanmean(windows[1:, _SIDE:-1], axis=1) - np.nanmean(windows[1:, :_SIDE], axis=1))
    near = np.nan_to_num(_windows(shift, _SIDE), nan=-1.0)
    peak = (shift > near[:, :_SIDE].max(axis=1)) & (shift >= near[:, _SIDE:].max(axis=1))
    usual = np.nanmedian(_windows(shift), axis=1)
    return np.asarray(np.where(peak, np.maximum(shift - usual, 0.0) / _ordinary(values), 0.0))


def _sides(values: Scores) -> tuple[Scores, Scores]:
    """The medians of up to `_SIDE` values before and after each; NaN where there is none."""
    if len(values) < 2:
        nothing = np.full(len(values), np.nan)
        return nothing, nothing
    windows = _windows(values, _SIDE)
    before, after = np.full(len(values), np.nan), np.full(len(values), np.nan)
    before[1:] = np.nanmedian(windows[1:, :_SIDE], axis=1)
    after[:-1] = np.nanmedian(windows[:-1, _SIDE + 1 :], axis=1)
    return before, after


def _ordinary(values: Scores) -> Scores:
    """The median change from a value to the next, around each; never 0."""
    if len(values) < 2:
        return np.ones(len(values))
    # Of what is around it: one loss that is not finite would else hide all that stands out elsewhere.
    floor = 1e-9 * np.nanmedian(_windows(np.abs(values)), axis=1) + 1 / _MOST
    changes = np.abs(np.diff(values, prepend=values[0]))
    changes[0] = np.nan
    return np.asarray(np.maximum(np.nanmedian(_windows(changes), axis=1), floor))


def _windows(values: Scores, around: int = _AROUND) -> NDArray[Any]:
    """(values, 2 · around + 1): each with its neighbours, NaN beyond the ends."""
    padded = np.concatenate([np.full(around, np.nan), values, np.full(around, np.nan)])
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * around + 1)


def _finite(values: Sequence[float]) -> Scores:
    """What is not finite is as large as anything, so that it stands out among what is."""
    return np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64), nan=_MOST), -_MOST, _MOST)
