"""Which lines of a window survive at its end, and which commit first wrote each: `git blame` over many files at once.

Blame is slow and its answer never changes, so answers are kept in a database, and a second run takes up where the first
one stopped. An answer for an older end holds as long as no commit since has touched the file.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.gauges.git.files import MARK_LINES, marked_generated
from brakeline.gauges.git.history import Window
from brakeline.gauges.git.repository import Repository
from brakeline.node.disk import connect, database_errors, disk_errors, transaction
from brakeline.node.ports import Connection

Progress = Callable[[int, int], None]  # files done, files in all
BATCH: Final = 64


@dataclass(frozen=True)
class Rule:
    """How blame follows a line back: the flags of git-blame(1), and whether blank lines count."""

    flags: tuple[str, ...]
    blanks: bool


# Re-indented lines keep their author (-w); so do lines moved in a file (-M), or moved and copied between files (-C -C).
RULE: Final = Rule(("-w", "-M", "-C", "-C"), blanks=False)


class Run(NamedTuple):
    """`length` consecutive lines that `commit` wrote as lines `start`, … of its file `path` (counted from 1)."""

    commit: str
    path: str
    start: int
    length: int


Span = tuple[int, int]  # first and last line, from 1


class Blamed(NamedTuple):
    """A file at the end of a window: the runs that commits of the window wrote. `generated` as its first lines say."""

    runs: tuple[Run, ...]
    generated: bool


class Entry(NamedTuple):
    path: str
    blob: str


def files_at(repo: Repository, commit: str) -> tuple[Entry, ...]:
    """The regular files of a commit: no symbolic links, no submodules."""
    entries = []
    for row in repo.git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        meta, _, name = row.partition(b"\t")
        mode, _, blob = meta.decode().split()
        if mode in ("100644", "100755"):
            entries.append(Entry(name.decode("utf-8", "surrogateescape"), blob))
    return tuple(entries)


def touched(repo: Repository, window: Window) -> frozenset[str] | None:
    """Paths that differ between a commit of the window and any of its parents; None (all) for a whole history.

    No other file can hold a line of the window. Comparing only the window's two ends would miss a line that was taken
    out and put back: blame gives it to the commit that put it back.
    """
    if window.start is None:
        return None
    ids = repo.git("rev-list", *window.range, "--")
    out = repo.git(
        "diff-tree", "--stdin", "-m", "-r", "--root", "--no-renames", "--name-only", "-z", "--no-commit-id", stdin=ids
    )
    return frozenset(name.decode("utf-8", "surrogateescape") for name in out.split(b"\0") if name)


def blame_file(repo: Repository, rule: Rule, window: Window, inside: Collection[str], path: str) -> Blamed:
    """Blame one file of the window's end, whole. `inside` holds the ids of the window's commits."""
    span = window.end if window.start is None else f"{window.start}..{window.end}"
    out = repo.git("blame", "--porcelain", "--no-textconv", *rule.flags, span, "--", path)
    return read_porcelain(out, rule, inside)


def read_porcelain(out: bytes, rule: Rule, inside: Collection[str]) -> Blamed:
    """Read `git blame --porcelain`. A group's path stands in its first line's headers, or is the commit's last one."""
    rows = out.split(b"\n")
    names: dict[bytes, str] = {}
    runs: list[Run] = []
    head: list[bytes] = []
    commit = path = ""
    counts = False
    i, end = 0, len(rows) - 1
    while i < end:
        words = rows[i].split(b" ")
        i += 1
        while not rows[i].startswith(b"\t"):
            if rows[i].startswith(b"filename "):
                names[words[0]] = unquote(rows[i][9:])
            i += 1
        content = rows[i][1:]
        i += 1
        if len(head) < MARK_LINES:
            head.append(content)
        if len(words) == 4:
            commit, path = words[0].decode(), names[words[0]]
            counts = commit in inside
        if not counts or not (rule.blanks or content.strip()):
            continue
        line = int(words[1])
        last = runs[-1] if runs else None
        if last and last[:2] == (commit, path) and last.start + last.length == line:
            runs[-1] = Run(commit, path, last.start, last.length + 1)
        else:
            runs.append(Run(commit, path, line, 1))
    return Blamed(tuple(runs), marked_generated(head))


_ESCAPES: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"v": b"\v", b"f": b"\f"}


def unquote(name: bytes) -> str:
    """A path as git prints it: in quotes with C escapes when it holds anything unusual (git-config(1), core.quotePath).

    Raises:
        Refused: an escape that git does not write.
    """
    if not name.startswith(b'"'):
        return name.decode("utf-8", "surrogateescape")
    parts = name[1:-1].split(b"\\")
    plain = [parts[0]]
    rest: Iterator[bytes] = iter(parts[1:])
    for part in rest:
        if not part:  # an escaped backslash splits into an empty part and what follows
            plain.append(b"\\" + next(rest, b""))
        elif part[:3].isdigit() and len(part) >= 3:
            plain.append(bytes([int(part[:3], 8)]) + part[3:])
        elif part[:1] == b'"' or part[:1] in _ESCAPES:
            plain.append(_ESCAPES.get(part[:1], b'"') + part[1:])
        else:
            raise Refused(Reason.TAMPERED, f"git printed an odd path: {name[:80]!r}")
    return b"".join(plain).decode("utf-8", "surrogateescape")


