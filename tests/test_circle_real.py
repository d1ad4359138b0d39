"""The circle with real processes on loopback, and what holds when one of them dies.

One stage (a log, four witnesses, four permit signers) serves all scenarios; each has runs of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brakeline.cli.demo.stage import PARTIES, Stage, examples
from brakeline.core.brake import Phase
from brakeline.core.encoding import canonical, sha256
from brakeline.core.lineage import Data, Edge
from brakeline.core.measurement import Measurement
from brakeline.core.state import State
from brakeline.core.state.events import Entered, Void
from brakeline.core.state.runs import Run
from brakeline.core.treaty import parse_treaty
from brakeline.node.client import Follower, LogClient
from brakeline.training.checkpoint import checkpoint_path

pytestmark = pytest.mark.real

LIFETIME, STALE = 4, 5  # s
TINY = "[config]\nlayers = 1\nwidth = 16\nheads = 2\ncontext = 16\nbatch = 2\ncorpus_bytes = 200000\n"


def until(done: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


class Circle:
    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        stage = self.stage
        text = (examples() / "treaties" / "demo.toml").read_text()
        text = text.replace('lifetime = "10 s"', f'lifetime = "{LIFETIME} s"').replace('"10 GFLOP"', '"1 MFLOP"')
        text = text.replace('conditions = ["stopped", "audited"]', 'conditions = ["stopped"]')
        text = text.replace('delay = "2 s"', 'delay = "0 s"').replace("head_every = 8", "head_every = 4")
        (folder / "demo.toml").write_text(text)
        self.enrolled()
        for p in PARTIES:
            stage.serve(f"witness-{p}", "witness", "--home", p)
            stage.serve(f"signer-{p}", "signer", "--home", p)
        self.start_log()
        stage.await_listening([f"{kind}-{p}" for kind in ("witness", "signer") for p in PARTIES])
        stage.call_all([("pledge", "--if-at-least", "2", "--home", p) for p in PARTIES])
        treaty = parse_treaty((folder / "demo.toml").read_bytes())
        self.follower = Follower(LogClient(stage.log_url), treaty)

    def enrolled(self) -> None:
        """Every party enters its keys, and signs."""
        stage = self.stage
        for p in PARTIES:
            url = ("--log-url", stage.log_url) if p == "delta" else ()
            addresses = ("--witness-url", stage.witness_url[p], "--signer-url", stage.signer_url[p])
            stage.call("keygen", p, "--home", p, "--enroll", "demo.toml", *url, *addresses)
        stage.call_all([("treaty", "sign", "demo.toml", "--home", p) for p in PARTIES])

    def start_log(self) -> None:
        (self.stage.folder / "log.log").write_bytes(b"")
        self.stage.serve("log", "log", "--home", "delta")
        self.stage.await_listening(["log"])

    def state(self) -> State:
        self.follower.update()
        return self.follower.state

    def phase(self) -> Phase:
        return self.state().phase

    def run(self, lab: str, name: str) -> Run | None:
        runs = self.state().runs
        return runs.by_id.get(runs.names.get((lab, name), ""))

    def status(self, lab: str, name: str) -> str:
        run = self.run(lab, name)
        return run.head.status if run and run.head else ""

    def train(self, lab: str, name: str, steps: int, pace: float = 0.01, parents: tuple[str, ...] = ()) -> str:
        """Start a training process; returns its name. `pace` (s a step) slows it down, so that it lasts."""
        source = self.stage.folder / "slow.py"
        source.write_text(
            f"import sys, time\nsys.path.insert(0, {str(examples())!r})\n"
            "import train as t\nfrom train import dataset_root, flop_per_step\n"
            "class Slow:\n"
            "    def __init__(self, gate):\n        self.gate = gate\n"
            f"    def may_step(self):\n        time.sleep({pace})\n        return self.gate.may_step()\n"
            "def train(config, gate, recorder):\n    t.train(config, Slow(gate), recorder)\n"
        )
        recipe = self.stage.folder / f"{lab}-{name}.toml"
        recipe.write_text(f'name = "{name}"\nentry = "{source}"\nsteps = {steps}\nparents = {list(parents)}\n{TINY}')
        process = f"train-{lab}-{name}"
        self.stage.serve(process, "train", str(recipe), "--home", lab, "--threads", "1", "--unchecked")
        return process

    def evidence(self, lab: str, name: str) -> Path:
        return self.stage.home(lab) / "runs" / name

    def steps(self, lab: str, name: str) -> int:
        try:
            return (self.evidence(lab, name) / "leaves.bin").stat().st_size // 128 - 1
        except OSError:
            return 0

    def stops(self, lab: str, name: str) -> list[dict[str, object]]:
        try:
            return [json.loads(x) for x in (self.evidence(lab, name) / "stops.jsonl").read_text().splitlines()]
        except OSError:
            return []

    def shadow(self, lab: str, name: str) -> bool:
        run = self.run(lab, name)
        assert run is not None
        assert run.seed
        command = ["-m", "brakeline.cli.demo.shadow", str(self.evidence(lab, name)), run.seed.hex()]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *command], env=env, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    folder = tmp_path_factory.mktemp("circle") / "stage"
    made = Circle(folder)
    yield made
    made.stage.close()


def test_log_killed_while_training(circle: Circle) -> None:
    """Nothing acknowledged is lost; training goes on until its permit lapses, stops with a checkpoint, and comes back
    with the log, bit for bit. Treaty 5.3, 6.4."""
    process = circle.train("alpha", "outlived", 420, pace=0.03)
    until(lambda: circle.steps("alpha", "outlived") > 30)
    before = circle.state().size
    acknowledged = circle.follower.client.entries(0, before)
    circle.stage.kill("log")
    dead = time.time()
    at_death = circle.steps("alpha", "outlived")
    until(lambda: circle.steps("alpha", "outlived") > at_death + 10, 10)  # training does not need the log
    until(lambda: circle.stops("alpha", "outlived"), 30)
    stop = circle.stops("alpha", "outlived")[0]
    assert stop["reason"] == "permit lapsed"
    # Signers go on with what they know until it is stale; the last permit they gave then lapses. Treaty 4.5.
    assert float(str(stop["refused"])) - dead < STALE + LIFETIME + 1.0
    assert (circle.evidence("alpha", "outlived") / "checkpoints" / f"step-{stop['step']:08d}.safetensors").exists()
    circle.start_log()
    until(lambda: circle.status("alpha", "outlived") == "ended", 60)
    assert circle.state().size > before
    assert circle.follower.client.entries(0, before) == acknowledged
    assert circle.follower.trail().state.run(circle.run("alpha", "outlived").id).head.status == "ended"
    assert circle.stage.processes[process].wait(20) == 0
    assert circle.shadow("alpha", "outlived")


def test_lab_cut_off_from_everybody(circle: Circle) -> None:
    """With no log and no signer in reach a lab stops by itself within TTL + one step. Treaty 5.3."""
    circle.train("beta", "alone", 5000)
    until(lambda: circle.steps("beta", "alone") > 30)
    names = ["log", *(f"signer-{p}" for p in PARTIES)]
    for name in names:  # frozen, not dead: connections hang, the worst kind of silence
        os.killpg(circle.stage.processes[name].pid, signal.SIGSTOP)
    cut = time.time()
    try:
        until(lambda: circle.stops("beta", "alone"), 40)
    finally:
        for name in names:
            os.killpg(circle.stage.processes[name].pid, signal.SIGCONT)
    stop = circle.stops("beta", "alone")[0]
    assert float(str(stop["refused"])) - cut < LIFETIME + 1.0
    circle.stage.kill("train-beta-alone")


def test_brake_stops_and_releases_everything(circle: Circle) -> None:
    """Two votes stop a recorded run and a supervised command; three lift. One vote does neither. Treaty 4.1, 8.1."""
    circle.train("gamma", "braked", 420, pace=0.03)
    marker = circle.stage.folder / "ticks"
    script = f"trap 'echo saved >> {marker}; exit 0' TERM; while true; do echo tick >> {marker}; sleep 0.1; done"
    job = ("run", "--name", "job", "--time", "10 min", "--flop-per-second", "1 GFLOP", "--grace", "5")
    circle.stage.serve("job", *job, "--home", "beta", "--", "sh", "-c", script)
    until(lambda: circle.steps("gamma", "braked") > 20 and marker.exists())
    circle.stage.call("vote", "trip", "--reason", "one", "--home", "delta")
    at = circle.steps("gamma", "braked")
    until(lambda: circle.steps("gamma", "braked") > at + 5)
    assert circle.phase() is Phase.CLEAR
    circle.stage.call("vote", "trip", "--reason", "two", "--home", "alpha")
    until(lambda: circle.stops("gamma", "braked"), 20)
    assert str(circle.stops("gamma", "braked")[0]["reason"]).startswith("brake ")
    assert circle.stage.processes["job"].wait(30) == 6
    assert marker.read_text().endswith("saved\n")
    until(lambda: circle.phase() is Phase.PAUSED, 30)
    stopped = circle.steps("gamma", "braked")
    time.sleep(1)
    assert circle.steps("gamma", "braked") == stopped
    # A lab that starts anew during the pause gets no permit: it waits.
    circle.train("alpha", "eager", 50)
    time.sleep(6)
    assert circle.steps("alpha", "eager") == 0
    for p in ("alpha", "beta"):
        circle.stage.call("vote", "lift", "--reason", "done", "--home", p)
    assert circle.phase() is Phase.PAUSED
    circle.stage.call("vote", "lift", "--reason", "done", "--home", "delta")
    until(lambda: circle.phase() is Phase.CLEAR, 30)
    until(lambda: circle.status("gamma", "braked") == "ended" and circle.status("alpha", "eager") == "ended", 60)
    assert circle.shadow("gamma", "braked")


def test_successor_waits_for_the_lineage_of_its_parent(circle: Circle) -> None:
    """No permit until the parent's model is logged and two parties found its lineage sound. Treaty 3.5, 5.8."""
    circle.train("alpha", "parent", 20)
    until(lambda: circle.status("alpha", "parent") == "ended")
    parent = circle.run("alpha", "parent")
    assert parent is not None
    circle.train("beta", "child", 20, parents=(parent.id,))
    until(lambda: circle.status("beta", "child") == "opened")
    weights = sha256(checkpoint_path(circle.evidence("alpha", "parent"), 20).read_bytes()).hex()
    data = Data(digest=parent.declaration.dataset, labelled_by=("alpha",), curated_by=("alpha",))
    edge = Edge(
        child=weights, run=parent.id, parents=(), data=(data,), recipe=parent.declaration.recipe, initialisation="fresh"
    )
    growth = Measurement(
        gauge="lineage", version=1, subject=weights, inputs={"probes": "of this test"}, unit="growth", value=0.5,
        lower=0.1, upper=0.9, threshold=1.0, complete=True, alarms=(), details={}, logs=(),
    )  # fmt: skip
    folder = circle.stage.folder
    (folder / "edge.json").write_bytes(canonical(edge))
    (folder / "growth.json").write_bytes(canonical(growth))
    refused = circle.stage.result("edge", "edge.json", "--home", "beta")  # another lab's run
    assert (refused.returncode, "has no effect" in refused.stderr) == (4, True)
    untold = (
        "beta/child waits: no edge says which model its parent alpha/parent made (Treaty 3.5). alpha: brakeline edge"
    )
    assert untold in circle.stage.call("status", "--home", "gamma")
    circle.stage.call("edge", "edge.json", "--home", "alpha")
    circle.stage.call("reading", "growth.json", "--home", "alpha")
    unread = "beta/child waits: no safety reading of its parent alpha/parent counts (Treaty 5.8)"
    assert unread in circle.stage.call("status", "--home", "gamma")
    assert circle.steps("beta", "child") == 0
    told = circle.stage.call("reading", "growth.json", "--home", "delta")
    assert "reproduced by alpha, delta" in told
    assert "beta/child waits" not in circle.stage.call("status", "--home", "gamma")
    until(lambda: circle.status("beta", "child") == "ended")


def test_bad_input_is_an_error_with_a_hint_and_a_code(circle: Circle) -> None:
    """No traceback for the user's mistake, and nothing changed."""
    folder = circle.stage.folder
    size = circle.state().size
    (folder / "bad.toml").write_text("x = ")
    (folder / "bad.bundle").write_bytes(b"brakeline/bundle/v1\n")
    for args, code in (
        (("treaty", "check", "bad.toml"), 3),
        (("treaty", "check", "nothing.toml"), 5),
        (("verify", "bad.bundle"), 3),
        (("vote", "trip", "--reason", "x", "--home", "nowhere"), 5),
        (("keygen", "alpha", "--home", "alpha"), 2),
        (("audit", "alpha/none", "--evidence", ".", "--home", "delta"), 2),
        (("nonsense",), 2),
        (("reading", "demo.toml", "--home", "alpha"), 3),
        (("reading", "nothing.json", "--home", "alpha"), 5),
        (("edge", "demo.toml", "--home", "alpha"), 3),
    ):
        done = circle.stage.result(*args)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "rror: " in done.stderr
    circle.state()
    assert [e for e in circle.follower.recent if e.entry >= size and isinstance(e, Entered | Void)] == []
