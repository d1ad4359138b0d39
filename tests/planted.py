"""Find planted bugs: apply a patch of `planted/` to a copy of the sources, and play seeds until an invariant fails.

    python tests/planted.py [NAME …] [--seeds N]

prints for each the first seed that finds it, what it found, and the CPU seconds that this took.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLANTED = Path(__file__).parent / "planted"
NAMES = tuple(sorted(path.stem for path in PLANTED.glob("*.patch")))


@contextmanager
def planted(name: str) -> Iterator[Path]:
    """A copy of the sources with this bug in it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["git", "apply", str(PLANTED / f"{name}.patch")], cwd=folder, check=True)
        yield Path(folder) / "src"


def play(source: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    """Seeds from `seed` on, with these sources, up to the first that fails."""
    command = [sys.executable, "-m", "brakeline.testing", str(seed), "--count", str(count), "--first"]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seeds", type=int, default=10_000)
    options = parser.parse_args()
    for name in options.names:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        with planted(name) as source:
            done = play(source, 0, options.seeds)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        found = re.search(r"seed (\d+):.*?VIOLATION (.*?)$", done.stdout, re.DOTALL | re.MULTILINE)
        if done.returncode == 1 and found:
            print(f"{name}: seed {found[1]}, {spent:.0f} CPU s: {found[2][:140]}", flush=True)
        else:
            print(f"{name}: NOT FOUND in {options.seeds} seeds, {spent:.0f} CPU s {done.stderr[-200:]}", flush=True)


if __name__ == "__main__":
    main()
