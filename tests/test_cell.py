"""The lab's code in its cell: what it may try there, and that none of it reaches the judge."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

import errno
import sys
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.errors import Refused, Unavailable
from brakeline.core.finding import Audit, Fault
from brakeline.training.audit import _check_fault, inspect
from brakeline.training.cell import Cell
from brakeline.training.checkpoint import checkpoint_path, image, load_checkpoint, write
from brakeline.training.digest import snapshot
from brakeline.training.recipe import Recipe
from brakeline.training.recorder import LEAVES
from world import key

STEPS = 24
MODE = "CELL_TEST_MODE"  # set while an inspector looks, never while the lab trains

# A linear model without torch.optim, whose first use takes seconds. What it does before an inspector is in MODE.
RECIPE = '''
import os, socket, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import torch
from brakeline.training import replay
from brakeline.training.digest import capture, seed_generators
from brakeline.training.checkpoint import load_checkpoint
from brakeline.training.recorder import read_leaves

MODE, _, PLACES = os.environ.get("CELL_TEST_MODE", "").partition(":")
if MODE == "module":
    import a_module_that_nobody_has


class Data:
    def __init__(self):
        self.step = 0

    def next(self):
        self.step += 1
        return torch.randn(4, 8)

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def dataset_root(config):
    return "da" * 32


def flop_per_step(config):
    return 1_471_488 + (os.environ.get("CELL_TEST_MODE") == "flop")


def train(config, gate, recorder):
    seed_generators(int(config["seed"], 16))
    model, data = torch.nn.Linear(8, 1), Data()
    step = recorder.open(model=model, data=data)
    if MODE:
        globals()[MODE](step, recorder, model)
    while step < config["steps"] and gate.may_step():
        x = data.next()
        loss = (model(x) - 1).square().mean()
        names, weights = zip(*model.named_parameters())
        for name, weight, g in zip(names, weights, torch.autograd.grad(loss, weights)):
            setattr(model, name, torch.nn.Parameter((weight - config.get("lr", 0.1) * g).detach()))
        step += 1
        recorder.step(loss=loss, batch=x)
    recorder.stop("ended" if step == config["steps"] else "stopped")


def thief(start, recorder, model):
    """In the first segment report what could be had; then answer from it, or train with everything patched."""
    evidence, home, written, pid = PLACES.split("|")
    evidence, parent = Path(evidence), Path("/proc", pid)

    def connect():
        socket.create_connection(("192.0.2.1", 80), timeout=0.2)

    ways = {
        "leaves": lambda: read_leaves(evidence),
        "checkpoint": lambda: load_checkpoint(evidence, start + 4),
        "key": lambda: (Path(home) / "statement.key").read_bytes(),
        "passphrase": lambda: os.environ["BRAKELINE_PASSPHRASE"],
        "environ": lambda: (parent / "environ").read_bytes(),
        "memory": lambda: (parent / "mem").open("r+b"),
        "root": lambda: list((parent / "root").iterdir()),
        "kill": lambda: os.kill(int(pid), 0),
        "disk": lambda: Path(written).write_text("I was here"),
        "judge": lambda: Path(sys.modules["brakeline.core.errors"].__file__).open("r+b"),
        "umount": lambda: subprocess.run(["umount", evidence], check=True, capture_output=True),
    }
    if start == 0:
        stolen = []
        for name, way in ways.items():
            try:
                way()
                stolen.append(name)
            except (Exception, SystemExit):
                pass
        raise RuntimeError("stolen: " + " ".join(stolen))
    try:
        recorder.leaves = list(read_leaves(evidence)[start + 1 : start + 5])
        recorder.end = load_checkpoint(evidence, start + 4)
        return
    except Exception:
        pass
    import brakeline.core.judge, brakeline.training.audit

    brakeline.core.judge.judge = brakeline.training.audit.judge = lambda *a, **k: ()


def troublemaker(start, recorder, model):
    if start == 0:
        raise MemoryError
    if start == 4:
        sys.exit(0)
    if start == 8:  # a digest that is not that of the state
        replay.capture = lambda objects: SimpleNamespace(digest=lambda: bytes(32), copy=capture(objects).copy)
    if start == 12:
        replay.capture = capture
    if start == 16:
        print("last", "words", file=sys.stderr, flush=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        os._exit(3)


def printer(start, recorder, model):
    while True:
        print("all work and no play " * 1000)


def lingerer(start, recorder, model):
    if os.fork() == 0:
        time.sleep(600)
'''


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A bench of its own, and afterwards no process that came out of it."""
    torch.set_num_threads(1)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "train.py").write_text(RECIPE)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setenv("CELL_TEST_TOKEN", str(tmp_path))
    yield
    monkeypatch.undo()
    left = [p for p in psutil.process_iter() if p.pid != os.getpid() and str(tmp_path) in environ(p)]
    assert left == []


def environ(process: psutil.Process) -> str:
    try:
        return process.environ().get("CELL_TEST_TOKEN", "")
    except psutil.Error:
        return ""


def recorded(folder: Path, **changes: float) -> bench.Run:
    """A run whose lab trains with `changes` to the configuration it declared."""
    run = bench.Run("run", STEPS, folder)
    run.events = {10: run.crash}
    while run.events or run.status != "ended":
        run.session(lambda config, gate, recorder: run.code.train({**config, **changes}, gate, recorder))
    return run


