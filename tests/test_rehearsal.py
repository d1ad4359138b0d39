"""Rehearsals: what cannot be replayed is named, in the words of whoever wrote the loop, before anything is declared."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.training import rehearsal, trail
from brakeline.training.recipe import Recipe, read_recipe
from brakeline.training.rehearsal import Rehearsal, disk, rehearse, rehearsed

# One honest loop; what is tried replaces one of the comments in capitals.
SOURCE = """
import itertools, random
import numpy as np, torch
from torch.utils.data import DataLoader, TensorDataset
from brakeline.adapters.pytorch import resumable

COUNT = itertools.count()


class Data:
    def __init__(self):
        self.at = 0

    def next(self):
        self.at += 1
        return torch.randn(4, 8, generator=torch.Generator().manual_seed(self.at))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Momentum:
    def __init__(self, params):
        self.params = list(params)
        self.sums = [torch.zeros_like(p) for p in self.params]
        self.param_groups = [{"lr": 0.1}]

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def step(self):
        for p, s in zip(self.params, self.sums):
            s.mul_(0.9).add_(p.grad)
            with torch.no_grad():
                p.sub_(self.param_groups[0]["lr"] * s)

    def state_dict(self):
        return {"sums": self.sums, "groups": self.param_groups}

    def load_state_dict(self, state):
        self.sums, self.param_groups = [s.clone() for s in state["sums"]], state["groups"]


class Schedule:
    def __init__(self, optimizer):
        self.optimizer, self.count = optimizer, 0

    def step(self):
        self.count += 1
        self.optimizer.param_groups[0]["lr"] = 0.1 * 0.9**self.count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = torch.nn.Linear(8, 1), 0

    def forward(self, x):
        return self.layer(torch.nn.functional.dropout(x, 0.1))


def dataset_root(config):
    return "da" * 32


def flop_per_step(config):
    return 10**6


def train(config, gate, recorder):
    model = Net()
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), Data()
    scheduler = Schedule(optimizer)
    objects = {"model": model, "optimizer": optimizer, "data": data, "scheduler": scheduler}
    #BUILD
    step = recorder.open(**objects)
    while step < config["steps"] and gate.may_step():
        x = data.next()
        #BEFORE
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        #AFTER
        recorder.step(loss=loss, batch=x)
        #LATE
    recorder.stop("ended" if step == config["steps"] else "stopped")
