"""The picture of a throughput measurement: the typical engineer quarter by quarter, and every reading of the claim."""

from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brakeline.core.measurement import Measurement

BLUE: Final = "#3182bd"
RED: Final = "#b30000"


def figure(m: Measurement) -> Figure:
    """Left, lines a day by quarter; right, the ratio with its interval, and what else the claim could mean."""
    fig = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.2, 1))
    _series(left, m)
    _ratios(right, m)
    fig.suptitle(f"Throughput: {m.subject}", fontsize=11)
    fig.supxlabel("lines overstate productivity", fontsize=8, color="grey")
    return fig


def _series(ax: Axes, m: Measurement) -> None:
    quarters = m.details["quarters"]
    names = list(quarters)
    ax.plot(names, [quarters[q]["median"] for q in names], color=BLUE, marker="o", label="median engineer")
    ax.plot(names, [quarters[q]["mean"] for q in names], color="grey", marker=".", linewidth=1, label="mean")
    ax.axhline(m.details["lines_per_day"]["base"], color=BLUE, linestyle=":", label=f"base {m.inputs['base']}")
    step = max(1, len(names) // 8)
    ax.set_xticks(range(0, len(names), step), names[::step], fontsize=8)
    ax.set(ylabel="surviving lines per working day", ylim=(0, None))
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _ratios(ax: Axes, m: Measurement) -> None:
    rows = {"median (the gauge)": {"value": m.value, "lower": m.lower, "upper": m.upper}} | m.details["also"]
    for y, row in enumerate(rows.values()):
        if row is None:
            ax.text(0.02, y, "not available", fontsize=8, color="grey", va="center", transform=ax.get_yaxis_transform())
            continue
        ax.plot([row["lower"], row["upper"]], [y, y], color=BLUE if y == 0 else "grey", linewidth=3 if y == 0 else 1.5)
        ax.plot(row["value"], y, "o", color=BLUE if y == 0 else "grey")
    ax.axvline(m.threshold, color=RED, linestyle="--")
    ax.axvline(1, color="black", linewidth=0.6)
    ax.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows], fontsize=8)
    ax.set(
        xlabel=f"times the base ({m.threshold:g} is the reference)",
        xlim=(0, 1.05 * max(m.threshold, *(row["upper"] for row in rows.values() if row))),
    )
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
