"""What a lab opens of a run when an inspector elsewhere cannot tell: the states between two checkpoints.

They are on no disk, but each has its digest in a leaf; so the lab makes them again where the run was made, step by step
in a cell, and can show no others.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from brakeline.core.errors import Misuse
from brakeline.core.state.runs import Run
from brakeline.training.cell import Cell, Failed
from brakeline.training.checkpoint import CHECKPOINTS, checkpoint_path, image, write
from brakeline.training.elsewhere import OPENED
from brakeline.training.environment import kept_distributions
from brakeline.training.ranks import Together, folder
from brakeline.training.recipe import RECIPE, deposited
from brakeline.training.recorder import read_leaves
from brakeline.training.replay import open_recorded
from brakeline.training.spread import State

_ELSEWHERE: Final = "do it where these steps were made: same machine, packages, variables and --threads"


def open_between(
    run: Run, evidence: Path, start: int, end: int, tell: Callable[[int, int], None], *, only: int | None = None
) -> int:
    """Put the states of the steps between `start` and `end`, at which there are checkpoints, into `evidence`, or that
    of one of them `only`. `tell` is given how many steps are made and how many there are. Returns how many were put.

    Raises:
        Misuse: no checkpoints there, or this machine does not give the recorded states. Unavailable: the disk.
    """
    leaves = read_leaves(evidence, end)[start:]
    if len(leaves) != end - start + 1 or not all(checkpoint_path(evidence, n).exists() for n in (start, end)):
        raise Misuse(
            f"{run.name} has no checkpoints at steps {start} and {end}", hint="give the steps that an audit names"
        )
    recipe = deposited(evidence / RECIPE)
    ranks, there = (run.ranks(step, recipe.ranks) for step in (start, start - 1))
    try:
        with Cell(recipe, recipe.digest, (), kept_distributions(evidence)) as cell:
            cell.facts()
            state: State = open_recorded(evidence, leaves[0], there)
            for done, leaf in enumerate(leaves[1 : only + 1 - start if only else -1]):
                tell(done, end - start - 1)
                made = cell.run(run.seed, leaf.step - 1, 1, state, ranks).end
                if made is None or made.digest() != leaf.state:
                    text = f"{run.name}: step {leaf.step} comes out otherwise here than it was recorded"
                    raise Misuse(text, hint=_ELSEWHERE)
                if only in (None, leaf.step):
                    _keep(evidence / OPENED, leaf.step, made)
                state = made
    except Failed as e:
        raise Misuse(f"{run.name} cannot be made again: {e}", hint=_ELSEWHERE) from e
    tell(end - start - 1, end - start - 1)
    return end - start - 1 if only is None else 1


def _keep(opened: Path, step: int, state: State) -> None:
    for rank, part in enumerate(state.ranks if isinstance(state, Together) else (state,)):
        place = folder(opened, rank)
        (place / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        write(place, image(step, part, part.items(), {}))
