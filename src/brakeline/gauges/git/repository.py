"""Git as a subprocess, strictly: a history that is not whole is refused, and no command fails unnoticed.

A clone that lacks objects does not stop most tools, it makes them count less. So every command's exit status and error
output are checked, and all objects behind a measured commit must be there before anything is counted. Nor does git
look whether an object that it reads is the one that its id names: whoever hands over a clone can put another author or
another file under a true commit id. So every object is hashed first.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable

CHUNK: Final = 1 << 20  # bytes read at a time

# The owner of a repository is the one that is measured: its configuration must not steer the count, nor run programs,
# nor make git fetch. Grafts and replacements rewrite history without changing a commit id.
_PINNED: Final = {
    "advice.graftFileDeprecated": "false",  # else the first line of every message
    "blame.ignoreRevsFile": "",
    "core.attributesFile": os.devnull,
    "core.bigFileThreshold": "512m",
    "core.commitGraph": "false",  # a cache beside the objects that could say otherwise than they do
    "core.fsmonitor": "false",
    "core.quotePath": "true",
    "diff.algorithm": "myers",
    "diff.indentHeuristic": "true",
    "diff.renameLimit": "1000",
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

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        return inherited | _ENVIRONMENT | ({} if self.replacements else {"GIT_NO_REPLACE_OBJECTS": "1"})

    def command(self, *arguments: str) -> list[str]:
        pinned = [word for key, value in _PINNED.items() for word in ("-c", f"{key}={value}")]
        return ["git", "-C", str(self.path), *pinned, *arguments]

    def _run(self, arguments: tuple[str, ...], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        try:
            done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, env=self.environment)
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
        Misuse: `path` is not a repository, or a folder inside one.
        Refused: it is a shallow clone (reason `missing`).
    """
    if not path.is_dir():
        raise Misuse(f"{path} is not a folder")
    repo = Repository(path.resolve(), replacements)
    try:
        shallow, _, inside = repo.git("rev-parse", "--is-shallow-repository", "--show-prefix").partition(b"\n")
    except Refused as e:
        raise Misuse(f"{path} is not a git repository: {e}") from e
    if inside.strip():
        raise Misuse(f"{path} is a folder inside a repository", hint="name its top folder")
    if shallow != b"false":
        raise Refused(Reason.MISSING, f"{path.name} is a shallow clone", hint="git fetch --unshallow")
    return repo


def require_whole(repo: Repository, *roots: str) -> tuple[str, ...]:
    """Check that every object behind the commits or trees is there, and is the one that its id names.

    Returns the object ids that only a replacement stands in for.

    Raises:
        Refused: objects are missing (reason `missing`), or are not what their ids say (reason `tampered`).
    """
    rows = repo.git("rev-list", "--objects", "--missing=print", "--end-of-options", *roots).split(b"\n")[:-1]
    listed = [row.split(b" ")[0].decode() for row in rows]
    missing = {row[1:] for row in listed if row.startswith("?")}
    stand_ins = set()
    if repo.replacements:
        stand_ins = set(repo.text("for-each-ref", "--format=%(refname:lstrip=2)", "refs/replace").splitlines())
    if absent := sorted(missing - stand_ins):
        raise Refused(
            Reason.MISSING,
            f"{repo.path.name} lacks {len(absent)} objects, such as {absent[0]}",
            hint="git would leave out what it cannot read: measure a complete clone",
        )
    _require_true(Repository(repo.path), [row for row in listed if row not in stand_ins and not row.startswith("?")])
    return tuple(sorted(stand_ins))


def _require_true(repo: Repository, ids: Iterable[str]) -> None:
    """Hash every object ("<type> <size>", a zero byte, the content) and compare with its id."""
    with tempfile.TemporaryFile() as wanted:
        wanted.writelines(f"{oid}\n".encode() for oid in ids)
        wanted.seek(0)
        process = subprocess.Popen(
            repo.command("cat-file", "--batch"),
            stdin=wanted,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=repo.environment,
        )
        with process:
            for oid in ids:
                if process.stdout is None or not _is(oid, process.stdout):
                    raise Refused(
                        Reason.TAMPERED,
                        f"{repo.path.name} holds something else under the object id {oid}",
                        hint="it is damaged or forged: measure a clone that git fetched from the origin",
                    )


def _is(oid: str, batch: IO[bytes]) -> bool:
    """Whether the next object in the output of `git cat-file --batch` hashes to `oid`."""
    words = batch.readline().split()
    if len(words) != 3 or words[0].decode() != oid:
        return False
    left = int(words[2])
    digest = (hashlib.sha1 if len(oid) == 40 else hashlib.sha256)(b"%s %d\0" % (words[1], left))
    while left and (part := batch.read(min(left, CHUNK))):
        digest.update(part)
        left -= len(part)
    return batch.read(1) == b"\n" and digest.hexdigest() == oid
