"""Replays in another environment than the run's own: what can be told there, and nothing else.

An honest replay differs there, so that a difference by itself says nothing. The inspector replays the segment in two
environments of its own whose bits differ, and under noise; `spread` says whether the record is one of their kind. Over
many steps rounding grows, so that is a screen. Where it does not agree the states between are asked for, each of which
has its digest in a leaf, until one single step is left: that is looked at by the update `identity` and, where a kink of
the network may be at fault, by more replays under more noise.

What does not agree then is *contested*. It accuses nobody: that takes the declared environment (Treaty 7.7).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from brakeline.core.transcript import Leaf, Likeness
from brakeline.training.cell import Cell, Failed
from brakeline.training.drift import Drift
from brakeline.training.identity import explain
from brakeline.training.replay import Rerun
from brakeline.training.shown import NotShown, checkpoint
from brakeline.training.spread import State, begins, compare, is_weight, losses, tensors

OPENED: Final = "opened"  # where in a run's evidence the states between checkpoints lie that an inspector asked for
# Kernels that every x86-64 processor has: their bits differ from those of the wider ones.
NARROW: Final = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
_REPLICAS: Final = ((1, 1), (2, 1))  # seed and scale
_MORE: Final = tuple((n, 1 if n % 2 else 4) for n in range(3, 27))


class Elsewhere:
    """The inspector's environments, for one audit: `cell` is its own; `narrow` makes the other one, when it is needed.

    `seed` is the run's, `draws` the number from which the inspector draws. Replays may lie `widest` of a movement
    apart, and tell weights of the types in `foreign` (Treaty 7.5).
    """

    def __init__(
        self,
        cell: Cell,
        narrow: Callable[[], Cell],
        evidence: Path,
        seed: bytes,
        draws: int,
        *,
        widest: float,
        foreign: Collection[str],
    ) -> None:
        self._cell = cell
        self._narrow = narrow
        self._evidence = evidence
        self._seed = seed
        self._widest = widest
        self._foreign = foreign
        self._draws = draws
        self._stack = ExitStack()
        self._other: Cell | None = None
        self.drift = Drift(draws)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def look(
        self, recorded: Sequence[Leaf], before: State, after: State | None, again: Rerun, ranks: int, doubt: str = ""
    ) -> Likeness | None:
        """What the states `before` and `after` a segment say, whose leaves are `recorded`, its start first, and which
        the own cell made `again`, with so many ranks. None where that did not come to its end. `doubt` is why nothing
        but equal bits says anything here.

        Raises:
            Failed: the lab's code does not do its work. Unavailable: the inspector's disk, or its machine.
        """
        start, steps = recorded[0].step, len(recorded) - 1
        if len(again.leaves) < steps or again.end is None:
            return None
        if _equal(recorded, again):
            return Likeness("agrees", "bit for bit")
        if doubt:
            return Likeness("not-verified", doubt)
        if after is None:
            return Likeness("not-verified", "no checkpoint at the segment's end to compare with")
        types = {str(t.dtype).removeprefix("torch.") for k, t in tensors(after).items() if is_weight(k)}
        if short := sorted(it for it in types - {*self._foreign} if "float" in it):
            return Likeness("not-verified", f"weights of {short[0]} are not told from another environment (Treaty 7.5)")
        if not start:
            if why := begins(before, end_of(self._made(self._cell, 0, 0, None, ranks))):
                return Likeness("contested", f"the run did not start from the weights its seed gives: {why}")
            again = self._made(self._cell, 0, steps, before, ranks)
        found = self._compared(recorded, before, after, again, ranks)
        return found if found.kind == "agrees" or steps == 1 else self._halved(recorded, before, after, ranks, found)

    def _halved(self, recorded: Sequence[Leaf], before: State, after: State, ranks: int, found: Likeness) -> Likeness:
        """The halves of a segment that does not agree, and so on down to the single step that does not: of k steps that
        takes ⌈log2 k⌉ states between. F-8"""
        middle = len(recorded) // 2
        leaf = recorded[middle]
        try:
            between = checkpoint(self._evidence / OPENED, leaf, ranks)
        except NotShown:
            return Likeness("undecided", f"{found.detail}; the state of step {leaf.step} is not opened")
        for part, one, other in ((recorded[: middle + 1], before, between), (recorded[middle:], between, after)):
            first, steps = part[0].step, len(part) - 1
            it = self._compared(part, one, other, self._made(self._cell, first, steps, one, ranks), ranks)
            if it.kind != "agrees" and steps > 1:
                it = self._halved(part, one, other, ranks, it)
            elif it.kind != "agrees":
                return Likeness(it.kind, f"step {first + 1}: {it.detail}")
            if it.kind != "agrees":
                return it
        return Likeness("agrees", "in parts")

    def _compared(self, recorded: Sequence[Leaf], before: State, after: State, own: Rerun, ranks: int) -> Likeness:
        start, steps = recorded[0].step, len(recorded) - 1
        if _equal(recorded, own):
            return Likeness("agrees", "")
        other = next((a.step for a, b in zip(own.leaves, recorded[1:], strict=True) if a.batch != b.batch), 0)
        if other:  # normalised by its own mean, say: that depends on the machine
            return Likeness("not-verified", f"step {other}: the data come out otherwise in this environment")
        if self._other is None:
            self._other = self._stack.enter_context(self._narrow())
            self._other.facts()
        replays = [own, self._made(self._other, start, steps, before, ranks)]
        here, there = map(end_of, replays)
        if here.digest() == there.digest():
            return Likeness("not-verified", "the inspector has one environment alone, and no spread to compare with")
        if steps == 1:
            weights, wrong, moments = explain(before, after, here)
            if wrong:
                return Likeness("contested", wrong)
        else:  # buffers may move by far more than the weights, and would outweigh them
            first = end_of(self._made(self._cell, start, 1, before, ranks))
            weights, _, moments = explain(before, first, first)
        found = Likeness("contested", "")
        for noise in self._noises(steps):
            replays.append(self._made(self._cell, start, steps, before, ranks, noise))
            if len(replays) < 2 + len(_REPLICAS):
                continue
            found = compare(
                before,
                after,
                [end_of(it) for it in replays],
                steps=steps,
                widest=self._widest,
                weights=weights,
                known=weights if steps == 1 else (),
                moments=moments if steps == 1 else (),
            )
            if found.kind == "agrees" and (why := losses([x.loss for x in recorded[1:]], _losses(replays))):
                found = Likeness("contested", why)
            if found.kind != "contested":
                break
        if steps == 1 and found.kind == "agrees":
            self.drift.add(before, after, here, there)
        return found

    def _noises(self, steps: int) -> Iterator[tuple[int, int]]:
        """Of one step alone more are worth it: over many, no replica meets the kink that another kernel met."""
        for number, scale in (*_REPLICAS, *(_MORE if steps == 1 else ())):
            yield self._draws + number, scale

    def _made(
        self,
        cell: Cell,
        start: int,
        steps: int,
        before: State | None,
        ranks: int,
        noise: tuple[int, int] | None = None,
    ) -> Rerun:
        again = cell.run(self._seed, start, steps, before, ranks, noise)
        if again.end is None:
            raise Failed("train() stopped before the segment's end")
        return again


def end_of(made: Rerun) -> State:
    """The state that all its steps made."""
    assert made.end is not None
    return made.end


def _losses(replays: Sequence[Rerun]) -> list[list[float]]:
    return [[leaf.loss for leaf in it.leaves] for it in replays]


def _equal(recorded: Sequence[Leaf], made: Rerun) -> bool:
    """Bit for bit: states, data and losses."""
    return all(not a.difference(b) for a, b in zip(_with(made, recorded), recorded[1:], strict=True))


def _with(made: Rerun, recorded: Sequence[Leaf]) -> list[Leaf]:
    """What no replay makes again is as it was recorded."""
    both = zip(made.leaves, recorded[1:], strict=True)
    return [replace(leaf, permit=said.permit, flop=said.flop) for leaf, said in both]
