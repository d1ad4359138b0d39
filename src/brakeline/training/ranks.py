"""Several processes that train one model: what they tell each other, and what the run's state is made of.

Each rank hashes and keeps what lies with it; of a step, 72 bytes go from each to all. The run's state binds the states
of all ranks in order, its batch theirs, and its loss is the mean of theirs: one leaf a step, one head a run.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from blake3 import blake3

from brakeline.core.errors import Misuse
from brakeline.core.run import MAX_RANKS
from brakeline.training.digest import RNG, Snapshot, Stateful, Tree, generators, snapshot
from brakeline.training.shards import refit

_STATE: Final = b"brakeline/ranks/v1"
_PATIENCE: Final = timedelta(days=365)  # of one rank for the others: a pause may last
_group: tuple[Any, Any] = (None, None)  # the default group, and one beside it for what is said here


def rank() -> int:
    """The rank of this process, 0 where there is no other."""
    return dist.get_rank() if _several() else 0


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if _several() else 1


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def meet(mine: bytes) -> list[bytes]:
    """What every rank says, in order; all say as many bytes."""
    if count() == 1:
        return [mine]
    said = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    heard = [torch.empty_like(said) for _ in range(count())]
    dist.all_gather(heard, said, group=_control())
    return [bytes(one.numpy()) for one in heard]


def tell(value: Any) -> Any:
    """What rank 0 says, of any type that can be pickled; the others' `value` is not looked at."""
    if count() == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, group=_control())
    return said[0]


def least(value: int) -> int:
    """The least of what the ranks say."""
    return min(int.from_bytes(one, "big", signed=True) for one in meet(value.to_bytes(9, "big", signed=True)))


def _control() -> Any:
    global _group
    world = dist.group.WORLD
    if _group[0] is not world:
        _group = (world, dist.new_group(backend="gloo", timeout=_PATIENCE))
    return _group[1]


def joint(digests: Sequence[bytes]) -> bytes:
    """The digest of what several ranks have, of each one's; that of one rank is its own."""
    if len(digests) == 1:
        return digests[0]
    return blake3(b"".join([_STATE, len(digests).to_bytes(8, "big"), *digests])).digest()


@contextmanager
def joined(rank: int, ranks: int, store: Path) -> Iterator[None]:
    """This process as one of `ranks` on this machine, which find each other by the file `store`."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(backend(), init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def backend() -> str:
    """That of the group in which a recipe finds itself: it does not make one."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def merged(trees: Sequence[Mapping[str, Tree]]) -> dict[str, Tree]:
    """The components of all ranks in one tree, each under its rank and name."""
    return {f"{rank}:{name}": value for rank, tree in enumerate(trees) for name, value in tree.items()}


class Together(NamedTuple):
    """The states of all ranks; to whoever opens, saves and compares one it is like a `Snapshot`."""

    ranks: tuple[Snapshot, ...]

    @property
    def tree(self) -> dict[str, Tree]:
        """All components, by rank and name."""
        return merged([s.tree for s in self.ranks])

    def digest(self) -> bytes:
        return joint([s.digest() for s in self.ranks])

    def copy(self) -> dict[str, Tree]:
        return merged([s.copy() for s in self.ranks])


def anew(objects: Mapping[str, Stateful], parts: Sequence[Snapshot]) -> Snapshot:
    """The state from which this rank goes on, of those that another number of ranks left. Raises as `refit`."""
    tree = refit(objects, [part.tree for part in parts], rank())
    if rank() >= len(parts):
        tree[RNG] = generators()
    return snapshot(tree, lambda *_: True)


def whole(tree: Mapping[str, Tree]) -> Snapshot | Together:
    """The state that a tree is of: of one rank, or of several as `Together.tree` has them.

    Raises:
        Misuse: it is neither, or of a type that has no canonical form.
    """
    parts: dict[int, dict[str, Tree]] = {}
    for name, value in tree.items():
        number, mark, component = name.partition(":")
        if not mark:
            return snapshot(tree, lambda *_: True)
        parts.setdefault(int(number), {})[component] = value
    if sorted(parts) != list(range(len(parts))) or not 1 < len(parts) <= MAX_RANKS:
        raise Misuse("a state of several ranks has each once")
    return Together(tuple(snapshot(parts[rank], lambda *_: True) for rank in range(len(parts))))


def folder(directory: Path, rank: int) -> Path:
    """Where a rank keeps its part of a run's evidence."""
    return directory / "ranks" / f"{rank:04d}" if rank else directory
