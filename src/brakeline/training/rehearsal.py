"""A rehearsal: whether a recipe can be stopped, killed, resumed and replayed bit for bit, before anything is declared.

In fresh processes a few steps are made without a stop, with a stop, with a kill, and again in the inspector's cell;
then all are compared, leaf by leaf. What passes here passes its audit, as far as these steps show; what does not gets
the cause in the engineer's words: the variable that the state lacks, and what to pass. `diagnosis` finds the words.
"""

import math
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Final, Literal

import msgspec
import torch

from brakeline.core import units
from brakeline.core.errors import BrakelineError, Malformed, Misuse
from brakeline.core.transcript import LEAF_BYTES
from brakeline.node.disk import write_atomic
from brakeline.training.cell import Cell, Failed
from brakeline.training.checkpoint import CHECKPOINTS
from brakeline.training.diagnosis import Cause, compare, latent, stretch, unnoticed, untried
from brakeline.training.digest import Snapshot
from brakeline.training.distributions import fingerprints
from brakeline.training.environment import processors
from brakeline.training.measured import compute_fault
from brakeline.training.ranks import Together
from brakeline.training.recipe import Recipe
from brakeline.training.recorder import read_leaves
from brakeline.training.replay import open_recorded
from brakeline.training.seeded import seedless
from brakeline.training.trail import SEED, Order, Stage, Trail

STEPS: Final = 16
_SEEDED: Final = "build everything from config, whose seed is config['seed']"
_DERIVED: Final = "an inspector elsewhere cannot compare it; record what it was computed from, integers say"
_COMPUTE: Final = "flop_per_step() is 6 FLOP for each weight and each sample or token; convolutions at each place"
_PARENTS: Final = (
    "the weights it starts from do not depend on config['seed']: name the run that they come from as a parent, "
    "or no audit will pass"
)
_OTHER_SEED: Final = bytes(range(32))
_FRESH: Final = "something that a step depends on is neither in the state nor in the recipe"
_WRITES: Final = "a cell may write to temporary folders alone: output_dir=tempfile.mkdtemp(), say"
_CELL: Final = "a cell has the recipe's files and what is installed: list what lies beside the entry in files = [...]"


class Rehearsal(msgspec.Struct, frozen=True):
    """What was found. It passed where there are no `causes`; `notes` are for the engineer and forbid nothing.

    `distributions` are those that the recipe imports, `first` and `checkpoint` the bytes of
    the first and of a later one, `seconds` those of a step.
    """

    steps: int
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]
    distributions: tuple[str, ...]
    first: int
    checkpoint: int
    seconds: float

    def check(self) -> None:
        """Raises:
        Misuse: it failed.
        """
        if self.causes:
            text = "\n".join(["the rehearsal failed: " + self.causes[0].text, *(c.text for c in self.causes[1:])])
            hints = dict.fromkeys(cause.hint for cause in self.causes if cause.hint)
            raise Misuse(text, hint="\n".join(hints))


