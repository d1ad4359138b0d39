"""Does what stands out lead to a glued jump or a single bad step? And is 1 % of bad segments caught for 5 % of compute?

    python bench/outliers.py [--quick]

Real runs of small models, honest schedules: warm-up and cosine, drops at epoch borders. Of each the states at the
segments' borders and the losses are kept, and glued: up to a step t the run, then a later state of the same run, or
the state of the same step in a run of another seed, with honest leaves on both sides. Or one step of a run is another
one: on other data, ten times as large, or noise of the weights' own size; after it the run goes on honestly.

Found means that the segment is among those that stand out, and so replayed. Beside it: how many are, and the chance
that as many, drawn at random, have it among them. Exit status 1 when a glue was not found, or the sample costs more
than 5 % or catches less than it says.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "examples"))

import torch
from machine import machine
from torch import nn
from torch.nn import functional as F

from brakeline.core.sampling import draws_needed, miss, sample
from brakeline.training.digest import capture
from brakeline.training.outliers import BY_LOSS, BY_UPDATE, by_counts, by_losses, by_updates, foremost
from brakeline.training.survey import Moved, moved

SEGMENT, SEGMENTS = 4, 300  # steps, segments that a run is judged by
JUMPS = (50, 100, 400)  # steps


class Job(NamedTuple):
    """A model, what it learns, and how. `batch` gives (input, target) of a step."""

    model: nn.Module
    batch: Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]


def drops(step: int) -> float:
    """A tenth after each 500 steps."""
    return 0.1 ** (step // 500)


def cosine(steps: int) -> Callable[[int], float]:
    """100 steps of warm-up, then down to zero."""

    def factor(step: int) -> float:
        rest = torch.tensor(max(0.0, min(1.0, (step - 100) / (steps - 100))))
        return min((step + 1) / 100, float(0.5 + 0.5 * torch.cos(torch.pi * rest)))

    return factor


def vectors(g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 16, generator=g)
    return x, (x[:, :4].sum(1) > 0).long() + (x[:, 4:8].sum(1) > 0).long()


def pictures(g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.randint(0, 4, (16,), generator=g)
    x = torch.randn(16, 1, 8, 8, generator=g)
    x[torch.arange(16), 0, y, y] += 3.0
    return x, y


class Text:
    """A sequence of letters that follow one another by a table, with noise."""

    def __call__(self, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.empty(8, 17, dtype=torch.long)
        rows[:, 0] = torch.randint(0, 32, (8,), generator=g)
        for i in range(16):
            noise = torch.randint(0, 32, (8,), generator=g)
            rows[:, i + 1] = torch.where(torch.rand(8, generator=g) < 0.8, rows[:, i] * 5 % 32 + 1, noise) % 32
        return rows[:, :-1], rows[:, 1:]


class Tiny(nn.Module):
    """A transformer of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(32, 32), nn.Embedding(16, 32)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.out(self.block(self.letter(x) + self.place.weight, src_mask=mask, is_causal=True)).flatten(0, 1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def cnn() -> nn.Module:
    block = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(128, 4))


def jobs(steps: int) -> dict[str, Callable[[], Job]]:
    def flat(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(a, b.flatten())

    def sgd(m: nn.Module) -> Job:
        return Job(m, vectors, flat, torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), drops)

    def plain(m: nn.Module) -> Job:
        return Job(m, vectors, flat, torch.optim.SGD(m.parameters(), lr=0.1), drops)

    def adam(m: nn.Module) -> Job:
        return Job(m, vectors, flat, torch.optim.Adam(m.parameters(), lr=3e-3), cosine(steps))

    def conv(m: nn.Module) -> Job:
        return Job(m, pictures, flat, torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9), drops)

    def gpt(m: nn.Module) -> Job:
        return Job(m, Text(), flat, torch.optim.AdamW(m.parameters(), lr=3e-3), cosine(steps))

    return {
        "MLP, SGD": lambda: plain(mlp()),
        "MLP, SGD with momentum": lambda: sgd(mlp()),
        "MLP, Adam": lambda: adam(mlp()),
        "CNN with BatchNorm, SGD": lambda: conv(cnn()),
        "tiny GPT, AdamW": lambda: gpt(Tiny()),
    }


class Record(NamedTuple):
    """A run: the state at each border, the loss of each step (0 for the start), and what changed over each segment."""

    states: list[dict[str, Any]]
    losses: list[float]
    moved: list[Moved]


class Training:
    """A run under way; data are a function of the seed and the step."""

    def __init__(self, make: Callable[[], Job], seed: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.step, self.job = seed, 0, make()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.job.optimizer, self.job.factor)
        self.states, self.losses = [self._state()], [0.0]

    def _state(self) -> dict[str, Any]:
        job = self.job
        return capture({"model": job.model, "optimizer": job.optimizer, "scheduler": self.schedule}).copy()

    def go(self, until: int, bad: str = "") -> None:
        """Train up to the step `until`; the first step is `bad`, if anything. What is said of its loss is honest."""
        while self.step < until:
            x, y = self.job.batch(torch.Generator().manual_seed(self.seed * 1_000_003 + self.step))
            self.losses.append(self._gradient(x, y))
            if bad == "other data":
                z = torch.Generator().manual_seed(self.step)
                self._gradient(torch.flip(x, (0,)), y[torch.randperm(len(y), generator=z)])
            before = [p.detach().clone() for p in self.job.model.parameters()] if bad else []
            self.job.optimizer.step()
            self.schedule.step()
            for p, old in zip(self.job.model.parameters(), before, strict=False):
                if bad == "ten times as large":
                    p.data.copy_(old + 10 * (p.data - old))
                elif bad == "noise as large as the weights":
                    p.data.add_(torch.randn_like(p) * p.data.square().mean().sqrt())
            bad = ""
            self.step += 1
            if self.step % SEGMENT == 0:
                self.states.append(self._state())

    def _gradient(self, x: torch.Tensor, y: torch.Tensor) -> float:
        loss = self.job.loss(self.job.model(x), y)
        self.job.optimizer.zero_grad()
        loss.backward()
        return float(loss.detach())

    def record(self) -> Record:
        return Record(self.states, self.losses, [moved(a, b) for a, b in pairwise(self.states)])


