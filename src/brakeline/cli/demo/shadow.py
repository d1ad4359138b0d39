"""Train a recorded run once more, alone and without any stop, and compare the last state.

    python -m brakeline.cli.demo.shadow EVIDENCE SEED

Exit status 0: the same bits. Run by the demo in a process of its own, with the run's own environment.
"""

import sys
from pathlib import Path

import torch

from brakeline.training.recipe import RECIPE, deposited
from brakeline.training.recorder import read_leaves
from brakeline.training.replay import replay


def main(evidence: Path, seed: str) -> int:
    torch.set_num_threads(1)
    leaves = read_leaves(evidence)
    recipe = deposited(evidence / RECIPE)
    again = replay(recipe.load().train, recipe.full_config(bytes.fromhex(seed)), evidence, 0, len(leaves) - 1)
    equal = [leaf.state for leaf in again.leaves] == [leaf.state for leaf in leaves[1:]]
    print(f"{len(again.leaves)} steps without a stop: {'every state equal' if equal else 'states differ'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
