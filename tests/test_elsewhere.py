"""Audits in another environment than the run's, with real cells: what agrees, what is contested, what opens."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.cli.audit import adopt
from brakeline.core.errors import Misuse
from brakeline.core.finding import Audit, Fault
from brakeline.core.transcript import Leaf, Likeness
from brakeline.training import elsewhere
from brakeline.training.cell import Cell
from brakeline.training.checkpoint import CHECKPOINTS, checkpoint_path, image, write
from brakeline.training.digest import snapshot
from brakeline.training.elsewhere import NARROW, OPENED, Elsewhere
from brakeline.training.environment import PROFILE, keep_profile, profile
from brakeline.training.opening import open_between
from brakeline.training.recipe import Recipe
from brakeline.training.spread import compare

STEPS = 16  # in segments of 4

pytestmark = pytest.mark.real


class There(Cell):
    """A cell on a machine with other kernels than the run's."""

    def __init__(self, *args: Any, variables: Mapping[str, str] = MappingProxyType({}), **more: Any) -> None:
        super().__init__(*args, variables={"ATEN_CPU_CAPABILITY": "default", **variables}, **more)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def recorded(folder: Path, train: Callable[[bench.Run], bench.Train] | None = None) -> bench.Run:
    run = bench.Run("run", STEPS, folder)
    run.session(train and train(run))
    assert run.status == "ended"
    return run


def drifting(share: float) -> Callable[[bench.Run], bench.Train]:
    """A lab that moves the weights by so much of each step in a direction of its own."""

    def made(run: bench.Run) -> bench.Train:
        def train(config: dict[str, Any], gate: Any, recorder: Any) -> None:
            directions: dict[str, torch.Tensor] = {}
            before: dict[str, torch.Tensor] = {}

            class Drifting:
                stop, aside = recorder.stop, recorder.aside

                def open(self, **objects: Any) -> int:
                    self.model = objects["model"]
                    generator = torch.Generator().manual_seed(3)
                    for name, weight in self.model.named_parameters():
                        directions[name] = torch.randn(weight.shape, generator=generator)
                        before[name] = weight.detach().clone()
                    return int(recorder.open(**objects))

                def step(self, **said: Any) -> None:
                    with torch.no_grad():
                        for name, weight in self.model.named_parameters():
                            moved = (weight - before[name]).norm()
                            weight += share * moved * directions[name] / directions[name].norm()
                            before[name] = weight.detach().clone()
                    recorder.step(**said)

            run.code.train(config, gate, Drifting())

        return train

    return made


def kinds(audit: Audit) -> set[tuple[Fault, str]]:
    return {(f.fault, f.severity) for f in audit.findings}


def test_an_honest_run_passes_elsewhere(tmp_path: Path) -> None:
    # Attack A-17, which is none.
    run = recorded(tmp_path)
    audit = run.audit("beta", cell=There)
    assert kinds(audit) == {(Fault.ENVIRONMENT_MISMATCH, "notice")}
    assert audit.verdict == "pass"
    assert audit.environment != run.live.declaration.environment
    assert not any("bit for bit" in f.detail for f in audit.findings), "the kernels differ"
    assert run.audit("gamma").findings == ()


def test_drift_is_contested_elsewhere_and_a_violation_only_where_the_run_was_made(tmp_path: Path) -> None:
    # Attack A-14: a thousandth of each step in a secret direction.
    run = recorded(tmp_path, drifting(1e-3))
    audit = run.audit("beta", cell=There)
    assert (Fault.CONTESTED, "gap") in kinds(audit)
    assert audit.verdict == "inconclusive"
    asked = run.inspect("beta", cell=There, not_shown=True)
    assert (Fault.OPENING_MISSING, "violation") in kinds(asked)
    strict = run.inspect("gamma")
    assert (Fault.REPLAY_MISMATCH, "violation") in kinds(strict)
    with pytest.raises(Misuse, match="comes out otherwise here"):
        open_between(run.live.now, run.evidence, 4, 8, lambda done, total: None)


def test_losses_that_were_not_are_contested_elsewhere(tmp_path: Path) -> None:
    def flattering(run: bench.Run) -> bench.Train:
        def train(config: dict[str, Any], gate: Any, recorder: Any) -> None:
            class Flattering:
                open, stop, aside = recorder.open, recorder.stop, recorder.aside

                def step(self, *, loss: Any, batch: Any) -> None:
                    recorder.step(loss=loss * 0.99, batch=batch)

            run.code.train(config, gate, Flattering())

        return train

    audit = recorded(tmp_path, flattering).audit("beta", cell=There)
    assert kinds(audit) == {(Fault.CONTESTED, "gap")}
    assert "the loss of step 1 of these" in audit.findings[0].detail


