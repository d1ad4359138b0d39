"""A run of four ranks with real processes: killed twice, started by torchrun too, braked, and audited."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from brakeline.core.brake import Phase
from brakeline.training.checkpoint import checkpoint_steps
from brakeline.training.ranks import folder
from brakeline.training.recorder import read_leaves
from test_circle_real import Circle, until
from test_ranks import SOURCE

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

RANKS, STEPS = 4, 180
SLOW = "import time\n" + SOURCE.replace("x = data.next()", "x = data.next(); time.sleep(0.05)").replace(
    "return 100", "return 100_000"
)  # enough to need a permit


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    made = Circle(tmp_path_factory.mktemp("ranks") / "stage")
    yield made
    made.stage.close()


def recipe(circle: Circle, name: str, how: str, ranks: int, steps: int) -> str:
    (circle.stage.folder / "loop.py").write_text(SLOW)
    file = circle.stage.folder / f"{name}.toml"
    config = f'[config]\nhow = "{how}"\n'
    file.write_text(f'name = "{name}"\nentry = "loop.py"\nsteps = {steps}\nranks = {ranks}\n{config}')
    return str(file)


def others(pid: int) -> list[psutil.Process]:
    """The processes of a run but the first, by rank."""
    found = [(p.environ().get("RANK", ""), p) for p in psutil.Process(pid).children(recursive=True)]
    return [p for rank, p in sorted(found, key=lambda it: it[0]) if rank]


def test_four_ranks_are_killed_twice_braked_and_audited_to_a_pass(
    circle: Circle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, temporary = circle.stage, tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setitem(stage._env, "TMPDIR", str(temporary))
    command = ["train", recipe(circle, "four", "steady", RANKS, STEPS), "--home", "alpha", "--threads", "1"]
    stage.serve("first", *command)
    until(lambda: circle.steps("alpha", "four") > 35, 120)
    started = others(stage.processes["first"].pid)
    assert len(started) == RANKS - 1
    os.kill(stage.processes["first"].pid, signal.SIGKILL)  # rank 0: nobody trains on without it
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started), 20)
    assert not list(temporary.glob("brakeline-ranks-*"))
    at = circle.steps("alpha", "four")

    stage.serve("second", *command, "--unchecked")
    until(lambda: circle.steps("alpha", "four") > at + 5, 120)
    others(stage.processes["second"].pid)[1].kill()
    assert stage.processes["second"].wait(30) == 5
    said = (stage.folder / "second.log").read_text()
    assert "error: rank 2 ended with status -9" in said
    assert "Traceback" not in said
    assert "Fatal" not in said

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    stage.start("third", sys.executable, *torchrun, "-m", "brakeline.cli.main", *command)
    at = circle.steps("alpha", "four")
    until(lambda: circle.steps("alpha", "four") > at + 5, 120)
    for party in ("beta", "delta"):
        stage.call("vote", "trip", "--reason", "a test", "--home", party)
    until(lambda: circle.stops("alpha", "four"), 30)
    assert str(circle.stops("alpha", "four")[0]["reason"]).startswith("brake ")
    step = int(str(circle.stops("alpha", "four")[0]["step"]))
    evidence = circle.evidence("alpha", "four")
    assert all(step in checkpoint_steps(folder(evidence, rank)) for rank in range(RANKS))  # all at one step
    time.sleep(1)
    assert circle.steps("alpha", "four") == step
    until(lambda: circle.phase() is Phase.PAUSED, 30)
    stage.call_all([("vote", "lift", "--reason", "done", "--home", p) for p in ("alpha", "beta", "delta")])
    until(lambda: circle.status("alpha", "four") == "ended", 90)
    assert stage.processes["third"].wait(30) == 0

    said = [[leaf.state for leaf in read_leaves(folder(evidence, rank))] for rank in range(RANKS)]
    assert said == [said[0]] * RANKS  # one word of all
    for inspector in ("beta", "gamma"):
        found = stage.call("audit", "alpha/four", "--evidence", str(evidence), "--home", inspector, "--threads", "1")
        assert "four: PASS" in found


def test_shards_are_cut_anew_for_other_ranks_and_inspectors_find_the_same(circle: Circle) -> None:
    stage = circle.stage
    command = ["train", recipe(circle, "elastic", "shards", 2, 90), "--home", "gamma", "--threads", "1", "--unchecked"]
    stage.serve("two", *command)
    until(lambda: circle.steps("gamma", "elastic") > 20, 120)
    os.kill(stage.processes["two"].pid, signal.SIGKILL)
    stage.processes["two"].wait()

    refused = stage.result(*command, "--ranks", "3")
    assert refused.returncode == 2
    assert "elastic was trained by 2 ranks, here are 3" in refused.stderr
    assert "--moved" in refused.stderr
    stage.serve("three", *command, "--ranks", "3", "--moved")
    at = circle.steps("gamma", "elastic")
    until(lambda: circle.steps("gamma", "elastic") > at + 20, 120)
    os.kill(stage.processes["three"].pid, signal.SIGKILL)
    stage.processes["three"].wait()
    stage.call(*command, "--ranks", "3")  # it has moved: nothing more is said
    run = circle.run("gamma", "elastic")
    assert run is not None
    ((move, ranks),) = [(m.steps, m.ranks) for m in run.moves]
    assert ranks == 3
    assert move >= 20

    evidence = circle.evidence("gamma", "elastic")
    found = stage.call("audit", "gamma/elastic", "--evidence", str(evidence), "--home", "beta", "--threads", "1")
    assert "elastic: PASS" in found
    after = circle.run("gamma", "elastic")
    assert after is not None
    assert any(start == move for start, _ in after.examined["beta"].segments)
