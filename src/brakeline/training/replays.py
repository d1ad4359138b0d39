"""The segments of one audit, made again in cells: what the lab's code is given, and what came of it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from brakeline.core.encoding import Wire, canonical, parse, sha256, unhex32
from brakeline.core.errors import Malformed
from brakeline.core.finding import Fault, Finding
from brakeline.core.state.runs import Run
from brakeline.core.transcript import Likeness, SegmentReplay, decode_leaf
from brakeline.core.treaty import Treaty
from brakeline.node.disk import disk_errors, write_atomic
from brakeline.training.calibration import doubt, known
from brakeline.training.cell import Cell, Facts, Failed
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.elsewhere import NARROW, Elsewhere
from brakeline.training.environment import profile
from brakeline.training.measured import start_told, told, unseeded
from brakeline.training.replay import conclude
from brakeline.training.shown import NotShown, Shown, checkpoint, distributions, profiles
from brakeline.training.watch import Limits

Part = tuple[int, int]
Progress = Callable[[int, int], None]  # segments done, segments in all
Say = Callable[[str], None]


class Looking(NamedTuple):
    """How an inspector looks. `memory` keeps finished replays; in `home` lies what was measured of honest ones.

    The lab's code sees neither it, nor the evidence, nor the folders in `hidden`, nor anything else of this machine's
    disk but the system, Python and the folders in `data`; it gets what `limits` allow. `say` is told where the sandbox
    that should see to that is not complete, and what the lab's code says, which no finding repeats. Another `cell` may
    do for code that is trusted.
    """

    memory: Path
    home: Path | None = None
    hidden: Sequence[Path] = ()
    data: Sequence[Path] = ()
    limits: Limits | None = None
    progress: Progress = lambda done, total: None
    say: Say = lambda text: print(f"warning: {text}", file=sys.stderr)
    cell: Callable[..., Cell] = Cell


class _Kept(Wire, frozen=True):
    """A replay on the inspector's disk, so that an interrupted audit goes on where it was."""

    start: int
    end: int
    start_state: str
    leaves: tuple[str, ...]
    environment: str
    likeness: tuple[Literal["agrees", "not-verified", "contested", "undecided"], str] | None


class Replayed(NamedTuple):
    """What came of a cell: its environment, what the recipe says of itself, and the segments or why there are none.

    `facts` is None where the recipe could not be loaded. `exposed`: the cell had not all of its walls.
    """

    environment: str
    facts: Facts | None
    replays: Mapping[Part, SegmentReplay | Finding]
    problem: Finding | None
    exposed: bool = False
    drift: tuple[Finding, ...] = ()
    measured: tuple[Finding, ...] = ()


