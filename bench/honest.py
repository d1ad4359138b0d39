"""A thousand honest audits: is anybody ever accused?

    python bench/honest.py [--quick] [--only KIND ...]

Runs of worlds of their own, as in audit.py, with what happens to honest labs: processes that die, brakes, torn and old
copies, bits that rot, losses that are no numbers, normalisation, dropout, attention, weights of 16 bits, inspectors
with other kernels. An audit that says `fetch the evidence again` accuses nobody and passes nobody. Exit status 1 where
a violation was found.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import audit as bench
import torch
from machine import machine

from brakeline.core.errors import Unavailable
from brakeline.core.finding import Audit
from brakeline.training import specimens
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.recorder import LEAVES
from brakeline.training.session import PERMITS

STEPS = 48
SPECIMENS = Path(specimens.__file__)
KINDS = ("dropout", "kinks", "attention")
Found = Audit | None  # None: the evidence is to be fetched again


def run_of(kind: str, folder: Path, **more: object) -> bench.Run:
    return bench.Run("run", STEPS, folder, SPECIMENS, kind=kind, **more)


def straight(folder: Path, random: Random) -> Iterator[Found]:
    run = run_of(random.choice(KINDS), folder)
    run.session()
    yield from (run.audit(i) for i in bench.INSPECTORS)


def killed(folder: Path, random: Random) -> Iterator[Found]:
    run = run_of(random.choice(KINDS), folder)
    run.events = dict.fromkeys(random.sample(range(1, STEPS), 3), run.crash)
    while run.events:
        run.session()
        if random.random() < 0.5:
            run.tear()
    run.session()
    yield from (run.audit(i) for i in bench.INSPECTORS)


def braked(folder: Path, random: Random) -> Iterator[Found]:
    run = run_of(random.choice(KINDS), folder)
    run.events = {random.randrange(1, STEPS): run.trip}
    run.session()
    run.world.stamp()
    yield run.audit(bench.INSPECTORS[0])
    run.release()
    run.session()
    yield from (run.audit(i) for i in bench.INSPECTORS)


def odd(folder: Path, random: Random) -> Iterator[Found]:
    """Losses and weights that are no numbers from some step on, or weights of 16 bits."""
    changes = random.choice([{"lr": 1e30}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "lr": 0.1}])
    run = run_of(random.choice(KINDS), folder, **changes)
    run.session()
    yield from (run.audit(i) for i in bench.INSPECTORS)


def copied(folder: Path, random: Random) -> Iterator[Found]:
    """An inspector's copy is old, torn, incomplete, or has rotten bits."""
    run = run_of(random.choice(KINDS), folder)
    stale = folder / "stale"
    run.events = {STEPS // 2: lambda: shutil.copytree(run.evidence, stale) and None}
    run.session()
    whole = folder / "whole"
    shutil.copytree(run.evidence, whole)
    steps = range(0, STEPS + 1, bench.SEGMENT)
    for inspector in bench.INSPECTORS:
        shutil.rmtree(run.evidence)
        shutil.copytree(random.choice([whole, whole, whole, stale]), run.evidence)
        path = random.choice(
            [run.evidence / LEAVES, run.evidence / PERMITS, checkpoint_path(run.evidence, random.choice(steps))]
        )
        harm = random.choice(["torn", "gone", "rotten"])
        if path.exists() and harm == "gone":
            path.unlink()
        elif path.exists():
            data = bytearray(path.read_bytes())
            at = random.randrange(len(data))
            data[at] ^= 1 << random.randrange(8)
            path.write_bytes(data[:at] if harm == "torn" else data)
        try:
            yield run.inspect(inspector)
        except Unavailable:
            yield None


def elsewhere(folder: Path, random: Random) -> Iterator[Found]:
    run = run_of(random.choice(KINDS), folder)
    run.session()
    yield run.audit(random.choice(bench.INSPECTORS), cell=bench.elsewhere(random.randrange(9)))


Honest = Callable[[Path, Random], Iterator[Found]]
PLAN: dict[Honest, int] = {straight: 130, killed: 130, braked: 60, odd: 80, copied: 110, elsewhere: 60}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one run of each kind")
    parser.add_argument("--only", nargs="*", default=[], help=", ".join(kind.__name__ for kind in PLAN))
    options = parser.parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    print(machine())
    started = time.monotonic()
    total = accused = 0
    print("\nhonest       runs  audits  passed  inconclusive  fetched again  accused")
    for kind, count in PLAN.items():
        if options.only and kind.__name__ not in options.only:
            continue
        said: Counter[str] = Counter()
        for number in range(1 if quick else count):
            bench.say(f"{kind.__name__}: {number + 1} of {count}")
            with tempfile.TemporaryDirectory(prefix="bench-honest-") as folder:
                for found in kind(Path(folder), Random(f"{kind.__name__}-{number}")):
                    said["again" if found is None else found.verdict] += 1
                    for f in found.findings if found else ():
                        if f.severity == "violation":
                            print(f"  {number}: {f.fault} at steps {f.segment[0]}-{f.segment[1]}: {f.detail}")
        audits = said.total()
        print(f"{kind.__name__:<10} {1 if quick else count:>6} {audits:>7} {said['pass']:>7}", end="")
        print(f" {said['inconclusive']:>13} {said['again']:>14} {said['fail']:>8}", flush=True)
        total, accused = total + audits, accused + said["fail"]
    bench.say("")
    print(f"\naccused: {accused} of {total} honest audits", end="")
    print(f" (the rate is below {bench.at_most(total):.2%} at 95 % confidence)" if not accused else "")
    print(f"in {time.monotonic() - started:.0f} s")
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