def test_states_between_settle_what_a_segment_cannot(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    seen: list[tuple[int, int]] = []
    assert open_between(run.live.now, run.evidence, 4, 8, lambda *at: seen.append(at)) == 3
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for step in (5, 6, 7):
        assert checkpoint_path(run.evidence / OPENED, step).exists()
    assert run.audit("beta", cell=There).verdict == "pass"
    with pytest.raises(Misuse, match="no checkpoints at steps 5 and 8"):
        open_between(run.live.now, run.evidence, 5, 8, lambda *at: None)


def test_what_a_kink_leaves_undecided_the_states_between_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = recorded(tmp_path)

    def kinked(*args: Any, steps: int, **more: Any) -> Likeness:
        return compare(*args, steps=steps, **more) if steps == 1 else Likeness("contested", "a kink")

    monkeypatch.setattr(elsewhere, "compare", kinked)
    part = ((8, 12),)
    audit = run.inspect("beta", cell=There, accused=part)
    assert [(f.fault, f.detail) for f in audit.findings] == [
        (Fault.CONTESTED, "a kink; the state of step 10 is not opened")
    ]
    open_between(run.live.now, run.evidence, 8, 12, lambda done, total: None)
    assert kinds(run.inspect("beta", cell=There, accused=part)) == {(Fault.ENVIRONMENT_MISMATCH, "notice")}
    checkpoint_path(run.evidence / OPENED, 10).write_bytes(b"no state")
    assert kinds(run.inspect("gamma", cell=There, accused=part)) == {(Fault.CONTESTED, "gap")}


def test_one_bad_step_is_found_at_as_many_openings_as_halves(tmp_path: Path) -> None:
    """Formula F-8: of 16 steps, four states between."""
    recipe, seed = Recipe("run", bench.ROOT / "examples" / "train.py", 48, bench.CONFIG), bytes(32)
    shown = tmp_path / "shown"

    def there() -> Cell:
        return There(recipe, recipe.digest, (), shown=())

    (shown / OPENED / CHECKPOINTS).mkdir(parents=True)
    states, leaves = [], []
    with there() as lab:
        lab.facts()
        states.append(lab.run(seed, 0, 16, None).end)
        for step in range(16, 32):
            made = lab.run(seed, step, 1, states[-1])
            assert made.end is not None
            tree = made.end.copy()
            if step == 26:  # a single bad step
                tree["model"]["state"]["norm.bias"] += 1e-4
            states.append(snapshot(tree, lambda *_: True))
            leaves.append(replace(made.leaves[0], state=states[-1].digest()))
    first, last = states[0], states[-1]
    assert first is not None
    leaves.insert(0, Leaf(16, first.digest(), bytes(32), bytes(32), 0.0, 0))
    narrow = partial(Cell, recipe, recipe.digest, (), shown=(), variables=NARROW)
    with (
        Cell(recipe, recipe.digest, (), shown=()) as own,
        Elsewhere(own, narrow, shown, seed, 1, widest=0.005, foreign=("float32",)) as inspector,
    ):
        own.facts()
        again = own.run(seed, 16, 16, first)
        opened = 0
        while (found := inspector.look(leaves, first, last, again, 1)) and found.kind == "undecided":
            opened += 1
            step = int(found.detail.split("the state of step ")[1].split()[0])
            state = states[step - 16]
            assert state is not None
            write(shown / OPENED, image(step, state, state.items(), {}))
    assert found is not None
    assert (found.kind, found.detail.split(":")[0], opened) == ("contested", "step 27", 4)


def test_an_environment_that_nobody_shows_is_none(tmp_path: Path) -> None:
    # Attack A-14 of the cases: any 64 digits were an environment.
    run = recorded(tmp_path)
    (run.evidence / PROFILE).unlink()
    audit = run.audit("beta", cell=There)
    assert (Fault.NOT_VERIFIED, "gap") in kinds(audit)
    assert audit.verdict == "inconclusive"
    assert run.audit("gamma").verdict == "pass", "whoever has that environment needs no profile"


def adopted(evidence: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[str], dict[str, str]]:
    """The command line and environment in which `--match` starts again, where the lab shows a profile with changes."""
    keep_profile({**profile(), **changes}, evidence)
    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(path: str, words: list[str], environ: dict[str, str]) -> None:
        started.append((words, environ))

    monkeypatch.setattr("os.execve", execve)
    adopt(evidence, None)
    return started[0]


def test_an_inspector_takes_on_the_variables_and_threads_that_the_lab_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    shown = {"ATEN_CPU_CAPABILITY": "default", "LD_PRELOAD": "/tmp/evil.so"}
    words, environ = adopted(tmp_path, monkeypatch, variables=shown, threads=3, blas_threads="5")
    assert words[-2:] == ["--threads", "3"]
    assert (environ["ATEN_CPU_CAPABILITY"], environ["OPENBLAS_NUM_THREADS"]) == ("default", "5")
    assert not {"LD_PRELOAD", "MKL_CBWR"} & environ.keys()
    monkeypatch.setenv("BRAKELINE_ADOPTED", "1")
    with pytest.raises(Misuse, match="this is another environment: cpu: A"):
        adopted(tmp_path, monkeypatch, cpu="A")


@pytest.mark.parametrize("changes", [{"variables": {"GLIBC_TUNABLES": "a b"}}, {"blas_threads": "1; rm"}])
def test_a_profile_that_no_process_has_is_not_taken_on(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misuse, match="no process has"):
        adopted(tmp_path, monkeypatch, **changes)


def test_one_s_own_environment_is_not_taken_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.execve", None)
    with pytest.raises(Misuse, match="shows no profile"):
        adopt(tmp_path, None)
    keep_profile(profile(), tmp_path)
    adopt(tmp_path, None)
