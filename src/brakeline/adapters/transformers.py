"""The Trainer of transformers: gated, recorded, and resumed from any step.

    trainer = Trainer(model=model, args=args, train_dataset=data)
    attach(trainer, gate, recorder)
    trainer.train()

The Trainer finds its epoch and its place there from the number of steps done, which it reads in the state file of a
checkpoint; all else such a checkpoint holds comes from the recorder. What goes into a step is a function of the seed
(`data_seed`, or else `seed`), the epoch and the place. Steps are recorded when the next one begins (`adapters.steps`).

Exact are the steps. What callbacks and the Trainer count for themselves begins anew with each process: the patience of
an early stop, the best metric so far, the number of tokens seen.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from brakeline.adapters.pytorch import Order, ordered
from brakeline.adapters.steps import Steps
from brakeline.core.errors import Misuse
from brakeline.training.gatehook import Gate
from brakeline.training.recorder import Recording

# What the Trainer would read from a checkpoint of its own beside the state file.
_RESTORED_BY_THE_RECORDER = (
    *("_load_from_checkpoint", "_load_optimizer_and_scheduler"),
    *("_load_scaler", "_load_rng_state"),
)


def attach(trainer: Trainer, gate: Gate, recorder: Recording) -> None:
    """Let `trainer.train()` ask `gate` before each step, record each with `recorder`, and resume where that stands.

    It returns when the gate says no, or the training is over; then the record is closed.

    Raises:
        Misuse: the trainer is set to train in a way that cannot be repeated exactly.
    """
    args = trainer.args
    if args.world_size > 1:
        raise Misuse("transformers: several processes train one model, of which the recorder sees one")
    if args.auto_find_batch_size:
        hint = "auto_find_batch_size=False, per_device_train_batch_size=..."
        raise Misuse("transformers: a batch size found by trial is not the same everywhere", hint=hint)
    if args.ignore_data_skip:
        raise Misuse("transformers: with ignore_data_skip an epoch begins anew on resuming", hint="leave it out")
    _Attached(trainer, Steps(gate, recorder))


class _Refused(Exception):
    """The gate said no."""


class _Attached(TrainerCallback):
    """Between a trainer, some of whose methods it takes the place of, and the steps."""

    def __init__(self, trainer: Trainer, steps: Steps) -> None:
        self._trainer: Any = trainer
        self._steps = steps
        taken = (self.train, self.get_train_dataloader, self.training_step, self._load_best_model)
        self._of_trainer: dict[str, Any] = {method.__name__: getattr(trainer, method.__name__) for method in taken}
        for method in taken:
            setattr(trainer, method.__name__, method)
        # First of all callbacks: others may change the weights when the training ends.
        trainer.callback_handler.callbacks.insert(0, self)

    # ---- in the trainer's place ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> TrainOutput:
        if resume_from_checkpoint:
            raise Misuse(
                "transformers: a run that is recorded resumes where its record ends, not from a Trainer's checkpoint",
                hint="trainer.train() without resume_from_checkpoint",
            )
        trainer = self._trainer
        train: Callable[..., TrainOutput] = self._of_trainer["train"]
        try:
            if not self._steps.start:
                return train(None, *args, **options)
            for name in _RESTORED_BY_THE_RECORDER:
                setattr(trainer, name, lambda *_, **__: None)
            with tempfile.TemporaryDirectory() as checkpoint:
                parts = [*trainer.callback_handler.callbacks, trainer.control]
                exported: list[Any] = [it for it in parts if isinstance(it, ExportableState)]
                state: Any = TrainerState(
                    global_step=self._steps.start,
                    train_batch_size=trainer._train_batch_size,
                    stateful_callbacks=exported,
                )
                state.compute_steps(trainer.args, trainer.args.max_steps)
                state.save_to_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
                return train(checkpoint, *args, **options)
        except _Refused:
            trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
            trainer.is_in_train = False
            return TrainOutput(trainer.state.global_step, 0.0, {})

    def get_train_dataloader(self) -> DataLoader[Any]:
        args = self._trainer.args
        loader = self._of_trainer["get_train_dataloader"]()
        return ordered(loader, Order(loader, args.seed if args.data_seed is None else args.data_seed))

    def training_step(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        batch = dict(inputs) if isinstance(inputs, Mapping) else inputs
        loss = self._of_trainer["training_step"](model, inputs, *args, **options)
        self._steps.gather(loss, batch)
        return loss

    def _load_best_model(self, *args: Any, **options: Any) -> Any:
        self._end()  # before the weights change
        return self._of_trainer["_load_best_model"](*args, **options)

    # ---- as its callback ----

    def on_train_begin(self, args: TrainingArguments, state: Any, control: TrainerControl, **_: Any) -> None:
        # A state that was read has intervals of its own; where they are shares of all steps, these are known now.
        state.compute_steps(args, state.max_steps)

    def on_step_begin(self, args: TrainingArguments, state: Any, control: TrainerControl, **_: Any) -> None:
        self._open()
        if not self._steps.may_begin():
            raise _Refused

    def on_step_end(self, args: TrainingArguments, state: Any, control: TrainerControl, **_: Any) -> None:
        self._steps.finish()

    def on_train_end(self, args: TrainingArguments, state: Any, control: TrainerControl, **_: Any) -> None:
        self._end()

    def _open(self) -> None:
        if not self._steps.opened:
            trainer = self._trainer
            scaler = getattr(trainer.accelerator, "scaler", None)
            self._steps.open(
                model=trainer.model, optimizer=trainer.optimizer, scheduler=trainer.lr_scheduler, scaler=scaler
            )

    def _end(self) -> None:
        self._open()
        self._steps.stop("ended")
