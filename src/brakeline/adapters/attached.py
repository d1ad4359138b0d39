"""A job whose code nobody changes, stopped at a step: `brakeline run --attach -- python train.py`.

Where the job trains by transformers' or Lightning's Trainer, SIGTERM lets the step that is under way end, writes the
framework's own checkpoint, and ends the training in order; started again, it goes on from there. Nothing is recorded:
the run is attested. In a loop of another kind SIGTERM does what it does without this.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, Final

VARIABLE: Final = "BRAKELINE_ATTACH"
FOLDER: Final = Path(__file__).parent / "attach"  # what a job's path begins with
_LIGHTNING: Final = "brakeline-stopped.ckpt"
_asked = False


def environment() -> dict[str, str]:
    """What a job's environment needs, to be attached."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {VARIABLE: "1", "PYTHONPATH": os.pathsep.join(paths)}


def install() -> None:
    """Attach to the frameworks as they are imported, in a process that was asked to by its environment."""
    if os.environ.get(VARIABLE):
        sys.meta_path.insert(0, _Finder({"transformers.trainer": _transformers, "lightning.pytorch": _lightning}))


def _heed() -> None:
    """From here on SIGTERM is remembered, and the step ends first."""

    def ask(*_: object) -> None:
        global _asked
        _asked = True

    try:
        signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not the main thread: the framework is not asked to stop, the signal does it
        return


class _Finder(importlib.abc.MetaPathFinder):
    """Calls a function on a module when it has been imported."""

    def __init__(self, attach: dict[str, Callable[[ModuleType], None]]) -> None:
        self._attach = attach

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        attach = self._attach.pop(name, None)
        if attach is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            attach(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def _transformers(module: ModuleType) -> None:
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

    class StopAtStep(TrainerCallback):
        """Saves and stops after the step in which SIGTERM came."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if _asked:
                control.should_save = control.should_training_stop = True

    train = module.Trainer.train

    @wraps(train)
    def attached(self: Any, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        _heed()
        self.add_callback(StopAtStep())
        if resume_from_checkpoint is None and os.path.isdir(self.args.output_dir):
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        return train(self, resume_from_checkpoint, *args, **options)

    module.Trainer.train = attached


def _lightning(module: ModuleType) -> None:
    from lightning.pytorch import Callback

    class StopAtStep(Callback):
        """Saves and stops after the batch in which SIGTERM came."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if _asked:
                trainer.save_checkpoint(Path(trainer.default_root_dir, _LIGHTNING))
                trainer.should_stop = True

    fit = module.Trainer.fit

    @wraps(fit)
    def attached(self: Any, *args: Any, ckpt_path: Any = None, **options: Any) -> None:
        _heed()
        self.callbacks.append(StopAtStep())
        left = Path(self.default_root_dir, _LIGHTNING)
        fit(self, *args, ckpt_path=ckpt_path or (left if left.exists() else None), **options)
        if not _asked:
            left.unlink(missing_ok=True)

    module.Trainer.fit = attached
