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
from brakeline.training.components import components
from brakeline.training.digest import seed_generators
from brakeline.training.recorder import Recorder, checkpoint_steps, load_checkpoint, read_leaves
from brakeline.training.replay import replay

pytestmark = pytest.mark.filterwarnings("ignore")
SEGMENT = 3


class Gate:
    """Says yes up to a step, and keeps for each step of an optimizer which yes it was made on."""

    def __init__(self, recorder, steps):
        self.recorder, self.steps = recorder, steps
        self.yes, self.no = 0, 0
        self.made = []

    def may_step(self):
        assert not self.no
        allowed = self.recorder.steps < self.steps
        self.yes += allowed
        self.no += not allowed
        return allowed

    def optimizer_stepped(self, *_):
        assert not self.no
        self.made.append(self.yes)


def run(train, directory, steps=10**9, *, killed=False):
    """One process's part of a run: the gate says no after `steps`. If `killed`, the record is not closed."""
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
    statuses = []
    stop = (lambda status: recorder.close()) if killed else recorder.stop
    recorder.stop = lambda status: (statuses.append(status), stop(status))
    before = recorder.start
    hook = register_optimizer_step_post_hook(gate.optimizer_stepped)
    try:
        train({}, gate, recorder)
    finally:
        hook.remove()
        recorder.close()
        del recorder.stop  # which refers to itself, and would keep the workers of a loader
    assert sorted(set(gate.made)) == list(range(1, recorder.steps - before + 1))
    assert gate.yes == recorder.steps - before
    assert len(gate.made) == gate.yes or train.optimizers > 1
    assert statuses == ["stopped" if gate.no else "ended"]
    return recorder.steps


def assert_exact(train, folder, parts=(4, 5, 7)):
    """Whole, or stopped twice and killed once: the leaves are the same, and every segment replays to them."""
    last = run(train, folder / "whole")
    whole = read_leaves(folder / "whole")
    assert len(whole) == last + 1 > parts[-1]
    weights = load_checkpoint(folder / "whole", last).tree["model"]["state"]
    assert all(weight.any() for weight in weights.values() if weight.dim() > 1)  # else put in after the last step
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


def refused(train, folder, text):
    with pytest.raises(Misuse, match=text) as caught:
        run(train, folder / "refused")
    assert caught.value.hint


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

    def on_train_end(self, *_, model, **__):
        torch.nn.init.zeros_(next(model.parameters()))


def trainer_run(folder, call=(), **change):
    def train(config, gate, recorder):
        seed_generators(1)
        shape = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        shape |= {"intermediate_size": 8, "max_position_embeddings": 8}
        model = transformers.BertForMaskedLM(transformers.BertConfig(**shape))
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
        trainer.train(**dict(call))

    return train


BY_METRIC = {
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
    "metric_for_best_model": "loss",
    "load_best_model_at_end": True,
    "greater_is_better": True,  # so that the best is not the last
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 0.3,
    "save_steps": 0.3,
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="accumulation, clipping, warm-up, epochs"),
        pytest.param({"eval_strategy": "steps", "eval_steps": 2, "max_steps": 8}, id="evaluation every 2 steps"),
        pytest.param({"bf16": True, "max_steps": 8, "save_strategy": "steps", "save_steps": 3}, id="bf16, saving"),
        pytest.param({"dataloader_num_workers": 2, "num_train_epochs": 2}, id="workers"),
        pytest.param({**BY_METRIC, "gradient_accumulation_steps": 3}, id="by metric, best model"),
    ],
)
def test_transformers(tmp_path, options):
    assert_exact(trainer_run(tmp_path, **options), tmp_path)


@pytest.mark.parametrize(
    ("options", "call", "text"),
    [
        ({}, {"resume_from_checkpoint": True}, "resumes where its record ends"),
        ({"ignore_data_skip": True}, {}, "begins anew"),
        ({"auto_find_batch_size": True}, {}, "found by trial"),
    ],
)
def test_transformers_refuses_what_it_cannot_repeat(tmp_path, options, call, text):
    refused(trainer_run(tmp_path, call, **options), tmp_path, text)


