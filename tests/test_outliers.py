"""What stands out from its neighbours is replayed beside the sample: glued runs are found, and nobody is accused."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.errors import Unavailable
from brakeline.core.finding import Fault
from brakeline.core.transcript import Segments
from brakeline.training import survey as module
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.digest import capture, restore
from brakeline.training.outliers import LEAST, by_counts, by_losses, by_updates, foremost, repeated
from brakeline.training.survey import moved, remembered

ROOT = Path(__file__).parents[1]
STEPS, GLUE = 400, 200

anything = st.floats(allow_nan=True, allow_infinity=True)
series = st.lists(anything, max_size=80)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# --- the numbers alone


def walk(n: int, seed: int = 0) -> np.ndarray:
    return 2.0 + 0.1 * np.random.default_rng(seed).standard_normal(n)


def losses_of(segments: list[float], size: int = 4) -> list[float]:
    return [0.0, *(loss for loss in segments for _ in range(size))]


@given(series)
@settings(max_examples=150, deadline=None)
def test_any_losses_have_a_score_for_each_segment(losses):
    parts = Segments(max(0, len(losses) - 1), 4)
    scores = by_losses(losses, parts)
    assert len(scores) == len(parts)
    assert not np.isnan(scores).any()


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), anything), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_updates_have_a_score_for_each_segment(sizes):
    scores = by_updates(sizes)
    assert len(scores) == len(sizes)
    assert not np.isnan(scores).any()
    assert all(scores[i] == 0 for i, it in enumerate(sizes) if not it), "what was not measured stands out by nothing"


@given(series)
@settings(max_examples=100, deadline=None)
def test_any_counts_have_a_score_for_each_segment(advance):
    scores = by_counts(advance)
    assert len(scores) == len(advance)
    assert not np.isnan(scores).any()


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
@settings(max_examples=50, deadline=None)
def test_a_scale_changes_no_score(seed, scale):
    sizes = walk(60, seed)
    assert np.allclose(by_updates([{"w": x} for x in sizes]), by_updates([{"w": x * scale} for x in sizes]), rtol=1e-4)
    parts = Segments(60 * 4, 4)
    losses = np.array(losses_of(list(sizes)))
    assert np.allclose(by_losses(losses, parts), by_losses(losses * scale, parts), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", range(6))
def test_a_tiny_run_has_nothing_that_stands_out_at_its_ends(n):
    assert foremost(by_updates([{"w": 1.0 + i} for i in range(n)]), 4) == []
    assert foremost(by_losses(losses_of([1.0] * n), Segments(4 * n, 4)), 4) == []


def test_a_schedule_does_not_stand_out():
    """Warm-up, a tenth after each third, and down to zero: each moves a size away from one side only."""
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(300))
    at = np.arange(300)
    drops = 0.1 ** (at // 100)
    cosine = np.minimum((at + 1) / 30, 0.5 + 0.5 * np.cos(np.pi * at / 300) + 1e-3)
    for schedule in (drops, cosine):
        scores = by_updates([{"w": x} for x in schedule * noise])
        assert scores.max() < 2 * LEAST
        borders = {0, 99, 100, 199, 200, 299}
        assert not borders & set(foremost(scores, 4))


@pytest.mark.parametrize("of", [30, 8.0, 1e-3, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("at", [3, 150, 296])
def test_one_update_of_another_size_stands_out_first(of, at):
    sizes = walk(300)
    sizes[at] = of
    assert foremost(by_updates([{"w": x, "other": 1.0} for x in sizes]), 4)[0] == at


def test_a_loss_that_leaps_or_changes_its_level_stands_out():
    spike, level = walk(100), walk(100)
    spike[50], level[50:] = 9.0, level[50:] + 3.0
    for losses in (spike, level):
        found = foremost(by_losses(losses_of(list(losses)), Segments(400, 4)), 2)
        assert found
        assert all(abs(i - 50) <= 1 for i in found)


def test_losses_that_are_not_finite_hide_nothing_elsewhere():
    losses = walk(200)
    losses[20], losses[150] = math.nan, 9.0
    found = foremost(by_losses(losses_of(list(losses)), Segments(800, 4)), 4)
    assert {20, 150} <= {i + d for i in found for d in (0, 1)}


def test_what_never_changes_does_not_stand_out():
    assert by_losses(losses_of([0.7] * 50), Segments(200, 4)).max() < 0.01
    for size in (0.0, 1.0, math.nan, math.inf):
        assert not by_updates([{"w": size}] * 50).any()
    assert not by_counts([4.0] * 50).any()


def test_of_more_segments_more_are_looked_at():
    """A share of the compute that stays below a thousandth, and is never nothing."""
    for n, most in ((100, 4), (6000, 4), (60_000, 40)):
        assert len(foremost(np.full(n, LEAST), 4)) == most
    assert foremost(np.full(10, LEAST - 0.1), 4) == []


def test_a_counter_that_does_not_advance_with_the_steps():
    advance = [1.0] * 50
    advance[7], advance[30] = 101.0, 0.0
    assert foremost(by_counts([*advance, math.nan]), 4) == [7, 30]


def test_states_that_come_again():
    """A-06: repeated, reversed, and the step at which it begins."""
    states = [bytes([i]) for i in range(20)]
    assert repeated(states) == []
    assert repeated([*states[:12], *states[4:20]]) == [12]
    assert repeated([*states, *states[-2::-1]]) == [20]
    assert repeated([*states[:5], b"x", *states[:5], b"y", *states[:5]]) == [6, 12]
    assert repeated([b"same"] * 9) == [1], "steps that change nothing are one stretch"


def test_what_a_segment_moved():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.Adam(model.parameters())
    states = []
    for _ in range(4):
        states.append(capture({"model": model, "optimizer": adam}).copy())
        model(torch.randn(5, 3)).square().sum().backward()
        adam.step()
    (first, *others) = [moved(a, b) for a, b in pairwise(states)]
    assert math.isnan(first.advance), "an optimizer has no state before its first step"
    assert all(m.advance == 4 for m in others), "one a tensor"
    assert set(others[0].sizes) == {
        "model weight", "model bias", "model running_mean", "model running_var", "optimizer exp_avg",
        "optimizer exp_avg_sq",
    }  # fmt: skip
    weights = [torch.cat([s["model"]["state"][k].flatten() for k in ("0.weight", "1.weight")]) for s in states[1:3]]
    assert others[0].sizes["model weight"] == pytest.approx(float((weights[1] - weights[0]).norm()))
    several = [{f"{rank}:{name}": value for rank in range(2) for name, value in s.items()} for s in states[1:3]]
    assert moved(*several).sizes["model weight"] == pytest.approx(others[0].sizes["model weight"] * 2**0.5)


@pytest.mark.parametrize("step", [10**400, -(2**80), math.inf, "4", None, torch.ones(2), torch.tensor(1j), []])
def test_a_counter_may_be_anything(step):
    state = {"o": {"param_groups": [], "state": {0: {"step": step}}}}
    assert math.isnan(moved(state, state).advance)


# --- real runs, the real inspector


class Another:
    """What a lab does that glues: up to a step its own run, from there on another one's weights and moments. Counters,
    data and random numbers go on as they should."""

    def __init__(self, recorder, at, state):
        self.recorder, self.at, self.state, self.done = recorder, at, state, 0

    def open(self, **objects):
        self.objects = objects
        return self.recorder.open(**objects)

    def step(self, *, loss, batch):
        self.done += 1
        if self.done == self.at:
            self.objects["model"].load_state_dict(self.state["model"]["state"])
            for new, old in zip(
                self.state["optimizer"]["state"].values(), self.objects["optimizer"].state.values(), strict=True
            ):
                for key in ("exp_avg", "exp_avg_sq"):
                    old[key].copy_(new[key])
        self.recorder.step(loss=loss, batch=batch)

    def stop(self, status):
        self.recorder.stop(status)


class Elsewhere:
    """A recorder that keeps the state of a step."""

    def __init__(self, at):
        self.at, self.done = at, 0

    def open(self, **objects):
        self.objects = objects
        return 0

    def may_step(self):
        return self.done < self.at

    def step(self, **_):
        self.done += 1

    def stop(self, _):
        self.state = capture(self.objects).copy()


@pytest.mark.parametrize("inspector", ["beta", "gamma", "delta"])
@pytest.mark.parametrize("jump", [0, 400], ids=["another run", "400 steps later"])
def test_two_runs_glued_in_the_middle_are_caught(tmp_path, inspector, jump):
    """A-05: 3 of 3 passed when the draw alone looked."""
    run = bench.Run(f"glued-{inspector}", STEPS, tmp_path)

    def train(config, gate, recorder):
        other = Elsewhere(GLUE + jump)
        seed = config["seed"] if jump else "ab" * 32
        run.code.train({**config, "seed": seed, "steps": STEPS + jump}, other, other)
        run.code.train(config, gate, Another(recorder, GLUE + 2, other.state))

    run.session(train)
    audit = run.audit(inspector)
    joint = (GLUE, GLUE + bench.SEGMENT)
    assert joint in remembered(tmp_path / f"{inspector}-{len(run.world.heads(run.live))}").chosen
    assert audit.verdict == "fail"
    assert {(f.fault, f.segment) for f in audit.findings} == {(Fault.REPLAY_MISMATCH, joint)}


def test_an_honest_run_whose_rate_drops_passes(tmp_path, monkeypatch):
    source = (ROOT / "examples" / "train.py").read_text()
    cosine = 'CosineAnnealingLR(optimizer, T_max=c["steps"])'
    assert cosine in source
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "train.py").write_text(source.replace(cosine, "StepLR(optimizer, step_size=60)"))
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    run = bench.Run("drops", 160, tmp_path)
    run.session()
    audit = run.audit("beta")
    assert audit.verdict == "pass"
    assert set(run.world.required("beta", run.live)) <= set(audit.segments)


def test_a_segment_made_twice_is_replayed(tmp_path):
    """A-06: the run goes back to an earlier state, whole, and makes the same steps again."""
    run = bench.Run("twice", 48, tmp_path)

    def train(config, gate, recorder):
        class Back(Elsewhere):
            def open(self, **objects):
                self.objects = objects
                return recorder.open(**objects)

            def step(self, **said):
                self.done += 1
                if self.done == 16:
                    self.state = capture(self.objects).copy()
                elif self.done == 30:
                    restore(self.objects, self.state)
                recorder.step(**said)

            def stop(self, status):
                recorder.stop(status)

        run.code.train(config, gate, Back(16))

    run.session(train)
    audit = run.audit("beta")
    assert (28, 32) in {f.segment for f in audit.findings if f.fault is Fault.REPLAY_MISMATCH}


def test_checkpoints_that_are_not_shown_hide_no_joint(tmp_path):
    run = bench.Run("hidden", 160, tmp_path)
    run.session()
    checkpoint_path(run.evidence, 84).unlink()
    with pytest.raises(Unavailable):
        run.audit("beta")
    memory = tmp_path / f"beta-{len(run.world.heads(run.live))}"
    assert remembered(memory) is None, "the whole copy is measured when it comes"
    audit = run.audit("beta", not_shown=True)
    assert (84, 88) in {f.segment for f in audit.findings if f.fault is Fault.OPENING_MISSING}


def test_a_small_budget_draws_what_is_measured(tmp_path, monkeypatch):
    run = bench.Run("budget", 160, tmp_path)
    run.session()
    size = module._bytes(run.evidence, 160, 1)
    monkeypatch.setattr(module, "BUDGET", 20 * size)
    assert run.audit("beta").verdict == "pass"
    found = remembered(tmp_path / f"beta-{len(run.world.heads(run.live))}")
    assert found.segments == 40
    assert 8 <= found.measured <= 10
    one, two = (module._affordable(40, size, (3, 30), bytes([i]) * 32) for i in range(2))
    assert {3, 30} <= set(one) & set(two)
    assert one != two
    assert module._bytes(tmp_path, 0, 1) > module.BUDGET, "without a list nothing is read"
    assert module._affordable(5, module.BUDGET + 1, (), bytes(32)) == []
