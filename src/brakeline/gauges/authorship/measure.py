"""The measurement: every surviving line of the window gets the class of its best evidence, and the shares are bounds.

    note > identity > trailer > known-human > unknown

The value and lower bound count what is attributed to AI; the upper bound counts all that is not known to be human.
Missing evidence is never a human: who strips trailers widens the interval and stays inconclusive.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason, Refused
from brakeline.core.measurement import Measurement
from brakeline.gauges.authorship.agents import AGENTS_VERSION, agent_of_identity, agent_of_trailers
from brakeline.gauges.authorship.attest import added_lines, beyond
from brakeline.gauges.authorship.notes import Claim, Note, notes_tree, parse_traces, read_notes
from brakeline.gauges.git.blame import RULE, Blamed, Cache, Entry, Progress, Run, blame_all, distinct, files_at, touched
from brakeline.gauges.git.files import FILTER_VERSION, kind
from brakeline.gauges.git.history import Commit, Window, commits
from brakeline.gauges.git.repository import Repository, require_whole
from brakeline.gauges.git.restored import restored

VERSION: Final = 1
THRESHOLD: Final = 0.80  # Favaro & Clark, "When AI builds itself", 2026: "more than 80% of the code we merge"
CLASSES: Final = ("note", "identity", "trailer", "known-human", "unknown")
ATTRIBUTED: Final = CLASSES[:3]
BULK: Final = 2000  # lines of one commit in one file, beyond which they are reported as bulk


class Line(NamedTuple):
    """What lines are counted by: class of evidence, agent (empty: none), and quarter of the origin commit."""

    evidence: str
    agent: str
    quarter: str


@dataclass
class Evidence:
    """Notes by commit, and what was found wrong with them."""

    notes: dict[str, Note]
    malformed: int = 0
    foreign: int = 0
    attested: int = 0
    over_attested: int = 0
    over_attesting: int = 0


def quarter_of(when: int) -> str:
    day = datetime.fromtimestamp(when, UTC)
    return f"{day.year}Q{(day.month + 2) // 3}"


def evidence_of_commit(commit: Commit) -> tuple[str, str]:
    """Class and agent by identity or trailer; unknown without either, whoever the author is."""
    if agent := agent_of_identity(*commit.author):
        return "identity", agent
    if agent := agent_of_trailers(commit.message):
        return "trailer", agent
    return "unknown", ""


def gather(repo: Repository, tree: str, found: Mapping[str, Commit], traces: bytes) -> Evidence:
    """All line-level claims about the commits, checked: a note that names another commit's history is no evidence.

    `tree` holds the notes (see `notes_tree`).
    """
    evidence = Evidence({})
    if tree:
        evidence.notes, evidence.malformed = read_notes(repo, tree, found)
    for oid, note in list(evidence.notes.items()):
        if note.base not in (oid, *found[oid].parents):
            evidence.foreign += 1
            del evidence.notes[oid]
    for oid, trace in parse_traces(traces).items() if traces else ():
        if oid not in found:
            evidence.foreign += 1
            continue
        for path, claims in trace.claims.items():
            evidence.notes.setdefault(oid, Note(base=oid)).add(path, claims)
    plain = [oid for oid in evidence.notes if len(found[oid].parents) < 2]
    added = added_lines(repo, plain)
    for oid in plain:
        attested, outside = beyond(evidence.notes[oid], added.get(oid, {}))
        evidence.attested += attested
        evidence.over_attested += outside
        evidence.over_attesting += bool(outside)
    return evidence


def tally(
    runs: Iterable[Run], found: Mapping[str, Commit], notes: Mapping[str, Note], back: Collection[tuple[str, str]] = ()
) -> Counter[Line]:
    """Count lines by class, agent and quarter, each written line once.

    `back` holds the commits and paths of restored files: who brings a file back shows nothing about who wrote it.
    """
    counts: Counter[Line] = Counter()
    by_file: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in distinct(runs):
        by_file[run.commit, run.path].append(run)
    for (oid, path), there in by_file.items():
        evidence, agent = evidence_of_commit(found[oid])
        quarter = quarter_of(found[oid].committed)
        if (oid, path) in back:
            counts[Line("unknown", "", quarter)] += sum(run.length for run in there)
            continue
        claims = notes[oid].claims.get(path, []) if oid in notes else []
        if not claims:
            counts[Line(evidence, agent, quarter)] += sum(run.length for run in there)
            continue
        names = sorted({claim.agent for claim in claims if claim.agent})
        for mark, lines in _marks(there, claims, names):
            if mark > 1:
                counts[Line("note", names[mark - 2], quarter)] += lines
            elif mark == 1 and evidence == "unknown":
                counts[Line("known-human", "", quarter)] += lines
            else:
                counts[Line(evidence, agent, quarter)] += lines
    return counts


def _marks(runs: list[Run], claims: list[Claim], names: list[str]) -> Iterator[tuple[int, int]]:
    """How many lines of the runs bear each mark: 0 nothing, 1 a known human, 2 + i the agent names[i]."""
    marks = np.zeros(max(run.start + run.length for run in runs), dtype=np.int32)
    # Agents last: a claim that a human wrote a line never outdoes a claim that an agent did.
    for claim in sorted(claims, key=lambda c: bool(c.agent)):
        marks[claim.first : claim.last + 1] = names.index(claim.agent) + 2 if claim.agent else 1
    ours = np.concatenate([marks[run.start : run.start + run.length] for run in runs])
    values, lines = np.unique(ours, return_counts=True)
    yield from zip(values.tolist(), lines.tolist(), strict=True)


def measure(
    repo: Repository,
    window: Window,
    *,
    traces: bytes = b"",
    cache: Cache | None = None,
    progress: Progress = lambda done, total: None,
) -> Measurement:
    """Measure the share of AI-attributed lines among those that the window added and that survive at its end.

    `traces` are Agent Trace records (see `parse_traces`).

    Raises:
        Refused: the history is not whole, or no code line of the window survives.
        Malformed: the Agent Trace records do not parse.
    """
    tree = notes_tree(repo)
    replaced = require_whole(repo, window.end, *filter(None, [tree]))
    found = commits(repo, window)
    evidence = gather(repo, tree, found, traces)
    changed = touched(repo, window)
    here = [e for e in files_at(repo, window.end) if changed is None or e.path in changed]
    code: list[Entry] = [e for e in here if kind(e.path) == "code"]
    blamed = blame_all(repo, RULE, window, found, code, cache, progress)
    runs = list(distinct(run for b in blamed.values() if not b.generated for run in b.runs))
    back = restored(repo, window.end)
    counts = tally(runs, found, evidence.notes, back)
    total = counts.total()
    if not total:
        raise Refused(Reason.MISSING, "no code line of this window survives", hint="choose a longer window")
    by_class = {c: sum(n for line, n in counts.items() if line.evidence == c) for c in CLASSES}
    lower = sum(by_class[c] for c in ATTRIBUTED) / total
    return Measurement(
        gauge="authorship",
        version=VERSION,
        subject=_name(repo.path),
        inputs=_inputs(window, tree, replaced, traces),
        unit="share",
        value=lower,
        lower=lower,
        upper=1 - by_class["known-human"] / total,
        threshold=THRESHOLD,
        complete=True,
        alarms=(),
        details={
            "lines": total,
            "classes": by_class,
            "agents": _agents(counts),
            "quarters": _quarters(counts),
            "commits": len(found),
            "notes": _note_details(evidence),
            "left_out": _left_out(here, blamed, found, evidence.notes),
            "bulk_lines": _bulk(runs),
            "restored_lines": sum(run.length for run in runs if (run.commit, run.path) in back),
            "replaced_objects": list(replaced),
        },
        logs=(),
    )


def _name(path: Path) -> str:
    """The folder's name, as printable text: it may hold any bytes."""
    return path.resolve().name.removesuffix(".git").encode("ascii", "backslashreplace").decode()


