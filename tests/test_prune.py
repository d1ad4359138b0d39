"""What may go of a run's checkpoints: nothing that an audit may ask for, and nothing that another checkpoint needs."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

from pathlib import Path

import pytest
import torch

from brakeline.core.errors import Unavailable
from brakeline.core.finding import Fault
from brakeline.training import session
from brakeline.training.audit import inspect
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps, image, write
from brakeline.training.digest import snapshot
from brakeline.training.prune import plan, remove
from brakeline.training.ranks import folder
from brakeline.training.replays import Looking
from brakeline.training.session import Session
from test_session import recipe
from world import Live, World, key
from worldlab import WorldGate, WorldLab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorldLab:
    monkeypatch.setattr(session, "LiveGate", WorldGate)
    torch.set_num_threads(1)
    world = World(audit_segment_steps="4")
    world.bind()
    return WorldLab(world, tmp_path / "home")


def test_what_an_audit_may_ask_for_stays(lab: WorldLab, tmp_path: Path) -> None:
    Session(lab, recipe(tmp_path), rehearse=None).train()  # 14 steps, stopped at 6 and 12
    evidence, world = tmp_path / "home" / "runs" / "run", lab.world
    run = Live(world, lab.state.runs.names["alpha", "run"])
    assert checkpoint_steps(evidence) == [0, 4, 6, 8, 12, 14]

    def going(every: int = 0) -> list[int]:
        return [kept.step for kept in plan(world.state, run.now, evidence, every=every) if kept.goes]

    assert going() == []
    assert [k.why for k in plan(world.state, run.now, evidence)][2].startswith("a head stands there")
    world.now += world.treaty.audit_within + 1
    world.stamp()
    assert going() == [6], "its head can be audited no more, and no segment begins there"
    for inspector in ("beta", "gamma"):
        how = Looking(tmp_path / inspector)
        audit = inspect(world.state, run.now, world.heads(run), evidence, inspector, key(inspector), how)
        assert audit.verdict == "pass"
        assert world.log(inspector, "audit", audit).reason is None
    assert run.now.settlement == "settled"
    assert going() == [4, 6, 8, 12]
    assert going(every=2) == [4, 8], "each second one stays"
    for kept in plan(world.state, run.now, evidence):
        if kept.goes:
            remove(evidence, kept)
    assert checkpoint_steps(evidence) == [0, 14]
    # An inspector who comes now finds what is still there, and no fault in the rest.
    late = inspect(world.state, run.now, world.heads(run), evidence, "delta", key("delta"), Looking(tmp_path / "delta"))
    assert {(f.fault, f.severity) for f in late.findings} == {(Fault.OPENING_MISSING, "gap")}
    assert late.verdict == "inconclusive"


def test_what_is_missing_while_it_is_owed_is_a_fault(lab: WorldLab, tmp_path: Path) -> None:
    Session(lab, recipe(tmp_path), rehearse=None).train()
    evidence, world = tmp_path / "home" / "runs" / "run", lab.world
    run = Live(world, lab.state.runs.names["alpha", "run"])
    for kept in plan(world.state, run.now, evidence):
        if 0 < kept.step < 14:
            remove(evidence, kept)
    asked = (world.state, run.now, world.heads(run), evidence, "beta", key("beta"), Looking(tmp_path / "beta"))
    with pytest.raises(Unavailable, match="step-00000004"):
        inspect(*asked)  # the lab has signed that there is more: another copy may have it
    audit = inspect(*asked, not_shown=True)
    assert (Fault.OPENING_MISSING, "violation") in {(f.fault, f.severity) for f in audit.findings}


def test_what_a_later_one_refers_to_stays(lab: WorldLab, tmp_path: Path) -> None:
    Session(lab, recipe(tmp_path), rehearse=None).train()
    evidence, world = tmp_path / "home" / "runs" / "run", lab.world
    run = Live(world, lab.state.runs.names["alpha", "run"])
    base, held = torch.zeros(1 << 19), dict[str, int]()
    for step in (4, 6, 14):
        (evidence / "checkpoints" / f"step-{step:08d}.safetensors").unlink()
        it = snapshot({"base": base}, lambda *_: True)
        made = image(step, it, it.items(), held)
        write(evidence, made)
        held = made.held
        base = base if step == 4 else base + 1
    world.now += world.treaty.audit_within + 1
    world.stamp()
    assert [k.step for k in plan(world.state, run.now, evidence) if k.goes] == [6]
    it = snapshot({"base": base - 1}, lambda *_: True)
    for part in (folder(evidence, 1), evidence):  # of another rank too
        (part / "checkpoints").mkdir(parents=True, exist_ok=True)
        checkpoint_path(part, 14).unlink(missing_ok=True)
        write(part, image(14, it, it.items(), dict.fromkeys(held, 6)))
        last = plan(world.state, run.now, evidence)
        assert [k.step for k in last if k.goes] == []
        assert last[2].why == "a later one refers to it"
