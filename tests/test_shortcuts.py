"""What the fold leaves out to be quick changes nothing: every random log gives the same state and events without it."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.pledge import Assent
from brakeline.core.state import fold, replay
from brakeline.core.state import readings as r
from brakeline.core.state.codec import encode
from brakeline.core.state.state import State
from brakeline.core.treaty import Treaty, articles_digest
from world import LABS, PARTIES, World

# Clocks that run out within sixty acts: of a run that waits, of who leaves, of what a lab was asked to show.
QUICK = {"lift.settle_within": '"20 s"', "clocks.withdrawal": '"30 s"', "audit.within": '"20 s"'}


def random_world(seed: int, acts: int = 60) -> World:
    """A log of everything, in any order: votes, readings, runs, audits, pledges that end, time."""
    dice, w = Random(seed), World(**QUICK)
    w.bind(*dice.sample(PARTIES, 3), expires=w.now + dice.choice((15, 60, 10**6)))
    runs = []
    for i in range(acts):
        party = dice.choice(PARTIES)
        act = dice.randrange(12)
        if act < 3:
            w.stamp(dice.choice((1, 2, 5, 20)))
        elif act == 3:
            w.vote("trip", party, expires=w.now + dice.choice((5, 1000)))
        elif act == 4:
            w.vote("lift", *dice.sample(PARTIES, dice.choice((2, 3, 4))))
        elif act == 5:
            gauge = dice.choice([t.gauge for t in w.treaty.triggers])
            w.read(gauge, dice.choice((0.1, 0.9, 5.0)), party, expires=w.now + dice.choice((4, 1000)))
        elif act == 6:
            lab = dice.choice(LABS)
            runs.append(w.declare(lab, name=f"run {i}", purpose=dice.choice(("", "safety-research"))))
            w.head(runs[-1], "opened")
        elif act in (7, 8) and runs:
            run = dice.choice(runs)
            if run.head and run.head.status != "ended" and run.steps < 27:
                w.train(run, run.steps + 3)
                w.head(run, dice.choice(("running", "stopped", "opened")))
        elif act == 9 and runs:
            run = dice.choice(runs)
            if run.heads and run.heads[-1].beacon and run.owner != party:
                w.audit(party, run, *w.judged(run, inspector=party))
        elif act == 10:
            if dice.random() < 0.3:
                w.withdraw(party)
            else:
                w.log(party, "assent", Assent(text=w.treaty.digest, articles=articles_digest(w.treaty)))
        else:
            w.log(party, "pledge", {"condition": "quorum none\n"}, expires=w.now + dice.choice((3, 50)))
    w.stamp()
    return w


def slow_found(treaty: Treaty, readings: r.Readings, active: frozenset[str]) -> r.Readings:
    parts = ((key, shown.by, shown.past) for key, shown in readings.shown.items())
    return r.rebuild(treaty, parts, active)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_random_log_gives_the_same_without_shortcuts(seed: int) -> None:
    w = random_world(seed)
    w.check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "_may_move", lambda before, state: True)
        state, events = replay(w.treaty, w.entries)
    assert events == w.events
    assert encode(state) == encode(w.state)
    assert slow_found(w.treaty, w.state.readings, w.state.active) == w.state.readings


def test_random_logs_reach_everything() -> None:
    """The generator is worth something only if its logs trip, pause, lift, and hold back."""
    seen = {type(e).__name__ for seed in range(60) for e in random_world(seed).events}
    assert {"Tripped", "Paused", "Lifting", "Cleared", "Bound", "Settled", "Barred", "Read", "Void"} <= seen, seen
    assert isinstance(random_world(1).state, State)
