"""What recording costs: the same training loop without, with, and with checkpoints, block by block in turn.

    python bench/recording.py [--rounds N] [--steps N] [--model NAME] [--threads N] [--plot FILE]

Prints, for each model, the median over rounds of (time of a recorded block / time of the plain block beside it), in
wall-clock and in CPU time (other threads hash: with `--threads 1` they find idle processors, and with as many as there
are they find none, which is dearest), and bytes per step.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from blake3 import blake3
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from train import DEFAULTS, GPT, Data, flop_per_step

from brakeline.core.transcript import LEAF_BYTES
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps
from brakeline.training.digest import Memory, capture, seed_generators
from brakeline.training.environment import processors
from brakeline.training.recorder import Recorder

# The cost of a step's record grows with the parameters (12 bytes each to hash, with AdamW) and not with the batch.
MODELS = {
    "default": {},
    "wide": {"width": 132},
    "batch": {"batch": 32},
    "10M": {"layers": 12, "width": 264, "heads": 6, "context": 128, "batch": 4},
    "50M": {"layers": 16, "width": 512, "heads": 8, "context": 128, "batch": 4},
}
SEGMENT = 30
PATIENCE = 120.0  # s for a model


class Bench:
    """One model and three ways to train it on. `block` runs some steps and returns (wall, CPU) seconds."""

    def __init__(self, config: dict, directory: Path) -> None:
        self.config = {**DEFAULTS, **config}
        seed_generators(0)
        self.model, self.data = GPT(self.config), Data(self.config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=10_000)
        self.recorders = {"plain": None}
        for name, segment in (("leaves", 10**9), ("checkpoints", SEGMENT)):
            recorder = self.recorders[name] = Recorder(
                directory / name,
                segment_steps=segment,
                flop_per_step=flop_per_step(config),
                head_every_segments=1,
                on_head=None,
                run="bench",
                permit=lambda: bytes(32),
            )
            recorder.open(model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, data=self.data)

    def block(self, name: str, steps: int) -> tuple[float, float]:
        recorder = self.recorders[name]
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            x, y = self.data.next()
            loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            if recorder:
                recorder.step(loss=loss, batch=(x, y))
        if recorder:
            recorder.settle()
        return time.perf_counter() - wall, time.process_time() - cpu


def digested(bench: Bench) -> tuple[float, float]:
    """GB/s of the state's digest, the walk included, and of BLAKE3 on all processors over as many bytes in a row."""
    known: dict[str, Memory] = {}
    objects = {"model": bench.model, "optimizer": bench.optimizer}
    size = sum(part.tensor.nbytes for part in capture(objects, known).parts)
    row = torch.randint(256, (size,), dtype=torch.uint8).numpy()
    ways = (lambda: capture(objects, known).digest(), lambda: blake3(row, max_threads=blake3.AUTO).digest())
    return tuple(size / median(timed(way) for _ in range(9)) / 1e9 for way in ways)  # type: ignore[return-value]


def timed(way: Callable[[], bytes]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def plot(found: dict[str, list[tuple[int, float]]], threads: int, file: Path) -> None:
    """What recording adds to a step's time, by the size of the model: `found` has (parameters, share) for each way."""
    axes = Figure(figsize=(6, 3.6), layout="constrained").subplots()
    for way, points in found.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=f"with {way}")
    axes.axhline(0.03, color="grey", linestyle=":", label="aim: 3 %")
    axes.set_xscale("log")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="parameters", ylabel="added wall-clock time", title=f"{threads} of {processors()} processors train")
    axes.legend(frameon=False)
    axes.figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, help="12 of a small model, 2 of a large one")
    parser.add_argument("--steps", type=int, default=SEGMENT, help="steps a block")
    parser.add_argument("--model", choices=MODELS, action="append", help="one of the models; all without it")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--plot", type=Path, help="a picture of all models that were measured")
    options = parser.parse_args()
    found: dict[str, list[tuple[int, float]]] = {"leaves": [], "checkpoints": []}
    torch.set_num_threads(options.threads)
    for name in options.model or MODELS:
        config = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(config, Path(folder))
            warm = bench.block("plain", 5)[0] / 5
            rounds = options.rounds or max(2, min(12, round(PATIENCE / (3 * options.steps * warm))))
            times = [{way: bench.block(way, options.steps) for way in bench.recorders} for _ in range(rounds)]
            step = median(t["plain"][0] for t in times) / options.steps
            parameters = sum(p.numel() for p in bench.model.parameters())
            tokens = bench.config["batch"] * bench.config["context"]
            size = f"{parameters:,} parameters, {tokens:,} tokens a step"
            print(f"{name}: {size}, {step * 1e3:.1f} ms without recording, {rounds} rounds")
            for way in ("leaves", "checkpoints"):
                wall, cpu = (median(t[way][i] / t["plain"][i] for t in times) - 1 for i in (0, 1))
                found[way].append((parameters, wall))
                print(f"  with {way:12} wall {wall:+7.2%}   CPU {cpu:+7.2%}")
            for recorder in bench.recorders.values():
                if recorder:
                    recorder.close()
            ours, plain = digested(bench)
            print(f"  a state's digest {ours:.1f} GB/s, {ours / plain:.2f} of BLAKE3 over as many bytes")
            saved = Path(folder) / "checkpoints"
            size = checkpoint_path(saved, checkpoint_steps(saved)[-1]).stat().st_size
            print(f"  {LEAF_BYTES} bytes a step, and {size:,} a checkpoint every {SEGMENT} steps")
    if options.plot:
        plot(found, options.threads, options.plot)


if __name__ == "__main__":
    main()
