"""Runs experiments in parallel, each in a sandboxed process, on this machine or on a Ray cluster."""

import importlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from brakeline.core.encoding import canonical
from brakeline.core.errors import Unavailable
from brakeline.gauges.research.child import read_frame, write_frame
from brakeline.gauges.research.language import MODEL
from brakeline.gauges.research.methods import Method, Seen

CPU_SECONDS: Final = 120  # an experiment takes one to five
MEMORY: Final = 4 << 30  # bytes of address space
_PASSED_ON: Final = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")
_PYTHON: Final = (sys.executable, "-P", "-m")
_SCRATCH: Final = "/dev/shm"  # in the sandbox an empty folder in memory, whatever it is here
_LABELS: Final = (("sklearn", "datasets/data"), (MODEL, "."))  # package, and in it what tells the labels
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Outcome(NamedTuple):
    """`answers` [seeds, items], or None with the reason in `error`. `cpu`: processor seconds of the experiment.
    `exposed`: why the sandbox does not stand on the machine that ran it, or ""."""

    answers: NDArray[np.int16] | None
    error: str
    cpu: float
    exposed: str


class Run(Protocol):
    """Runs methods on the same `seen`, one for each seed. The outcomes stand in the order of the methods."""

    def __call__(self, methods: Sequence[Method], seen: Sequence[Seen]) -> Iterator[Outcome]: ...


class Child:
    """This side of a `child` process. It is started when first needed, and again after one that died.

    The process does not see the folders `hidden`, nor those that `sandboxed` hides from every experiment.
    """

    def __init__(self, hidden: Sequence[Path], cpu_seconds: int = CPU_SECONDS, memory: int = MEMORY) -> None:
        self._hidden, self._limits = hidden, (cpu_seconds, memory)
        self._process: subprocess.Popen[bytes] | None = None
        self._exposed = ""

    def run(self, method: bytes, arrays: bytes) -> Outcome:
        """Raises:
        Unavailable: the process cannot be started, or ends without a word.
        """
        try:
            process = self._process = self._process or self._start()
            assert process.stdin
            assert process.stdout
            # Processor time ends a method that computes; one that sleeps, which no method does, ends here.
            timer = threading.Timer(20 * self._limits[0], process.terminate)
            timer.start()
            try:
                write_frame(process.stdin, method)
                write_frame(process.stdin, arrays)
                used, said = read_frame(process.stdout), read_frame(process.stdout)
            finally:
                timer.cancel()
        except OSError as e:
            raise Unavailable(f"cannot run an experiment: {e}") from e
        if used is None or said is None:
            self.close()
            raise Unavailable("the process for experiments ended", hint="see that memory is not exhausted")
        if said[:1] == b"A":
            return Outcome(np.load(io.BytesIO(said[1:]), allow_pickle=False), "", float(used), self._exposed)
        why = said[1:].decode("utf-8", "replace") or "killed: over its limit"
        return Outcome(None, why, float(used), self._exposed)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {k: os.environ[k] for k in _PASSED_ON if k in os.environ} | dict.fromkeys(_ONE_THREAD, "1")
        command = sandboxed([*_PYTHON, "brakeline.gauges.research.child", *map(str, self._limits)], self._hidden)
        process = self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout
        exposed = read_frame(process.stdout)
        if exposed is None:
            self.close()
            raise Unavailable("the process for experiments does not start")
        self._exposed = exposed.decode("utf-8", "replace")
        return process

    def close(self) -> None:
        if self._process:
            self._process.terminate()  # the sandbox kills what is in it; a thread that waits gets the stream's end
            self._process.wait()
            self._process = None


def sandboxed(command: Sequence[str], hidden: Sequence[Path]) -> list[str]:
    """`command` in the sandbox of `brakeline.node.sandbox`, which appends to it what of that failed, or "".

    It sees no network, no other process, no temporary folder, no home, none of `hidden`, and none of the installed
    files from which labels could be looked up.
    """
    away = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path.home(), *hidden]
    for package, folder in _LABELS:
        spec = importlib.util.find_spec(package)
        away += [Path(place) / folder for place in (spec and spec.submodule_search_locations) or ()]
    hide = [word for path in away for word in ("--hide", str(path.absolute()))]
    return [*_PYTHON, "brakeline.node.sandbox", _SCRATCH, *hide, "--", *command]


@contextmanager
def local(workers: int, hidden: Sequence[Path] = ()) -> Iterator[Run]:
    """`workers` processes on this machine, which do not see the folders `hidden`."""
    children = [Child(hidden) for _ in range(workers)]
    free: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        free.put(child)

    def one(method: Method, arrays: bytes) -> Outcome:
        child = free.get()
        try:
            return child.run(canonical(method), arrays)
        finally:
            free.put(child)

    threads = ThreadPoolExecutor(workers)

    def run(methods: Sequence[Method], seen: Sequence[Seen]) -> Iterator[Outcome]:
        arrays = pack(seen)
        return threads.map(lambda method: one(method, arrays), methods)

    try:
        yield run
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.close()
        threads.shutdown()


@contextmanager
def on_ray(workers: int, hidden: Sequence[Path] = ()) -> Iterator[Run]:
    """`workers` actors on the Ray cluster that RAY_ADDRESS names, or else on one that is started here and ended after.
    Their experiments do not see the folders `hidden`.

    Raises:
        Unavailable: Ray is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as e:
        raise Unavailable("needs the package ray", hint='pip install "brakeline[cluster]"') from e
    joined = ray.is_initialized()
    if not joined:
        own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", **({} if os.environ.get("RAY_ADDRESS") else own))
    try:
        actor, away = ray.remote(num_cpus=1)(Child), [path.absolute() for path in hidden]
        pool = importlib.import_module("ray.util").ActorPool([actor.remote(away) for _ in range(workers)])

        def run(methods: Sequence[Method], seen: Sequence[Seen]) -> Iterator[Outcome]:
            arrays = ray.put(pack(seen))
            jobs = [canonical(method) for method in methods]
            found: Iterator[Outcome] = pool.map(lambda child, job: child.run.remote(job, arrays), jobs)
            return found

        yield run
    finally:
        if not joined:
            ray.shutdown()


def pack(seen: Sequence[Seen]) -> bytes:
    """The arrays that travel to an experiment, as `.npz`: nothing of a problem but what `Seen` holds."""
    out = io.BytesIO()
    np.savez(out, **{f"{field}{i}": getattr(one, field) for i, one in enumerate(seen) for field in Seen._fields})
    return out.getvalue()
