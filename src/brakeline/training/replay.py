"""Replay: an inspector runs a segment again, with the trainer's own `train`, from an opened checkpoint.

The gate says no at the segment's end, and the recorder keeps its leaves in memory; `train` cannot tell the
difference. The first segment starts from what `train` builds out of its configuration, not from the checkpoint it
is shown: weights that were trained before, or picked, do not survive that (attacks A-07, A-08).

`train` is the prover's code: run it in a process that may do no harm.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from brakeline.core.errors import BrakelineError, Malformed, Misuse, Reason, Refused
from brakeline.core.transcript import Leaf, SegmentReplay
from brakeline.training.digest import Snapshot, Stateful, Tree, capture, digest_batch, restore
from brakeline.training.environment import digest, profile
from brakeline.training.gatehook import Gate
from brakeline.training.recorder import Recording, checkpoint_steps, load_checkpoint, read_leaves

Config = dict[str, Any]
Train = Callable[[Config, Gate, Recording], None]


class _Segment:
    """Gate and recorder of one replay. `recorded` are the leaves of its steps, for what no replay can recompute."""

    def __init__(self, opened: Snapshot, start: int, recorded: Sequence[Leaf]) -> None:
        self._opened = opened
        self._start = start
        self._recorded = recorded
        self.start_state = b""
        self.objects: dict[str, Stateful] = {}
        self.leaves: list[Leaf] = []

    def may_step(self) -> bool:
        return len(self.leaves) < len(self._recorded)

    def open(self, **objects: Stateful) -> int:
        if self.objects:
            raise Misuse("train() opened its recorder twice")
        if self._start == 0:
            self.start_state = capture(objects).digest()
        else:
            self.start_state = self._opened.digest()
            restore(objects, self._opened.tree)
        self.objects = dict(objects)
        return self._start

    def step(self, *, loss: torch.Tensor | float, batch: Tree) -> None:
        if not self.objects or not self.may_step():
            raise Misuse("train() stepped before it opened its recorder, or without asking its gate")
        recorded = self._recorded[len(self.leaves)]
        step = self._start + len(self.leaves) + 1
        state = capture(self.objects).digest()
        value = float(loss.detach()) if isinstance(loss, torch.Tensor) else loss
        self.leaves.append(Leaf(step, state, digest_batch(batch), recorded.permit, value, recorded.flop))

    def stop(self, status: Literal["stopped", "ended"]) -> None:
        pass


def replay(train: Train, config: Config, evidence_dir: Path | str, start: int, end: int) -> SegmentReplay:
    """Run the steps `start + 1 .. end` again, from the checkpoint at `start` in `evidence_dir`.

    The judge decides what follows from the result; too few leaves mean that `train` stopped by itself.

    Raises:
        Misuse: no such segment in the leaves, or `train` breaks its contract. Unavailable: the checkpoint at `start`
            is not there. Malformed: it is none, or does not fit what `train` builds. Refused(TAMPERED): the
            checkpoint at `end` is not the state recorded for it.
    """
    evidence = Path(evidence_dir)
    recorded = read_leaves(evidence)[start + 1 : end + 1]
    if not 0 <= start < end or len(recorded) != end - start:
        raise Misuse(f"steps {start}..{end} are not recorded in {evidence}")
    environment = digest(profile())
    before = load_checkpoint(evidence, start)
    segment = _Segment(before, start, recorded)
    try:
        train(config, segment, segment)
    except BrakelineError:
        raise
    except Exception as e:
        raise Misuse(f"train() failed in replay: {type(e).__name__}: {e}") from e
    if not segment.objects:
        raise Misuse("train() never opened its recorder")
    error = rho = None
    if len(segment.leaves) == len(recorded) and end in checkpoint_steps(evidence):
        after = load_checkpoint(evidence, end)
        # Without this a cheat hands in the weights an honest run would have given, and the update looks right.
        if after.digest() != recorded[-1].state:
            raise Refused(Reason.TAMPERED, f"the checkpoint shown for step {end} is not the recorded state")
        error, rho = compare_update(segment.objects, before.tree, after.tree)
    leaves = tuple(segment.leaves)
    return SegmentReplay(start, end, segment.start_state, leaves, environment, error, rho)


def compare_update(
    objects: Mapping[str, Stateful], before: Mapping[str, Tree], after: Mapping[str, Tree]
) -> tuple[float, float]:
    """Relative error and explained movement of the parameters in `objects` against those recorded.

    With dW the movement since the checkpoint `before`: |dW_here - dW_after| / |dW_after| and
    <dW_after, dW_here> / |dW_after|², in float64. A recorded movement of zero gives (0, 1) if nothing moved here
    either, else (inf, 0).
    """
    distance = dot = observed = 0.0
    for name, it in objects.items():
        if not isinstance(it, torch.nn.Module):
            continue
        for key, parameter in it.named_parameters():
            try:
                origin = before[name]["state"][key].double()
                here = parameter.detach().cpu().double() - origin
                there = after[name]["state"][key].double() - origin
            except (AttributeError, KeyError, RuntimeError, TypeError) as e:
                raise Malformed(f"the checkpoints do not hold the parameter {name}/{key}") from e
            distance += float((here - there).square().sum())
            dot += float((here * there).sum())
            observed += float(there.square().sum())
    if observed == 0.0:
        return (0.0, 1.0) if distance == 0.0 else (float("inf"), 0.0)
    return (distance / observed) ** 0.5, dot / observed
