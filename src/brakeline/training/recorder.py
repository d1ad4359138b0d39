"""The recorder: a leaf a step, a checkpoint a segment, heads on opening, at a cadence and last. Opening is resuming.

    step = recorder.open(model=model, optimizer=optimizer, scheduler=scheduler, data=data)
    while step < steps and gate.may_step():
        ...
        optimizer.step(); scheduler.step(); step += 1
        recorder.step(loss=loss, batch=(x, y))
    recorder.stop("ended" if step == steps else "stopped")

Between `recorder.step()` and the next `optimizer.step()` the weights stand still: in that window a second thread
hashes them where they lie. A hook before the optimizer's step waits for it, and checks by autograd's version counters
that nobody wrote to them meanwhile; only then is the leaf appended. So a leaf never holds a torn state, and a process
that is killed loses its last leaf at most, which the resumed run makes again.

Order of writing at a boundary: the leaves are on disk before the checkpoint (temporary file, fsync, rename), and both
before the head goes out. So a checkpoint that exists has its leaf, and what was published can be opened.
"""

import errno
import os
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Protocol, Self

import torch
from filelock import FileLock, Timeout

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.transcript import LEAF_BYTES, NONE, Head, Leaf, decode_leaf
from brakeline.training import ranks
from brakeline.training.batch import batch_snapshot, scalar
from brakeline.training.checkpoint import (
    CHECKPOINTS,
    GOES_ON,
    Image,
    checkpoint_steps,
    image,
    load_checkpoint,
    shared,
    write,
)
from brakeline.training.components import components
from brakeline.training.difference import first_difference
from brakeline.training.digest import (
    Memory,
    Snapshot,
    Stateful,
    capture,
    generators_kept,
    restore,
    snapshot,
    state_digest,
)

LEAVES: Final = "leaves.bin"
ALONE: Final = "one command trains a run: let the other one go on, or end it first"


class Recording(Protocol):
    """What `train(config, gate, recorder)` may ask of its recorder, in training and in replay alike."""

    @property
    def start(self) -> int:
        """The number of steps done that `open()` will return, for whoever has to know it earlier."""

    def open(self, **objects: Any) -> int:
        """Put `objects` into the last recorded state, if there is one. Returns the number of steps done."""

    def step(self, *, loss: torch.Tensor | float, batch: Any) -> None:
        """Record one step: call it last, after the optimizer's and the scheduler's."""

    def aside(self) -> AbstractContextManager[None]:
        """What is drawn at random inside leaves no trace: for evaluation and samples, which no replay repeats."""

    def stop(self, status: Literal["stopped", "ended"]) -> None:
        """Close the record; `ended` when all steps are done. Returns when it is durable."""


class Origin(NamedTuple):
    """Where a run last went on with another number of ranks: the checkpoint of `step` is of so many."""

    step: int
    ranks: int


class _Hashed(NamedTuple):
    leaf: Leaf
    image: Image | None  # a copy of the state, at a boundary


