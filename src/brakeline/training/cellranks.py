"""The ranks of a cell: a segment of a run that several processes trained is made again by as many, in one sandbox."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import torch

from brakeline.core.encoding import Wire, canonical, parse
from brakeline.core.errors import Unavailable
from brakeline.node.disk import write_atomic
from brakeline.training.digest import Tree
from brakeline.training.ranks import Together, joined, meet, merged, whole
from brakeline.training.recipe import Recipe, deposited
from brakeline.training.replay import Rerun, rerun

_WORDS: Final = 300
_POLL: Final = 0.05  # s


class Task(Wire, frozen=True):
    """One segment: the run's seed (hex), the step it starts from, how many to make."""

    seed: str
    start: int
    steps: int


class Answer(Wire, frozen=True):
    """`leaves` (hex) carry no permit and no compute, which no replay recomputes. `error` as in `Facts`."""

    start_state: str
    leaves: tuple[str, ...]
    error: str


def answer(done: Rerun) -> Answer:
    """What is said of steps that were made again."""
    leaves = tuple(leaf.encode().hex() for leaf in done.leaves)
    return Answer(start_state=done.start_state.hex(), leaves=leaves, error="")


def make(recipe: Recipe, it: Task, before: Tree) -> tuple[Answer, Tree | None]:
    """Make a segment again; `before` is the tree of all ranks' states, if it does not begin with the run.

    Returns what was made, and the tree of all ranks' states at its end, where all steps were made.

    Raises:
        Unavailable: a rank fails, with its words.
    """
    opened = whole(before) if it.start else None
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        folder = Path(name)
        if isinstance(opened, Together):
            for rank, state in enumerate(opened.ranks):
                torch.save(state.tree, folder / f"before-{rank}")
        failed = _run(recipe.ranks, it, folder)
        if not (folder / "made").exists():
            raise Unavailable(failed or "the ranks ended without a word")
        made = parse((folder / "made").read_bytes(), Answer)
        files = [folder / f"after-{rank}" for rank in range(recipe.ranks)]
        ends = [torch.load(file, weights_only=True) for file in files if file.exists()]
        return made, merged(ends) if len(ends) == recipe.ranks else None


def _run(ranks: int, it: Task, folder: Path) -> str:
    """Let all ranks make it; returns the words of one that failed, or ""."""
    processes = []
    for rank in range(ranks):
        words = [rank, ranks, torch.get_num_threads(), folder, canonical(it).decode()]
        with (folder / f"printed-{rank}").open("wb") as out:
            command = [sys.executable, "-P", "-m", "brakeline.training.cellranks", *map(str, words)]
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
    try:
        while any(p.poll() is None for p in processes):
            if any(p.poll() for p in processes):
                break
            time.sleep(_POLL)
    finally:
        for p in processes:
            p.kill()
            p.wait()
    for rank, p in enumerate(processes):
        if p.returncode and p.returncode != -9:
            printed = (folder / f"printed-{rank}").read_text(errors="replace").strip()
            return f"rank {rank} ended with status {p.returncode}: {printed[-_WORDS:]}"
    return "a rank was killed" if any(p.returncode for p in processes) else ""


def main(rank: str, ranks: str, threads: str, where: str, task: str) -> None:
    """One rank: make the segment, and leave what came of it in the folder `where`."""
    torch.set_num_threads(int(threads))
    folder, it = Path(where), parse(task.encode(), Task)
    recipe = deposited(Path.cwd())
    with joined(int(rank), int(ranks), folder / "store"):
        opened = whole(torch.load(folder / f"before-{rank}", weights_only=True)) if it.start else None
        assert not isinstance(opened, Together)
        config = recipe.full_config(bytes.fromhex(it.seed))
        done = rerun(recipe.load().train, config, opened, it.start, it.steps)
        if done.end is not None:
            torch.save(done.end.tree, folder / f"after-{rank}")
        meet(b"done")  # whoever goes first would take the others with it
        if rank == "0":
            write_atomic(folder / "made", canonical(answer(done)))
        meet(b"told")
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
