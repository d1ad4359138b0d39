"""A cell: the lab's code in a process that knows neither the inspector's key nor the answers it is to give.

The inspector starts one cell an audit, in a sandbox without network and evidence. The cell gets the recipe and, for
each segment, the one checkpoint the segment starts from. It says what it is before any of the lab's code is loaded,
and an answer is in before the next checkpoint is handed over; so in ascending order no checkpoint gives an answer away.

What crosses: canonical JSON, a line each way, and two files without a name that both sides hold open, one for the
state a segment starts from, one for the state it ends in, both as checkpoints are. Whatever comes back is the lab's
word: the inspector recomputes the digest of the last state from the state itself, and the judge compares the rest. What
the lab's code says of itself, the words of its errors say, is for the inspector's eyes: none of it goes into a log.

What this cannot do: see through a recipe that stores later answers in its own state. Its source is declared and shown.
"""

import gc
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self, TypeVar

import torch

from brakeline.core.encoding import Wire, canonical, parse, unhex32
from brakeline.core.errors import Malformed, Unavailable
from brakeline.core.transcript import decode_leaf
from brakeline.training.cellranks import Answer, Ranks, Task, answer_of
from brakeline.training.checkpoint import pack, unpack
from brakeline.training.digest import Snapshot, Stateful, capture
from brakeline.training.environment import VARIABLES, digest, profile
from brakeline.training.measured import Measured, counted
from brakeline.training.ranks import Together, whole
from brakeline.training.recipe import Code, Recipe, deposited
from brakeline.training.replay import Config, Rerun, rerun
from brakeline.training.watch import Limits, Watch, of_this_machine

T = TypeVar("T")

_COUNT: Final = re.compile("[0-9]{1,30}")
_HEX: Final = re.compile("[0-9a-f]{64}")
_WORDS: Final = 300  # characters kept of what the lab's code says
_PRINTED_MOST: Final = 1 << 24  # bytes a cell may print
_LINE: Final = 4096
_LEAF_LINE: Final = 300  # bytes of a leaf in an answer, about
_PATIENCE: Final = 5.0  # seconds a cell gets to die
# What a cell is told of the inspector's environment: what decides the bits of a step, and what Python needs to start.
PASSED: Final = frozenset(
    {
        *VARIABLES,
        *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "CUDA_VISIBLE_DEVICES"),
        *(f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "GOTO", "NUMEXPR", "BLIS")),
        *("OMP_WAIT_POLICY", "GLOO_SOCKET_IFNAME"),
    }
)


class Hello(Wire, frozen=True):
    """The first word, before the lab's code is loaded: profile digest, and what of the sandbox failed, or ""."""

    environment: str
    exposed: str


class Facts(Wire, frozen=True):
    """What the recipe says about itself. `error` is empty, or why it does not."""

    dataset: str
    flop_per_step: str
    error: str


class Failed(Exception):
    """The lab's code did not do its work here: a gap in the audit, and nobody's guilt. `words` are the lab's."""

    def __init__(self, text: str, words: str = "") -> None:
        super().__init__(text)
        self.words = words

    def __str__(self) -> str:
        return f"{super().__str__()}: {self.words}" if self.words else super().__str__()

    @property
    def plain(self) -> str:
        """What may be said of it in public."""
        return super().__str__()


