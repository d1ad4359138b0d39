"""Replay: an inspector runs a segment again, with the trainer's own `train`, from an opened checkpoint.

The gate says no at the segment's end, and the recorder keeps its leaves in memory; `train` need not tell the
difference. The first segment starts from what `train` builds out of its configuration, not from the checkpoint it
is shown: weights that were trained before, or picked, do not survive that (attacks A-07, A-08).

`rerun` makes the steps and needs nothing that was recorded but the opened state; `conclude` sets them beside the
record. An inspector keeps the two in different processes (`cell`), for `train` is the prover's code.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from brakeline.core.errors import BrakelineError, Misuse, Reason, Refused
from brakeline.core.gate import NO_PERMIT
from brakeline.core.transcript import Leaf, SegmentReplay
from brakeline.training import ranks
from brakeline.training.batch import batch_snapshot, scalar
from brakeline.training.checkpoint import checkpoint_steps, listed_digest, load_checkpoint
from brakeline.training.components import components
from brakeline.training.digest import (
    Snapshot,
    Stateful,
    capture,
    generators_kept,
    restore,
    seed_generators,
    snapshot,
)
from brakeline.training.environment import digest, profile
from brakeline.training.gatehook import Gate
from brakeline.training.noise import Noise
from brakeline.training.ranks import Together
from brakeline.training.recorder import Recording, jointly, read_leaves

Config = dict[str, Any]
Look = Callable[[Mapping[str, Stateful]], None]
Train = Callable[[Config, Gate, Recording], None]


class Rerun(NamedTuple):
    """Steps made again. The leaves carry no permit and no compute, which no replay recomputes; `end` is the state
    after the last step, where all steps were made."""

    start_state: bytes
    leaves: tuple[Leaf, ...]
    end: Snapshot | Together | None  # of one rank where this was made by one process


class _Segment:
    """Gate and recorder of one replay."""

    def __init__(self, opened: Snapshot | Together | None, start: int, steps: int, look: Look | None) -> None:
        self._look = look
        self._opened = opened
        self._start = start
        self._steps = steps
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
            self.end = self._standing()
        return self._start

    def _standing(self) -> Snapshot:
        return snapshot(capture(self._objects).copy(), lambda *_: True)

    def step(self, *, loss: torch.Tensor | float, batch: Any) -> None:
        if not self._objects or not self.may_step():
            raise Misuse("train() stepped before it opened its recorder, or without asking its gate")
        state = capture(self._objects)
        value = float(scalar(loss))
        step = self._start + len(self.leaves) + 1
        leaf = Leaf(step, state.digest(), batch_snapshot(batch, stands=True).digest(), NO_PERMIT, value, 0)
        self.leaves.append(jointly(leaf))
        if not self.may_step() and self._look:
            self._look(self._objects)
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
    noise: tuple[int, int] | None = None,
    look: Look | None = None,
) -> Rerun:
    """Make `steps` steps from `start`, where `opened` is the state of this rank, or that of all of another number of
    ranks, or from what `train` builds where it is None; under `Noise`, if any. `look` is shown what `train`
    records, at the last step.

    Raises:
        Misuse: `train` breaks its contract. Malformed: `opened` does not fit what `train` builds.
    """
    segment = _Segment(opened, start, steps, look)
    try:
        with Noise(*noise) if noise else nullcontext():
            begin(train, config, segment, segment)
    except BrakelineError:
        raise
    except (Exception, SystemExit) as e:
        raise Misuse(f"train() failed in replay: {type(e).__name__}: {e}") from e
    if not segment.start_state:
        raise Misuse("train() never opened its recorder")
    return Rerun(segment.start_state, tuple(segment.leaves), segment.end)


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


def conclude(recorded: Sequence[Leaf], again: Rerun, environment: str) -> SegmentReplay:
    """What the judge gets: `again` beside the `recorded` leaves, those of the segment's start and of its steps."""
    steps = zip(again.leaves, recorded[1:], strict=False)  # fewer where `train` stopped by itself
    leaves = tuple(replace(leaf, permit=said.permit, flop=said.flop) for leaf, said in steps)
    return SegmentReplay(recorded[0].step, recorded[-1].step, again.start_state, leaves, environment)


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
    if count == 1 and end in checkpoint_steps(evidence):
        open_recorded(evidence, recorded[-1])  # what is shown at its end is the record, too
    again = rerun(train, config, mine if start else None, start, end - start)
    return conclude(recorded, again, environment)