"""
STEPS = 8


def recipe(folder: Path, source: str = SOURCE, **pieces: str) -> Recipe:
    for place, piece in pieces.items():
        indent = "    " if place == "BUILD" else "        "
        source = source.replace(f"#{place}", f"\n{indent}".join(piece.split("\n")))
    (folder / "loop.py").write_text(source)
    return Recipe("run", folder / "loop.py", STEPS, {})


def found(folder: Path, source: str = SOURCE, **pieces: str) -> Rehearsal:
    return rehearse(recipe(folder, source, **pieces), threads=1)


def why(it: Rehearsal) -> str:
    return "\n".join(f"{cause.text} -> {cause.hint}" for cause in it.causes)


HONEST = {
    "plain": {},
    "an optimizer of one's own": {
        "BUILD": "optimizer = objects['optimizer'] = Momentum(model.parameters())\nscheduler.optimizer = optimizer"
    },
    "a generator of its own": {
        "BUILD": "noise = torch.Generator().manual_seed(3)\nobjects['noise'] = noise",
        "BEFORE": "x = x + torch.randn(x.shape, generator=noise)",
    },
    "generators of NumPy and Python": {
        "BUILD": "one, two = np.random.default_rng(3), random.Random(4)\nobjects.update(one=one, two=two)",
        "BEFORE": "x = x + one.normal() + two.random()",
    },
    "buffers that come and grow": {
        "BUILD": "model.register_buffer('seen', None)\nmodel.register_buffer('past', torch.zeros(0), persistent=False)",
        "BEFORE": "model.seen = x.mean(0) if model.seen is None else model.seen + x.mean(0)\n"
        "model.past = torch.cat([model.past, x.mean()[None]])[-5:]\nx = x + model.seen + model.past.mean()",
    },
    "the global generators, drawn from on the way": {"BEFORE": "x = x + np.random.rand() + random.random()"},
    "samples aside": {"LATE": "with recorder.aside():\n    torch.randn(3)"},
    "draws before the gate is asked": {
        "BUILD": "ask = gate.may_step\ngate = Data()\n"
        "gate.may_step = lambda: [ask() for noise[0] in [torch.randn(4, 8)]][0]\nnoise = [0]",
        "BEFORE": "x = x + noise[0]",
    },
    "epochs of a loader that is resumable": {
        "BUILD": "rows = TensorDataset(torch.randn(20, 8))\n"
        "objects['loader'] = loader = resumable(DataLoader(rows, batch_size=4, shuffle=True))\n"
        "rows = (row for _ in itertools.count() for row in loader)",
        "BEFORE": "x = next(rows)[0]",
    },
    "a generator of its own, drawn from aside": {
        "BUILD": "own = torch.Generator().manual_seed(0)",
        "LATE": "if step % 3 == 0:\n    with recorder.aside():\n        torch.randn(3, generator=own)",
    },
    "a batch of arrays and texts": {"AFTER": "x = {'x': x.numpy(), 'id': 'a', 'n': np.int64(3), 'raw': b'r'}"},
}
HAZARDS = {
    "a generator that is not passed": (
        {
            "BUILD": "noise = torch.Generator().manual_seed(3)",
            "BEFORE": "x = x + torch.randn(x.shape, generator=noise)",
        },
        "`noise`, a random generator, is not in the state -> pass it: recorder.open(..., noise=noise)",
    ),
    "a generator without a seed": (
        {"BUILD": "noise = np.random.default_rng()", "BEFORE": "x = x + noise.normal()"},
        "`noise` is not seeded",
    ),
    "a seed from the clock at each step": (
        {"BEFORE": "import time\nnp.random.seed(time.time_ns() % 2**32)\nx = x + np.random.rand()"},
        "NumPy's generator is seeded within the step",
    ),
    "a batch that is drawn ahead": (
        {
            "LATE": "",
            "BUILD": "open_, ahead = recorder.open, []\n"
            "recorder.open = lambda **it: [open_(**it), ahead.append(torch.randn(4, 8))][0]",
            "BEFORE": "x = ahead.pop()\nahead.append(torch.randn(4, 8))",
        },
        "torch's generator is used between recorder.open() and the first step -> draw what a step needs within",
    ),
    "gradients that are left over": (
        {"BUILD": "clear, optimizer.zero_grad = optimizer.zero_grad, lambda: step % 4 or clear()"},
        "gradients that are left over from one recorder.step() to the next are lost at a stop",
    ),
    "a set of objects": (
        {
            "BUILD": "import os\npool = [Data() for _ in range(99)]\nfor it in pool:\n"
            "    it.at = int.from_bytes(os.urandom(4)) / 2**32\npool = set(pool)",
            "BEFORE": "x = x + next(iter(pool)).at",
        },
        "`pool`, a set, comes in another order at each start -> sort it",
    ),
    "a schedule that is not passed": (
        {"BUILD": "del objects['scheduler']"},
        "`scheduler` (Schedule) is not in the state -> pass it: recorder.open(..., scheduler=scheduler)",
    ),
    "a schedule that steps late": (
        {"AFTER": "scheduler.count -= 1", "LATE": "scheduler.step()"},
        "changes between recorder.step() and the next step",
    ),
    "an attribute that counts": (
        {"BEFORE": "model.calls += 1\nx = x * model.calls"},
        "`model.calls` is 0 after it, 4 without",
    ),
    "a counter of the module": ({"BEFORE": "x = x + next(COUNT)"}, "`COUNT` is not what it was"),
    "what comes back each fourth step": (
        {"BUILD": "rest = [3, 2, 1, 0] * 9", "BEFORE": "x = x + rest.pop()"},
        "`rest` is not what it was",
    ),
    "a freeze at a step": (
        {"BEFORE": "if step == 2:\n    model.layer.bias.requires_grad_(False)"},
        "`model.layer.bias.requires_grad` is True, was False",
    ),
    "a plain loader": (
        {
            "BUILD": "loader = DataLoader(TensorDataset(torch.randn(64, 8)), batch_size=4, shuffle=True)\n"
            "rows = iter(loader)",
            "BEFORE": "(x,) = next(rows)",
        },
        "`loader` is a plain DataLoader -> loader = brakeline.adapters.pytorch.resumable(loader)",
    ),
    "a loader that is passed": (
        {"BUILD": "objects['rows'] = DataLoader(TensorDataset(torch.randn(8, 8)))"},
        "a DataLoader does not know where it stands, so that a run cannot be resumed -> wrap it",
    ),
    "samples every fifth step that are not aside": (
        {"LATE": "if step == 5:\n    torch.randn(3)"},
        "torch's generator is used between recorder.step() and the next step -> evaluate and draw samples inside",
    ),
    "a schedule that steps late every fifth step": (
        {"AFTER": "scheduler.count -= 1", "LATE": "scheduler.count += 1\nif step == 5:\n    scheduler.step()"},
        "changes between recorder.step() and the next step",
    ),
    "samples that honest draws before the gate hide": (
        {
            "BUILD": "ask = gate.may_step\ndef may_step():\n    if step in (2, 4):\n        torch.randn(3)\n"
            "    return ask()\ngate.may_step = may_step",
            "LATE": "if step == 5:\n    torch.randn(2)",
        },
        "torch's generator is used between recorder.step() and the next step",
    ),
    "a batch that is skipped, with its gradients": (
        {
            "BUILD": "def skip(real):\n    return lambda: step == 4 or real()\n"
            "optimizer.step, clear = skip(optimizer.step), optimizer.zero_grad\n"
            "optimizer.zero_grad = lambda: None",
            "AFTER": "step == 5 or clear()",
        },
        "gradients that are left over from one recorder.step() to the next are lost at a stop",
    ),
    "a mode that an evaluation leaves for a while": (
        {
            "BEFORE": "step % 3 or model.train()\nx = x * (1 + model.training)",
            "LATE": "step == 5 and model.eval()",
        },
        "`model.training` is True after it, False without -> model.train() comes before every step",
    ),
    "a state that is back at its start where the others stop": (
        {"BUILD": "cool = 0", "BEFORE": "x = x + cool\ncool = max(0, cool - 1)", "AFTER": "cool += 2 * (step == 1)"},
        "`cool` is 0 after it, 2 without",
    ),
    "an average that begins late": (
        {
            "BUILD": "average = None",
            "AFTER": "average = average or (torch.optim.swa_utils.AveragedModel(model) if step == 3 else None)",
        },
        "`average` (AveragedModel) is not in the state -> pass it: recorder.open(..., average=average)",
    ),
    "a float beside a counter": (
        {"BUILD": "level, seen = 0.0, 0", "BEFORE": "level, seen = level + 0.1, seen + 8\nx = x + level"},
        "one of `level`, `seen` is not what it was",
    ),
    "a loader beside another that is not shuffled": (
        {
            "BUILD": "loader = DataLoader(TensorDataset(torch.randn(64, 8)), batch_size=4, shuffle=True)\n"
            "another = DataLoader(TensorDataset(torch.randn(8, 8)))\nrows = iter(loader)",
            "BEFORE": "(x,) = next(rows)",
        },
        "`loader` is a plain DataLoader",
    ),
    "a counter of which the batch tells": (
        {"BUILD": "n = 0", "BEFORE": "n += 1\nx = x + n", "AFTER": "x = (x, n)"},
        "`n` is 0 after it, 4 without",
    ),
    "a buffer that begins empty": (
        {"BUILD": "past = []", "AFTER": "past.append(x)", "BEFORE": "x = x + sum(p.mean() for p in past[-2:])"},
        "`past` is not what it was",
    ),
    "the method of a generator": (
        {"BUILD": "draw = np.random.default_rng(3).normal", "BEFORE": "x = x + draw()"},
        "`draw.__self__`, a random generator, is not in the state -> keep the generator itself in a variable",
    ),
    "a hook that counts": (
        {
            "BUILD": "class Count:\n    n = 0\n    def __call__(self, m, a, out):\n        self.n += 1\n"
            "        return out * self.n\nmodel.layer.register_forward_hook(Count())",
        },
        "`model.layer._forward_hooks.n` is 0 after it, 4 without",
    ),
    "a private attribute that counts": (
        {"BUILD": "model._calls = 0", "BEFORE": "model._calls += 1\nx = x * model._calls"},
        "`model._calls` is 0 after it, 4 without, and model.state_dict() lacks it -> let model.state_dict() hold it",
    ),
    "an object with slots": (
        {
            "BUILD": "class Level:\n    __slots__ = ('at',)\nlevel = Level()\nlevel.at = 0",
            "BEFORE": "level.at += 1\nx = x + level.at",
        },
        "`level.at` is 0 after it, 4 without",
    ),
    "a default that is kept": (
        {
            "BUILD": "def past(x, seen=[]):\n    seen.append(1)\n    return x + len(seen)",
            "BEFORE": "x = past(x)",
        },
        "`past.__defaults__[0]` is not what it was",
    ),
    "an enumerated list": (
        {
            "BUILD": "rows = enumerate([torch.full((4, 8), float(i)) for i in range(99)])",
            "BEFORE": "x = next(rows)[1]",
        },
        "`rows`, an enumerate, cannot be put back where it was -> make it a class with state_dict()",
    ),
    "a chain of slices": (
        {
            "BUILD": "rows = itertools.islice(itertools.chain([1.0] * 9, [2.0, 3.0] * 9), 2, None, 2)",
            "BEFORE": "x = x + next(rows)",
        },
        "`rows`, an itertools.islice, cannot be put back where it was",
    ),
    "a file that is read on the way": (
        {
            "BUILD": "import sysconfig\ntext = open(sysconfig.__file__)",
            "BEFORE": "x = x + len(text.readline())",
        },
        "`text`, an open file, cannot be put back where it was",
    ),
    "a memo that grows": (
        {"BUILD": "memo = {}", "BEFORE": "memo[step] = step\nx = x + len(memo)"},
        "`len(memo)` is 0 after it, 4 without",
    ),
    "a mode that stays": (
        {"LATE": "if step == 2:\n    model.eval()", "BEFORE": "x = x * (1 + model.training)"},
        "`model.training` is True after it, False without",
    ),
    "a default type that is set on the way": (
        {
            "LATE": "if step == 2:\n    torch.set_default_dtype(torch.float64)",
            "BEFORE": "x = x.float() + float(torch.rand(()))",
        },
        "`torch.get_default_dtype()` is torch.float32, was torch.float64",
    ),
    "a Python generator": (
        {
            "BUILD": "rows = (torch.full((4, 8), float(i)) for i in range(99))",
            "BEFORE": "x = next(rows)",
        },
        "`rows`, a Python generator, cannot be put back where it was",
    ),
    "a Python generator that draws as it begins": (
        {
            "BUILD": "def draw():\n    for i in np.random.permutation(64):\n"
            "        yield torch.full((4, 8), float(i))\nrows = draw()\nx = next(rows)",
            "LATE": "",
            "BEFORE": "x = next(rows)",
        },
        "`rows`, a Python generator, cannot be put back where it was",
    ),
    "a cycle": (
        {"BUILD": "rows = itertools.cycle([torch.ones(4, 8), torch.zeros(4, 8)])", "BEFORE": "x = next(rows)"},
        "`rows`, an itertools.cycle, cannot be put back where it was",
    ),
    "a cache of what was drawn": (
        {
            "BUILD": "import functools\nscale = functools.cache(lambda at: torch.rand(()))",
            "BEFORE": "x = x * scale(step // 64)",
        },
        "`scale` remembers what it returned, a resumed run does not",
    ),
    "samples that are not aside": (
        {"LATE": "if step % 2 == 0:\n    torch.randn(3)"},
        "torch's generator is used between recorder.step() and the next step -> evaluate and draw samples inside",
    ),
    "a write past autograd": (
        {"LATE": "model.layer.weight.data.mul_(0.5)"},
        "was written to after recorder.step() of step 1, past autograd's counters",
    ),
    "a write that autograd sees": (
        {"LATE": "with torch.no_grad():\n    model.layer.weight.mul_(0.5)"},
        "model['state']['layer.weight'] was written to after recorder.step() of step",
    ),
    "a state that comes back in another type": (
        {
            "BUILD": "optimizer = objects['optimizer'] = Momentum(model.parameters())\n"
            "scheduler.optimizer, load = optimizer, optimizer.load_state_dict\n"
            "optimizer.load_state_dict = lambda s: load({**s, 'sums': [t.bfloat16() for t in s['sums']]})",
        },
        "what recorder.open() puts back is not what was there: optimizer['sums'][0]: torch.float32 (1, 8) and",
    ),
    "a loss for each sample": ({"AFTER": "loss = x.mean(1)"}, "a step has one loss, not torch.float32 of shape (4,)"),
    "a loss that depends on the place": (
        {"AFTER": "import os\nloss = loss + len(os.getcwd())"},
        "has another loss than recorded",
    ),
    "a gate asked too seldom": (
        {"LATE": "x = data.next()\nstep += 1\nrecorder.step(loss=0.0, batch=x)"},
        "step 2 was made without asking gate.may_step()",
    ),
    "a counter beside a loader that is resumable": (
        {
            "BUILD": "rows = TensorDataset(torch.randn(12, 8))\n"
            "objects['loader'] = loader = resumable(DataLoader(rows, batch_size=4, shuffle=True))\n"
            "rows = iter(loader)\nepoch = 0",
            "BEFORE": "if step in (3, 6):\n    assert next(rows, None) is None\n"
            "    rows, epoch = iter(loader), epoch + 1\n(x,) = next(rows)\nx = x + epoch",
        },
        "another batch: `epoch` is 0 after it, ",
    ),
    "a data set that changes": (
        {
            "BUILD": "rows = TensorDataset(torch.randn(64, 8))\nrows.level = 0.0\n"
            "objects['loader'] = loader = resumable(DataLoader(rows, batch_size=4, shuffle=True))\ndel rows",
            "BEFORE": "loader.dataset.level += 0.5\nx = x + loader.dataset.level",
        },
        ".dataset.level` is 0.0 after it, ",
    ),
    "what state_dict() leaves out": (
        {"BUILD": "data.level = 0", "BEFORE": "data.level += 1\nx = x + data.level"},
        "`data.level` is 0 after it, 4 without, and data.state_dict() lacks it",
    ),
    "a file beside it that is not listed": (
        {"BUILD": "np.load(__file__.replace('loop.py', 'table.npy'))"},
        "table.npy' -> what lies beside the entry is listed, files = [...]",
    ),
    "a folder made where the process stands": (
        {"BUILD": "import os\nfrom pathlib import Path\n"
         "os.makedirs('out') if Path.cwd() == Path(__file__).parent else None"},
        "Read-only file system: 'out' -> a cell may write to temporary folders alone",
    ),
    "a module beside it that is not listed": ({"BUILD": "import beside"}, "No module named 'beside'"),
    "a list of objects": (
        {"BUILD": "objects['both'] = [optimizer, scheduler]"},
        "both: a list has no state_dict() and load_state_dict() -> pass each by a name of its own",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_can_be_replayed_passes(name: str, tmp_path: Path) -> None:
    it = found(tmp_path, **HONEST[name])
    assert why(it) == ""
    it.check()
    lost = ("a stop loses `own`, on which none of these steps depends",) if "own, drawn" in name else ()
    assert (it.steps, it.notes) == (STEPS, lost)
    assert it.checkpoint > 1000
    assert disk(it, 50) == it.first + 20 * it.checkpoint + 128_000


def test_what_a_stop_loses_though_nothing_depends_on_it_is_noted(tmp_path: Path) -> None:
    it = found(tmp_path, BUILD="best = 9.0", AFTER="best = min(best, 9.0 - step)\nobjects['seen'] = step")
    assert why(it) == ""
    assert it.notes == ()
    it = found(tmp_path, BUILD="count, history = 0, []", AFTER="count += 1\nhistory.append(0)")
    assert it.notes == ("a stop loses `count`, `history`, on which none of these steps depends",)


IN_A_CELL = {
    "a loss that depends on the place",
    "a folder made where the process stands",
    "a module beside it that is not listed",
}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that are kept from one test to the next: each takes seconds to start."""

    class Kept:
        def __init__(self) -> None:
            self.stage = STAGES.pop() if STAGES else trail.Stage()
            self.make = self.stage.make

        def close(self) -> None:
            STAGES.append(self.stage)

    monkeypatch.setattr(rehearsal, "Stage", Kept)


