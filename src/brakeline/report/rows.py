"""The tables of the page: plain values, row by row."""

from collections.abc import Iterator
from typing import Any

from brakeline.core import words
from brakeline.core.finding import Finding, key_of
from brakeline.core.state import events as e
from brakeline.core.state import readings as r
from brakeline.core.state.audits import upheld
from brakeline.core.state.runs import Run
from brakeline.core.state.state import State
from brakeline.core.treaty import Treaty
from brakeline.core.words import names
from brakeline.report.figures import duration, short, utc
from brakeline.report.story import Story, Told

Row = dict[str, Any]


def judged(story: Story) -> list[Row]:
    """Which rules judged this log, and what they found: all that another build must find, too."""
    proven = story.proven
    treaty, ground = proven.treaty, proven.state.ground
    return [
        {"what": "rules", "means": f"version {treaty.rules}, which the treaty names", "digest": ""},
        {"what": "treaty", "means": f"{treaty.name}, version {treaty.version}: its text", "digest": ground.digest},
        {"what": "articles", "means": "the numbered articles, as they were applied", "digest": ground.articles},
        {"what": "state", "means": f"what follows from {proven.state.size} log entries", "digest": proven.digest},
    ]


def stated(state: State) -> list[Row]:
    """The state that each permit signer signed last. Treaty 6.6."""
    return [
        {"signer": name, "size": size, "state": digest}
        for name, member in state.members.by_name.items()
        for size, digest in [member.stated]
        if size
    ]


def refused(story: Story) -> list[e.Void]:
    """Entries without effect."""
    return [x for x in story.proven.events if isinstance(x, e.Void)]


def gauges(state: State) -> list[Row]:
    """What enough parties measured and found the same, at the bundle's checkpoint, with the treaty's thresholds."""
    triggers = {t.gauge: t for t in state.treaty.triggers}
    return [
        {
            "gauge": found.gauge,
            "gauge_class": triggers[found.gauge].gauge_class,
            "subject": short(found.subject, 20),
            "bounds": f"{found.lower:.4g} to {found.upper:.4g} {triggers[found.gauge].unit}",
            "threshold": f"{triggers[found.gauge].at_least:g}",
            "alarms": ", ".join(found.alarms),
            "parties": names(found.parties),
            "reaches": r.reaches(state.treaty, state.readings, found),
        }
        for found in r.current(state.readings)
    ]


def disagreements(state: State) -> list[Row]:
    """Readings in force of which one is wrong."""
    return [
        {"gauge": gauge, "subject": subject, "first": first, "second": second}
        for (gauge, subject), first, second in r.disagreements(state.readings)
    ]


def parties(state: State) -> list[Row]:
    """Each party: its roles, whether it is bound at the bundle's checkpoint, and why."""
    return [
        {
            "name": p.name,
            "represents": p.represents,
            "roles": ", ".join(sorted(p.roles)),
            "bound": p.name in state.active,
            "why": words.bound(state, p.name),
        }
        for p in state.treaty.parties.values()
    ]


def run(told: Told) -> Row:
    """One line of the table of runs."""
    of = told.run
    at = {h.entry: h.head.steps for h in told.heads}
    return {
        "name": told.name,
        "lab": of.owner,
        "rung": of.declaration.rung,
        "tiers": _tiers(of),
        "steps": of.declaration.steps,
        "done": of.steps,
        "status": of.head.status if of.head else "declared",
        "flop": of.lineage_flop,
        "verdicts": [f"{a.inspector}: {a.audit.verdict} up to step {at[a.audit.head]}" for a in told.audits],
        "barred": words.bar(of.bar),
        "held": told.held,
        "standing": words.standing(of),
    }


def _tiers(of: Run) -> str:
    """`covered, large (by decision)`, `not covered`, `covered; exempt: inference`."""
    tiers = [f"{t} (by decision)" if t in of.chosen else t for t in of.tiers] or ["not covered"]
    return ", ".join(tiers) + (f"; exempt: {of.exempt}" if of.exempt else "")


def findings(story: Story) -> list[Row]:
    """Findings, those of several inspectors about one matter together, and what became of each."""
    rows: dict[tuple[str, str, str], Row] = {}
    for told in story.runs:
        for audited in told.audits:
            for f in audited.audit.findings:
                row = rows.setdefault((told.run.id, f.key, f.severity), _finding(told, f))
                if audited.inspector not in row["inspectors"]:
                    row["inspectors"].append(audited.inspector)
    for event in story.proven.events:
        match event:
            case e.Alleged():
                row = rows[event.run, event.finding.key, "violation"]
                row["retracted"] = [x for x in row["retracted"] if x != event.inspector]
            case e.Retracted():
                rows[event.run, key_of(event.fault, event.segment), "violation"]["retracted"].append(event.inspector)
            case e.Answered():
                rows[event.run, key_of(event.fault, event.segment), "violation"]["answer"] = event.text
    runs, treaty = story.proven.state.runs.by_id, story.proven.treaty
    for (run, key, severity), row in rows.items():
        row["standing"] = _outcome(treaty, runs[run], key) if severity == "violation" else severity
    return list(rows.values())


def _finding(told: Told, f: Finding) -> Row:
    return {
        "run": told.name,
        "lab": told.run.owner,
        "fault": str(f.fault),
        "means": words.FAULTS[f.fault],
        "severity": f.severity,
        "where": "the whole run" if f.segment == (0, 0) else f"steps {f.segment[0]} to {f.segment[1]}",
        "detail": f.detail,
        "inspectors": [],
        "retracted": [],
        "answer": "",
    }


def _outcome(treaty: Treaty, run: Run, key: str) -> str:
    """What became of an allegation. Treaty 7.7, 7.9."""
    found = run.allegations.get(key)
    if found is None:  # the state forgets what all have taken back, and takes nothing more against a barred run
        return "alleged" if run.bar else "taken back"
    return "upheld" if upheld(treaty, found) else "fell" if found.fell else "alleged"


def dues(story: Story) -> list[Row]:
    """What parties owed one another on the record, the newest last, and whether they did it. Article 10."""
    rows: dict[int, Row] = {}
    for event in story.proven.events:
        match event:
            case e.Due():
                rows[event.about] = _due(story, event)
            case e.Met() if event.about in rows:
                rows[event.about]["done"] = f"done, entry {event.entry}"
            case e.Lapsed():
                late = "done late" if event.what == "incident" else "not done in time"
                rows.setdefault(event.about, _due(story, event)).update(done=late, lapsed=True)
    return list(rows.values())


def _due(story: Story, event: e.Due | e.Lapsed) -> Row:
    since = f", {duration(1000 * (event.by - event.since))} from then" if isinstance(event, e.Due) else ""
    return {
        "party": event.party,
        "what": event.what,
        "about": event.about,
        "by": f"{utc(event.by)}{since}",
        "done": "due",
        "lapsed": False,
    }


def said(story: Story) -> Iterator[Row]:
    """Incidents, notices, requests and reports, in the words of the party."""
    for event in story.proven.events:
        if isinstance(event, e.Reported):
            kind = f"{event.kind}: {event.incident}" if event.incident else event.kind
            yield {"entry": event.entry, "party": event.party, "kind": kind, "text": event.text}
