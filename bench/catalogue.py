"""Every attack on a transcript, made for real and audited: how often is it caught?

    python bench/catalogue.py [--seeds N] [--elsewhere N] [--only ID ...] [--quick]

Each attack is a lab that lies about a real run with an honest recipe, in a world of its own (audit.py). Two inspectors
audit the last head in the run's environment. Caught: at least one of them finds a violation, or will not pass what is
shown. `elsewhere` is one audit by an inspector with other kernels, in real cells, who accuses nobody: caught there
means that the run is not passed. Intervals are Clopper-Pearson, 95 %. The last lines are honest.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import audit as bench
import torch
from machine import machine
from scipy.stats import binomtest
from torch.nn import functional as F

from brakeline.core.errors import Unavailable
from brakeline.core.transcript import LEAF_BYTES
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.recorder import LEAVES

STEPS = 160  # in segments of 4
Tree = dict[str, torch.Tensor]


class Lab:
    """A recorder that a lying lab has between its honest loop and the real one; `random` is the lab's."""

    def __init__(self, run: bench.Run, random: Random, recorder: Any) -> None:
        self.random, self.recorder, self.taken = random, recorder, 0
        self.stop, self.run = recorder.stop, run
        self.generator = torch.Generator().manual_seed(random.randrange(2**31))

    def open(self, **objects: Any) -> int:
        self.model, self.optimizer, self.data = (objects[n] for n in ("model", "optimizer", "data"))
        self.begin()
        self.start = self.weights()
        self.last = self.weights()
        self.goal = {k: v + 0.3 * torch.randn(v.shape, generator=self.generator) for k, v in self.start.items()}
        return int(self.recorder.open(**objects))

    def step(self, *, loss: Any, batch: Any) -> None:
        self.taken += 1
        batch = self.lie(batch) or batch
        self.last = self.weights()
        self.recorder.step(loss=loss, batch=batch)

    def begin(self) -> None:
        """Before the run is opened."""

    def lie(self, batch: Any) -> Any:
        """After an honest step, before it is recorded; returns another batch, or None."""

    # what liars do

    def weights(self) -> Tree:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def put(self, weights: Tree) -> None:
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(weights[name])

    def secretly(self, steps: int) -> None:
        """Train on other data."""
        context = bench.CONFIG["context"]
        for _ in range(steps):
            x = torch.randint(0, 256, (bench.CONFIG["batch"], context), generator=self.generator)
            loss = F.cross_entropy(self.model(x).flatten(0, 1), x.roll(-1, 1).flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def towards(self, share: float) -> None:
        self.put({k: v + share * (self.goal[k] - v) for k, v in self.start.items()})


class Interpolates(Lab):
    def lie(self, batch: Any) -> None:
        self.towards(self.taken / STEPS)


class TopFew(Lab):
    def lie(self, batch: Any) -> None:
        if self.taken // bench.SEGMENT % 10:  # each tenth segment is made honestly, and is the largest
            self.towards(self.taken / STEPS)


class Crafts(Lab):
    """Other data under the digests of the declared."""

    def lie(self, batch: Any) -> None:
        self.put(self.last)
        self.secretly(1)


class SwapsTheEnd(Lab):
    def lie(self, batch: Any) -> None:
        if self.taken > 0.95 * STEPS:
            self.towards((self.taken - 0.95 * STEPS) / (0.05 * STEPS))


class Glues(Lab):
    def begin(self) -> None:
        self.at = self.random.randrange(STEPS // 4, 3 * STEPS // 4)

    def lie(self, batch: Any) -> None:
        if self.taken == self.at:
            self.secretly(400)


class OneBadStep(Glues):
    def lie(self, batch: Any) -> None:
        if self.taken == self.at:
            self.secretly(1)


class StartsTrained(Lab):
    def begin(self) -> None:
        self.secretly(30)
        self.optimizer.state.clear()


class PicksItsStart(Lab):
    def begin(self) -> None:
        self.put({k: v[torch.randperm(len(v), generator=self.generator)] for k, v in self.weights().items()})


class TrainsMore(Lab):
    def lie(self, batch: Any) -> None:
        self.secretly(1)


class TrainsMoreAtTimes(Lab):
    """On a tenth of the segments."""

    def lie(self, batch: Any) -> None:
        if (self.taken - 1) // bench.SEGMENT % 10 == 4:
            self.secretly(1)


class UsesLess(Lab):
    """One batch again and again, of all that it declared."""

    def begin(self) -> None:
        following = self.data.next
        first = following()
        self.data.step -= 1

        def same() -> Any:
            self.shown = following()
            return first

        self.data.next = same

    def lie(self, batch: Any) -> Any:
        return self.shown


class Reorders(Lab):
    def begin(self) -> None:
        following = self.data.next

        def other() -> Any:
            self.data.step ^= 1
            batch = following()
            self.data.step = (self.data.step - 1 ^ 1) + 1
            return batch

        self.data.next = other


class Drifts(Lab):
    """A thousandth of each step, always in one direction."""

    def lie(self, batch: Any) -> None:
        now, size = self.weights(), 0.0
        size = sum(float((now[k] - v).square().sum()) for k, v in self.last.items()) ** 0.5
        way = {k: v - self.start[k] for k, v in self.goal.items()}
        long = sum(float(v.square().sum()) for v in way.values()) ** 0.5
        self.put({k: v + 1e-3 * size / long * way[k] for k, v in now.items()})


class Rounds(Lab):
    """Operands of 3 bits in every matrix product."""

    def begin(self) -> None:
        for module in self.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, x: (x[0] + ((x[0] * 8).round() / 8 - x[0]).detach(),))


class HidesInMoments(Lab):
    """The weights are honest; the optimizer's moments are not those that were made."""

    def lie(self, batch: Any) -> None:
        if self.taken % 8 == 0:
            for state in self.optimizer.state.values():
                state["exp_avg"].mul_(1.001)


class Honest(Lab):
    pass


def reversed_(run: bench.Run, random: Random) -> None:
    path = run.evidence / LEAVES
    leaves = path.read_bytes()
    at = random.randrange(4, STEPS // 2) * LEAF_BYTES
    path.write_bytes(leaves[:at] + leaves[at + LEAF_BYTES : at + 2 * LEAF_BYTES] + leaves[at : at + LEAF_BYTES]
                     + leaves[at + 2 * LEAF_BYTES :])  # fmt: skip


def cut(run: bench.Run, random: Random) -> None:
    path = run.evidence / LEAVES
    path.write_bytes(path.read_bytes()[: -LEAF_BYTES * random.randrange(1, 20)])


def without_checkpoints(run: bench.Run, random: Random) -> None:
    for step in range(bench.SEGMENT, STEPS, bench.SEGMENT):
        checkpoint_path(run.evidence, step).unlink()


class Attack(NamedTuple):
    id: str
    does: str
    lab: type[Lab]
    after: Callable[[bench.Run, Random], None] = lambda run, random: None
    elsewhere: bool = False


ATTACKS = (
    Attack("A-01", "interpolates to other weights, honest losses", Interpolates, elsewhere=True),
    Attack("A-02", "makes one segment of ten, invents the rest", TopFew),
    Attack("A-03", "other data under the declared digests", Crafts, elsewhere=True),
    Attack("A-04", "swaps the model over the last 5 %", SwapsTheEnd, elsewhere=True),
    Attack("A-05", "400 secret steps glued in at one step", Glues),
    Attack("A-05", "one secret step", OneBadStep),
    Attack("A-06", "leaves in another order", Honest, reversed_),
    Attack("A-07", "a start of its own", PicksItsStart, elsewhere=True),
    Attack("A-08", "a start that was trained before", StartsTrained, elsewhere=True),
    Attack("A-09", "a second step on secret data, always", TrainsMore, elsewhere=True),
    Attack("A-09", "the same, on a tenth of the segments", TrainsMoreAtTimes),
    Attack("A-10", "one batch, again and again", UsesLess),
    Attack("A-11", "the data in another order", Reorders),
    Attack("A-14", "a thousandth of each step, one way", Drifts, elsewhere=True),
    Attack("A-15", "operands of 3 bits", Rounds, elsewhere=True),
    Attack("A-18", "a transcript cut short", Honest, cut),
    Attack("A-22", "checkpoints left out", Honest, without_checkpoints),
    Attack("A-24", "moments that were not made", HidesInMoments, elsewhere=True),
    Attack("A-17", "nothing: an honest run", Honest, elsewhere=True),
)


def made(attack: Attack, number: int, folder: Path, *, elsewhere: bool) -> tuple[bool, bool | None]:
    """Whether it was caught by two inspectors, and by one elsewhere, if wanted (None: not tried)."""
    run, random = bench.Run(f"run-{number}", STEPS, folder), Random(f"{attack.id}-{attack.does}-{number}")
    train = run.code.train
    run.session(lambda config, gate, recorder: train(config, gate, attack.lab(run, random, recorder)))
    assert run.status == "ended"
    attack.after(run, random)

    def refused(inspector: str, cell: Any = bench.Bare) -> bool:
        try:
            audit = run.inspect(inspector, cell=cell)
        except Unavailable:
            return True
        return audit.verdict == "fail" if cell is bench.Bare else audit.verdict != "pass"

    caught = any(refused(i) for i in bench.INSPECTORS)
    return caught, refused("beta", bench.elsewhere(number)) if elsewhere else None


def interval(caught: int, of: int) -> str:
    found = binomtest(caught, of).proportion_ci(method="exact")
    return f"{caught:>3} of {of:<3} {found.low:>5.0%} to {found.high:>4.0%}"


def rows(seeds: int, elsewhere: int, only: list[str]) -> Iterator[tuple[Attack, list[bool], list[bool]]]:
    for attack in ATTACKS:
        if only and attack.id not in only:
            continue
        here, there = [], []
        for number in range(seeds):
            bench.say(f"{attack.id} {attack.does}: {number + 1} of {seeds}")
            with tempfile.TemporaryDirectory(prefix="bench-catalogue-") as folder:
                caught, refused = made(attack, number, Path(folder), elsewhere=attack.elsewhere and number < elsewhere)
            here.append(caught)
            there += [] if refused is None else [refused]
        yield attack, here, there


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--elsewhere", type=int, default=20, help="how many of them elsewhere too")
    parser.add_argument("--only", nargs="*", default=[], help="of these numbers")
    parser.add_argument("--quick", action="store_true", help="one seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print(f"\n{STEPS // bench.SEGMENT} segments, {len(bench.INSPECTORS)} inspectors\n")
    print("| attack | the lab … | caught where it was made | not passed elsewhere |\n|---|---|---|---|")
    started, framed = time.monotonic(), 0
    for attack, here, there in rows(1 if options.quick else options.seeds, options.elsewhere, options.only):
        elsewhere = interval(sum(there), len(there)) if there else ""
        print(f"| {attack.id} | {attack.does} | {interval(sum(here), len(here))} | {elsewhere} |", flush=True)
        framed += sum(here) if attack.id == "A-17" else 0
    bench.say("")
    print(f"\nin {time.monotonic() - started:.0f} s")
    return 1 if framed else 0


if __name__ == "__main__":
    sys.exit(main())
