"""An attested run: a job that cannot be changed, started only with a permit and stopped when the gate shuts.

Its steps are seconds of running time, its compute the declared rate times those seconds. There is nothing to execute
again, so behind its heads stands the lab's word alone (Treaty 7.8), and its declaration says so.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

from filelock import FileLock, Timeout

from brakeline.cluster.running import Exited, Outcome, Stopped, Survived, run_under
from brakeline.cluster.supervise import StopReport
from brakeline.core.encoding import canonical, tagged
from brakeline.core.errors import BrakelineError, Misuse
from brakeline.core.run import Declaration, check_declaration
from brakeline.core.state.runs import Run
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.transcript import NONE, Head, Leaf
from brakeline.core.treaty import Treaty
from brakeline.core.words import count
from brakeline.node.desk import Lab
from brakeline.node.disk import disk_errors
from brakeline.node.permits import LiveGate

_EMPTY: Final = "0" * 64


class Spent(NamedTuple):
    """The command was stopped, or not started any more, for the declared time is used up: the run has ended."""

    report: StopReport


def run_attested(
    lab: Lab,
    name: str,
    cmd: Sequence[str],
    *,
    seconds: int,
    flop_per_second: int,
    grace: float,
    chips: int = 1,
    domain: str = "",
    parents: Sequence[str] = (),
    purpose: str = "",
) -> Outcome | Spent:
    """Declare, wait for a permit, run `cmd`, and stop it when the brake or a lapse demands it, or its time is up.

    Called again, it goes on with the seconds that are left, until `cmd` has ended well. `parents` are ids of runs.

    Raises:
        Misuse: there is no such command; the run has ended, or another process supervises it. Others as `Lab` and
            `run_under`.
    """
    _check_command(cmd)
    recipe = tagged("brakeline/command/v1", canonical(list(cmd))).hex()

    def declaration() -> Declaration:
        made = Declaration(
            name=name,
            rung="attested",
            recipe=recipe,
            dataset=_EMPTY,
            environment=_EMPTY,
            steps=seconds,
            segment_steps=lab.treaty.segment_steps,
            flop_per_step=str(flop_per_second),
            parents=tuple(sorted(set(parents))),
            purpose=purpose,
            chips=chips,
            flop_per_second=str(flop_per_second),
            domain=domain,
        )
        check_declaration(made)  # before it is signed: a declaration that is void has spent its number
        return made

    id_ = lab.declared(name, recipe, declaration)
    _check_same(lab.state.run(id_).declaration, declaration())
    with _alone(lab, id_):
        return _Attended(lab, lab.state.run(id_)).run(cmd, grace)


def _check_same(logged: Declaration, now: Declaration) -> None:
    """A declaration cannot be changed: whoever names a run again with other numbers would run under the old ones."""
    names = ("steps", "flop_per_second", "chips", "domain", "parents", "purpose")
    other = [name for name in names if getattr(logged, name) != getattr(now, name)]
    if other:
        was = ", ".join(f"{name} {getattr(logged, name)!r}" for name in other)
        raise Misuse(f"{logged.name} was declared with {was}", hint="say the same, or give the run another name")


def _check_command(cmd: Sequence[str]) -> None:
    """Before anything is declared: a mistyped word would leave a run in the log that nobody can stop."""
    if not cmd or shutil.which(cmd[0]) is None:
        what = repr(cmd[0]) if cmd else "nothing"
        raise Misuse(f"cannot start {what}: no such command", hint="is it installed, and may it be executed?")


@contextmanager
def _alone(lab: Lab, run: str) -> Iterator[None]:
    """Held while a run is supervised: whoever comes second would log that the first one has stopped."""
    path = lab.home.path / "attested" / f"{run}.lock"
    lock = FileLock(path, timeout=0)
    with disk_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as e:
            raise Misuse("another process supervises this run") from e
    try:
        yield
    finally:
        lock.release()


def pace(treaty: Treaty, flop_per_second: int) -> float:
    """Seconds from one head to the next.

    Half of what the treaty's cadence allows (Treaty 7.2), and half of the time that a permit's allowance lasts, which
    counts from the last logged head (Treaty 5.4).
    """
    cadence = treaty.head_every * treaty.segment_steps
    return max(1.0, min(cadence, treaty.permit_allowance // flop_per_second) / 2)


def _report(outcome: Outcome) -> StopReport:
    return outcome.report if isinstance(outcome, Stopped) else outcome.left


class _Attended:
    """Counts running seconds as steps, and commits to them."""

    def __init__(self, lab: Lab, run: Run) -> None:
        self._lab = lab
        self._run = run
        self._before = run.steps
        self._started = time.monotonic()
        self._running = False
        self._tree = Frontier()

    @property
    def steps(self) -> int:
        """Whole seconds of running time, over all attempts, at most those declared."""
        here = int(time.monotonic() - self._started) if self._running else 0
        return min(self._before + here, self._run.declaration.steps)

    def run(self, cmd: Sequence[str], grace: float) -> Outcome | Spent:
        if not self._run.stopped:
            # Whoever supervised it died without a word. That it stands still is logged before anything is waited for:
            # a lift may wait for that (Treaty 8.2), and opening it again waits for the lift.
            self._commit("stopped" if self._left() else "ended")
        if not self._left() or (self._run.head and self._run.head.status == "ended"):
            self._deliver()
            name = self._run.declaration.name
            raise Misuse(f"{name} has ended", hint="a job that runs anew is a new run: give it another name")
        self._run = self._lab.clear(self._run.id)
        self._commit("opened")
        ended, gone = False, True
        try:
            outcome, reason = self._supervise(cmd, grace)
            gone = not _report(outcome).survivors
            # A job that failed may be started again, with the seconds that are left.
            ended = (isinstance(outcome, Exited) and outcome.code == 0) or not self._left()
        except Survived:
            gone = False
            raise
        finally:
            # What is still there does not stand still, whoever waits for that.
            self._commit("running" if not gone else "ended" if ended else "stopped")
            self._deliver()
        if reason and not ended:
            self._lab.tell(f"stopped after {self.steps} s: {reason}")
        self._tell_cut(_report(outcome), grace)
        if isinstance(outcome, Stopped) and not self._left():
            return Spent(outcome.report)
        return outcome

    def _tell_cut(self, report: StopReport, grace: float) -> None:
        """What a person must know before trusting the newest checkpoint, or the machine."""
        if report.killed:
            killed, left = count(report.killed, "process", "processes"), f"longer than --grace ({grace:g} s)"
            self._lab.tell(f"{killed} took {left} to end and got SIGKILL: a checkpoint may be cut short")
        if report.survivors:
            self._lab.tell(f"still running, whatever was tried: pids {', '.join(map(str, report.survivors))}")

    def _deliver(self) -> None:
        """Bring the last head to the log before this process ends."""
        try:
            self._lab.catch_up()
        except BrakelineError as e:
            self._lab.tell(f"the last head waits for the log, and goes with the next command: {e}")

    def _supervise(self, cmd: Sequence[str], grace: float) -> tuple[Outcome, str]:
        """The outcome, and why the gate stopped it, if it did."""
        over = threading.Event()
        committer = threading.Thread(target=self._commit_regularly, args=(over,), daemon=True)
        with LiveGate(self._lab.follower, self._run.id, steps=lambda: self.steps) as gate:
            gate.wait_open(self._lab.tell)
            self._started, self._running = time.monotonic(), True
            committer.start()
            try:
                outcome = run_under(cmd, lambda: gate.may_step() and self._left(), grace=grace)
                return outcome, gate.decision.reason
            finally:
                over.set()
                committer.join()
                self._before, self._running = self.steps, False

    def _left(self) -> bool:
        return self.steps < self._run.declaration.steps

    def _commit_regularly(self, over: threading.Event) -> None:
        every = pace(self._lab.treaty, self._run.declaration.step_flop)
        while not over.wait(every):
            try:
                self._commit("running")
            except BrakelineError as e:
                self._lab.tell(f"a head could not be logged: {e}")

    def _commit(self, status: Literal["opened", "running", "stopped", "ended"]) -> None:
        steps, flop = self.steps, self._run.declaration.step_flop
        # The tree grows with the seconds since the last head; what it was before is not hashed again.
        leaves = (Leaf(i, NONE, NONE, NONE, 0.0, i * flop) for i in range(self._tree.size, steps + 1))
        self._tree = self._tree.extend(leaf_hash(leaf.encode()) for leaf in leaves)
        head = Head(
            run=self._run.id,
            steps=steps,
            root=self._tree.root().hex(),
            state=_EMPTY,
            flop=str(steps * flop),
            status=status,
        )
        self._lab.commit(head)
