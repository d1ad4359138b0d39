"""Experiment trackers: Weights & Biases, MLflow and Trackio see phase, permit, stop and resume as they see the loss.

    def tracker(run):
        import wandb  # here, or it becomes part of the declared environment
        return wandb.init(project="p", id=run, resume="allow")

    def train(config, gate, recorder):
        recorder = follow(gate, recorder, tracker)

`tracker` is called in training alone: an inspector's replay and a rehearsal have a gate that knows nothing, and go
on with their own recorder. A tracker that fails is given up with a warning, and training goes on.

Every field says in its name what stands behind it. `checked`: this process has it from the log, whose signatures it
verified. `attested`: the lab's word. `declared`: the run's declaration.
"""

import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from typing import Any, Final, Literal, Protocol

import torch

from brakeline.core.brake import Phase
from brakeline.core.errors import Misuse
from brakeline.core.gate import NO_PERMIT, Status
from brakeline.training.batch import scalar
from brakeline.training.digest import generators_kept
from brakeline.training.gatehook import Gate
from brakeline.training.ranks import rank
from brakeline.training.recorder import Recording

CHECKED: Final = "brakeline/checked/"
ATTESTED: Final = "brakeline/attested/"
DECLARED: Final = "brakeline/declared/"
PHASES: Final = (Phase.CLEAR, Phase.TRIPPED, Phase.PAUSED, Phase.LIFTING)  # charts show a phase as its place here
RUN_TAG: Final = "brakeline.run"
_LOG: Final = logging.getLogger(__name__)
_End = Literal["stopped", "ended", "failed"]


def follow(gate: Gate, recorder: Recording, begin: Callable[[str], Any], *, every: int = 1) -> Recording:
    """`recorder`, with a tracker that is told of every step, or of each `every`-th.

    `begin` gets the id of Brakeline's run and returns the tracker's: what `wandb.init`, `mlflow_run` or `trackio.init`
    return. It is called once `open()` has resumed, on rank 0.
    """
    known = getattr(gate, "status", None)
    return recorder if known is None or known() is None else _Followed(known, recorder, begin, every)


def mlflow_run(run: str, **how: Any) -> Any:
    """MLflow's run of Brakeline's `run`: the one with this tag in the experiment, or a new one. `how` is for
    `mlflow.start_run`, where it is new."""
    mlflow = import_module("mlflow")
    where = [how["experiment_id"]] if "experiment_id" in how else None
    found = mlflow.search_runs(where, f"tags.`{RUN_TAG}` = '{run}'", max_results=1, output_format="list")
    if not found:
        return mlflow.start_run(**{**how, "tags": {**how.get("tags", {}), RUN_TAG: run}})
    active = mlflow.active_run()
    id_ = found[0].info.run_id
    return active if active and active.info.run_id == id_ else mlflow.start_run(run_id=id_)


class _Tracker(Protocol):
    """One tracker's run."""

    def declare(self, facts: Mapping[str, Any]) -> None: ...

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def say(self, step: int, texts: Mapping[str, str]) -> None: ...

    def finish(self, end: _End) -> None: ...