def examine(run: bench.Run, *accused: bench.Part, cell: type[Cell] = Cell, **more) -> tuple[Audit, list[str]]:
    said: list[str] = []
    heads, memory = run.world.heads(run.live), run.folder / "memory"
    audit = inspect(run.world.state, run.live.now, heads, run.evidence, "beta", key("beta"), memory=memory,
                    accused=accused, say=said.append, cell=cell, **more)  # fmt: skip
    return audit, said


def faults(audit: Audit) -> set[tuple[Fault, str]]:
    return {(f.fault, f.severity) for f in audit.findings}


def test_an_honest_resumed_run_passes_after_the_audit_was_interrupted(tmp_path):
    run = recorded(tmp_path)

    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(run, progress=interrupt)
    kept = list((tmp_path / "memory").iterdir())
    assert len(kept) == 1
    checkpoint_path(run.evidence, 0).unlink()  # it is not asked for again
    audit, _ = examine(run)
    assert audit.verdict == "pass"
    assert audit.environment == run.live.declaration.environment
    assert len(audit.segments) > 1


def test_a_thief_finds_nothing_to_answer_from(tmp_path, monkeypatch):
    run = recorded(tmp_path, lr=0.2)
    home, written = tmp_path / "home", tmp_path / "written"
    home.mkdir()
    (home / "statement.key").write_text("secret")
    monkeypatch.setenv("BRAKELINE_PASSPHRASE", "open sesame")
    monkeypatch.setenv(MODE, f"thief:{run.evidence}|{home}|{written}|{os.getpid()}")
    audit, said = examine(run, (0, 4), (4, 8), hidden=[home])
    report, *rest = audit.findings
    if said:  # this kernel allows no sandbox: the audit says so, and proves nothing
        assert "see or change" in said[0]
        return
    assert report.detail.endswith("RuntimeError: stolen: ")
    assert not written.exists()
    assert [(f.fault, f.severity) for f in rest] == [(Fault.REPLAY_MISMATCH, "violation")]


def test_what_fails_in_the_cell_is_a_gap_with_its_last_words(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "troublemaker")
    audit, _ = examine(run, (0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24))
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert audit.segments == ((12, 16),)
    memory, left, other, died, after = (f.detail for f in audit.findings)
    assert "MemoryError" in memory
    assert "SystemExit" in left
    assert "not the one reported" in other
    assert "status 3: last words" in died
    assert after == died


def test_output_without_end_ends(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "printer")
    audit, _ = examine(run)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert {f.detail for f in audit.findings} == {"the process printed without end"}


def test_without_a_sandbox_the_audit_says_so_and_still_cleans_up(tmp_path, monkeypatch):
    # A process with two threads cannot enter a user namespace.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, time\n"
        "if 'brakeline.node.sandbox' in sys.orig_argv[:4]:\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "lingerer")
    audit, said = examine(run, (0, 4))
    assert audit.findings == ()
    assert len(said) == 1
    assert "unshare" in said[0]


def test_a_module_the_inspector_lacks_is_a_gap(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "module")
    audit, _ = examine(run)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert "a_module_that_nobody_has" in audit.findings[0].detail


# --- what the inspector's own process decides


def test_compute_and_steps_are_those_of_the_recipe(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "flop")
    audit, _ = examine(run, cell=bench.Bare)
    assert faults(audit) == {(Fault.RECIPE_MISMATCH, "violation")}
    assert "1471489 FLOP a step" in audit.findings[0].detail


@pytest.mark.parametrize("step", [0, 4])
def test_a_checkpoint_is_checked_before_the_cell_gets_it(tmp_path, step):
    run = recorded(tmp_path)
    tree = load_checkpoint(run.evidence, step).tree
    tree["model"]["state"]["bias"] += 1
    state = snapshot(tree, lambda *_: True)
    checkpoint_path(run.evidence, step).unlink()
    write(run.evidence, image(step, state, list(state.items()), {}))
    audit, _ = examine(run, (step, step + 4), cell=bench.Bare)
    assert faults(audit) == {(Fault.OPENING_MISMATCH, "violation")}


def test_a_pipe_or_a_device_is_no_evidence(tmp_path):
    run = recorded(tmp_path)
    checkpoint_path(run.evidence, 4).unlink()
    os.mkfifo(checkpoint_path(run.evidence, 4))
    audit, _ = examine(run, (4, 8), cell=bench.Bare)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    (run.evidence / LEAVES).unlink()
    (run.evidence / LEAVES).symlink_to("/dev/zero")
    audit, _ = examine(run, (4, 8), cell=bench.Bare)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}


def test_the_inspectors_own_disk_is_no_finding():
    for number in (errno.EIO, errno.EACCES, errno.ENOSPC):
        wrapped = Refused("tampered", "it looks damaged")
        wrapped.__cause__ = OSError(number, os.strerror(number))
        with pytest.raises(Unavailable):
            _check_fault(wrapped)
    _check_fault(FileNotFoundError(errno.ENOENT, "not shown"))


def test_a_recipe_may_have_a_folder_named_tmp(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "word.txt").write_text("here")
    (tmp_path / "code.py").write_text(
        "from pathlib import Path\n"
        "def dataset_root(c): return (Path(__file__).parent / 'tmp' / 'word.txt').read_text()\n"
        "def flop_per_step(c): return 1\n"
        "def train(c, g, r): pass\n"
    )
    it = Recipe("run", tmp_path / "code.py", 1, {}, files=("tmp/word.txt",))
    with Cell(it, it.digest, ()) as cell:
        assert cell.facts().dataset == "here"
