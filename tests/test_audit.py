"""What a lab may show an inspector instead of evidence: none of it ends the audit, and none of it passes."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import audit as bench

from brakeline.core.errors import Misuse, Refused, Unavailable
from brakeline.core.finding import Answer, Audit, Fault, Finding, verdict
from brakeline.core.sampling import miss
from brakeline.core.statement import open_envelope
from brakeline.core.transcript import LEAF_BYTES, Segments
from brakeline.training import audit as module
from brakeline.training.audit import Looking, inspect
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.manifests import MANIFESTS
from brakeline.training.recipe import MANIFEST, RECIPE
from brakeline.training.recorder import LEAVES, read_leaves
from brakeline.training.replay import Rerun
from brakeline.training.session import PERMITS
from brakeline.training.shown import Leaves, permits
from world import World, key

ROOT = Path(__file__).parents[1]
STEPS = 24


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def recorded(folder: Path, train: Callable[[bench.Run], bench.Train] | None = None) -> bench.Run:
    run = bench.Run("run", STEPS, folder)
    run.session(train and train(run))
    assert run.status == "ended"
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
    """What was found, without what is measured beside the replays (`test_measured`)."""
    return {(f.fault, f.severity) for f in audit.findings} - {(Fault.NOT_VERIFIED, "notice")}


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

    for inspector, where, said in (("beta", nullcontext(), "fail"), ("delta", bench.elsewhere(1), "inconclusive")):
        folder = tmp_path / inspector
        run = recorded(folder, frozen)
        with where:
            assert run.audit(inspector).verdict == said
            assert run.audit(inspector).verdict == said, "from memory"


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
    with pytest.raises(Unavailable, match="recipe"):
        run.audit("beta")
    audit = run.audit("beta", not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    assert audit.segments == ()


def test_a_recipe_does_not_lead_to_what_is_the_inspectors_own(tmp_path):
    run = recorded(tmp_path)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "word.txt").write_text("hunter2")
    shown = run.evidence / RECIPE
    manifest = json.loads((shown / MANIFEST).read_bytes())
    for path, link, target in (
        ("word.txt", "word.txt", tmp_path / "private" / "word.txt"),
        ("lib/word.txt", "lib", tmp_path / "private"),
        ("loop", "loop", "loop"),
    ):
        (shown / link).symlink_to(target)
        files = [*manifest["files"], {"digest": "00" * 32, "path": path, "size": 7}]
        spoiled_manifest("files", files)(run)
        audit = run.audit("beta", not_shown=True)
        assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}, "no digest of it is logged"
        (shown / link).unlink()


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
    assert run.live.settlement != "settled"


def test_a_second_inspector_confirms_on_the_accused_steps_alone(tmp_path):
    run = bench.Run("cheat", STEPS, tmp_path)
    run.session(bench.smuggle(sys.modules[run.code.train.__module__], 1.0, bench.SEGMENT))
    segment = run.audit("beta").findings[0].segment
    assert not run.live.bar
    confirmed = run.audit("delta", accused=(segment,))
    assert confirmed.segments == (segment,)
    assert confirmed.verdict == "partial"
    assert (run.live.bar.fault, run.live.bar.segment) == (Fault.REPLAY_MISMATCH, segment)


# --- what a lab may size


class Never(bench.Bare):
    """A cell that nobody may start."""

    def __enter__(self):
        raise AssertionError("the lab's code is run on a transcript that it never committed to")


def claims(folder: Path, steps: int, **changes: str) -> bench.Run:
    """A run that logs a head at `steps` and has trained none of them; what it shows is the recipe alone."""
    run = bench.Run("claims", STEPS, folder)
    world = run.world = World(**{**bench.TREATY, "scope_prohibited_above": '"1e40 FLOP"', **changes})
    world.bind()
    run.live = world.declare(
        "alpha", name="claims", recipe=run.recipe.digest, steps=steps, segment_steps=world.treaty.segment_steps
    )
    world.head(run.live, "opened")
    head = world.head_of(run.live, "running", steps=0)
    flop = str(steps * run.live.declaration.step_flop)
    assert world.log("alpha", "head", msgspec.structs.replace(head, steps=steps, flop=flop)).reason is None
    world.stamp()
    return run


@pytest.mark.parametrize(
    ("steps", "leaves", "fault", "detail"),
    [
        (2**50, 4, Fault.OPENING_MISSING, f"4 leaves shown, the head covers {2**50 + 1}"),
        (2**33, 2**33 + 1, Fault.HEAD_MISSING, "no head was logged between steps 0 and"),
        (2**33, 2**33 - 1, Fault.OPENING_MISSING, "leaves shown, the head covers"),
    ],
    ids=["2**50 steps", "a file of holes", "a shorter one"],
)
def test_a_head_that_claims_all_the_steps_there_are(tmp_path, monkeypatch, steps, leaves, fault, detail):
    """None of them is listed, and nothing of what is shown is read, however long it is."""
    run = claims(tmp_path, steps)
    with (run.evidence / LEAVES).open("wb") as f:
        f.truncate(leaves * LEAF_BYTES)
    monkeypatch.setattr(Leaves, "_read", lambda self: pytest.fail("read"))
    audit = run.audit("beta", cell=Never, not_shown=True)
    assert faults(audit) == {(fault, "violation")}
    assert detail in audit.findings[0].detail
    assert (audit.verdict, audit.segments, audit.flop) == ("fail", (), "0")
    assert len(run.audit("delta", accused=((0, steps), (4, 8)), cell=Never, not_shown=True).findings) == 1
    if fault is Fault.OPENING_MISSING:  # before it counts, the lab has its time to answer
        assert run.live.bar is None
        run.world.stamp(run.world.treaty.answer_within)
        for inspector in ("beta", "delta"):
            run.audit(inspector, cell=Never, not_shown=True)
    assert run.live.bar.fault == fault


def test_a_file_of_holes_within_the_cadence_ends_at_its_second_leaf(tmp_path):
    run = claims(tmp_path, 2**33, audit_segment_steps=str(10**9), audit_head_every="9")
    with (run.evidence / LEAVES).open("wb") as f:
        f.truncate((2**33 + 1) * LEAF_BYTES)
    audit = run.audit("beta", cell=Never, not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    assert audit.findings[0].detail == "the leaves are damaged"


def test_memory_that_does_not_hold_the_transcript_accuses_nobody(tmp_path, monkeypatch):
    def full(self):
        raise MemoryError

    run = recorded(tmp_path)
    monkeypatch.setattr(Leaves, "_read", full)
    assert faults(run.audit("beta", cell=Never)) == {(Fault.NOT_REPLAYED, "gap")}


def test_a_lab_that_trains_on_is_audited_up_to_its_head(tmp_path):
    """Of what it adds meanwhile, half a leaf among it, nothing counts against it."""
    run = recorded(tmp_path)
    with (run.evidence / LEAVES).open("ab") as f:
        f.write(b"\xff" * (3 * LEAF_BYTES + 5))
    assert run.audit("beta").verdict == "pass"


def test_a_transcript_that_was_not_committed_is_not_replayed(tmp_path):
    """A replay of other steps must not stand in an audit: it would deny what others found in the real ones."""
    run = recorded(tmp_path)
    data = bytearray((run.evidence / LEAVES).read_bytes())
    data[9 * LEAF_BYTES + 50] ^= 1
    (run.evidence / LEAVES).write_bytes(data)
    with pytest.raises(Unavailable, match=r"leaves\.bin is older than what the lab signed, or damaged"):
        run.audit("beta", cell=Never)
    audit = run.audit("beta", cell=Never, not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}
    assert audit.segments == ()


def test_permits_are_read_as_far_as_they_can_be_permits(tmp_path):
    run = recorded(tmp_path)
    path = run.evidence / PERMITS
    real = path.read_bytes()
    foreign = run.world.sealed(run.world.request(run.live, nonce="0" * 32))
    path.write_bytes(b"junk\n" + foreign + b"\n" + real + foreign + b"\n")
    with path.open("ab") as f:
        f.truncate(1 << 40)
    named = {leaf.permit for leaf in read_leaves(run.evidence)[1:]}
    kept = permits(run.evidence, read_leaves(run.evidence))
    assert {bytes.fromhex(open_envelope(p).digest) for p in kept} == named
    path.write_bytes(real + b"junk\n" + foreign + b"\n")
    assert run.audit("beta").verdict == "pass"
    path.unlink()
    with pytest.raises(Unavailable, match=r"permits\.jsonl"):
        run.audit("delta")
    audit = run.audit("delta", not_shown=True)
    assert faults(audit) == {(Fault.OPENING_MISSING, "violation")}


def test_an_audit_carries_as_many_findings_as_the_treaty_allows(tmp_path, monkeypatch):
    """Treaty 7.10: with one more it would be void, and a cheat who cheats everywhere would never be caught."""
    monkeypatch.setitem(bench.TREATY, "audit_findings", "2")
    run = bench.Run("cheat", STEPS, tmp_path)
    run.session(bench.smuggle(sys.modules[run.code.train.__module__], 1.0, bench.SEGMENT))
    audit = run.audit("beta")
    assert len(audit.findings) == 2 < len(audit.segments)
    assert audit.verdict == "fail"


def test_of_too_many_findings_the_gravest_are_kept():
    def found(severity, step):
        return Finding(fault=Fault.REPLAY_MISMATCH, severity=severity, segment=(step, step + 4), detail="")

    findings = tuple(found(s, i) for i, s in enumerate(("notice", "gap", "notice", "violation", "gap", "violation")))
    for most in range(1, 7):
        kept = module._gravest(findings, most)
        assert len(kept) == most
        assert verdict(kept) == "fail"
        assert list(kept) == [f for f in findings if f in kept]
    assert verdict(module._gravest(findings[:3], 1)) == verdict(findings[:3]) == "inconclusive"


# --- what is asked, and what is not


def test_what_is_alleged_of_no_segment_is_denied_by_passing_the_whole(tmp_path):
    """Treaty 7.7. Steps that no segment bounds are not replayed: an accuser could ask for the whole run."""
    run = recorded(tmp_path)
    logged = run.live.heads[-1]
    alleged = Finding(fault=Fault.NO_PERMIT, severity="violation", segment=(1, STEPS - 1), detail="invented")
    lie = run.world.audit_of("delta", run.live, alleged, segments=(), verdict="fail", head=logged.index)
    assert run.world.log("delta", "audit", lie).reason is None
    (a,) = run.live.open_allegations
    for inspector in ("beta", "gamma"):
        audit = run.audit(inspector, accused=(a.segment,))
        assert audit.verdict == "pass"
        assert set(audit.segments) == set(run.world.required(inspector, run.live))
    assert run.live.open_allegations == ()
    assert run.live.bar is None
    assert run.live.settlement == "settled"


@pytest.mark.parametrize("part", [(4, 4), (8, 4), (-4, 0), (3, 7), (4, 12), (STEPS, STEPS + 4), (0, 2**50)])
def test_only_segments_are_replayed(tmp_path, part):
    heads = [SimpleNamespace(head=SimpleNamespace(steps=s)) for s in (0, 10, STEPS)]
    run = SimpleNamespace(segments=lambda steps: Segments(steps, 4, (5,)))
    assert not module._is_segment(run, heads, part)
    assert module._is_segment(run, heads, (4, 5))  # a move cut it
    assert module._is_segment(run, heads, (5, 8))
    assert module._is_segment(run, heads, (8, 10))  # a head cut it short
    assert not module._is_segment(run, heads, (8, 11))


def test_permits_are_judged_even_where_the_code_does_not_run(tmp_path, monkeypatch):
    run = declared(tmp_path, monkeypatch, ROOT_OF_DATA, "raise KeyError('data')")
    (run.evidence / PERMITS).unlink()
    audit = run.audit("beta", not_shown=True)
    assert faults(audit) == {(Fault.NOT_REPLAYED, "gap"), (Fault.OPENING_MISSING, "violation")}
    assert len(audit.findings) == 2  # and none for each segment that the code was not asked for


def test_what_cannot_be_audited(tmp_path):
    run = bench.Run("run", STEPS, tmp_path)
    with pytest.raises(Refused, match="no head yet"):
        run.inspect("beta")
    run.session()
    assert run.inspect("alpha").verdict == "pass", "a lab looks for itself, and the log takes nothing of it"
    with pytest.raises(Unavailable, match="no evidence at"):
        inspect(run.world.state, run.live.now, run.world.heads(run.live), tmp_path / "none", "beta", key("beta"),
                Looking(tmp_path / "memory"))  # fmt: skip
    assert run.inspect("beta").verdict == "pass"
    world = run.world
    attested = world.opened("alpha", name="attested", rung="attested", segment_steps=bench.SEGMENT)
    world.stamp()
    with pytest.raises(Misuse, match="nothing of it to execute again"):
        inspect(world.state, attested.now, world.heads(attested), run.evidence, "beta", key("beta"),
                Looking(tmp_path / "memory"))  # fmt: skip


def test_a_head_without_a_stamp_has_no_sample_yet(tmp_path):
    run = recorded(tmp_path)
    other = run.world.opened("alpha", name="other", segment_steps=bench.SEGMENT)
    (run.evidence / MANIFESTS).unlink()
    with pytest.raises(Refused, match="wait for the next stamp"):
        inspect(run.world.state, other.now, run.world.heads(other), run.evidence, "beta", key("beta"),
                Looking(tmp_path / "memory"))  # fmt: skip


def test_a_head_of_another_run_is_none_of_this_one(tmp_path):
    run = recorded(tmp_path)
    other = run.world.opened("alpha", name="other", segment_steps=bench.SEGMENT)
    heads = [*run.world.heads(run.live), *run.world.heads(other)]
    with pytest.raises(Refused, match="no head of this run"):
        inspect(run.world.state, run.live.now, heads, run.evidence, "beta", key("beta"), Looking(tmp_path / "m"))


def test_the_benches_bounds():
    assert bench.at_most(50) == pytest.approx(0.0582, abs=1e-4)
    assert float(miss(110, 55, 5)) < 0.05 < float(miss(110, 55, 4))


# --- who is accused, and who is not


def test_another_runs_evidence_is_no_fault_of_this_one(tmp_path):
    one, two = recorded(tmp_path / "one"), bench.Run("another", STEPS, tmp_path / "two")
    two.session()
    two.evidence = one.evidence
    with pytest.raises(Misuse, match="is the evidence of another run"):
        two.audit("beta")


def test_a_copy_of_before_is_fetched_again(tmp_path):
    """A mirror that is older than the head: an honest run was barred for it, and the brake tripped for all."""
    run = bench.Run("run", STEPS, tmp_path)
    copy = tmp_path / "copy"
    run.events = {STEPS // 2: lambda: shutil.copytree(run.evidence, copy)}
    run.session()
    run.evidence = copy
    for inspector in ("beta", "delta"):
        with pytest.raises(Unavailable, match="is signed for the head") as e:
            run.audit(inspector)
        assert "fetch the evidence again" in e.value.hint
    assert run.live.open_allegations == ()


@pytest.mark.parametrize("answers", [True, False])
def test_what_is_not_shown_counts_once_the_lab_had_its_time(tmp_path, answers):
    run = recorded(tmp_path)
    kept = tmp_path / "kept"
    checkpoint_path(run.evidence, 4).rename(kept)
    for inspector in ("beta", "delta"):
        run.audit(inspector, accused=((4, 8),), not_shown=True)
    assert run.live.bar is None
    assert len(run.live.open_allegations) == 1
    if answers:
        kept.rename(checkpoint_path(run.evidence, 4))
        body = Answer(run=run.live.id, fault=Fault.OPENING_MISSING, segment=(4, 8), text="it is there now")
        assert run.world.log("alpha", "answer", body).reason is None
        for inspector in ("beta", "delta"):
            run.audit(inspector, accused=((4, 8),))
        assert run.live.open_allegations == ()
        assert run.live.bar is None
        return
    run.world.stamp(run.world.treaty.answer_within)
    for inspector in ("beta", "delta"):
        assert run.live.bar is None
        run.audit(inspector, accused=((4, 8),), not_shown=True)
    assert run.live.bar.fault == Fault.OPENING_MISSING


def test_a_recipe_that_does_not_agree_with_itself_accuses_nobody(tmp_path, monkeypatch):
    run = recorded(tmp_path)
    real = bench.Bare.run
    monkeypatch.setattr(bench.Bare, "run", lambda *a, **k: noisy(real(*a, **k)))
    audit = run.audit("beta")
    assert faults(audit) == {(Fault.NOT_REPRODUCIBLE, "gap")}
    assert audit.verdict == "inconclusive"


def noisy(done: Rerun) -> Rerun:
    return done._replace(leaves=tuple(replace(leaf, state=os.urandom(32)) for leaf in done.leaves))


def test_a_cheat_is_made_again_before_it_is_accused(tmp_path, monkeypatch):
    run = bench.Run("cheat", STEPS, tmp_path)
    run.session(bench.smuggle(sys.modules[run.code.train.__module__], 1.0, bench.SEGMENT))
    made: list[int] = []
    real = bench.Bare.run
    monkeypatch.setattr(bench.Bare, "run", lambda *a, **k: (made.append(a[2]) if a[3] else None) or real(*a, **k))
    audit = run.audit("beta")
    accused = {f.segment[0] for f in audit.findings if f.severity == "violation"}
    assert accused
    assert all(made.count(start) == 2 for start in accused)
    assert all(made.count(start) == 1 for start, _ in audit.segments if start not in accused)
