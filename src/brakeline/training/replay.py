"""Replay: an inspector runs a segment again, with the trainer's own `train`, from an opened checkpoint.

The gate says no at the segment's end, and the recorder keeps its leaves in memory; `train` need not tell the
difference. The first segment starts from what `train` builds out of its configuration, not from the checkpoint it
is shown: weights that were trained before, or picked, do not survive that (attacks A-07, A-08).

`rerun` makes the steps and needs nothing that was recorded but the opened state; `conclude` sets them beside the
record. An inspector keeps the two in different processes (`cell`), for `train` is the prover's code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused
from brakeline.core.gate import NO_PERMIT
from brakeline.core.transcript import Leaf, SegmentReplay
from brakeline.training import ranks
from brakeline.training.batch import batch_snapshot, scalar
from brakeline.training.checkpoint import checkpoint_steps, listed_digest, load_checkpoint
from brakeline.training.components import components
from brakeline.training.digest import (
    Snapshot,
    Stateful,
    Tree,
    capture,
    generators_kept,
    restore,
    seed_generators,
    snapshot,
)
from brakeline.training.environment import digest, profile
from brakeline.training.gatehook import Gate
from brakeline.training.measured import Measured, Meter
from brakeline.training.ranks import Together
from brakeline.training.recorder import Recording, jointly, read_leaves

Config = dict[str, Any]
Train = Callable[[Config, Gate, Recording], None]


class Rerun(NamedTuple):
    """Steps made again. The leaves carry no permit and no compute, which no replay recomputes; `end` is the state
    after the last step, where all steps were made. `measured` where they were measured."""

    start_state: bytes
    leaves: tuple[Leaf, ...]
    end: Snapshot | Together | None  # of one rank where this was made by one process
    measured: Measured | None = None


class _Opened(BaseException):
    """Nothing but the state at the start was asked for."""


class _Segment:
    """Gate and recorder of one replay."""

    def __init__(self, opened: Snapshot | Together | None, start: int, steps: int, meter: Meter | None) -> None:
        self._opened = opened
        self._start = start
        self._steps = steps
        self._meter = meter
        self._objects: dict[str, Stateful] = {}
        self.start_state = b""
        self.leaves: list[Leaf] = []
        self.end: Snapshot | None = None

    @property
    def start(self) -> int:
        return self._start

    def may_step(self) -> bool:
        return len(self.leaves) < self._steps

    def open(self, **objects: Any) -> int:
        if self._objects:
            raise Misuse("train() opened its recorder twice")
        objects = components(objects)
        if self._opened is None:
            self.start_state = ranks.joint(ranks.meet(capture(objects).digest()))
        elif isinstance(self._opened, Together):
            self.start_state = self._opened.digest()
            restore(objects, ranks.anew(objects, self._opened.ranks).tree)
        else:
            self.start_state = ranks.joint(ranks.meet(self._opened.digest()))
            restore(objects, self._opened.tree)
        self._objects = objects
        if not self._steps:
            self.end = snapshot(capture(objects).copy(), lambda *_: True)
            raise _Opened
        if self._meter:
            self._meter.begin()
        return self._start

    def step(self, *, loss: torch.Tensor | float, batch: Any) -> None:
        if not self._objects or not self.may_step():
            raise Misuse("train() stepped before it opened its recorder, or without asking its gate")
        state = capture(self._objects)
        if self._meter:
            self._meter.step(state, last=len(self.leaves) + 1 == self._steps)
        value = float(scalar(loss))
        step = self._start + len(self.leaves) + 1
        leaf = Leaf(step, state.digest(), batch_snapshot(batch, stands=True).digest(), NO_PERMIT, value, 0)
        self.leaves.append(jointly(leaf))
        if not self.may_step():
            self.end = snapshot(state.copy(), lambda *_: True)

    def aside(self) -> AbstractContextManager[None]:
        return generators_kept()

    def stop(self, status: Literal["stopped", "ended"]) -> None:
        pass


def begin(train: Train, config: Config, gate: Gate, recorder: Recording) -> None:
    """Call `train` with every global generator seeded: a script that seeds torch alone is exact too."""
    if "seed" in config:
        seed_generators(int(config["seed"], 16))
    train(config, gate, recorder)


def rerun(
    train: Train,
    config: Config,
    opened: Snapshot | Together | None,
    start: int,
    steps: int,
    meter: Meter | None = None,
) -> Rerun:
    """Make `steps` steps from `start`, where `opened` is the state of this rank, or that of all of another number of
    ranks, or from what `train` builds where it is None. With no steps, `end` is the state that they would begin in.
    Under a `meter` bits may differ.

    Raises:
        Misuse: `train` breaks its contract. Malformed: `opened` does not fit what `train` builds.
    """
    segment = _Segment(opened, start, steps, meter)
    try:
        with meter.running() if meter else nullcontext():
            begin(train, config, segment, segment)
    except BrakelineError:
        raise
    except _Opened:
        pass
    except (Exception, SystemExit) as e:
        raise Misuse(f"train() failed in replay: {type(e).__name__}: {e}") from e
    if not segment.start_state:
        raise Misuse("train() never opened its recorder")
    return Rerun(segment.start_state, tuple(segment.leaves), segment.end, meter.measured if meter else None)


def open_recorded(evidence: Path, leaf: Leaf, count: int = 1) -> Snapshot | Together:
    """The checkpoint of `leaf`'s step, of `count` ranks.

    Raises:
        Unavailable: it is not there. Malformed: it is none. Refused(TAMPERED): it is not the recorded state.
    """
    # At a segment's end a cheat hands in the weights an honest run would have given, and the update looks right.
    folders = [ranks.folder(evidence, rank) for rank in range(count)]
    # The lists first: what they say costs little, and nobody reads what a stranger holds out without end.
    if ranks.joint([listed_digest(folder, leaf.step) for folder in folders]) != leaf.state:
        raise Refused(Reason.TAMPERED, f"the checkpoint shown for step {leaf.step} is not the recorded state")
    parts = tuple(load_checkpoint(folder, leaf.step) for folder in folders)
    opened = parts[0] if count == 1 else Together(parts)
    if opened.digest() != leaf.state:
        raise Refused(Reason.TAMPERED, f"the checkpoint shown for step {leaf.step} is not the recorded state")
    return opened


def conclude(
    recorded: Sequence[Leaf],
    before: Snapshot | Together,
    after: Snapshot | Together | None,
    again: Rerun,
    environment: str,
) -> SegmentReplay:
    """What the judge gets: `again` beside the `recorded` leaves, those of the segment's start and of its steps.

    `before` and `after` are the checkpoints at its start and, if there is one, at its end. Raises as `compare_update`.
    """
    steps = zip(again.leaves, recorded[1:], strict=False)  # fewer where `train` stopped by itself
    leaves = tuple(replace(leaf, permit=said.permit, flop=said.flop) for leaf, said in steps)
    error = rho = None
    if again.end is not None and after is not None:
        origin = _standing(again.end, before, after)
        error, rho = compare_update(again.end.tree, origin, after.tree) if origin is not None else (None, None)
    return SegmentReplay(recorded[0].step, recorded[-1].step, again.start_state, leaves, environment, error, rho)


def _standing(
    end: Snapshot | Together, before: Snapshot | Together, after: Snapshot | Together
) -> Mapping[str, Tree] | None:
    """What each rank's weights were at the start, where another number of ranks left it: as `shards.refit` hands out
    what is not in shards. None where they are: of shards that were cut anew the update has no size."""
    parts, made = (it.ranks if isinstance(it, Together) else (it,) for it in (before, after))
    if len(parts) == len(made):
        return before.tree
    trees = [parts[rank % len(parts)].tree for rank in range(len(made))]
    tree = ranks.merged(trees) if len(made) > 1 else trees[0]
    weights = {(name, key): weight.shape for name, key, weight in weights_of(tree)}
    return tree if all(weights.get((name, key)) == it.shape for name, key, it in weights_of(end.tree)) else None


def replay(train: Train, config: Config, evidence_dir: Path | str, start: int, end: int) -> SegmentReplay:
    """Run the steps `start + 1 .. end` again, from the checkpoint at `start` in `evidence_dir`, in this process, which
    is one of as many ranks as recorded it.

    The judge decides what follows from the result; too few leaves mean that `train` stopped by itself.

    Raises:
        Misuse: no such segment in the leaves, or `train` breaks its contract. Unavailable: the checkpoint at `start`
            is not there. Malformed: it is none, or does not fit what `train` builds. Refused(TAMPERED): a checkpoint
            is not the recorded state.
    """
    evidence = Path(evidence_dir)
    recorded = read_leaves(evidence)[max(start, 0) : end + 1]
    if not 0 <= start < end or len(recorded) != end - start + 1:
        raise Misuse(f"steps {start}..{end} are not recorded in {evidence}")
    environment = digest(profile())
    count = ranks.count()
    before = open_recorded(evidence, recorded[0], count)
    mine = before.ranks[ranks.rank()] if isinstance(before, Together) else before
    again = rerun(train, config, mine if start else None, start, end - start)
    if count > 1:
        return conclude(recorded, before, None, again, environment)
    after = open_recorded(evidence, recorded[-1]) if end in checkpoint_steps(evidence) else None
    return conclude(recorded, before, after, again, environment)


def compare_update(
    here: Mapping[str, Tree], before: Mapping[str, Tree], after: Mapping[str, Tree]
) -> tuple[float, float] | tuple[None, None]:
    """Relative error and explained movement of the weights in the state `here` against those recorded in `after`.

    With dW the movement since `before`: |dW_here - dW_after| / |dW_after| and <dW_after, dW_here> / |dW_after|², in
    float64, over the floating-point tensors that the modules keep. A recorded movement of zero gives (0, 1) if
    nothing moved here either, else (inf, 0). Where no module keeps any there is nothing to compare.

    Raises:
        Malformed: `here` holds other weights than the checkpoints.
    """
    distance = dot = observed = 0.0
    weights = list(weights_of(here))
    for name, key, weight in weights:
        try:
            origin = before[name]["state"][key].double()
            moved_here = weight.double() - origin
            moved_there = after[name]["state"][key].double() - origin
        except (AttributeError, KeyError, RuntimeError, TypeError) as e:
            raise Malformed(f"the checkpoints do not hold the parameter {name}/{key}") from e
        distance += float((moved_here - moved_there).square().sum())
        dot += float((moved_here * moved_there).sum())
        observed += float(moved_there.square().sum())
    if not weights:
        return None, None
    if observed == 0.0:
        return (0.0, 1.0) if distance == 0.0 else (float("inf"), 0.0)
    return (distance / observed) ** 0.5, dot / observed


def weights_of(tree: Mapping[str, Tree]) -> Iterator[tuple[str, str | int, torch.Tensor]]:
    """By component and key. A module's state is the one with a part that lives only in memory (`digest.capture`)."""
    for name, state in tree.items():
        if isinstance(state, dict) and state.keys() == {"state", "transient"} and isinstance(state["state"], dict):
            for key, value in state["state"].items():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    yield name, key, value
