"""What is owed no more is never owed again: a lab that kept no more than it had to is not made to look guilty."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

from pathlib import Path

import msgspec
import pytest
import torch

from brakeline.core.finding import Fault, Finding
from brakeline.core.state.audits import owed
from brakeline.core.state.codec import decode, encode
from brakeline.training import session
from brakeline.training.audit import inspect
from brakeline.training.prune import plan, remove
from brakeline.training.replays import Looking
from brakeline.training.session import Session
from test_session import recipe
from world import Live, World, key
from worldlab import WorldGate, WorldLab


@pytest.fixture
def pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Live, Path]:
    """An honest run that has ended, was passed, and was pruned when nothing was owed."""
    monkeypatch.setattr(session, "LiveGate", WorldGate)
    torch.set_num_threads(1)
    world = World(audit_segment_steps="4")
    world.bind()
    lab = WorldLab(world, tmp_path / "home")
    Session(lab, recipe(tmp_path), rehearse=None).train()
    evidence = tmp_path / "home" / "runs" / "run"
    run = Live(world, lab.state.runs.names["alpha", "run"])
    for name in ("beta", "gamma"):
        audit = inspect(world.state, run.now, world.heads(run), evidence, name, key(name), Looking(tmp_path / name))
        assert world.log(name, "audit", audit).reason is None
    world.now += world.treaty.audit_within + 1
    world.stamp()
    assert not owed(world.treaty, run.now, world.state.time)
    for kept in plan(world.state, run.now, evidence):
        if kept.goes:
            remove(evidence, kept)
    return world, run, evidence


def late(world: World, run: Live, evidence: Path, name: str, folder: Path):
    return inspect(world.state, run.now, world.heads(run), evidence, name, key(name), Looking(folder / f"late-{name}"))


def test_an_honest_second_look_opens_nothing_again(pruned, tmp_path) -> None:
    world, run, evidence = pruned
    first = late(world, run, evidence, "beta", tmp_path)
    assert first.verdict == "inconclusive"
    assert world.log("beta", "audit", first).reason is None
    second = late(world, run, evidence, "delta", tmp_path)
    assert {f.severity for f in second.findings} == {"gap"}, second.findings
    assert run.now.settlement == "settled"


def test_a_late_lie_does_not_make_others_find_a_fault(pruned, tmp_path) -> None:
    world, run, evidence = pruned
    truth = late(world, run, evidence, "delta", tmp_path)
    lie = Finding(fault=Fault.REPLAY_MISMATCH, severity="violation", segment=(4, 8), detail="it came out otherwise")
    said = msgspec.structs.replace(truth, findings=(lie,), verdict="fail", segments=((4, 8),))
    assert world.log("delta", "audit", said).reason is None
    honest = late(world, run, evidence, "beta", tmp_path)
    assert {f.severity for f in honest.findings} == {"gap"}, honest.findings
    assert run.now.settlement == "settled", "one party's word, which nobody can check any more, holds nobody up"
    assert not owed(world.treaty, run.now, world.state.time)
    assert encode(decode(encode(world.state), world.treaty)) == encode(world.state)