def _inputs(window: Window, tree: str, replaced: tuple[str, ...], traces: bytes) -> dict[str, Any]:
    return {
        "start": window.start or "",
        "end": window.end,
        "filter": FILTER_VERSION,
        "agents": AGENTS_VERSION,
        "blame": list(RULE.flags),
        "notes_tree": tree,
        "agent_traces": sha256(traces).hex() if traces else "",
        "replaced": list(replaced),
    }


def _agents(counts: Counter[Line]) -> dict[str, int]:
    by_agent = Counter[str]()
    for line, n in counts.items():
        if line.agent:
            by_agent[line.agent] += n
    return dict(sorted(by_agent.items()))


def _quarters(counts: Counter[Line]) -> dict[str, dict[str, int]]:
    quarters: dict[str, dict[str, int]] = {}
    for line, n in sorted(counts.items()):
        classes = quarters.setdefault(line.quarter, dict.fromkeys(CLASSES, 0))
        classes[line.evidence] += n
    return dict(sorted(quarters.items()))


def _note_details(evidence: Evidence) -> dict[str, int]:
    return {
        "commits": len(evidence.notes),
        "malformed": evidence.malformed,
        "foreign": evidence.foreign,
        "attested_lines": evidence.attested,
        "over_attested_lines": evidence.over_attested,
        "over_attesting_commits": evidence.over_attesting,
    }


def _left_out(
    here: list[Entry], blamed: Mapping[str, Blamed], found: Mapping[str, Commit], notes: Mapping[str, Note]
) -> dict[str, Any]:
    """What the filter kept from counting. The owner chooses paths and marks, so a hiding place would show here."""
    kinds = Counter(kind(e.path) for e in here)
    marked = tally((run for b in blamed.values() if b.generated for run in b.runs), found, notes)
    return {
        "vendored_files": kinds["vendored"],
        "generated_files": kinds["generated"] + sum(b.generated for b in blamed.values()),
        "other_files": kinds["other"],
        "marked_generated_lines": marked.total(),
        "marked_generated_ai_lines": sum(n for line, n in marked.items() if line.evidence in ATTRIBUTED),
    }


def _bulk(runs: Iterable[Run]) -> int:
    """Lines beyond the first `BULK` of one commit in one file: an import, more likely than somebody's writing."""
    by_file: Counter[tuple[str, str]] = Counter()
    for run in runs:
        by_file[run.commit, run.path] += run.length
    return sum(max(0, n - BULK) for n in by_file.values())