class Cell:
    """The inspector's end of a cell. `digest` is the recipe's as declared; `hidden` are folders that the lab's code
    must not see; `distributions` are those that the run's profile names; `variables` make another environment of the
    inspector's. Of the disk it sees the system, Python and
    what is `shown`, the data set say; where that is None, and the code is one's own, all of it.

    Raises, on entering:
        Unavailable: the inspector's machine cannot start one, or the recipe shown changes while it is read.
    """

    def __init__(
        self,
        recipe: Recipe,
        digest: str,
        hidden: Sequence[Path],
        distributions: Sequence[str] = (),
        threads: int | None = None,
        *,
        shown: Sequence[Path] | None = None,
        limits: Limits | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.recipe = recipe
        self._variables = variables
        self._shown = shown
        self._limits = limits or of_this_machine()
        self._digest = digest
        self._hidden = hidden
        self._distributions = distributions
        self._threads = threads or torch.get_num_threads()
        self._stack = ExitStack()
        self._unread = b""
        self._printed = b""
        self._printed_in_all = 0
        self._over = self._last_words = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as e:
            self._stack.close()
            if isinstance(e, OSError | Failed | Malformed):
                raise Unavailable(f"cannot start a process for the lab's code: {e}") from e
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="brakeline-cell-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        scratch = folder / ".tmp"  # no name that a file of a recipe may have
        scratch.mkdir()
        if self.recipe.deposit(folder).digest != self._digest:
            raise Unavailable("the recipe shown changes while it is read")
        files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._before, self._after = (self._stack.enter_context(file) for file in files)
        numbers = [file.fileno() for file in files]
        show = () if self._shown is None else ("--only", *_each("--show", self._shown))
        walls = ("--bytes", self._limits.state, *_each("--hide", self._hidden), *show, "--")
        cell = ("brakeline.training.cell", self._threads, *numbers, ",".join(self._distributions))
        python = (sys.executable, "-P", "-m")
        known = {name: value for name, value in os.environ.items() if name in PASSED}
        if "PYTHONPATH" in known:  # the cell stands in another folder
            known["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, known["PYTHONPATH"].split(os.pathsep)))
        environment = {**known, **self._variables, "TMPDIR": str(scratch), "HOME": str(scratch)}
        self._process = subprocess.Popen(
            [str(word) for word in (*python, "brakeline.node.sandbox", scratch, *walls, *python, *cell)],
            cwd=folder,
            env=environment,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=numbers,
        )
        self._stack.callback(self._kill)
        self._watch = Watch(self._process.pid, self._limits)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="brakeline-cell")
        self._listener.start()
        hello = self._receive(Hello, _LINE)
        self.environment = hello.environment
        self.exposed = hello.exposed

    def facts(self) -> Facts:
        """Load the recipe. Raises Failed."""
        self._send(b"")
        facts = self._receive(Facts, _LINE)
        if facts.error:
            raise Failed("the recipe cannot be loaded", facts.error)
        if not _HEX.fullmatch(facts.dataset):
            raise Failed("the recipe's dataset_root() gives no digest", facts.dataset)
        return facts

    def run(
        self,
        seed: bytes,
        start: int,
        steps: int,
        before: Snapshot | Together | None,
        ranks: int = 1,
        noise: tuple[int, int] | None = None,
    ) -> Rerun:
        """Make `steps` steps from `start`, with so many `ranks`, from the state `before`, perhaps of another number, or
        from what the recipe builds where it is None. `noise` is its seed and scale (`noise.Noise`).

        Raises:
            Failed: as it says. Unavailable: the inspector's disk.
        """
        given = before is not None
        task = Task(seed=seed.hex(), start=start, steps=steps, ranks=ranks, given=given, noise=noise)
        self._hand_over(task, before)
        answer = self._receive(Answer, _LINE + steps * _LEAF_LINE)
        if answer.error:
            raise Failed("train() failed in replay", answer.error)
        try:
            leaves = tuple(decode_leaf(bytes.fromhex(leaf)) for leaf in answer.leaves)
            start_state = unhex32(answer.start_state)
            end = whole(unpack(_path(self._after), self._limits.state).tree) if len(leaves) == steps else None
        except (Exception, MemoryError) as e:  # what hostile bytes raise, nobody promises
            raise Failed("the answer cannot be read", describe(e)) from e
        if [leaf.step for leaf in leaves] != list(range(start + 1, start + 1 + len(leaves))) or len(leaves) > steps:
            raise Failed("the answer is about other steps")
        if end is not None and end.digest() != (leaves[-1].state if leaves else start_state):
            raise Failed("the state handed over is not the one reported")
        return Rerun(start_state, leaves, end)

    def measure(self, seed: bytes, start: int, steps: int, before: Snapshot | Together | None) -> Measured:
        """What `steps` steps from `start` take, of a recipe that one process trains. Raises as `run`."""
        given = before is not None
        task = Task(seed=seed.hex(), start=start, steps=steps, ranks=1, given=given, noise=None, measured=True)
        self._hand_over(task, before)
        answer = self._receive(Answer, _LINE)
        if answer.error or answer.measured is None or not _COUNT.fullmatch(answer.measured.flop):
            raise Failed("what a step takes cannot be measured", answer.error)
        return answer.measured

    def _hand_over(self, task: Task, before: Snapshot | Together | None) -> None:
        try:
            # Saved anew from the values that have a digest: nothing else in the lab's file crosses.
            pack(self._before, before.copy() if before else {})
            self._after.truncate(0)
        except OSError as e:
            raise Unavailable(f"cannot hand over the checkpoint of step {task.start}: {e}") from e
        self._send(canonical(task))

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        if self._over:
            raise Failed(self._over, self._last_words)
        try:
            self._process.stdin.write(line + b"\n")
        except OSError as e:
            raise self._ended() from e
        self._watch.begin()

    def _receive(self, kind: type[T], most: int) -> T:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            # Not until the end of the stream alone: a process left behind may hold it open.
            ready, _, _ = select.select([self._process.stdout], [], [], 0.2)
            if self._printed_in_all > _PRINTED_MOST:
                raise self._failed("the process printed without end")
            if what := self._watch.exceeded():
                self.interrupt()
                raise self._failed(f"the process was ended: {what}")
            if not ready and self._exit_status() is None:
                continue
            data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            self._unread += data
            if not data:
                raise self._ended()
            if len(self._unread) > most:
                raise self._failed("the answer is too long")
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return parse(line, kind)
        except Malformed as e:
            raise self._failed("the answer cannot be read") from e

    def interrupt(self) -> None:
        """From another thread: let whoever waits for this cell find that it has ended."""
        with suppress(ProcessLookupError, AttributeError):
            os.kill(self._process.pid, signal.SIGTERM)

    def _failed(self, text: str, words: str = "") -> Failed:
        self._over, self._last_words = text, words
        return Failed(text, words)

    def _listen(self) -> None:
        """Keep the end of what the cell prints; one that prints without end is not listened to for ever."""
        assert self._process.stderr is not None
        while data := os.read(self._process.stderr.fileno(), 1 << 16):
            self._printed = (self._printed + data)[-4 * _WORDS :]
            self._printed_in_all += len(data)
            if self._printed_in_all > _PRINTED_MOST:
                return

    def _exit_status(self) -> int | None:
        """None while it runs. It is not reaped: its number stays its own until all of its session are killed."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return None if found is None else found.si_status

    def _wait(self) -> int | None:
        deadline = time.monotonic() + _PATIENCE
        while (status := self._exit_status()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return status

    def _ended(self) -> Failed:
        status = self._wait()
        self._listener.join(0.5)
        words = self._printed.decode("utf-8", "replace").strip()[-_WORDS:]
        ended = "closed its answers" if status is None else f"ended with status {status}"
        return self._failed(f"the process {ended}", words)

    def _kill(self) -> None:
        """End the cell and what it left behind."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)  # the sandbox kills what is in it, whatever session that is in
            self._wait()
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(0.5)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def _path(file: IO[bytes]) -> Path:
    """A file that has no name, by one."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def _each(option: str, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(word for path in paths for word in (option, str(path.absolute())))


# --- the other end


def main(threads: str, before: str, after: str, distributions: str, exposed: str) -> None:
    """Answer on the standard output what is asked on the standard input; the lab's code gets neither."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    torch.set_num_threads(int(threads))

    def say(message: Wire) -> None:
        answers.write(canonical(message) + b"\n")
        answers.flush()

    say(Hello(environment=digest(profile(distributions.split(","))), exposed=_clean(exposed)))
    requests.readline()
    recipe = deposited(Path.cwd())
    try:
        code = recipe.load()
        say(facts_of(recipe, code))
    except BaseException as e:  # sys.exit() too
        say(Facts(dataset="", flop_per_step="", error=describe(e)))
        return
    files = os.fdopen(int(before), "rb"), os.fdopen(int(after), "wb")
    with closing(Ranks()) as ranks:
        for line in requests:
            say(_answer(recipe, code, ranks, parse(line[:-1], Task), *files))


def facts_of(recipe: Recipe, code: Code) -> Facts:
    """What the code says about itself. Raises what it raises."""
    config = recipe.full_config(bytes(32))
    dataset, flop = str(code.dataset_root(config)), str(int(code.flop_per_step(config)))
    return Facts(dataset=_clean(dataset), flop_per_step=flop, error="")


def _answer(recipe: Recipe, code: Code, ranks: Ranks, task: Task, before: IO[bytes], after: IO[bytes]) -> Answer:
    try:
        opened = whole(unpack(_path(before), sys.maxsize).tree) if task.given else None
        if recipe.ranks > 1 or task.ranks > 1:
            made, end = ranks.make(task, opened.tree if opened else {})
            if end is not None:
                pack(after, end)
            return made
        config = recipe.full_config(bytes.fromhex(task.seed))
        if task.measured:
            return measure(code, config, opened, task)
        done = rerun(code.train, config, opened, task.start, task.steps, task.noise)
        if done.end is not None:
            pack(after, done.end.tree)
        return answer_of(done)
    except BaseException as e:
        return Answer(start_state="", leaves=(), error=describe(e))


def measure(code: Code, config: Config, opened: Snapshot | Together | None, task: Task) -> Answer:
    """Make the steps of a task, and count what they take; nothing else is said of them."""
    beside = 0

    def look(objects: Mapping[str, Stateful]) -> None:
        nonlocal beside
        recorded = {part.source.data_ptr() for part in capture(objects).parts}
        modules = [it for it in gc.get_objects() if isinstance(it, torch.nn.Module)]
        parameters = {it.data_ptr(): it.nbytes for module in modules for it in module.parameters(recurse=False)}
        beside = sum(size for place, size in parameters.items() if place not in recorded)

    gc.collect()  # what earlier segments left
    with counted() as counts:
        rerun(code.train, config, opened, task.start, task.steps, look=look)
    said = counts.measured(task.steps, beside)
    return Answer(start_state="", leaves=(), error="", measured=said)


def describe(e: BaseException) -> str:
    """An error of the lab's code, whose words are the lab's, and may be none."""
    try:
        text = f": {e}"
    except BaseException:
        text = ""
    return _clean(f"{type(e).__name__}{text}")


def _clean(text: str) -> str:
    """What canonical JSON can hold: the lab's code chooses the words of its errors, lone surrogates among them."""
    return text[:_WORDS].encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
