"""A log's own view of what it holds: judges what comes, and keeps the state at hand for those who ask."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from brakeline.core.admission import Admission
from brakeline.core.errors import BrakelineError, Malformed, Unavailable
from brakeline.core.snapshot import pack, unpack
from brakeline.core.state import State, begin
from brakeline.core.state.codec import decode, encode
from brakeline.core.treaty import Treaty
from brakeline.node.admission import Place, Terms
from brakeline.node.disk import write_atomic
from brakeline.node.logstore import LogStore

_CHUNK: Final = 1000  # entries read at once


class LogJudge:
    """The admission of one log's sequencer, over its store. `path` is where a state is kept for the next start.

    What is kept there is also what the log offers to newcomers: a state at a size where permit signers state it.
    """

    def __init__(self, treaty: Treaty, store: LogStore, path: Path) -> None:
        """Reads all that the store holds, before anything is served. Raises as `LogStore.entries`."""
        self._path = path
        state = self._restore(treaty, store)
        self._admission = Admission(state)
        while state.size < store.size:
            entries = store.entries(state.size, min(store.size, state.size + _CHUNK))
            self.taken(entries)
            state = self._admission.state

    def _restore(self, treaty: Treaty, store: LogStore) -> State:
        try:
            state = decode(unpack(self._path.read_bytes()), treaty)
            if state.size > store.size or state.root() != store.root(state.size):
                raise Malformed("the state of another log")
        except (OSError, BrakelineError):
            return begin(treaty)
        return state

    @property
    def parties(self) -> int:
        return self._admission.parties

    @property
    def terms(self) -> Terms:
        """By the text in force; wished for are the witnesses of one that waits for its turn."""
        state = self._admission.state
        text = state.treaty
        return Terms(state.chain.need(state.size), state.chain.wish, text.heartbeat, text.stale_after)

    def admit(self, entry: bytes, *, alone: bool = False) -> Place:
        """Where the entry queues. As `Admission.admit`."""
        return Place(*self._admission.admit(entry, alone=alone))

    def dropped(self, entry: bytes) -> None:
        self._admission.dropped(entry)

    def taken(self, entries: Sequence[bytes]) -> None:
        """Follow the log."""
        due = None
        for state in self._admission.taken(entries):
            due = state if state.is_stated else due
        if due is not None:
            with suppress(Unavailable):  # a disk that is full: what is in the log was followed all the same
                write_atomic(self._path, pack(encode(due)))

    def offered(self) -> bytes | None:
        """The state kept, as `GET /snapshot` gives it; None before the first."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
