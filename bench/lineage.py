"""Does the lineage gauge alarm in time, is an honest lineage ever accused, and do its guarantees hold?

    python bench/lineage.py [--quick]

Every lineage is nine generations of small networks, really trained and probed by the demo's recipe, and goes through
the gauge as evidence. Three arms: `compounding`, in which generation 0 has a rare fault and every parent labels for its
child; `control`, the same with right labels; `clean start`, in which nothing is wrong with generation 0 but parents
label. In time means: an alarm at a generation before the first one whose bad rate is over 10 %. Exit status 1 when a
target is missed. The simulations below count how often bounds and alarms are wrong where the truth is known.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from machine import machine
from scipy.stats import binom

from brakeline.gauges.lineage.demo import FAMILY, LAB, generations, item_lists, plan
from brakeline.gauges.lineage.digits import Recipe
from brakeline.gauges.lineage.evidence import Evidence
from brakeline.gauges.lineage.gauge import ALPHA, measure
from brakeline.gauges.lineage.probe import list_digest
from brakeline.gauges.lineage.rates import Count, e_process, growth, rate

IN_TIME, LATE = 6 / 8, 0.1  # least share of alarms in time; the bad rate they must come before


def report(recipe: Recipe, seed: int, *, honest: bool) -> dict[str, Any]:
    """Train one lineage and gauge it."""
    made = list(generations(recipe, seed, honest=honest))
    lists = {list_digest(items): items for items in item_lists(recipe)}
    evidence = Evidence(plan(recipe), tuple((LAB, e) for e, _ in made), tuple(p for _, p in made), lists, (), ())
    m = measure(evidence, [made[-1][0].child])
    assert m.complete
    lineage: dict[str, Any] = m.details["lineages"][0]
    return lineage


def rates(lineage: dict[str, Any]) -> list[float]:
    return [look["value"] for look in lineage["families"][FAMILY]["looks"]]


def in_time(lineage: dict[str, Any]) -> bool:
    late = next((g for g, r in enumerate(rates(lineage)) if r > LATE), len(rates(lineage)))
    return min(lineage["alarms"].values(), default=late) < late


def arm(name: str, recipe: Recipe, seeds: Iterable[int], *, honest: bool) -> list[dict[str, Any]]:
    began = time.process_time()
    found = []
    for seed in seeds:
        found.append(report(recipe, seed, honest=honest))
        if sys.stderr.isatty():
            print(f"\r{name}: {len(found)}", end="\r", file=sys.stderr, flush=True)
    spent = (time.process_time() - began) / len(found)
    alarmed = {a: sum(a in f["alarms"] for f in found) for a in ("ancestry", "rate", "growth", "anchors")}
    by_generation = np.array([rates(f) for f in found])
    print(f"{name}: {len(found)} lineages, {spent:.1f} s of CPU each")
    for share in (0, 50, 100):
        word = {0: "least", 50: "median", 100: "most"}[share]
        print(f"  {word:<7}" + " ".join(f"{r:6.4f}" for r in np.percentile(by_generation, share, axis=0)))
    ratios = [r["value"] for f in found for r in f["families"][FAMILY]["growth"][1:5]]
    print(f"  growth a generation, 1 to 5: median {median(ratios):.2f}")
    print(f"  alarms: {', '.join(f'{a} {n}' for a, n in alarmed.items())}; in time {sum(map(in_time, found))}")
    return found


def coverage(trials: int) -> None:
    """How often the lower bound on growth is above the truth, where the level allows 5 %."""
    print("\nlower bound on growth above the truth, allowed 5.0 %")
    rng = np.random.default_rng(1)
    for n in (1000, 4000):
        for p, ratio in ((0.002, 1.0), (0.01, 1.0), (0.01, 2.0), (0.1, 1.0), (0.1, 2.0)):
            pairs, times = np.unique(
                np.stack([rng.binomial(n, p, trials), rng.binomial(n, p * ratio, trials)]), axis=1, return_counts=True
            )
            wrong = sum(
                int(t)
                for (a, b), t in zip(pairs.T, times, strict=True)
                if growth(Count(int(a), n), Count(int(b), n), ALPHA).lower > ratio
            )
            print(f"  n {n}, rate {p}, growth {ratio:g}: {wrong / trials:6.1%}")


def looks(trials: int) -> bool:
    """Alarms of a lineage exactly at its limit, looked at after each of 30 generations."""

    def ever(alarm: Callable[[np.ndarray], bool]) -> int:
        rng = np.random.default_rng(2)
        return sum(alarm(rng.binomial(1000, 0.02, 30)) for _ in range(trials))

    def by_e(bad: np.ndarray) -> bool:
        return max(e_process([Count(int(b), 1000) for b in bad], 0.02)) >= -np.log(ALPHA)

    def by_p(bad: np.ndarray) -> bool:
        done = 1000 * np.arange(1, 31)
        return bool((binom.sf(np.cumsum(bad) - 1, done, 0.02) < ALPHA).any())

    def by_growth(bad: np.ndarray) -> bool:
        lower = [growth(Count(int(a), 1000), Count(int(b), 1000), ALPHA).lower for a, b in pairwise(bad)]
        return any(min(pair) > 1 for pair in pairwise(lower))

    print("\nfalse alarms within 30 looks at a constant rate, exactly at the limit")
    names = (("e-process", by_e), ("growth, twice in succession", by_growth), ("p < 0.05, stop when lucky", by_p))
    wrong = {name: ever(alarm) for name, alarm in names}
    for name, count in wrong.items():
        print(f"  {name:<28}{count / trials:6.1%} of {trials}")
    return wrong["e-process"] <= ALPHA * trials and wrong["growth, twice in succession"] <= ALPHA * trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(machine())
    recipe = Recipe()
    compounding = arm("compounding", recipe, range(2 if quick else 8), honest=False)
    control = arm("control", recipe, range(6 if quick else 100), honest=True)
    if not quick:
        arm("clean start", Recipe(poison=0.0), range(8), honest=False)
    coverage(500 if quick else 4000)
    fair = looks(100 if quick else 2000)
    caught, accused = sum(map(in_time, compounding)), sum(bool(f["alarms"]) for f in control)
    print(f"\nalarms in time: {caught} of {len(compounding)} (target {IN_TIME:.0%})")
    above = rate(Count(accused, len(control)), ALPHA).upper
    print(f"false alarms: {accused} of {len(control)} control lineages (target 0); their rate is below {above:.1%}")
    return 0 if caught >= IN_TIME * len(compounding) and not accused and fair else 1


if __name__ == "__main__":
    sys.exit(main())
