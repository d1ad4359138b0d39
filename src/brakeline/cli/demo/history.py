"""A lab's repository for the demo: real code, committed by two people and, for the most part, by an agent."""

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

from brakeline.core.errors import Unavailable

# Modules of Python's standard library, as each author commits them.
_WRITTEN: Final = (
    ("Ann <ann@gamma.example>", ("calendar.py", "bisect.py")),
    ("aider (a model) <aider@aider.chat>", ("argparse.py", "typing.py", "tarfile.py", "pickle.py")),
    ("Bob <bob@gamma.example>", ("heapq.py",)),
    ("devin-ai-integration[bot] <bot@users.noreply.github.com>", ("inspect.py", "datetime.py", "doctest.py")),
)
_DATE: Final = "2026-11-02T09:00:00Z"


def write_history(folder: Path) -> None:
    """Make `folder` a git repository in which agents wrote most of the code.

    Raises:
        Unavailable: git is not there or fails.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    _git(folder, "init", "--quiet", "--initial-branch=main")
    for author, modules in _WRITTEN:
        for name in modules:
            (folder / name).write_bytes((library / name).read_bytes())
        name, _, address = author[:-1].partition(" <")
        _git(folder, "add", ".")
        _git(folder, "-c", f"user.name={name}", "-c", f"user.email={address}", "commit", "--quiet", "-m", "Add modules")


def _git(folder: Path, *args: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"GIT_AUTHOR_DATE": _DATE, "GIT_COMMITTER_DATE": _DATE, "GIT_CONFIG_GLOBAL": os.devnull}
    try:
        done = subprocess.run(["git", "-C", str(folder), *args], env=env, capture_output=True, text=True)
    except FileNotFoundError as e:
        raise Unavailable("git is not installed", hint="on Debian and Ubuntu, apt install git") from e
    if done.returncode != 0:
        raise Unavailable(f"git {args[0]} failed: {done.stderr.strip()[-300:]}")
