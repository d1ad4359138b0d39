"""Digests, the recorder and the rank gate. Run as a script, this file records a run: the tests kill it."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.transcript import LEAF_BYTES, NONE
from brakeline.training.batch import batch_snapshot
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps, load_checkpoint
from brakeline.training.digest import capture, restore, seed_generators, snapshot
from brakeline.training.gatehook import RankGate
from brakeline.training.recorder import Recorder, read_leaves

PERMIT = b"p" * 32
CONFIG = {"seed": 1, "steps": 25, "width": 16}


class Cursor:
    """A data stream that draws on every global generator, as augmentation does."""

    def __init__(self):
        self.position = 0

    def next(self):
        self.position += 1
        x = torch.randn(8, 6) + random.random() + float(np.random.rand())
        return x, x.sum(1, keepdim=True).sin() + self.position / 100

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Net(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 3)


def build(config):
    seed_generators(config["seed"])
    model = Net(config["width"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config["steps"])
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "data": Cursor()}


def train(config, gate, recorder, on_step=lambda step, objects: None):
    objects = build(config)
    model, optimizer, scheduler, data = objects.values()
    step = recorder.open(**objects)
    while step < config["steps"] and gate.may_step():
        x, y = data.next()
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        recorder.step(loss=loss, batch=(x, y))
        on_step(step, objects)
    recorder.stop("ended" if step == config["steps"] else "stopped")


class Open:
    """A gate that lets `steps` steps pass."""

    def __init__(self, steps=10**9):
        self.left = steps

    def may_step(self):
        self.left -= 1
        return self.left >= 0


def recorder(directory, *, heads=None, run="run", **change):
    options = {"segment_steps": 10, "flop_per_step": 1000, "head_every_segments": 1, "permit": lambda: PERMIT, **change}
    return Recorder(directory, on_head=None if heads is None else heads.append, run=run, **options)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("whole")
    train(CONFIG, Open(), recorder(directory))
    return directory


# --- digests


def digest_of(**trees):
    return snapshot(trees, lambda *_: True).digest()


def test_every_byte_of_every_tensor_counts():
    # Attack A-12: a data set hash over str(array) skipped all but the edges of arrays above 1000 elements.
    for count, offsets in ((16, range(64)), (5000, random.Random(0).sample(range(20_000), 200))):
        tensor = torch.arange(count, dtype=torch.float32)
        raw = tensor.numpy().view(np.uint8)
        before = digest_of(model=tensor)
        for offset in offsets:
            raw[offset] ^= 1
            assert digest_of(model=tensor) != before, offset
            raw[offset] ^= 1
        assert digest_of(model=tensor) == before


def test_meaning_is_bound_not_only_bytes():
    zeros = torch.zeros(4)
    values = [
        {"a": zeros}, {"b": zeros}, {"a": zeros, "b": zeros}, {0: zeros}, {"0": zeros}, [zeros], (zeros,), zeros,
        zeros.reshape(2, 2), zeros.int(), zeros.bfloat16(), zeros[:0], zeros[0], {"a": {"b": zeros}}, {"a.b": zeros},
        0, 0.0, -0.0, False, None, "", "0", [], (), {}, [[]], [0, [1]], [[0], 1], 2**70, float("nan"),
    ]  # fmt: skip
    seen = [digest_of(x=value) for value in values] + [digest_of(y=0), digest_of(x=0, y=0)]
    assert len(set(seen)) == len(seen)


def test_what_does_not_matter_is_not_bound():
    square = torch.arange(6.0).reshape(2, 3)
    assert digest_of(x=square) == digest_of(x=square.t().contiguous().t())
    assert digest_of(x={"a": 1, "b": 2}) == digest_of(x={"b": 2, "a": 1})
    assert digest_of(a=1, b=2) == digest_of(b=2, a=1)
    assert digest_of(x=nn.Parameter(square)) == digest_of(x=square)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_every_dtype_has_a_digest(dtype):
    ones = torch.ones(3).to(dtype)
    assert digest_of(x=ones) == digest_of(x=ones.clone()) != digest_of(x=torch.zeros(3).to(dtype))


@pytest.mark.parametrize(
    "value", [np.float64(1.0), {1, 2}, b"bytes", object(), {1.5: 0}, {True: 0}, torch.eye(2).to_sparse()]
)
def test_other_types_have_none(value):
    with pytest.raises(Misuse):
        digest_of(x=[value])


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o["model"][0].weight.data[0, 0].add_(1e-7),
        lambda o: o["model"][1].running_mean[0].add_(1e-7),
        lambda o: o["model"].calls.add_(1),
        lambda o: o["optimizer"].state[o["model"][0].weight]["exp_avg_sq"][0, 0].add_(1e-7),
        lambda o: o["optimizer"].param_groups[0].update(lr=0.02),
        lambda o: o["scheduler"].__dict__.update(last_epoch=99),
        lambda o: o["data"].next(),
        lambda o: o["data"].__dict__.update(position=99),
        lambda o: torch.rand(1),
        lambda o: np.random.rand(),
        lambda o: random.random(),
        lambda o: random.gauss(0, 1),
    ],
)
def test_the_whole_state_is_bound(change):
    # Attack A-24: weights hashed, the rest forgotten.
    held = {}
    train({**CONFIG, "steps": 2}, Open(), Forgetful(), on_step=lambda step, objects: held.update(objects))
    before = capture(held).digest()
    assert capture(held).digest() == before
    change(held)
    assert capture(held).digest() != before


class Forgetful:
    """A recorder that records nothing."""

    def open(self, **objects):
        return 0

    def step(self, *, loss, batch):
        pass

    def stop(self, status):
        pass


def test_the_cache_sees_tensors_replaced_moved_and_reshaped():
    objects, known = build(CONFIG), {}
    weight = objects["model"][0].weight

    def same():
        assert capture(objects, known).digest() == capture(objects).digest()

    same()
    with torch.no_grad():
        weight.add_(1)
        same()
        weight.data = weight.data.clone() * 2
        same()
        weight.data = weight.data.reshape(6, 16)
        same()
        objects["model"][0].weight = nn.Parameter(torch.ones(16, 6))
        same()
    objects["optimizer"].param_groups[0]["betas"] = [0.9, 0.999]
    same()
    objects["optimizer"].param_groups[0]["betas"] = {0: 0.9, 1: 0.999}
    same()


def test_a_state_survives_the_round_trip(tmp_path):
    held = {}
    train({**CONFIG, "steps": 3}, Open(), Forgetful(), on_step=lambda step, objects: held.update(objects))
    before = capture(held)
    torch.save(before.copy(), tmp_path / "state")
    tree = torch.load(tmp_path / "state", weights_only=True)
    assert snapshot(tree, lambda *_: True).digest() == before.digest()
    torch.rand(5), random.random(), np.random.rand()
    others = build({**CONFIG, "seed": 2})
    restore(others, tree)
    assert capture(others).digest() == before.digest()


# --- recording


def test_a_run_leaves_its_leaves_checkpoints_and_heads(tmp_path):
    heads = []
    train(CONFIG, Open(), recorder(tmp_path, heads=heads))
    leaves = read_leaves(tmp_path)
    assert [leaf.step for leaf in leaves] == list(range(26))
    assert (leaves[0].batch, leaves[0].permit, leaves[0].flop) == (NONE, NONE, 0)
    assert {leaf.permit for leaf in leaves[1:]} == {PERMIT}
    assert [leaf.flop for leaf in leaves] == [1000 * i for i in range(26)]
    assert len({leaf.state for leaf in leaves}) == 26
    assert checkpoint_steps(tmp_path) == [0, 10, 20, 25]
    said = [(head.steps, head.status) for head in heads]
    assert said == [(0, "opened"), (10, "running"), (20, "running"), (25, "ended")]
    for head in heads:
        hashes = [leaf_hash(leaf.encode()) for leaf in leaves[: head.steps + 1]]
        assert (head.root, head.state) == (root(hashes).hex(), leaves[head.steps].state.hex())
        assert (head.run, head.flop) == ("run", str(1000 * head.steps))
    for step in checkpoint_steps(tmp_path):
        assert load_checkpoint(tmp_path, step).digest() == leaves[step].state


def test_the_batch_is_bound(tmp_path, uninterrupted):
    objects = build(CONFIG)
    x, y = objects["data"].next()
    assert (
        read_leaves(uninterrupted)[1].batch
        == batch_snapshot((x, y), stands=True).digest()
        != batch_snapshot([x, y], stands=True).digest()
    )


def test_recording_does_not_change_training(uninterrupted):
    held = {}
    train(CONFIG, Open(), Forgetful(), on_step=lambda step, objects: held.update(objects))
    assert capture(held).digest() == read_leaves(uninterrupted)[-1].state


def test_leaves_are_written_before_the_head_goes_out(tmp_path):
    seen = []

    def look(head):
        seen.append(len(read_leaves(tmp_path)) > head.steps and head.steps in checkpoint_steps(tmp_path))

    train(CONFIG, Open(), Recorder(tmp_path, segment_steps=5, flop_per_step=1, head_every_segments=2, run="run",
                                   on_head=look, permit=lambda: PERMIT))  # fmt: skip
    assert seen == [True, True, True, True]


@pytest.mark.parametrize("stops", [(1,), (7,), (10,), (3, 3, 9), (0, 24)])
def test_stopping_and_going_on_leaves_no_trace(tmp_path, uninterrupted, stops):
    heads = []
    for steps in (*stops, 25):
        train(CONFIG, Open(steps), recorder(tmp_path, heads=heads))
    assert (tmp_path / "leaves.bin").read_bytes() == (uninterrupted / "leaves.bin").read_bytes()
    finals = [(head.steps, head.status) for head in heads if head.status != "running"]
    seams = [sum(stops[: i + 1]) for i in range(len(stops))]
    assert finals == [(0, "opened"), *((s, status) for s in seams for status in ("stopped", "opened")), (25, "ended")]


def test_a_run_that_ended_stays_as_it_is(tmp_path):
    for _ in range(2):
        heads = []
        train(CONFIG, Open(), recorder(tmp_path, heads=heads))
        assert heads[-1].status == "ended"
    assert len(read_leaves(tmp_path)) == 26


class Crash(Exception):
    pass


def crash_at(directory, step, **options):
    def crash(now, objects):
        if now == step:
            raise Crash

    with pytest.raises(Crash), recorder(directory, **options) as r:
        train(CONFIG, Open(), r, on_step=crash)


def test_after_a_crash_steps_are_made_again_bit_for_bit(tmp_path, uninterrupted):
    crash_at(tmp_path, 17)
    assert len(read_leaves(tmp_path)) == 17  # leaf 17 was not settled
    assert checkpoint_steps(tmp_path) == [0, 10]
    train(CONFIG, Open(), recorder(tmp_path, permit=lambda: b"q" * 32))
    mine, theirs = read_leaves(tmp_path), read_leaves(uninterrupted)
    assert [leaf.state for leaf in mine] == [leaf.state for leaf in theirs]
    assert [leaf.permit for leaf in mine[1:]] == 16 * [PERMIT] + 9 * [b"q" * 32]


def test_a_leaf_that_a_full_disk_cuts_short_is_an_error_and_is_made_again(tmp_path, uninterrupted, monkeypatch):
    real, made = os.pwrite, []

    def cut(file, data, at):
        made.append(at)
        return real(file, data if len(made) < 7 else data[:100], at)

    monkeypatch.setattr(os, "pwrite", cut)
    with pytest.raises(Unavailable, match=r"leaves\.bin: No space left on device") as e, recorder(tmp_path) as r:
        train(CONFIG, Open(), r)
    assert "goes on from the last checkpoint" in e.value.hint
    monkeypatch.setattr(os, "pwrite", real)
    train(CONFIG, Open(), recorder(tmp_path))
    assert read_leaves(tmp_path) == read_leaves(uninterrupted)


def test_a_transcript_never_shrinks(tmp_path):
    heads = []
    crash_at(tmp_path, 17, heads=heads)
    train(CONFIG, Open(2), recorder(tmp_path, heads=heads))  # stops at 12, where 16 steps are on record
    said = [(head.steps, head.status) for head in heads]
    assert said == [(0, "opened"), (10, "running"), (16, "opened"), (16, "stopped")]
    assert heads[-1].state == read_leaves(tmp_path)[16].state.hex()
    assert checkpoint_steps(tmp_path) == [0, 10, 12]
    train(CONFIG, Open(), recorder(tmp_path, heads=heads))
    assert [(head.steps, head.status) for head in heads[4:]] == [(16, "opened"), (20, "running"), (25, "ended")]


def test_another_history_is_not_a_resumed_run(tmp_path, monkeypatch):
    crash_at(tmp_path, 17)

    class Other(Cursor):
        def next(self):
            x, y = super().next()
            return x, y + (self.position == 14)

    before = (tmp_path / "leaves.bin").read_bytes()
    monkeypatch.setitem(globals(), "Cursor", Other)
    with pytest.raises(Misuse, match="step 14") as e, recorder(tmp_path) as r:
        train(CONFIG, Open(), r)
    assert "child run" in e.value.hint
    assert (tmp_path / "leaves.bin").read_bytes() == before


def test_another_configuration_is_not_a_resumed_run(tmp_path):
    train(CONFIG, Open(12), recorder(tmp_path))
    with pytest.raises(Malformed, match="does not fit"), recorder(tmp_path) as r:
        train({**CONFIG, "width": 17}, Open(), r)
    objects = build(CONFIG)
    del objects["scheduler"]
    with pytest.raises(Malformed, match="checkpoint holds"), recorder(tmp_path) as r:
        r.open(**objects)


def test_a_fresh_start_must_be_the_recorded_one(tmp_path):
    crash_at(tmp_path, 5)
    checkpoint_path(tmp_path, 0).unlink()  # as if killed between leaf 0 and checkpoint 0
    with pytest.raises(Misuse, match="step 0"), recorder(tmp_path) as r:
        train({**CONFIG, "seed": 2}, Open(), r)
    train(CONFIG, Open(), recorder(tmp_path))
    assert checkpoint_steps(tmp_path) == [0, 10, 20, 25]


@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * LEAF_BYTES, b"\xff" * (LEAF_BYTES + 3)])
def test_a_torn_or_blank_tail_is_dropped(tmp_path, uninterrupted, tail):
    crash_at(tmp_path, 17)
    with (tmp_path / "leaves.bin").open("ab") as f:
        f.write(tail)
    train(CONFIG, Open(), recorder(tmp_path))
    assert (tmp_path / "leaves.bin").read_bytes() == (uninterrupted / "leaves.bin").read_bytes()


@pytest.mark.parametrize("keep", [5 * LEAF_BYTES, 10 * LEAF_BYTES + 1, 0])
def test_leaves_lost_before_a_checkpoint_are_damage(tmp_path, keep):
    crash_at(tmp_path, 17)
    os.truncate(tmp_path / "leaves.bin", keep)
    with pytest.raises(Malformed), recorder(tmp_path) as r:
        train(CONFIG, Open(), r)
    assert (tmp_path / "leaves.bin").stat().st_size == keep


@pytest.mark.parametrize(
    "write",
    [
        lambda o: o["model"][0].weight.mul_(2),
        lambda o: o["optimizer"].state[o["model"][0].weight]["exp_avg"].zero_(),
    ],
)
def test_weights_must_stand_still_while_they_are_hashed(tmp_path, write):
    def interfere(step, objects):
        if step == 4:
            with torch.no_grad():
                write(objects)

    with pytest.raises(Misuse, match="step 4"), recorder(tmp_path) as r:
        train(CONFIG, Open(), r, on_step=interfere)
    assert len(read_leaves(tmp_path)) == 4  # no leaf holds a torn state


def test_a_settled_recorder_lets_weights_be_written(tmp_path):
    r = recorder(tmp_path)

    def swap(step, objects):
        r.settle()
        with torch.no_grad():
            objects["model"][0].weight.mul_(1.0)

    train(CONFIG, Open(), r, on_step=swap)
    assert len(read_leaves(tmp_path)) == 26


def test_only_one_process_records_a_run(tmp_path):
    with recorder(tmp_path) as first:
        first.open(**build(CONFIG))
        with pytest.raises(Misuse, match="another process"), recorder(tmp_path) as second:
            second.open(**build(CONFIG))


def test_calls_out_of_order_are_refused(tmp_path):
    r = recorder(tmp_path)
    with pytest.raises(Misuse):
        r.step(loss=0.0, batch=torch.zeros(1))
    with pytest.raises(Misuse):
        r.open(rng=Cursor())
    r.open(**build(CONFIG))
    with pytest.raises(Misuse):
        r.open(**build(CONFIG))
    r.stop("stopped")
    r.stop("stopped")
    with pytest.raises(Misuse):
        r.step(loss=0.0, batch=torch.zeros(1))


def test_what_fails_in_the_background_surfaces_at_a_step(tmp_path):
    def unreachable(head):
        if head.status == "running":
            raise Unavailable("the log is away")

    def wait(step, objects):
        time.sleep(0.05 if step == 10 else 0)

    r = Recorder(tmp_path, segment_steps=10, flop_per_step=1, head_every_segments=1, on_head=unreachable, run="run",
                 permit=lambda: PERMIT)  # fmt: skip
    steps = []
    with pytest.raises(Unavailable, match="log is away"), r:
        train(CONFIG, Open(), r, on_step=lambda step, objects: (steps.append(step), wait(step, objects)))
    assert 10 <= steps[-1] <= 20


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_is_data_not_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    crash_at(tmp_path, 12)
    for data in (pickle.dumps(Bomb()), b"", b"junk"):
        checkpoint_path(tmp_path, 10).write_bytes(data)
        with pytest.raises(Malformed), recorder(tmp_path) as r:
            train(CONFIG, Open(), r)
    torch.save({"format": "brakeline/checkpoint/v1", "step": 10, "state": Bomb()}, checkpoint_path(tmp_path, 10))
    with pytest.raises(Malformed), recorder(tmp_path) as r:
        train(CONFIG, Open(), r)
    assert not (tmp_path / "boom").exists()


def script(*arguments):
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.mark.real
def test_a_killed_process_resumes_exactly(tmp_path, uninterrupted):
    path, kill_at = tmp_path / "leaves.bin", random.randint(2, 22)
    process = script("record", tmp_path, kill_at + 2)
    while not path.exists() or path.stat().st_size < kill_at * LEAF_BYTES:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "checkpoints" / "step-00000025.safetensors").exists(), kill_at
    assert script("record", tmp_path, 0).wait() == 0
    assert path.read_bytes() == (uninterrupted / "leaves.bin").read_bytes(), kill_at


# --- the gate of several ranks


def test_without_ranks_the_gate_is_the_gate():
    decision = object()

    class Inner:
        def may_step(self):
            return decision

    assert RankGate(Inner()).may_step() is decision


@pytest.mark.real
def test_one_rank_that_may_not_step_stops_all():
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, "ranks"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert sorted(done.stdout.split()) == ["0:5", "1:5"], done.stderr[-2000:]


def ranks():
    """Only rank 1's gate says no, before its sixth step; both print the steps they made."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    gate, steps, total = RankGate(Open(5 if rank else 10**9)), 0, torch.zeros(1)
    while gate.may_step():
        torch.distributed.all_reduce(total)  # hangs if the other rank is not there
        steps += 1
    sys.stdout.write(f"{rank}:{steps}\n")
    sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "ranks":
        ranks()
    else:
        hang = int(sys.argv[3])
        train(CONFIG, Open(), recorder(Path(sys.argv[2])), on_step=lambda step, _: time.sleep(100 * (step == hang)))
