"""Recipes, and a lab's session: from a file to a declared run, through every stop, on a world's log."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from brakeline.core.errors import Malformed, Misuse, Refused, Unavailable
from brakeline.core.finding import Fault
from brakeline.core.gate import NO_PERMIT
from brakeline.core.statement import MAX_BYTES, open_envelope
from brakeline.core.transcript import Head
from brakeline.training import recipe as recipes
from brakeline.training import session
from brakeline.training.audit import inspect
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.diagnosis import Cause
from brakeline.training.recipe import MANIFEST, RECIPE, Recipe, deposited, read_recipe
from brakeline.training.recorder import LEAVES, read_leaves
from brakeline.training.rehearsal import Rehearsal, segment_steps
from brakeline.training.replays import Looking
from brakeline.training.session import PERMITS, Session, evidence_permits
from world import Live, World, key
from worldlab import WorldGate, WorldLab

SOURCE = '''
import torch
from brakeline.training.digest import seed_generators


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
    return 10**9


def train(config, gate, recorder):
    seed_generators(int(config["seed"], 16))
    model, data = torch.nn.Linear(8, 1), Data()
    step = recorder.open(model=model, data=data)
    while step < config["steps"] and gate.may_step():
        x = data.next()
        loss = (model(x) - 1).square().mean()
        for name, weight in list(model.named_parameters()):
            (g,) = torch.autograd.grad(loss, weight, retain_graph=True)
            setattr(model, name, torch.nn.Parameter((weight - config["lr"] * g).detach()))
        step += 1
        recorder.step(loss=loss, batch=x)
    recorder.stop("ended" if step == config["steps"] else "stopped")
'''
FILE = 'name = "run"\nentry = "code.py"\nsteps = 14\n'
CONFIG = "[config]\nlr = 0.1\n"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def written(folder: Path, more: str = "", source: str = SOURCE) -> Path:
    (folder / "code.py").write_text(source)
    path = folder / "recipe.toml"
    path.write_text(FILE + more + CONFIG)
    return path


def recipe(folder: Path, more: str = "") -> Recipe:
    return read_recipe(written(folder, more))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorldLab:
    monkeypatch.setattr(session, "LiveGate", WorldGate)
    world = World(audit_segment_steps="4")  # a permit allows six steps beyond the last head
    world.bind()
    return WorldLab(world, tmp_path / "home")


@pytest.mark.parametrize("name", ["../keys", "/tmp/run", "a/b", ".hidden", "-x", "", "a" * 65, "😀", "a b", "a\\n"])
def test_a_run_has_no_folder_but_its_own(name: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    line = f"name = {json.dumps(name, ensure_ascii=False)}"
    path.write_text(re.sub("^name = .*$", lambda _: line, path.read_text(), flags=re.MULTILINE))
    with pytest.raises(Malformed, match="is no name of a run that is recorded"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("raised", "words"),
    [("ValueError('width -1')", "ValueError: width -1"), ("SystemExit(0)", r"it ends its process: sys\.exit\(0\)")],
)
@pytest.mark.parametrize("function", ["dataset_root", "flop_per_step", "train"])
def test_what_a_recipe_raises_is_said_with_its_place(
    function: str, raised: str, words: str, lab: WorldLab, tmp_path: Path
) -> None:
    fails = f"def {function}(*_):\n    raise {raised}\n\n\ndef _{function}("
    source = SOURCE.replace(f"def {function}(", fails)
    with pytest.raises(Malformed, match=rf"code\.py, line \d+: {words}"):
        train(lab, read_recipe(written(tmp_path, source=source)))


def train(lab: Any, it: Recipe, **how: Any) -> Head:
    return Session(lab, it, **{"rehearse": None, **how}).train()


# --- recipes


def test_a_recipe_says_what_its_machines_are(tmp_path: Path) -> None:
    plain = recipe(tmp_path)
    assert (plain.chips, plain.flop_per_second, plain.domain, plain.purpose, plain.parents) == (1, 0, "", "", ())
    said = recipe(tmp_path, 'chips = 512\nflop_per_second = "400 TFLOP/s"\ndomain = "biology"\n')
    assert (said.chips, said.flop_per_second, said.domain) == (512, 4 * 10**14, "biology")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('flop_per_second = "400 TFLOP"', "not a rate"),
        ("flop_per_second = 400", "flop_per_second"),
        ("chips = -1", "chips"),
        ("chips = 1000000001", "chips"),
        ('chips = "many"', "chips"),
        ("domain = 1", "domain"),
        ('chip = "1"', "chip"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        recipe(tmp_path, line + "\n")


def test_the_digest_is_of_code_and_configuration_alone(tmp_path: Path) -> None:
    """What a lab declares beside them changes no code: the same recipe on other machines, or for another purpose."""
    plain = recipe(tmp_path)
    for more in ('chips = 9\n', 'flop_per_second = "1 GFLOP/s"\n', 'domain = "x"\n', 'purpose = "inference"\n',
                 f'parents = ["{"ab" * 32}"]\n'):  # fmt: skip
        assert recipe(tmp_path, more).digest == plain.digest
    for other in (replace(plain, steps=15), replace(plain, config={"lr": 0.2}), replace(plain, name="other")):
        assert other.digest != plain.digest
    before = plain.digest
    (tmp_path / "code.py").write_text(SOURCE + "\n")
    assert plain.digest != before


def test_the_digest_is_fixed_for_ever(tmp_path: Path) -> None:
    # Old declarations must still fit: another digest for an old recipe would be a change of format.
    (tmp_path / "code.py").write_text("x = 1\n")
    fixed = Recipe("run", tmp_path / "code.py", 14, {"lr": 0.5, "layers": 2}, "inference", (), 8, 10**14, "x")
    assert fixed.digest == "5b4b26183ffab80a2ec94c21caa490acf3dc2bc3a4561638d942215578d2e064"


def test_what_is_deposited_is_the_recipe_and_nothing_beside_it(tmp_path: Path) -> None:
    said = recipe(tmp_path, 'chips = 512\ndomain = "biology"\n')
    said.deposit(tmp_path / "evidence")
    again = deposited(tmp_path / "evidence")
    assert again.digest == said.digest
    assert (again.chips, again.domain) == (1, "")
    assert set((tmp_path / "evidence").iterdir()) == {tmp_path / "evidence" / n for n in ("code.py", MANIFEST)}


def test_what_an_inspector_would_not_read_is_refused_before_it_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = recipe(tmp_path)
    monkeypatch.setattr(recipes, "MAX_BYTES", 100)
    for act in (lambda: it.digest, lambda: it.deposit(tmp_path / "e"), it.load):
        with pytest.raises(Malformed, match=r"code\.py is longer than 100 bytes"):
            act()
    monkeypatch.undo()
    monkeypatch.setattr(recipes, "MAX_MANIFEST", 20)
    with pytest.raises(Malformed, match="configuration takes"):
        _ = it.digest
    (tmp_path / "code.py").unlink()
    with pytest.raises(Unavailable, match=r"code\.py"):
        it.load()


# --- permits kept


def test_a_torn_permit_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A run killed while it kept a permit keeps the next one whole: without it, honest steps would look unpermitted."""
    made = Session.__new__(Session)
    made.evidence = tmp_path
    assert list(evidence_permits(tmp_path)) == []
    made._keep_permit(b"first")
    with (tmp_path / PERMITS).open("ab") as f:
        f.write(b"sec")
    made._keep_permit(b"third")
    made._keep_permit(b"fourth")
    with (tmp_path / PERMITS).open("ab") as f:
        f.write(b"\ntorn")
    assert list(evidence_permits(tmp_path)) == [b"first", b"sec", b"third", b"fourth"]


