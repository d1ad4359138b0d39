"""Is a cheat caught, what does the audit cost, and is an honest lab ever accused?

    python bench/audit.py [--quick]

Every run has a world of its own: a log in memory with real statements, stamps and permits, folded by the core. The
recorder and the inspectors are the real ones, the model is small. Exit status 1 when a target is missed.

Cheats: examples/cheat.py feeds secret text on 60 % of the segments. Two inspectors audit the last head; then each
confirms one segment that only the other accused. Caught means adjudicated, and so barred. The cheat is on the first
and the last segment, which are always replayed; so `drawn` says whether the seeded draw alone would have caught it.

Honest: runs straight through, runs whose recorder dies without a word and goes on (every other one with a torn last
leaf), runs stopped by the brake and reopened in the next epoch, audited at the stop and at the end, and runs that an
inspector replays with other kernels, where the bits differ, in real cells. A false finding is any violation.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple, Self

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("examples", "tests"))

import torch
from cheat import smuggle
from machine import machine

from brakeline.core import words
from brakeline.core.brake import Phase
from brakeline.core.finding import Audit
from brakeline.core.gate import GateState, admit, decide, halt
from brakeline.core.state.events import Audited
from brakeline.core.transcript import Head
from brakeline.training.audit import inspect
from brakeline.training.cell import Cell, Facts, Failed, describe, facts_of
from brakeline.training.digest import Snapshot
from brakeline.training.environment import digest, keep_profile, profile
from brakeline.training.manifests import Keeper
from brakeline.training.measured import Measured
from brakeline.training.ranks import Together
from brakeline.training.recipe import RECIPE, Recipe
from brakeline.training.recorder import LEAVES, Recorder
from brakeline.training.replay import Rerun, begin, rerun
from brakeline.training.replays import Looking
from brakeline.training.session import PERMITS
from world import World, key

ROOT = Path(__file__).parents[1]
LAB, INSPECTORS = "alpha", ("beta", "delta")
SHARE, SEGMENT = 0.6, 4
CHEAT_STEPS, HONEST_STEPS = 440, 96
CONFIG = {"layers": 1, "width": 16, "heads": 2, "context": 16, "batch": 2, "corpus_bytes": 200_000}
TREATY = {
    "scope_covered_above": '"1 MFLOP"',
    "permit_allowance": '"110 MFLOP"',  # about 74 steps; a head comes every 32
    "lift_conditions": '["stopped"]',
    "audit_segment_steps": str(SEGMENT),
    "audit_head_every": "8",
}
KERNELS = (
    {"ATEN_CPU_CAPABILITY": "default"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
)
CAUGHT_MOST, COST_MOST = 1.0, 0.15  # share of cheats caught; compute of sample and confirmations / training, of any run

Part = tuple[int, int]
Cells = Callable[..., Cell]
Train = Callable[..., None]


class Crash(Exception):
    """The process dies here."""


class Stopwatch:
    """CPU and wall seconds spent within `with`, all together."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> None:
        self.cpu -= time.process_time()
        self.wall -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()


class Bare(Cell):
    """A cell without walls, in this process: the recipes here are our own, and a process takes seconds to start."""

    def __enter__(self) -> Self:
        self.environment, self.exposed = digest(profile(self._distributions)), ""
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def facts(self) -> Facts:
        self.code = self.recipe.load()
        try:
            return facts_of(self.recipe, self.code)
        except (Exception, SystemExit) as e:
            raise Failed("the recipe cannot be loaded", describe(e)) from e

    def run(
        self,
        seed: bytes,
        start: int,
        steps: int,
        before: Snapshot | Together | None,
        ranks: int = 1,
        noise: tuple[int, int] | None = None,
    ) -> Rerun:
        try:
            return rerun(self.code.train, self.recipe.full_config(seed), before, start, steps, noise)
        except (Exception, SystemExit) as e:
            raise Failed("train() failed in replay", describe(e)) from e

    def measure(self, seed: bytes, start: int, steps: int, before: Snapshot | Together | None) -> Measured:
        raise Failed("beside the lab's own model nothing can be told apart")


def elsewhere(number: int) -> Cells:
    """A real cell on a machine with other kernels, in which the same steps give other bits."""
    return partial(Elsewhere, KERNELS[number % len(KERNELS)])


