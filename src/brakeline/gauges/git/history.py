"""Commits and windows: which part of the default branch's history is measured."""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.gauges.git.repository import Repository

_FIELDS: Final = ("%H", "%P", "%an", "%ae", "%cn", "%ce", "%at", "%ct", "%B")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
YEAR: Final = 365 * 86400


@dataclass(frozen=True)
class Commit:
    """Names and addresses as they stand in the commit: no `.mailmap` has touched them. Times are Unix seconds."""

    id: str
    parents: tuple[str, ...]
    author: tuple[str, str]
    committer: tuple[str, str]
    authored: int
    committed: int
    message: str


@dataclass(frozen=True)
class Window:
    """The commits that `end` reaches and `start` does not; without `start`, the whole history of `end`."""

    start: str | None
    end: str

    @property
    def range(self) -> tuple[str, ...]:
        return (self.end,) if self.start is None else (self.end, f"^{self.start}")


def commits(repo: Repository, window: Window) -> dict[str, Commit]:
    """The window's commits by id, newest first.

    Raises:
        Refused: git listed fewer than it counts.
    """
    out = repo.git("log", "-z", "--encoding=UTF-8", f"--format={'%x00'.join(_FIELDS)}", *window.range, "--")
    words = out.decode("utf-8", "replace").split("\0")
    size = len(_FIELDS)
    found = {}
    for i in range(0, len(words) - size + 1, size):
        oid, parents, an, ae, cn, ce, at, ct, message = words[i : i + size]
        found[oid] = Commit(oid, tuple(parents.split()), (an, ae), (cn, ce), _seconds(at), _seconds(ct), message)
    expected = int(repo.text("rev-list", "--count", *window.range, "--"))
    if len(found) != expected:
        raise Refused(Reason.MISSING, f"git counts {expected} commits and lists {len(found)}")
    return found


def _seconds(text: str) -> int:
    """A commit's time; a damaged one counts as 0. Beyond the year 9999 no calendar follows."""
    return min(int(text), 253402300799) if text.isdecimal() else 0


def resolve(repo: Repository, revision: str) -> str:
    """The id of the commit that a revision names.

    Raises:
        Misuse: there is none.
    """
    try:
        return repo.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except Refused as e:
        raise Misuse(f"{repo.path.name} has no commit {revision!r}") from e


class Mainline:
    """The first-parent history of a commit: what was merged when. Dates are committer dates, as the repository says.

    Commit times are their authors' claims and need not grow; `times` are in order (see `in_order`). Who needs more than
    a claim names commits instead of dates.
    """

    def __init__(self, repo: Repository, head: str) -> None:
        rows = repo.text("rev-list", "--first-parent", "--timestamp", head, "--").splitlines()
        pairs = [(_seconds(t), oid) for t, oid in (row.split() for row in reversed(rows))]
        self.ids = [oid for _, oid in pairs]
        self.times = in_order([t for t, _ in pairs])

    def before(self, when: int) -> str | None:
        """The newest commit below the time `when`, or None when the history begins later."""
        at = bisect_left(self.times, when)
        return self.ids[at - 1] if at else None


def in_order(times: list[int]) -> list[int]:
    """Times that never fall: those outside a longest non-falling subsequence take the time of the next one inside.

    So one commit of 1970 or of next century among others is a clock that lied, and moves nobody else's.
    """
    ends: list[int] = []  # lowest last time of a subsequence of each length, and where that stands
    places: list[int] = []
    before: list[int] = []  # the place that comes before in the best subsequence up to here, or -1
    for i, t in enumerate(times):
        length = bisect_right(ends, t)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1] = [t]
        places[length : length + 1] = [i]
    if not times:
        return []
    at, result = places[-1], [times[places[-1]]] * len(times)
    for i in range(len(times) - 1, -1, -1):
        if i == at:
            at = before[i]
            result[i] = times[i]
        elif i + 1 < len(times):
            result[i] = result[i + 1]
    return result


def midnight(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())


def window_of(repo: Repository, text: str | None) -> Window:
    """`A..B`, where each side is a revision, a day (YYYY-MM-DD, from 00:00 UTC) or empty: beginning, and HEAD.

    Without a text, the year that ends with the newest commit.

    Raises:
        Misuse: not of this form, an unknown revision, A not in the history of B, or no commit between them.
    """
    head = resolve(repo, "HEAD")
    if text is None:
        line = Mainline(repo, head)
        return Window(line.before(line.times[-1] - YEAR), head)
    first, dots, last = text.partition("..")
    if not dots or last.startswith("."):
        raise Misuse(f"not a window: {text!r}", hint="write A..B, as v1.0..v2.0 or 2025-01-01..2026-01-01")
    end = _side(repo, head, last) if last else head
    start = _side(repo, head, first) if first else None
    if end is None:
        raise Misuse(f"{repo.path.name} has no commit before {last}")
    if start == end:
        raise Misuse(f"the window {text} holds no commit")
    if start is not None and not repo.asks("merge-base", "--is-ancestor", start, end):
        ancestor = f"`git merge-base {first} {last or 'HEAD'}` prints a commit that is"
        raise Misuse(f"{first} is not in the history of {last or 'HEAD'}", hint=ancestor)
    return Window(start, end)


def _side(repo: Repository, head: str, text: str) -> str | None:
    if not _DATE.fullmatch(text):
        return resolve(repo, text)
    try:
        day = date.fromisoformat(text)
    except ValueError as e:
        raise Misuse(f"not a day: {text}") from e
    return Mainline(repo, head).before(midnight(day))