def rehearse(
    recipe: Recipe, *, steps: int = STEPS, threads: int | None = None, tell: Callable[[str], None] = lambda text: None
) -> Rehearsal:
    """Rehearse `steps` steps of `recipe`, with `threads` threads or as many as this process.

    Raises:
        Misuse: fewer than two steps. Malformed, Unavailable: as `Recipe.deposit`; a process cannot be started.
    """
    steps = min(steps, recipe.steps)
    if steps < 2:
        raise Misuse("a rehearsal makes at least two steps, and so does the run", hint="more steps")
    with _ended_tidily(), tempfile.TemporaryDirectory(prefix="brakeline-rehearsal-") as folder:
        return _Rehearsing(recipe, Path(folder), steps, threads or torch.get_num_threads(), tell).run()


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """SIGTERM and a closed terminal end this as Ctrl-C does: checkpoints are large, and none is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


class _Rehearsing:
    def __init__(self, recipe: Recipe, folder: Path, steps: int, threads: int, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._here = recipe.deposit(folder / "recipe")
        self._steps = steps
        self._segment = max(1, (steps - 1) // 2)
        self._threads = threads
        self._tell = tell
        self._cells: list[Cell] = []
        self._stages: Queue[Stage] = Queue()
        self._parents = recipe.parents  # which are no code: what is deposited names none
        self._notes: list[str] = []
        self._stop = _stop(self._segment, steps)
        self._kill = min(steps - 1, self._stop + 1)

    def run(self) -> Rehearsal:
        busy = self._threads * self._here.ranks
        at_once = 1 if torch.cuda.is_available() else max(1, min(3, processors() // busy))
        with ThreadPoolExecutor(at_once) as pool, ExitStack() as stack:
            for _ in range(at_once):
                self._stages.put(stack.enter_context(closing(Stage())))
            stack.callback(self._leave, pool)
            self._tell(f"rehearsing {self._steps} steps: whole, stopped at {self._stop}, killed at {self._kill}")
            first = [
                pool.submit(self._stretch, "whole", self._steps, "stop"),
                pool.submit(self._stretch, "stopped", self._stop, "stop"),
                pool.submit(self._stretch, "killed", self._kill, "kill"),
            ]
            whole, stopped, killed = (it.result() for it in first)
            if found := self._alone(whole) or compare("two fresh starts", whole, stopped, 1):
                return self._found(whole, found)
            if stopped.error or (killed.error and not killed.looks):
                return self._found(whole, [Cause(stopped.error or killed.error, stopped.hint or killed.hint)])
            self._tell("resuming both, and replaying in the cell of an inspector")
            second = [
                pool.submit(self._stretch, "stopped", self._steps, "stop"),
                pool.submit(self._stretch, "killed", self._steps, "stop"),
            ]
            replayed = pool.submit(self._replayed, whole)
            other = pool.submit(self._stretch, "other", self._segment, "stop", 1 if self._threads > 1 else 2)
            resumed, revived = (it.result() for it in second)
            noise = stretch(whole, stopped)
            causes = (
                compare("without a stop and after one", whole, resumed, self._stop + 1, noise)
                or compare("without a kill and after one", whole, revived, revived.began + 1, noise)
                or self._stopped_elsewhere(whole, {self._stop, revived.began}, noise)
                or latent(whole, resumed, noise)
                or replayed.result()
            )
            steps = other.result().steps
            other_batch = [n for n, step in steps.items() if step.batch and step.batch != whole.steps[n].batch]
            notes = [lost] if not causes and (lost := unnoticed(whole, resumed, noise)) else []
            notes += self._notes
            notes += [f"with other threads step {n} has another batch: {_DERIVED}" for n in other_batch[:1]]
        return self._found(whole, causes, notes)

    def _stopped_elsewhere(self, whole: Trail, tried: Set[int], noise: frozenset[str]) -> list[Cause]:
        """Stop one run after each step after which a stop may lose something else than after those `tried`."""
        stops = untried(whole, tried, noise)
        if not stops:
            return []
        self._tell(f"stopping at {', '.join(map(str, stops))} too, where other things change")
        before = 0
        for stop in (*stops, min(stops[-1] + 2, self._steps)):
            leg = self._stretch("again", stop, "stop")
            if found := compare("without a stop and after one", whole, leg, before + 1, noise):
                return found
            before = stop
        return []

    def _leave(self, pool: ThreadPoolExecutor) -> None:
        """Wait for nothing that is not needed any more: a step may take minutes, or never end."""
        pool.shutdown(wait=False, cancel_futures=True)
        for cell in self._cells:
            cell.interrupt()

    def _found(self, whole: Trail, causes: list[Cause], notes: list[str] | None = None) -> Rehearsal:
        written = sorted((self._folder / "whole" / CHECKPOINTS).glob("*.safetensors"))
        sizes = [path.stat().st_size for path in written]
        return Rehearsal(
            steps=self._steps,
            causes=tuple(causes),
            notes=tuple(notes or ()),
            distributions=tuple(whole.imported),
            first=sizes[0] if sizes else 0,
            checkpoint=sizes[-1] if sizes else 0,
            seconds=whole.seconds,
        )

    def _alone(self, whole: Trail) -> list[Cause]:
        """What is wrong without any comparison."""
        if whole.error:
            return [Cause(whole.error, whole.hint)]
        if len(whole.steps) < self._steps:
            text = f"train() came back after {len(whole.steps)} steps, though the gate let it make {self._steps}"
            return [Cause(text, "rehearse fewer (--steps); what ends a loop early belongs to its state")]
        names = sorted(whole.strays, key=len)[:3]
        hint = "list it under files = [...], or install it as a distribution that an inspector can install too"
        return [Cause(f"the module {n} comes from {whole.strays[n]}, which no inspector has", hint) for n in names]

    def _stretch(self, name: str, until: int, end: Literal["stop", "kill"], threads: int = 0) -> Trail:
        trail = self._folder / f"{name}-{until}-{end}.trail"
        order = Order(
            folder=str(self._here.source.parent),
            record=str(self._folder / name),
            until=until,
            end=end,
            segment=self._segment,
            threads=threads or self._threads,
            ranks=self._here.ranks,
            trail=str(trail),
            printed=str(trail.with_suffix(".txt")),
        )
        stage = self._stages.get()
        try:
            return stage.make(order)
        finally:
            self._stages.put(stage)

    def _replayed(self, whole: Trail) -> list[Cause]:
        """Both segments, the second one first, so that nothing comes from a segment before."""
        record = self._folder / "whole"
        recorded = read_leaves(record)
        cell = Cell(self._here, self._here.digest, (record,), tuple(whole.imported), self._threads)
        try:
            with cell:
                self._cells.append(cell)
                declared = int(cell.facts().flop_per_step)
                for start, end in ((self._segment, self._steps), (0, self._segment)):
                    before = open_recorded(record, recorded[start], self._here.ranks)
                    again = cell.run(SEED, start, end - start, before, self._here.ranks)
                    if start == 0 and again.start_state != recorded[0].state:
                        return [Cause("in an inspector's cell, train() begins from another state", _SEEDED)]
                    for got in again.leaves:
                        if what := got.difference(recorded[got.step]):
                            text = f"in an inspector's cell, step {got.step} has another {what} than recorded"
                            return [Cause(text, _FRESH)]
                    if len(again.leaves) < end - start:
                        return [Cause(f"in an inspector's cell, train() stops before step {end}", "")]
                with suppress(Failed):  # an inspector says so, and accuses nobody
                    return self._weighed(cell, declared, before, record)
        except Failed as e:
            hint = _WRITES if "Read-only file system" in str(e) else _CELL
            return [Cause(f"in an inspector's cell: {e}", hint)]
        except BrakelineError as e:
            return [Cause(f"in an inspector's cell: {e}", e.hint)]
        return []


    def _weighed(self, cell: Cell, declared: int, first: Snapshot | Together, record: Path) -> list[Cause]:
        """What an inspector would measure: the compute of a step, and whether the seed decides the start."""
        ranks = self._here.ranks
        measured = cell.measure(SEED, 0, self._segment, first, ranks)
        if fault := compute_fault(declared, [measured]):
            return [Cause(f"in an inspector's cell: {fault}", _COMPUTE)]
        other = cell.run(_OTHER_SEED, 0, 0, first, ranks).end
        later = open_recorded(record, read_leaves(record)[self._steps], ranks)
        start = seedless(first.tree, other.tree if other else {}, later.tree)
        if not self._parents and 2 * start.seedless > start.trained:
            self._notes.append(_PARENTS)
        return []


def _stop(segment: int, steps: int) -> int:
    """Where to stop: what is done every second, third or fourth step is done at one resumption and not at the other."""

    def told(stop: int) -> int:
        return sum((stop % n == 0) != (segment % n == 0) for n in (2, 3, 4))

    return max(range(segment + 1, steps), key=told, default=1)


class _Kept(msgspec.Struct, frozen=True):
    """What was found, with the distributions that the recipe imported, as they were then."""

    found: Rehearsal
    code: dict[str, str]


def rehearsed(recipe: Recipe, environment: str, folder: Path, tell: Callable[[str], None]) -> Rehearsal:
    """`rehearse`, unless `folder` holds that this very recipe passed in this environment. Raises as it."""
    path = folder / f"{recipe.digest[:32]}-{environment[:32]}.json"
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if kept.code == fingerprints(kept.found.distributions):
            return kept.found
    found = rehearse(recipe, tell=tell)
    if not found.causes:
        write_atomic(path, msgspec.json.encode(_Kept(found, fingerprints(found.distributions))))
    return found


def segment_steps(wanted: str, found: Rehearsal | None, least: int, most: int) -> int:
    """The length of a segment: the treaty's `least`, or as `Recipe.segment` wants it, up to `most`.

    Raises:
        Malformed: not a duration, nor a size. Misuse: nothing was measured.
    """
    if not wanted:
        return least
    if found is None:
        raise Misuse(f"how many steps {wanted!r} are, a rehearsal measures", hint="leave segment out, or rehearse it")
    try:
        steps = units.seconds(wanted) / max(found.seconds, 1e-6)
    except Malformed:
        try:
            steps = 1000 * found.checkpoint / max(1, units.size(wanted) - found.first - 1000 * LEAF_BYTES)
        except Malformed as e:
            raise Malformed(f"segment: {wanted!r} is no duration and no size", hint='"10 min", or "20 GB"') from e
    return min(max(least, math.ceil(steps)), most)


def disk(found: Rehearsal, segment_steps: int, steps: int = 1000) -> int:
    """Bytes that `steps` steps leave on the lab's disk: a checkpoint a segment and a leaf a step."""
    return found.first + found.checkpoint * -(-steps // segment_steps) + LEAF_BYTES * steps
