"""A session: one run of one lab, from its declaration to its last head, through every stop in between."""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from brakeline.core.encoding import canonical
from brakeline.core.errors import Unavailable
from brakeline.core.fold import RunRecord
from brakeline.core.run import Declaration
from brakeline.core.transcript import Head
from brakeline.node.desk import Lab
from brakeline.node.permits import LiveGate
from brakeline.training.environment import digest, profile
from brakeline.training.gatehook import RankGate
from brakeline.training.recipe import Recipe
from brakeline.training.recorder import Recorder

PERMITS: Final = "permits.jsonl"
RECIPE: Final = "recipe"
STOPS: Final = "stops.jsonl"  # when and why, by the local clock; for reports, never evidence


class _PatientGate:
    """The gate that `train` sees. The first step after opening waits for a permit; later ones never wait."""

    def __init__(self, gate: LiveGate, say: Callable[[str], None]) -> None:
        self._gate = gate
        self._say = say
        self._fresh = True
        self.refused_at = 0.0  # wall clock, and those of the last steps allowed: for reports only
        self.steps_at: deque[float] = deque(maxlen=64)

    def may_step(self) -> bool:
        if self._fresh:
            self._fresh = False
            self._gate.wait_open(self._say)
        allowed = self._gate.may_step()
        if allowed:
            self.steps_at.append(time.time())
        else:
            self.refused_at = time.time()
        return allowed


class Session:
    """Declares a run, trains it through the gate, records it, and goes on after every stop until it has ended."""

    def __init__(self, lab: Lab, recipe: Recipe) -> None:
        self._lab = lab
        self._recipe = recipe
        self._environment = digest(profile())  # before the recipe's code may change it, as the inspector's is taken
        self.code = recipe.load()
        self.evidence = lab.home.path / "runs" / recipe.name

    def train(self) -> Head:
        """Train to the end, pausing whenever the brake, a lapsed permit or a lost log demands it.

        Returns the last head. Raises:
            Refused(BARRED): a finding against the run was upheld. Others as recorder, outbox and log raise them.
        """
        run = self._lab.declared(self._recipe.name, self._recipe.digest, self._declaration)
        while True:
            record = self._lab.clear(run)
            if record.last and record.last.status == "ended":
                return record.last
            self._once(record)

    def _declaration(self) -> Declaration:
        config = self._recipe.full_config(bytes(32))
        self._recipe.deposit(self.evidence / RECIPE)
        return Declaration(
            name=self._recipe.name,
            rung="re-executable",
            recipe=self._recipe.digest,
            dataset=self.code.dataset_root(config),
            environment=self._environment,
            steps=self._recipe.steps,
            segment_steps=self._lab.treaty.segment_steps,
            flop_per_step=str(self.code.flop_per_step(config)),
            parents=self._recipe.parents,
            purpose=self._recipe.purpose,
        )

    def _keep_permit(self, data: bytes) -> None:
        # An honest run without its permits would look like a cheat: a torn last line must not spoil the next.
        with (self.evidence / PERMITS).open("a+b") as f:
            end = f.seek(0, os.SEEK_END)
            f.seek(max(0, end - 1))
            f.write((b"" if f.read() in (b"", b"\n") else b"\n") + data + b"\n")
            f.flush()
            os.fsync(f.fileno())

    def _once(self, run: RunRecord) -> None:
        assert run.seed is not None
        gate = LiveGate(self._lab.follower, run.id, steps=lambda: recorder.steps, on_permit=self._keep_permit)
        recorder = Recorder(
            self.evidence,
            segment_steps=run.declaration.segment_steps,
            flop_per_step=run.declaration.step_flop,
            head_every_segments=self._lab.treaty.head_every,
            on_head=self._lab.commit,
            run=run.id,
            permit=lambda: gate.permit,
        )
        with gate:
            patient = _PatientGate(gate, self._lab.say)
            try:
                self.code.train(self._recipe.full_config(run.seed), RankGate(patient), recorder)
            finally:
                recorder.close()
            if patient.refused_at:
                self._stopped(recorder.steps, gate, patient)

    def _stopped(self, step: int, gate: LiveGate, patient: _PatientGate) -> None:
        reason = gate.decision.reason or "permit lapsed"
        times = {"brake_seen": gate.halted_at, "refused": patient.refused_at, "durable": time.time()}
        event = {"step": step, "reason": reason, **times, "steps": list(patient.steps_at)}
        with (self.evidence / STOPS).open("ab") as f:
            f.write(canonical(event) + b"\n")
        self._lab.say(f"stopped at step {step}: {reason}")


def evidence_permits(folder: Path) -> tuple[bytes, ...]:
    """The permits kept in an evidence folder; a torn last line is dropped. None kept, none returned."""
    try:
        data = (folder / PERMITS).read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as e:
        raise Unavailable(f"cannot read {folder / PERMITS}: {e.strerror}") from e
    return tuple(line for line in data.split(b"\n")[:-1] if line)