STAGES: list[trail.Stage] = []


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    while STAGES:
        STAGES.pop().close()


@pytest.mark.parametrize("name", HAZARDS)
def test_what_cannot_is_named(
    name: str, tmp_path: Path, stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, expected = HAZARDS[name]
    if name not in IN_A_CELL:
        monkeypatch.setattr(rehearsal._Rehearsing, "_replayed", lambda self, whole: [])
    (tmp_path / "beside.py").write_text("X = 1\n")
    it = found(tmp_path, **pieces)
    assert expected in why(it)
    with pytest.raises(Misuse, match="the rehearsal failed: "):
        it.check()


def test_what_lies_beside_the_entry_is_part_of_it_where_it_is_listed(tmp_path: Path) -> None:
    recipe(tmp_path, BUILD="import beside\nmodel.layer.bias.data.fill_(beside.bias(__file__))")
    (tmp_path / "beside.py").write_text(
        "from pathlib import Path\n\n\ndef bias(at):\n    return float(Path(at).with_name('bias.txt').read_text())\n"
    )
    (tmp_path / "bias.txt").write_text("0.25")
    (tmp_path / "recipe.toml").write_text(
        f'name = "run"\nentry = "loop.py"\nsteps = {STEPS}\nfiles = ["beside.py", "*.txt"]\n'
    )
    it = read_recipe(tmp_path / "recipe.toml")
    assert it.files == ("beside.py", "bias.txt") or it.files == ("bias.txt", "beside.py")
    assert why(rehearse(it, threads=1)) == ""
    before = it.digest
    (tmp_path / "bias.txt").write_text("0.5")
    assert it.digest != before


@pytest.mark.parametrize("files", [["../beside.py"], ["/etc/hostname"], ["nothing.py"], [""], ["a\0b"]])
def test_files_lie_in_the_entrys_folder(files: list[str], tmp_path: Path) -> None:
    recipe(tmp_path)
    names = ", ".join(f'"{f}"'.replace("\0", "\\u0000") for f in files)
    (tmp_path / "recipe.toml").write_text(f'name = "run"\nentry = "loop.py"\nsteps = 8\nfiles = [{names}]\n')
    with pytest.raises(Malformed):
        read_recipe(tmp_path / "recipe.toml")


def test_code_that_ends_its_process_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match=r"ended its process with status 3: farewell"):
        found(tmp_path, BUILD="import os, sys\nprint('farewell', flush=True)\nos._exit(3)")


