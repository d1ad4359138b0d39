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

from brakeline.core.encoding import sha256
from brakeline.core.errors import Refused, Unavailable
from brakeline.core.finding import Audit, Fault
from brakeline.training.audit import Looking, inspect
from brakeline.training.cell import PASSED, Cell, Failed
from brakeline.training.checkpoint import checkpoint_path, image, load_checkpoint, write
from brakeline.training.digest import snapshot
from brakeline.training.recipe import Recipe
from brakeline.training.recorder import LEAVES
from brakeline.training.shown import check_fault
from brakeline.training.watch import Limits
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
        "elsewhere": lambda: (Path(home).parent / "elsewhere" / "id_ed25519").read_bytes(),
        "shadow": lambda: Path("/etc/shadow").read_bytes(),
        "token": lambda: os.environ["AN_API_TOKEN"],
        "host": lambda: 1 / 0 if socket.gethostname() == "sandbox" else None,
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


def hanger(start, recorder, model):
    time.sleep(600)


def glutton(start, recorder, model):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 50)


def forker(start, recorder, model):
    while True:
        if os.fork() == 0:
            time.sleep(600)


def filler(start, recorder, model):
    """Fill what can be written to: the scratch folder, and the files that the inspector's process holds open."""
    full = []
    for number in range(3, 100):
        try:
            os.lseek(number, 0, os.SEEK_END)
            while True:
                os.write(number, bytes(1 << 20))
        except OSError as e:
            full.append(e.errno)
    for name in ("one", "two"):
        try:
            with open(os.environ["TMPDIR"] + "/" + name, "wb") as f:
                while True:
                    f.write(bytes(1 << 20))
        except OSError as e:
            full.append(e.errno)
    raise RuntimeError(f"errors {sorted(set(full))}")


def bomber(start, recorder, model):
    """Answer with a state that is small on the disk and huge in memory, or longer than anybody reads."""
    cell = sys.modules["__main__"]
    if start:
        header = b'{"__metadata__":{},"x":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}'
        data = len(header).to_bytes(8, "little") + header
        cell.pack = lambda file, tree: (file.seek(0), file.write(data), file.truncate(1 << 24), file.flush())
    else:
        cell.pack = lambda file, tree: (file.truncate(1 << 40), file.flush())


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
    monkeypatch.setattr("brakeline.training.cell.PASSED", PASSED | {MODE, "CELL_TEST_TOKEN"})
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


def examine(
    run: bench.Run, *accused: bench.Part, cell: type[Cell] = Cell, not_shown: bool = False, **more
) -> tuple[Audit, list[str]]:
    said: list[str] = []
    heads, memory = run.world.heads(run.live), run.folder / "memory"
    how = Looking(memory, say=said.append, cell=cell, **more)
    audit = inspect(run.world.state, run.live.now, heads, run.evidence, "beta", key("beta"), how, accused=accused,
                    not_shown=not_shown)  # fmt: skip
    return audit, said


