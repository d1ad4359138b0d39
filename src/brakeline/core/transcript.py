"""A transcript: one leaf a step, and heads that commit to all leaves so far.

A leaf binds the whole state after a step (weights, buffers, optimizer, schedule, data cursor, random
generators), the batch that went in, the permit in force, the loss and the compute spent. Leaf 0 is the start.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, overload

from brakeline.core.encoding import Wire, decimal, unhex32
from brakeline.core.errors import Malformed, Misuse

LEAF_BYTES: Final = 128
FLOP_LIMIT: Final = 2**128 - 1
NONE: Final = bytes(32)  # batch and permit of leaf 0

_LAYOUT: Final = struct.Struct(">Q32s32s32sd16s")  # step | state | batch | permit | loss | flop (u128)
_NAN: Final = struct.pack(">d", math.nan)
_ZERO: Final = struct.pack(">d", 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """State after `step` steps. Digests have 32 bytes; `flop` counts from the start; a loss may be NaN.

    Two leaves are equal when their 128 bytes are: a NaN equals itself, and 0.0 differs from -0.0.

    Raises on construction:
        Malformed: a field out of range, or a leaf 0 that claims a batch, a permit, a loss or compute.
    """

    step: int
    state: bytes
    batch: bytes
    permit: bytes
    loss: float
    flop: int

    def __post_init__(self) -> None:
        if not 0 <= self.step < 2**64 or not 0 <= self.flop <= FLOP_LIMIT:
            raise Malformed(f"step {self.step} or compute {self.flop} out of range")
        if not len(self.state) == len(self.batch) == len(self.permit) == 32:
            raise Malformed("state, batch and permit are digests of 32 bytes")
        first = self.batch == self.permit == NONE and self.flop == 0 and struct.pack(">d", self.loss) == _ZERO
        if self.step == 0 and not first:
            raise Malformed("leaf 0 is the initial state: no batch, no permit, no loss, no compute")

    def encode(self) -> bytes:
        """128 bytes: step u64 | state 32 | batch 32 | permit 32 | loss f64 | flop u128, all big-endian."""
        loss = math.nan if math.isnan(self.loss) else self.loss
        flop = self.flop.to_bytes(16, "big")
        return _LAYOUT.pack(self.step, self.state, self.batch, self.permit, loss, flop)

    def difference(self, said: "Leaf") -> Literal["batch", "state", "loss", ""]:
        """What came out otherwise than `said` when the step was made again: the first that shows why, "" for none.

        Permit and compute are left out, which no replay recomputes.
        """
        if self.batch != said.batch:
            return "batch"
        if self.state != said.state:
            return "state"
        return "loss" if replace(self, permit=said.permit, flop=said.flop) != said else ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())


def decode_leaf(data: bytes) -> Leaf:
    """The leaf in `data`: raises `Malformed`, or `decode_leaf(data).encode() == data`.

    Raises:
        Malformed: not 128 bytes, a NaN other than the one we write, or a leaf 0 that claims work.
    """
    if len(data) != LEAF_BYTES:
        raise Malformed(f"a leaf has {LEAF_BYTES} bytes, not {len(data)}")
    step, state, batch, permit, loss, flop = _LAYOUT.unpack(data)
    if math.isnan(loss) and data[104:112] != _NAN:
        raise Malformed("loss is a NaN in another form than the canonical one")
    return Leaf(step, state, batch, permit, loss, int.from_bytes(flop, "big"))


class Head(Wire, frozen=True):
    """Body of a `head` statement: what a run commits to at `steps`.

    `root` is the RFC 6962 root over the `steps + 1` leaves, `state` the digest in the last of them, both
    lowercase hex; `flop` is its compute, in decimal.
    """

    run: str
    steps: int
    root: str
    state: str
    flop: str
    status: Literal["opened", "running", "stopped", "ended"]

    def __post_init__(self) -> None:
        if not 0 <= self.steps < 2**53:
            raise Malformed(f"steps out of range: {self.steps}")
        unhex32(self.root)
        unhex32(self.state)
        try:
            decimal(self.flop.encode("ascii"), bound=FLOP_LIMIT)
        except UnicodeEncodeError as e:
            raise Malformed(f"not a decimal number: {self.flop[:40]!r}") from e


@dataclass(frozen=True, slots=True)
class Segments(Sequence[tuple[int, int]]):
    """Half-open ranges `[start, end)` that cover steps 0..`steps`, one after another; the last may be short.

    They begin at the multiples of `size`, and at each of `cuts` (ascending), where a run moved. Replaying
    `(start, end)` opens the checkpoint at `start` and yields the leaves `start + 1 .. end`. A run may claim 2**53
    steps: nothing here is as long as that.

    Raises:
        Misuse: a negative number of steps, or segments of no step.
    """

    steps: int
    size: int
    cuts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0 or self.size < 1:
            raise Misuse(f"cannot cut {self.steps} steps into segments of {self.size}")
        real = tuple(c for c in self.cuts if 0 < c < self.steps and c % self.size)
        object.__setattr__(self, "cuts", real)

    def __len__(self) -> int:
        return -(-self.steps // self.size) + len(self.cuts)

    @overload
    def __getitem__(self, i: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[tuple[int, int], ...]: ...
    def __getitem__(self, i: int | slice) -> tuple[int, int] | tuple[tuple[int, int], ...]:
        if isinstance(i, slice):
            return tuple(self[j] for j in range(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self._begin(i), self._begin(i + 1)

    def _begin(self, i: int) -> int:
        before = 0
        for cut in self.cuts:
            number = cut // self.size + 1 + before
            if number == i:
                return cut
            if number > i:
                break
            before += 1
        return min((i - before) * self.size, self.steps)

    def around(self, step: int) -> tuple[int, int]:
        """The numbers of the segments in which the steps `step` and `step + 1` are made."""
        before = sum(cut < step for cut in self.cuts)
        upto = sum(cut <= step for cut in self.cuts)
        return (step - 1) // self.size + before, step // self.size + upto

    def whole(self, start: int) -> tuple[int, int] | None:
        """The segment that begins at `start`; None where none does."""
        if not 0 <= start < self.steps or (start % self.size and start not in self.cuts):
            return None
        ends = [(start // self.size + 1) * self.size, *(c for c in self.cuts if c > start), self.steps]
        return start, min(ends)


class Likeness(NamedTuple):
    """Whether a recorded state is one that honest replays in another environment may give, and why not. `undecided` is
    what smaller steps may settle, whose states were not opened."""

    kind: Literal["agrees", "not-verified", "contested", "undecided"]
    detail: str


@dataclass(frozen=True, slots=True)
class SegmentReplay:
    """What an inspector got by running one segment again; the judge compares it with what the run recorded.

    `start_state` is the digest of the opened checkpoint, recomputed; where `start` is 0 it is that of the state the
    inspector built from the run's configuration, and nothing was opened. `leaves` are steps `start + 1 .. end`;
    `permit` and `flop` in them repeat the recorded ones, which no replay can recompute. `environment` is the
    hex digest of the inspector's profile; in another one than the run's the states were compared, and `likeness` says
    what came of it.
    """

    start: int
    end: int
    start_state: bytes
    leaves: tuple[Leaf, ...]
    environment: str
    likeness: Likeness | None = None
