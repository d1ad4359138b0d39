"""The real node in simulated worlds: whatever goes wrong, what must hold does; and planted bugs are found."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

import bugs
from brakeline.testing import Report, World, shrink
from brakeline.testing.faults import BYZANTINE, KINDS, Fault, draw, liar_in
from brakeline.testing.report import Violation
from brakeline.testing.treaty import KEEPER, PARTIES
from brakeline.testing.world import SERVICES

QUICK = ("folders-unsynced", "gate-looks-by-itself", "held-votes-not-counted", "signer-signs-in-a-pause")
"""Found within the first seeds; `make soak` finds all."""


def play(seeds: Sequence[int]) -> None:
    for seed in seeds:
        report = World(seed).run()
        assert not report.violations, f"{report}\npython -m brakeline.testing {seed} --trace --shorten"


@pytest.mark.parametrize("block", range(8))
def test_what_must_hold_does(block: int) -> None:
    play(range(6 * block, 6 * block + 6))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(100))
def test_what_must_hold_does_in_ten_thousand_worlds(block: int) -> None:
    play(range(100 * (block + 1), 100 * (block + 2)))


def test_on_a_calm_day_the_circle_trips_pauses_lifts_and_trains() -> None:
    report = World(0, faults=()).run()
    assert not report.violations
    assert report.steps > 20
    assert report.counts["permits signed"] >= 3
    assert "process ended: unavailable" not in report.counts


def test_a_seed_is_one_history() -> None:
    """Whatever Python's hashes are; and so is a part of its faults."""
    command = [sys.executable, "-m", "brakeline.testing", "12"]
    printed = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": h}, capture_output=True, text=True).stdout.split(
            "\n"
        )[0]
        for h in ("0", "1")
    }
    assert len(printed) == 1
    faults = draw(12, SERVICES, 14.0)
    assert faults
    assert World(12, faults=faults[:3]).run().trace == World(12, faults=faults[:3]).run().trace


def test_seeds_draw_some_kinds_of_faults_and_not_others() -> None:
    drawn = [{f.kind for f in draw(seed, SERVICES, 14.0)} for seed in range(200)]
    assert set.union(*drawn) == set(KINDS)
    assert all(len(kinds) < len(KINDS) for kinds in drawn)
    assert draw(3, SERVICES, 14.0) == draw(3, SERVICES, 14.0)


def test_one_party_lies_at_most_and_each_does_somewhere() -> None:
    liars = set[str]()
    for seed in range(400):
        faults = draw(seed, SERVICES, 14.0)
        lies = [f for f in faults if f.kind in BYZANTINE]
        liar = liar_in(faults)
        assert bool(lies) == bool(liar)
        assert all(liar == (KEEPER if f.kind in ("stale", "fork", "hide") else f.target) for f in lies)
        liars.add(liar)
    assert liars == {"", *PARTIES}


def test_lies_are_told() -> None:
    """Each kind, in some world; whoever equivocates is found out, and nobody else."""
    told: dict[str, int] = {}
    for kind, amounts in (("cosign", 4), ("sign", 3)):
        for amount in range(amounts):
            faults = [Fault(1.0, kind, "beta", 13.0, float(amount))]
            report = World(7, faults=faults).run()
            assert not report.violations, report
            assert report.counts[f"lies: {kind}"] > 0
    for kind in ("twice", "accuse"):
        report = World(7, faults=[Fault(1.0, kind, "gamma", 0, 0)]).run()
        assert not report.violations, report
        told[kind] = report.counts.get(f"said: {kind}", 0)
    assert min(told.values()) > 0


def test_a_failing_seed_is_made_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the two faults of twenty that it takes, in few plays."""
    faults = tuple(Fault(float(n), "kill", "log.delta", 1.0, 0.0) for n in range(20))
    needed, plays = {faults[3], faults[17]}, 0

    class Stub(World):
        def run(self, *, lines: list[str] | None = None) -> Report:
            nonlocal plays
            plays += 1
            found = (Violation("S3", 1.0, "x"),) if needed <= set(self.faults) else ()
            return Report(self.seed, found, "", 0.0, 0, 0)

    monkeypatch.setattr(shrink, "World", Stub)
    world = Stub(1, faults=faults)
    assert set(shrink.shortest(world, world.run())) == needed
    assert plays < 60


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    with bugs.planted(name) as source:
        done = bugs.play(source, 0, 100)
    assert done.returncode == 1, done.stderr
    assert "VIOLATION" in done.stdout


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", bugs.NAMES)
def test_every_planted_bug_is_found(name: str) -> None:
    with bugs.planted(name) as source:
        done = bugs.play(source, 0, 10_000)
    assert done.returncode == 1, done.stderr
    assert "VIOLATION" in done.stdout


def test_every_planted_bug_still_applies() -> None:
    for name in bugs.NAMES:
        with bugs.planted(name):
            pass
    assert len(bugs.NAMES) >= 12