def union(spans: Iterable[Span]) -> Iterator[Span]:
    """The same lines as sorted spans that do not touch."""
    open_ = None
    for first, last in sorted(spans):
        if open_ and first <= open_[1] + 1:
            open_ = (open_[0], max(open_[1], last))
            continue
        if open_:
            yield open_
        open_ = (first, last)
    if open_:
        yield open_


def distinct(runs: Iterable[Run]) -> Iterator[Run]:
    """The same lines, each once: however often a line was copied, only one was written."""
    spans: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for run in runs:
        spans[run.commit, run.path].append((run.start, run.start + run.length - 1))
    for (commit, path), there in spans.items():
        for first, last in union(there):
            yield Run(commit, path, first, last - first + 1)


class Cache:
    """Answers of blame on disk, by rule, start, end, path and blob."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        with database_errors():
            db.execute(
                "CREATE TABLE IF NOT EXISTS blame (rule TEXT, start TEXT, end TEXT, path BLOB, blob TEXT,"
                " answer TEXT, PRIMARY KEY (rule, start, end, path)) WITHOUT ROWID"
            )

    def ends(self, rule: Rule, start: str | None) -> list[str]:
        with database_errors():
            query = "SELECT DISTINCT end FROM blame WHERE rule = ? AND start = ?"
            return [end for (end,) in self._db.execute(query, (str(rule), str(start)))]

    def known(self, rule: Rule, window: Window, wanted: Collection[Entry]) -> dict[str, Blamed]:
        with database_errors():
            rows = self._db.execute(
                "SELECT path, blob, answer FROM blame WHERE rule = ? AND start = ? AND end = ?",
                (str(rule), str(window.start), window.end),
            )
            found = {Entry(p.decode("utf-8", "surrogateescape"), blob): answer for p, blob, answer in rows}
        return {entry.path: _read(found[entry]) for entry in wanted if entry in found}

    def keep(self, rule: Rule, window: Window, answers: Iterable[tuple[Entry, Blamed]]) -> None:
        key = (str(rule), str(window.start), window.end)
        rows = [(*key, e.path.encode("utf-8", "surrogateescape"), e.blob, _write(b)) for e, b in answers]
        with database_errors(), transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO blame VALUES (?, ?, ?, ?, ?, ?)", rows)


def _write(blamed: Blamed) -> str:
    return json.dumps([[list(run) for run in blamed.runs], blamed.generated])


def _read(answer: str) -> Blamed:
    runs, generated = json.loads(answer)
    return Blamed(tuple(Run(*run) for run in runs), generated)


@contextmanager
def open_cache(path: Path, measured: Iterable[Repository] = ()) -> Iterator[Cache]:
    """The answers kept at `path`, which is created when it is not there.

    Raises:
        Misuse: it lies inside a repository that is measured, whose owner could then bring his own answers.
    """
    for repo in measured:
        if path.resolve().is_relative_to(repo.path):
            raise Misuse(
                f"{path.parent} lies in the repository that is measured",
                hint="run the command in another folder, or name one with --out",
            )
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
    with database_errors():
        db = connect(path)
    try:
        yield Cache(db)
    finally:
        db.close()


def blame_all(
    repo: Repository,
    rule: Rule,
    window: Window,
    inside: Collection[str],
    wanted: Collection[Entry],
    cache: Cache | None,
    progress: Progress,
) -> dict[str, Blamed]:
    """Blame many files at the window's end, one process a core. Interrupted, it keeps what it has in the cache."""
    done = cache.known(rule, window, wanted) if cache else {}
    if cache and len(done) < len(wanted):
        older = _from_older_end(repo, rule, window, [e for e in wanted if e.path not in done], cache)
        cache.keep(rule, window, ((e, older[e.path]) for e in wanted if e.path in older))
        done |= older
    todo = [entry for entry in wanted if entry.path not in done]
    progress(len(done), len(wanted))
    fresh: list[tuple[Entry, Blamed]] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        futures = {pool.submit(blame_file, repo, rule, window, inside, e.path): e for e in todo}
        for future in as_completed(futures):
            entry = futures[future]
            done[entry.path] = future.result()
            fresh.append((entry, done[entry.path]))
            if cache and len(fresh) >= BATCH:
                cache.keep(rule, window, fresh)
                fresh = []
            progress(len(done), len(wanted))
    finally:
        pool.shutdown(cancel_futures=True)
        if cache and fresh:
            cache.keep(rule, window, fresh)
    return done


def _from_older_end(
    repo: Repository, rule: Rule, window: Window, wanted: Collection[Entry], cache: Cache
) -> dict[str, Blamed]:
    """Answers for an end in this one's history, for the files that no commit in between has touched."""
    for end in cache.ends(rule, window.start):
        if end == window.end or not repo.asks("cat-file", "-e", end):
            continue
        if not repo.asks("merge-base", "--is-ancestor", end, window.end):
            continue
        changed = touched(repo, Window(end, window.end)) or frozenset()
        return cache.known(rule, Window(window.start, end), [e for e in wanted if e.path not in changed])
    return {}