# ---- Lightning ----

lightning = pytest.importorskip("lightning")

from brakeline.adapters.lightning import Brakeline  # noqa: E402


class Module(lightning.LightningModule):
    """Schedules by step, by epoch and by a metric, and a validation that draws. Its losses tell the counters."""

    def __init__(self, schedule="step"):
        super().__init__()
        self.network = network()
        self.schedule = schedule
        self.register_buffer("validated", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        assert self.trainer.fit_loop.epoch_loop._batches_that_stepped == self.global_step
        x, y = batch
        counted = self.validated + 10 * batch_idx + 1e3 * self.current_epoch + 1e5 * self.global_step
        return F.mse_loss(self.network(x), y) + counted

    def on_validation_start(self):
        if not self.trainer.sanity_checking:
            self.validated += 1

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val", F.mse_loss(self.network(x + torch.randn_like(x)), y))

    def on_train_start(self):
        torch.rand(3)

    on_train_epoch_end = on_train_start

    def on_train_epoch_start(self):
        torch.rand(3)
        self.optimizers().param_groups[0]["lr"] *= 0.9

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = {
            "step": torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=99),
            "epoch": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            "metric": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0),
        }[self.schedule]
        interval = "step" if self.schedule == "step" else "epoch"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": "val"},
        }


class Averaging(lightning.Callback):
    """Puts other weights in when the training ends."""

    def on_train_end(self, trainer, pl_module):
        torch.nn.init.zeros_(next(pl_module.parameters()))


class Gan(lightning.LightningModule):
    """Two optimizers by hand; the discriminator steps twice as often."""

    def __init__(self, every=1):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(3, 6), network()
        self.every = every

    def training_step(self, batch, batch_idx):
        x, _ = batch
        by_generator, by_discriminator = self.optimizers()
        if batch_idx % self.every:
            return None
        loss = self.discriminator(self.generator(torch.randn(len(x), 3)).detach()).mean() - self.discriminator(x).mean()
        by_discriminator.zero_grad()
        self.manual_backward(loss)
        by_discriminator.step()
        if batch_idx % 2:
            by_generator.zero_grad()
            self.manual_backward(-self.discriminator(self.generator(torch.randn(len(x), 3))).mean())
            by_generator.step()
        return loss

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (self.generator, self.discriminator)]


def fit(folder, module=Module, loader=resumable, workers=0, fit_options=None, **options):
    def train(config, gate, recorder):
        seed_generators(1)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[Averaging(), Brakeline(gate, recorder)], default_root_dir=folder,
            **{"enable_checkpointing": False, **options},
        )  # fmt: skip
        data = DataLoader(Points(), batch_size=4, shuffle=True, num_workers=workers)
        validation = DataLoader(Points(8), batch_size=4) if module is not Gan else None
        trainer.fit(module(), loader(data), validation, **(fit_options or {}))

    return train


ACCUMULATING = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "max_epochs": 3}


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        pytest.param("step", {**ACCUMULATING, "val_check_interval": 3}, id="accumulation, clipping, by step"),
        pytest.param("epoch", {**ACCUMULATING, "enable_checkpointing": True}, id="by epoch, saving"),
        pytest.param("metric", {**ACCUMULATING, "limit_train_batches": 5}, id="by metric, shorter epochs"),
        pytest.param("step", {"max_steps": 16, "val_check_interval": 5, "check_val_every_n_epoch": None}, id="steps"),
        pytest.param("step", {**ACCUMULATING, "precision": "bf16-mixed", "workers": 2}, id="bf16, workers"),
    ],
)
def test_lightning(tmp_path, schedule, options):
    assert_exact(fit(tmp_path, lambda: Module(schedule), **options), tmp_path)


def test_lightning_with_two_optimizers(tmp_path):
    train = fit(tmp_path, Gan, max_epochs=2)
    train.optimizers = 2
    assert_exact(train, tmp_path, parts=(7, 9, 10))


