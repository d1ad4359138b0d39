"""Trackers: what the real packages store of a run that is stopped, resumed, killed or broken. All offline."""

import gc
import json
import random
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlflow
import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

from brakeline.adapters import trackers
from brakeline.adapters.trackers import PHASES, follow, mlflow_run
from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed
from brakeline.core.gate import NO_PERMIT, GateState, Status, halt, status
from brakeline.core.run import Declaration
from brakeline.core.transcript import Head
from brakeline.training import session
from brakeline.training.audit import inspect
from brakeline.training.gatehook import RankGate
from brakeline.training.recipe import Recipe, read_recipe
from brakeline.training.recorder import Recorder, read_leaves
from brakeline.training.rehearsal import rehearse
from brakeline.training.replay import replay
from brakeline.training.replays import Looking
from brakeline.training.session import Session
from world import Live, World, key
from worldlab import WorldGate, WorldLab

SOURCE = """
import random
from pathlib import Path

import torch
from brakeline.adapters import trackers
from brakeline.training.digest import seed_generators


def wandb(run):
    import wandb
    return wandb.init(project="p", id=run, resume="allow", mode="offline")


def mlflow(run):
    return trackers.mlflow_run(run)


def trackio(run):
    import trackio
    return trackio.init(project=PROJECT, name=run, resume="allow", auto_log_cpu=False)


def dataset_root(config):
    return "da" * 32


def flop_per_step(config):
    return 10**9


def train(config, gate, recorder):
    recorder = trackers.follow(gate, recorder, TRACKER)
    seed_generators(int(config["seed"], 16))
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(model.parameters())
    step = recorder.open(model=model, optimizer=optimizer)
    while step < config["steps"] and gate.may_step():
        x = torch.randn(4, 8) + random.random()
        loss = (model(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step == BREAK and recorder.start == 0:
            raise ValueError("the loss is not a number")
        recorder.step(loss=loss, batch=x)
    recorder.stop("ended" if step == config["steps"] else "stopped")
"""
NAMES = ("wandb", "mlflow", "trackio")
STEPS, TRIPPED_AT = 5, 3


class Stored(NamedTuple):
    """What a tracker has of its runs: ids, fields by step, texts as they were last, and how each stretch ended."""

    runs: set[str]
    rows: dict[int, dict[str, Any]]
    texts: dict[str, str]
    declared: dict[str, Any]
    ends: list[Any]


# --- what the packages have on disk


