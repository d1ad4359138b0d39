"""What a lab may show an inspector instead of evidence: none of it ends the audit, and none of it passes."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.finding import Audit, Fault
from brakeline.core.sampling import miss
from brakeline.training.recipe import MANIFEST
from brakeline.training.recorder import checkpoint_path
from brakeline.training.session import RECIPE

ROOT = Path(__file__).parents[1]
STEPS = 24


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def recorded(folder: Path, train: Callable[[bench.Run], bench.Train] | None = None) -> bench.Run:
    run = bench.Run("run", STEPS, folder)
    run.session(train and train(run))
    assert run.record.last.status == "ended"
    return run


def declared(folder: Path, monkeypatch: pytest.MonkeyPatch, before: str, more: str) -> bench.Run:
    """A run of a lab whose declared code has `more` before a line of examples/train.py: what only an inspector meets.

    Trained first, then loaded anew, as the inspector's process would.
    """
    source = (ROOT / "examples" / "train.py").read_text()
    assert source.count(before) == 1
    (folder / "examples").mkdir()
    there = f"import os; there = {str(folder / 'inspecting')!r}"
    changed = source.replace(before, f"    {there}\n    if os.path.exists(there): {more}\n{before}")
    (folder / "examples" / "train.py").write_text(changed)
    monkeypatch.setattr(bench, "ROOT", folder)
    run = recorded(folder)
    (folder / "inspecting").touch()
    return run


def faults(audit: Audit) -> set[tuple[Fault, str]]:
    return {(f.fault, f.severity) for f in audit.findings}


def test_an_honest_run_passes_twice_and_the_second_time_from_memory(tmp_path):
    run = recorded(tmp_path)
    first = run.audit("beta")
    assert first.verdict == "pass"
    assert len(first.segments) >= 2
    for start, _ in first.segments:
        checkpoint_path(run.evidence, start).unlink()
    assert run.audit("beta") == first


def test_weights_that_never_move_are_found_here_and_elsewhere(tmp_path):
    # The recorded movement is zero, so the relative error is infinite, which no JSON number says.
    def frozen(run: bench.Run) -> bench.Train:
        def train(config, gate, recorder):
            run.code.train({**config, "lr": 0.0}, gate, recorder)

        return train

    for inspector, where in (("beta", nullcontext()), ("delta", bench.elsewhere(1))):
        folder = tmp_path / inspector
        run = recorded(folder, frozen)
        with where:
            assert run.audit(inspector).verdict == "fail"
            assert run.audit(inspector).verdict == "fail", "from memory"


def spoiled_manifest(key: str, value: object) -> Callable[[bench.Run], None]:
    def spoil(run: bench.Run) -> None:
        path = run.evidence / RECIPE / MANIFEST
        text = json.dumps({**json.loads(path.read_bytes()), key: value}, sort_keys=True, separators=(",", ":"))
        path.write_text(text)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: (run.evidence / RECIPE / "train.py").unlink(),
        spoiled_manifest("steps", "many"),
        spoiled_manifest("steps", []),
        spoiled_manifest("source", "a\0.py"),
        spoiled_manifest("source", "../train.py"),
    ],
    ids=["no source", "steps in words", "steps in a list", "a NUL", "another folder"],
)
def test_a_recipe_that_is_not_shown_counts_against_the_lab(tmp_path, spoil):
    run = recorded(tmp_path)
    spoil(run)
    audit = run.audit("beta")
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    assert audit.segments == ()


ROOT_OF_DATA = "    digest = hashlib.sha256()\n"
SEEDING = '    seed_generators(int(c["seed"], 16))\n'


@pytest.mark.parametrize(
    ("before", "more"),
    [
        (ROOT_OF_DATA, "raise KeyError('data')"),
        (ROOT_OF_DATA, "raise SystemExit(0)"),
        (SEEDING, "raise SystemExit(0)"),
        (SEEDING, r"raise ValueError('\ud800')"),
        (SEEDING, "raise type('Evil', (Exception,), {'__str__': lambda self: 1 / 0})"),
    ],
    ids=["data raises", "data exits", "train exits", "words that cannot be signed", "no words"],
)
def test_code_that_fails_before_the_inspector_is_a_gap_and_never_a_pass(tmp_path, monkeypatch, before, more):
    run = declared(tmp_path, monkeypatch, before, more)
    audit = run.audit("beta")
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap")}
    assert audit.verdict == "inconclusive"
    assert not run.world.fold.audited(run.record)


def test_a_second_inspector_confirms_on_the_accused_steps_alone(tmp_path):
    run = bench.Run("cheat", STEPS, tmp_path)
    run.session(bench.smuggle(sys.modules[run.code.train.__module__], 1.0, bench.SEGMENT))
    segment = run.audit("beta").findings[0].segment
    assert not run.record.barred
    confirmed = run.audit("delta", accused=(segment,))
    assert confirmed.segments == (segment,)
    assert confirmed.verdict == "partial"
    assert run.record.barred.startswith(Fault.REPLAY_MISMATCH)


def test_the_benches_bounds():
    assert bench.at_most(50) == pytest.approx(0.0582, abs=1e-4)
    assert float(miss(110, 55, 5)) < 0.05 < float(miss(110, 55, 4))
