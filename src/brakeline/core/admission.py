"""What a log takes: the same checks as the fold's, before an entry is in the log and so before it is too late.

Whatever the log would take and the fold would void for its date, its number or its budget is lost to its issuer, whose
number is spent. So the log judges by the state that will be there when the entry's turn comes: with the numbers and the
budgets of all that waits before it. Two different statements of one number are taken, both: they are evidence. But who
asks for it may be told instead: two homes of an honest party meet nowhere else.

Effects are not judged here. Whether a vote is for this epoch, or a head may follow, is for the fold to say.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from brakeline.core.errors import Reason, Refused
from brakeline.core.state import State, apply
from brakeline.core.state.members import Twice, equivocate
from brakeline.core.state.said import Said, authenticate, number

BRAKE: Final = "brake"


class Admission:
    """One log's view: the state of all that it holds, and what waits to be held. Not for several threads at once."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._waiting: dict[bytes, Said] = {}
        self._ahead = state
        self._stale = False  # whether `_ahead` is to be counted anew

    @property
    def parties(self) -> int:
        return len(self.state.treaty.parties)

    def admit(self, entry: bytes, *, alone: bool = False) -> tuple[str, bool]:
        """The party that says it, and whether it goes in the brake's lane. From here on it waits.

        With `alone` it is to be taken only where its number is not taken by another statement.

        Raises:
            Malformed, Refused: as the fold would void it; `later` where the same bytes may be taken another time.
        """
        said = authenticate(self.state, entry)
        if self._stale:
            self._count()
        ahead, refused = _after(self._ahead, said, alone=alone)
        if refused is not None:
            raise refused
        self._ahead = ahead
        self._waiting[entry] = said
        return said.issuer, said.lane == BRAKE

    def dropped(self, entry: bytes) -> None:
        """It waits no longer, and is not in the log."""
        self._stale |= self._waiting.pop(entry, None) is not None

    def taken(self, entries: Iterable[bytes]) -> Iterator[State]:
        """The log has grown by these; gives the state after each."""
        for entry in entries:
            self.state, _ = apply(self.state, entry)
            self._waiting.pop(entry, None)
            self._stale = True
            yield self.state

    def _count(self) -> None:
        self._ahead, self._stale = self.state, False
        for said in sorted(self._waiting.values(), key=lambda said: said.statement.seq):
            with suppress(Refused):
                self._ahead, _ = _after(self._ahead, said)


def _after(state: State, said: Said, *, alone: bool = False) -> tuple[State, Refused | None]:
    """The state with the statement's number and budget spent, and why it has no effect. Raises as `number`.

    The second of two statements of one number is evidence, and free; a third proves nothing more, and would be.
    """
    try:
        return number(state, said)
    except Twice as e:
        if alone:
            text = f"number {said.statement.seq} of {said.issuer}'s lane {said.lane} is taken by another statement"
            raise Refused(Reason.REPLAYED, text, later=True) from e
        name = said.issuer
        if name in state.members.equivocators:
            raise
        members = equivocate(state.treaty, state.members, name, state.size, state.time)
        return msgspec.structs.replace(state, members=members), None
