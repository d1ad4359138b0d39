"""The plot of a lineage measurement, from the measurement alone."""

import math
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from brakeline.core.measurement import Measurement
from brakeline.gauges.lineage.gauge import ALPHA

_MARKS: Final = {"rate": ("s", "tab:orange"), "growth": ("^", "tab:red"), "anchors": ("X", "tab:purple")}
_LINEAGE: Final = "tab:blue"
_CONTROL: Final = "0.6"


def shorter(name: str) -> str:
    """A digest by its beginning."""
    return name if len(name) <= 40 else f"{name[:16]}…"


def figure(m: Measurement) -> Figure:
    """Bad rate, growth and evidence by generation: every lineage, every control, and where the alarms came."""
    fig = Figure(figsize=(10, 7), layout="constrained")
    axes = fig.subplot_mosaic([["rate", "rate"], ["growth", "evidence"]], height_ratios=[3, 2])
    for report in m.details["controls"]:
        _draw(axes, report, _CONTROL, control=True)
    for report in m.details["lineages"]:
        _draw(axes, report, _LINEAGE, control=False)
    _rates(axes["rate"], m)
    axes["growth"].axhline(1, color="black", linewidth=0.8)
    axes["growth"].set(yscale="log", ylabel="growth R, lower bound to estimate", xlabel="generation of the child")
    threshold = -math.log10(ALPHA / len(m.details["lineages"][0]["families"]))
    axes["evidence"].axhline(threshold, color="black", linewidth=0.8, linestyle="--")
    axes["evidence"].set(yscale="symlog", ylabel="log₁₀ e against the limit", xlabel="generation")
    axes["evidence"].set_ylim(bottom=-3)  # e never falls below 1 / (looks + 1)
    for ax in axes.values():
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    word = "complete" if m.complete else "not complete"
    alarms = ", ".join(m.alarms) or "none"
    fig.suptitle(f"{shorter(m.subject)}: growth {m.value:.3g} [{m.lower:.3g}, {m.upper:.3g}], alarms: {alarms}; {word}")
    return fig


def _draw(axes: dict[str, Axes], report: dict[str, Any], color: str, *, control: bool) -> None:
    style: dict[str, Any] = {"color": color, "linewidth": 1, "zorder": 1 if control else 2, "alpha": 0.8}
    for family in report["families"].values():
        looks = family["looks"]
        born = [look["generation"] for look in looks]
        # Half a bad probe stands for none: a logarithm shows no zero.
        rates = [max(look["value"], 0.5 / look["n"]) for look in looks]
        axes["rate"].plot(born, rates, marker=".", **style)
        axes["evidence"].plot(born, [look["log10_e"] for look in looks], marker=".", **style)
        generation = {look["model"]: look["generation"] for look in looks}
        for r in family["growth"]:
            x = generation[r["child"]] + (0.15 if control else -0.15)
            axes["growth"].plot([x, x], [max(r["lower"], 1e-2), r["value"]], **style)
            axes["growth"].plot([x], [r["value"]], marker=".", **style)
        for alarm, (mark, mark_color) in _MARKS.items():
            at = family["alarms"].get(alarm)
            if at is not None:
                y = max(rate for b, rate in zip(born, rates, strict=True) if b == at)
                axes["rate"].plot([at], [y], mark, color=mark_color, markersize=9, fillstyle="none", zorder=3)


def _rates(ax: Axes, m: Measurement) -> None:
    limits = sorted({f["limit"] for r in m.details["lineages"] for f in r["families"].values()})
    for limit in limits:
        ax.axhline(limit, color="black", linewidth=0.8, linestyle="--")
    ax.set(yscale="log", ylabel="bad rate", xlabel="generation")
    handles = [Line2D([], [], color=_LINEAGE, marker=".", label=f"lineages ({len(m.details['lineages'])})")]
    if m.details["controls"]:
        handles.append(Line2D([], [], color=_CONTROL, marker=".", label=f"controls ({len(m.details['controls'])})"))
    handles.append(Line2D([], [], color="black", linestyle="--", label="limit"))
    for alarm, (mark, color) in _MARKS.items():
        handles.append(
            Line2D([], [], linestyle="", marker=mark, color=color, fillstyle="none", label=f"alarm: {alarm}")
        )
    ax.legend(handles=handles, loc="upper left", fontsize="small")
