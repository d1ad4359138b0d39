"""What an inspector measures of a recipe, so that it need not be believed: compute, optimizer steps, where weights come
from.

The counts are made in the cell, beside the lab's code, in a step of their own that nothing is compared with. That code
could lower them by reaching into torch; it can not do so unseen, for it is declared and shown. So they are a floor.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from brakeline.core.encoding import Wire
from brakeline.core.finding import Fault, Finding
from brakeline.core.run import Declaration
from brakeline.training.recipe import Recipe
from brakeline.training.spread import State, is_weight, named, tensors

Severity = Literal["violation", "gap", "notice"]

SLACK: Final = 2  # times the declared compute: operations that `6 N D` leaves out, activations that are made again
LIE: Final = 16  # times, beyond which no way of counting explains it
_DISTINCT: Final = 64  # values that a tensor must have to be a draw, or something learnt, rather than a pattern
SHARE: Final = 0.5  # of the trained weights, which must depend on the seed
_SEEN: Final = 2**53


class Measured(Wire, frozen=True):
    """Of one recorded step: FLOP of the products, convolutions and attentions in it, as text; how often the optimizer
    that stepped most did; bytes of parameters of modules that are not recorded."""

    flop: str
    optimizer_steps: int
    beside: int


class Counts:
    """What `counted` sees."""

    def __init__(self) -> None:
        self.flop = 0
        self.steps: Counter[int] = Counter()

    def measured(self, steps: int, beside: int) -> Measured:
        """Of so many recorded steps."""
        most = max(self.steps.values(), default=0)
        return Measured(flop=str(self.flop // steps), optimizer_steps=-(-most // steps), beside=min(beside, _SEEN))


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what is computed within."""
    counts = Counts()

    def stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        counts.steps[id(optimizer)] += 1

    hook = register_optimizer_step_post_hook(stepped)
    mode = FlopCounterMode(display=False)
    try:
        with mode:
            yield counts
    finally:
        hook.remove()
        counts.flop = mode.get_total_flops()


def told(declaration: Declaration, it: Measured) -> list[Finding]:
    """What the counts say of a declaration. Treaty 5.4"""
    found = []
    counted_, declared = int(it.flop), declaration.step_flop
    if counted_ > SLACK * declared:
        text = f"declared are {declared} FLOP a step, of which {counted_} were counted"
        severity: Severity = "violation" if counted_ > LIE * declared else "gap"
        found.append(Finding(fault=Fault.RECIPE_MISMATCH, severity=severity, segment=(0, 0), detail=text))
    if it.optimizer_steps > 1:
        text = f"an optimizer steps {it.optimizer_steps} times for each recorded step"
        found.append(Finding(fault=Fault.RECIPE_MISMATCH, severity="notice", segment=(0, 0), detail=text))
    if it.beside:
        text = f"{it.beside} bytes of parameters are trained or used beside the recorded ones"
        found.append(Finding(fault=Fault.RECIPE_MISMATCH, severity="notice", segment=(0, 0), detail=text))
    return found


def unseeded(begin: State, other: State, later: State) -> tuple[list[str], float]:
    """The weights of `begin` that are the same in a start by an `other` seed, and move until `later`; and which share
    of all that move they are. Patterns (zeros, ramps, identity matrices) are no draw, and nothing learnt.
    """
    one, two, end = tensors(begin), tensors(other), tensors(later)
    same, fixed, total = [], 0, 0
    for key, weight in one.items():
        if not is_weight(key) or not weight.is_floating_point() or key not in end or torch.equal(end[key], weight):
            continue
        total += weight.numel()
        if key in two and torch.equal(two[key], weight) and _distinct(weight) >= _DISTINCT:
            same.append(named(key))
            fixed += weight.numel()
    return same, fixed / total if total else 0.0


def _distinct(weight: torch.Tensor) -> int:
    return len(torch.unique(weight))


def is_declared(recipe: Recipe, parents: Sequence[str]) -> bool:
    """Whether it is on record where weights may come from: a parent, or a file of the recipe that is no code."""
    return bool(parents) or any(not name.endswith(".py") for name in recipe.files)


def start_told(declaration: Declaration, recipe: Recipe, same: Sequence[str], share: float) -> list[Finding]:
    """What weights that do not depend on the seed say: they come from somewhere, which is to be declared. Attacks A-07,
    A-08."""
    if not same or is_declared(recipe, declaration.parents):
        return []
    severity: Severity = "gap" if share >= SHARE else "notice"
    text = f"whatever the seed, {share:.0%} of the trained weights start the same, {same[0]} say; no parent is declared"
    return [Finding(fault=Fault.INITIAL_STATE, severity=severity, segment=(0, 0), detail=text)]
