"""What the loops of frameworks have in common: a step is gathered from its batches, and recorded when the next is due.

Between one step and the next a framework evaluates, logs and saves. A schedule that waits for a metric moves there, so
the step is recorded after that. Random numbers drawn there are no part of training, and an inspector who starts at the
next step does not draw them: the generators stand at the next step as they stood at the end of this one.
"""

from typing import Any, Literal

import torch

from brakeline.training.digest import Tree, generators, seat_generators
from brakeline.training.gatehook import Gate
from brakeline.training.recorder import Recording


class Steps:
    """The gate and the recorder of one run, for a loop that knows batches.

    Raises, in any method:
        as the recorder.
    """

    def __init__(self, gate: Gate, recorder: Recording) -> None:
        self._gate = gate
        self._recorder = recorder
        self._generators: Tree | None = None  # at the end of the last step; None before the recorder is open
        self._loss: torch.Tensor | float = 0.0
        self._batches: list[Any] = []
        self._finished = False
        self._stopped = False

    @property
    def start(self) -> int:
        """The number of steps done that `open()` will return."""
        return self._recorder.start

    @property
    def opened(self) -> bool:
        return self._generators is not None

    @property
    def between(self) -> bool:
        """Whether no batch was gathered since the last step."""
        return self._finished or not self._batches

    def open(self, **objects: Any) -> int:
        """As `recorder.open()`; what is None is left out."""
        step = self._recorder.open(**{name: it for name, it in objects.items() if it is not None})
        self._generators = generators()
        return step

    def may_begin(self) -> bool:
        """Ask the gate for the next step; if it says no, the run is stopped."""
        self.record()
        seat_generators(self._generators)
        allowed = bool(self._gate.may_step())
        if not allowed:
            self.stop("stopped")
        return allowed

    def gather(self, loss: torch.Tensor | float, batch: Any) -> None:
        """One batch went into the step, with its share of the step's loss."""
        self._loss = self._loss + (loss.detach() if isinstance(loss, torch.Tensor) else loss)
        self._batches.append(batch)

    def finish(self) -> None:
        """The optimizer has stepped."""
        self._finished = True
        self._generators = generators()

    def record(self) -> None:
        """Record the last step, unless that is done."""
        if self._finished:
            seat_generators(self._generators)
            self._recorder.step(loss=self._loss, batch=self._batches)
            self._loss, self._batches, self._finished = 0.0, [], False

    def stop(self, status: Literal["stopped", "ended"]) -> None:
        """Record the last step and close the record, once."""
        if not self._stopped:
            self.record()
            self._stopped = True
            self._recorder.stop(status)
