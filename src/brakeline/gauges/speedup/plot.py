"""The figure of a measurement: the speed-up against the published reference, and every run it comes from."""

from math import exp, log

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brakeline.core.measurement import Measurement


def figure(m: Measurement) -> Figure:
    """Left: the value with its bounds, each pair's ratio, and the threshold. Right: the seconds of every run."""
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    ratios, seconds = fig.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    pairs = m.details["pairs"]
    times = [[max(pair[which]["wall"], pair[which]["cpu"]) for pair in pairs] for which in ("base", "candidate")]
    _draw_ratios(ratios, m, [base / own for base, own in zip(*times, strict=True)])
    names = ("baseline", "candidate")
    for i, (name, runs) in enumerate(zip(names, times, strict=True)):
        seconds.scatter([i + 0.04 * (k - len(runs) / 2) for k in range(len(runs))], runs, s=22, label=name)
    seconds.set_xticks([0, 1], names)
    seconds.set_xlim(-0.6, 1.6)
    seconds.set_yscale("log")
    low, high = min(map(min, times)) / 2, max(map(max, times)) * 2
    marks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= x <= high]
    seconds.set_yticks(marks, [f"{x:g}" for x in marks])
    seconds.yaxis.minorticks_off()
    seconds.set_ylabel("seconds, from start to end")
    seconds.set_title(f"all {2 * len(pairs)} runs", fontsize="medium")
    seconds.grid(axis="y", alpha=0.3)
    return fig


def _draw_ratios(axes: Axes, m: Measurement, ratios: list[float]) -> None:
    h = m.details
    axes.axvline(m.threshold, color="tab:red", linestyle="--", label=f"skilled human, published: {m.threshold:g}")
    axes.axvline(1, color="0.6", linewidth=1)
    axes.scatter(ratios, [0.35] * len(ratios), s=22, color="tab:blue", alpha=0.6, label="each pair")
    axes.errorbar(
        [m.value],
        [0.65],
        xerr=[[m.value - m.lower], [m.upper - m.value]],
        fmt="o",
        capsize=5,
        color="black",
        label=(
            f"s = {m.value:.3g}, 95 %: {m.lower:.3g} to {m.upper:.3g}\n"
            f"h = {h['h']:.2f}, 95 %: {h['h_lower']:.2f} to {h['h_upper']:.2f}"
        ),
    )
    axes.set_xscale("log")
    widest = max(abs(log(x)) for x in (m.lower, m.upper, m.threshold, *ratios))
    axes.set_xlim(min(0.8, m.lower / 1.2), exp(widest) * 1.3)
    ticks = [x for x in (0.5, 1, 2, 4, 8, 16, 32, 64, 128) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.minorticks_off()
    axes.set_ylim(0, 1.6)
    axes.set_yticks([])
    axes.set_xlabel("times faster than the baseline")
    axes.set_title(f"training-code speed-up of {m.subject}: {m.verdict}", fontsize="medium")
    axes.legend(loc="upper left", fontsize="small", framealpha=1)
