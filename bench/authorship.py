"""What does the authorship gauge cost over the git commands that it needs?

    python bench/authorship.py REPO [--replacements]

The whole history of REPO, in one run: git alone (the same commands, as many at a time, their output thrown away), the
gauge from nothing, git alone once more, and the gauge again from its cache. Target: at most 2 x the mean of git alone.
Without REPO, a history of 2,000 commits is made up. `--replacements` honours refs/replace, for a clone that lacks
objects.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("src", "tests", "bench")]

from machine import machine

from brakeline.gauges.authorship.measure import measure
from brakeline.gauges.git.blame import RULE, files_at, open_cache
from brakeline.gauges.git.files import kind
from brakeline.gauges.git.history import Window, window_of
from brakeline.gauges.git.repository import Repository, open_repository
from planted import Planted, lines

TARGET = 2.0


def made_up(folder: Path) -> Path:
    p = Planted(folder / "made-up.git")
    for i in range(2000):
        p.commit({f"src/{i % 80}.py": lines(f"f{i % 80}", 5 * (i // 80 + 1))})
    p.write()
    return p.path


def git_alone(repo: Repository, window: Window) -> None:
    repo.git("rev-list", "--objects", "--missing=print", window.end)
    repo.git("log", "-z", "--format=%H%x00%P%x00%an%x00%ae%x00%cn%x00%ce%x00%at%x00%ct%x00%B", window.end)
    code = [entry.path for entry in files_at(repo, window.end) if kind(entry.path) == "code"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(
            lambda path: len(repo.git("blame", "--porcelain", *RULE.flags, window.end, "--", path)), code
        ):
            pass


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", type=Path, nargs="?")
    parser.add_argument("--replacements", action="store_true")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.repo or made_up(Path(folder))
        repo = open_repository(path, replacements=arguments.replacements)
        window = window_of(repo, "..")
        before = seconds(lambda: git_alone(repo, window))
        with open_cache(Path(folder) / "blame.sqlite") as cache:
            first = seconds(lambda: measure(repo, window, cache=cache))
            after = seconds(lambda: git_alone(repo, window))
            again = seconds(lambda: measure(repo, window, cache=cache))
    print(f"{repo.text('rev-list', '--count', window.end)} commits" if arguments.repo else "2000 commits, made up")
    alone = (before + after) / 2
    print(
        f"git alone {before:.1f} s and {after:.1f} s; gauge {first:.1f} s = {first / alone:.2f} x (target {TARGET:g} x)"
    )
    print(f"again from the cache {again:.1f} s = {again / alone:.2f} x")
    return 0 if first <= TARGET * alone else 1


if __name__ == "__main__":
    sys.exit(main())
