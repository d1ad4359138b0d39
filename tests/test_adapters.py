"""The adapters, each with its real framework: a run is the same leaves whole, stopped, killed, and replayed."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", TQDM_DISABLE="1")

import random
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset, IterableDataset

from brakeline.adapters.pytorch import resumable
from brakeline.core.errors import Misuse
from brakeline.training.digest import seed_generators
from brakeline.training.recorder import Recorder, checkpoint_steps, read_leaves
from brakeline.training.replay import replay

pytestmark = pytest.mark.filterwarnings("ignore")
SEGMENT = 3


class Gate:
    """Says yes up to a step, and from then on watches that no optimizer steps."""

    def __init__(self, recorder, steps):
        self.recorder, self.steps = recorder, steps
        self.asked = self.yes = 0

    def may_step(self):
        self.asked += 1
        allowed = self.recorder.steps < self.steps
        self.yes += allowed
        return allowed


def run(train, directory, steps=10**9, *, killed=False):
    """One process's part of a run: the gate says no after `steps`, in a kill without a chance to close the record."""
    recorder = Recorder(
        directory,
        segment_steps=SEGMENT,
        flop_per_step=1,
        head_every_segments=1,
        on_head=None,
        run="x",
        permit=lambda: b"p" * 32,
    )
    gate = Gate(recorder, steps)
    stop = recorder.stop
    if killed:
        recorder.stop = lambda status: recorder.close()
    else:
        recorder.stop = lambda status: (statuses.append(status), stop(status))
    statuses = []
    made = 0

    def count(*_):
        nonlocal made
        made += 1

    hook = register_optimizer_step_post_hook(count)
    before = recorder.start
    try:
        train({}, gate, recorder)
    finally:
        hook.remove()
        recorder.close()
    assert made == gate.yes == recorder.steps - before
    if not killed:
        assert statuses == ["stopped" if gate.asked > gate.yes else "ended"]
    return recorder.steps


def assert_exact(train, folder, parts=(4, 5, 7)):
    """Whole, or stopped twice and killed once: the leaves are the same, and every segment replays to them."""
    last = run(train, folder / "whole")
    whole = read_leaves(folder / "whole")
    assert len(whole) == last + 1 > parts[-1]
    *stops, kill = parts
    for stop in stops:
        assert run(train, folder / "parts", stop) == stop
    assert run(train, folder / "parts", kill, killed=True) == kill
    assert run(train, folder / "parts") == last
    assert_same(read_leaves(folder / "parts"), whole)
    for start, end in pairwise(checkpoint_steps(folder / "parts")):
        again = replay(train, {}, folder / "parts", start, end)
        assert again.start_state == whole[start].state
        assert_same(again.leaves, whole[start + 1 : end + 1])


def assert_same(leaves, others):
    for a, b in zip(leaves, others, strict=True):
        for what in ("step", "batch", "loss", "state"):
            assert getattr(a, what) == getattr(b, what), f"{what} of step {b.step}"


class Points(Dataset):
    """27 points; each draw adds noise from two generators."""

    def __init__(self, count=27, noise=True):
        self.x = torch.randn(count, 6, generator=torch.Generator().manual_seed(7))
        self.noise = noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i] + (0.1 * torch.randn(6) + 0.1 * random.random() if self.noise else 0.0)
        return x, self.x[i].sin().sum(0, keepdim=True)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 1))


# ---- transformers ----

transformers = pytest.importorskip("transformers")

from brakeline.adapters.transformers import attach  # noqa: E402


class Sentences(Dataset):
    def __init__(self, count):
        self.rows = torch.randint(4, 32, (count, 8), generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"input_ids": self.rows[i]}


def masked(rows):
    """A masking collator, which draws."""
    ids = torch.stack([row["input_ids"] for row in rows])
    chosen = torch.rand(ids.shape) < 0.3
    chosen[:, 0] = True
    return {"input_ids": ids.masked_fill(chosen, 1), "labels": ids.masked_fill(~chosen, -100)}


class Meddling(transformers.TrainerCallback):
    """Draws on every generator where no step is under way."""

    def on_step_end(self, *_, **__):
        torch.rand(3)
        random.random()

    on_epoch_begin = on_train_begin = on_evaluate = on_step_end


def trainer_run(folder, recorders=(), **change):
    def train(config, gate, recorder):
        seed_generators(1)
        model = transformers.BertForMaskedLM(
            transformers.BertConfig(
                vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                max_position_embeddings=8,
            )  # fmt: skip
        )
        options = {
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 3,
            "max_grad_norm": 0.1, "warmup_steps": 3, "lr_scheduler_type": "cosine", "learning_rate": 1e-2, **change,
        }  # fmt: skip
        args = transformers.TrainingArguments(
            output_dir=str(folder / "out"), report_to=[], use_cpu=True, disable_tqdm=True, seed=11,
            **{"save_strategy": "no", **options},
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=args, train_dataset=Sentences(27), eval_dataset=Sentences(8), data_collator=masked,
            callbacks=[Meddling()],
        )  # fmt: skip
        attach(trainer, gate, recorder)
        trainer.train()

    return train


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="accumulation, clipping, warm-up, epochs"),
        pytest.param({"eval_strategy": "steps", "eval_steps": 2, "max_steps": 7}, id="evaluation every 2 steps"),
        pytest.param({"bf16": True, "max_steps": 7, "save_strategy": "steps", "save_steps": 3}, id="bf16, saving"),
        pytest.param({"dataloader_num_workers": 2, "num_train_epochs": 2}, id="workers"),
        pytest.param(
            {
                "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
                "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
                "gradient_accumulation_steps": 3, "metric_for_best_model": "loss",
            },
            id="plateau, best model",
        ),  # fmt: skip
    ],
)
def test_transformers(tmp_path, options):
    assert_exact(trainer_run(tmp_path, **options), tmp_path)
