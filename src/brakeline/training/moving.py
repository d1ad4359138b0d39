"""What a run does with its evidence before it goes on elsewhere: in another environment, or with other ranks."""

import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from brakeline.core.errors import Misuse, Unavailable
from brakeline.core.state.runs import Run
from brakeline.core.transcript import LEAF_BYTES
from brakeline.training import ranks
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps
from brakeline.training.recorder import ALONE, LEAVES, Origin


def origin(run: Run, declared: int) -> Origin | None:
    """Where the number of ranks changed last; `declared` are those of the recipe."""
    changes = (Origin(m.steps, run.ranks(m.steps - 1, declared)) for m in reversed(run.moves))
    return next((it for it in changes if it.ranks != run.ranks(it.step, declared)), None)


def last_of_all(directory: Path, count: int = 1, least: int = 0) -> int:
    """The step of the last checkpoint that all `count` ranks have, and at `least` this one."""
    folders = [ranks.folder(directory, rank) for rank in range(count)]
    return max(least, min(max(checkpoint_steps(folder), default=0) for folder in folders))


def cut_to_checkpoint(directory: Path, count: int = 1, least: int = 0) -> int:
    """Drop what lies beyond the checkpoint that `last_of_all` names, whose steps another environment would not repeat:
    leaves, and the checkpoints that some ranks had written before the others. Returns its step.

    Raises:
        Misuse: another process is recording there. Unavailable: the disk.
    """
    folders = [ranks.folder(directory, rank) for rank in range(count)]
    step = last_of_all(directory, count, least)
    try:
        with FileLock(directory / ".lock", timeout=0):
            # A checkpoint that is there is not written again. Of ranks that there were before, too: they may come back.
            for folder in (directory, *(directory / "ranks").glob("[0-9]*")):
                for later in checkpoint_steps(folder):
                    if later > step:
                        checkpoint_path(folder, later).unlink(missing_ok=True)
            for folder in folders:
                with (folder / LEAVES).open("r+b") as f:
                    f.truncate(min((step + 1) * LEAF_BYTES, os.fstat(f.fileno()).st_size))
                    os.fsync(f.fileno())
    except Timeout as e:
        raise Misuse(f"another process is recording in {directory}", hint=ALONE) from e
    except OSError as e:
        raise Unavailable(f"cannot write {e.filename or directory / LEAVES}: {e.strerror}") from e
    return step


def spread(directory: Path, count: int) -> None:
    """Give each of `count` ranks the leaves that the first one has. Raises Unavailable."""
    try:
        for rank in range(1, count):
            folder = ranks.folder(directory, rank)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / LEAVES, folder / LEAVES)
            with (folder / LEAVES).open("rb") as f:
                os.fsync(f.fileno())  # the move is logged next: after it nobody copies them again
    except OSError as e:
        raise Unavailable(f"cannot write {e.filename}: {e.strerror}") from e
