"""The state: all that decides about the next entry, as one value."""

from collections.abc import Mapping

import msgspec

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.state import keyring as k
from brakeline.core.state import members as m
from brakeline.core.state.ballot import Ballot
from brakeline.core.state.chain import Chain, Ground, Text
from brakeline.core.state.clock import Clock
from brakeline.core.state.dues import Dues
from brakeline.core.state.keyring import Keyring
from brakeline.core.state.members import Members
from brakeline.core.state.readings import Readings
from brakeline.core.state.runs import Run, Runs, concerned
from brakeline.core.treaty import Treaty


class State(msgspec.Struct, frozen=True, gc=False):
    """The state after `size` entries. It never changes: `apply` gives another one."""

    chain: Chain
    keyring: Keyring
    clock: Clock
    members: Members
    runs: Runs
    ballot: Ballot
    readings: Readings
    dues: Dues

    @property
    def ground(self) -> Ground:
        """The text in force, and what follows from it."""
        return self.chain.texts[-1].ground

    @property
    def treaty(self) -> Treaty:
        """The text in force."""
        return self.chain.texts[-1].ground.treaty

    @property
    def first(self) -> str:
        """Hex SHA-256 of the log's first text, by which the log goes."""
        return self.chain.texts[0].ground.digest

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

    @property
    def voice(self) -> frozenset[str]:
        """Those of them that decide: who has left may still be bound (Treaty 11.5), and has no vote."""
        return self.members.voice

    @property
    def is_stated(self) -> bool:
        """Whether permit signers state it. Treaty 6.6."""
        return self.size % self.treaty.snapshot_every == 0

    def may_need_others(self, size: int) -> bool:
        """Whether a checkpoint of `size` entries may need witnesses whom only those entries name. Treaty 11.3."""
        return size > self.size and self.treaty.amends

    def key_of(self, party: str) -> PublicKey:
        """The key with which the party speaks now.

        Raises:
            Refused(RETIRED_KEY): it was revoked, and it has shown no other.
        """
        held = self.keyring.of[party].statement.key
        if not held:
            raise Refused(Reason.RETIRED_KEY, f"{party}'s key was revoked (Treaty 12.2)")
        return PublicKey.parse(held)

    @property
    def signers(self) -> Mapping[PublicKey, str]:
        """Keys that sign permits → party."""
        return self.keyring.signers(self.treaty)

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
    chain = Chain((Text(Ground(treaty)),))
    return State(chain, k.begin(treaty), Clock(), m.begin(treaty), Runs(), Ballot(), Readings(), Dues())
