"""Whether the seed decides what a run starts from, told from two starts of one recipe under two seeds.

Nobody can choose a seed (attack A-07); weights that do not depend on it were chosen all the same (attack A-08).
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch

from brakeline.core.encoding import Wire
from brakeline.training.digest import Tree, raw_bytes
from brakeline.training.replay import weights_of

_FEW: Final = 4  # values of a tensor that somebody may have chosen by hand: zeros, ones, an identity
_MANY: Final = 1024  # elements of which a common sign tells: of independent ones half agree, give or take 1.6 %
_AGREE: Final = 0.6
_SAMPLE: Final = 1 << 20  # elements of a tensor that are looked at one by one


class Start(Wire, frozen=True):
    """Elements of the modules' floating-point tensors: that training moves, that of these no seed decides, and those
    that no seed decides and nothing moves."""

    trained: int = 0
    seedless: int = 0
    resting: int = 0


def seedless(first: Mapping[str, Tree], other: Mapping[str, Tree], later: Mapping[str, Tree]) -> Start:
    """Compare the trees of the run's first state, of one from another seed, and of a later state of the run.

    A tensor depends on no seed where both starts have it equal, or agree in sign about its median more often than
    chance gives; a few values only, such as zeros and ones, say nothing.
    """
    trained = without = resting = 0
    there, then = (dict(_by_place(tree)) for tree in (other, later))
    for place, weight in _by_place(first):
        again, moved = there.get(place), then.get(place)
        moves = moved is None or not _equal(weight, moved)
        same = again is not None and _alike(weight, again)
        trained += weight.numel() * moves
        without += weight.numel() * (moves and same)
        resting += weight.numel() * (same and not moves)
    return Start(trained=trained, seedless=without, resting=resting)


def _by_place(tree: Mapping[str, Tree]) -> Iterator[tuple[tuple[str, str | int], torch.Tensor]]:
    return (((name, key), weight) for name, key, weight in weights_of(tree))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and np.array_equal(raw_bytes(one), raw_bytes(other))


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two starts of one tensor have come from one source. Noise that a seed adds does not hide it."""
    if one.shape != other.shape:
        return False
    some, others = (it.flatten()[:: it.numel() // _SAMPLE + 1].double() for it in (one, other))
    if torch.unique(some).numel() <= _FEW:
        return False
    if _equal(one, other):
        return True
    here, there = (torch.sign(it - it.median()) for it in (some, others))
    told = (here != 0) & (there != 0)
    many = int(told.sum())
    return 2 * many > some.numel() >= _MANY and int((here == there)[told].sum()) > _AGREE * many
