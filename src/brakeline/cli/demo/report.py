"""The report: what a verified bundle shows, as one page for people. It words and draws; it decides nothing.

The page is one HTML file without scripts, fonts or anything else from elsewhere, and its security policy forbids them.
Names of runs come from whoever declared them: the template escapes them, the pictures never read them as formulas.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brakeline.core.brake import Phase
from brakeline.core.bundle import Proven
from brakeline.core.errors import Reason, Unavailable
from brakeline.core.finding import Fault, Finding
from brakeline.core.fold import Fold, LoggedHead, RunRecord
from brakeline.core.pledge import Activation
from brakeline.core.tlog.policy import Group
from brakeline.core.transcript import Leaf, segments
from brakeline.core.units import show_flop
from brakeline.node.disk import write_atomic

PICTURED: Final = 12  # runs in a picture; the tables have all of them
LISTED: Final = 200  # lines of the chronicle, and of refused entries

FAULTS: Final[Mapping[Fault, str]] = {
    Fault.TRANSCRIPT_MISMATCH: "the steps shown are not the steps that were logged",
    Fault.HEAD_MISSING: "the run went on too long without committing to its steps",
    Fault.STEP_ORDER: "the recorded steps do not follow one another",
    Fault.INITIAL_STATE: "the run did not start where the log said it must",
    Fault.OPENING_MISSING: "a checkpoint that was asked for was not shown",
    Fault.OPENING_MISMATCH: "the checkpoint shown is not the one recorded",
    Fault.REPLAY_MISMATCH: "running the segment again gives another result",
    Fault.NO_PERMIT: "steps were taken without a permit",
    Fault.OVER_ALLOWANCE: "more compute was used than the permit allowed",
    Fault.RECIPE_MISMATCH: "the code or data are not those declared",
    Fault.ENVIRONMENT_MISMATCH: "the inspector's machine computes differently; this accuses nobody",
    Fault.NOT_REPLAYED: "the inspector could not finish the check",
}
PHASES: Final[Mapping[Phase, str]] = {
    Phase.CLEAR: "training may go on",
    Phase.TRIPPED: "every covered run must stop",
    Phase.PAUSED: "every covered run has stopped, or has no permit left to run on",
    Phase.LIFTING: "a quorum wants to go on; the delay runs",
}


@dataclass(frozen=True, slots=True)
class StopTime:
    """How a run met the order to stop: its last step, and what it still did after the order was published."""

    run: str
    lab: str
    step: int
    milliseconds_after_quorum: float
    steps_after_quorum: int
    flop_after_quorum: int


@dataclass(frozen=True, slots=True)
class ReportTimes:
    """What was measured beside the evidence, on the machine of whoever writes the report; no bundle proves it.

    `quorum_at` is the wall time (POSIX s) at which the trip's checkpoint was published. `shadow_equal` says whether
    the honest run, trained again without interruption, ended in the same state; None when nobody tried.
    """

    quorum_at: float
    stops: tuple[StopTime, ...]
    shadow_equal: bool | None


def write_report(path: Path, proven: Proven, times: ReportTimes) -> None:
    """Write the page for `proven` to `path`.

    Raises:
        Unavailable: the file cannot be written.
    """
    page = render(proven, times).encode()
    try:
        write_atomic(path, page)
    except OSError as e:
        raise Unavailable(f"cannot write {path}: {e.strerror}") from e


def render(proven: Proven, times: ReportTimes) -> str:
    """The page as HTML. The same arguments give the same text."""
    fold, when = proven.fold, Clock.of(proven)
    shown = list(fold.runs.values())[:PICTURED]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(flop=show_flop, duration=duration, signed=signed)
    template = environment.from_string(resources.files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    events = list(chronicle(proven, when))
    refused = [o for o in fold.outcomes if o.reason]
    return template.render(
        headline=headline(proven, times),
        deck=deck(proven, times),
        treaty=proven.treaty,
        cosigned=proven.cosigned,
        start=utc(when.start),
        end=utc(proven.cosigned.time),
        phase=fold.brake.phase,
        phases=PHASES,
        times=times,
        stops=sorted(times.stops, key=lambda s: s.milliseconds_after_quorum),
        slowest=max((s.milliseconds_after_quorum for s in times.stops), default=None),
        events=events[:LISTED],
        more_events=len(events) - LISTED,
        refused=refused[:LISTED],
        more_refused=len(refused) - LISTED,
        gauges=gauge_rows(fold),
        disagreements=fold.readings.disagreements,
        parties=parties(proven),
        runs=[run_row(fold, r) for r in fold.runs.values()],
        findings=finding_rows(fold),
        replayed=sum(len(a.segments) for r in fold.runs.values() for _, _, a in r.audits),
        pictured=len(shown),
        timeline=svg("timeline", timeline(proven, times, shown, when)),
        losses=svg("losses", loss_curves(proven, [r for r in shown if r.id in proven.leaves])),
        strips=svg("strips", audit_strips(proven, [r for r in shown if r.audits])),
    )


# ---- words ----


class Clock(NamedTuple):
    """The log's own time: from its first stamp to the bundle's checkpoint (POSIX s), and the stamps between."""

    start: int
    end: int
    stamps: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, proven: Proven) -> "Clock":
        stamps = tuple((s.index, s.time) for s in proven.fold.stamps)
        start = min((t for _, t in stamps), default=proven.cosigned.time)
        return cls(start, max(proven.cosigned.time, proven.fold.clock, start + 1), stamps)

    def at(self, index: int) -> int:
        """Seconds from the start to the newest stamp before entry `index`."""
        return self.since(max((t for i, t in self.stamps if i <= index), default=self.start))

    def since(self, time: int) -> int:
        """Seconds from the start to `time`: what was logged before the first stamp counts as logged with it."""
        return max(time - self.start, 0)


class Happening(NamedTuple):
    """One line of the chronicle: seconds since the start, what kind it is, what happened."""

    seconds: int
    kind: str
    text: str


def chronicle(proven: Proven, when: Clock) -> Iterator[Happening]:
    """What happened, in the order of the log."""
    fold = proven.fold
    found: list[tuple[int, str, str]] = []
    for kind, did in (("assent", "signed the treaty"), ("pledge", "pledged to keep it, on conditions of their own")):
        logged = [o for o in fold.outcomes if o.kind == kind and not o.reason]
        if logged:
            found.append((logged[-1].index, "word", f"{names({o.issuer: None for o in logged})} {did}."))
    for run in fold.runs.values():
        found += _run_events(run)
    for index, phase, _, cause in proven.phases:
        found.append((index, phase, _phase_event(proven, index, phase, cause)))
    for o in fold.outcomes:
        if o.reason is Reason.EQUIVOCATION:
            found.append((o.index, "bad", f"{o.issuer or 'The log'} contradicted itself: {o.text}."))
    for index, kind, text in sorted(found, key=lambda e: e[0]):
        yield Happening(when.at(index), kind, text)


def _run_events(run: RunRecord) -> Iterator[tuple[int, str, str]]:
    d, name = run.declaration, f"“{run.declaration.name}”"
    yield run.index, "word", f"{run.owner} declared the run {name}: {d.steps} steps, {show_flop(d.total_flop)}."
    before = ""
    for h in run.heads:
        step = h.head.steps
        match h.head.status:
            case "opened" if not before:
                yield h.index, "run", f"{name} began to train."
            case "opened" if before == "stopped":
                yield h.index, "run", f"{name} went on from step {step}."
            case "opened":
                yield h.index, "run", f"{name} broke off without a word and went on from step {step}."
            case "stopped":
                yield h.index, "run", f"{name} stopped at step {step}."
            case "ended":
                yield h.index, "run", f"{name} finished at step {step}."
        before = h.head.status
    for index, inspector, a in run.audits:
        accused = sum(f.severity == "violation" for f in a.findings)
        verdict = f"{a.verdict}, {count(accused, 'violation')}" if accused else a.verdict
        kind = "bad" if accused else "good"
        yield index, kind, f"{inspector} ran {count(len(a.segments), 'segment')} of {name} again: {verdict}."


def _phase_event(proven: Proven, index: int, phase: Phase, cause: str) -> str:
    match phase:
        case Phase.TRIPPED:
            return f"The brake tripped: {cause}. Every covered run must stop."
        case Phase.PAUSED:
            earlier = [p for i, p, _, _ in proven.phases if i < index]
            if earlier and earlier[-1] is Phase.LIFTING:
                return "Lifting was called off: a vote or a condition for it fell away."
            return "The pause held: every covered run had stopped, or had no permit left to run on."
        case Phase.LIFTING:
            quorum = count(proven.treaty.lift, "party", "parties").capitalize()
            return f"{quorum} or more voted to lift, and the treaty's conditions were met."
        case Phase.CLEAR:
            return f"The delay of {duration(1000 * proven.treaty.lift_delay)} had passed: training may go on."


def headline(proven: Proven, times: ReportTimes) -> str:
    """One line that the evidence and the measurement bear out."""
    causes = [cause for _, phase, _, cause in proven.phases if phase is Phase.TRIPPED]
    if not causes:
        return f"{count(len(proven.fold.runs), 'training run').capitalize()} under treaty, and no brake pulled"
    first = causes[0]
    if first.startswith("votes of "):
        who = f"{count(first.count(', ') + 1, 'vote')}"
    else:
        who = "warning signs" if first.startswith("readings: ") else "a proven violation"
    stopped = len({(s.lab, s.run) for s in times.stops})
    if not stopped:
        return f"{who.capitalize()} pulled the brake on AI training"
    slowest = max(s.milliseconds_after_quorum for s in times.stops)
    return f"{who.capitalize()} stopped {count(stopped, 'training run')} in {duration(slowest)}"


def deck(proven: Proven, times: ReportTimes) -> str:
    """The paragraph under the headline."""
    fold = proven.fold
    bound = fold.bound().active
    said = [f"{count(len(proven.treaty.parties), 'party', 'parties').capitalize()} share the treaty"]
    said[0] += f" “{proven.treaty.title}”; {count(len(bound), 'of them is', 'of them are')} bound by it."
    audits = [(i, a) for r in fold.runs.values() for _, i, a in r.audits]
    if audits:
        inspectors = count(len({i for i, _ in audits}), "inspector").capitalize()
        replayed = count(sum(len(a.segments) for _, a in audits), "piece")
        said.append(f"{inspectors} ran {replayed} of the training again.")
    barred = [r.declaration.name for r in fold.runs.values() if r.barred]
    if barred:
        verb = "broke the rules and is" if len(barred) == 1 else "broke the rules and are"
        said.append(f"{names(f'“{short(b)}”' for b in barred)} {verb} barred from training.")
    passed = [r for r in fold.runs.values() if r.audits and all(a.verdict == "pass" for _, _, a in r.audits)]
    if audits and len(passed) == sum(bool(r.audits) and not r.barred for r in fold.runs.values()):
        said.append("Every other run they looked at passed." if barred else "Every run they looked at passed.")
    if times.shadow_equal:
        said.append("An honest run lost nothing but time: trained again without the pause, it ends in the same state.")
    return " ".join(said)


def gauge_rows(fold: Fold) -> list[dict[str, Any]]:
    """What enough parties measured and found the same, at the bundle's checkpoint, with the treaty's thresholds."""
    triggers = {t.gauge: t for t in fold.treaty.triggers}
    return [
        {
            "gauge": r.gauge,
            "gauge_class": triggers[r.gauge].gauge_class,
            "subject": short(r.subject, 20),
            "bounds": f"{r.lower:.4g} to {r.upper:.4g} {triggers[r.gauge].unit}",
            "threshold": f"{triggers[r.gauge].at_least:g}",
            "alarms": ", ".join(r.alarms),
            "parties": names(r.parties),
            "reaches": fold.readings.reaches(r),
        }
        for r in fold.readings.current(now=fold.clock, active=fold.bound().active)
    ]


def parties(proven: Proven) -> list[dict[str, Any]]:
    """Each party: its roles, whether it is bound at the bundle's checkpoint, and why."""
    fold, now = proven.fold, proven.fold.clock
    activation = fold.bound()
    return [
        {
            "name": p.name,
            "represents": p.represents,
            "roles": ", ".join(sorted(p.roles)),
            "bound": p.name in activation.active,
            "why": _why(fold, p.name, activation, now),
        }
        for p in proven.treaty.parties.values()
    ]


