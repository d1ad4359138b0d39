"""Replay of recorded segments: the same bits here, close bits elsewhere, and a cheat in neither.

Run as a script, this file replays a segment in another environment and prints what it got.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import train as example

from brakeline.core.errors import Malformed, Misuse, Refused, Unavailable
from brakeline.core.transcript import Segments
from brakeline.training.checkpoint import checkpoint_path, image, load_checkpoint, write
from brakeline.training.digest import snapshot
from brakeline.training.environment import VARIABLES, digest, profile
from brakeline.training.recorder import Recorder, read_leaves
from brakeline.training.replay import compare_update, replay, rerun

CONFIG = {"seed": "5e" * 32, "steps": 25, "layers": 1, "width": 16, "context": 32, "batch": 4, "corpus_bytes": 100_000}
SEGMENT = 10
# Honest runs elsewhere measure 1e-5 to 3e-4 here, the mildest cheats (bf16 for float32, a learning rate 1 % off) 2e-2.
HONEST = 5e-3


class Open:
    def may_step(self):
        return True


def record(directory, train=example.train, config=CONFIG):
    recorder = Recorder(directory, segment_steps=SEGMENT, flop_per_step=example.flop_per_step(config), on_head=None,
                        head_every_segments=1, run="run", permit=lambda: b"p" * 32)  # fmt: skip
    with recorder:
        train(config, Open(), recorder)
    return directory


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    torch.set_num_threads(1)
    return record(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def evidence(tmp_path, honest):
    return Path(shutil.copytree(honest, tmp_path / "evidence"))


# --- honest


@pytest.mark.parametrize(("start", "end"), list(Segments(CONFIG["steps"], SEGMENT)))
def test_every_segment_replays_bit_for_bit(honest, start, end):
    leaves = read_leaves(honest)
    got = replay(example.train, CONFIG, honest, start, end)
    assert (got.start, got.end, got.environment) == (start, end, digest(profile()))
    assert got.start_state == leaves[start].state
    assert got.leaves == leaves[start + 1 : end + 1]
    assert (got.update_error, got.rho) == (0.0, 1.0)


def test_replay_needs_only_the_opened_checkpoint(evidence):
    for step in (0, 20, 25):
        checkpoint_path(evidence, step).unlink()
    got = replay(example.train, CONFIG, evidence, 10, 20)
    assert got.leaves == read_leaves(evidence)[11:21]
    assert (got.update_error, got.rho) == (None, None)
    with pytest.raises(Unavailable):
        replay(example.train, CONFIG, evidence, 20, 25)


def test_a_part_of_a_segment_can_be_replayed(honest):
    assert replay(example.train, CONFIG, honest, 10, 13).leaves == read_leaves(honest)[11:14]


@pytest.mark.parametrize(("start", "end"), [(10, 10), (20, 10), (-10, 0), (20, 26)])
def test_what_is_not_recorded_cannot_be_replayed(honest, start, end):
    with pytest.raises(Misuse):
        replay(example.train, CONFIG, honest, start, end)


def test_the_data_order_is_a_function_of_the_seed():
    assert example.dataset_root(CONFIG) == example.dataset_root(CONFIG) != example.dataset_root({"corpus_bytes": 99})

    def third(seed):
        data = example.Data({**example.DEFAULTS, **CONFIG, "seed": seed})
        data.step = 2
        return data.next()[0]

    assert torch.equal(third("01"), third("01"))
    assert not torch.equal(third("01"), third("02"))


def test_compute_is_counted_as_6nd():
    parameters = sum(p.numel() for p in example.GPT({**example.DEFAULTS, **CONFIG}).parameters())
    assert example.flop_per_step(CONFIG) == 6 * parameters * 4 * 32


# --- cheats


def test_other_data_under_the_declared_digest_is_seen(tmp_path, monkeypatch):
    def cheat(config, gate, recorder):
        """Feeds other data at step 14 and declares the batch that the recipe prescribes."""
        prescribed, fed = example.Data.next, {}

        class Declares:
            open, stop = recorder.open, recorder.stop

            def step(self, *, loss, batch):
                recorder.step(loss=loss, batch=fed.pop(14, batch))

        def other(self):
            x, y = prescribed(self)
            if self.step == 14:
                fed[14] = (x, y)
                x = (x + 1) % 256
            return x, y

        with monkeypatch.context() as patch:
            patch.setattr(example.Data, "next", other)
            example.train(config, gate, Declares())

    record(tmp_path, cheat)
    leaves = read_leaves(tmp_path)
    first, middle, last = (replay(example.train, CONFIG, tmp_path, *part) for part in Segments(25, SEGMENT))
    assert [leaf.batch for leaf in middle.leaves] == [leaf.batch for leaf in leaves[11:21]]
    assert [leaf.state == leaves[leaf.step].state for leaf in middle.leaves] == 3 * [True] + 7 * [False]
    assert middle.update_error > 10 * HONEST
    # The others are consistent in themselves: only the sample finds the bad one.
    assert first.leaves + last.leaves == leaves[1:11] + leaves[21:]


def test_weights_trained_before_do_not_pass_as_initial(tmp_path):
    def warm(config, gate, recorder):
        class Warm:
            step, stop = recorder.step, recorder.stop

            def open(self, **objects):
                with torch.no_grad():
                    objects["model"].norm.weight.mul_(1.001)
                return recorder.open(**objects)

        example.train(config, gate, Warm())

    record(tmp_path, warm)
    got = replay(example.train, CONFIG, tmp_path, 0, 10)
    assert got.start_state != read_leaves(tmp_path)[0].state
    assert got.leaves[0].state != read_leaves(tmp_path)[1].state


def put(evidence, step, tree):
    checkpoint_path(evidence, step).unlink()
    state = snapshot(tree, lambda *_: True)
    write(evidence, image(step, state, list(state.items()), {}))


@pytest.mark.parametrize("component", ["model", "optimizer", "scheduler", "data", "rng"])
def test_a_doctored_checkpoint_is_not_the_recorded_state(evidence, component):
    tree = load_checkpoint(evidence, 10).tree
    doctored = {
        "model": lambda: tree["model"]["state"]["norm.bias"].add_(1e-6),
        "optimizer": lambda: tree["optimizer"]["state"][0]["exp_avg"].mul_(1.001),
        "scheduler": lambda: tree["scheduler"].update(last_epoch=0),
        "data": lambda: tree["data"].update(step=3),
        "rng": lambda: tree["rng"]["python"]["words"][0].add_(1),
    }
    doctored[component]()
    put(evidence, 10, tree)
    # Nor may it stand at a segment's end, to make the update look right.
    for part in ((10, 20), (0, 10)):
        with pytest.raises(Refused, match="step 10"):
            replay(example.train, CONFIG, evidence, *part)


def test_a_checkpoint_of_another_step_is_refused(evidence):
    shutil.copy(checkpoint_path(evidence, 20), checkpoint_path(evidence, 10))
    with pytest.raises(Malformed):
        replay(example.train, CONFIG, evidence, 10, 20)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"rng": {}},
        {"rng": {}, "model": 1, "optimizer": 2, "scheduler": 3, "data": {}},
        {"rng": [[[]]] * 3},
    ],
)
def test_a_checkpoint_that_holds_no_state_is_refused(evidence, state):
    put(evidence, 10, state)
    with pytest.raises((Malformed, Refused)):
        replay(example.train, CONFIG, evidence, 10, 20)


def test_a_state_that_does_not_fit_what_train_builds_is_malformed(honest):
    before = load_checkpoint(honest, 10)
    with pytest.raises(Malformed, match="does not fit"):
        rerun(example.train, {**CONFIG, "width": 8}, before, 10, 10)


def test_a_state_without_weights_has_no_update_to_compare(honest):
    tree = load_checkpoint(honest, 10).tree
    bare = {name: tree[name] for name in ("data", "rng")}
    assert compare_update(bare, tree, tree) == (None, None)
    assert compare_update(tree, tree, tree) == (0.0, 1.0)


def test_a_loop_that_breaks_its_contract_is_told_so(honest):
    def deaf(config, gate, recorder):
        example.train(config, Open(), recorder)

    def idle(config, gate, recorder):
        pass

    def broken(config, gate, recorder):
        raise ZeroDivisionError

    for train in (deaf, idle, broken):
        with pytest.raises(Misuse):
            replay(train, CONFIG, honest, 0, 10)


def test_a_loop_that_gives_up_early_yields_fewer_leaves(honest):
    got = replay(example.train, {**CONFIG, "steps": 15}, honest, 10, 20)
    assert len(got.leaves) == 5
    assert got.update_error is None


# --- environments


def test_the_profile_names_what_decides_the_bits(monkeypatch):
    here = digest(profile())
    assert digest(profile()) == here
    for name in VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "strange")
            assert digest(profile()) != here
    torch.set_num_threads(2)
    assert digest(profile()) != here
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        assert digest(profile()) != here
    finally:
        torch.set_default_dtype(torch.float32)
    assert digest(profile()) == here


@pytest.mark.real
def test_an_honest_run_elsewhere_is_close_and_a_cheat_is_not(honest):
    # Attack A-17: other threads, other kernels. Bits differ, the update hardly does.
    leaves, here = read_leaves(honest), digest(profile())
    isa = "default" if torch.backends.cpu.get_cpu_capability() == "AVX2" else "avx2"
    environ = {**os.environ, "ATEN_CPU_CAPABILITY": isa}
    run = [sys.executable, __file__, str(honest)]
    there = json.loads(subprocess.run(run, env=environ, capture_output=True, text=True, check=True).stdout)
    assert there["environment"] != here
    assert there["batches"] == [leaf.batch.hex() for leaf in leaves[1:11]]
    assert there["states"] != [leaf.state.hex() for leaf in leaves[1:11]]
    assert 0 < there["update_error"] < HONEST
    assert abs(there["rho"] - 1) < HONEST


def rounded(config, gate, recorder):
    """Activations and weights rounded to 1/8 in every matrix product that `F.linear` makes here (attack A-15)."""
    linear = F.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", lambda x, w, b=None: linear(x + ((x * 8).round() / 8 - x).detach(), w, b))
        example.train(config, gate, recorder)


def half(config, gate, recorder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        example.train(config, gate, recorder)


@pytest.mark.parametrize("cheat", [rounded, half])
def test_cheaper_arithmetic_is_no_environment(tmp_path, cheat):
    # A declared environment nobody else has would forgive different bits: the size of the difference does not.
    record(tmp_path, cheat)
    errors = [replay(example.train, CONFIG, tmp_path, start, end).update_error for start, end in Segments(25, SEGMENT)]
    assert min(errors) > 2 * HONEST


def test_other_hyperparameters_show_in_the_first_segment(tmp_path):
    # They lie in the optimizer's state, which later segments open as recorded: the first one, always replayed, starts
    # from the configuration instead.
    record(tmp_path, config={**CONFIG, "lr": example.DEFAULTS["lr"] * 1.01})
    first, *rest = (replay(example.train, CONFIG, tmp_path, *part) for part in Segments(25, SEGMENT))
    assert first.start_state != read_leaves(tmp_path)[0].state
    assert first.update_error > 1.5 * HONEST
    assert [got.update_error for got in rest] == [0.0, 0.0]


def test_an_update_of_nothing_explains_nothing(tmp_path):
    frozen = {**CONFIG, "lr": 0.0}
    record(tmp_path, config=frozen)
    got = replay(example.train, CONFIG, tmp_path, 0, 10)
    assert (got.update_error, got.rho) == (float("inf"), 0.0)
    got = replay(example.train, frozen, tmp_path, 0, 10)
    assert (got.update_error, got.rho) == (0.0, 1.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = replay(example.train, CONFIG, sys.argv[1], 0, 10)
    json.dump(
        {
            "environment": found.environment,
            "batches": [leaf.batch.hex() for leaf in found.leaves],
            "states": [leaf.state.hex() for leaf in found.leaves],
            "update_error": found.update_error,
            "rho": found.rho,
        },
        sys.stdout,
    )
