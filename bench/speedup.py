"""What each slack of the speed-up task costs, and what the limits on honest candidates rest on.

    python bench/speedup.py [--pairs 3] [--seeds 12]

The levels take turns in one run, on the same texts, each in the sandbox that the gauge uses; a level's factor is the
time of the level below it over its own. Nothing in a run waits, so on an idle core both clocks give the same; the
targets are looked up by processor time, which a busy machine disturbs less. Then: how far honest levels deviate from
the baseline, how far one that leaves a single step out does, and how much the baseline's loss scatters over seeds. Exit
status 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from math import exp, log
from pathlib import Path
from typing import Final

import numpy as np

from brakeline.gauges.speedup.job import WORK, Job, make_job
from brakeline.gauges.speedup.measure import DEVIATION_MOST, HUMAN, LOSS_MOST, in_sandbox, machine
from brakeline.gauges.speedup.reference import LEVELS, REFERENCES, reference
from brakeline.gauges.speedup.weights import deviations, held_out_loss, read_weights

HUMAN_RANGE: Final = (3.7, 4.3)
FAST_LEAST: Final = 52.0  # the highest factor published for a model
SKIP = "adam.step(model.grads)"


def bench_ladder(folders: list[Path], pairs: int) -> bool:
    """Time every level, print its factor and the whole speed-up; say whether the targets are met."""
    names = ("baseline", *LEVELS)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-speedup-") as room:
        for i in range(pairs):
            job = make_job(WORK, bytes([i]) * 32)
            outputs = []
            for name, folder in zip(names, folders, strict=True):
                done = in_sandbox(folder, job, Path(room))
                assert done.output is not None, done.problem
                wall[name].append(done.wall)
                cpu[name].append(done.cpu)
                outputs.append(read_weights(WORK, done.output))
            worst = max(worst, *(float(deviations(outputs[0], w).max()) for w in outputs[1:]))
    print(f"{'':<12} {'seconds':>9} {'factor':>8} {'speed-up':>9} {'by processor time':>18}")
    before, totals = names[0], {}  # by processor time: what the clock shows where nobody else wants the core
    for level, name in enumerate(names):
        factor, total, by_cpu = ratio(wall, before, name), ratio(wall, names[0], name), ratio(cpu, names[0], name)
        totals[level] = by_cpu
        print(f"{name:<12} {statistics.median(wall[name]):>9.2f} {factor:>8.2f} {total:>9.1f} {by_cpu:>18.1f}")
        before = name
    human, fast = totals[REFERENCES["human"]], totals[REFERENCES["fast"]]
    met = HUMAN_RANGE[0] <= human <= HUMAN_RANGE[1] and fast >= FAST_LEAST and worst < DEVIATION_MOST / 10
    print(
        f"\nhuman patch {human:.2f}x (target {HUMAN_RANGE[0]} to {HUMAN_RANGE[1]}), h = {log(human) / log(HUMAN):.2f}"
    )
    print(f"all slack removed {fast:.1f}x (target {FAST_LEAST} or more), h = {log(fast) / log(HUMAN):.2f}")
    print(f"honest levels deviate by {worst:.1e} at most; the limit is {DEVIATION_MOST:.0e}")
    return met


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    return exp(statistics.fmean(log(a / b) for a, b in zip(times[above], times[below], strict=True)))


def trained(folder: Path, data: bytes) -> np.ndarray:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, input=data, stdout=subprocess.PIPE, check=True, env=environment
    )
    return read_weights(WORK, done.stdout)


def bench_skip(fast: Path, seeds: int) -> bool:
    """The smallest deviation that leaving one step out gives, over texts and steps."""
    source = fast / "train.py"
    honest_text, found = source.read_text(), []
    for i in range(seeds):
        job = make_job(WORK, bytes([i]) * 32)
        honest = trained(fast, job.data)
        step = int(np.random.default_rng(i).integers(WORK.steps))
        source.write_text(honest_text.replace(SKIP, f"step == {step} or {SKIP}"))
        found.append(float(deviations(honest, trained(fast, job.data)).max()))
        source.write_text(honest_text)
    print(f"one of {WORK.steps} steps left out: deviates by {min(found):.1e} at least, in {seeds} tries")
    return min(found) > 10 * DEVIATION_MOST


def bench_seeds(fast: Path, seeds: int) -> None:
    """The scatter of the loss at the end over seeds, on three texts."""
    for i in range(3):
        job = make_job(WORK, bytes([i]) * 32)
        losses = [held_out_loss(WORK, trained(fast, reseeded(job, seed))[-1], job.held_out) for seed in range(seeds)]
        print(
            f"loss at the end, text {i}: {statistics.fmean(losses):.3f}, standard deviation over {seeds} seeds "
            f"{statistics.stdev(losses):.3f}; the limit is {LOSS_MOST}"
        )


def reseeded(job: Job, seed: int) -> bytes:
    head, text = job.data.split(b"\n", 1)
    return json.dumps(json.loads(head) | {"seed": seed}).encode() + b"\n" + text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=12)
    arguments = parser.parse_args()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"machine: {', '.join(f'{k} {v}' for k, v in machine().items())}, {os.cpu_count()} cores, load {load}\n")
    with ExitStack() as stack:
        folders = [stack.enter_context(reference(level)) for level in range(len(LEVELS) + 1)]
        met = [bench_ladder(folders, arguments.pairs), bench_skip(folders[-1], arguments.seeds)]
        bench_seeds(folders[-1], arguments.seeds)
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