def faults(audit: Audit) -> set[tuple[Fault, str]]:
    """What was found, without what is measured beside the replays (`test_measured`)."""
    return {(f.fault, f.severity) for f in audit.findings} - {(Fault.NOT_VERIFIED, "notice")}


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
    monkeypatch.setenv("AN_API_TOKEN", "another secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "id_ed25519").write_text("a third one")
    monkeypatch.setenv(MODE, f"thief:{run.evidence}|{home}|{written}|{os.getpid()}")
    audit, said = examine(run, (0, 4), (4, 8), hidden=[home])
    report, *rest = audit.findings
    if "see or change" in said[0]:  # this kernel allows no sandbox: the audit says so, and proves nothing
        assert (Fault.EXPOSED, "notice") in faults(audit)
        return
    assert said[0].endswith("RuntimeError: stolen: ")
    assert report.detail == "train() failed in replay"
    assert not written.exists()
    assert [(f.fault, f.severity) for f in rest] == [(Fault.REPLAY_MISMATCH, "violation")]


def test_what_fails_in_the_cell_is_a_gap_with_its_last_words(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "troublemaker")
    audit, said = examine(run, (0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24))
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert audit.segments == ((12, 16),)
    assert len(audit.findings) == len(said) == 5
    assert "words" not in str(audit)  # which are the lab's, and of which a log would keep a copy for ever
    memory, left, other, died, after = said
    assert "MemoryError" in memory
    assert "SystemExit" in left
    assert "not the one reported" in other
    assert "status 3: last words" in died
    assert after.split(": ", 1)[1] == died.split(": ", 1)[1]


def test_output_without_end_ends(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "printer")
    audit, _ = examine(run)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert {f.detail for f in audit.findings} == {"the process printed without end"}


SMALL = Limits(memory=1 << 30, seconds=20.0, processes=40)


@pytest.mark.parametrize(
    ("mode", "limits", "words"),
    [
        ("hanger", SMALL._replace(seconds=8.0), "the process was ended: no answer within 8 s"),
        ("glutton", SMALL, "GB of memory, allowed were 1.1"),
        ("forker", SMALL, "it started more than 40 processes"),
    ],
)
def test_what_takes_too_much_is_ended_and_is_a_gap(mode, limits, words, tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, mode)
    audit, said = examine(run, (0, 4), (4, 8), limits=limits)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert all(words in text for text in said)
    assert words in audit.findings[0].detail


def test_the_inspectors_disk_is_not_the_labs_to_fill(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "filler")
    audit, said = examine(run, (0, 4), limits=SMALL)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    if "see or change" not in said[0]:
        assert str(errno.EFBIG) in said[0]
        assert str(errno.ENOSPC) in said[0]


def test_a_bomb_does_not_go_off(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "bomber")
    audit, said = examine(run, (0, 4), (4, 8), limits=SMALL)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert "File too large" in said[0] or "bytes, where" in said[0]
    assert "its list is too long" in said[1] or "something else than bytes" in said[1]


def test_the_data_set_is_shown_where_the_inspector_says_so(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.txt").write_text("words")
    (tmp_path / "code.py").write_text(
        "import hashlib\nfrom pathlib import Path\n"
        f"DATA = Path({str(tmp_path / 'data' / 'set.txt')!r})\n"
        "def dataset_root(c): return hashlib.sha256(DATA.read_bytes()).hexdigest()\n"
        "def flop_per_step(c): return 1\n"
        "def train(c, g, r): pass\n"
    )
    it = Recipe("run", tmp_path / "code.py", 1, {})
    with Cell(it, it.digest, (), shown=(tmp_path / "data",)) as cell:
        assert cell.facts().dataset == sha256(b"words").hex()
    with Cell(it, it.digest, (), shown=()) as cell:
        if not cell.exposed:
            with pytest.raises(Failed, match="FileNotFoundError"):
                cell.facts()


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
    assert faults(audit) == {(Fault.EXPOSED, "notice")}
    assert len(said) == 1
    assert "unshare" in said[0]


def test_a_module_the_inspector_lacks_is_a_gap(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "module")
    audit, said = examine(run)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert "a_module_that_nobody_has" in said[0]


# --- what the inspector's own process decides


def test_compute_and_steps_are_those_of_the_recipe(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    monkeypatch.setenv(MODE, "flop")
    audit, _ = examine(run, cell=bench.Bare)
    assert faults(audit) == {(Fault.RECIPE_MISMATCH, "violation")}
    assert "another number of FLOP a step than declared" in audit.findings[0].detail


@pytest.mark.parametrize("step", [0, 4])
def test_a_checkpoint_is_checked_before_the_cell_gets_it(tmp_path, step):
    run = recorded(tmp_path)
    tree = load_checkpoint(run.evidence, step).tree
    tree["model"]["state"]["bias"] += 1
    state = snapshot(tree, lambda *_: True)
    checkpoint_path(run.evidence, step).unlink()
    write(run.evidence, image(step, state, list(state.items()), {}))
    with pytest.raises(Unavailable, match="older than what the lab signed"):
        examine(run, (step, step + 4), cell=bench.Bare)
    audit, _ = examine(run, (step, step + 4), cell=bench.Bare, not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}


def test_a_pipe_or_a_device_is_no_evidence(tmp_path):
    run = recorded(tmp_path)
    checkpoint_path(run.evidence, 4).unlink()
    os.mkfifo(checkpoint_path(run.evidence, 4))
    audit, _ = examine(run, (4, 8), cell=bench.Bare, not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    (run.evidence / LEAVES).unlink()
    (run.evidence / LEAVES).symlink_to("/dev/zero")
    audit, _ = examine(run, (4, 8), cell=bench.Bare, not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}


def test_the_inspectors_own_disk_is_no_finding():
    for number in (errno.EIO, errno.EACCES, errno.ENOSPC):
        wrapped = Refused("tampered", "it looks damaged")
        wrapped.__cause__ = OSError(number, os.strerror(number))
        with pytest.raises(Unavailable):
            check_fault(wrapped)
    check_fault(FileNotFoundError(errno.ENOENT, "not shown"))


def test_a_recipe_may_have_a_folder_named_tmp(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "word.txt").write_text("feed")
    (tmp_path / "code.py").write_text(
        "from pathlib import Path\n"
        "def dataset_root(c): return (Path(__file__).parent / 'tmp' / 'word.txt').read_text() * 16\n"
        "def flop_per_step(c): return 1\n"
        "def train(c, g, r): pass\n"
    )
    it = Recipe("run", tmp_path / "code.py", 1, {}, files=("tmp/word.txt",))
    with Cell(it, it.digest, ()) as cell:
        assert cell.facts().dataset == "feed" * 16
