"""Readings in the log: what counts, what trips, what grows, and what a liar among four can and cannot do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason
from brakeline.core.state import events as ev
from brakeline.core.state import readings as r
from brakeline.core.state.codec import decode, encode
from brakeline.core.state.readings import MAX_SUBJECTS
from world import DAY, PARTIES, START, World, bound, plain

TWO = ("alpha", "beta")
OTHER = sha256(b"other inputs").hex()


def reached(world: World) -> list[str]:
    """Gauges that reproduced readings reach."""
    return [t.gauge for t in r.reached(world.treaty, world.state.readings, active=world.state.active)]


def share(world: World, lower: float, upper: float, *parties: str, **changes: Any) -> None:
    world.read("authorship", lower, *parties, value=lower, upper=upper, **changes)


# --- what trips


@pytest.mark.parametrize(
    ("readings", "trips"),
    [
        ([("authorship", 0.8, TWO), ("speedup", 4.0, TWO)], True),  # two classes
        ([("authorship", 0.8, TWO), ("speedup", 4.0, ("gamma", "delta"))], True),  # whoever they are
        ([("lineage", 1.0, TWO)], True),  # Treaty 4.3: safety suffices alone
        ([("authorship", 0.8, PARTIES)], False),  # one class
        ([("speedup", 4.0, PARTIES)], False),
        ([("lineage", 1.0, ("alpha",))], False),  # one party's reading is a claim
        ([("lineage", 1.0, ("alpha", "alpha"))], False),
        ([("authorship", 0.8, TWO), ("speedup", 4.0, ("alpha",))], False),
        ([("lineage", 0.999, PARTIES)], False),  # by its lower bound, at the threshold
        ([("authorship", 0.8, TWO), ("speedup", 3.999, PARTIES)], False),
    ],
)
def test_what_readings_trip(readings: list[tuple[str, float, tuple[str, ...]]], trips: bool) -> None:
    # Treaty 4.2
    world = bound()
    for gauge, lower, parties in readings:
        world.read(gauge, lower, *parties)
    assert (world.phase is not Phase.CLEAR) is trips
    gauges = tuple(dict.fromkeys(g for g, _, _ in readings))
    assert world.state.ballot.cause == (ev.ByReadings(gauges) if trips else None)
    world.check()


def test_the_newest_reading_counts_until_it_expires() -> None:
    world = bound()
    world.read("lineage", 2.0, "alpha")
    world.read("lineage", 0.5, "alpha")
    world.read("lineage", 2.0, "beta", expires=world.now + 3)
    assert world.phase is Phase.CLEAR
    world.stamp(3)
    world.read("lineage", 2.0, "alpha")
    assert world.phase is Phase.CLEAR
    world.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"gauge": "vibes"},
        {"unit": "percent"},
        {"lower": 3},
        {"upper": 0},
        {"value": "1"},
        {"lower": True},
        {"subject": ""},
        {"subject": "a\nb"},
        {"subject": "x" * 201},
        {"inputs": "ab"},
        {"evidence": ""},
        {"alarms": ["anchors"]},  # only a safety gauge has any
    ],
)
def test_a_reading_that_is_none(changes: dict[str, object]) -> None:
    world = bound()
    body = {**plain(world.reading("speedup", 1.0)), "lower": 1, "value": 2, "upper": 4}
    assert world.log("alpha", "reading", body).reason is None
    assert world.log("alpha", "reading", {**body, **changes}).reason is Reason.MALFORMED
    assert [e.reading.value for e in world.of(ev.Read)] == [2.0]
    world.check()


@pytest.mark.parametrize("alarms", [["b", "a"], ["a", "a"], [""], ["\n"]])
def test_alarms_are_sorted_distinct_and_printable(alarms: list[str]) -> None:
    world = bound()
    body = plain(world.reading("lineage", 0.0))
    assert world.log("alpha", "reading", {**body, "alarms": ["a", "b"]}).reason is None
    assert world.log("alpha", "reading", {**body, "alarms": alarms}).reason is Reason.MALFORMED
    world.check()


@pytest.mark.parametrize(
    ("second", "disagree"),
    [
        ({"inputs": OTHER}, False),  # another measurement
        ({"subject": "something else"}, False),
        ({"from": 7.0}, True),  # as high, and yet not the same
        ({"from": -1.0, "upper": 0.9}, True),
        ({"alarms": ("anchors",)}, True),
        ({"complete": False}, True),
    ],
)
def test_a_reading_counts_when_a_second_party_found_the_same(second: dict[str, Any], disagree: bool) -> None:
    # Treaty 4.8
    world = bound()
    world.read("lineage", 2.0, "alpha")
    changes = dict(second)
    world.read("lineage", changes.pop("from", 2.0), "beta", **changes)
    assert world.phase is Phase.CLEAR
    pair = [(("lineage", "everything"), ("alpha", 9), ("beta", 10))] * disagree
    assert list(r.disagreements(world.state.readings)) == pair
    assert [((e.gauge, e.subject), e.first, e.second) for e in world.of(ev.Disagreed)] == pair
    world.read("lineage", 2.0, "gamma", upper=3.5)  # agrees with alpha
    assert world.phase is Phase.PAUSED
    world.check()


def test_who_agrees_and_who_measured_something_else_do_not_disagree() -> None:
    # Treaty 4.8
    world = bound()
    world.read("speedup", 1.0, *TWO)
    world.read("speedup", 9.0, "gamma", inputs=OTHER)
    assert list(r.disagreements(world.state.readings)) == world.of(ev.Disagreed) == []
    world.read("speedup", 9.0, "delta")
    pairs = [(a[0], b[0]) for _, a, b in r.disagreements(world.state.readings)]
    assert (
        pairs == [(e.first[0], e.second[0]) for e in world.of(ev.Disagreed)] == [("alpha", "delta"), ("beta", "delta")]
    )
    world.check()


def test_who_disagrees_can_neither_hide_a_reading_nor_raise_it() -> None:
    # Treaty 4.8: the honest value is about 0.5; the liar's bounds include it, reach the threshold, or lie elsewhere.
    for lower, upper in ((0.0, 99.0), (0.4, 0.6), (50.0, 99.0), (1.0, 1.5)):
        world = bound()
        world.read("lineage", 0.4, "alpha", "beta", value=0.5, upper=1.2)
        world.read("lineage", lower, "gamma", value=lower, upper=upper)
        assert world.phase is Phase.CLEAR
        world.read("lineage", 1.1, "alpha", "beta", value=1.1, upper=1.2)
        assert world.phase is Phase.PAUSED
        world.check()


def test_an_alarm_suffices_when_two_parties_raise_it() -> None:
    # Treaty 4.3
    world = bound()
    world.read("lineage", 0.0, "alpha", alarms=("ancestry",))
    assert world.phase is Phase.CLEAR
    world.read("lineage", 0.0, "beta", alarms=("ancestry",))
    assert world.state.ballot.cause == ev.ByReadings(("lineage",))
    world.check()


# --- growth


def test_a_gauge_that_doubles_fast_counts_below_its_threshold() -> None:
    # Treaty 4.9; the example: authorship from 0.3 within 120 days, threshold 0.8
    for first, wait, second, counts in (
        ((0.15, 0.2), 30 * DAY, (0.4, 0.5), True),
        ((0.15, 0.21), 30 * DAY, (0.4, 0.5), False),  # by the earlier upper bound, not yet doubled
        ((0.05, 0.1), 30 * DAY, (0.29, 0.4), False),  # below the floor
        ((0.15, 0.2), 121 * DAY, (0.4, 0.5), False),  # too slow
    ):
        world = World()
        world.bind(expires=START + 1000 * DAY)
        world.read("speedup", 4.0, *TWO, expires=world.now + 1000 * DAY)
        share(world, *first, *TWO)
        world.stamp(wait)
        share(world, *second, "alpha")
        assert world.phase is Phase.CLEAR  # a claim
        share(world, *second, "gamma")
        assert (world.phase is not Phase.CLEAR) is counts, (first, wait, second)
        world.check()


def test_what_one_party_read_earlier_is_no_start_of_growth() -> None:
    # Treaty 4.9: else one party could make slow growth look fast.
    world = bound()
    world.read("speedup", 4.0, *TWO)
    share(world, 0.0, 0.01, "alpha")
    world.stamp(DAY // 2)
    share(world, 0.4, 0.5, *TWO)
    assert world.phase is Phase.CLEAR
    world.check()


def test_a_reading_logged_again_makes_an_old_one_no_newer() -> None:
    # Treaty 4.9: doubled in 150 days is no growth within 120, whatever one party logs in between.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    world.read("speedup", 4.0, *TWO, expires=world.now + 1000 * DAY)
    share(world, 0.15, 0.2, *TWO, expires=world.now + 1000 * DAY)
    world.stamp(100 * DAY)
    share(world, 0.15, 0.2, "alpha")
    world.stamp(50 * DAY)
    share(world, 0.4, 0.5, "beta", "gamma")
    assert world.phase is Phase.CLEAR
    world.check()


def test_a_reading_logged_again_does_not_hide_growth() -> None:
    # Treaty 4.9: doubled in 60 days, and read so by two; a third one, later, moves the growth out of no window.
    world = World()
    world.bind(expires=START + 1000 * DAY)
    share(world, 0.15, 0.2, *TWO)
    world.stamp(60 * DAY)
    share(world, 0.4, 0.5, *TWO, expires=world.now + 1000 * DAY)
    assert reached(world) == ["authorship"]
    world.stamp(100 * DAY)
    share(world, 0.3, 0.5, "gamma")
    assert reached(world) == ["authorship"]
    world.check()


# --- bounds


def test_one_party_has_so_many_readings_in_force() -> None:
    world = bound()
    for i in range(MAX_SUBJECTS):
        assert world.read("speedup", 1.0, "alpha", subject=f"s{i}", expires=world.now + 5)[0].reason is None
    assert world.read("speedup", 1.0, "alpha", subject="more")[0].reason is Reason.ALLOWANCE
    assert world.read("speedup", 1.0, "alpha", subject="s1", expires=world.now + 5)[0].reason is None
    assert world.read("lineage", 0.0, "alpha", subject="more")[0].reason is None
    assert world.read("speedup", 1.0, "beta", subject="more")[0].reason is None  # each has its own
    world.stamp(6)
    assert world.read("speedup", 1.0, "alpha", subject="more")[0].reason is None
    world.check()


def test_what_has_expired_is_forgotten() -> None:
    world = bound()
    for i in range(150):
        assert world.read("speedup", 1.0, "alpha", subject=f"s{i}", expires=world.now + 2)[0].reason is None
        share(world, 0.1, 0.2, "alpha", "beta")
        world.stamp(1)
    shown = world.state.readings.shown
    assert len(shown) < 5
    assert len(shown["authorship", "everything"].past) <= 151
    world.stamp(121 * DAY)
    assert len(world.state.readings.shown) == len(world.state.readings.counts) == 0
    world.check()


def test_a_gauge_that_knows_no_growth_keeps_no_past() -> None:
    # Treaty 4.9
    world = bound()
    world.read("speedup", 1.0, *TWO, expires=world.now + 5)
    share(world, 0.1, 0.2, *TWO, expires=world.now + 5)
    world.stamp(6)
    assert list(world.state.readings.shown) == [("authorship", "everything")]
    world.check()


# --- what is worked out once is right


@settings(max_examples=settings().max_examples // 2)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*PARTIES, "stamp", "equivocate", "leave"]),
            st.sampled_from(["authorship", "lineage"]),
            st.sampled_from([(0.1, 0.2), (0.1, 0.9), (0.2, 0.3), (0.4, 0.5), (0.3, 2.0), (1.2, 1.3)]),
            st.sampled_from([1, 3, 40 * DAY]),
        ),
        max_size=25,
    )
)
def test_what_is_kept_of_readings_is_what_they_say(steps: list[tuple[str, str, tuple[float, float], int]]) -> None:
    # Every shortcut against the definition, at every entry; and a state that is read back goes on alike.
    world = World(brake_findings_trip="false")
    world.bind(expires=START + 1000 * DAY)
    for who, gauge, (lower, upper), lasts in steps:
        if who == "stamp":
            world.stamp(lasts)
        elif who == "leave":
            world.withdraw("delta")
            world.stamp(world.treaty.withdrawal_notice)
        elif who == "equivocate":
            world.append(world.statement("gamma", "vote", {"motion": "trip", "epoch": 9, "reason": "x"}, seq=1))
        else:
            world.read(gauge, lower, who, value=lower, upper=upper, expires=world.now + lasts)
        state = world.state
        again = r.rebuild(
            world.treaty,
            [(key, s.by, s.past) for key, s in state.readings.shown.items()],
            state.active,
        )
        assert again == state.readings
        standing = [s for shown in state.readings.shown.values() for s in shown.by.values()]
        assert all(s.expires > state.time for s in standing)
        assert decode(encode(state), world.treaty).readings == state.readings
    world.check()


def test_the_order_of_parties_decides_nothing() -> None:
    # Three readings that meet in two ways, alike but for when: who folds and who reads the state back choose alike.
    for order in (("gamma", "alpha", "beta"), ("alpha", "beta", "gamma"), ("beta", "gamma", "alpha")):
        world = bound()
        for party in (*order, "gamma"):
            world.stamp()
            lower, upper = (0.2, 0.9) if party == "gamma" else (0.1, 0.3)
            world.read("lineage", lower, party, value=lower, upper=upper)
        state = decode(encode(world.state), world.treaty)
        assert state.readings == world.state.readings
        assert [x.parties for x in r.current(world.state.readings)] == [TWO]
        world.check()


def test_a_reading_renewed_does_not_expire_with_the_old_one() -> None:
    world = bound()
    world.read("speedup", 1.0, "alpha", expires=world.now + 20)
    world.read("lineage", 0.1, *TWO, subject="x", expires=world.now + 50)
    world.stamp(10)
    world.read("speedup", 1.0, "alpha", expires=world.now + 1000)
    assert world.state.readings.until == START + 50
    assert decode(encode(world.state), world.treaty).readings == world.state.readings
    world.stamp(10)
    assert reached(world) == []
    assert len(world.state.readings.shown) == 2
    world.check()
