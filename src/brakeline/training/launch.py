"""The ranks of a run: rank 0 speaks for it, the others train when it says so and let it go on alone in all else."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import torch.distributed as dist

from brakeline.core.errors import Misuse
from brakeline.core.gate import NO_PERMIT
from brakeline.training import ranks
from brakeline.training.gatehook import RankGate
from brakeline.training.recipe import RECIPE, deposited, own_code
from brakeline.training.recorder import Origin, Recorder
from brakeline.training.replay import begin

_STORE: Final = "BRAKELINE_RANKS"  # the file by which the ranks that rank 0 has started find it
_ERRORS: Final = range(2, 6)  # exit status of what a rank says itself; docs/operator.md
_UNAVAILABLE: Final = 5
_INTERRUPTED: Final = 130
_MOMENT: Final = 5.0  # s; a process that has PyTorch takes more than one to end on a busy machine
_LONG: Final = 10.0  # s


class Stretch(NamedTuple):
    """What rank 0 tells the others before all of them train, up to the next stop."""

    seed: bytes
    segment_steps: int
    head_every_segments: int
    flop_per_step: int
    origin: Origin | None


@contextmanager
def placed(count: int, declared: int) -> Iterator[int]:
    """This process as one of `count` ranks of a recipe that has `declared` ones, by the environment: that of torchrun,
    or of `placed` in rank 0, which starts the others on this machine. Yields the rank.

    Raises:
        Misuse: torchrun started another number.
    """
    if count == declared == 1:
        yield 0
    elif store := os.environ.get(_STORE):
        threading.Thread(target=_end_with_rank_0, args=(Path(store).parent,), daemon=True).start()
        with ranks.joined(int(os.environ["RANK"]), count, Path(store)), _patiently():
            yield int(os.environ["RANK"])
            signal.pause()  # until rank 0 ends this process: one that ends by itself has failed
    elif "RANK" in os.environ:
        if int(os.environ["WORLD_SIZE"]) != count:
            text = f"asked for are {count} ranks, started were {os.environ['WORLD_SIZE']}"
            hint = "torchrun --nproc-per-node; --ranks where a run goes on with others than its recipe says"
            raise Misuse(text, hint=hint)
        dist.init_process_group(ranks.backend())
        try:
            yield dist.get_rank()
        finally:
            dist.destroy_process_group()
    else:
        with tempfile.TemporaryDirectory(prefix="brakeline-ranks-") as folder, _others(count, Path(folder) / "store"):
            yield 0


@contextmanager
def _others(count: int, store: Path) -> Iterator[None]:
    started = []
    for rank in range(1, count):
        environment = {**os.environ, "RANK": str(rank), _STORE: str(store)}
        command = [sys.executable, *sys.orig_argv[1:]]
        # In a group of its own: Ctrl-C is for rank 0, which ends the others.
        started.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, process_group=0
            )
        )
    over = threading.Event()
    for rank, process in enumerate(started, 1):
        threading.Thread(target=_watch, args=(rank, process, over, store.parent), daemon=True).start()
    try:
        with _interruptible(over, store.parent), ranks.joined(0, count, store), _patiently():
            yield
    finally:
        over.set()
        for process in started:
            process.kill()
            process.wait()


def _watch(rank: int, process: "subprocess.Popen[bytes]", over: threading.Event, folder: Path) -> None:
    status = process.wait()
    if not over.is_set():
        # Rank 0 may wait for it in a collective, where no exception reaches it. The others end with rank 0.
        print(f"error: rank {rank} ended with status {status}, and the run with it", file=sys.stderr)
        print("hint: the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(status if status in _ERRORS else _UNAVAILABLE)


def _end_with_rank_0(folder: Path) -> None:
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # which nobody removes who was killed
    os._exit(1)


@contextmanager
def _interruptible(over: threading.Event, folder: Path) -> Iterator[None]:
    """Ctrl-C ends this process even where it waits in a collective for a rank that does not answer."""
    heard, said = os.pipe()
    os.set_blocking(said, False)
    before = signal.set_wakeup_fd(said)

    def listen() -> None:
        while number := os.read(heard, 1):
            if number[0] == signal.SIGINT and not over.wait(_LONG):
                print("interrupted, while a rank did not answer", file=sys.stderr, flush=True)
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(_INTERRUPTED)
        os.close(heard)

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(said)


@contextmanager
def _patiently() -> Iterator[None]:
    """What fails because another rank has ended is no news: `_watch` ends this process first, with its words."""
    try:
        yield
    except Exception:
        time.sleep(_MOMENT)
        raise


class _Willing:
    """The gate of a rank that lets rank 0 decide."""

    def may_step(self) -> bool:
        return True


def attend(evidence: Path, source: Path) -> None:
    """Train as one of the other ranks, whenever rank 0 does, until it is done; `source` is the recipe's entry as its
    author knows it. Raises as the recorder and `own_code`."""
    while stretch := ranks.tell(None):
        recipe = deposited(evidence / RECIPE)
        recorder = Recorder(
            evidence,
            segment_steps=stretch.segment_steps,
            flop_per_step=stretch.flop_per_step,
            head_every_segments=stretch.head_every_segments,
            on_head=None,
            run="",
            permit=lambda: NO_PERMIT,
            origin=stretch.origin,
        )
        try:
            with own_code(source, recipe.source.parent):
                begin(recipe.load().train, recipe.full_config(stretch.seed), RankGate(_Willing()), recorder)
        finally:
            recorder.close()