class Elsewhere(Cell):
    """A cell with these `kernels`; what an inspector makes of it beside them has its own."""

    def __init__(self, kernels: Mapping[str, str], *args: Any, variables: Mapping[str, str] | None = None, **more: Any):
        super().__init__(*args, variables={**kernels, **(variables or {})}, **more)


class Run:
    """One run of one lab, in a world of its own, whose treaty has these `terms`. `events` happen before the step after
    the one they name."""

    def __init__(
        self,
        name: str,
        steps: int,
        folder: Path,
        source: Path | None = None,
        terms: Mapping[str, str] = MappingProxyType({}),
        **config: Any,
    ) -> None:
        self.world = World(**{**TREATY, **terms})
        self.world.bind()
        self.folder = folder
        self.evidence = folder / "evidence"
        self.recipe = Recipe(name, source or ROOT / "examples" / "train.py", steps, config or CONFIG)
        self.recipe.deposit(self.evidence / RECIPE)
        keep_profile(profile(), self.evidence)
        self.code = self.recipe.load()
        config = self.recipe.full_config(bytes(32))
        self.live = self.world.declare(
            LAB,
            name=name,
            recipe=self.recipe.digest,
            dataset=self.code.dataset_root(config),
            environment=digest(profile()),
            steps=steps,
            segment_steps=self.world.treaty.segment_steps,
            flop_per_step=str(self.code.flop_per_step(config)),
        )
        self.events: dict[int, Callable[[], None]] = {}
        self.training, self.auditing = Stopwatch(), Stopwatch()
        self._lock = threading.RLock()  # the recorder logs heads in a thread of its own
        self._gate = GateState(self.live.id)
        self._recorder: Recorder | None = None
        self._keeper = Keeper(self.evidence, self.live.id, key(LAB), PERMITS)

    @property
    def status(self) -> str:
        """What the run's last head says."""
        head = self.live.head
        return head.status if head else ""

    def session(self, train: Train | None = None) -> None:
        """From opening to the end, a stop or a crash."""
        self._gate = GateState(self.live.id, epoch=self._gate.epoch)
        recorder = self._recorder = Recorder(
            self.evidence,
            segment_steps=self.world.treaty.segment_steps,
            flop_per_step=self.live.declaration.step_flop,
            head_every_segments=self.world.treaty.head_every,
            on_head=self._commit,
            run=self.live.id,
            permit=lambda: self._gate.permit,
        )
        assert self.live.seed
        with self.training:
            try:
                begin(train or self.code.train, self.recipe.full_config(self.live.seed), self, recorder)
            except Crash:
                pass
            finally:
                recorder.close()

    def _commit(self, head: Head) -> None:
        with self._lock:
            self._keeper.add(head)
            outcome = self.world.log(LAB, "head", head)
            assert outcome.reason is None, outcome.text
            self.world.stamp()

    def may_step(self) -> bool:
        """The core's own gate, on the world's clock."""
        assert self._recorder is not None
        step = self._recorder.steps
        if event := self.events.pop(step, None):
            event()
        flop = (step + 1) * self.live.declaration.step_flop
        if not decide(self._gate, now=self.world.now * 10**9, flop=flop):
            self._renew()
        return bool(decide(self._gate, now=self.world.now * 10**9, flop=flop))

    def _renew(self) -> None:
        with self._lock:
            if self.world.phase is not Phase.CLEAR:
                self._halt()
                return
            permit = self.world.request(self.live)
            self.world.grant(permit)
            data = self.world.sealed(permit)
            asked_at = self.world.now * 10**9
            self._gate = admit(
                self._gate,
                data,
                self.world.treaty,
                self.world.state.signers,
                nonce=permit.nonce,
                asked_at=asked_at,
            )
        with (self.evidence / PERMITS).open("ab") as f:
            f.write(data + b"\n")

    # what may happen to it

    def crash(self) -> None:
        raise Crash

    def tear(self) -> None:
        """What a power failure may leave behind the last whole leaf."""
        with (self.evidence / LEAVES).open("ab") as f:
            f.write(os.urandom(60))

    def trip(self) -> None:
        with self._lock:
            self.world.trip()
            self._halt()

    def _halt(self) -> None:
        state = self.world.state
        self._gate = halt(self._gate, epoch=state.epoch, reason=words.cause(state.ballot.cause))

    def release(self) -> None:
        """The run has stopped: lift the brake, wait out the delay."""
        assert self.world.phase is Phase.PAUSED
        self.world.vote("lift", "alpha", "beta", "gamma")
        self.world.stamp(self.world.treaty.lift_delay + 1)
        assert self.world.phase is Phase.CLEAR

    # inspectors

    def inspect(self, inspector: str, accused: tuple[Part, ...] = (), cell: Cells = Bare, **more: Any) -> Audit:
        """The body of an audit, not logged."""
        heads = self.world.heads(self.live)
        return inspect(
            self.world.state,
            self.live.now,
            heads,
            self.evidence,
            inspector,
            key(inspector),
            Looking(self.folder / f"{inspector}-{len(heads)}", cell=cell),
            accused=accused,
            **more,
        )

    def audit(self, inspector: str, accused: tuple[Part, ...] = (), cell: Cells = Bare, **more: Any) -> Audit:
        with self.auditing:
            body = self.inspect(inspector, accused, cell, **more)
        outcome = self.world.log(inspector, "audit", body)
        assert outcome.reason is None, outcome.text
        return body