def glued(one: Record, other: Record, at: int, jump: int) -> Record:
    """`one` up to its segment `at`; from there on `other`, `jump` segments later."""
    states = [*one.states[: at + 1], *other.states[at + jump + 1 :]]
    losses = [*one.losses[: at * SEGMENT + 1], *other.losses[(at + jump) * SEGMENT + 1 :]]
    joint = moved(states[at], states[at + 1])
    return Record(states, losses, [*one.moved[:at], joint, *other.moved[at + jump + 1 :]])


def cut(it: Record) -> Record:
    return Record(it.states[: SEGMENTS + 1], it.losses[: SEGMENTS * SEGMENT + 1], it.moved[:SEGMENTS])


def stand_out(it: Record) -> dict[str, list[int]]:
    """The segments that stand out, by sign, as `survey` chooses them."""
    parts = [(i * SEGMENT, (i + 1) * SEGMENT) for i in range(len(it.moved))]
    return {
        "loss": foremost(by_losses(it.losses, parts), BY_LOSS),
        "update": foremost(by_updates([m.sizes for m in it.moved]), BY_UPDATE),
        "count": foremost(by_counts([m.advance for m in it.moved]), BY_UPDATE),
    }


BAD = ("other data", "ten times as large", "noise as large as the weights")


def trials(make: Callable[[], Job], seed: int) -> dict[str, tuple[Record, int]]:
    """By what was done: the record, and the number of the bad segment; -1 where there is none."""
    random, steps = Random(seed), SEGMENTS * SEGMENT + max(JUMPS)
    at = random.randrange(40, SEGMENTS - 40)
    one, other, branches = Training(make, seed), Training(make, seed + 1000), []
    one.go(at * SEGMENT + random.randrange(SEGMENT))
    for bad in BAD:
        branches.append((bad, copy.deepcopy(one)))
        branches[-1][1].go(SEGMENTS * SEGMENT, bad)
    one.go(steps)
    other.go(steps)
    a, b = one.record(), other.record()
    found = {"honest": (cut(a), -1)}
    for jump in JUMPS:
        later = jump // SEGMENT
        found[f"the same run {jump} steps later"] = cut(glued(a, a, at, later)), at
    found["another run, the same step"] = cut(glued(a, b, at, 0)), at
    for bad, branch in branches:
        found[f"a step, {bad}"] = branch.record(), at
    return found


def power(seeds: int) -> bool:
    """Prints the table; whether every glue was found in every run."""
    print(f"\n{seeds} runs of {SEGMENTS} segments of {SEGMENT} steps for each model. Of the bad segments stand out by")
    print(f"{'':26} {'loss':>6} {'update':>6} {'count':>6} {'any':>6}   replayed beside the sample, and by chance")
    good = True
    for name, make in jobs(SEGMENTS * SEGMENT + max(JUMPS)).items():
        print(name, flush=True)
        found: dict[str, list[dict[str, bool]]] = {}
        extra: dict[str, list[int]] = {}
        for seed in range(seeds):
            print(f"{name}: {seed + 1} of {seeds}", file=sys.stderr)
            for what, (record, at) in trials(make, seed).items():
                chosen = stand_out(record)
                every = {i for some in chosen.values() for i in some}
                found.setdefault(what, []).append({**{s: at in c for s, c in chosen.items()}, "any": at in every})
                extra.setdefault(what, []).append(len(every))
        for what, results in found.items():
            shares = [sum(r[sign] for r in results) / seeds for sign in ("loss", "update", "count", "any")]
            beside = sum(extra[what]) / seeds
            told = "".join(f" {share:>6.0%}" for share in shares) if what != "honest" else " " * 28
            print(f"  {what:<24}{told}   {beside:.1f} ({beside / SEGMENTS:.1%})", flush=True)
            good &= shares[-1] == 1 or not what.startswith(("the same run", "another run"))
    return good


def sampling(draws: int) -> bool:
    """The stated probability beside what is drawn, and its cost."""
    n, f_cheat, p_catch = 6000, Decimal("0.01"), Decimal("0.95")
    bad, needed = n // 100, draws_needed(n, p_catch, f_cheat)
    caught, sizes, random = 0, [], Random(0)
    for _ in range(draws):
        # The last and the first are always replayed: a cheat leaves them out.
        cheated = set(random.sample(range(1, n - 1), bad))
        chosen = sample(random.randbytes(32), n, frozenset(), p_catch, f_cheat)
        sizes.append(len(chosen))
        caught += not cheated.isdisjoint(chosen)
    cost = (max(sizes) + BY_LOSS + BY_UPDATE) / n
    print(f"\n{n} segments, of which {bad} are bad; {needed} are drawn: by the formula caught with", end=" ")
    print(f"{1 - float(miss(n, bad, needed)):.4f}, in {draws} draws {caught / draws:.4f}")
    print(f"replayed {max(sizes)} at most, with the first and the last; with what stands out {cost:.2%} of the compute")
    return cost <= 0.05 and caught / draws >= 0.95 - 3 * (0.05 * 0.95 / draws) ** 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one run of each model, 500 draws")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(machine())
    started = time.monotonic()
    good = sampling(500 if quick else 5000)
    good &= power(1 if quick else 20)
    print(f"\n{'all targets met' if good else 'A TARGET WAS MISSED'} in {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
