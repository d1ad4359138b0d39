"""Figures of a scenario: maps over beliefs, windows, operating points, timelines."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from brakeline.design.answer import belief_map
from brakeline.design.model import (
    EXPONENTIAL,
    LUMP,
    Array,
    channels,
    slack,
)
from brakeline.design.regime import VERDICTS, verdicts
from brakeline.design.scenario import Scenario, build
from brakeline.design.sensitivity import Sensitivity

COLOURS: Final = ("#9a9a9a", "#1b7837", "#7fbf7b", "#c7e3b4", "#4a90c2", "#f6d186", "#d6604d")
SHORT: Final = (
    "do not pause",
    "pausing dominant",
    "no verification",
    "no inspections",
    "stable as inspected",
    "other rate needed",
    "no rate works",
)
INK: Final = "#222222"


def _axes(title: str, x: str, y: str, *, width: float = 7.2, height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _paint(axes: Axes, x: Array, y: Array, codes: Any) -> list[Any]:
    """Colour a map of verdicts; the legend's handles, for the verdicts that occur."""
    norm = BoundaryNorm(np.arange(-0.5, len(VERDICTS)), len(VERDICTS))
    axes.pcolormesh(x, y, codes, cmap=ListedColormap(list(COLOURS)), norm=norm, shading="nearest", rasterized=True)
    return [Patch(color=COLOURS[i], label=SHORT[i]) for i in range(len(VERDICTS)) if (codes == i).any()]


def _below(figure: Figure, handles: list[Any], columns: int = 4) -> None:
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8, frameon=False)


def beliefs(s: Scenario) -> Figure:
    """The verdict over the two contested beliefs, with published ranges of one of them."""
    risk, loss = np.linspace(0.004, 0.5, 90), np.linspace(0, 10, 90)
    codes = belief_map(s, risk=risk, loss=loss)
    figure, axes = _axes(
        f"What to do, by belief\n{s.title}",
        "q: catastrophe, when a racer wins (probability)",
        "D: loss in a catastrophe (prizes)",
    )
    handles = _paint(axes, risk, loss, codes)
    axes.plot(s.values["risk"].mean(), s.values["loss"].mean(), "o", color=INK, ms=7, mfc="white")
    handles.append(Line2D([], [], marker="o", color=INK, mfc="white", ls="", label="this scenario"))
    for x, text in ((0.05, "median, Grace et al. 2023"), (0.12, "XPT, upper")):
        axes.axvline(x, color=INK, lw=0.8, ls=":")
        axes.text(x, 9.9, f" {text}", rotation=90, va="top", ha="right", fontsize=7, color=INK)
    _below(figure, handles)
    return figure


def phase(s: Scenario) -> Figure:
    """The verdict over loss and inspections. Hatched: being caught costs nothing, so that no formula holds."""
    rate, loss = np.geomspace(0.1, 400, 110), np.linspace(0, 10, 90)
    nu, D = np.meshgrid(rate, loss)
    m = build(s.at_bounds(), {"inspections": nu[..., None], "loss": D[..., None]})
    codes = verdicts(m, s.breakout)
    figure, axes = _axes(
        f"Phase map\n{s.title}", "inspections of each party (1/yr)", "D: loss in a catastrophe (prizes)"
    )
    handles = _paint(axes, rate, loss, codes)
    lost = np.broadcast_to((m.W_C - m.W_X).min(-1), codes.shape)
    if (lost <= 0).any() and (lost > 0).any():
        axes.contourf(rate, loss, lost, levels=[-np.inf, 0], colors="none", hatches=["///"])
        handles.append(Patch(fc="none", ec=INK, hatch="///", label="caught loses nothing: invalid"))
    axes.set_xscale("log")
    axes.plot(s.values["inspections"].mean(), s.values["loss"].mean(), "o", color=INK, ms=7, mfc="white")
    handles.append(Line2D([], [], marker="o", color=INK, mfc="white", ls="", label="this scenario"))
    _below(figure, handles)
    return figure


def window(s: Scenario) -> Figure:
    """For which rates of inspection compliance is stable, by the false alarms of one inspector."""
    alarm, rate = np.linspace(0, 0.2, 121), np.r_[0, np.geomspace(0.01, 400, 300)]
    figure, axes = _axes(
        f"Inspect enough, not too much\n{s.title}",
        "false alarms of one inspector (probability per inspection)",
        "inspections of each party (1/yr)",
    )
    for breakout, colour in ((EXPONENTIAL, "#4a90c2"), (LUMP, "#d6604d")):
        _region(axes, s, breakout, ("false_alarm", alarm), rate, colour, f"stable, {breakout} breakout")
    axes.axhline(s.values["inspections"].mean(), color=INK, lw=1, ls="--", label="this scenario")
    _alarms(axes, s)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, 400)
    axes.set_yticks([0, 1, 3, 10, 30, 100, 300], ["0", "1", "3", "10", "30", "100", "300"])
    axes.set_xlim(0, 0.2)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    return figure


