"""Attested runs: a job that cannot be changed, on a world's log, with the core's own gate and real processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brakeline.cluster import attested
from brakeline.cluster.attested import Spent, pace, run_attested
from brakeline.cluster.running import Exited, Outcome, Stopped
from brakeline.cluster.supervise import StopReport
from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.state.runs import Run
from brakeline.core.tlog import merkle
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.transcript import NONE, Head, Leaf
from brakeline.node.desk import Lab
from brakeline.node.permits import LiveGate
from world import World
from worldlab import WorldGate, WorldLab

RATE = 10**9
STOPPED = Stopped(StopReport(0, 0, 0.0, ()))


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(attested, "time", clock)
    monkeypatch.setattr(attested, "LiveGate", WorldGate)
    return clock


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> WorldLab:
    world = World(permit_allowance='"1 EFLOP"')
    world.bind()
    return WorldLab(world, tmp_path)


def go(lab: Any, *cmd: str, name: str = "job", seconds: int = 100, **changes: Any) -> Outcome:
    return run_attested(lab, name, cmd or ("true",), seconds=seconds, flop_per_second=RATE, grace=1, **changes)


def job_of(lab: Any, name: str = "job") -> attested._Attended:
    """The run's supervisor, as it is after a start."""
    return attested._Attended(lab, run_of(lab, name))


def run_of(lab: WorldLab, name: str = "job") -> Run:
    return lab.state.run(lab.state.runs.names["alpha", name])


def works(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, end: Outcome | BaseException) -> list[int]:
    """Let every command run for `seconds`, and then end so; returns how many were started."""
    started: list[int] = []

    def run_under(cmd: object, may_run: Callable[[], bool], *, grace: float) -> Outcome:
        if not may_run():
            return STOPPED
        started.append(1)
        clock.now += seconds
        if isinstance(end, BaseException):
            raise end
        return end if may_run() else STOPPED

    monkeypatch.setattr(attested, "run_under", run_under)
    return started


def tree(seconds: int) -> str:
    return root([leaf_hash(Leaf(i, NONE, NONE, NONE, 0.0, i * RATE).encode()) for i in range(seconds + 1)]).hex()


def test_a_job_from_its_declaration_to_its_end(lab: WorldLab) -> None:
    outcome = go(lab, "sh", "-c", "exit 0", chips=8, domain="biology")
    assert isinstance(outcome, Exited)
    assert outcome.code == 0
    assert lab.said == [(0, "opened"), (0, "ended")]
    d = run_of(lab).declaration
    assert (d.rung, d.steps, d.step_flop) == ("attested", 100, RATE)
    assert (d.chips, d.rate, d.domain) == (8, RATE, "biology")
    assert run_of(lab).settlement == "settled"


def test_heads_commit_to_the_seconds(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, clock, 41.7, Exited(3, STOPPED.report))
    go(lab)
    works(monkeypatch, clock, 8, Exited(0, STOPPED.report))
    go(lab)
    assert lab.said == [(0, "opened"), (41, "stopped"), (41, "opened"), (49, "ended")]
    for head, outcome in lab.outcomes:
        assert outcome.reason is None
        assert (head.root, head.flop) == (tree(head.steps), str(head.steps * RATE))


def test_a_head_costs_the_seconds_since_the_last_one(lab: WorldLab, clock: Clock) -> None:
    """However long the job has run: it used to cost the whole job again at every head."""
    lab.world.log("alpha", "declaration", lab.world.declaration(
        name="long", rung="attested", steps=10**6, flop_per_step=str(RATE)
    ))  # fmt: skip
    lab.world.stamp()
    job = job_of(lab, "long")
    job._commit("opened")
    job._started, job._running = clock.now, True
    hashed = {"leaf": 0, "node": 0}

    def counted(kind: str, real: Callable[..., bytes]) -> Callable[..., bytes]:
        def hash_(*parts: bytes) -> bytes:
            hashed[kind] += 1
            return real(*parts)

        return hash_

    costs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attested, "leaf_hash", counted("leaf", merkle.leaf_hash))
        patch.setattr(merkle, "node_hash", counted("node", merkle.node_hash))
        for hours in (1, 4, 16):
            clock.now = 1000.0 + 3600 * hours
            job._commit("running")
            hashed.update(leaf=0, node=0)
            clock.now += 60
            job._commit("running")
            costs.append((hashed["leaf"], hashed["node"]))
    assert [leaves for leaves, _ in costs] == [60, 60, 60]
    assert all(nodes <= 60 + 40 for _, nodes in costs)  # one a leaf, and one a level twice for the two roots
    assert lab.said[-1] == (16 * 3600 + 60, "running")
    assert lab.outcomes[-1][0].root == tree(16 * 3600 + 60)


