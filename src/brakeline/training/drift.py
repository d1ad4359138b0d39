"""Signed drift: errors that are each within what honest replays differ, and all point one way.

Rounding errors of disjoint single steps point anywhere. Each step's is projected on signs that were drawn after the
head; whether the sums over steps are larger than they would be with random signs of the steps says whether they point
one way. The inspector's own two environments, on the same steps, are the yardstick: kernels may have a bias too.
"""

import math
from typing import Final

import torch

from brakeline.training.spread import Key, State, is_weight, tensors

LEAST: Final = 12  # steps: with fewer no p value is small enough
ALARM: Final = 1e-3
BESIDE: Final = 0.1  # by which the mean cosine must exceed that of the inspector's own pair
_PROJECTIONS: Final = 32
_DRAWS: Final = 4000
_CLIP: Final = 3.0


class Drift:
    """Collects single steps of one run; `seed` draws the signs."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._record: list[torch.Tensor] = []
        self._own: list[torch.Tensor] = []

    def add(self, before: State, after: State, own: State, other: State) -> None:
        """A step from `before` that was recorded as `after`, and came out as `own` and `other` here."""
        start, record, here, there = map(tensors, (before, after, own, other))
        weights = [k for k in here if is_weight(k) and here[k].is_floating_point() and k in start]
        moved = [k for k in weights if not torch.equal(start[k], here[k])]
        if moved:
            self._record.append(self._projected([(k, record[k], here[k], there[k]) for k in moved]))
            self._own.append(self._projected([(k, there[k], here[k], there[k]) for k in moved]))

    def _projected(self, parts: list[tuple[Key, torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        total = torch.zeros(_PROJECTIONS, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self._seed)
        for _, a, b, other in parts:
            # The size of honest errors in this tensor, here.
            spread = float((b.double() - other.double()).square().mean() + (b.double() * 2.0**-24).square().mean())
            error = ((a.double() - b.double()) / math.sqrt(spread or 1.0)).clamp(-_CLIP, _CLIP).flatten()
            for j in range(_PROJECTIONS):
                signs = torch.randint(0, 2, (error.numel(),), generator=generator, dtype=torch.int8)
                total[j] += float(error @ (2.0 * signs.double() - 1.0))
        return total

    def found(self) -> str:
        """Why the steps point one way; "" where they do not, or are too few."""
        if len(self._record) < LEAST:
            return ""
        record, own = torch.stack(self._record), torch.stack(self._own)
        p = _p_value(record, self._seed)
        cosine, yardstick = _mean_cosine(record), _mean_cosine(own)
        if p > ALARM or cosine <= yardstick + BESIDE:
            return ""
        return f"errors of {len(record)} steps point one way: mean cosine {cosine:.2f}, here {yardstick:.2f}; p {p:.1e}"


def _p_value(projections: torch.Tensor, seed: int) -> float:
    """Of sums over steps as large, were each step's sign a toss: exact where errors are symmetric."""
    scaled = projections / projections.square().sum(0).sqrt().clamp(min=1e-300)
    seen = float(scaled.sum(0).square().sum())
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (_DRAWS, len(scaled)), generator=generator).double() - 1.0
    drawn = (signs @ scaled).square().sum(1)
    return (1 + int((drawn >= seen).sum())) / (1 + _DRAWS)


def _mean_cosine(projections: torch.Tensor) -> float:
    unit = projections / projections.norm(dim=1, keepdim=True).clamp(min=1e-300)
    count = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))
