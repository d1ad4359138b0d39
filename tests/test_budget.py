"""What a party may log of one day: by lane and in bytes, charged to its own day, so that nobody spends another's."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason, Refused
from brakeline.core.pledge import Pledge
from brakeline.core.state import State
from brakeline.core.state import events as ev
from brakeline.core.state.members import DAYS_BACK, LANES, Spent
from brakeline.core.state.said import authenticate, number
from brakeline.core.treaty import BEHIND
from world import DAY, START, Outcome, World, bound, last_numbers

TRIP = {"motion": "trip", "epoch": 0, "reason": "test"}
SMALL = {"budget.brake": "16", "budget.runs": "5", "budget.audits": "3", "budget.rest": "4", "budget.bytes": '"64 KiB"'}
MORNING = START // DAY * DAY + DAY  # the first second of a day


def world_at(time: int, **changes: str) -> World:
    world = World(start=time, **{**SMALL, **changes})
    world.bind(expires=time + 900 * DAY)
    return world


def spent(state: State, party: str) -> dict[int, tuple[int, ...]]:
    return {s.day: s.counts for s in state.members.by_name[party].spent}


def read(world: World, party: str = "alpha", **changes: Any) -> Outcome:
    return world.log(party, "reading", world.reading("speedup", 1.0), **changes)


def refusal(world: World, data: bytes) -> Refused | None:
    """What `number` says of a statement that is not logged yet."""
    return number(world.state, authenticate(world.state, data))[1]


def test_each_lane_has_its_own_budget() -> None:
    # Treaty 1.5
    world = world_at(MORNING)
    runs = [world.log("alpha", "declaration", world.declaration(name=f"r{i}")).reason for i in range(6)]
    assert runs == [None] * 5 + [Reason.BUDGET]
    rest = [read(world).reason for _ in range(5)]
    assert rest == [None] * 4 + [Reason.BUDGET]
    audits = [world.log("alpha", "audit", {}).reason for _ in range(4)]  # whatever they say
    assert audits == [Reason.MALFORMED] * 3 + [Reason.BUDGET]
    votes = [world.vote("trip", "alpha")[0].reason for _ in range(15)]
    assert votes == [None] * 14 + [Reason.BUDGET]
    assert spent(world.state, "alpha") == {MORNING // DAY: (16, 5, 3, 4)}
    assert read(world, "beta").reason is None  # nobody spends another's
    world.check()


def test_over_budget_is_later_and_its_number_is_spent() -> None:
    # Treaty 1.5: whoever sent it keeps it; who logs it all the same has lost it.
    world = world_at(MORNING)
    for _ in range(4):
        read(world)
    data = world.statement("alpha", "reading", world.reading("speedup", 2.0))
    why = refusal(world, data)
    assert why is not None
    assert (why.reason, why.later) == (Reason.BUDGET, True)
    assert world.append(data).reason is Reason.BUDGET
    assert last_numbers(world.state, "alpha")[3] == 4
    assert world.append(data).reason is Reason.DUPLICATE
    assert spent(world.state, "alpha") == {MORNING // DAY: (2, 0, 0, 4)}  # what did not count is not charged
    assert world.state.members.equivocators == frozenset()
    world.check()


def test_a_statement_is_charged_to_the_day_it_is_dated() -> None:
    # Treaty 1.5, 6.5: an outage of a week is logged on its last day, and spends none of that day.
    world = world_at(MORNING)
    world.stamp(7 * DAY)
    for back in range(8):
        day = world.now - back * DAY
        assert read(world, not_before=day).reason is None, back
    assert read(world, not_before=world.now - BEHIND - 1).reason is Reason.EXPIRED
    today = world.now // DAY
    assert spent(world.state, "alpha") == {today - n: (2 if n == 7 else 0, 0, 0, 1) for n in range(8)}
    assert BEHIND == DAYS_BACK * DAY
    for _ in range(3):
        assert read(world, not_before=world.now - DAY).reason is None
    assert read(world, not_before=world.now - DAY).reason is Reason.BUDGET
    assert read(world).reason is None
    # A moment ahead may be tomorrow.
    world.stamp((today + 1) * DAY - world.now - 1)
    assert read(world, not_before=world.now + 1).reason is None
    assert spent(world.state, "alpha")[today + 1] == (0, 0, 0, 1)
    world.check()


def test_days_are_forgotten_when_nothing_more_can_be_dated_to_them() -> None:
    world = world_at(MORNING, **{"budget.rest": "20"})
    for day in range(40):
        assert read(world).reason is None
        assert read(world, not_before=world.now - min(day, 7) * DAY).reason is None
        assert len(world.state.members.by_name["alpha"].spent) <= DAYS_BACK + 2
        world.stamp(DAY)
    assert min(spent(world.state, "alpha")) >= world.now // DAY - DAYS_BACK - 2
    world.check()


def test_the_keeper_spends_nobodys_budget() -> None:
    # It holds back three days of honest statements and logs them at once: all count.
    world = world_at(MORNING)
    kept = []
    for _ in range(3):
        world.now += DAY
        for n in range(4):
            body = world.reading("speedup", float(n))
            kept.append(world.statement("alpha", "reading", body, expires=world.now + 9 * DAY))
    world.stamp(0)
    assert [world.append(data).reason for data in kept] == [None] * 12
    world.check()


def test_bytes_are_counted_over_all_lanes_but_the_brakes() -> None:
    # Treaty 1.5
    world = world_at(MORNING, **{"budget.rest": "100", "budget.runs": "100"})
    long = {"about": -1, "text": "x" * 4000}
    sizes = []
    while (outcome := world.log("alpha", "notice", long)).reason is None:
        sizes.append(len(world.entries[-1]))
    assert outcome.reason is Reason.BUDGET
    assert sum(sizes) <= world.treaty.budget.bytes < sum(sizes) + len(world.entries[-1])
    assert world.state.members.by_name["alpha"].spent[-1].bytes == sum(sizes)
    for _ in range(3):
        world.log("alpha", "notice", {"about": -1, "text": "x" * 900})
    assert read(world).reason is Reason.BUDGET
    # The brake's lane is still whole, and as large as a statement may be.
    reason = "x" * 40_000
    assert world.log("alpha", "vote", {**TRIP, "reason": reason}).reason is None
    assert world.vote("trip", "beta")[0].reason is None
    assert world.phase is not Phase.CLEAR
    world.check()


@given(st.lists(st.sampled_from(["run", "reading", "notice", "meter", "audit", "edge"]), max_size=40))
def test_nothing_that_a_party_logs_keeps_it_from_voting(what: list[str]) -> None:
    # Treaty 1.5: no other lane uses up the brake's.
    world = world_at(MORNING)
    for i, x in enumerate(what):
        if x == "run":
            world.log("alpha", "declaration", world.declaration(name=f"r{i}"))
        elif x == "reading":
            read(world)
        elif x == "edge":
            world.edge("alpha", f"m{i}")
        else:
            world.log("alpha", x, {"about": -1, "text": "x" * 4000})
    assert world.vote("trip", "alpha", "beta")[0].reason is None
    assert world.phase is not Phase.CLEAR
    world.check()


def test_near_the_budget_it_says_so_once() -> None:
    # Four fifths: 13 of 16, 4 of 5, 3 of 3, 4 of 4.
    world = world_at(MORNING)
    for i in range(5):
        world.log("alpha", "declaration", world.declaration(name=f"r{i}"))
        world.log("alpha", "audit", {})
        world.vote("trip", "alpha")
        read(world)
    for _ in range(8):
        world.vote("trip", "alpha")
    near = [(e.issuer, e.lane, e.day) for e in world.of(ev.NearBudget)]
    day = MORNING // DAY
    assert near == [("alpha", lane, day) for lane in ("audits", "runs", "rest", "brake")]
    world.check()


def test_near_the_days_bytes_it_says_so_once() -> None:
    world = world_at(MORNING, **{"budget.rest": "100"})
    while world.log("alpha", "notice", {"about": -1, "text": "x" * 4000}).reason is None:
        pass
    ((entry, lane),) = [(e.entry, e.lane) for e in world.of(ev.NearBudget)]
    assert lane == "rest"
    total = sum(len(e) for e in world.entries[9 : entry + 1])
    most = world.treaty.budget.bytes * 4 / 5
    assert total - len(world.entries[entry]) < most <= total
    world.check()


def test_kinds_that_nobody_knows_are_charged_as_well() -> None:
    # Treaty 1.4, 1.5
    world = world_at(MORNING)
    reasons = [world.log("alpha", "meter", {"joules": i}).reason for i in range(5)]
    assert reasons == [Reason.UNKNOWN_KIND] * 4 + [Reason.BUDGET]
    assert read(world).reason is Reason.BUDGET
    world.check()


def test_pledges_are_bounded_like_votes() -> None:
    world = world_at(MORNING)
    pledge = Pledge(condition="quorum none\n")
    reasons = [world.log("alpha", "pledge", pledge, expires=world.now + 900 * DAY).reason for _ in range(15)]
    assert reasons == [None] * 14 + [Reason.BUDGET]
    world.stamp(DAY)
    assert world.vote("trip", "alpha")[0].reason is None
    world.check()


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-9, 0), st.sampled_from([0, 0, 0, DAY // 2])), min_size=1, max_size=60
    )
)
def test_the_books_are_right_whatever_the_order(steps: list[tuple[int, int, int]]) -> None:
    # The state keeps a few days; here all are counted.
    world = world_at(MORNING + 9 * DAY)
    kinds = ("vote", "declaration", "audit", "notice")
    books: dict[tuple[int, int], int] = {(world.now // DAY, 0): 2}
    for i, (lane, back, wait) in enumerate(steps):
        if wait:
            world.stamp(wait)
        day = world.now // DAY + back
        outcome = world.log("alpha", kinds[lane], {"reason": str(i)}, not_before=world.now + back * DAY)
        most = world.treaty.budget.of(LANES[lane])
        if back < -7:
            assert outcome.reason is Reason.EXPIRED
        elif books.get((day, lane), 0) < most:
            books[day, lane] = books.get((day, lane), 0) + 1
            assert outcome.reason is Reason.MALFORMED
        else:
            assert outcome.reason is Reason.BUDGET
    for s in world.state.members.by_name["alpha"].spent:
        assert isinstance(s, Spent)
        assert s.counts == tuple(books.get((s.day, lane), 0) for lane in range(4))
    world.check()


def test_a_treaty_says_how_much() -> None:
    # Treaty 1.5: as it stands in the example.
    budget = bound(**{"budget.brake": "64", "budget.bytes": '"1 MiB"'}).treaty.budget
    assert [budget.of(lane) for lane in LANES] == [64, 100_000, 100_000, 100_000]
    assert budget.bytes == 1 << 20
