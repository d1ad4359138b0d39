"""A cell: the lab's code in a process that knows neither the inspector's key nor the answers it is to give.

The inspector starts one cell an audit, in a sandbox without network and evidence. The cell gets the recipe and, for
each segment, the one checkpoint the segment starts from. It says what it is before any of the lab's code is loaded,
and an answer is in before the next checkpoint is handed over; so in ascending order no checkpoint gives an answer away.

What crosses: canonical JSON, a line each way, and two files without a name that both sides hold open, one for the
state a segment starts from, one for the state it ends in. Whatever comes back is the lab's word: the inspector
recomputes the digest of the last state from the state itself, and the judge compares the rest.

What this cannot do: see through a recipe that stores later answers in its own state. Its source is declared and shown.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, TypeVar

import torch

from brakeline.core.encoding import Wire, canonical, parse, unhex32
from brakeline.core.errors import Malformed, Unavailable
from brakeline.core.transcript import decode_leaf
from brakeline.node.home import PASSPHRASE
from brakeline.training.cellranks import Answer, Ranks, Task, answer_of
from brakeline.training.digest import Snapshot, Tree
from brakeline.training.environment import digest, profile
from brakeline.training.ranks import Together, whole
from brakeline.training.recipe import Code, Recipe, deposited
from brakeline.training.replay import Rerun, rerun

T = TypeVar("T")

_WORDS: Final = 300  # characters kept of what the lab's code says
_PRINTED_MOST: Final = 1 << 24  # bytes a cell may print
_LINE: Final = 4096
_LEAF_LINE: Final = 300  # bytes of a leaf in an answer, about
_PATIENCE: Final = 5.0  # seconds a cell gets to die


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
    """The lab's code did not do its work here: a gap in the audit, and nobody's guilt."""


class Cell:
    """The inspector's end of a cell. `digest` is the recipe's as declared; `hidden` are folders that the lab's code
    must not see; `distributions` are those that the run's profile names.

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
    ) -> None:
        self.recipe = recipe
        self._digest = digest
        self._hidden = hidden
        self._distributions = distributions
        self._threads = threads or torch.get_num_threads()
        self._stack = ExitStack()
        self._unread = b""
        self._printed = b""
        self._printed_in_all = 0
        self._over = ""

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
        sandbox = ("brakeline.node.sandbox", scratch, *self._hidden, "--")
        cell = ("brakeline.training.cell", self._threads, *numbers, ",".join(self._distributions))
        python = (sys.executable, "-P", "-m")
        # All else is passed on, since it may decide the bits of a step; what opens the inspector's key is not.
        environment = {k: v for k, v in os.environ.items() if k != PASSPHRASE} | {"TMPDIR": str(scratch)}
        self._process = subprocess.Popen(
            [str(word) for word in (*python, *sandbox, *python, *cell)],
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
            raise Failed(facts.error)
        return facts

    def run(self, seed: bytes, start: int, steps: int, before: Snapshot | Together, ranks: int = 1) -> Rerun:
        """Make `steps` steps from `start`, with so many `ranks`; the state `before`, perhaps of another number, is
        handed over unless the recipe begins there.

        Raises:
            Failed: as it says. Unavailable: the inspector's disk.
        """
        try:
            # Saved anew from the values that have a digest: nothing else in the lab's file crosses.
            _save(self._before, before.copy() if start else {})
            _save(self._after, {})
        except (OSError, RuntimeError) as e:  # torch reports a full disk as RuntimeError
            raise Unavailable(f"cannot hand over the checkpoint of step {start}: {e}") from e
        self._send(canonical(Task(seed=seed.hex(), start=start, steps=steps, ranks=ranks)))
        answer = self._receive(Answer, _LINE + steps * _LEAF_LINE)
        if answer.error:
            raise Failed(answer.error)
        try:
            leaves = tuple(decode_leaf(bytes.fromhex(leaf)) for leaf in answer.leaves)
            start_state = unhex32(answer.start_state)
            end = _load(self._after) if leaves else None
        except Exception as e:  # what hostile bytes raise, nobody promises
            raise Failed(f"the answer cannot be read: {type(e).__name__}") from e
        if [leaf.step for leaf in leaves] != list(range(start + 1, start + 1 + len(leaves))) or len(leaves) > steps:
            raise Failed("the answer is about other steps")
        if end is not None and len(leaves) == steps and end.digest() != leaves[-1].state:
            raise Failed("the state handed over is not the one reported")
        return Rerun(start_state, leaves, end if len(leaves) == steps else None)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        if self._over:
            raise Failed(self._over)
        try:
            self._process.stdin.write(line + b"\n")
        except OSError as e:
            raise self._failed(self._lastdescribe()) from e

    def _receive(self, kind: type[T], most: int) -> T:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            # Not until the end of the stream alone: a process left behind may hold it open.
            ready, _, _ = select.select([self._process.stdout], [], [], 0.2)
            if self._printed_in_all > _PRINTED_MOST:
                raise self._failed("the process printed without end")
            if not ready and self._exit_status() is None:
                continue
            data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            self._unread += data
            if not data:
                raise self._failed(self._lastdescribe())
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

    def _failed(self, text: str) -> Failed:
        self._over = text
        return Failed(text)

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

    def _lastdescribe(self) -> str:
        status = self._wait()
        self._listener.join(0.5)
        words = self._printed.decode("utf-8", "replace").strip()[-_WORDS:]
        ended = "closed its answers" if status is None else f"ended with status {status}"
        return f"the process {ended}: {words}" if words else f"the process {ended}"

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


def _save(file: IO[bytes], tree: Tree) -> None:
    file.seek(0)
    file.truncate()
    torch.save(tree, file)
    file.flush()


def _load(file: IO[bytes]) -> Snapshot | Together:
    file.seek(0)
    return whole(torch.load(file, map_location="cpu", weights_only=True))


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
        config = recipe.full_config(bytes(32))
        dataset, flop = str(code.dataset_root(config)), str(int(code.flop_per_step(config)))
        say(Facts(dataset=_clean(dataset), flop_per_step=flop, error=""))
    except BaseException as e:  # sys.exit() too
        say(Facts(dataset="", flop_per_step="", error=describe("the recipe cannot be loaded", e)))
        return
    files = os.fdopen(int(before), "rb"), os.fdopen(int(after), "wb")
    with closing(Ranks()) as ranks:
        for line in requests:
            say(_answer(recipe, code, ranks, parse(line[:-1], Task), *files))


def _answer(recipe: Recipe, code: Code, ranks: Ranks, task: Task, before: IO[bytes], after: IO[bytes]) -> Answer:
    try:
        opened = _load(before) if task.start else None
        if recipe.ranks > 1 or task.ranks > 1:
            made, end = ranks.make(task, opened.tree if opened else {})
            if end is not None:
                _save(after, end)
            return made
        done = rerun(code.train, recipe.full_config(bytes.fromhex(task.seed)), opened, task.start, task.steps)
        if done.end is not None:
            _save(after, done.end.tree)
        return answer_of(done)
    except BaseException as e:
        return Answer(start_state="", leaves=(), error=describe("train() failed in replay", e))


def describe(what: str, e: BaseException) -> str:
    """`what` failed with `e`, whose words are the lab's, and may be none."""
    try:
        text = f": {e}"
    except BaseException:
        text = ""
    return _clean(f"{what}: {type(e).__name__}{text}")


def _clean(text: str) -> str:
    """What canonical JSON can hold: the lab's code chooses the words of its errors, lone surrogates among them."""
    return text[:_WORDS].encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    main(*sys.argv[1:])