def wandb_records(path: Path) -> Iterator[Any]:
    """LevelDB's log format: blocks of 32 KiB, of chunks under a checksum, a length and a type."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def fields(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def wandb_stored(folder: Path) -> Stored:
    wandb.teardown()  # its other process writes on after finish()
    found = Stored(set(), defaultdict(dict), {}, {}, [])
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime_ns):
        for record in wandb_records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    found.runs.add(record.run.run_id)
                case "config":
                    found.declared.update(fields(record.config.update))
                case "history":
                    row = fields(record.history.item)
                    found.rows[row["_step"]].update(row)
                case "summary":
                    found.texts.update(fields(record.summary.update))
                case "exit":
                    found.ends.append(record.exit.exit_code)
    return found


def mlflow_stored(folder: Path) -> Stored:
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    rows: dict[int, dict[str, Any]] = defaultdict(dict)
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            rows[metric.step][name] = metric.value
    runs = {run.data.tags[trackers.RUN_TAG]}
    return Stored(runs, rows, run.data.tags, run.data.params, [run.info.status])


def trackio_stored(folder: Path) -> Stored:
    from trackio.sqlite_storage import SQLiteStorage

    rows: dict[int, dict[str, Any]] = defaultdict(dict)
    texts: dict[str, str] = {}
    with sqlite3.connect(SQLiteStorage.get_project_db_path(folder.name)) as db:
        for step, fields in db.execute("SELECT step, metrics FROM metrics ORDER BY id"):
            rows[step].update(json.loads(fields))
            texts.update({k: v for k, v in json.loads(fields).items() if isinstance(v, str)})
        ids = {id_ for (id_,) in db.execute("SELECT DISTINCT run_id FROM metrics")}
        (config,) = [json.loads(c) for (c,) in db.execute("SELECT config FROM configs")]
    assert len(ids) == 1
    return Stored(set(SQLiteStorage.get_runs(folder.name)), rows, texts, config, [])


STORED = {"wandb": wandb_stored, "mlflow": mlflow_stored, "trackio": trackio_stored}


@pytest.fixture(scope="module", autouse=True)
def _trackio_reads_its_folder_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases need packages that its client does not bring
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlflow'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    wandb.teardown()  # or it knows of what it read before
    yield
    torch.set_num_threads(before)


# --- runs


class Braked(WorldGate):
    """The brake is pulled before step 4, as `LiveGate` would learn of it."""

    def may_step(self) -> bool:
        world = self._lab.world
        if self._steps() == TRIPPED_AT and world.state.epoch == 0:
            world.trip()
            self._state = halt(self._state, epoch=world.state.epoch, reason=f"brake {world.phase}: vote")
        return super().may_step()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorldLab:
    monkeypatch.setattr(session, "LiveGate", Braked)
    world = World(audit_segment_steps="2", scope_covered_above='"1 GFLOP"', lift_conditions='["stopped"]')
    world.bind()
    made = WorldLab(world, tmp_path / "home")

    def lift() -> None:
        if world.phase is Phase.PAUSED:
            world.vote("lift", "alpha", "beta", "gamma", "delta")
        world.stamp(world.lapse)

    made.while_paused = lift
    return made


def written(folder: Path, tracker: str, broken_at: int = -1) -> Recipe:
    head = f"PROJECT, BREAK = {folder.name!r}, {broken_at}\n"
    (folder / "code.py").write_text(head + SOURCE.replace("TRACKER", tracker))
    (folder / "recipe.toml").write_text(f'name = "run"\nentry = "code.py"\nsteps = {STEPS}\n')
    return read_recipe(folder / "recipe.toml")


def train(lab: Any, it: Recipe) -> Head:
    return Session(lab, it, rehearse=None).train()


def audited(lab: WorldLab, folder: Path) -> str:
    """What an inspector finds, in a cell."""
    lab.world.stamp()
    live = Live(lab.world, lab.state.runs.names["alpha", "run"])
    heads, evidence = lab.world.heads(live), folder / "home" / "runs" / "run"
    return inspect(lab.state, live.now, heads, evidence, "beta", key("beta"), Looking(folder / "memory")).verdict


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_run_goes_on_as_the_same_run(name: str, lab: WorldLab, tmp_path: Path) -> None:
    stopped: list[Stored] = []
    lift = lab.while_paused

    def paused() -> None:
        stopped.append(STORED[name](tmp_path))
        lift()

    lab.while_paused = paused
    assert train(lab, written(tmp_path, name)).status == "ended"
    assert [s for s in lab.said if s[1] != "running"] == [(0, "opened"), (3, "stopped"), (3, "opened"), (5, "ended")]
    run = lab.state.runs.names["alpha", "run"]
    leaves = read_leaves(tmp_path / "home" / "runs" / "run")

    seen = stopped[0]  # while the brake is on it is stopped, not crashed, and says why
    assert seen.texts["brakeline/attested/status"] == "stopped"
    assert seen.texts["brakeline/checked/stopped_by"].startswith("brake tripped")
    last = seen.rows[TRIPPED_AT]
    assert last["brakeline/checked/may_step"] == last["brakeline/checked/permit"] == 0
    assert PHASES[int(last["brakeline/checked/phase"])] is Phase.TRIPPED
    assert seen.ends == {"wandb": [0], "mlflow": ["SCHEDULED"], "trackio": []}[name]

    seen = STORED[name](tmp_path)  # afterwards it is one run, whole
    assert seen.runs == {run}
    for leaf in leaves[1:]:
        row = seen.rows[leaf.step]
        assert row["brakeline/attested/loss"] == pytest.approx(leaf.loss)
        assert row["brakeline/attested/flop"] == leaf.flop
    for step in (1, 2, 4, 5):
        row = seen.rows[step]
        assert (row["brakeline/checked/phase"], row["brakeline/checked/permit"]) == (0, 1)
        assert row["brakeline/checked/permit_seconds"] > 0
        assert row["brakeline/checked/permit_flop"] >= row["brakeline/attested/flop"]
        assert row["brakeline/attested/steps_per_second"] > 0
    assert [s for s, row in seen.rows.items() if "brakeline/attested/resumed_from" in row] == [4]
    assert seen.rows[4]["brakeline/attested/resumed_from"] == TRIPPED_AT
    assert [seen.texts[f"brakeline/{n}"] for n in ("attested/status", "checked/stopped_by")] == ["ended", ""]
    assert seen.ends == {"wandb": [0, 0], "mlflow": ["FINISHED"], "trackio": []}[name]
    assert seen.declared["brakeline/declared/run"] == run
    assert int(seen.declared["brakeline/declared/steps"]) == STEPS
    assert float(seen.declared["brakeline/declared/flop_per_step"]) == 1e9
    ours = {k for row in seen.rows.values() for k in row if k.startswith("brakeline/")}
    ours |= {k for k in (*seen.texts, *seen.declared) if k.startswith("brakeline/")}
    assert {k.split("/")[1] for k in ours} == {"checked", "attested", "declared"}

    # A cell runs the same code, tells nobody, and finds every bit.
    assert audited(lab, tmp_path) == "pass"
    assert STORED[name](tmp_path) == seen


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_breaks_shows_as_failed(name: str, lab: WorldLab, tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="the loss is not a number"):
        train(lab, written(tmp_path, name, broken_at=2))
    gc.collect()
    seen = STORED[name](tmp_path)
    assert seen.texts["brakeline/attested/status"] == "failed"
    assert seen.ends == {"wandb": [1], "mlflow": ["FAILED"], "trackio": []}[name]
    assert 1 in seen.rows


# --- follow() by itself

DECLARATION = Declaration("run", "re-executable", "aa", "bb", "cc", STEPS, 2, "7", (), "", 1, "0", "")
OPEN = GateState("ab" * 32, deadline=10**10, flop_limit=70, permit=b"p" * 32, halted="")


class Gate:
    def may_step(self) -> bool:
        return True

    def status(self) -> Status:
        return status(OPEN, DECLARATION, Phase.CLEAR, now=4 * 10**9, steps=0)


def loop(begin: Callable[[str], Any], every: int = 1) -> Callable[[Any, Any, Any], None]:
    def train(config: Any, gate: Any, recorder: Any) -> None:
        recorder = follow(gate, recorder, begin, every=every)
        model = torch.nn.Linear(2, 1)
        step = recorder.open(model=model)
        while step < STEPS and gate.may_step():
            x = torch.randn(1, 2) + random.random()
            recorder.settle() if hasattr(recorder, "settle") else None
            with torch.no_grad():
                model.weight += x
            step += 1
            recorder.step(loss=x.sum(), batch=x)
        recorder.stop("ended" if step == STEPS else "stopped")

    return train


def recorded(folder: Path, train: Callable[[Any, Any, Any], None], gate: Any = None) -> tuple[Any, ...]:
    recorder = Recorder(folder, segment_steps=STEPS, flop_per_step=7, head_every_segments=1, on_head=None,
                        run="ab" * 32, permit=lambda: NO_PERMIT)  # fmt: skip
    torch.manual_seed(1)
    random.seed(1)
    train({}, RankGate(gate or Gate()), recorder)
    return read_leaves(folder)


def never(run: str) -> Any:
    raise AssertionError("called")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_the_same_with_a_tracker_and_without(name: str, tmp_path: Path) -> None:
    code: dict[str, Any] = {}
    exec(SOURCE.replace("PROJECT", repr(tmp_path.name)).replace("TRACKER", name), code)
    plain = recorded(tmp_path / "without", loop(never), SimpleNamespace(may_step=lambda: True))

    def begin(run: str) -> Any:
        random.random(), torch.rand(1)  # whatever a package draws
        return code[name](run)

    assert recorded(tmp_path / "with", loop(begin)) == plain
    assert sorted(STORED[name](tmp_path).rows)[-STEPS:] == [1, 2, 3, 4, 5]


def test_a_replay_and_a_rehearsal_call_no_tracker(tmp_path: Path) -> None:
    called: list[str] = []
    train = loop(lambda run: called.append(run))
    recorded(tmp_path / "run", train)
    assert called == ["ab" * 32]
    torch.manual_seed(1)
    random.seed(1)
    assert replay(train, {}, tmp_path / "run", 0, STEPS).leaves == read_leaves(tmp_path / "run")[1:]
    found = rehearse(written(tmp_path, "wandb"))
    found.check()
    assert not {"wandb", "mlflow", "trackio"} & set(found.distributions)  # none of them is part of the environment
    assert not (tmp_path / "wandb").exists()


def test_only_the_first_rank_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "rank", lambda: 1)
    recorded(tmp_path, loop(never))


class Broken:
    """A package's run that fails at its third row."""

    def __init__(self) -> None:
        self.config = self.summary = SimpleNamespace(update=lambda *_, **__: None)
        self.rows: list[int] = []

    def log(self, row: Any, step: int) -> None:
        self.rows.append(step)
        if len(self.rows) == 3:
            raise OSError("no space left on device")

    def finish(self, **_: Any) -> None:
        raise AssertionError("after it was given up")


