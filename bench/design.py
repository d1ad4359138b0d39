"""How fast are the closed forms, and how fast are audits on the real core?

    python bench/design.py [--quick]

Closed forms: a verdict on compliance (participation and the margins of three ways to cheat, two parties) for a million
random scenarios, beside one `exp` over as many numbers. Audits: `brakeline design simulate`'s episodes, beside bare
Ed25519 verifications. Exit status 1 when a target is missed: a million evaluations of the core identity a second, ten
thousand audits a minute by the CPU time they take, were the cores free, and every prediction within its interval.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from machine import machine

from brakeline.core.keys import PrivateKey
from brakeline.design.measured import read_measured, shipped
from brakeline.design.model import EXPONENTIAL, channels, identity, slack
from brakeline.design.parameters import PARAMETERS
from brakeline.design.scenario import build, read_scenario
from brakeline.design.simulate import simulate

SCENARIO = """[scenario]
name = "bench"
title = "bench"
policy = "verified"
breakout = "exponential"
[parameters]
inspections = 1
fine = 0.1
false_alarm = 0.03
"""
FACTORS = ("risk", "loss", "arrival_rate", "safety_rate", "discount", "fine", "inspections", "coverage")


def best(work, times: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def closed_forms(count: int) -> bool:
    s = read_scenario(SCENARIO.encode(), read_measured(shipped()))
    rng = np.random.default_rng(1)
    bounds = {name: (PARAMETERS[name].low, PARAMETERS[name].high) for name in FACTORS}
    draws = {name: rng.uniform(*bounds[name], (count, 1)) for name in FACTORS}
    numbers = rng.random((count, 2))

    def chunks(what) -> None:
        for start in range(0, count, 20_000):  # as large as the cache likes
            m = build(s, {name: values[start : start + 20_000] for name, values in draws.items()})
            what(m)

    base = best(lambda: np.exp(numbers))
    one = best(lambda: chunks(lambda m: identity(m, channels(m)[0])))
    full = best(lambda: chunks(lambda m: slack(m, EXPONENTIAL)))
    print(f"exp of as many numbers           {count / base:>12,.0f} /s")
    print(f"core identity, two parties       {count / one:>12,.0f} /s   {one / base:.0f} x exp")
    print(f"all conditions, two parties      {count / full:>12,.0f} /s   {full / base:.0f} x exp")
    return count / one >= 1e6


def audits(count: int) -> bool:
    s = read_scenario(SCENARIO.encode(), read_measured(shipped()))
    key, message = PrivateKey(bytes(32)), bytes(200)
    signature = key.sign(message)
    verify = best(lambda: [key.public.verify(signature, message) for _ in range(1000)]) / 1000
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), cpu()
        found = simulate(
            s, episodes=count, seed=1, out=Path(folder), workers=workers, progress=lambda done, total: None
        )
        wall, each = time.perf_counter() - start, (cpu() - before) / found.episodes
    free = 10_000 * each / workers
    print(
        f"audits on the real core: {found.episodes} in {wall:.0f} s, {workers} processes; {1e3 * each:.1f} ms of CPU ",
        end="",
    )
    print(f"each, {each / verify:.0f} x an Ed25519 verification; 10,000 take {free:.0f} s of {workers} free cores")
    for c in found.comparisons:
        interval = f"{c.simulated:.4f}, 99 % {c.lower:.4f} to {c.upper:.4f}"
        print(f"  {c.name:<26} predicted {c.predicted:.4f}, simulated {interval}{'' if c.agrees else '  DIFFERS'}")
    return free <= 60 and all(c.agrees for c in found.comparisons)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    quick = parser.parse_args().quick
    print(machine())
    good = closed_forms(100_000 if quick else 1_000_000)
    good &= audits(1_000 if quick else 10_000)
    print("all targets met" if good else "A TARGET WAS MISSED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
