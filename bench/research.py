"""The research gauge: its baselines against the published table, and the loop on several draws of the splits.

    python bench/research.py [--quick]

The baselines are means over draws, with the standard error between draws; the table's are over ten seeds of one split.
Each loop is the default one, with eight researchers. Exit status 1 when a baseline is further from the table than three
standard errors of both, or when the mean sealed PGR is below 0.6. With --quick, two draws and no loop.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from machine import machine

from brakeline.gauges.research.ledger import Ledger
from brakeline.gauges.research.loop import Config, Loop, drive
from brakeline.gauges.research.measure import measurement
from brakeline.gauges.research.methods import BASELINES, answer
from brakeline.gauges.research.problem import deal
from brakeline.gauges.research.runner import local
from brakeline.gauges.research.score import pgr

# PGR, and its standard error where the table gives one
PUBLISHED = {"vanilla": (0.053, 0.011), "neighbours": (0.279, 0.0), "propagation": (0.305, 0.033)}
AIM = 0.6
SEEDS = range(10)


def baseline(name: str, draw: int) -> float:
    deals = [deal("digits", draw, seed, "oracle") for seed in SEEDS]
    truth, weak, ceiling = (np.stack([getattr(d, field) for d in deals]) for field in ("truth", "weak", "ceiling"))
    said = np.stack([answer(BASELINES[name], d.seen) for d in deals])
    return pgr(said == truth, weak == truth, ceiling == truth)


def baselines(draws: int) -> bool:
    good = True
    print(f"baselines on digits, {draws} draws of {len(SEEDS)} seeds")
    for name in BASELINES:
        values = np.array([baseline(name, draw) for draw in range(draws)])
        error = values.std(ddof=1) / draws**0.5
        line = f"  {name:12} PGR {values.mean():.3f} ± {error:.3f}"
        if name in PUBLISHED:
            published, theirs = PUBLISHED[name]
            good &= abs(values.mean() - published) <= 3 * (error**2 + theirs**2) ** 0.5
            line += f"   published {published:.3f}"
        print(line, flush=True)
    return good


def loops(draws: int) -> bool:
    print("the default loop, eight researchers")
    sealed = []
    for draw in range(draws):
        config = Config(
            data="digits", second="cancer", draw=draw, agents=8, rounds=4, proposals=3, researcher="search"
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            local(os.cpu_count() or 1) as run,
            Ledger(Path(folder) / "ledger.jsonl") as ledger,
        ):
            loop = Loop(config, ledger, run)
            drive(loop)
            m = measurement(loop)
        search, second = (m.details["scores"][kind]["winner"]["pgr"] for kind in ("search", "second"))
        used = m.details["cpu_seconds"] / m.details["wall_seconds"]
        sealed.append(m.value)
        print(
            f"  draw {draw}: sealed {m.value:.3f} [{m.lower:.3f}, {m.upper:.3f}], search {search:.3f}, second data set "
            f"{second:.3f}; processor/wall {used:.2f}",
            flush=True,
        )
    print(f"  mean sealed PGR {np.mean(sealed):.3f}, aim {AIM}")
    return bool(np.mean(sealed) >= AIM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(machine())
    good = baselines(2 if quick else 10)
    return 0 if (quick or loops(3)) and good else 1


if __name__ == "__main__":
    sys.exit(main())