def _region(
    axes: Axes, s: Scenario, breakout: str, across: tuple[str, Array], rate: Array, colour: str, label: str
) -> None:
    """Fill where compliance is stable, by a parameter and by inspections; windows may have gaps."""
    name, values = across
    x, nu = np.meshgrid(values, rate)
    value = slack(build(s, {name: x[..., None], "inspections": nu[..., None]}), breakout).min(-1)
    if (value >= 0).any():
        axes.contourf(values, rate, value, levels=[0, np.inf], colors=[colour], alpha=0.3).set_label(f"_{label}")
        axes.contour(values, rate, value, levels=[0], colors=[colour], linewidths=1.5)
    axes.fill([], [], color=colour, alpha=0.3, label=label)


def _alarms(axes: Axes, s: Scenario) -> None:
    """Where the measured false alarms lie: from the estimate to the bound."""
    if "false_alarm" in s.measured and "false_alarm" not in s.given:
        m = s.measured["false_alarm"]
        axes.axvspan(m.estimate, m.bound, color=INK, alpha=0.08, lw=0, label="measured: estimate to 95 % bound")
        return
    axes.axvline(s.values["false_alarm"].mean(), color=INK, lw=1, ls=":", label="assumed")


def roc(s: Scenario) -> Figure:
    """Operating points of quorums between detection and false conviction, over lines of equal slack of the treaty."""
    p, alpha = np.linspace(0, 1, 121), np.geomspace(1e-5, 0.2, 121)
    grid_a, grid_p = np.meshgrid(alpha, p)
    m = build(s, {"detection": grid_p[..., None], "false_alarm": grid_a[..., None], **_single()})
    value = np.broadcast_to(slack(m, s.breakout).min(-1), grid_p.shape)
    figure, axes = _axes(
        f"Convictions and the treaty's slack\n{s.title}",
        "conviction of an honest party, per inspection",
        "conviction of a cheat that was inspected",
    )
    axes.set_xscale("log")  # before the lines, whose labels are placed by it
    shown = np.clip(value, -0.2, 0.2)
    lines = axes.contour(
        alpha, p, shown, levels=[-0.15, -0.1, -0.05, 0.05, 0.1, 0.15], colors="#8a8a8a", linewidths=0.8
    )
    axes.clabel(lines, fontsize=7, fmt="%g")
    if (value < 0).any() and (value > 0).any():
        axes.contour(alpha, p, value, levels=[0], colors=INK, linewidths=1.8)
    axes.contourf(alpha, p, value, levels=[0, np.inf], colors=["#4a90c2"], alpha=0.2)
    for x, label, marker, colour in ((s, "estimates", "o", "#1b7837"), (s.at_bounds(), "95 % bounds", "s", "#d6604d")):
        _quorums(axes, x, marker, colour)
        axes.plot([], [], marker, color=colour, ls="", label=f"quorums at the {label}; filled: this scenario's")
    axes.set_ylim(0, 1.02)
    axes.plot([], [], color=INK, lw=1.8, label="slack 0: stable in the shaded part")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def _quorums(axes: Axes, s: Scenario, marker: str, colour: str) -> None:
    """One point for each quorum, and one label for those that fall together."""
    points: dict[tuple[float, float], list[int]] = {}
    for k in range(1, int(s.values["inspectors"][0]) + 1):
        m = build(s, {"quorum": np.array([float(k)]), "coverage": np.ones(1)})
        points.setdefault((round(max(float(m.alpha.max()), 1e-5), 7), round(float(m.p.max()), 3)), []).append(k)
    for (a, d), ks in points.items():
        mine = int(s.values["quorum"][0]) in ks
        axes.plot(a, d, marker, color=colour, ms=8 if mine else 5, mfc=colour if mine else "white", clip_on=False)
        below = -10 if d > 0.9 else 4
        axes.annotate(", ".join(map(str, ks)), (a, d), xytext=(6, below), textcoords="offset points", fontsize=7)


def _single() -> Mapping[str, Array]:
    """One inspector that decides alone, so that detection and false alarm are those of the conviction."""
    return {"inspectors": np.ones(1), "quorum": np.ones(1), "corrupt": np.zeros(1)}


