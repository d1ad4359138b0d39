"""Lightning's Trainer: gated, recorded, and resumed from any step.

    trainer = Trainer(..., callbacks=[Brakeline(gate, recorder)])
    trainer.fit(model, resumable(loader))

The trainer's counters of epochs, batches and optimizer steps are recorded with the place in the data; they are put back
before its first epoch begins. Steps are recorded when the next one begins (`adapters.steps`). With automatic
optimization a step is an optimizer step; with manual optimization it is a batch, in which optimizers step as they like.

Exact are the steps. What callbacks count for themselves, as an early stop its patience, begins anew with each process.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import RestartStage
from lightning.pytorch.utilities.exceptions import _TunerExitException

from brakeline.adapters.pytorch import Resumable
from brakeline.adapters.steps import Steps
from brakeline.core.errors import Misuse
from brakeline.training.gatehook import Gate
from brakeline.training.recorder import Recording


class Brakeline(Callback):
    """Asks `gate` before each step of `trainer.fit()`, records each with `recorder`, and resumes where that stands.

    `fit()` returns when the gate says no, or the training is over; then the record is closed.

    Raises:
        Misuse: the trainer is set to train in a way that cannot be repeated exactly.
    """

    def __init__(self, gate: Gate, recorder: Recording) -> None:
        self._steps = Steps(gate, recorder)
        self._place = _Place()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise Misuse("lightning: several processes train one model, of which the recorder sees one")
        # First of all callbacks: others may change the weights when the training ends.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            raise Misuse(
                "lightning: a run that is recorded resumes where its record ends, not from a checkpoint of Lightning's",
                hint="trainer.fit() without ckpt_path",
            )
        loader = trainer.train_dataloader
        reloaded = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        if reloaded or not isinstance(loader, Resumable):
            raise Misuse(
                f"lightning: a {type(loader).__name__} does not know where it stands, so that a run cannot be resumed",
                hint="one loader for the whole fit: brakeline.adapters.pytorch.resumable(DataLoader(...))",
            )
        self._place.loader = loader
        self._place.note(trainer, 0)
        objects: dict[str, Any] = {f"optimizer_{i}": it for i, it in enumerate(trainer.optimizers)}
        objects |= {f"scheduler_{i}": config.scheduler for i, config in enumerate(trainer.lr_scheduler_configs)}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if self._steps.open(model=pl_module, **objects, scaler=scaler, place=self._place):
            self._place.go(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps.record()  # schedules that wait for a metric of the epoch have had it
        self._place.begin_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._steps.between and not self._steps.may_begin():
            raise _Refused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps.gather((outputs or {}).get("loss", 0.0), batch)
        if trainer.global_step > self._place.state["optimizer_steps"]:
            self._place.note(trainer, batch_idx + 1)
            self._steps.finish()
        elif not pl_module.automatic_optimization:
            raise Misuse(
                "lightning: no optimizer stepped in a batch, so that its gradients would be lost on resuming",
                hint="with manual optimization, step in every batch; or let Lightning accumulate_grad_batches",
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps.stop("ended")


class _Refused(_TunerExitException):
    """The gate said no. Of all that a callback may raise, this alone makes `fit()` clean up and return."""


class _Place:
    """Where a run stands: the trainer's counters and the place in the data, at the end of the last step."""

    def __init__(self) -> None:
        self.loader: Any = None
        self.state: dict[str, int] = {}

    def note(self, trainer: Trainer, batch: int) -> None:
        """A step is done, the last of whose batches was number `batch` of the epoch, counted from 1."""
        self.state = {
            **self.loader.state_dict(),
            "epoch": trainer.current_epoch,
            "batch": batch,
            "batches": trainer.fit_loop.total_batch_idx + 1,
            "optimizer_steps": trainer.global_step,
            "steps": self.state.get("steps", -1) + 1,
        }

    def state_dict(self) -> dict[str, int]:
        return self.state

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.state = state
        self.loader.load_state_dict(state)

    def go(self, trainer: Trainer) -> None:
        """Put the trainer there, before its first epoch begins."""
        if self.state["batch"] >= trainer.num_training_batches:
            self.loader.set_epoch(self.state["epoch"] + 1)
        epoch, batch = self.loader.epoch, self.loader.batch
        loop = trainer.fit_loop.epoch_loop
        epochs = trainer.fit_loop.epoch_progress
        counters = (
            (epochs.total, epoch),
            (epochs.current, epoch),
            (loop.batch_progress.total, self.state["batches"]),
            (loop.batch_progress.current, batch),
            (loop.automatic_optimization.optim_progress.optimizer.step.total, self.state["optimizer_steps"]),
            (loop.manual_optimization.optim_step_progress.total, self.state["optimizer_steps"]),
        )
        for counter, count in counters:
            counter.reset()
            counter.increment_by(count)
        loop._batches_that_stepped = self.state["steps"]
        if batch:  # as after a checkpoint of Lightning's in the middle of an epoch, whose start hooks have run
            epochs.increment_ready()
            epochs.increment_started()
            trainer.fit_loop._restart_stage = RestartStage.RESTARTED_MID_EPOCH
            loop._restarting = True
            loop._batches_that_stepped -= 1  # the loop adds it again

    def begin_epoch(self, epoch: int) -> None:
        if self.loader.epoch != epoch:
            self.loader.set_epoch(epoch)
