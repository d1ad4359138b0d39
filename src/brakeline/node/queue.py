"""The log's queue: no party can spend the place, or the turn, of another.

There are two lanes. The brake lane goes first and has places of its own, so that a flood of ordinary statements neither
refuses nor delays a vote to trip. In each lane every party has a queue with places of its own, and the queues take
turns: whatever one party floods, the next statement of another waits for at most one of each party's. The brake lane
cannot starve the ordinary one: all of its places together are a fraction of a batch.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

CAPACITY: Final = 4096  # ordinary places, shared out among the parties
BRAKE_SHARE: Final = 8  # places of each party in the brake lane

T = TypeVar("T")


@dataclass(slots=True)
class _Lane(Generic[T]):
    """`queues` holds the parties with something waiting, in the order of their turns."""

    queues: OrderedDict[str, deque[T]] = field(default_factory=OrderedDict)
    size: int = 0

    def put(self, item: T, party: str, places: int) -> bool:
        queue = self.queues.setdefault(party, deque())
        if len(queue) >= places:
            return False
        queue.append(item)
        self.size += 1
        return True

    def take(self) -> T:
        party, queue = self.queues.popitem(last=False)
        item = queue.popleft()
        if queue:
            self.queues[party] = queue
        self.size -= 1
        return item


class FairQueue(Generic[T]):
    """Items by party and lane: first in, first out within both, and the parties of a lane take turns."""

    def __init__(self) -> None:
        self._brake: _Lane[T] = _Lane()
        self._ordinary: _Lane[T] = _Lane()

    def __len__(self) -> int:
        return self._brake.size + self._ordinary.size

    def put(self, item: T, party: str, *, brake: bool, parties: int) -> bool:
        """Queue `item` if `party`, one of `parties`, has a place left in the lane; says whether it had."""
        if brake:
            return self._brake.put(item, party, BRAKE_SHARE)
        return self._ordinary.put(item, party, max(1, CAPACITY // parties))

    def take(self, count: int) -> list[T]:
        """The next items, at most `count`: the brake lane until it is empty, then the ordinary one."""
        items: list[T] = []
        for lane in (self._brake, self._ordinary):
            items += [lane.take() for _ in range(min(count - len(items), lane.size))]
        return items
