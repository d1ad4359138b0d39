"""Replay of recorded segments: the same bits here, close bits elsewhere, and a cheat in neither.

Run as a script, this file replays a segment in another environment and prints what it got.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import train as example

from brakeline.core.errors import Malformed, Misuse, Refused, Unavailable
from brakeline.core.transcript import Segments
from brakeline.training.checkpoint import checkpoint_path, image, load_checkpoint, write
from brakeline.training.digest import snapshot
from brakeline.training.environment import VARIABLES, digest, profile
from brakeline.training.recorder import Recorder, read_leaves
from brakeline.training.replay import replay, rerun

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


def test_replay_needs_only_the_opened_checkpoint(evidence):
    for step in (0, 20, 25):
        checkpoint_path(evidence, step).unlink()
    got = replay(example.train, CONFIG, evidence, 10, 20)
    assert got.leaves == read_leaves(evidence)[11:21]
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