class Replays:
    """Makes segments of `run` again, of which the lab shows this `evidence`; noise and signs follow from `draws`.

    `profiles` are the environments shown, by digest.
    """

    def __init__(self, treaty: Treaty, run: Run, shown: Shown, evidence: Path, how: Looking, draws: int) -> None:
        self._treaty = treaty
        self._run = run
        self._shown = shown
        self._evidence = evidence
        self._how = how
        self._draws = draws
        self._names = distributions(evidence)
        own, kinds, self.profiles = profile(self._names), known(how.home), profiles(evidence)
        self._doubts = {it: why for it in run.environments if (why := doubt(self.profiles.get(it), own, kinds))}

    def make(self, parts: Sequence[Part], memory: Path) -> Replayed:
        """Replay `parts`, ascending: the checkpoint at a segment's start gives away the end of none that is to come.

        Raises:
            Unavailable: the inspector's machine fails.
        """
        how, shown, run = self._how, self._shown, self._run
        hidden = (self._evidence, how.memory, *how.hidden)
        start = partial(how.cell, shown.recipe, shown.digest, hidden, self._names, shown=how.data, limits=how.limits)
        narrow = partial(start, threads=torch.get_num_threads() - 1 or 2, variables=NARROW)
        with (
            start() as cell,
            Elsewhere(
                *(cell, narrow, self._evidence, run.seed, self._draws),
                widest=self._treaty.update_error,
                foreign=self._treaty.foreign,
            ) as elsewhere,
        ):
            if cell.exposed:
                how.say(f"the lab's code could see or change what it should not: {cell.exposed}")
            try:
                facts = cell.facts()
            except Failed as e:
                how.say(str(e))
                problem = finding(Fault.NOT_REPLAYED, (0, 0), e.plain)
                return Replayed(cell.environment, None, {}, problem, bool(cell.exposed))
            replays: dict[Part, SegmentReplay | Finding] = {}
            for done, part in enumerate(parts if run.seed else ()):
                how.progress(done, len(parts))
                replays[part] = self._replay(cell, elsewhere, part, memory)
            how.progress(len(parts), len(parts))
            drift = elsewhere.drift.found()
            one_way = (Finding(fault=Fault.CONTESTED, severity="gap", segment=(0, 0), detail=drift),) if drift else ()
            first = parts[0] if parts and isinstance(replays.get(parts[0]), SegmentReplay) else (0, 0)
            measured = self._measured(cell, first[1]) if first[0] == 0 < first[1] else ()
            return Replayed(cell.environment, facts, replays, None, bool(cell.exposed), one_way, measured)

    def _measured(self, cell: Cell, end: int) -> tuple[Finding, ...]:
        """What a step takes, and whether the start depends on the seed, in a run whose first segment ends at `end`: a
        recipe is not asked, but tried."""
        run, leaves, say = self._run, self._shown.leaves, self._how.say
        if run.ranks(0, cell.recipe.ranks) > 1:
            return ()
        found = []
        try:
            found += told(run.declaration, cell.measure(run.seed, 0, 1, None))
            begin, other = (cell.run(seed, 0, 0, None).end for seed in (run.seed, sha256(run.seed + b"another")))
            later = checkpoint(self._evidence, leaves[end], 1)
            if begin is not None and other is not None:
                found += start_told(run.declaration, cell.recipe, *unseeded(begin, other, later))
        except (Failed, NotShown, MemoryError) as e:
            say(f"what a step takes was not measured: {e}")
        return tuple(found)

    def _replay(self, cell: Cell, elsewhere: Elsewhere, part: Part, memory: Path) -> SegmentReplay | Finding:
        kept = memory / f"replay-{part[0]:08d}-{part[1]:08d}-{cell.environment[:16]}.json"
        with disk_errors():
            if kept.exists():
                return _restore(parse(kept.read_bytes(), _Kept))
        (start, end), run, say = part, self._run, self._how.say
        recorded = self._shown.leaves[start : end + 1]
        if not start < end or len(recorded) != end - start + 1:
            return finding(Fault.NOT_REPLAYED, part, "these steps are not recorded")
        try:
            ranks, there = (run.ranks(step, cell.recipe.ranks) for step in (start, start - 1))
            before = checkpoint(self._evidence, recorded[0], there)
            last = checkpoint_path(self._evidence, end).exists()
            after = checkpoint(self._evidence, recorded[-1], ranks) if last else None
        except NotShown as e:
            say(f"steps {start}-{end}: {e}")
            return finding(Fault.OPENING_MISSING, part, "a checkpoint is missing, or is not the recorded state")
        except MemoryError:
            return finding(Fault.NOT_REPLAYED, part, "the inspector's memory does not hold the checkpoints")
        try:
            again = cell.run(run.seed, start, end - start, before if start else None, ranks)
            if start:
                again = again._replace(start_state=recorded[0].state)  # of what was handed over
            result = conclude(recorded, again, cell.environment)
            if cell.environment != run.environment(start):
                why = self._doubts.get(run.environment(start), "")
                result = replace(result, likeness=elsewhere.look(recorded, before, after, again, ranks, why))
        except Failed as e:
            say(f"steps {start}-{end}: {e}")
            return finding(Fault.NOT_REPLAYED, part, e.plain)
        except Malformed as e:
            say(f"steps {start}-{end}: {e}")
            return finding(Fault.NOT_REPLAYED, part, "what was replayed cannot be compared with the checkpoints")
        if result.likeness is None or result.likeness.kind != "undecided":  # the states between may yet be opened
            write_atomic(kept, canonical(_keep(result)))
        return result


def finding(fault: Fault, part: Part, detail: str) -> Finding:
    """A violation, or the gap that nothing was replayed."""
    severity: Literal["violation", "gap"] = "gap" if fault is Fault.NOT_REPLAYED else "violation"
    # A name that the lab chose may be in it; a lone surrogate could not be signed.
    text = detail[:300].encode("utf-8", "backslashreplace").decode()
    return Finding(fault=fault, severity=severity, segment=part, detail=text)


def _keep(r: SegmentReplay) -> _Kept:
    return _Kept(
        start=r.start,
        end=r.end,
        start_state=r.start_state.hex(),
        leaves=tuple(leaf.encode().hex() for leaf in r.leaves),
        environment=r.environment,
        likeness=r.likeness,
    )


def _restore(k: _Kept) -> SegmentReplay:
    leaves = tuple(decode_leaf(bytes.fromhex(x)) for x in k.leaves)
    likeness = Likeness(*k.likeness) if k.likeness else None
    return SegmentReplay(k.start, k.end, unhex32(k.start_state), leaves, k.environment, likeness)
