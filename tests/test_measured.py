"""What an inspector measures instead of believing it, with real cells."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.finding import Audit, Fault
from brakeline.training.cell import Cell
from brakeline.training.measured import Counts, counted
from brakeline.training.recipe import Recipe
from brakeline.training.rehearsal import rehearse

STEPS = 8
RECIPE = """
import hashlib
import torch
from torch import nn
from torch.nn import functional as F

{BEFORE}

def train(config, gate, recorder):
    torch.manual_seed(int(config["seed"], 16) % 2**63)
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8))
    {BUILD}
    optimizer = torch.optim.AdamW(model.parameters())
    step = recorder.open(model=model, optimizer=optimizer)
    while step < config["steps"] and gate.may_step():
        generator = torch.Generator().manual_seed(step)
        x = torch.randint(-8, 9, (16, 32), generator=generator) / 8
        loss = model(x).square().mean()
        {LOSS}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        {AFTER}
        recorder.step(loss=loss, batch=x)
        step += 1
    recorder.stop("ended" if step == config["steps"] else "stopped")


def dataset_root(config):
    return hashlib.sha256(b"numbers").hexdigest()


def flop_per_step(config):
    return {FLOP}
"""
HONEST = 6 * 16 * (32 * 64 + 64 * 8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def written(folder: Path, flop: int, **pieces: str) -> Path:
    text = RECIPE
    for name in ("BEFORE", "BUILD", "LOSS", "AFTER"):
        text = text.replace(f"{{{name}}}", pieces.get(name, "pass"))
    source = folder / "loop.py"
    source.write_text(text.replace("{FLOP}", str(flop)))
    return source


def audited(folder: Path, flop: int = HONEST, **pieces: str) -> Audit:
    source = written(folder, flop, **pieces)
    run = bench.Run("run", STEPS, folder, source, kind="own")
    run.session()
    assert run.status == "ended"
    return run.audit("beta", cell=Cell)


def said(audit: Audit) -> set[tuple[Fault, str]]:
    return {(f.fault, f.severity) for f in audit.findings}


def test_an_honest_recipe_is_measured_and_nothing_is_said(tmp_path: Path) -> None:
    audit = audited(tmp_path)
    assert audit.findings == ()
    assert audit.verdict == "pass"


@pytest.mark.parametrize(("share", "severity"), [(1, ""), (1 / 3, "gap"), (1 / 40, "violation")])
def test_compute_that_is_not_declared_is_counted(share: float, severity: str, tmp_path: Path) -> None:
    # One FLOP a step was believed.
    audit = audited(tmp_path, flop=int(HONEST * share))
    assert said(audit) == ({(Fault.RECIPE_MISMATCH, severity)} if severity else set())
    assert audit.verdict == {"": "pass", "gap": "inconclusive", "violation": "fail"}[severity]


def test_steps_that_are_not_recorded_are_noticed(tmp_path: Path) -> None:
    # Attack A-09.
    more = "model(x + 1).square().mean().backward(); optimizer.step()"
    audit = audited(tmp_path, flop=2 * HONEST, AFTER=more)
    assert said(audit) == {(Fault.RECIPE_MISMATCH, "notice")}
    assert "steps 2 times for each recorded step" in audit.findings[0].detail


def test_a_second_model_beside_the_recorded_one_is_noticed(tmp_path: Path) -> None:
    used = "loss = loss + 0 * hidden(torch.zeros(100)).sum()"
    audit = audited(tmp_path, BUILD="hidden = nn.Linear(100, 100)", LOSS=used)
    assert said(audit) == {(Fault.RECIPE_MISMATCH, "notice")}
    assert f"{4 * (100 * 100 + 100)} bytes of parameters" in audit.findings[0].detail


def test_weights_that_do_not_depend_on_the_seed_need_a_parent(tmp_path: Path) -> None:
    # Attacks: what was trained before lies in the code.
    stolen = "with torch.no_grad(): model[0].weight.copy_(torch.linspace(-1, 1, 2048).sin().view(64, 32))"
    audit = audited(tmp_path, BUILD=stolen)
    assert said(audit) == {(Fault.INITIAL_STATE, "gap")}
    assert "whatever the seed, " in audit.findings[0].detail
    assert audit.verdict == "inconclusive"


def test_a_rehearsal_says_so_before_anybody_declares_it(tmp_path: Path) -> None:
    stolen = "with torch.no_grad(): model[0].weight.copy_(torch.linspace(-1, 1, 2048).sin().view(64, 32))"
    source = written(tmp_path, 1, BUILD=stolen)
    found = rehearse(Recipe("run", source, 40, {"kind": "own"}), threads=1)
    assert found.causes == ()
    flop, start = found.notes
    assert flop.startswith("flop_per_step() says 1, of which ")
    assert "starts the same whatever the seed" in start
    assert rehearse(Recipe("run", written(tmp_path, HONEST), 40, {"kind": "own"}), threads=1).notes == ()


def test_counting_changes_no_bit() -> None:
    def made(count: bool) -> tuple[torch.Tensor, Counts | None]:
        torch.manual_seed(1)
        model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        counts = None
        if count:
            with counted() as counts:
                model(torch.ones(2, 3, 8, 8)).square().sum().backward()
                optimizer.step()
        else:
            model(torch.ones(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()
        return model[0].weight, counts

    (plain, _), (beside, counts) = made(False), made(True)
    assert torch.equal(plain, beside)
    assert counts is not None
    assert counts.measured(1, 0).optimizer_steps == 1
    assert counts.flop > 6 * 2 * 144 * 2
