"""Does what stands out lead to a glued jump or a single bad step? And is 1 % of bad segments caught for 5 % of compute?

    python bench/outliers.py [--quick]

Real runs of small models, honest schedules: warm-up and cosine, drops at epoch borders. Of each the states at the
segments' borders and the losses are kept, and glued: up to a step t the run, then a later state of the same run, at
once or in a straight line over several segments, or the state of the same step in a run of another seed, with honest
leaves on both sides. Or one step of a run is another one: on other data, ten times as large, or noise as large as the
weights; after it the run goes on honestly.

Found means that the segment is among those that stand out, and so replayed. Beside it: how many are, and the chance
that as many, drawn at random, have it among them. Exit status 1 when a glue was not found, or the sample costs more
than 5 % or catches less than it says.
"""

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("examples", "tests"))

import audit
import torch
from cheat import smuggle
from machine import machine
from torch import nn
from torch.nn import functional as F

from brakeline.core.keys import PrivateKey
from brakeline.core.sampling import draws_needed, miss, sample, ticket_message
from brakeline.core.state.audits import required_sample
from brakeline.training.digest import capture
from brakeline.training.outliers import BY_LOSS, BY_UPDATE, by_counts, by_losses, by_updates, foremost
from brakeline.training.survey import Moved, moved

JUMPS = (50, 100, 400)  # steps
SPREAD = 16  # segments over which the last kind of glue is laid
EDGE = 40  # segments at either end of a run that are left honest
LONG = 6000  # segments


class Job(NamedTuple):
    """A model, what it learns, and how. `batch` gives (input, target) of a step."""

    model: nn.Module
    batch: Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]


def drops(steps: int) -> Callable[[int], float]:
    """A tenth after each third."""
    return lambda step: 0.1 ** (3 * step // steps)


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
            rows[:, i + 1] = torch.where(torch.rand(8, generator=g) < 0.8, (rows[:, i] * 5 + 1) % 32, noise)
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
        return Job(m, vectors, flat, torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), drops(steps))

    def plain(m: nn.Module) -> Job:
        return Job(m, vectors, flat, torch.optim.SGD(m.parameters(), lr=0.1), drops(steps))

    def adam(m: nn.Module) -> Job:
        return Job(m, vectors, flat, torch.optim.Adam(m.parameters(), lr=3e-3), cosine(steps))

    def conv(m: nn.Module) -> Job:
        return Job(m, pictures, flat, torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9), drops(steps))

    def gpt(m: nn.Module) -> Job:
        return Job(m, Text(), flat, torch.optim.AdamW(m.parameters(), lr=3e-3), cosine(steps))

    return {
        "MLP, SGD": lambda: plain(mlp()),
        "MLP, SGD with momentum": lambda: sgd(mlp()),
        "MLP, Adam": lambda: adam(mlp()),
        "CNN with BatchNorm, SGD": lambda: conv(cnn()),
        "tiny GPT, AdamW": lambda: gpt(Tiny()),
    }


class Shape(NamedTuple):
    """How a run is cut: steps a segment, segments."""

    size: int
    count: int

    @property
    def steps(self) -> int:
        return self.size * self.count


class Record(NamedTuple):
    """A run: the loss of each step (0 for the start), and what changed over each segment."""

    losses: list[float]
    moved: list[Moved]


class Training:
    """A run under way; data are a function of the seed and the step."""

    def __init__(self, make: Callable[[], Job], seed: int, size: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.size, self.step, self.job = seed, size, 0, make()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.job.optimizer, self.job.factor)
        self.states, self.losses, self.moved = [self._state()], [0.0], list[Moved]()

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
                elif bad == "noise like the weights":
                    p.data.add_(torch.randn_like(p) * p.data.square().mean().sqrt())
            bad = ""
            self.step += 1
            if self.step % self.size == 0:
                self.states.append(self._state())
                self.moved.append(moved(*self.states[-2:]))

    def _gradient(self, x: torch.Tensor, y: torch.Tensor) -> float:
        loss = self.job.loss(self.job.model(x), y)
        self.job.optimizer.zero_grad()
        loss.backward()
        return float(loss.detach())

    def branch(self) -> "Training":
        """Another future of this run."""
        states, self.states = self.states, []  # which stay the same
        other = copy.deepcopy(self)
        self.states, other.states = states, list(states)
        return other

    def record(self) -> Record:
        return Record(self.losses, self.moved)