class _Wandb:
    """A stopped run is finished, and its summary says that it was stopped."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def declare(self, facts: Mapping[str, Any]) -> None:
        self._run.config.update(dict(facts), allow_val_change=True)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def say(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.summary.update(dict(texts))

    def finish(self, end: _End) -> None:
        self._run.finish(exit_code=int(end == "failed"))


class _MLflow:
    """A stopped run is scheduled: its page shows the clock. Killed has the red cross of failed, and is not to go on."""

    _STATUS: Final = {"stopped": "SCHEDULED", "ended": "FINISHED", "failed": "FAILED"}

    def __init__(self, run: Any) -> None:
        self._mlflow = import_module("mlflow")
        self._client = self._mlflow.MlflowClient()
        self._id = run.info.run_id

    def declare(self, facts: Mapping[str, Any]) -> None:
        self._mlflow.log_params(dict(facts), synchronous=True, run_id=self._id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step, synchronous=True, run_id=self._id)

    def say(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._client.set_tag(self._id, name, text)

    def finish(self, end: _End) -> None:
        active = self._mlflow.active_run()
        if active and active.info.run_id == self._id:
            self._mlflow.end_run(self._STATUS[end])
        else:
            self._client.set_terminated(self._id, self._STATUS[end])


class _Trackio:
    """It knows no status of a run: the last row says it."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def declare(self, facts: Mapping[str, Any]) -> None:
        self._run.config.update(facts)  # goes out with the first row

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def say(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.log(dict(texts), step=step)

    def finish(self, end: _End) -> None:
        self._run.finish()


_KINDS: Final[dict[str, Callable[[Any], _Tracker]]] = {"wandb": _Wandb, "mlflow": _MLflow, "trackio": _Trackio}


def _tracker(run: Any) -> _Tracker:
    package = type(run).__module__.partition(".")[0]
    if package not in _KINDS:
        raise Misuse(f"{package}.{type(run).__name__} is no run of {', '.join(_KINDS)}")
    return _KINDS[package](run)


class _Followed:
    """A recorder that tells a tracker what goes through it; `known` is what the gate knows."""

    def __init__(
        self, known: Callable[[], Status], inner: Recording, begin: Callable[[str], Any], every: int
    ) -> None:
        self._known, self._inner, self._begin, self._every = known, inner, begin, every
        self._tracker: _Tracker | None = None
        self._failed: weakref.finalize[..., Any] | None = None
        self._step = 0
        self._told = (0, 0.0)  # the step last told of, and the clock then
        self._more: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def start(self) -> int:
        return self._inner.start

    def aside(self) -> AbstractContextManager[None]:
        return self._inner.aside()

    def open(self, **objects: Any) -> int:
        self._step = self._inner.open(**objects)
        if not rank():
            self._tell(self._start)
        return self._step

    def step(self, *, loss: torch.Tensor | float, batch: Any) -> None:
        self._inner.step(loss=loss, batch=batch)
        self._step += 1
        if self._tracker and self._step % self._every == 0:
            self._tell(lambda: self._log(self._known(), {ATTESTED + "loss": float(scalar(loss))}))

    def stop(self, status: Literal["stopped", "ended"]) -> None:
        known = self._known()  # the stop itself may move the brake
        self._inner.stop(status)
        if self._tracker:
            self._tell(lambda: self._finish(known, status))

    def _start(self) -> None:
        # MLflow's telemetry draws from Python's generator in a thread of its own, where nothing can be set aside.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        known = self._known()
        tracker = self._tracker = _tracker(self._begin(known.run))
        # Whoever lets go of this without stop() has failed: train() raised, or the process ends.
        self._failed = weakref.finalize(self, _fail, tracker)
        tracker.declare(_declared(known))
        tracker.say(self._step, {ATTESTED + "status": "running", CHECKED + "stopped_by": ""})
        # With the first step: W&B takes no row of a step that it has seen before the stop.
        self._more = {ATTESTED + "resumed_from": float(self._step)} if self._step else {}
        self._told = self._step, time.monotonic()

    def _log(self, known: Status, more: Mapping[str, float]) -> None:
        assert self._tracker
        step, then = self._told
        now = time.monotonic()
        if self._step > step:
            more = {**more, ATTESTED + "steps_per_second": (self._step - step) / max(now - then, 1e-9)}
        self._tracker.log(self._step, {**_numbers(known, self._step), **self._more, **more})
        self._told, self._more = (self._step, now), {}

    def _finish(self, known: Status, status: Literal["stopped", "ended"]) -> None:
        assert self._tracker
        why = known.decision.reason if status == "stopped" else ""
        self._log(known, {})
        self._tracker.say(self._step, {ATTESTED + "status": status, CHECKED + "stopped_by": why})
        self._tracker.finish(status)
        self._let_go()

    def _let_go(self) -> None:
        self._tracker = None
        if self._failed:
            self._failed.detach()

    def _tell(self, act: Callable[[], None]) -> None:
        """What a tracker draws, says or breaks is no part of training."""
        try:
            with generators_kept():
                act()
        except Exception as e:
            self._let_go()
            _LOG.warning("training goes on without its tracker: %s: %s", type(e).__name__, e)


def _fail(tracker: _Tracker) -> None:
    with suppress(Exception), generators_kept():
        tracker.say(0, {ATTESTED + "status": "failed"})
        tracker.finish("failed")


def _declared(known: Status) -> dict[str, Any]:
    it = known.declaration
    facts = {"run": known.run, "name": it.name, "rung": it.rung, "recipe": it.recipe, "steps": it.steps}
    return {DECLARED + name: fact for name, fact in (*facts.items(), ("flop_per_step", float(it.step_flop)))}


def _numbers(known: Status, step: int) -> dict[str, float]:
    numbers: dict[str, float] = {
        CHECKED + "phase": PHASES.index(known.phase),
        CHECKED + "may_step": bool(known.decision),
        CHECKED + "permit": known.permit != NO_PERMIT,
        ATTESTED + "step": step,
        ATTESTED + "flop": step * known.declaration.step_flop,
    }
    if known.permit != NO_PERMIT:
        numbers |= {CHECKED + "permit_seconds": known.seconds, CHECKED + "permit_flop": known.flop_limit}
    return {name: float(number) for name, number in numbers.items()}
