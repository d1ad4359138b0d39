"""What an inspector measures beside the replays: real runs, audited through the real cell."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.finding import Audit, Fault
from brakeline.training import weighing
from brakeline.training.audit import Looking, inspect
from brakeline.training.cell import Cell
from brakeline.training.dataset import root_of
from brakeline.training.digest import seed_generators
from brakeline.training.measured import Meter, together, usual
from brakeline.training.recipe import Recipe, read_recipe
from brakeline.training.replay import rerun
from brakeline.training.seeded import Start, seedless
from world import key

STEPS = 24

# An honest run; tests replace parts of it.
CODE = '''
import hashlib

import torch
from torch import nn

from brakeline.training.digest import seed_generators


class Data:
    def __init__(self, seed):
        self.seed, self.step = seed, 0

    def next(self):
        draw = hashlib.sha256(f"{self.seed}{self.step}".encode()).digest()
        g = torch.Generator().manual_seed(int.from_bytes(draw[:7], "big"))
        self.step += 1
        x = torch.randn(8, 16, generator=g)
        return x, x.sum(1, keepdim=True).sin()

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def net(width=32):
    return nn.Sequential(nn.Linear(16, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))


def dataset_root(config):
    return hashlib.sha256(b"sines of sums").hexdigest()


def flop_per_step(config):
    return 6 * sum(p.numel() for p in net().parameters()) * 8


def train(config, gate, recorder):
    seed_generators(int(config["seed"], 16))
    model, data = net(), Data(config["seed"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = recorder.open(model=model, optimizer=optimizer, data=data)
    while step < config["steps"] and gate.may_step():
        x, y = data.next()
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        recorder.step(loss=loss, batch=(x, y))
    recorder.stop("ended" if step == config["steps"] else "stopped")
'''
DECLARED = "    return 6 * sum(p.numel() for p in net().parameters()) * 8\n"
BUILT = '    model, data = net(), Data(config["seed"])\n'
UPDATE = "        optimizer.step()\n"
WORDS = "the data set's digest is what the recipe's code says: it names no files"


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setitem(bench.TREATY, "scope_covered_above", '"1 kFLOP"')


def changed(*pairs: tuple[str, str]) -> str:
    code = CODE
    for before, after in pairs:
        assert code.count(before) == 1
        code = code.replace(before, after)
    return code


def trained(folder: Path, code: str) -> bench.Run:
    (folder / "examples" / "train.py").write_text(code)
    run = bench.Run("run", STEPS, folder)
    run.session()
    assert run.status == "ended"
    return run


def audited(run: bench.Run, cell: type[Cell] = Cell, data: tuple[Path, ...] = ()) -> Audit:
    heads = run.world.heads(run.live)
    how = Looking(run.folder / "memory", cell=cell, data=data, say=print)
    return inspect(run.world.state, run.live.now, heads, run.evidence, "beta", key("beta"), how)


def said(audit: Audit) -> dict[str, str]:
    """The severity of each finding, by its words, without that on the data."""
    return {f.detail: f.severity for f in audit.findings if f.detail != WORDS}


def test_an_honest_run_has_nothing_but_a_word_on_its_data(tmp_path):
    run = trained(tmp_path, CODE)
    audit = audited(run)
    assert [(f.fault, f.severity, f.detail) for f in audit.findings] == [(Fault.NOT_VERIFIED, "notice", WORDS)]
    assert audit.verdict == "pass"
    assert run.world.log("beta", "audit", audit).reason is None
    assert audited(run) == audit, "from memory"


def test_compute_that_was_not_declared_is_a_violation(tmp_path):
    run = trained(tmp_path, changed((DECLARED, "    return 1000\n")))
    audit = audited(run)
    (found,) = [f for f in audit.findings if f.severity == "violation"]
    assert (found.fault, found.segment) == (Fault.RECIPE_MISMATCH, (0, 0))
    assert found.detail.startswith("1000 FLOP a step are declared, ")
    assert run.world.log("beta", "audit", audit).reason is None


def test_steps_that_are_not_recorded_are_counted(tmp_path):
    again = "            (model(data.next()[0]) - 1).square().mean().backward()\n            optimizer.step()\n"
    audit = audited(trained(tmp_path, changed((UPDATE, f"{UPDATE}        for _ in range(9):\n{again}"))))
    found = said(audit)
    assert found["one optimizer stepped 10 times within a recorded step"] == "notice"
    assert [f.fault for f in audit.findings if f.severity == "violation"] == [Fault.RECIPE_MISMATCH]


def test_a_second_model_and_a_second_process_are_noticed(tmp_path):
    other = "    other = net(4)\n    import subprocess; beside = subprocess.Popen(['sleep', '60'])\n"
    found = said(audited(trained(tmp_path, changed((BUILT, BUILT + other)))))
    size = 4 * (16 * 4 + 4 + 4 * 4 + 4 + 4 + 1)
    assert found == {
        f"{size} bytes of parameters are in memory that are not in the recorded state": "notice",
        "processes that ran beside the steps, as those that load data do: 1": "notice",
    }


WARM = """    with torch.no_grad():
        g = torch.Generator().manual_seed(4711)
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.1 NOISE)
"""
SEEDLESS = "the weights it starts from do not depend on the seed, and no parent is declared"


@pytest.mark.parametrize("noise", ["", "+ torch.randn(p.shape) * 0.02"])
def test_weights_from_the_code_are_found_by_a_second_seed(tmp_path, noise):
    run = trained(tmp_path, changed((BUILT, BUILT + WARM.replace("NOISE", noise))))
    audit = audited(run)
    assert said(audit) == {SEEDLESS: "gap"}
    assert audit.verdict == "inconclusive"
    assert run.world.log("beta", "audit", audit).reason is None


@pytest.mark.parametrize(("parents", "found"), [((), {SEEDLESS}), (("ab" * 32,), set())])
def test_a_declared_parent_explains_them(parents, found):
    run = SimpleNamespace(declaration=SimpleNamespace(parents=parents, step_flop=10**9))
    kept = weighing._Kept(measured=(), start=Start(trained=10, seedless=5), failed="")
    assert {f.detail for f in weighing.findings(run, kept)} == found


GAN = (
    (BUILT, BUILT + "    critic = net(8)\n    second = torch.optim.SGD(critic.parameters(), lr=0.01)\n"),
    ("optimizer=optimizer, data", "optimizer=optimizer, critic=critic, second=second, data"),
    (UPDATE, UPDATE + "        second.zero_grad(); critic(x).mean().backward(); second.step()\n"),
)
ACCUMULATED = (
    ("        loss.backward()\n", "        loss.backward()\n        model(data.next()[0]).mean().backward()\n"),
    (DECLARED, "    return 2 * 6 * sum(p.numel() for p in net().parameters()) * 8\n"),
)
CNN = (
    (
        "    return nn.Sequential(nn.Linear(16, width)",
        """    seen = nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    return nn.Sequential(*seen, nn.Linear(16, width)""",
    ),
    (DECLARED, "    return 8 * 3 * 2 * (9 * 4 * 4 + 16 * 32 + 32 * 32 + 32)\n"),
)


@pytest.mark.parametrize("pairs", [GAN, ACCUMULATED, CNN], ids=["two optimizers", "accumulated", "convolutions"])
def test_honest_runs_of_other_kinds_pass(tmp_path, pairs):
    audit = audited(trained(tmp_path, changed(*pairs)))
    assert said(audit) == {}
    assert audit.verdict == "pass"


def test_code_that_fails_only_while_it_is_measured_says_so(tmp_path):
    guard = "        assert torch.utils._python_dispatch._get_current_dispatch_mode() is None\n"
    audit = audited(trained(tmp_path, changed((UPDATE, guard + UPDATE))))
    assert said(audit) == {"not all could be measured: train() failed in replay": "notice"}
    assert audit.verdict == "pass"


# --- how it is measured


def loop(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[..., None]:
    def train(config, gate, recorder):
        recorder.open(model=model, optimizer=optimizer)
        while gate.may_step():
            loss = model(torch.ones(8, 16)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss, batch=0)

    return train


def linear() -> torch.nn.Module:
    seed_generators(1)
    return torch.nn.Linear(16, 4)


def test_the_count_is_that_of_the_products_and_changes_no_bit():
    def made(meter: Meter | None):
        model = linear()
        return rerun(loop(model, torch.optim.AdamW(model.parameters())), {}, None, 0, 3, meter)

    plain, counted = made(None), made(Meter())
    assert plain.leaves == counted.leaves
    assert plain.measured is None
    assert counted.measured.weighed == counted.measured.counted == (str(2 * 2 * 8 * 16 * 4),) * 3
    assert counted.measured.updates == 1
    both = together([counted.measured, counted.measured])
    assert usual(both.weighed) == 2 * usual(counted.measured.weighed)


def test_attention_accuses_nobody():
    def train(config, gate, recorder):
        model = linear()
        recorder.open(model=model)
        x = torch.ones(2, 2, 512, 4)
        loss = torch.nn.functional.scaled_dot_product_attention(x, x, x).mean() + (x @ x.mT).mean()
        recorder.step(loss=loss, batch=0)

    measured = rerun(train, {}, None, 0, 1, Meter()).measured
    assert measured.weighed == ("0",)
    assert usual(measured.counted) > 10**6


@pytest.mark.parametrize(("steps", "most"), [(("1", "9", "8", "7"), 7), (("5",), 5), ((), 0)])
def test_what_is_usual_is_the_lower_median(steps, most):
    assert usual(steps) == most


def test_what_is_no_number_is_refused():
    for word in ("", "-1", "1e9", "\ud800"):
        with pytest.raises(Malformed):
            usual([word])


def tree(*weights: torch.Tensor) -> dict:
    return {"model": {"state": {str(i): w for i, w in enumerate(weights)}, "transient": {}}}


def test_what_somebody_chose_by_hand_is_no_warm_start():
    torch.manual_seed(0)
    normal = lambda: torch.randn(64, 64)  # noqa: E731
    structured = (torch.zeros(64, 64), torch.ones(64), torch.eye(64), torch.eye(64) + 0.01 * normal())
    noisy = (*structured[:3], torch.eye(64) + 0.01 * normal())
    later = tuple(w + 1 for w in structured)
    found = seedless(tree(*structured, normal()), tree(*noisy, normal()), tree(*later, normal()))
    assert found.seedless == found.resting == 0
    assert found.trained == 4 * 64 * 64 + 64
    kept = normal()
    found = seedless(tree(kept, kept), tree(kept, kept), tree(kept, kept + 1))
    assert (found.trained, found.seedless, found.resting) == (64 * 64,) * 3


# --- data


def test_every_byte_of_every_file_and_name_counts(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(bytes(range(256)))
    (folder / "deep" / "b").write_bytes(b"")
    roots = [root_of([folder])]
    for at in range(256):
        data = bytearray(range(256))
        data[at] ^= 1
        (folder / "a").write_bytes(data)
        roots.append(root_of([folder]))
    (folder / "a").write_bytes(bytes(range(256)))
    assert root_of([folder]) == roots[0]
    (folder / "deep" / "b").rename(folder / "deep" / "c")
    roots.append(root_of([folder]))
    (folder / "deep" / "c").unlink()
    roots.append(root_of([folder]))
    roots.append(root_of([folder / "a"]))
    assert len(set(roots)) == len(roots)
    moved = folder.rename(tmp_path / "there")
    moved.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    assert root_of([moved.rename(tmp_path / "elsewhere" / "corpus")]) == roots[-2], "wherever it lies"
    with pytest.raises(Malformed, match="no file"):
        root_of([])
    with pytest.raises(Unavailable, match="there is no"):
        root_of([tmp_path / "nowhere"])
    with pytest.raises(Malformed, match="same last name"):
        root_of([tmp_path / "elsewhere" / "corpus" / "a", tmp_path / "a"])


def test_our_own_code_finds_a_flipped_byte(tmp_path):
    """The recipe says what it likes of its data, and is not asked."""
    data = tmp_path / "corpus"
    data.mkdir()
    (data / "text").write_bytes(b"words" * 1000)
    (tmp_path / "train.py").write_text(CODE)
    (tmp_path / "recipe.toml").write_text(f'name = "run"\nentry = "train.py"\nsteps = {STEPS}\ndata = ["corpus"]\n')
    recipe = read_recipe(tmp_path / "recipe.toml")
    shown = recipe.deposit(tmp_path / "shown")
    assert shown.digest == recipe.digest
    with pytest.raises(Misuse, match="not the code's to say"):
        shown.load().dataset_root({})
    assert recipe.dataset(shown.load()) == root_of([data])

    run = bench.Run("run", STEPS, tmp_path, recipe)
    run.session()
    audit = audited(run, data=(data,))
    assert (audit.findings, audit.verdict) == ((), "pass")
    (data / "text").write_bytes(b"words" * 999 + b"worda")
    for given in ((data,), ()):
        (found,) = audited(run, data=given).findings
        assert (found.fault, found.severity) == (Fault.RECIPE_MISMATCH, "gap")


def test_a_recipe_without_data_keeps_its_digest(tmp_path):
    (tmp_path / "train.py").write_text(CODE)
    recipe = Recipe("run", tmp_path / "train.py", STEPS, {})
    assert b"data" not in recipe._manifest(None)
