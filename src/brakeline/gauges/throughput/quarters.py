"""What each person merged in each quarter: surviving code lines by person, read from the history."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from brakeline.gauges.authorship.agents import agent_of_identity
from brakeline.gauges.authorship.measure import ATTRIBUTED, gather, tally
from brakeline.gauges.authorship.notes import notes_tree
from brakeline.gauges.git.blame import RULE, Blamed, Cache, Progress, Run, blame_all, distinct, files_at, touched
from brakeline.gauges.git.files import kind
from brakeline.gauges.git.history import Commit, Mainline, Window, commits, resolve
from brakeline.gauges.git.repository import Repository, require_whole
from brakeline.gauges.git.restored import restored
from brakeline.gauges.throughput.calendar import Quarter
from brakeline.gauges.throughput.people import Identity, credited

CAP: Final = 2000  # lines of one commit in one file: beyond it, an import
LATER: Final = 30 * 86400  # seconds after the quarter's end, for the figure of what lasts


@dataclass
class Quarterly:
    """One quarter of all repositories. Lines are keyed by identity; persons are joined later.

    `lines` are those that survive at the quarter's end, `without_ai` the ones among them without evidence of AI, and
    `lasting` those still there thirty days on (None when the history does not reach that far).
    """

    lines: Counter[Identity] = field(default_factory=Counter)
    without_ai: Counter[Identity] = field(default_factory=Counter)
    lasting: Counter[Identity] | None = field(default_factory=Counter)
    days: defaultdict[Identity, set[int]] = field(default_factory=lambda: defaultdict(set))
    uncredited: int = 0  # agents' lines that nobody committed or co-signed
    bots: int = 0
    capped: int = 0
    restored: int = 0


@dataclass(frozen=True)
class Source:
    """A repository whose history is whole, with its notes and what was merged into its default branch when."""

    repo: Repository
    head: str
    line: Mainline
    notes: str

    @classmethod
    def open(cls, repo: Repository) -> "Source":
        head = resolve(repo, "HEAD")
        notes = notes_tree(repo)
        require_whole(repo, head, *filter(None, [notes]))
        return cls(repo, head, Mainline(repo, head), notes)

    def after(self, quarter: Quarter) -> str | None:
        """The commit that shows what lasts of a quarter, or None when the history does not reach that far."""
        when = quarter.end + LATER
        return self.line.before(when) if self.line.times[-1] >= when else None

    def restored(self, quarter: Quarter) -> frozenset[tuple[str, str]]:
        """Commits and paths of restored files (see `gauges.git.restored`), as far as the quarter's figures look."""
        end = self.after(quarter) or self.line.before(quarter.end)
        return restored(self.repo, end) if end else frozenset()

    def mailmap(self, commit: str) -> str:
        """The `.mailmap` of a commit, or nothing. Never that of a work tree, which nobody else has."""
        row = self.repo.text("ls-tree", "--full-tree", commit, ".mailmap").split()
        return self.repo.text("cat-file", "blob", row[2]) if row and row[1] == "blob" else ""


def collect(
    sources: Iterable[Source], quarters: Collection[Quarter], cache: Cache | None, progress: Progress
) -> dict[Quarter, Quarterly]:
    """Read every quarter of every repository. A commit that two of them share counts once."""
    found = {quarter: Quarterly() for quarter in quarters}
    seen: set[str] = set()
    jobs = [(s, quarter, back) for s in sources for back in [s.restored(max(quarters))] for quarter in sorted(quarters)]
    for i, (source, quarter, back) in enumerate(jobs):
        progress(i, len(jobs))
        start, end = source.line.before(quarter.start), source.line.before(quarter.end)
        if end is None or start == end:
            continue
        _read(source, quarter, Window(start, end), found[quarter], seen, back, cache)
    progress(len(jobs), len(jobs))
    return found


def _read(
    source: Source,
    quarter: Quarter,
    window: Window,
    into: Quarterly,
    seen: set[str],
    back: Collection[tuple[str, str]],
    cache: Cache | None,
) -> None:
    ours = {oid: c for oid, c in commits(source.repo, window).items() if oid not in seen}
    seen.update(ours)
    for commit in ours.values():
        if person := credited(commit):
            into.days[person].add(commit.authored // 86400)
    notes = gather(source.repo, source.notes, ours, b"").notes
    by_file: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in _survivors(source, window, window, cache):
        by_file[run.commit, run.path].append(run)
    for (oid, path), runs in by_file.items():
        if oid not in ours:
            continue
        if (oid, path) in back:
            into.restored += sum(run.length for run in runs)
            continue
        kinds = tally(runs, ours, notes)
        lines = kinds.total()
        human = sum(n for line, n in kinds.items() if line.evidence not in ATTRIBUTED)
        person = credited(ours[oid])
        if person is None:
            if agent_of_identity(*ours[oid].author):
                into.uncredited += lines
            else:
                into.bots += lines
            continue
        into.lines[person] += min(lines, CAP)
        into.without_ai[person] += min(human, CAP)
        into.capped += max(0, lines - CAP)
    if into.lasting is not None:
        into.lasting = _lasting(source, quarter, window, ours, into.lasting, back, cache)


def _survivors(source: Source, window: Window, at: Window, cache: Cache | None) -> Iterable[Run]:
    """Code lines that commits of `window` wrote and that are there at the end of `at`, which begins where it does."""
    repo = source.repo
    inside = frozenset(repo.text("rev-list", *at.range, "--").split())
    mine = inside if at == window else frozenset(repo.text("rev-list", *window.range, "--").split())
    changed = touched(repo, at)
    wanted = [e for e in files_at(repo, at.end) if kind(e.path) == "code" and (changed is None or e.path in changed)]
    blamed: Mapping[str, Blamed] = blame_all(repo, RULE, at, inside, wanted, cache, lambda done, total: None)
    return distinct(run for b in blamed.values() if not b.generated for run in b.runs if run.commit in mine)


def _lasting(
    source: Source,
    quarter: Quarter,
    window: Window,
    ours: Mapping[str, Commit],
    so_far: Counter[Identity],
    back: Collection[tuple[str, str]],
    cache: Cache | None,
) -> Counter[Identity] | None:
    later = source.after(quarter)
    if later is None:
        return None
    by_file: Counter[tuple[str, str]] = Counter()
    for run in _survivors(source, window, Window(window.start, later), cache):
        by_file[run.commit, run.path] += run.length
    for (oid, path), lines in by_file.items():
        if oid in ours and (oid, path) not in back and (person := credited(ours[oid])):
            so_far[person] += min(lines, CAP)
    return so_far


def newest(sources: Iterable[Source]) -> datetime:
    return datetime.fromtimestamp(max(source.line.times[-1] for source in sources), UTC)