def glued(one: Training, other: Training, at: int, jump: int, spread: int = 1) -> Record:
    """`one` up to its segment `at`; over `spread` segments in a straight line, with counters as they should be where it
    is more than one, to where `other` is `jump` segments later; from there on that one."""
    end = at + jump + spread
    joint = moved(one.states[at], other.states[end])
    part, ahead = joint, other.losses[(at + jump) * other.size + 1 :]
    if spread > 1:
        part = Moved({kind: size / spread for kind, size in joint.sizes.items()}, one.moved[at].advance)
        low, high, many = one.losses[at * one.size], other.losses[end * other.size], spread * one.size
        ahead = [low + (high - low) * i / many for i in range(many)] + other.losses[end * other.size + 1 :]
    return Record([*one.losses[: at * one.size + 1], *ahead], [*one.moved[:at], *[part] * spread, *other.moved[end:]])


def cut(it: Record, shape: Shape) -> Record:
    return Record(it.losses[: shape.steps + 1], it.moved[: shape.count])


def stand_out(it: Record, size: int) -> dict[str, list[int]]:
    """The segments that stand out, by sign, as `survey` chooses them."""
    parts = [(i * size, (i + 1) * size) for i in range(len(it.moved))]
    return {
        "loss": foremost(by_losses(it.losses, parts), BY_LOSS),
        "update": foremost(by_updates([m.sizes for m in it.moved]), BY_UPDATE),
        "count": foremost(by_counts([m.advance for m in it.moved]), BY_UPDATE),
    }


BAD = ("other data", "ten times as large", "noise like the weights")


