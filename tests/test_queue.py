"""The log's queue: whatever one party floods, another's statement keeps its place and its turn."""

from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.node.queue import BRAKE_SHARE, CAPACITY, FairQueue
from brakeline.node.sequencer import MAX_BATCH

NAMES = [f"p{i}" for i in range(6)]
PARTIES = CAPACITY // 3  # so many that each has three ordinary places
SHARE = {True: BRAKE_SHARE, False: 3}

Item = tuple[str, bool, int]  # party, whether in the brake lane, a number that no other item has

puts = st.tuples(st.sampled_from(NAMES), st.booleans())
takes = st.integers(0, 12)


@given(st.lists(puts | takes, max_size=200))
def test_every_history_is_fair(history: list[tuple[str, bool] | int]) -> None:
    queue: FairQueue[Item] = FairQueue()
    waiting: dict[tuple[str, bool], deque[Item]] = defaultdict(deque)
    turns: dict[bool, list[tuple[str, frozenset[str]]]] = {True: [], False: []}  # who went, and who then still waited

    def take(count: int) -> None:
        before = len(queue)
        items = queue.take(count)
        assert len(items) == min(count, before)
        assert len(queue) == before - len(items)
        for item in items:
            party, brake, _ = item
            assert brake or not any(waiting[name, True] for name in NAMES), "the brake lane goes first"
            assert waiting[party, brake].popleft() == item, "first in, first out; nothing lost, nothing twice"
            turns[brake].append((party, frozenset(name for name in NAMES if waiting[name, brake])))

    for number, step in enumerate(history):
        if isinstance(step, int):
            take(step)
            continue
        party, brake = step
        mine = waiting[party, brake]
        assert queue.put((party, brake, number), party, brake=brake, parties=PARTIES) == (len(mine) < SHARE[brake])
        if len(mine) < SHARE[brake]:
            mine.append((party, brake, number))
        assert len(queue) == sum(map(len, waiting.values())) <= len(NAMES) * (BRAKE_SHARE + 3)
    take(len(queue))
    assert not any(waiting.values())
    for lane in turns.values():
        check_turns(lane)


def check_turns(lane: list[tuple[str, frozenset[str]]]) -> None:
    """Between two turns of a party each that waited went: once, and nobody else, if the party waited all the while."""
    last: dict[str, int] = {}
    for at, (party, _) in enumerate(lane):
        if party in last:
            between = [other for other, _ in lane[last[party] + 1 : at]]
            waited = lane[last[party]][1]
            assert waited - {party} <= set(between)
            assert party not in waited or len(between) == len(waited) - 1
        last[party] = at


def test_an_unfair_order_would_be_noticed() -> None:
    everybody = frozenset("abc")
    check_turns([(party, everybody) for party in "abcabca"])
    for unfair in ("aa", "abab", "abbca", "abcbab"):
        with pytest.raises(AssertionError):
            check_turns([(party, everybody) for party in unfair])


@pytest.mark.parametrize("n", [1, 4, 7, 30, 100])
def test_floods_in_each_lane(n: int) -> None:
    """Attack S-29. All parties but one fill all that they have, in both lanes: the last one's trip vote is in the next
    batch, and so is its first ordinary statement."""
    queue: FairQueue[str] = FairQueue()
    for party in range(n - 1):
        for brake, share in ((True, BRAKE_SHARE), (False, CAPACITY // n)):
            assert all(queue.put("flood", str(party), brake=brake, parties=n) for _ in range(share))
            assert not queue.put("flood", str(party), brake=brake, parties=n)
    assert len(queue) == (n - 1) * (BRAKE_SHARE + CAPACITY // n) <= CAPACITY + n * BRAKE_SHARE
    for item in ("head", "second head"):
        assert queue.put(item, "victim", brake=False, parties=n)
    assert queue.put("vote", "victim", brake=True, parties=n)
    batch = queue.take(MAX_BATCH)
    assert batch.index("vote") < n
    assert batch.index("head") <= (n - 1) * BRAKE_SHARE + n
    assert batch.index("second head") <= (n - 1) * BRAKE_SHARE + 2 * n


def test_a_full_ordinary_queue_does_not_refuse_a_vote() -> None:
    queue: FairQueue[int] = FairQueue()
    assert all(queue.put(i, "alpha", brake=False, parties=4) for i in range(1024))
    assert not queue.put(-1, "alpha", brake=False, parties=4)
    assert queue.put(-2, "alpha", brake=True, parties=4)
    assert queue.take(2) == [-2, 0]


def test_more_parties_than_places_have_one_each() -> None:
    queue: FairQueue[int] = FairQueue()
    assert queue.put(1, "alpha", brake=False, parties=CAPACITY + 1)
    assert not queue.put(2, "alpha", brake=False, parties=CAPACITY + 1)