def test_a_line_without_end_ends_the_permits(tmp_path: Path) -> None:
    """A file of holes is as long as anybody likes: no more of it is read than a permit can be long."""
    longest = b"x" * MAX_BYTES
    with (tmp_path / PERMITS).open("wb") as f:
        f.write(longest + b"\nsecond\n")
        f.truncate(1 << 40)
    assert list(evidence_permits(tmp_path)) == [longest, b"second"]


# --- sessions


def test_a_session_declares_what_the_recipe_says_and_ends_through_its_stops(lab: WorldLab, tmp_path: Path) -> None:
    more = 'chips = 8\nflop_per_second = "400 TFLOP/s"\ndomain = "biology"\n'
    head = train(lab, recipe(tmp_path, more))
    assert (head.steps, head.status) == (14, "ended")
    run = lab.state.run(lab.state.runs.names["alpha", "run"])
    d = run.declaration
    assert (d.rung, d.chips, d.rate, d.domain) == ("re-executable", 8, 4 * 10**14, "biology")
    # Each permit allows six steps beyond the last head; then it stops, and goes on.
    assert lab.said == [
        *((0, "opened"), (6, "stopped"), (6, "opened"), (12, "stopped"), (12, "opened"), (14, "ended")),
    ]
    leaves = read_leaves(tmp_path / "home" / "runs" / "run")
    kept = {bytes.fromhex(open_envelope(p).digest) for p in evidence_permits(tmp_path / "home" / "runs" / "run")}
    assert {leaf.permit for leaf in leaves[1:]} == kept
    assert len(kept) == 3
    assert NO_PERMIT not in kept
    lab.world.stamp()
    live = Live(lab.world, run.id)
    evidence, memory = tmp_path / "home" / "runs" / "run", tmp_path / "memory"
    audit = inspect(lab.world.state, live.now, lab.world.heads(live), evidence, "beta", key("beta"), Looking(memory))
    assert audit.verdict == "pass"
    assert lab.world.log("beta", "audit", audit).reason is None