def trials(make: Callable[[], Job], seed: int, shape: Shape) -> dict[str, tuple[Record, range]]:
    """By what was done: the record, and the bad segments."""
    random = Random(seed)
    at = random.randrange(EDGE, shape.count - EDGE)
    one, other, branches = Training(make, seed, shape.size), Training(make, seed + 1000, shape.size), {}
    one.go(at * shape.size + random.randrange(shape.size))
    for bad in BAD:
        branches[bad] = one.branch()
        branches[bad].go(shape.steps, bad)
    one.go(steps_of(shape))
    other.go(steps_of(shape))
    bad_one = range(at, at + 1)
    found = {"honest": (cut(one.record(), shape), range(0))}
    for jump in JUMPS:
        found[f"{jump} steps left out"] = cut(glued(one, one, at, jump // shape.size), shape), bad_one
    found["another run, same step"] = cut(glued(one, other, at, 0), shape), bad_one
    over = glued(one, one, at, max(JUMPS) // shape.size, SPREAD)
    found[f"{max(JUMPS)} left out, over {SPREAD} segments"] = cut(over, shape), range(at, at + SPREAD)
    for bad, branch in branches.items():
        found[f"a step, {bad}"] = branch.record(), bad_one
    return found


def steps_of(shape: Shape) -> int:
    """What is trained, so that there is something to jump to."""
    return shape.steps + max(JUMPS) + SPREAD * shape.size


def power(seeds: int, shape: Shape, names: Sequence[str]) -> bool:
    """Prints the table; whether every glue was found in every run."""
    print(f"\n{seeds} runs of {shape.count} segments of {shape.size} steps for each model:", end=" ")
    print("how often the bad segment stands out, and how often as many drawn at random have it")
    print(f"{'':34} {'loss':>6} {'update':>6} {'count':>6} {'any':>6} {'chance':>7} {'replayed beside the sample':>28}")
    good = True
    for name in names:
        make = jobs(steps_of(shape))[name]
        print(name, flush=True)
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(seeds):
            print(f"{name}: {seed + 1} of {seeds}", file=sys.stderr)
            for what, (record, bad) in trials(make, seed, shape).items():
                chosen = stand_out(record, shape.size)
                every = {i for some in chosen.values() for i in some}
                hit: dict[str, float] = {sign: not set(bad).isdisjoint(some) for sign, some in chosen.items()}
                chance = 1 - float(miss(shape.count, len(bad), len(every)))
                hit |= {"any": not every.isdisjoint(bad), "chance": chance, "beside": len(every)}
                found.setdefault(what, []).append(hit)
        for what, hits in found.items():
            mean = {sign: sum(hit[sign] for hit in hits) / seeds for sign in hits[0]}
            told = "".join(f" {mean[sign]:>6.0%}" for sign in ("loss", "update", "count", "any"))
            told = f"{told} {mean['chance']:>7.1%}" if what != "honest" else " " * 36
            print(f"  {what:<32}{told} {mean['beside']:>28.1f}", flush=True)
            good &= mean["any"] == 1 or not what.endswith(("steps left out", "same step"))
    return good


def sampling(draws: int) -> bool:
    """The stated probability beside what is drawn, and its cost."""
    n, f_cheat, p_catch = LONG, Decimal("0.01"), Decimal("0.95")
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


def recorded(tickets: int) -> bool:
    """A real run of 6,000 recorded segments, 1 % of them bad: one real audit, and the samples of many inspectors."""
    treaty = {"audit_segment_steps": "1", "audit_head_every": "70", "audit_f_cheat": '"1 %"'}
    with tempfile.TemporaryDirectory(prefix="bench-outliers-") as folder:
        run = audit.Run("long", LONG, Path(folder), terms=treaty)
        run.session(smuggle(sys.modules[run.code.train.__module__], 0.01, 1))
        bad = {s for s in range(LONG) if (s * 0.6180339887) % 1 < 0.01} - {0, LONG - 1}
        done = run.audit("beta")
        share = int(done.flop) / int(run.live.head.flop)
        found = sum(f.segment[0] in {0, *bad} for f in done.findings)
        print(f"\na recorded run of {LONG} segments, the first and {len(bad)} more bad: an audit replays", end=" ")
        print(f"{len(done.segments)}, finds {found}, accuses {len(done.findings) - found} others, ", end="")
        print(f"and costs {share:.2%} of the compute", flush=True)
        logged, caught = run.live.heads[-1], 0
        for number in range(tickets):
            key = PrivateKey(number.to_bytes(32, "big"))
            ticket = key.sign(ticket_message(logged.leaf, logged.beacon))
            drawn = required_sample(run.world.treaty, run.live.now, logged, "beta", ticket, key.public)
            caught += not bad.isdisjoint(start for start, _ in drawn)
        expected = 1 - float(miss(LONG, len(bad), draws_needed(LONG, Decimal("0.95"), Decimal("0.01"))))
        print(f"of {tickets} samples {caught / tickets:.2%} have one of the {len(bad)}; by the formula {expected:.2%}")
    return found > 0 and len(done.findings) == found and share <= 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short run of two models, 500 draws")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(machine())
    started = time.monotonic()
    short, names = Shape(4, 300), list(jobs(1))
    good = sampling(500 if quick else 5000)
    if quick:
        good &= power(1, Shape(4, 120), names[1:3])
    else:
        good &= recorded(1000)
        good &= power(20, short, names)
        good &= power(5, Shape(1, LONG), ["MLP, SGD with momentum", "MLP, Adam"])
    print(f"\n{'all targets met' if good else 'A TARGET WAS MISSED'} in {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