def test_lightning_refuses_what_it_cannot_repeat(tmp_path):
    refused(fit(tmp_path, lambda: Gan(every=2), max_epochs=1), tmp_path, "no optimizer stepped in a batch")
    refused(fit(tmp_path, loader=lambda it: it, max_epochs=1), tmp_path, "does not know where it stands")
    run(fit(tmp_path, max_epochs=1, enable_checkpointing=True), tmp_path / "saved")
    (saved,) = tmp_path.rglob("*.ckpt")
    refused(fit(tmp_path, max_epochs=2, fit_options={"ckpt_path": saved}), tmp_path, "resumes where its record ends")
    refused(fit(tmp_path, max_epochs=1, reload_dataloaders_every_n_epochs=1), tmp_path, "a Resumable")


# ---- accelerate ----

accelerate = pytest.importorskip("accelerate")


def accelerated(config, gate, recorder):
    seed_generators(1)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    loader = DataLoader(Points(), batch_size=4, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    loader = resumable(loader)
    step = recorder.open(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
    batches, losses = [], 0.0
    while step < 12:
        for x, y in loader:
            if not batches and not gate.may_step():
                return recorder.stop("stopped")
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            batches.append((x, y))
            losses += loss.detach()
            if accelerator.sync_gradients:
                step += 1
                recorder.step(loss=losses, batch=batches)
                batches, losses = [], 0.0
        assert not batches  # 7 batches are 4 steps: the accelerator saw the end of the epoch
    return recorder.stop("ended")


def test_accelerate(tmp_path):
    assert_exact(accelerated, tmp_path)


def test_a_prepared_loader_places_its_batches():
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerate.data_loader.prepare_data_loader(
        DataLoader(Points(), batch_size=4), device=torch.device("meta"), put_on_device=True
    )
    assert {x.device.type for x, _ in resumable(prepared)} == {"meta"}
    for loader in (prepared, accelerator.prepare(DataLoader(Points()))):
        with pytest.raises(Misuse, match="does not know where it stands"):
            components({"data": loader})


# ---- torchdata ----

torchdata = pytest.importorskip("torchdata.stateful_dataloader")


class Stream(IterableDataset):
    """A stream that knows where it stands, and draws on a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator()
        self.generator.manual_seed(3)
        self.made = 0

    def __iter__(self):
        while self.made < 27:
            self.made += 1
            x = torch.randn(6, generator=self.generator)
            yield x, x.sin().sum(0, keepdim=True)
        self.made = 0

    def state_dict(self):
        return {"made": self.made, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.made = state["made"]
        self.generator.set_state(state["generator"])


def stateful(*args, **options):
    def train(config, gate, recorder):
        seed_generators(1)
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        made = {name: it() if callable(it) else it for name, it in options.items()}
        loader = torchdata.StatefulDataLoader(args[0](), batch_size=4, **made)
        step = recorder.open(model=model, optimizer=optimizer, data=loader)
        while step < 18:
            for x, y in loader:
                if step == 18 or not gate.may_step():
                    return recorder.stop("ended" if step == 18 else "stopped")
                loss = F.mse_loss(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                recorder.step(loss=loss, batch=(x, y))
        return recorder.stop("ended")

    return train


def seeded():
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Points, {"shuffle": True}),
        (Points, {"shuffle": True, "generator": seeded}),
        (Points, {}),
        (Stream, {}),
        (Stream, {"num_workers": 2, "generator": seeded}),
    ],
)
def test_torchdata(tmp_path, data, options):
    assert_exact(stateful(data, **options), tmp_path, parts=(5, 7, 11))


def test_torchdata_refuses_what_it_cannot_put_back(tmp_path):
    draws = {"sampler": lambda: torch.utils.data.RandomSampler(Points())}
    refused(stateful(Points, **draws), tmp_path, "sampler cannot be put back")
    refused(stateful(Points, num_workers=2), tmp_path, "workers draw")
