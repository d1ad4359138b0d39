"""The picture of an authorship measurement: the interval against the threshold, and the evidence quarter by quarter."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brakeline.core.measurement import Measurement
from brakeline.gauges.authorship.measure import CLASSES

COLOURS: Final = {
    "note": "#08519c",
    "identity": "#3182bd",
    "trailer": "#9ecae1",
    "known-human": "#fd8d3c",
    "unknown": "#d9d9d9",
}


def figure(m: Measurement) -> Figure:
    """Above, the window's lines by class with the interval and the threshold; below, the same for each quarter."""
    fig = Figure(figsize=(8, 5.2), layout="constrained")
    top, bottom = fig.subplots(2, 1, height_ratios=(1, 2.6))
    _whole(top, m)
    _quarters(bottom, m)
    fig.suptitle(f"Authorship of {m.details['lines']:,} surviving new code lines\n{m.subject}", fontsize=11)
    return fig


def _whole(ax: Axes, m: Measurement) -> None:
    order = ("note", "identity", "trailer", "unknown", "known-human")  # so that both bounds are edges of bars
    left = 0.0
    for name in order:
        share = m.details["classes"][name] / m.details["lines"]
        ax.barh(0, share, left=left, color=COLOURS[name], height=0.6)
        left += share
    ax.plot([m.lower, m.upper], [0.5, 0.5], color="black", marker="|", markersize=10, clip_on=False)
    ax.text(m.lower, 0.62, f"{m.lower:.1%}", ha="left", fontsize=9)
    ax.text(m.upper, 0.62, f"{m.upper:.1%}", ha="right", fontsize=9)
    ax.axvline(m.threshold, color="#b30000", linestyle="--")
    ax.text(m.threshold, -0.52, f" threshold {m.threshold:.0%}", color="#b30000", fontsize=9, va="bottom", ha="right")
    ax.set(xlim=(0, 1), ylim=(-0.55, 0.95), yticks=[], xlabel="share of lines: attributed to AI … not known human")
    ax.spines[["top", "right", "left"]].set_visible(False)


def _quarters(ax: Axes, m: Measurement) -> None:
    quarters = m.details["quarters"]
    names = list(quarters)
    base = [0.0] * len(names)
    for name in CLASSES:
        heights = [quarters[q][name] for q in names]
        ax.bar(names, heights, bottom=base, color=COLOURS[name], label=name)
        base = [b + h for b, h in zip(base, heights, strict=True)]
    step = max(1, len(names) // 12)
    ax.set_xticks(range(0, len(names), step), names[::step], fontsize=8)
    ax.set(ylabel="surviving lines", xlabel="quarter in which they were committed")
    ax.legend(ncols=len(CLASSES), fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 1.15))
    ax.spines[["top", "right"]].set_visible(False)
