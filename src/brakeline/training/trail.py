"""A rehearsed stretch of a run, as it is written by the process that made it and read by the one that compares."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import torch

from brakeline.core.encoding import tagged
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Unavailable
from brakeline.node.sandbox import die_with_parent
from brakeline.training import ranks
from brakeline.training.digest import Snapshot, capture, place
from brakeline.training.distributions import imported, strays
from brakeline.training.gatehook import RankGate
from brakeline.training.live import Live, Look, caller, holding, look
from brakeline.training.ranks import joined
from brakeline.training.recipe import deposited, own_line
from brakeline.training.recorder import Recorder
from brakeline.training.replay import begin

_WORDS: Final = 2000
_BESIDE: Final = (
    "what lies beside the entry is listed, files = [...], and read as Path(__file__).with_name(...); "
    "a data set stays where it is: name it by its whole path"
)
_ROOM: Final = "a rehearsal writes its checkpoints to the temporary folder: make room there, or name another in TMPDIR"
SEED: Final = tagged("brakeline/rehearsal-seed/v1", b"")


class Step(msgspec.Struct):
    """One leaf, and the digest of each place in its state."""

    batch: bytes
    loss: str
    items: list[tuple[str, bytes]]


class Trail(msgspec.Struct):
    """The steps made, what the code held before each (by the steps done then), and how it went.

    `moved` are the places that were not any more, when the gate was asked for the next step, what the leaf says; `used`
    the generators that were drawn from within a step; `batches` the variables that held what went in.
    """

    steps: dict[int, Step] = {}
    looks: dict[int, dict[str, Live]] = {}
    moved: dict[int, list[str]] = {}
    used: set[str] = set()
    batches: set[str] = set()
    began: int = 0
    opened: dict[str, Live] = {}  # the global generators, as recorder.open() left them
    error: str = ""
    hint: str = ""
    unavailable: bool = False  # of the error: it is the machine's
    imported: list[str] = []
    strays: dict[str, str] = {}
    seconds: float = 0.0


class Order(msgspec.Struct):
    """What a process is to do: train the recipe in `folder` until `until` steps are done, then obey or be killed."""

    folder: str
    record: str
    until: int
    end: Literal["stop", "kill"]
    segment: int
    threads: int
    ranks: int
    trail: str
    printed: str


class _Watched(Recorder):
    """A recorder that keeps every place's digest, taken at once, and again before the next step."""

    trail: Trail
    seen: Look | None = None

    def open(self, **objects: Any) -> int:
        self.given = tuple(objects.values())
        self.trail.began = super().open(**objects)
        self._began = time.monotonic()
        self.trail.opened = look(None, Path(os.devnull), ()).found
        return self.trail.began

    def step(self, *, loss: Any, batch: Any) -> None:
        if self._step not in self.trail.looks:
            text = f"step {self._step + 1} was made without asking gate.may_step()"
            raise Misuse(text, hint="ask it before every optimizer step")
        if self.seen:
            self.trail.used |= self.seen.used()
        parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
        self.trail.batches |= holding(caller(), (batch, *parts))
        super().step(loss=loss, batch=batch)
        self.trail.seconds = (time.monotonic() - self._began) / (self._step - self.trail.began)
        self._keep()

    def moved(self) -> list[str]:
        """What is not any more what it was when `step` was called."""
        if self._step not in self.trail.steps:
            return []
        before = dict(self.trail.steps[self._step].items)
        return [where for where, now in _places(capture(self._objects)) if before.get(where) != now]

    def _keep(self) -> Step:
        assert self._snapshot is not None
        return self.trail.steps.setdefault(self._step, Step(b"", "", _places(self._snapshot)))

    def settle(self) -> None:
        window, state = self._window, self._snapshot
        if window is None or state is None:
            super().settle()
            return
        leaf = window.result().leaf
        kept = self._keep()
        kept.batch, kept.loss = leaf.batch, leaf.loss.hex()
        super().settle()
        late = [where for (where, before), (_, now) in zip(kept.items, _places(state), strict=True) if before != now]
        if late:
            raise Misuse(
                f"{late[0]} was written to after recorder.step() of step {leaf.step}, past autograd's counters",
                hint="call recorder.step() last: what writes through .data, an average of weights say, comes before it",
            )


def _places(state: Snapshot) -> list[tuple[str, bytes]]:
    return [(place(i.component, i.path), i.digest) for i in state.items()]


