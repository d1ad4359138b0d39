"""Jobs that nobody changes, stopped by SIGTERM at a step, and resumed: transformers and Lightning, in processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brakeline.adapters import attached

TRANSFORMERS = """
import sys, time
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments


class Slow(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        print("step", state.global_step, flush=True)
        time.sleep(0.05)


rows = [{"input_ids": (r := torch.randint(0, 64, (8,))), "labels": r} for _ in range(64)]
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=8, n_embd=8, n_layer=1, n_head=1))
args = TrainingArguments(
    output_dir=sys.argv[1], max_steps=60, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
    save_strategy="no", logging_strategy="no",
)
Trainer(model=model, args=args, train_dataset=rows, callbacks=[Slow()]).train()
"""
LIGHTNING = """
import sys, time
import lightning
import torch
from torch.utils.data import DataLoader


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        print("step", self.trainer.global_step, flush=True)
        time.sleep(0.05)
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = lightning.Trainer(
    max_steps=60, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=sys.argv[1],
)
trainer.fit(Net(), DataLoader(torch.randn(64, 4), batch_size=2))
"""


def job(folder: Path, source: str, **environment: str) -> "subprocess.Popen[str]":
    (folder / "train.py").write_text(source)
    env = {**os.environ, "OMP_NUM_THREADS": "1", **attached.environment(), **environment}
    command = [sys.executable, str(folder / "train.py"), str(folder / "out")]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def steps(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("step")]


@pytest.mark.real
@pytest.mark.parametrize("source", [TRANSFORMERS, LIGHTNING], ids=["transformers", "lightning"])
def test_a_job_that_is_stopped_saves_at_a_step_and_goes_on_from_there(tmp_path: Path, source: str) -> None:
    running = job(tmp_path, source)
    assert running.stdout is not None
    said = ""
    while "step 5" not in said:
        said += (line := running.stdout.readline())
        assert line, running.stderr.read() if running.stderr else ""
    running.send_signal(signal.SIGTERM)
    rest, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    stopped = steps(said + rest)[-1]
    assert 5 <= stopped < 59
    again = job(tmp_path, source)
    rest, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert steps(rest) == list(range(stopped + 1, 60))


@pytest.mark.real
def test_another_loop_is_ended_by_the_signal_as_ever(tmp_path: Path) -> None:
    running = job(tmp_path, "import time\nprint('step 0', flush=True)\ntime.sleep(60)\n")
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)
    assert running.returncode == -signal.SIGTERM


@pytest.mark.real
def test_the_environments_own_sitecustomize_runs_too(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('mine')\n")
    path = os.pathsep.join([str(attached.FOLDER), str(tmp_path / "site")])
    said, _ = job(tmp_path, "print('step 0')\n", PYTHONPATH=path).communicate(timeout=20)
    assert said.split() == ["mine", "step", "0"]