def _why(fold: Fold, party: str, activation: Activation, now: int) -> str:
    if party in fold.equivocators:
        return "signed two different statements under one number, so its word is void"
    if party not in fold.assents:
        return "has not signed the treaty"
    if party not in fold.pledges:
        return "has logged no pledge"
    statement, pledge = fold.pledges[party]
    group = pledge.group(frozenset(fold.treaty.parties))
    condition = f"pledged if {group_words(group)} bound" if group else "pledged without condition"
    if party in activation.active:
        with_ = activation.satisfied.get(party)
        return f"{condition}: {names(sorted(with_))} {'is' if len(with_) == 1 else 'are'}" if with_ else condition
    if party in activation.deleted:
        return f"{condition}: they are not"
    if now < fold.treaty.effective:
        return f"{condition}; the treaty is not yet in force"
    if statement.expires <= now:
        return f"{condition}; the pledge has expired"
    return f"{condition}; withdrew, and the notice has passed"


def group_words(group: Group) -> str:
    """`2 of beta, gamma, delta are`, `beta is`, `beta and gamma are`."""
    members = [m if isinstance(m, str) else f"({group_words(m)})" for m in group.members]
    if group.k == len(members):
        return f"{names(members)} {'is' if group.k == 1 else 'are'}"
    return f"{group.k} of {', '.join(members)} {'is' if group.k == 1 else 'are'}"