@pytest.mark.parametrize("cmd", [("./nosuch",), ("no-such-command", "x"), ("/etc/passwd",), ("",)])
def test_a_command_that_does_not_exist_is_found_before_anything_is_signed(lab: WorldLab, cmd: tuple[str, ...]) -> None:
    before = list(lab.world.entries)
    with pytest.raises(Misuse, match="cannot start"):
        go(lab, *cmd)
    assert lab.world.entries == before
    with pytest.raises(Misuse, match="cannot start nothing"):
        attested._check_command(())


def test_a_declaration_that_would_be_void_is_not_signed(lab: WorldLab) -> None:
    before = list(lab.world.entries)
    for changes in ({"domain": "x" * 65}, {"chips": -1}, {"seconds": 0}):
        with pytest.raises(Malformed):
            go(lab, **changes)
    assert lab.world.entries == before


def test_a_dead_supervisor_is_buried_before_anything_is_waited_for(
    lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Treaty 7.8, 8.2: killed while it ran, then a trip. What it left says running, and holds up the lift of all until
    its permits lapse; started again, it says first that it stands still, and opens when the brake is off."""
    world = lab.world

    class Killed(BaseException):
        pass

    def commit(head: Head) -> None:
        if head.status != "stopped":  # it was killed before it could say so
            WorldLab.commit(lab, head)

    works(monkeypatch, clock, 40, Killed())
    with monkeypatch.context() as patch:
        patch.setattr(lab, "commit", commit)
        with pytest.raises(Killed):
            go(lab)
    run = run_of(lab)
    assert run.head is not None
    assert run.head.status == "opened"
    world.trip()
    assert world.phase is Phase.TRIPPED
    waited = []

    def lift() -> None:
        assert lab.said[-1] == (0, "stopped")
        assert world.phase is Phase.PAUSED, "all have stopped: nobody waits for permits to lapse"
        world.vote("lift", "beta", "gamma", "delta")
        world.stamp(world.treaty.lift_delay + 1)
        waited.append(world.phase)

    lab.while_paused = lift
    works(monkeypatch, clock, 10, Exited(0, STOPPED.report))
    go(lab)
    assert waited == [Phase.CLEAR]
    assert not run_of(lab).held
    assert lab.said == [(0, "opened"), (0, "stopped"), (0, "opened"), (10, "ended")]
    world.check()


def test_what_a_dead_supervisor_had_logged_stays(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, clock, 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        go(lab)
    assert lab.said == [(0, "opened"), (30, "stopped")], "an interrupt is no sudden death: the stop is logged"
    job = job_of(lab)
    job._commit("opened")
    job._before = 50
    job._commit("running")
    works(monkeypatch, clock, 5, Exited(0, STOPPED.report))
    go(lab)
    assert lab.said[2:] == [(30, "opened"), (50, "running"), (50, "stopped"), (50, "opened"), (55, "ended")]
    assert all(outcome.reason is None for _, outcome in lab.outcomes)


def test_a_job_that_failed_may_try_again_and_one_that_ended_may_not(lab: WorldLab) -> None:
    for _ in range(2):
        outcome = go(lab, "sh", "-c", "exit 7")
        assert isinstance(outcome, Exited)
        assert outcome.code == 7
        assert lab.said[-1] == (0, "stopped")
    go(lab, name="other")
    size = len(lab.world.entries)
    with pytest.raises(Misuse, match="other has ended"):
        go(lab, name="other")
    assert len(lab.world.entries) == size


def test_when_its_time_is_up_a_run_has_ended(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, clock, 250, Exited(0, STOPPED.report))
    assert isinstance(go(lab, seconds=100), Spent)
    assert lab.said == [(0, "opened"), (100, "ended")]


def test_time_that_was_up_when_the_supervisor_died(lab: WorldLab) -> None:
    go(lab, "false", seconds=20)
    job = job_of(lab)
    job._commit("opened")
    job._before = 20
    job._commit("running")
    with pytest.raises(Misuse, match="has ended"):
        go(lab, "false", seconds=20)
    assert lab.said[-1] == (20, "ended")


@pytest.mark.parametrize(
    "other", [{"seconds": 21}, {"chips": 9}, {"domain": "biology"}, {"purpose": "inference"}]
)
def test_a_run_goes_on_under_the_numbers_that_it_was_declared_with(other: dict[str, Any], lab: WorldLab) -> None:
    go(lab, "false", seconds=20)
    said = list(lab.said)
    with pytest.raises(Misuse, match="was declared with"):
        go(lab, "false", **{"seconds": 20, **other})
    assert lab.said == said


def test_one_supervisor_at_a_time(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one would log that the first one's run has stopped, while its job trains on."""
    second = []

    def run_under(cmd: object, may_run: Callable[[], bool], *, grace: float) -> Outcome:
        with pytest.raises(Misuse, match="another process supervises"):
            go(lab)
        second.append(lab.said[-1])
        return Exited(0, STOPPED.report)

    monkeypatch.setattr(attested, "run_under", run_under)
    go(lab)
    assert second == [(0, "opened")]
    works(monkeypatch, clock, 1, Exited(0, STOPPED.report))
    go(lab, name="next")


def test_a_brake_stops_the_job(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_under(cmd: object, may_run: Callable[[], bool], *, grace: float) -> Outcome:
        assert may_run()
        clock.now += 12
        lab.world.now += lab.world.treaty.permit_lifetime
        assert not may_run()
        return STOPPED

    monkeypatch.setattr(attested, "run_under", run_under)
    assert go(lab) == STOPPED
    assert lab.said == [(0, "opened"), (12, "stopped")]
    assert lab.told == ["stopped after 12 s: permit lapsed"]


def test_what_was_cut_off_is_told(lab: WorldLab, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower to write its checkpoint than it was given: whoever goes on from it must know."""
    works(monkeypatch, clock, 12, Stopped(StopReport(3, 2, 1.5, (77,))))
    go(lab)
    cut = "two processes took longer than --grace (1 s) to end and got SIGKILL: a checkpoint may be cut short"
    assert cut in lab.told
    assert "still running, whatever was tried: pids 77" in lab.told


def test_parents_and_purpose_are_declared(lab: WorldLab) -> None:
    go(lab, name="first")
    parent = lab.state.runs.names["alpha", "first"]
    go(lab, name="second", parents=[parent, parent], purpose="inference")
    d = run_of(lab, "second").declaration
    assert (d.parents, d.purpose) == ((parent,), "inference")


def test_heads_come_as_often_as_the_treaty_and_the_allowance_want() -> None:
    treaty = World(permit_allowance='"100 GFLOP"', audit_segment_steps="10", audit_head_every="8").treaty
    assert pace(treaty, 10**8) == 40  # half of 80 s, the cadence
    assert pace(treaty, 10**10) == 5  # half of 10 s, the allowance
    assert pace(treaty, 10**12) == 1


def test_the_stand_ins_have_what_a_run_asks_of_the_real_ones() -> None:
    for real, stand_in in ((LiveGate, WorldGate), (Lab, WorldLab)):
        names = {name for name in vars(stand_in) if not name.startswith("_")} - {"said"}
        assert {name for name in names if not hasattr(real, name)} <= {"tell"}  # which each instance is given