Broken.__module__ = "wandb.fake"


@pytest.mark.parametrize(("every", "rows"), [(1, [1, 2, 3]), (2, [2, 4, 5])])
def test_a_tracker_that_fails_is_given_up_once(
    every: int, rows: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    assert len(recorded(tmp_path, loop(lambda run: broken, every))) == STEPS + 1
    assert broken.rows == rows
    text = "training goes on without its tracker: OSError: no space left on device"
    assert [r.getMessage() for r in caplog.records] == [text]


@pytest.mark.parametrize(("begin", "text"), [
    (lambda run: object(), "Misuse: builtins.object is no run of wandb, mlflow, trackio"),
    (lambda run: 1 / 0, "ZeroDivisionError: division by zero"),
])  # fmt: skip
def test_a_tracker_that_does_not_begin_is_no_reason_to_stop(
    begin: Any, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(recorded(tmp_path, loop(begin))) == STEPS + 1
    assert [r.getMessage() for r in caplog.records] == [f"training goes on without its tracker: {text}"]


def test_mlflows_run_is_found_by_its_tag_also_while_it_is_open() -> None:
    first = mlflow_run("ab" * 32, tags={"by": "us"}).info.run_id
    assert mlflow_run("ab" * 32).info.run_id == first
    mlflow.end_run()
    assert mlflow_run("ab" * 32, experiment_id="0").info.run_id == first
    mlflow.end_run()
    assert mlflow_run("cd" * 32).info.run_id != first
    mlflow.end_run()
    assert mlflow.get_run(first).data.tags["by"] == "us"


# --- what a gate knows


def test_a_status_names_a_permit_only_while_it_is_in_force() -> None:
    def at(now: int, state: GateState = OPEN, steps: int = 9) -> Status:
        return status(state, DECLARATION, Phase.CLEAR, now=now, steps=steps)

    known = at(4 * 10**9)
    assert (known.permit, known.seconds, known.flop_limit, known.decision.reason) == (b"p" * 32, 6.0, 70, "")
    assert at(4 * 10**9, steps=10).decision.reason == "compute allowance used up"
    assert at(4 * 10**9, steps=10).permit == OPEN.permit
    for shut, reason in (
        (at(10**10), "permit lapsed"), (at(0, halt(OPEN, epoch=1, reason="brake tripped")), "brake tripped"),
    ):  # fmt: skip
        assert (shut.permit, shut.seconds, shut.flop_limit, shut.decision.reason) == (NO_PERMIT, 0.0, 0, reason)


def test_a_gate_around_one_that_knows_nothing_knows_nothing() -> None:
    assert RankGate(SimpleNamespace(may_step=lambda: True)).status() is None
    assert RankGate(Gate()).status() == Gate().status()
