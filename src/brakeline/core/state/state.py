"""The state: all that decides about the next entry, as one value."""

from collections.abc import Mapping
from functools import cached_property

import msgspec

from brakeline.core.brake import Phase
from brakeline.core.kinds import Kind, known
from brakeline.core.state import members as m
from brakeline.core.state.ballot import Ballot
from brakeline.core.state.clock import Clock
from brakeline.core.state.dues import Dues
from brakeline.core.state.members import Members
from brakeline.core.state.readings import Readings
from brakeline.core.state.runs import Run, Runs, concerned
from brakeline.core.tlog.policy import Policy
from brakeline.core.treaty import Party, Treaty, articles_digest


class Ground:
    """What follows from the treaty alone and is asked at every entry; worked out once."""

    def __init__(self, treaty: Treaty) -> None:
        self.treaty = treaty
        self.digest = treaty.digest
        self.policy: Policy = treaty.policy
        self.by_key: Mapping[str, Party] = {p.key.id: p for p in treaty.parties.values()}
        self.kinds: Mapping[str, Kind] = known(treaty.rules)

    @cached_property
    def articles(self) -> str:
        """Hex SHA-256 of the articles as this build renders and applies them."""
        return articles_digest(self.treaty)


class State(msgspec.Struct, frozen=True, gc=False):
    """The state after `size` entries. It never changes: `apply` gives another one."""

    treaty: Treaty
    ground: Ground
    clock: Clock
    members: Members
    runs: Runs
    ballot: Ballot
    readings: Readings
    dues: Dues

    @property
    def size(self) -> int:
        """Log entries that it follows from."""
        return self.clock.size

    @property
    def time(self) -> int:
        """The log's own time: that of its last stamp, POSIX s. Treaty 6.2."""
        return self.clock.time

    @property
    def phase(self) -> Phase:
        return self.ballot.phase

    @property
    def epoch(self) -> int:
        return self.ballot.brake.epoch

    @property
    def active(self) -> frozenset[str]:
        """The parties in force. Treaty 2.2."""
        return self.members.active

    def root(self, size: int | None = None) -> bytes:
        """The log's root after `size` entries, by default all. Raises as `Clock.tree`."""
        return self.clock.root(size)

    def run(self, run: str) -> Run:
        """Raises:
        Refused(UNDECLARED): no such run.
        """
        return self.runs[run]

    def concerned(self, run: Run) -> bool:
        """Whether the brake and its permits concern this run now. Treaty 2.2, 3.1."""
        return concerned(run, self.active, self.phase)


def begin(treaty: Treaty) -> State:
    """The state before the first entry."""
    return State(treaty, Ground(treaty), Clock(), m.begin(treaty), Runs(), Ballot(), Readings(), Dues())
