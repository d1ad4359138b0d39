"""The recorded loss of each opened transcript, step by step."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brakeline.core.transcript import Leaf
from brakeline.report.drawing import BAD, GOOD, RULE, SOFT, STYLE, WIDTH
from brakeline.report.figures import short
from brakeline.report.story import Clock, Story, Told
from brakeline.report.strips import accused
from brakeline.report.timeline import lane


def loss_curves(story: Story, runs: Sequence[Told]) -> Figure | None:
    """The loss of those of `runs` whose transcript is open; stops and returns as lines, accused segments shaded."""
    opened = story.proven.leaves
    runs = [told for told in runs if told.run.id in opened]
    if not runs:
        return None
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    with mpl.rc_context(STYLE):
        height = 2.15 * rows
        figure = Figure(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        for place, told in enumerate(runs):
            row, column = divmod(place, columns)
            left, bottom = column / columns + 0.38 / WIDTH, 1 - ((row + 1) * 2.15 - 0.42) / height
            axes = figure.add_axes((left, bottom, 1 / columns - 0.6 / WIDTH, 1.3 / height))
            axes.patch.set_visible(False)
            _loss(axes, told, opened[told.run.id])
            axes.set_xlim(0, told.run.declaration.steps)
            if row == rows - 1 or place + columns >= len(runs):
                axes.set_xlabel("step")
    return figure


def _loss(axes: Axes, told: Told, leaves: Sequence[Leaf]) -> None:
    run = told.run
    # A loss may be anything a lab wrote down: what no axis can hold is left out.
    points = [(leaf.step, leaf.loss) for leaf in leaves[1:] if math.isfinite(leaf.loss) and abs(leaf.loss) < 1e12]
    least = run.declaration.steps / 120  # so that a short segment can be seen
    for start, end in ((a, max(b, a + least)) for a, b in accused(told)):
        axes.axvspan(start, end, facecolor=BAD, alpha=0.2, linewidth=0)
        axes.axvspan(start, end, ymax=0.04, facecolor=BAD, linewidth=0)
    _, marks = lane(told.heads, Clock(0, 1, (), ()))
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
        color=BAD if run.bar else GOOD,
        linewidth=1.4 if len(points) < 300 else 0.8,
    )
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.annotate(
        short(told.name, 26),
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
