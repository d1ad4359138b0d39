"""Which segments of each run inspectors ran again, and what came of it."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brakeline.core.finding import Finding
from brakeline.report.drawing import BAD, GOOD, OPEN, PAPER, RULE, SOFT, STYLE, WIDTH, canvas
from brakeline.report.figures import short
from brakeline.report.story import Told


def accused(told: Told) -> list[tuple[int, int]]:
    """Step ranges in which an inspector reports a violation."""
    steps = told.run.steps
    violations = (f for a in told.audits for f in a.audit.findings if f.severity == "violation")
    return sorted({r for f in violations for r in _range(f, steps)})


def _range(finding: Finding, steps: int) -> list[tuple[int, int]]:
    return clipped([finding.segment if finding.segment != (0, 0) else (0, steps)], steps)


def clipped(ranges: Iterable[tuple[int, int]], steps: int) -> list[tuple[int, int]]:
    """The ranges within 0..`steps`: an inspector may have logged any numbers."""
    return [(max(a, 0), min(b, steps)) for a, b in dict.fromkeys(ranges) if max(a, 0) < min(b, steps)]


def audit_strips(runs: Sequence[Told]) -> Figure | None:
    """For each run, a row for each inspector and a cell for each segment: replayed or not, and what came of it."""
    groups = [(told, list(dict.fromkeys(a.inspector for a in told.audits))) for told in runs if told.audits]
    if not groups:
        return None
    longest = max(told.run.steps for told, _ in groups) or 1
    total = sum(0.4 + 0.26 * len(inspectors) for _, inspectors in groups)
    with mpl.rc_context(STYLE):
        figure, axes = canvas(total + 0.48, top=0.0, bottom=0.48)
        axes.set_xlim(-0.1 * longest, 1.02 * longest)
        axes.set_ylim(total, 0)
        y = 0.0
        for told, inspectors in groups:
            name = axes.text(-0.1 * longest, y + 0.2, short(told.name), fontweight="bold", fontsize=8.5)
            axes.annotate(f"  {told.run.owner}", (1, 0), xycoords=name, va="bottom", color=SOFT)
            y += 0.28
            for inspector in inspectors:
                axes.text(-0.1 * longest, y + 0.15, short(inspector, 12), color=SOFT)
                _strip(axes, y, told, inspector, longest)
                y += 0.26
            y += 0.12
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
        axes.set_xticks([t for t in axes.get_xticks() if 0 <= t <= longest])
        axes.spines["bottom"].set_bounds(0, longest)
        axes.set_xlabel("step")
    return figure


def _strip(axes: Axes, y: float, told: Told, inspector: str, longest: int) -> None:
    steps = told.run.steps
    mine = [a.audit for a in told.audits if a.inspector == inspector]
    point = longest / (WIDTH * 72 * 0.9)  # steps that one point of the drawing stands for
    roomy = told.run.declaration.segment_steps > 8 * point
    # A head may claim any number of steps: they are cut into cells only where the cells can be seen.
    parts = told.run.segments(steps) if roomy else ((0, steps),)

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
