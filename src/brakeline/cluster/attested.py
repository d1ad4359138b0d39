"""An attested run: a job that cannot be changed, started only with a permit and stopped when the gate shuts.

Its steps are seconds of running time, its compute the declared rate times those seconds. There is nothing to execute
again, so behind its heads stands the lab's word alone (Treaty 7.8), and its declaration says so.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final, Literal

from brakeline.cluster.supervise import Outcome, run_under
from brakeline.core.encoding import canonical, tagged
from brakeline.core.errors import BrakelineError
from brakeline.core.fold import RunRecord
from brakeline.core.run import Declaration
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.transcript import NONE, Head, Leaf
from brakeline.node.desk import Lab
from brakeline.node.permits import LiveGate

_EMPTY: Final = "0" * 64


def run_attested(
    lab: Lab, name: str, cmd: Sequence[str], *, seconds: int, flop_per_second: int, grace: float
) -> Outcome:
    """Declare, wait for a permit, run `cmd`, and stop it when the brake or a lapse demands it, or its time is up.

    Called again, it goes on with the seconds that are left. Raises as `Lab` and `run_under`.
    """
    recipe = tagged("brakeline/command/v1", canonical(list(cmd))).hex()

    def declaration() -> Declaration:
        return Declaration(
            name=name,
            rung="attested",
            recipe=recipe,
            dataset=_EMPTY,
            environment=_EMPTY,
            steps=seconds,
            segment_steps=lab.treaty.segment_steps,
            flop_per_step=str(flop_per_second),
            parents=(),
            purpose="",
        )

    return _Attended(lab, lab.clear(lab.declared(name, recipe, declaration))).run(cmd, grace)


class _Attended:
    """Counts running seconds as steps, and commits to them."""

    def __init__(self, lab: Lab, run: RunRecord) -> None:
        self._lab = lab
        self._run = run
        self._before = run.last.steps if run.last else 0
        self._started = time.monotonic()
        self._running = False

    @property
    def steps(self) -> int:
        """Whole seconds of running time, over all attempts, at most those declared."""
        here = int(time.monotonic() - self._started) if self._running else 0
        return min(self._before + here, self._run.declaration.steps)

    def run(self, cmd: Sequence[str], grace: float) -> Outcome:
        over = threading.Event()
        self._commit("opened")
        with LiveGate(self._lab.follower, self._run.id, steps=lambda: self.steps) as gate:
            gate.wait_open(self._lab.say)
            committer = threading.Thread(target=self._commit_regularly, args=(over,), daemon=True)
            self._started, self._running = time.monotonic(), True
            committer.start()
            try:
                outcome = run_under(cmd, lambda: gate.may_step() and self._left(), grace=grace)
            finally:
                over.set()
                committer.join()
            reason = gate.decision.reason
        done = self.steps
        self._running, self._before = False, done
        self._commit("stopped" if reason else "ended")
        if reason:
            self._lab.say(f"stopped after {done} s: {reason}")
        return outcome

    def _left(self) -> bool:
        return self.steps < self._run.declaration.steps

    def _commit_regularly(self, over: threading.Event) -> None:
        while not over.wait(max(1.0, self._lab.treaty.permit_lifetime / 4)):
            try:
                self._commit("running")
            except BrakelineError as e:
                self._lab.say(f"a head could not be logged: {e}")

    def _commit(self, status: Literal["opened", "running", "stopped", "ended"]) -> None:
        steps, flop = self.steps, self._run.declaration.step_flop
        leaves = (Leaf(i, NONE, NONE, NONE, 0.0, i * flop) for i in range(steps + 1))
        root = Frontier().extend(leaf_hash(leaf.encode()) for leaf in leaves).root()
        head = Head(
            run=self._run.id,
            steps=steps,
            root=root.hex(),
            state=_EMPTY,
            flop=str(steps * flop),
            status=status,
        )
        self._lab.commit(head)
