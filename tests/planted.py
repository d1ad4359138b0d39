"""Git histories with known truth, written with `git fast-import`: a second for thousands of commits."""

import itertools
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

ADA = ("Ada Lovelace", "ada.lovelace@example.org")
_counter = itertools.count(1)


def when(text: str) -> int:
    """Unix time of a day, at noon UTC."""
    return int(datetime.fromisoformat(f"{text}T12:00:00").replace(tzinfo=UTC).timestamp())


def lines(tag: str, count: int, start: int = 0) -> str:
    """Lines of code that occur nowhere else, long enough for blame to follow them when they move."""
    return "".join(f"{tag}_value_{i} = combine({tag!r}, {i * i}, scale=0.{i})\n" for i in range(start, start + count))


def git(path: Path, *arguments: str, stdin: bytes | None = None) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": ADA[0], f"GIT_{role}_EMAIL": ADA[1]}
    done = subprocess.run(["git", "-C", str(path), *arguments], input=stdin, capture_output=True, env=env, check=True)
    return done.stdout.decode().strip()


class Planted:
    """A bare repository in the making. `commit` gives a number; after `write`, `ids` has the commit of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git(path, "init", "-q", "--bare", "-b", "main")
        self.ids: dict[int, str] = {}
        self._stream: list[bytes] = []
        self._count = self._last = 0
        self._clock = when("2025-01-01")

    def commit(
        self,
        files: Mapping[str, str | None],
        message: str = "work",
        *,
        author: tuple[str, str] = ADA,
        committer: tuple[str, str] | None = None,
        at: int | None = None,
        parent: int | None = None,
        merge: int | None = None,
        branch: str = "main",
    ) -> int:
        """Commit the files' new contents (None deletes) on top of `parent`, by default the commit before."""
        self._clock = at if at is not None else self._clock + 3600
        self._count += 1
        by, of = author, committer or author
        text = message.encode()
        rows = [
            f"commit refs/heads/{branch}\nmark :{self._count}",
            f"author {by[0]} <{by[1]}> {self._clock} +0000",
            f"committer {of[0]} <{of[1]}> {self._clock} +0000",
            f"data {len(text)}\n{message}",
        ]
        before = self._last if parent is None else parent
        rows += [f"from :{before}"] if before else []
        rows += [f"merge :{merge}"] if merge else []
        for path, content in files.items():
            if content is None:
                rows.append(f"D {path}")
            else:
                rows.append(f"M 100644 inline {path}\ndata {len(content.encode())}\n{content}")
        self._stream.append("\n".join(rows).encode() + b"\n\n")
        self._last = self._count
        return self._count

    def write(self) -> "Planted":
        marks = self.path / f"marks{next(_counter)}"
        known = [f"--import-marks={self.path / 'known'}"] if self.ids else []
        git(self.path, "fast-import", "--quiet", *known, f"--export-marks={marks}", stdin=b"".join(self._stream))
        self.ids = {int(m[1:]): oid for m, oid in (row.split() for row in marks.read_text().splitlines())}
        marks.replace(self.path / "known")
        self._stream = []
        return self

    def note(self, notes: Mapping[int, str]) -> None:
        """Attach texts to commits in refs/notes/ai."""
        rows = [f"commit refs/notes/ai\ncommitter {ADA[0]} <{ADA[1]}> {self._clock} +0000\ndata 0\n"]
        for number, text in notes.items():
            rows.append(f"M 100644 inline {self.ids[number]}\ndata {len(text.encode())}\n{text}\n")
        git(self.path, "fast-import", "--quiet", "--force", stdin="".join(rows).encode())
