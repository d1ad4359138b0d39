"""Git as a subprocess, strictly: a history that is not whole is refused, and no command fails unnoticed.

A clone that lacks objects does not stop most tools, it makes them count less. So every command's exit status and error
output are checked, and all objects behind a measured commit must be there before anything is counted.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable

# The owner of a repository is the one that is measured: its configuration must not steer the count, nor run programs,
# nor make git fetch. Grafts and replacements rewrite history without changing a commit id.
_PINNED: Final = {
    "blame.ignoreRevsFile": "",
    "core.attributesFile": os.devnull,
    "core.commitGraph": "false",  # a cache beside the objects that could say otherwise than they do
    "core.fsmonitor": "false",
    "core.quotePath": "true",
    "diff.algorithm": "myers",
    "diff.indentHeuristic": "true",
    "log.showSignature": "false",
    "safe.directory": "*",
}
_ENVIRONMENT: Final = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


@dataclass(frozen=True)
class Repository:
    """A git directory or work tree. With `replacements`, `refs/replace` is honoured; results must then disclose it."""

    path: Path
    replacements: bool = False

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """What the command prints.

        Raises:
            Unavailable: git is not installed.
            Refused: the command failed, or reported an error (reason `missing`).
        """
        done = self._run(arguments, stdin)
        if done.returncode:
            raise self._failure(done)
        return done.stdout

    def asks(self, *arguments: str) -> bool:
        """Exit status 0 or 1 as an answer; any other is a failure as in `git`."""
        done = self._run(arguments, b"")
        if done.returncode not in (0, 1):
            raise self._failure(done)
        return done.returncode == 0

    def text(self, *arguments: str) -> str:
        return self.git(*arguments).decode("utf-8", "replace").strip()

    def _run(self, arguments: tuple[str, ...], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        env = inherited | _ENVIRONMENT | ({} if self.replacements else {"GIT_NO_REPLACE_OBJECTS": "1"})
        pinned = [word for key, value in _PINNED.items() for word in ("-c", f"{key}={value}")]
        command = ["git", "-C", str(self.path), *pinned, *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, env=env)
        except FileNotFoundError as e:
            raise Unavailable("git is not installed") from e
        # Some commands say what they could not read and still exit with 0.
        if done.stderr.startswith((b"error:", b"fatal:")) or b"\nerror:" in done.stderr:
            raise self._failure(done)
        return done

    def _failure(self, done: subprocess.CompletedProcess[bytes]) -> Refused:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        return Refused(
            Reason.MISSING,
            f"git failed in {self.path.name} with exit status {done.returncode}: {said[0][:200]}",
            hint="measure a complete clone: one made without --depth and without --filter",
        )


def open_repository(path: Path, *, replacements: bool = False) -> Repository:
    """A repository that holds its whole history as far as git itself knows.

    Raises:
        Misuse: there is no repository at `path`.
        Refused: it is a shallow clone (reason `missing`).
    """
    repo = Repository(path, replacements)
    if not path.is_dir():
        raise Misuse(f"{path} is not a folder")
    try:
        shallow = repo.text("rev-parse", "--is-shallow-repository")
    except Refused as e:
        raise Misuse(f"{path} is not a git repository: {e}") from e
    if shallow != "false":
        raise Refused(Reason.MISSING, f"{path.name} is a shallow clone", hint="git fetch --unshallow")
    return repo


def require_whole(repo: Repository, *commits: str) -> tuple[str, ...]:
    """Check that every object behind the commits is there; the object ids that only a replacement stands in for.

    Raises:
        Refused: objects are missing (reason `missing`).
    """
    listed = repo.text("rev-list", "--objects", "--missing=print", "--end-of-options", *commits).splitlines()
    missing = {line[1:41] for line in listed if line.startswith("?")}
    stand_ins = set()
    if repo.replacements:
        stand_ins = set(repo.text("for-each-ref", "--format=%(refname:lstrip=2)", "refs/replace").splitlines())
    if absent := sorted(missing - stand_ins):
        raise Refused(
            Reason.MISSING,
            f"{repo.path.name} lacks {len(absent)} objects, such as {absent[0]}",
            hint="git would leave out what it cannot read: measure a complete clone",
        )
    return tuple(sorted(stand_ins))