class Caught(NamedTuple):
    """What became of one cheat. `drawn`: whether a finding off the first and last segment was adjudicated.

    `wrong` counts findings on segments that were honest, `missed` cheated segments that were replayed and not found.
    `flop_share` is that of the sample and the confirmations, `beside_share` that of what stood out.
    """

    barred: bool
    drawn: bool
    tripped: bool
    wrong: int
    missed: int
    line: str
    flop_share: float
    beside_share: float
    cpu_share: float
    wall_share: float


def cheat(run: Run, number: int) -> Caught:
    run.session(smuggle(sys.modules[run.code.train.__module__], SHARE, SEGMENT))
    assert run.status == "ended"
    audits = {i: run.audit(i) for i in INSPECTORS}
    accused = {i: {f.segment for f in a.findings if f.severity == "violation"} for i, a in audits.items()}
    cheated = {s for s in range(0, CHEAT_STEPS, SEGMENT) if (s // SEGMENT * 0.6180339887) % 1 < SHARE}
    full = [s for a in audits.values() for s, _ in a.segments]
    found = [s for parts in accused.values() for s, _ in parts]
    # What both found bars the run, and the log asks for no more. What one of them found is confirmed all the same.
    one, other = (accused[i] for i in INSPECTORS)
    upheld, confirmed = one & other, 0
    for inspector, alone in zip(INSPECTORS, (other - one, one - other), strict=True):
        if alone and run.audit(inspector, accused=(min(alone),)).findings:
            confirmed += 1
            upheld.add(min(alone))
    run.world.check()
    edges = {0, CHEAT_STEPS - SEGMENT}
    audit_flop = sum(int(e.audit.flop) for e in run.world.of(Audited))
    drawn_parts = {i: set(run.world.required(i, run.live)) for i in INSPECTORS}
    apart = sum(end - start for i, a in audits.items() for start, end in set(a.segments) - drawn_parts[i])
    beside = apart * run.live.declaration.step_flop / int(run.live.head.flop)
    share = audit_flop / int(run.live.head.flop) - beside
    cpu, wall = run.auditing.cpu / run.training.cpu, run.auditing.wall / run.training.wall
    barred, drawn = run.live.bar is not None, any(s not in edges for s, _ in upheld)
    line = f"{number:>4} {len(cheated):>8} {len(full):>9} {len(found):>8} {confirmed:>9} {len(upheld):>7} "
    line += f"{'yes' if barred else 'NO':>7} {'yes' if drawn else 'no':>7} {share:>8.1%} {beside:>7.1%} {cpu:>8.1%}"
    return Caught(
        barred=barred,
        drawn=drawn,
        tripped=run.world.phase is not Phase.CLEAR,
        wrong=sum(s not in cheated for s in found),
        missed=sum(s in cheated for s in full) - sum(s in cheated for s in found),
        line=line,
        flop_share=share,
        beside_share=beside,
        cpu_share=cpu,
        wall_share=wall,
    )


def honest(run: Run, kind: str, number: int) -> list[Audit]:
    """An honest run, and the audits of it: one, or for a reopened run two."""
    random, inspector = Random(number), INSPECTORS[number % 2]
    audits = []
    if kind == "resumed":
        run.events = dict.fromkeys(random.sample(range(1, HONEST_STEPS), 2), run.crash)
        while run.events:
            run.session()
            if number % 2:
                run.tear()
    elif kind == "reopened":
        run.events = {random.randrange(1, HONEST_STEPS): run.trip}
        run.session()
        run.world.stamp()
        audits.append(run.audit(inspector))
        run.release()
    run.session()
    audits.append(run.audit(inspector, cell=elsewhere(number) if kind == "elsewhere" else Bare))
    assert run.status == "ended"
    run.world.check()
    return audits


def say(text: str) -> None:
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


def at_most(n: int) -> float:
    """Clopper-Pearson, one-sided 95 %: what the rate is below when 0 of `n` were seen."""
    return 1 - 0.05 ** (1 / n)


def cheats(count: int) -> bool:
    results: list[Caught] = []
    print(f"\n{count} cheats on {SHARE:.0%} of {CHEAT_STEPS // SEGMENT} segments, two inspectors")
    print("run  cheated  replayed violated confirmed  upheld  barred  drawn     FLOP  beside      CPU")
    for number in range(count):
        say(f"cheat {number + 1} of {count}")
        with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
            results.append(cheat(Run(f"cheat-{number}", CHEAT_STEPS, Path(folder)), number))
        print(results[-1].line, flush=True)
    barred, drawn, tripped = (sum(getattr(r, x) for r in results) for x in ("barred", "drawn", "tripped"))
    sure = f" (the rate is above {1 - at_most(count):.1%} at 95 % confidence)" if barred == count else ""
    print(f"caught {barred} of {count}{sure}; the brake tripped in {tripped}")
    print(f"caught without the first and the last segment: {drawn} of {count}")
    print(f"cheated segments replayed and not found: {sum(r.missed for r in results)}; honest ones accused: ", end="")
    print(sum(r.wrong for r in results))
    for what, shares in (
        ("compute", [r.flop_share for r in results]),
        ("compute of what stood out beside them", [r.beside_share for r in results]),
        ("CPU time", [r.cpu_share for r in results]),
        ("wall time", [r.wall_share for r in results]),
    ):
        print(f"audits and confirmations / training, {what}: median {median(shares):.1%}, most {max(shares):.1%}")
    return (
        barred >= CAUGHT_MOST * count
        and sum(r.wrong + r.missed for r in results) == 0
        and max(r.flop_share for r in results) <= COST_MOST
    )


def controls(plan: dict[str, int]) -> bool:
    total = false = gaps = 0
    print("\nhonest runs          runs  audits  segments  false  gaps  notices")
    for kind, count in plan.items():
        audits: list[Audit] = []
        for number in range(count):
            say(f"honest, {kind}: {number + 1} of {count}")
            with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
                audits += honest(Run(f"{kind}-{number}", HONEST_STEPS, Path(folder)), kind, number)
        tally: dict[str, int] = {"violation": 0, "gap": 0, "notice": 0}
        for audit in audits:
            for severity in {f.severity for f in audit.findings}:
                tally[severity] += 1
            for f in audit.findings:
                if f.severity != "notice":
                    print(f"  {f.severity}: {f.fault} at steps {f.segment[0]}-{f.segment[1]}: {f.detail}")
        replayed = sum(len(a.segments) for a in audits)
        print(f"{kind:<18} {count:>6} {len(audits):>7} {replayed:>9}", end="")
        print(f" {tally['violation']:>6} {tally['gap']:>5} {tally['notice']:>8}", flush=True)
        total, false, gaps = total + len(audits), false + tally["violation"], gaps + tally["gap"]
    print(f"false findings: {false} of {total} audits", end="")
    print(f" (the rate is below {at_most(total):.1%} at 95 % confidence)" if not false else "")
    return false == gaps == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="3 cheats and 6 honest audits")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print(machine())
    started = time.monotonic()
    plan = {"straight": 14, "resumed": 12, "reopened": 8, "elsewhere": 8}
    good = cheats(3 if quick else 20)
    good &= controls(dict.fromkeys(plan, 1) | {"resumed": 2} if quick else plan)
    say("")
    print(f"\n{'all targets met' if good else 'A TARGET WAS MISSED'} in {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
