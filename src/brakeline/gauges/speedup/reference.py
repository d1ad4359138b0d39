"""The baseline and its stacked slack: each level replaces some of the files below it. Level 3 is the human patch."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from brakeline.core.errors import Misuse
from brakeline.node.disk import disk_errors

_TASKS: Final = Path(__file__).parent / "tasks"
# What each level does away with; the measured factors are in docs/gauges/speedup.md.
LEVELS: Final = ("data", "loop", "optimiser", "batch", "kernels", "graph", "precision", "memory")
REFERENCES: Final = {"baseline": 0, "human": 3, "fast": len(LEVELS)}


def write_reference(level: int, folder: Path) -> None:
    """Write the baseline with the slack of the first `level` levels removed into `folder`, which is not there yet.

    Raises:
        Misuse: the folder is there. Unavailable: the disk.
    """
    if folder.exists():
        raise Misuse(f"{folder} exists already", hint="name a new folder")
    sources = ["baseline", *(f"level{i}_{name}" for i, name in enumerate(LEVELS[:level], 1))]
    with disk_errors():
        for source in sources:
            shutil.copytree(_TASKS / source, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


@contextmanager
def reference(level: int) -> Iterator[Path]:
    """The folder of a level, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="brakeline-speedup-") as room:
        folder = Path(room) / "reference"
        write_reference(level, folder)
        yield folder


def baseline_files() -> dict[str, str]:
    """The baseline as names and texts."""
    return {path.name: path.read_text() for path in sorted((_TASKS / "baseline").iterdir()) if path.is_file()}