def run_row(fold: Fold, run: RunRecord) -> dict[str, Any]:
    """One line of the table of runs."""
    last = run.last
    at = {h.index: h.head.steps for h in run.heads}
    if fold.disputed(run):
        standing = "disputed"
    elif fold.audited(run):
        standing = "settled" if run.audits else "nothing to settle"
    else:
        standing = "passed so far" if any(a.verdict == "pass" for _, _, a in run.audits) else "not yet audited"
    return {
        "name": run.declaration.name,
        "lab": run.owner,
        "rung": run.declaration.rung,
        "covered": run.covered,
        "steps": run.declaration.steps,
        "done": last.steps if last else 0,
        "status": last.status if last else "declared",
        "flop": run.lineage_flop,
        "verdicts": [f"{inspector}: {a.verdict} up to step {at[a.head]}" for _, inspector, a in run.audits],
        "barred": run.barred,
        "standing": standing,
    }


def finding_rows(fold: Fold) -> list[dict[str, Any]]:
    """Findings, those of several inspectors about one matter together."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in fold.runs.values():
        for _, inspector, audit in run.audits:
            for f in audit.findings:
                row = rows.setdefault(
                    (run.id, f.key, f.severity),
                    {
                        "run": run.declaration.name,
                        "fault": str(f.fault),
                        "means": FAULTS[f.fault],
                        "severity": f.severity,
                        "where": "the whole run" if f.segment == (0, 0) else f"steps {f.segment[0]} to {f.segment[1]}",
                        "detail": f.detail,
                        "inspectors": [],
                        "upheld": fold.adjudicated.get((run.id, f.key), False) and f.severity == "violation",
                    },
                )
                if inspector not in row["inspectors"]:
                    row["inspectors"].append(inspector)
    return list(rows.values())


def names(parts: Iterable[str]) -> str:
    """`alpha, beta and gamma`."""
    *head, last = [*parts] or ["nobody"]
    return f"{', '.join(head)} and {last}" if head else last


def count(number: int, one: str, many: str = "") -> str:
    """`three runs`."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return f"{words[number] if number < len(words) else f'{number:,}'} {one if number == 1 else many or one + 's'}"


