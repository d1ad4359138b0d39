"""Honest replays of an inspector's own: how often the rule for other environments is wrong about one, measured here."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import torch

from brakeline.core.transcript import Leaf
from brakeline.training import specimens
from brakeline.training.calibration import Kind, kind_of
from brakeline.training.cell import Cell
from brakeline.training.elsewhere import NARROW, Elsewhere, end_of
from brakeline.training.environment import profile
from brakeline.training.recipe import Recipe

KINDS: Final = ("dropout", "kinks", "attention")
LENGTHS: Final = (1, 4)  # steps of a segment
WIDEST: Final = 0.005
# In place of a lab's machine: kernels that are neither the inspector's nor those of its second environment.
LABS: Final = (
    {"ATEN_CPU_CAPABILITY": "default"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"},
)
_APART: Final = 12  # steps between two starts
_SEED: Final = bytes(range(32))


def calibrate(folder: Path, starts: int, tell: Callable[[int, int], None]) -> Kind:
    """Replay segments of `starts` starts of each specimen, as labs with other kernels made them; `tell` is given how
    many segments are done and how many there are. Returns what came of those whose bits differed.

    Raises:
        Unavailable: this machine cannot.
    """
    counts: dict[int, Counter[str]] = {steps: Counter() for steps in LENGTHS}
    total = len(KINDS) * len(LABS) * starts * len(LENGTHS)
    done = 0
    for kind in KINDS:
        for steps, said in _replayed(kind, folder, starts):
            counts[steps][said] += 1
            done += 1
            tell(done, total)
    single, longer = (counts[steps] for steps in LENGTHS)
    torch_line, device = kind_of(profile())
    return Kind(
        torch=torch_line,
        device=device,
        steps=single.total() - single["equal"],
        contested=single["contested"],
        untold=single["not-verified"],
        segments=longer.total() - longer["equal"],
        undecided=longer["undecided"] + longer["not-verified"] + longer["contested"],
    )


def _replayed(kind: str, folder: Path, starts: int) -> Iterator[tuple[int, str]]:
    source = Path(specimens.__file__)
    recipe = Recipe(f"specimen-{kind}", source, starts * _APART, {"kind": kind})
    start = partial(Cell, recipe, recipe.digest, (), shown=())
    narrow = partial(start, threads=torch.get_num_threads() - 1 or 2, variables=NARROW)
    with start() as cell, Elsewhere(cell, narrow, folder, _SEED, 1, widest=WIDEST, foreign=("float32",)) as elsewhere:
        cell.facts()
        states = [end_of(cell.run(_SEED, 0, 0, None))]
        for at in range(starts - 1):
            states.append(end_of(cell.run(_SEED, at * _APART, _APART, states[-1])))
        for variables in LABS:
            with start(variables=variables) as lab:
                lab.facts()
                for number, before in enumerate(states):
                    for steps in LENGTHS:
                        at = number * _APART
                        made = lab.run(_SEED, at, steps, before)
                        again = cell.run(_SEED, at, steps, before)
                        first = Leaf(at, before.digest(), bytes(32), bytes(32), 0.0, 0)
                        after = end_of(made)
                        said = elsewhere.look((first, *made.leaves), before, after, again, 1)
                        equal = made.leaves[-1].state == again.leaves[-1].state
                        yield steps, "equal" if equal else said.kind if said else "not-verified"