class _Gate:
    """Says no after `until` steps, or never comes back; looks at what the code holds before each."""

    def __init__(self, recorder: _Watched, order: Order, write: Callable[[], None]) -> None:
        self._recorder, self._order, self._write = recorder, order, write
        self._folder = Path(order.folder)
        self.refused = -1

    def may_step(self) -> bool:
        done, recorder = self._recorder.steps, self._recorder
        if self.refused >= 0 and done > self.refused:
            raise Misuse("train() goes on after gate.may_step() said no", hint="leave the loop, and recorder.stop()")
        if done not in recorder.trail.looks:
            recorder.trail.moved[done] = recorder.moved()
            given = getattr(recorder, "given", ())
            recorder.seen = look(caller(), self._folder, given, (self, recorder))
            recorder.trail.looks[done] = recorder.seen.found
        if done < self._order.until:
            return True
        self.refused = done
        if self._order.end == "kill":
            self._write()
            ranks.meet(b"done")  # whoever goes first takes the others with it
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def make(order: Order) -> bool:
    """Make one stretch as ordered, in this process, and write its trail, whatever happens. Whether it went well."""
    torch.set_num_threads(order.threads)
    trail = Trail()
    recipe = deposited(Path(order.folder))
    before = imported()

    def write() -> None:
        trail.imported = sorted(imported() - before)
        trail.strays = strays(Path(order.folder))
        if ranks.rank():
            return  # the run's trail is that of rank 0
        Path(order.trail).write_bytes(msgspec.msgpack.encode(trail))

    recorder = None
    try:
        code = recipe.load()
        config = recipe.full_config(SEED)
        recorder = _Watched(
            order.record,
            segment_steps=order.segment,
            flop_per_step=max(1, int(code.flop_per_step(config))),
            head_every_segments=1,
            on_head=None,
            run="rehearsal",
            permit=lambda: bytes(32),
        )
        recorder.trail = trail
        gate = _Gate(recorder, order, write)
        begin(code.train, config, RankGate(gate), recorder)
        if recorder._file >= 0:
            raise Misuse("train() came back without recorder.stop()", hint='recorder.stop("ended" or "stopped")')
        if gate.refused >= 0 and recorder.steps > gate.refused:
            raise Misuse("train() goes on after gate.may_step() said no", hint="leave the loop, and recorder.stop()")
        if not hasattr(recorder, "given"):
            raise Misuse("train() came back without recorder.open()", hint="see docs/training.md")
    except BrakelineError as e:
        trail.error, trail.hint, trail.unavailable = str(e), e.hint, isinstance(e, Unavailable)
    except (Exception, SystemExit) as e:
        line = own_line(e, Path(order.folder))
        where = f"{line[0]}, line {line[1]}: " if line else ""
        trail.error = f"{where}{type(e).__name__}: {e}"
        trail.hint = _BESIDE if isinstance(e, FileNotFoundError) and line else ""
    finally:
        if recorder is not None:
            recorder.close()
        write()
        print(trail.error)
    return not trail.error


class Stage:
    """Makes stretches, one after another, each in a process of its own.

    They are forked from one that has imported torch and run nothing: a fresh start that does not take seconds.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "brakeline.training.trail", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def make(self, order: Order) -> Trail:
        """Raises:
        Malformed: the recipe's code ended its process. Unavailable: the machine fails it, its disk say.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().decode().strip()
        try:
            trail = msgspec.msgpack.decode(Path(order.trail).read_bytes(), type=Trail)
        except FileNotFoundError as e:
            words = Path(order.printed).read_text(errors="replace").strip()[-_WORDS:] if status else ""
            raise Malformed(f"the recipe ended its process with status {status}: {words}") from e
        except msgspec.DecodeError as e:
            raise Unavailable(f"{order.trail} was not written to its end", hint=_ROOM) from e
        if trail.unavailable:
            raise Unavailable(trail.error, hint=_ROOM)
        return trail

    def close(self) -> None:
        """Let it go, with what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # an order that nobody read
                    pipe.close()


def main() -> None:
    """The stage itself: an order a line on the standard input, and how its process ended on the standard output."""
    _end_with(int(sys.argv[1]))
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)  # the first optimizer imports for a second
    while line := sys.stdin.buffer.readline():
        order = msgspec.json.decode(line, type=Order)
        store = Path(f"{order.trail}.store")
        children = [_forked(order, rank, store) for rank in range(order.ranks)]
        status = 0
        for _ in range(order.ranks):
            child, ended = os.wait()
            children.remove(child)
            if ended and not status:
                status = os.waitstatus_to_exitcode(ended)
                for other in children:  # they would wait for it
                    os.kill(other, signal.SIGKILL)
        print(status, flush=True)


def _end_with(parent: int) -> None:
    """Let no step be made that nobody waits for: whoever started this may be killed."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _forked(order: Order, rank: int, store: Path) -> int:
    stage = os.getpid()
    child = os.fork()
    if child == 0:
        _end_with(stage)
        printed = os.open(order.printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number, at in ((os.open(os.devnull, os.O_RDONLY), 0), (printed, 1), (printed, 2)):
            os.dup2(number, at)
        with joined(rank, order.ranks, store) if order.ranks > 1 else nullcontext():
            well = make(order)
            sys.stdout.flush()
            if well and order.ranks > 1:
                ranks.meet(b"done")  # whoever goes first would take the others with it
            os._exit(0 if well else 1)
    return child


if __name__ == "__main__":
    main()