class Recorder:
    """Records one run under `directory`; one process at a time, or one for each rank of `torch.distributed`.

    Of several ranks each keeps its checkpoints, rank 0 in `directory` and the others below it; what concerns the run as
    a whole, `on_head` and `permit`, concerns rank 0. All call the same methods at the same steps.

    `segment_steps` is the distance of checkpoints in steps, `head_every_segments` that of heads in segments.
    `permit` gives the 32-byte digest of the permit in force. `on_head` is called by `open()`, then in a thread of its
    own; what it raises there surfaces at the next step. `origin` is where the number of ranks has changed, if it has.

    Raises, in any method:
        Misuse: weights changed outside the optimizer's step, a resumed run that does not repeat what is recorded, a
            call out of order. Malformed: leaves or checkpoints are damaged. Unavailable: the disk.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        segment_steps: int,
        flop_per_step: int,
        head_every_segments: int,
        on_head: Callable[[Head], None] | None,
        run: str,
        permit: Callable[[], bytes],
        origin: Origin | None = None,
    ) -> None:
        if segment_steps < 1 or head_every_segments < 1 or flop_per_step < 1:
            raise Misuse("steps a segment, segments a head and compute a step are at least 1")
        self._evidence = Path(directory)
        self.directory = self._evidence
        self._segment_steps = segment_steps
        self._head_steps = segment_steps * head_every_segments
        self._flop_per_step = flop_per_step
        self._on_head = on_head
        self._run = run
        self._permit = permit
        self._origin = origin
        self._lock: FileLock | None = None
        self._objects: dict[str, Stateful] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._file = -1
        self._step = 0  # steps done, of which `_recorded` counts those with a leaf, perhaps of an earlier process
        self._recorded = -1
        self._last: Leaf | None = None  # leaf number `_recorded`
        self._frontier = Frontier()
        self._snapshot: Snapshot | None = None
        self._known: dict[str, Memory] = {}
        self._held: dict[str, int] = {}  # large tensors of the last checkpoint, and which one they lie in
        self._window: Future[_Hashed] | None = None
        self._writing: Future[None] | None = None
        self._hasher = ThreadPoolExecutor(1, "brakeline-hash")
        self._writer = ThreadPoolExecutor(1, "brakeline-write")

    @property
    def steps(self) -> int:
        """Steps done, as the training loop counts them: those of this state, not those on record."""
        return self._step

    @property
    def start(self) -> int:
        """The step of the last checkpoint, which `open()` resumes from; 0 where there is none. All ranks ask it."""
        return max(0, self._last_checkpoint())

    def _last_checkpoint(self) -> int:
        """The last one that every rank has, or from which this number of ranks went on; -1 where there is none."""
        self.directory = ranks.folder(self._evidence, ranks.rank())
        mine = max(checkpoint_steps(self.directory), default=-1)
        return ranks.least(max(mine, self._origin.step) if self._origin else mine)

    def open(self, **objects: Any) -> int:
        """Resume from the last checkpoint if there is one, else record the initial state as leaf and checkpoint 0.

        Pass every object whose state a later step depends on: with `state_dict` and `load_state_dict`, or a random
        generator of torch, NumPy or Python. Returns the number of steps done.
        """
        if self._file >= 0:
            raise Misuse("open() the recorder once")
        self._objects = components(objects)
        last = self._last_checkpoint()
        try:
            (self.directory / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.directory / ".lock", timeout=0)
            self._lock.acquire()
            self._file = os.open(self.directory / LEAVES, os.O_RDWR | os.O_CREAT, 0o644)
        except Timeout as e:
            raise Misuse(f"another process is recording in {self.directory}", hint=ALONE) from e
        except OSError as e:
            raise Unavailable(f"cannot record in {self.directory}: {e}") from e
        try:
            self._resume(last)
        except BaseException:
            self.close()
            raise
        return self._step

    def step(self, *, loss: torch.Tensor | float, batch: Any) -> None:
        """Record the step just made; `loss` is what this step computed, since a replay must find it again.

        `batch` is what went into it: tensors, arrays, numbers, texts, and containers of them.
        Tensors of the model and the optimizer must not be written to before the
        optimizer's next step; call `settle()` first where something else has to.
        """
        self.settle()
        if self._file < 0:
            raise Misuse("open() the recorder before its first step, and not after stop()")
        loss = scalar(loss)
        inputs = batch_snapshot(batch, stands=False)
        self._step += 1
        state = self._snapshot = capture(self._objects, self._known)
        value = loss.clone() if isinstance(loss, torch.Tensor) else loss
        step, permit, flop = self._step, self._permit(), self._step * self._flop_per_step
        boundary, held = step % self._segment_steps == 0, self._held
        queued = torch.cuda.current_stream().record_event() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

        def hashed() -> _Hashed:
            if queued is not None:  # this thread reads on a stream of its own
                queued.synchronize()
            items = state.items()
            digest = state_digest([item.digest for item in items])
            leaf = Leaf(step, digest, inputs.digest(), permit, float(value), flop)
            return _Hashed(leaf, image(step, state, items, held) if boundary else None)

        self._window = self._hasher.submit(hashed)
        if not self._hooks:  # an optimizer that is not torch's says nothing before it writes
            self.settle()

    def aside(self) -> AbstractContextManager[None]:
        """As `Recording.aside`."""
        return generators_kept()

    def settle(self) -> None:
        """Wait until the last step is hashed and append its leaf; after this, weights may be written to."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
        if self._window is None or self._snapshot is None:
            return
        leaf, boundary = self._window.result()
        leaf = jointly(leaf)
        if not self._snapshot.unchanged():
            raise Misuse(
                f"{self._snapshot.changed()} was written to after recorder.step() of step {leaf.step}",
                hint="call recorder.step() last, after averages and clamps; pass every optimizer to recorder.open()",
            )
        self._window = None
        fresh = leaf.step > self._recorded
        self._commit(leaf)
        if boundary is not None:
            head = self._head("running") if fresh and leaf.step % self._head_steps == 0 else None
            self._submit(boundary, head)

    def stop(self, status: Literal["stopped", "ended"] = "stopped") -> None:
        """Write the last checkpoint, publish the last head, and return when both are done. Idempotent.

        The head covers all leaves, also those that a resumed run had not made again yet: a transcript never shrinks.
        """
        if self._file < 0:
            return
        try:
            self.settle()
            self._submit(self._last_image(), self._head(status))
            assert self._writing is not None
            self._writing.result()
        finally:
            self.close()

    def _last_image(self) -> Image | None:
        """Of the state where the run stops; None where others left it, who were of another number."""
        if self._origin and self._step == self._origin.step:
            return None
        assert self._snapshot is not None
        items = self._snapshot.items()
        mine = state_digest([item.digest for item in items])
        if ranks.joint(ranks.meet(mine)) != self._leaf(self._step).state:
            what = self._snapshot.changed() or "the state"
            raise Misuse(
                f"{what} was written to after step {self._step}, the last one recorded",
                hint="call recorder.step() after every optimizer step, and recorder.stop() before weights change",
            )
        return image(self._step, self._snapshot, items, self._held)

    def close(self) -> None:
        """Let go of files and threads without a word to the log, as a crash would. The next `open()` resumes."""
        for hook in self._hooks:
            hook.remove()
        self._hasher.shutdown()
        self._writer.shutdown()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._window = None
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.stop("stopped")
        else:
            self.close()

    def _resume(self, checkpoint: int) -> None:
        leaves = _recover(self._file, checkpoint)
        self._recorded = len(leaves) - 1
        self._last = leaves[-1] if leaves else None
        self._frontier = Frontier().extend(leaf_hash(leaf.encode()) for leaf in leaves)
        self._step = max(checkpoint, 0)
        origin, state = self._origins(checkpoint)
        # Also where nothing was recorded yet: what does not come back as it went is found before anything is declared.
        restore(self._objects, origin.tree)
        self._snapshot = capture(self._objects, self._known)
        mine = self._snapshot.digest()
        if mine != origin.digest():
            raise Misuse(
                f"what recorder.open() puts back is not what was there: {first_difference(origin, self._snapshot)}",
                hint="its load_state_dict() has to take back all that its state_dict() gave, values and dtypes",
            )
        if not leaves:
            self._commit(Leaf(0, state, NONE, NONE, 0.0, 0))
        elif state != leaves[self._step].state:
            if checkpoint >= 0:
                raise Malformed(f"the checkpoint of step {self._step} is not the recorded state")
            raise Misuse(
                "the state at step 0 is not the recorded one",
                hint="pass the same objects, built from the same configuration; a changed run is a child run",
            )
        if checkpoint >= 0:
            self._held = {} if self._origin and checkpoint == self._origin.step else shared(self.directory, checkpoint)
        else:
            self._write(image(0, self._snapshot, self._snapshot.items(), {}), None)
        for it in self._objects.values():
            if isinstance(it, torch.optim.Optimizer):
                self._hooks.append(it.register_step_pre_hook(lambda *_: self.settle()))
        head = self._head("opened")
        if head is not None and self._on_head is not None:
            os.fsync(self._file)
            self._on_head(head)

    def _origins(self, checkpoint: int) -> tuple[Snapshot, bytes]:
        """The state that this rank goes on from, and the digest of the run's."""
        if self._origin and checkpoint == self._origin.step:
            folders = [ranks.folder(self._evidence, rank) for rank in range(self._origin.ranks)]
            parts = [load_checkpoint(folder, checkpoint) for folder in folders]
            return ranks.anew(self._objects, parts), ranks.joint([part.digest() for part in parts])
        if checkpoint >= 0:
            mine = load_checkpoint(self.directory, checkpoint)
        else:
            mine = snapshot(capture(self._objects).copy(), lambda *_: True)
        return mine, ranks.joint(ranks.meet(mine.digest()))

    def _commit(self, leaf: Leaf) -> None:
        """Append a new leaf; one that is recorded already must come out the same."""
        if leaf.step <= self._recorded:
            recorded = self._leaf(leaf.step)
            # The permit is the one thing that may differ: the step is the same, taken under a later permit.
            if replace(leaf, permit=recorded.permit) != recorded:
                raise Misuse(
                    f"step {leaf.step}, made again after resuming, is not the recorded one",
                    hint="restore environment and data as they were, or declare a child run from the checkpoint",
                )
            return
        data = leaf.encode()
        try:
            if os.pwrite(self._file, data, leaf.step * LEAF_BYTES) < LEAF_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:
            raise Unavailable(f"cannot append to {self.directory / LEAVES}: {e.strerror}", hint=GOES_ON) from e
        self._recorded, self._last = leaf.step, leaf
        self._frontier = self._frontier.append(leaf_hash(data))

    def _leaf(self, step: int) -> Leaf:
        return decode_leaf(os.pread(self._file, LEAF_BYTES, step * LEAF_BYTES))

    def _head(self, status: Literal["opened", "running", "stopped", "ended"]) -> Head | None:
        if self._on_head is None or self._last is None:
            return None
        return Head(
            run=self._run,
            steps=self._recorded,
            root=self._frontier.root().hex(),
            state=self._last.state.hex(),
            flop=str(self._last.flop),
            status=status,
        )

    def _submit(self, it: Image | None, head: Head | None) -> None:
        # One checkpoint is in flight at most: a slow disk or log slows training down instead of filling the memory.
        if self._writing is not None:
            self._writing.result()
        self._held = it.held if it else self._held
        self._writing = self._writer.submit(self._write, it, head)

    def _write(self, it: Image | None, head: Head | None) -> None:
        try:
            os.fsync(self._file)
        except OSError as e:
            raise Unavailable(f"cannot write {self.directory / LEAVES}: {e.strerror}", hint=GOES_ON) from e
        if it is not None:
            write(self.directory, it)
        if head is not None and self._on_head is not None:
            self._on_head(head)


