"""What a log asks of whoever knows its rules: what it takes, and whom its checkpoints need."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from brakeline.core.tlog.policy import Policy


class Place(NamedTuple):
    """Where an admitted entry queues: among those of `party`, in the brake lane or in the ordinary one."""

    party: str
    brake: bool


class Terms(NamedTuple):
    """A checkpoint is published when the quorums of all of `need` have cosigned it; those of `wish` are asked, too.

    `heartbeat`: seconds between stamps, where the rules say it. `promise`: seconds until what is durable is published.
    """

    need: tuple[Policy, ...]
    wish: tuple[Policy, ...] = ()
    heartbeat: float | None = None
    promise: float = 600.0


class Admission(Protocol):
    """What decides which entries the log takes. It has read the store by itself before the sequencer starts.

    It is called in one thread, which is not the event loop's. From `admit` on an entry is *waiting*, until `taken` or
    `dropped` names it; no entry is admitted while it waits, nor once it is durable. `taken` may also name an entry that
    was never admitted, or was dropped: a stamp, or one whose commit failed and lasted all the same.
    """

    @property
    def parties(self) -> int:
        """How many parties share the queue, at least 1."""

    @property
    def terms(self) -> Terms:
        """On what terms all that was taken so far is published."""

    def admit(self, entry: bytes, *, alone: bool = False) -> Place:
        """Where `entry` queues. Raises what its submitter is to get; with `alone` also where another has its number."""

    def taken(self, entries: Sequence[bytes]) -> None:
        """The log has grown by exactly `entries`, in this order, stamps included; they are durable."""

    def dropped(self, entry: bytes) -> None:
        """`entry` was waiting, and does not come: no place, nobody waits for it any more, or the disk failed.

        Told before the next `admit` or `taken`.
        """