def duration(milliseconds: float) -> str:
    """`312 ms`, `1.8 s`, `4 min`, `3.0 h`, `12 d`."""
    steps = ((1, "ms", 999.5, 0), (1e3, "s", 9.95e3, 1), (1e3, "s", 120e3, 0), (60e3, "min", 7.2e6, 0))
    for factor, unit, below, digits in (*steps, (3.6e6, "h", 1.728e8, 1)):
        if abs(milliseconds) < below:
            return f"{milliseconds / factor:.{digits}f} {unit}"
    return f"{milliseconds / 86.4e6:,.0f} d"


def signed(seconds: float) -> str:
    """`+14 s`, as the chronicle counts; beyond two hours in hours or days."""
    return f"+{seconds:,.0f} s" if seconds < 7200 else f"+{duration(1000 * seconds)}"


def utc(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def short(text: str, limit: int = 36) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# ---- pictures ----

# Every colour of a picture is a variable of the page, so that one drawing serves light and dark. The two that carry a
# verdict differ in lightness as well as in hue, and never stand alone: a violation is hatched or crossed, too.
COLOURS: Final[Mapping[str, str]] = {
    "ink": "#1b2126",
    "soft": "#5d676e",
    "rule": "#d8d5cc",
    "paper": "#fcfbf8",
    "clear": "#cfe2d6",
    "tripped": "#e3a008",
    "paused": "#5f5391",
    "lifting": "#c8bde3",
    "on-tripped": "#1a1a19",
    "good": "#2f6ea5",
    "bad": "#c2401c",
    "open": "#8b949a",
}
INK, SOFT, RULE, PAPER, GOOD, BAD, OPEN = (COLOURS[c] for c in ("ink", "soft", "rule", "paper", "good", "bad", "open"))
ON_PHASE: Final = {Phase.TRIPPED: COLOURS["on-tripped"], Phase.PAUSED: PAPER}
WIDTH: Final = 9.0  # inches
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.id": None,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,  # a run named "$x^2$" is a name
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.8,
    "axes.unicode_minus": True,
}