def read_leaves(directory: Path, last: int | None = None) -> tuple[Leaf, ...]:
    """All leaves recorded under `directory`, in order; or those up to `last`, whatever a crash left torn behind it.

    Raises:
        Unavailable: no leaves there. Malformed: torn, damaged or out of order.
    """
    try:
        with (directory / LEAVES).open("rb") as f:
            data = f.read(-1 if last is None else (last + 1) * LEAF_BYTES)
    except OSError as e:
        raise Unavailable(f"cannot read {directory / LEAVES}: {e}") from e
    leaves = tuple(decode_leaf(data[i : i + LEAF_BYTES]) for i in range(0, len(data), LEAF_BYTES))
    if any(leaf.step != i for i, leaf in enumerate(leaves)):
        raise Malformed(f"{LEAVES} is out of order")
    return leaves


def jointly(leaf: Leaf) -> Leaf:
    """The run's leaf, of this rank's: of all states and batches, and the mean loss."""
    if ranks.count() == 1:
        return leaf
    said = ranks.meet(leaf.state + leaf.batch + struct.pack(">d", leaf.loss))
    losses = [struct.unpack(">d", one[64:])[0] for one in said]
    return replace(
        leaf,
        state=ranks.joint([one[:32] for one in said]),
        batch=ranks.joint([one[32:64] for one in said]),
        loss=sum(losses) / len(losses),
    )


def _recover(file: int, checkpoint: int) -> list[Leaf]:
    """The leaves in `file`, after cutting off a tail that a crash left torn or blank behind `checkpoint`."""
    data = os.pread(file, os.fstat(file).st_size, 0)
    leaves: list[Leaf] = []
    try:
        for i in range(0, len(data), LEAF_BYTES):
            leaf = decode_leaf(data[i : i + LEAF_BYTES])
            if leaf.step != len(leaves):
                raise Malformed(f"leaf {len(leaves)} says it is of step {leaf.step}")
            leaves.append(leaf)
    except Malformed as e:
        # Leaves up to a checkpoint were flushed before it: damage there is no torn tail.
        if len(leaves) <= checkpoint:
            raise Malformed(f"{LEAVES} is damaged at step {len(leaves)}: {e}") from e
        os.ftruncate(file, len(leaves) * LEAF_BYTES)
    if len(leaves) <= checkpoint:
        raise Malformed(f"{LEAVES} ends at step {len(leaves) - 1}, before the checkpoint of step {checkpoint}")
    return leaves
