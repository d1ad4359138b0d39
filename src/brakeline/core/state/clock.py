"""The log's clock and its tail: stamps, and the leaves since the last two of them.

A stamp is an earlier checkpoint of this very log with its cosignatures. The time is the witnesses' (Treaty 6.2), and
the digest of a stamp is a beacon: nobody knows it before the witnesses have cosigned, and trying for another one
costs whoever keeps the log their cosignatures anew.

No root is computed that nobody asks for. A stamp moves the frontier forward over the leaves that it covers, each hashed
once; older roots are forgotten, for no rule asks about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from rpds import HashTrieMap

from brakeline.core.encoding import tagged
from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.tlog.merkle import Frontier
from brakeline.core.tlog.policy import Policy, verify_all

SECONDS_A_DAY: Final = 86_400
LATEST: Final = 253_370_764_799  # POSIX s: the end of the year 9998, the last that every calendar can show


Leaf = tuple[bytes, str]


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """The log held `size` entries under `root` at `time` (POSIX s), says a witness quorum; it is entry `index`.

    `beacon` is the tagged digest of its text and of the cosignatures that count.
    """

    index: int
    size: int
    root: bytes
    time: int
    beacon: bytes


class Fork(Refused):
    """A stamp of another history: `note` proves it beside any checkpoint of this one."""

    def __init__(self, size: int, note: bytes) -> None:
        super().__init__(Reason.EQUIVOCATION, f"the log showed another history at size {size}")
        self.note = note


class Clock(msgspec.Struct, frozen=True, gc=False):
    """`time` never goes back. `mark` is the tree of the last stamp, `base` that of the one before.

    `leaves` are those after `base`, by index, each with the run that it declares or whose head it is, or "".
    """

    size: int = 0
    time: int = 0
    last: Stamp | None = None
    base: Frontier = Frontier()
    mark: Frontier = Frontier()
    leaves: HashTrieMap[int, Leaf] = HashTrieMap()
    forks: int = 0

    def append(self, leaf: bytes, run: str) -> Clock:
        """The clock with one more entry in the log. The first stamp over it is handed to `run`."""
        return msgspec.structs.replace(self, size=self.size + 1, leaves=self.leaves.insert(self.size, (leaf, run)))

    def tree(self, size: int) -> Frontier:
        """The tree of the first `size` entries, where it is not older than the stamp before the last.

        Raises:
            Misuse: too old, or more than there are.
        """
        if not self.base.size <= size <= self.size:
            raise Misuse(f"no tree of {size} entries is kept; there are those of {self.base.size} to {self.size}")
        start = self.mark if size >= self.mark.size else self.base
        return start.extend(self.leaves[i][0] for i in range(start.size, size))

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` entries, by default all. Raises as `tree`."""
        return self.tree(self.size if size is None else size).root()

    def stamp(
        self, index: int, data: bytes, need: Callable[[int], Sequence[Policy]]
    ) -> tuple[Clock, Stamp, frozenset[str]]:
        """Take a stamp, which is entry `index`; also the runs that waited for it.

        Raises:
            Malformed, Refused: as `verify_all`; ROLLBACK, it covers entries that are not there, or fewer than the
                last one; Fork, another history.
        """
        cosigned = verify_all(data, need)  # Treaty 6.1, 11.3
        size, root = cosigned.checkpoint.size, cosigned.checkpoint.root
        if cosigned.time > LATEST:
            raise Malformed(f"no calendar shows the time {cosigned.time}")
        if not self.mark.size <= size <= index:
            raise Refused(Reason.ROLLBACK, f"stamp of {size} entries at entry {index}, after one of {self.mark.size}")
        mark = self.tree(size)
        if root != mark.root():
            raise Fork(size, data)
        # Treaty 6.2. Lines that the policy does not count are no part of the beacon: whoever keeps the log adds any.
        beacon = tagged("brakeline/beacon/v1", *cosigned.counted)
        stamp = Stamp(index, size, root, max(self.time, cosigned.time), beacon)
        runs = frozenset(run for i in range(self.mark.size, size) if (run := self.leaves[i][1]))
        leaves = self.leaves
        for i in range(self.base.size, self.mark.size):
            leaves = leaves.remove(i)
        changes = {"time": stamp.time, "last": stamp, "base": self.mark, "mark": mark, "leaves": leaves}
        return msgspec.structs.replace(self, **changes), stamp, runs