def svg(name: str, figure: Figure | None) -> Markup | None:
    """The drawing as an element for the page: its colours become variables, and only ids that are used remain."""
    if figure is None:
        return None
    out = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has more letters
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    opening, rest = text[text.index("<svg") :].split(">", 1)
    text = re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + rest
    text = re.sub(r'<style type="text/css">[^<]*</style>', "", text, count=1)  # it would apply to the whole page
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    variable = {value: f"var(--{key})" for key, value in COLOURS.items()}
    text = re.sub(r"(?<=[ \"])(#[0-9a-f]{6})(?=[;\"])", lambda m: variable.get(m[1], m[1]), text)
    # Markup: the text comes from the drawing library alone, which escapes every string it was given.
    return Markup(text.replace("'DejaVu Sans'", "system-ui"))


class Mark(NamedTuple):
    """A thing that happened to a run: seconds since the start, what, and at which step."""

    seconds: int
    kind: str
    step: int


def lane(heads: Sequence[LoggedHead], when: Clock) -> tuple[list[tuple[int, int, bool]], list[Mark]]:
    """When a run ran: (from, to, whether it said so), and what happened to it. All from its logged heads."""
    bars: list[tuple[int, int, bool]] = []
    marks: list[Mark] = []
    opened, last = -1, 0
    for h in heads:
        at = when.since(h.time)
        if h.head.status == "opened":
            if opened >= 0:  # killed: no word between the last head and this one
                bars += [(opened, last, True), (last, at, False)]
            marks.append(Mark(at, "killed" if opened >= 0 else "opened", h.head.steps))
            opened = at
        elif h.head.status in ("stopped", "ended"):
            bars.append((opened, at, True))
            marks.append(Mark(at, h.head.status, h.head.steps))
            opened = -1
        last = at
    if opened >= 0:
        bars += [(opened, last, True), (last, when.since(when.end), False)]
    return bars, marks


