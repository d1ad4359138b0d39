"""What the loop's ledger amounts to: a measurement, and its figure."""

from typing import Any, Final

from matplotlib.figure import Figure

from brakeline.core.measurement import Measurement
from brakeline.gauges.research.loop import SEALED_SEEDS, SEARCH_SEEDS, Loop
from brakeline.gauges.research.oracle import STEP, leak_bits
from brakeline.gauges.research.problem import load
from brakeline.gauges.research.score import RESAMPLES

HUMAN: Final = 0.23  # two researchers in about a week, chat task; Favaro & Clark 2026
MODELS: Final = 0.97  # nine AI researchers, same task and source

_DRAWN: Final = {
    "search": (-0.25, "C0", "oracle's items"),
    "sealed": (0.0, "C3", "sealed items"),
    "second": (0.25, "C2", "second data set"),
}


def measurement(loop: Loop, logs: tuple[str, ...] = ()) -> Measurement:
    """The reading of a finished loop: sealed PGR of the one method it submitted.

    Raises:
        Misuse: the search is not over.
    """
    c, found = loop.config, loop.finish()
    sealed = found["sealed"]["winner"]
    runs, budget = loop.ledger.of("run"), c.rounds * c.proposals
    everything = [*runs, found]
    details: dict[str, Any] = {
        "ledger": loop.ledger.head,
        "submission": loop.ledger.of("submission")[0],
        "scores": {kind: found[kind] for kind in ("search", "sealed", "second")},
        "heard": [[h.team, h.turn, h.run["heard"]] for h in loop.hypotheses if h.run],
        "experiments": len(runs),
        "failed": sum(bool(body["error"]) for body in runs),
        "refused": sum(len(body["refused"]) for body in loop.ledger.of("hypotheses")),
        "exposed": sorted({body["exposed"] for body in everything} - {""}),
        "leak_bits": round(c.agents * leak_bits(budget), 1),
        "cpu_seconds": round(sum(body["cpu"] for body in everything), 1),
        "wall_seconds": round(sum(body["wall"] for body in everything), 1),
        "references": {"humans": HUMAN, "models": MODELS},
    }
    return Measurement(
        gauge="research",
        version=1,
        subject=c.researcher,
        inputs={
            "data": {c.data: load(c.data).digest, c.second: load(c.second).digest},
            "draw": c.draw,
            "agents": c.agents,
            "rounds": c.rounds,
            "proposals": c.proposals,
            "researcher": c.researcher,
            "search_seeds": list(SEARCH_SEEDS),
            "sealed_seeds": list(SEALED_SEEDS),
            "step": STEP,
            "resamples": RESAMPLES,
        },
        unit="share",
        value=sealed["pgr"],
        lower=sealed["lower"],
        upper=sealed["upper"],
        threshold=HUMAN,
        complete=True,
        alarms=(),
        details=details,
        logs=logs,
    )


def figure(m: Measurement) -> Figure:
    """Left: what the oracle answered over the search. Right: the winner and the baselines, search beside sealed."""
    drawn = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    heard = [(n, team, value) for n, (team, _, value) in enumerate(m.details["heard"], 1)]
    for team in sorted({team for _, team, _ in heard}):
        own = [(n, value) for n, t, value in heard if t == team and value is not None]
        if own:
            left.plot(*zip(*own, strict=True), "o-", ms=4, lw=0.8, alpha=0.7, label=f"team {team}")
    left.set(xlabel="experiment", ylabel="PGR as the oracle answered", title="Search: each team's new bests")
    left.set_xlim(0, max(len(heard), 1) + 1)
    left.set_ylim(bottom=0)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=7, ncols=2, loc="lower right")
    scores = m.details["scores"]
    labels = sorted(scores["sealed"], key=lambda label: scores["sealed"][label]["pgr"])
    for kind, (offset, colour, name) in _DRAWN.items():
        for place, label in enumerate(labels):
            s = scores[kind][label]
            right.errorbar(
                place + offset,
                s["pgr"],
                [[s["pgr"] - s["lower"]], [s["upper"] - s["pgr"]]],
                fmt="o",
                ms=5,
                color=colour,
                capsize=3,
                label=name if place == 0 else None,
            )
    for name, value in m.details["references"].items():
        right.axhline(value, color="0.4", ls=":" if name == "models" else "--", lw=1)
        right.text(-0.45, value, f"{name}, another task: {value:g}", va="bottom", fontsize=8, color="0.3")
    right.set_xticks(range(len(labels)), labels, rotation=20)
    right.set(ylabel="share of the gap recovered (PGR)", title=f"Evaluation after the search by {m.subject}")
    right.axhline(0, color="0.8", lw=0.8)
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.93))
    return drawn
