"""The ranks of a cell: a segment of a run that several processes trained is made again by as many, in one sandbox."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import torch

from brakeline.core.encoding import Wire, canonical, parse
from brakeline.core.errors import Unavailable
from brakeline.node.disk import write_atomic
from brakeline.training.digest import Snapshot, Tree, snapshot
from brakeline.training.measured import Measured, Meter, together
from brakeline.training.ranks import Together, joined, meet, merged, whole
from brakeline.training.recipe import deposited
from brakeline.training.replay import Rerun, rerun

_WORDS: Final = 300
_POLL: Final = 0.05  # s


class Task(Wire, frozen=True):
    """One segment: the run's seed (hex), the step it starts from, how many to make, and by how many ranks. `measured`:
    what they cost is asked for, and not what comes out."""

    seed: str
    start: int
    steps: int
    ranks: int
    measured: bool = False


class Answer(Wire, frozen=True):
    """`leaves` (hex) carry no permit and no compute, which no replay recomputes. `error` as in `Facts`."""

    start_state: str
    leaves: tuple[str, ...]
    error: str
    measured: Measured | None = None


def answer_of(done: Rerun) -> Answer:
    """What is said of steps that were made again."""
    leaves = tuple(leaf.encode().hex() for leaf in done.leaves)
    return Answer(start_state=done.start_state.hex(), leaves=leaves, error="", measured=done.measured)


class Ranks:
    """As many processes as a segment had ranks, which make one after another, until `close()`."""

    def __init__(self) -> None:
        self._count = 0
        self._folder: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._made = 0

    def make(self, it: Task, before: Tree) -> tuple[Answer, Tree | None]:
        """Make a segment again; `before` is the tree of the states of all ranks there were, if it does not begin with
        the run.

        Returns what was made, and the tree of all ranks' states at its end, where all steps were made.

        Raises:
            Unavailable: a rank fails, with its words. The next segment is made by new ones.
        """
        if self._count != it.ranks:
            self.close()
        if self._folder is None:
            self._start(it.ranks)
        assert self._folder is not None
        folder = self._folder / str(self._made)
        self._made += 1
        folder.mkdir()
        if it.start:
            opened = whole(before)
            parts = opened.ranks if isinstance(opened, Together) else (opened,)
            for rank, state in enumerate(parts):
                torch.save(state.tree, folder / f"before-{rank}")
        try:
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(canonical(it) + b"\n")
            while not (folder / "made").exists():
                if any(p.poll() is not None for p in self._processes):
                    raise Unavailable(self._last_words())
                time.sleep(_POLL)
            made = parse((folder / "made").read_bytes(), Answer)
            if it.measured:
                measured = [parse(file.read_bytes(), Measured) for file in folder.glob("measured-*")]
                made = msgspec.structs.replace(made, measured=together(measured))
            files = [folder / f"after-{rank}" for rank in range(self._count)]
            ends = [torch.load(file, weights_only=True) for file in files if file.exists()]
        except BaseException as e:
            self.close()
            if isinstance(e, BrokenPipeError):
                raise Unavailable("the ranks ended between two segments") from e
            raise
        shutil.rmtree(folder)
        if len(ends) < self._count:
            return made, None
        return made, ends[0] if self._count == 1 else merged(ends)  # as `whole` reads it

    def close(self) -> None:
        """End them, and remove what they wrote."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._processes, self._folder = [], None

    def _start(self, count: int) -> None:
        self._count, self._made = count, 0  # they count what they are asked for
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        for rank in range(self._count):
            command = [sys.executable, "-P", "-m", "brakeline.training.cellranks"]
            words = map(str, (rank, self._count, torch.get_num_threads(), self._folder))
            with (self._folder / f"printed-{rank}").open("wb") as out:
                process = subprocess.Popen([*command, *words], bufsize=0, stdin=subprocess.PIPE, stdout=out, stderr=out)
            self._processes.append(process)

    def _last_words(self) -> str:
        """Of a rank that failed by itself: those it takes with it have nothing to say."""
        assert self._folder is not None
        time.sleep(_POLL)
        for rank, p in enumerate(self._processes):
            if p.poll() not in (None, 0, -9):
                printed = (self._folder / f"printed-{rank}").read_text(errors="replace").strip()
                return f"rank {rank} ended with status {p.returncode}: {printed[-_WORDS:]}"
        return "a rank was killed"


def _opened(folder: Path, rank: int, it: Task) -> Snapshot | Together:
    """This rank's state; those of all, where they were of another number."""
    there = len(list(folder.glob("before-*")))
    wanted = [rank] if there == it.ranks else range(there)
    trees = [torch.load(folder / f"before-{i}", weights_only=True) for i in wanted]
    parts = tuple(snapshot(tree, lambda *_: True) for tree in trees)
    return parts[0] if there == it.ranks else Together(parts)


def main(rank: str, ranks: str, threads: str, where: str) -> None:
    """One rank: make segments as they are asked for, and leave what comes of each in a folder below `where`."""
    torch.set_num_threads(int(threads))
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    recipe = deposited(Path.cwd())
    with joined(int(rank), int(ranks), Path(where) / "store"):
        train = recipe.load().train
        for number, line in enumerate(requests):
            folder, it = Path(where) / str(number), parse(line[:-1], Task)
            opened = _opened(folder, int(rank), it) if it.start else None
            meter = Meter() if it.measured else None
            done = rerun(train, recipe.full_config(bytes.fromhex(it.seed)), opened, it.start, it.steps, meter)
            if done.measured is not None:
                (folder / f"measured-{rank}").write_bytes(canonical(done.measured))
            elif done.end is not None:
                torch.save(done.end.tree, folder / f"after-{rank}")
            meet(b"done")  # whoever goes first would take the others with it
            if rank == "0":
                write_atomic(folder / "made", canonical(answer_of(done)))
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