def breakout(s: Scenario) -> Figure:
    """Inspections needed, by how long a breakout takes: the assumption that decides."""
    years = np.geomspace(0.01, 2, 121)
    figure, axes = _axes(
        f"The breakout decides\n{s.title}",
        "time to a lump breakout at covert speed (yr)",
        "inspections of each party (1/yr)",
    )
    rate = np.geomspace(0.3, 400, 300)
    for x, label, colour in ((s, "estimates", "#1b7837"), (s.at_bounds(), "95 % bounds", "#d6604d")):
        _region(axes, x, LUMP, ("breakout", years), rate, colour, f"stable, measured inputs at their {label}")
    p = float(build(s).p.max())
    for goal, style in ((0.9, "-."), (0.2, ":")):
        axes.plot(years, -np.log(1 - goal) / (p * years), color=INK, lw=1, ls=style, label=f"{goal:.0%} found in time")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.3, 400)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def timeline(s: Scenario) -> Figure:
    """What becomes of a pause in which one party cheats, and of one in which all comply, year by year."""
    m = build(s)
    years = np.linspace(0, 10, 400)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    channel = channels(m)[0]
    rate = float(channel.mu_d.max() + (m.mu_f - m.phi_f).max())
    solved, failed = float(m.g.max()), float(m.mu_f.max())
    success = 0.0 if s.breakout == LUMP else float((channel.speed * m.lam * m.x).max())
    end = float(m.T_b.max()) if s.breakout == LUMP else np.inf
    _stack(left, years, {"safety solved": solved, "false conviction, race": failed}, np.inf, "all comply")
    flows = {"safety solved": solved, "convicted, race": rate, "covert victory": success}
    soon = 2 * end if s.breakout == LUMP else min(10.0, 5 / sum(flows.values()))
    _stack(right, np.linspace(0, soon, 400), flows, end, f"one cheats ({s.breakout} breakout)")
    figure.suptitle(f"Timeline\n{s.title}", x=0.01, ha="left", fontsize=11)
    left.set_ylabel("probability")
    return figure


def _stack(axes: Axes, years: Array, rates: Mapping[str, float], end: float, title: str) -> None:
    """Competing risks until a lump breakout at `end`, which takes all that is left."""
    total = sum(rates.values())
    done = -np.expm1(-total * np.minimum(years, end))
    parts = {name: rate / total * done if total else 0 * done for name, rate in rates.items()}
    rest = 1 - done
    if np.isfinite(end):
        parts["covert victory"] = parts["covert victory"] + np.where(years >= end, rest, 0.0)
        rest = np.where(years >= end, 0.0, rest)
    colours = {"safety solved": "#7fbf7b", "covert victory": "#b2182b"}
    rows = {"pause": rest, **parts}
    axes.stackplot(
        years,
        list(rows.values()),
        labels=list(rows),
        colors=["#4a90c2", *(colours.get(name, "#9a9a9a") for name in parts)],
    )
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("years since the pause began")
    axes.set_xlim(years[0], years[-1])
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, loc="lower right")


def tornado(found: Sensitivity) -> Figure:
    """Sobol total indices beside what each factor does alone."""
    rows = found.indices[::-1]
    names = [f"{i.factor} ({i.label})" for i in rows]
    figure = Figure(figsize=(9.5, 0.32 * len(rows) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(rows))
    for i, row in zip(at, rows, strict=True):
        low, high = sorted((row.low, row.high))
        left.barh(i, high - low, left=low, color="#4a90c2", height=0.6)
    left.axvline(found.margin, color=INK, lw=1)
    left.axvline(0, color=INK, lw=0.8, ls=":")
    left.set_yticks(at, names, fontsize=8)
    left.set_title("margin with one factor over its range", loc="left", fontsize=10)
    left.set_xlabel("W_C - W_T (prizes); line: the scenario")
    right.barh(at, [r.total for r in rows], xerr=[r.total_half for r in rows], color="#f6d186", height=0.6)
    right.barh(at, [r.first for r in rows], color="#d6604d", height=0.25)
    right.set_title("Sobol indices: total (wide), first (narrow)", loc="left", fontsize=10)
    right.set_xlabel("share of the margin's variance")
    right.set_xlim(left=0)
    return figure


FIGURES: Final[Mapping[str, Callable[[Scenario], Figure]]] = {
    "beliefs": beliefs,
    "phase": phase,
    "window": window,
    "roc": roc,
    "breakout": breakout,
    "timeline": timeline,
}