MARKERS: Final = {"opened": ">", "stopped": "s", "ended": "o", "killed": "D"}
SAYS: Final = {
    "opened": "from step {}",
    "stopped": "stopped, step {}",
    "ended": "done, step {}",
    "killed": "back, step {}",
}


def timeline(proven: Proven, times: ReportTimes, runs: Sequence[RunRecord], when: Clock) -> Figure:
    """The brake's phases over the log's time, and below them a lane for each run."""
    span = float(when.end - when.start)
    with mpl.rc_context(STYLE):
        height = 0.62 * (len(runs) + 1) + 0.75
        figure, axes = _canvas(height, top=0.16, bottom=0.46)
        axes.set_xlim(-0.004 * span, 1.012 * span)
        axes.set_ylim(len(runs) + 1.1, 0)
        per_inch = span * 1.016 / (WIDTH * axes.get_position().width)
        order = times.quorum_at - when.start
        _phases(axes, proven, when, order, per_inch, len(runs))
        for row, run in enumerate(runs, 1):
            _lane(axes, row, run, when, per_inch)
        if 0 <= order <= span:
            axes.axvline(order, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1.5)
            side, dx, text = ("right", -3, "the order to stop is published ▸")
            if order < 0.7 * span:
                side, dx, text = ("left", 3, "◂ the order to stop is published")
            axes.annotate(
                text,
                (order, 0),
                (dx, -1),
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=7.5,
                annotation_clip=False,
            )
        axes.set_yticks([])
        units = ((86400, "days", 172_800), (3600, "hours", 7200), (1, "seconds", 0))
        unit, word = next((u, w) for u, w, least in units if span >= least)
        ticks = [t for t in MaxNLocator(8, integer=True).tick_values(0, span / unit) if 0 <= t * unit <= span]
        axes.set_xticks([t * unit for t in ticks], [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"{word} since the log's first stamp, {utc(when.start)} UTC")
    return figure


def _canvas(height: float, *, top: float, bottom: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0.005, bottom / height, 0.985, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    return figure, axes


def _phases(axes: Axes, proven: Proven, when: Clock, order: float, per_inch: float, lanes: int) -> None:
    span = float(when.end - when.start)
    phases = [(Phase.CLEAR, 0.0)] + [(p, float(when.since(t))) for _, p, t, _ in proven.phases]
    least = 0.006 * span
    starts: list[float] = []
    for _, start in phases:  # a phase of no whole second is drawn a hair wide
        starts.append(max(start, starts[-1] + least) if starts else start)
    ends = [*starts[1:], max(span, starts[-1] + least)]
    free = -math.inf
    axes.text(0, 0.34, "The brake", fontweight="bold", fontsize=8.5)
    for (phase, _), start, end in zip(phases, starts, ends, strict=True):
        colour = COLOURS[phase]
        axes.broken_barh([(start, end - start)], (0.46, 0.42), facecolor=colour, edgecolor=PAPER, linewidth=0.6)
        if phase is not Phase.CLEAR:
            axes.axvspan(
                start, end, ymax=(lanes + 0.1) / (lanes + 1.1), color=colour, alpha=0.16, linewidth=0, zorder=0
            )
        need = 0.068 * len(phase) * per_inch
        if need < end - start:
            ink = ON_PHASE.get(phase, INK)
            axes.text((start + end) / 2, 0.675, phase, ha="center", va="center", color=ink, fontsize=8)
            continue
        left = start - need if start <= order <= start + need else start
        if left > max(free, 0.7 * per_inch):
            axes.text(left, 0.38, phase, color=SOFT, fontsize=7.5)
            free = left + need


def _lane(axes: Axes, row: int, run: RunRecord, when: Clock, per_inch: float) -> None:
    bars, marks = lane(run.heads, when)
    colour = BAD if run.barred else GOOD
    axes.axhline(row + 0.02, color=RULE, linewidth=0.6, zorder=0.5)
    label = axes.text(0, row + 0.36, short(run.declaration.name), fontweight="bold", fontsize=8.5)
    suffix = f"{run.owner}, barred" if run.barred else run.owner
    axes.annotate(f"  {suffix}", (1, 0), xycoords=label, va="bottom", color=SOFT, fontsize=8)
    for start, end, said in bars:
        style: dict[str, Any] = {"facecolor": colour} if said else {"facecolor": "none", "hatch": "/////", "alpha": 0.6}
        edge: dict[str, Any] = {"edgecolor": colour, "linewidth": 0 if said else 0.5}
        axes.broken_barh([(start, end - start)], (row + 0.47, 0.17), zorder=2, **style, **edge)
    taken: list[tuple[float, float]] = []
    first = min((m.seconds for m in marks), default=0)
    for mark in sorted(marks, key=lambda m: ("stopped", "killed", "ended", "opened").index(m.kind)):
        axes.plot(
            mark.seconds, row + 0.555, MARKERS[mark.kind], color=colour, markeredgecolor=PAPER, markersize=7, zorder=3
        )
        text = SAYS[mark.kind].format(mark.step)
        need = 0.064 * len(text) * per_inch
        left = max(min(mark.seconds - 0.045 * per_inch, when.end - when.start - need), 0)
        free = all(left > b or left + need < a for a, b in taken)
        if free and (mark.kind != "opened" or mark.seconds > first):
            axes.text(left, row + 0.93, text, color=SOFT, fontsize=7)
            taken.append((left, left + need))


def accused(run: RunRecord) -> list[tuple[int, int]]:
    """Step ranges in which an inspector reports a violation."""
    steps = run.last.steps if run.last else 0
    violations = (f for _, _, a in run.audits for f in a.findings if f.severity == "violation")
    return sorted({r for f in violations for r in _range(f, steps)})


def _range(finding: Finding, steps: int) -> list[tuple[int, int]]:
    return clipped([finding.segment if finding.segment != (0, 0) else (0, steps)], steps)


def clipped(ranges: Iterable[tuple[int, int]], steps: int) -> list[tuple[int, int]]:
    """The ranges within 0..`steps`: an inspector may have logged any numbers."""
    return [(max(a, 0), min(b, steps)) for a, b in dict.fromkeys(ranges) if max(a, 0) < min(b, steps)]


def loss_curves(proven: Proven, runs: Sequence[RunRecord]) -> Figure | None:
    """The recorded loss of each opened transcript by step; stops and returns as lines, accused segments shaded."""
    if not runs:
        return None
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    with mpl.rc_context(STYLE):
        height = 2.15 * rows
        figure = Figure(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        for place, run in enumerate(runs):
            row, column = divmod(place, columns)
            left, bottom = column / columns + 0.38 / WIDTH, 1 - ((row + 1) * 2.15 - 0.42) / height
            axes = figure.add_axes((left, bottom, 1 / columns - 0.6 / WIDTH, 1.3 / height))
            axes.patch.set_visible(False)
            _loss(axes, run, proven.leaves[run.id])
            axes.set_xlim(0, run.declaration.steps)
            if row == rows - 1 or place + columns >= len(runs):
                axes.set_xlabel("step")
    return figure


def _loss(axes: Axes, run: RunRecord, leaves: Sequence[Leaf]) -> None:
    # A loss may be anything a lab wrote down: what no axis can hold is left out.
    points = [(leaf.step, leaf.loss) for leaf in leaves[1:] if math.isfinite(leaf.loss) and abs(leaf.loss) < 1e12]
    least = run.declaration.steps / 120  # so that a short segment can be seen
    for start, end in ((a, max(b, a + least)) for a, b in accused(run)):
        axes.axvspan(start, end, facecolor=BAD, alpha=0.2, linewidth=0)
        axes.axvspan(start, end, ymax=0.04, facecolor=BAD, linewidth=0)
    _, marks = lane(run.heads, Clock(0, 1, ()))
    for kind, text, dashes in (("stopped", "stop", "solid"), ("killed", "killed", (0, (2, 2)))):
        steps = [m.step for m in marks if m.kind == kind and m.step]
        for step in steps:
            axes.axvline(step, color=SOFT, linewidth=0.9, linestyle=dashes)
        if steps:
            axes.annotate(
                text,
                (steps[0], 1),
                (3, -1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                color=SOFT,
                fontsize=7,
            )
    axes.plot(
        [s for s, _ in points],
        [y for _, y in points],
        color=BAD if run.barred else GOOD,
        linewidth=1.4 if len(points) < 300 else 0.8,
    )
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.annotate(
        short(run.declaration.name, 26),
        (0, 1),
        (-18, 18),
        xycoords="axes fraction",
        textcoords="offset points",
        fontweight="bold",
        fontsize=8.5,
    )
    left_out = len(leaves) - 1 - len(points)
    about = f"{run.owner}, loss" + (f"; {left_out} values not numbers" if left_out else "")
    axes.annotate(about, (0, 1), (-18, 7), xycoords="axes fraction", textcoords="offset points", color=SOFT)


def audit_strips(proven: Proven, runs: Sequence[RunRecord]) -> Figure | None:
    """For each run, a row for each inspector and a cell for each segment: replayed or not, and what came of it."""
    groups = [(run, list(dict.fromkeys(i for _, i, _ in run.audits))) for run in runs]
    if not groups:
        return None
    longest = max(run.last.steps if run.last else 1 for run, _ in groups) or 1
    total = sum(0.4 + 0.26 * len(inspectors) for _, inspectors in groups)
    with mpl.rc_context(STYLE):
        figure, axes = _canvas(total + 0.48, top=0.0, bottom=0.48)
        axes.set_xlim(-0.1 * longest, 1.02 * longest)
        axes.set_ylim(total, 0)
        y = 0.0
        for run, inspectors in groups:
            name = axes.text(-0.1 * longest, y + 0.2, short(run.declaration.name), fontweight="bold", fontsize=8.5)
            axes.annotate(f"  {run.owner}", (1, 0), xycoords=name, va="bottom", color=SOFT)
            y += 0.28
            for inspector in inspectors:
                axes.text(-0.1 * longest, y + 0.15, short(inspector, 12), color=SOFT)
                _strip(axes, y, proven, run, inspector, longest)
                y += 0.26
            y += 0.12
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
        axes.set_xticks([t for t in axes.get_xticks() if 0 <= t <= longest])
        axes.spines["bottom"].set_bounds(0, longest)
        axes.set_xlabel("step")
    return figure


def _strip(axes: Axes, y: float, proven: Proven, run: RunRecord, inspector: str, longest: int) -> None:
    steps = run.last.steps if run.last else 0
    mine = [a for _, i, a in run.audits if i == inspector]
    point = longest / (WIDTH * 72 * 0.9)  # steps that one point of the drawing stands for
    roomy = proven.treaty.segment_steps > 8 * point
    # A head may claim any number of steps: they are cut into cells only where the cells can be seen.
    parts = segments(steps, proven.treaty.segment_steps) if roomy else ((0, steps),)

    def draw(ranges: Iterable[tuple[int, int]], *, grow: float = 0.0, **style: Any) -> None:
        gap = 0.8 * point if roomy else 0.0
        bars = [(a + gap / 2, max(b - a - gap, 2.4 * point)) for a, b in ranges]
        axes.broken_barh(bars, (y - grow, 0.19 + 2 * grow), **style)

    draw(parts, facecolor="none", edgecolor=RULE, linewidth=0.7)
    draw(clipped((s for a in mine for s in a.segments), steps), facecolor=GOOD, linewidth=0)
    marked = [(f.severity, r) for a in mine for f in a.findings for r in _range(f, steps)]
    open_ = sorted({r for severity, r in marked if severity != "violation"})
    bad = sorted({r for severity, r in marked if severity == "violation"})
    draw(open_, facecolor=PAPER, edgecolor=OPEN, hatch="//////", linewidth=0.7)
    draw(bad, grow=0.0 if roomy else 0.02, facecolor=BAD, linewidth=0)
    if roomy:
        crosses = [(a + b) / 2 for a, b in bad]
        axes.plot(crosses, [y + 0.095] * len(bad), "x", color=PAPER, markersize=5, markeredgewidth=1.3)