@pytest.mark.parametrize("most", [12_000, 18_000])  # the first checkpoint does not fit, the second one does not
def test_a_disk_that_is_full_is_no_fault_of_the_recipe(most: int, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as e:
        found(tmp_path, BUILD=f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))")
    assert "make room there" in e.value.hint


def test_a_run_of_one_step_is_too_short(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="at least two steps"):
        rehearse(recipe(tmp_path), steps=1)


def test_what_passed_is_not_rehearsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it, told = recipe(tmp_path), list[str]()
    passed = Rehearsal(steps=8, causes=(), notes=(), distributions=(), first=1, checkpoint=1, seconds=0.1)

    def rehearse(_: Recipe, *, tell: Callable[[str], None]) -> Rehearsal:
        tell("rehearsing")
        return passed

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    first = rehearsed(it, "ab" * 32, tmp_path / "kept", told.append)
    said = len(told)
    assert rehearsed(it, "ab" * 32, tmp_path / "kept", told.append) == first
    assert len(told) == said > 0
    rehearsed(it, "cd" * 32, tmp_path / "kept", told.append)
    assert len(told) > said, "another environment is another rehearsal"
    said = len(told)
    monkeypatch.setattr(rehearsal, "fingerprints", lambda _: {"torch": "patched since"})
    rehearsed(it, "ab" * 32, tmp_path / "kept", told.append)
    assert len(told) > said, "and so is other code of a distribution"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_step_is_made_that_nobody_waits_for(number: int, tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(
        "import os, time\nfrom pathlib import Path\n"
        "def dataset_root(config):\n    return ''\n"
        "def flop_per_step(config):\n    return 1\n"
        "def train(config, gate, recorder):\n"
        f"    Path({str(tmp_path)!r}, f'pid-{{os.getpid()}}').touch()\n    time.sleep(600)\n"
    )
    (tmp_path / "recipe.toml").write_text('name = "endless"\nentry = "loop.py"\nsteps = 4\n')
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "brakeline.cli.main", "rehearse", "recipe.toml"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")})

    def trained() -> list[int]:
        return [int(path.name[4:]) for path in tmp_path.glob("pid-*")]

    deadline = time.monotonic() + 60
    while not trained() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(20) == (143 if number == signal.SIGTERM else -9)
    while any(Path(f"/proc/{pid}").exists() for pid in trained()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert trained()
    assert not [pid for pid in trained() if Path(f"/proc/{pid}").exists()]
    if number == signal.SIGTERM:
        assert not list((tmp_path / "tmp").glob("brakeline-*"))