def test_a_session_that_has_ended_says_so_again_and_logs_nothing(lab: WorldLab, tmp_path: Path) -> None:
    first = train(lab, recipe(tmp_path))
    size = len(lab.world.entries)
    assert train(lab, recipe(tmp_path)) == first
    assert len(lab.world.entries) == size


@pytest.mark.parametrize("line", [f'domain = "{"x" * 65}"', r'domain = "a\nb"', 'parents = ["ab"]'])
def test_a_declaration_that_would_be_void_is_not_signed(lab: WorldLab, tmp_path: Path, line: str) -> None:
    size = len(lab.world.entries)
    with pytest.raises(Malformed):
        train(lab, recipe(tmp_path, line + "\n"))
    assert len(lab.world.entries) == size


def test_another_recipe_is_another_run(lab: WorldLab, tmp_path: Path) -> None:
    train(lab, recipe(tmp_path))
    with pytest.raises(Refused, match="another recipe"):
        train(lab, read_recipe(written(tmp_path, source=SOURCE + "\n")))


def interrupted(lab: WorldLab, it: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that stopped at step 6, its process gone. Returns its evidence."""
    once = Session._once

    def only_once(self: Session, run: Any) -> None:
        monkeypatch.setattr(Session, "_once", lambda self, run: (_ for _ in ()).throw(KeyboardInterrupt))
        once(self, run)

    monkeypatch.setattr(Session, "_once", only_once)
    with pytest.raises(KeyboardInterrupt):
        train(lab, it)
    monkeypatch.setattr(Session, "_once", once)
    assert lab.said[-1] == (6, "stopped")
    return Path(lab.home.path) / "runs" / "run"


@pytest.mark.parametrize("lost", ["the folder", "half of it"])
def test_yesterdays_copy_of_the_evidence_is_found_before_anything_is_signed(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Going on from less than what is logged would log another past of the run; heads of it would be void for ever."""
    evidence, size = interrupted(lab, recipe(tmp_path), monkeypatch), len(lab.world.entries)
    shutil.copytree(evidence, tmp_path / "today")
    if lost == "the folder":
        shutil.rmtree(evidence)
    else:
        with (evidence / LEAVES).open("r+b") as f:
            f.truncate(4 * 128)
    with pytest.raises(Misuse, match=f"holds {0 if lost == 'the folder' else 3} steps of run, the log 6") as e:
        train(lab, recipe(tmp_path))
    assert "newest copy" in e.value.hint
    assert len(lab.world.entries) == size
    shutil.rmtree(evidence, ignore_errors=True)
    shutil.copytree(tmp_path / "today", evidence)
    assert train(lab, recipe(tmp_path)).status == "ended"
    assert (evidence / RECIPE / MANIFEST).exists()
    assert all(outcome.reason is None for _, outcome in lab.outcomes)


# --- what is compared at every opening


def test_a_run_that_goes_on_elsewhere_says_so_first(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = interrupted(lab, recipe(tmp_path), monkeypatch)
    size = len(lab.world.entries)
    torch.set_num_threads(2)
    with pytest.raises(Misuse, match="run was trained in another environment: threads is 2, was 1") as e:
        train(lab, recipe(tmp_path))
    assert "--moved" in e.value.hint
    assert len(lab.world.entries) == size
    assert train(lab, recipe(tmp_path), moved=True).status == "ended"
    lab.world.stamp()
    run = lab.state.run(lab.state.runs.names["alpha", "run"])
    assert [m.steps for m in run.moves] == [6]
    assert all(outcome.reason is None for _, outcome in lab.outcomes)
    # Each stretch is judged where it was made: who looks with one thread is strict up to the move, and not beyond it.
    live = Live(lab.world, run.id)
    torch.set_num_threads(1)
    how = Looking(tmp_path / "memory")
    audit = inspect(lab.world.state, live.now, lab.world.heads(live), evidence, "beta", key("beta"), how)
    assert {(4, 6), (6, 8)} <= set(audit.segments), "a move is a seam"
    elsewhere = {f.segment for f in audit.findings}
    assert {f.fault for f in audit.findings} == {Fault.ENVIRONMENT_MISMATCH}
    assert elsewhere == {part for part in audit.segments if part[0] >= 6}
    assert audit.verdict == "pass"
    assert lab.world.log("beta", "audit", audit).reason is None


def test_a_killed_run_moves_from_its_last_checkpoint(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps beyond it are in no head; made again elsewhere, they would contradict their leaves."""
    evidence = interrupted(lab, recipe(tmp_path), monkeypatch)
    with (evidence / LEAVES).open("ab") as f:
        f.write(replace(read_leaves(evidence)[-1], step=7).encode())
    torch.set_num_threads(2)
    assert train(lab, recipe(tmp_path), moved=True).status == "ended"
    assert [m.steps for m in lab.state.run(lab.state.runs.names["alpha", "run"]).moves] == [6]


def test_a_move_that_is_refused_cuts_nothing(lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged can then still be made again where it was made."""
    evidence = interrupted(lab, recipe(tmp_path), monkeypatch)
    path = checkpoint_path(evidence, 6)
    path.rename(tmp_path / "aside")
    torch.set_num_threads(2)
    with pytest.raises(Misuse, match="from which it would go on, is not there"):
        train(lab, recipe(tmp_path), moved=True)
    torch.set_num_threads(1)
    assert len(read_leaves(evidence)) == 7
    assert train(lab, recipe(tmp_path)).status == "ended"


def test_a_run_that_is_killed_right_after_its_move_is_not_held_to_what_was_made_elsewhere(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(lab, recipe(tmp_path), monkeypatch)
    torch.set_num_threads(2)
    once = Session._once
    monkeypatch.setattr(Session, "_once", lambda self, run: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(lab, recipe(tmp_path), moved=True)
    monkeypatch.setattr(Session, "_once", once)
    torch.set_num_threads(3)
    with pytest.raises(Misuse, match="threads is 3, was 2"):  # not as it was declared: as it was last
        train(lab, recipe(tmp_path))
    torch.set_num_threads(2)
    assert train(lab, recipe(tmp_path)).status == "ended"
    assert not [text for text in lab.told if text.startswith("replaying")]


def test_a_run_without_a_step_has_nothing_to_cut_for_other_ranks(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inspector builds the state of step 0 with the ranks that go on from it, and finds another than recorded."""
    source = SOURCE.replace("    while step", "    if step == 0:\n        raise KeyboardInterrupt\n    while step")
    path = written(tmp_path, source=source)
    with pytest.raises(KeyboardInterrupt):
        train(lab, read_recipe(path))
    size = len(lab.world.entries)
    monkeypatch.setattr("brakeline.training.ranks.count", lambda: 2)
    with pytest.raises(Misuse, match="no checkpoint beyond step 0") as e:
        train(lab, read_recipe(path), moved=True)
    assert e.value.hint == "--ranks 1"
    assert len(lab.world.entries) == size


def test_a_run_whose_last_steps_do_not_come_out_the_same_does_not_go_on(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shaken = SOURCE.replace("x = data.next()", "x = data.next() + (0 if data.step != 5 else float(open(NOISE).read()))")
    noise = tmp_path / "noise"
    noise.write_text("0.0")
    path = written(tmp_path, source=f"NOISE = {str(noise)!r}\n{shaken}")
    interrupted(lab, read_recipe(path), monkeypatch)
    noise.write_text("0.5")
    size = len(lab.world.entries)
    with pytest.raises(Misuse, match="run does not go on: step 5, made again, has another batch") as e:
        train(lab, read_recipe(path))
    assert "--unchecked" in e.value.hint
    assert len(lab.world.entries) == size
    noise.write_text("0.0")
    assert train(lab, read_recipe(path)).status == "ended"
    assert lab.told.count("replaying steps 4 to 6 before going on") == 2


def test_other_data_than_declared_is_found_before_a_step(
    lab: WorldLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.write_text("da")
    path = written(tmp_path, source=SOURCE.replace('return "da" * 32', f"return open({str(data)!r}).read() * 32"))
    interrupted(lab, read_recipe(path), monkeypatch)
    data.write_text("db")
    with pytest.raises(Misuse, match="the data of run is not what was declared: dbdb"):
        train(lab, read_recipe(path))


def test_what_fails_its_rehearsal_is_declared_only_on_the_labs_word(lab: WorldLab, tmp_path: Path) -> None:
    said = list[str]()

    def fails(recipe: Recipe, environment: str, folder: Path, tell: Any) -> Rehearsal:
        said.append(environment)
        cause = Cause("step 3 has another batch", "pass data=loader")
        return Rehearsal(steps=8, causes=(cause,), notes=(), distributions=(), first=1, checkpoint=1, seconds=0.1)

    size = len(lab.world.entries)
    with pytest.raises(Misuse, match="the rehearsal failed: step 3 has another batch") as e:
        train(lab, recipe(tmp_path), rehearse=fails)
    assert "pass data=loader" in e.value.hint
    assert "--attested" in e.value.hint
    assert len(lab.world.entries) == size
    assert not (tmp_path / "home" / "runs" / "run" / RECIPE).exists()
    assert train(lab, recipe(tmp_path), rehearse=fails, attested=True).status == "ended"
    assert len(said) == 1
    assert lab.state.run(lab.state.runs.names["alpha", "run"]).declaration.rung == "attested"


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [("", 4), ("1 s", 10), ("1 min", 600), ("2 h", 1000), ("0 s", 4), ("52128 kB", 20), ("1 TB", 4), ("1 kB", 1000)],
)
def test_a_segment_is_as_long_as_a_checkpoint_may_cost(wanted: str, steps: int) -> None:
    passed = Rehearsal(steps=8, causes=(), notes=(), distributions=(), first=2_000_000, checkpoint=10**6, seconds=0.1)
    assert segment_steps(wanted, passed, least=4, most=1000) == steps


def test_how_long_a_segment_is_is_measured_not_guessed(lab: WorldLab, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="how many steps '1 min' are, a rehearsal measures"):
        train(lab, recipe(tmp_path, 'segment = "1 min"\n'))
    passed = Rehearsal(steps=8, causes=(), notes=(), distributions=(), first=1, checkpoint=1, seconds=0.1)
    with pytest.raises(Malformed, match="segment: 'often' is no duration and no size"):
        train(lab, recipe(tmp_path, 'segment = "often"\n'), rehearse=lambda *_: passed)
    assert train(lab, recipe(tmp_path, 'segment = "1 min"\n'), rehearse=lambda *_: passed).status == "ended"
    run = lab.state.run(lab.state.runs.names["alpha", "run"])
    assert run.declaration.segment_steps == 4  # the treaty knows of no longer one


def test_a_loop_that_is_no_training_is_gated_and_counted(lab: WorldLab, tmp_path: Path) -> None:
    """Rollouts that call tools cannot be made again: the run is attested, and stops at a unit of work all the same."""
    source = SOURCE[: SOURCE.index("class Data")] + """
import os


class Policy:
    def __init__(self):
        self.rewards = []

    def act(self):
        return {"action": len(self.rewards) % 3, "seen": os.urandom(4)}  # a world that no replay knows

    def learn(self, rollout):
        self.rewards.append(float(rollout["action"]))
        return -sum(self.rewards)

    def state_dict(self):
        return {"rewards": self.rewards}

    def load_state_dict(self, state):
        self.rewards = list(state["rewards"])


def dataset_root(config):
    return "da" * 32


def flop_per_step(config):
    return 10**9


def train(config, gate, recorder):
    policy = Policy()
    step = recorder.open(policy=policy)
    while step < config["steps"] and gate.may_step():
        rollout = policy.act()
        loss = policy.learn(rollout)
        step += 1
        recorder.step(loss=loss, batch=rollout)
    recorder.stop("ended" if step == config["steps"] else "stopped")
"""
    head = train(lab, read_recipe(written(tmp_path, source=source)), attested=True)
    assert (head.steps, head.status) == (14, "ended")
    assert [said for said in lab.said if said[1] == "stopped"] == [(6, "stopped"), (12, "stopped")]
    run = lab.state.run(lab.state.runs.names["alpha", "run"])
    assert (run.declaration.rung, run.settlement) == ("attested", "settled")
