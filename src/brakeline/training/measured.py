"""What steps cost and what stands beside them, measured in the process that makes them again.

It is measured apart from the replay that is judged: under a counter compiled code runs uncompiled, and its bits are
others. The lab's own process measures, so a recipe may lie about itself, but downwards only by code that its declared
source shows: what patches the counter, hides its tensors, or trains otherwise where it is counted.
"""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from brakeline.core.encoding import Wire, decimal
from brakeline.core.units import show_flop
from brakeline.training.digest import Snapshot
from brakeline.training.shards import local

_BOUND: Final = 10**40  # as of a declaration
# Attention is made of these, whose compute 6·N·D leaves out and long contexts multiply. They count, but accuse nobody.
_OF_ACTIVATIONS: Final = ("bmm", "attention")


class Measured(Wire, frozen=True):
    """`weighed` and `counted`: FLOP of each step as decimal text, in products with weights (matrices, convolutions),
    and in all that torch counts, attention too; floors, since what is not counted costs something as well. `updates`:
    how often one optimizer stepped within a recorded step, at most. `beside`: bytes of parameters outside the recorded
    state. `processes`: that ran beside the steps. Of several ranks together.
    """

    weighed: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    updates: int = 0
    beside: int = 0
    processes: int = 0


def together(parts: Sequence[Measured]) -> Measured:
    """What the ranks of one segment measured, as one."""
    return Measured(
        weighed=_summed([part.weighed for part in parts]),
        counted=_summed([part.counted for part in parts]),
        updates=max(part.updates for part in parts),
        beside=sum(part.beside for part in parts),
        processes=sum(part.processes for part in parts),
    )


def usual(steps: Sequence[str]) -> int:
    """The median of some steps' FLOP, the lower one of two; 0 where none was counted. No more than half of a run's
    steps take more than twice its mean: what is usual and more than twice what was declared is no matter of luck.

    Raises:
        Malformed: not decimal text.
    """
    flop = sorted(decimal(step.encode("utf-8", "replace"), bound=_BOUND) for step in steps)
    return flop[(len(flop) - 1) // 2] if flop else 0


def compute_fault(declared: int, measured: Sequence[Measured]) -> str:
    """Why `declared` FLOP a step are too few, or "". Half as many as counted are still enough: formulas differ by what
    they leave out."""
    floor = usual([step for it in measured for step in it.weighed])
    if 2 * declared >= floor:
        return ""
    return f"{show_flop(declared)} a step are declared, {show_flop(floor)} were counted in products with weights alone"


class Meter:
    """Measures the steps that are made within `running()`: `begin` when they begin, `step` after each."""

    def __init__(self) -> None:
        self._counter = FlopCounterMode(display=False)
        self._before = (0, 0)
        self._weighed: list[int] = []
        self._counted: list[int] = []
        self._updates: Counter[int] = Counter()
        self._most = self._beside = self._processes = 0
        self._there = _children()  # what steps before these left behind

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything within is counted."""
        hook = register_optimizer_step_post_hook(self._updated)
        try:
            with self._counter:
                yield
        finally:
            hook.remove()

    def begin(self) -> None:
        self._before = self._totals()
        self._updates.clear()

    def step(self, state: Snapshot, *, last: bool) -> None:
        """A step was recorded with this `state`; after the last one what else there is is looked for."""
        weighed, counted = self._totals()
        self._weighed.append(weighed - self._before[0])
        self._counted.append(counted - self._before[1])
        self._before = weighed, counted
        self._most = max(self._most, *self._updates.values(), 0)
        self._updates.clear()
        if last:
            self._beside = _parameters_beside(state)
            self._processes = len(_children() - self._there)

    @property
    def measured(self) -> Measured:
        return Measured(
            weighed=tuple(map(str, self._weighed)),
            counted=tuple(map(str, self._counted)),
            updates=self._most,
            beside=self._beside,
            processes=self._processes,
        )

    def _updated(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._updates[id(optimizer)] += 1

    def _totals(self) -> tuple[int, int]:
        counts = self._counter.get_flop_counts().get("Global", {})
        own = sum(n for op, n in counts.items() if not any(word in str(op) for word in _OF_ACTIVATIONS))
        return own, sum(counts.values())


def _children() -> set[int]:
    with suppress(psutil.Error):
        return {child.pid for child in psutil.Process().children(recursive=True)}
    return set()


def _summed(ranks: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(str(sum(map(int, step))) for step in zip(*ranks, strict=False))


def _parameters_beside(state: Snapshot) -> int:
    """Bytes of living parameters, and of tensors that gather gradients, which `state` does not refer to."""
    gc.collect()  # what a function of the recipe left behind is no second model
    held = {place for part in state.parts if (place := _place(part.source)) is not None}
    found: dict[int, int] = {}
    for it in gc.get_objects():
        if not issubclass(type(it), torch.Tensor):  # not isinstance: that asks proxies, which then import or compute
            continue
        if isinstance(it, torch.nn.Parameter) or (it.requires_grad and it.is_leaf):
            place = _place(it)
            if place is not None and place not in held:
                found[place] = local(it).untyped_storage().nbytes()
    return sum(found.values())


def _place(tensor: torch.Tensor) -> int | None:
    """Where its bytes lie; None where it has none of its own: on no device, or only pretended."""
    try:
        return (local(tensor).untyped_storage().data_ptr() or None) if tensor.device.type != "meta" else None
    except (RuntimeError, NotImplementedError):
        return None
