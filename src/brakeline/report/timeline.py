"""The brake's phases over the log's time, and below them when each run was at work."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brakeline.core.brake import Phase
from brakeline.core.state.events import Committed
from brakeline.report.drawing import BAD, COLOURS, GOOD, INK, ON_PHASE, PAPER, RULE, SOFT, STYLE, WIDTH, canvas
from brakeline.report.figures import short, utc
from brakeline.report.story import Clock, Story, Told


class Mark(NamedTuple):
    """A thing that happened to a run: seconds since the start, what, and at which step."""

    seconds: int
    kind: str
    step: int


def lane(heads: Sequence[Committed], when: Clock) -> tuple[list[tuple[int, int, bool]], list[Mark]]:
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


def timeline(story: Story, runs: Sequence[Told]) -> Figure:
    """The brake's phases over the log's time, and below them a lane for each of `runs`."""
    when = story.when
    span = float(when.end - when.start)
    with mpl.rc_context(STYLE):
        height = 0.62 * (len(runs) + 1) + 0.75
        figure, axes = canvas(height, top=0.16, bottom=0.46)
        axes.set_xlim(-0.004 * span, 1.012 * span)
        axes.set_ylim(len(runs) + 1.1, 0)
        per_inch = span * 1.016 / (WIDTH * axes.get_position().width)
        order = -math.inf if story.times.quorum_at is None else story.times.quorum_at - when.start
        _phases(axes, story, order, per_inch, len(runs))
        for row, told in enumerate(runs, 1):
            _lane(axes, row, told, when, per_inch)
        if 0 <= order <= span:
            _order(axes, order, span)
        axes.set_yticks([])
        units = ((86400, "days", 172_800), (3600, "hours", 7200), (1, "seconds", 0))
        unit, word = next((u, w) for u, w, least in units if span >= least)
        ticks = [t for t in MaxNLocator(8, integer=True).tick_values(0, span / unit) if 0 <= t * unit <= span]
        axes.set_xticks([t * unit for t in ticks], [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"{word} since the log's first stamp, {utc(when.start)} UTC")
    return figure


def _order(axes: Axes, order: float, span: float) -> None:
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


def _phases(axes: Axes, story: Story, order: float, per_inch: float, lanes: int) -> None:
    when = story.when
    span = float(when.end - when.start)
    phases = [(Phase.CLEAR, 0.0)] + [(phase, float(when.since(time))) for phase, time in story.moves]
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


def _lane(axes: Axes, row: int, told: Told, when: Clock, per_inch: float) -> None:
    run = told.run
    bars, marks = lane(told.heads, when)
    colour = BAD if run.bar else GOOD
    axes.axhline(row + 0.02, color=RULE, linewidth=0.6, zorder=0.5)
    label = axes.text(0, row + 0.36, short(told.name), fontweight="bold", fontsize=8.5)
    suffix = f"{run.owner}, barred" if run.bar else f"{run.owner}, held back" if told.held else run.owner
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
