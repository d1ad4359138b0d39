"""Plain PyTorch: a map-style `DataLoader` that knows where it stands, its workers included.

    loader = resumable(DataLoader(dataset, batch_size=16, shuffle=True, num_workers=2))
    step = recorder.open(model=model, optimizer=optimizer, data=loader)
    while step < steps:
        for x, y in loader:  # the rest of the epoch

The order of an epoch is a function of the seed and the epoch, and whatever a batch draws (augmentation, masking in
`collate_fn`) is one of the seed, the epoch and its place there. So a batch is the same in every process that makes it,
with any number of workers, and a cursor of three numbers is all there is to keep.

A loader that accelerate prepared stays one: its batches come on its device, and its accumulation sees the epoch's end.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from brakeline.core.encoding import tagged
from brakeline.core.errors import Misuse

_AS_THEY_WERE: Final = (
    *("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers", "in_order"),
)


def resumable(loader: DataLoader[Any]) -> "Resumable":
    """`loader` with a state: pass it to `recorder.open()`, and iterate over it as over the loader.

    Raises:
        Misuse: its data set is a stream, of which no place can be found again.
    """
    return Resumable(loader)


class Resumable:
    """A loader with `state_dict` and `load_state_dict`. To iterate goes on where the last iteration was left.

    `epoch` counts from 0, `batch` those made of it. The seed is that of torch's generator when this is made.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.epoch = 0
        self.batch = 0
        self._order = Order(loader, torch.initial_seed() % 2**63)
        self._inner = ordered(loader, self._order)
        self.dataset = loader.dataset
        self._collate = loader.collate_fn

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch, after which the next one begins."""
        self._order.first = self.batch
        # accelerate's loader sets the epoch again when it begins, to its own.
        getattr(self._inner, "set_epoch", self._order.set_epoch)(self.epoch)
        for batch in self._inner:
            self.batch += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch from its first batch."""
        self.epoch, self.batch = epoch, 0

    def __brakeline_held__(self) -> dict[str, Any]:
        """What a rehearsal looks at: what makes the batches, not the iterators and generators that serve them."""
        return {"dataset": self.dataset, "collate_fn": self._collate, "sampler": self._order._sampler}

    def state_dict(self) -> dict[str, int]:
        return {"seed": self._order.seed, "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._order.seed, self.epoch, self.batch = state["seed"], state["epoch"], state["batch"]


class Order(Sampler[Any]):
    """The batches of an epoch as a function of the seed and the epoch: for each a seed, and its indices in the data.

    It takes the place of a loader's `batch_sampler`. `first` is the batch to begin with.

    Raises:
        Misuse: the loader's data set is a stream.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise Misuse(
                "only a DataLoader over a map-style data set can be resumed from a number",
                hint="torchdata's StatefulDataLoader has a state, where a stream has state_dict and load_state_dict",
            )
        self.seed = seed
        self.epoch = 0
        self.first = 0
        self._sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        with _drawn_from(_place_seed(self.seed, self.epoch, -1)):
            _seed_samplers(self._sampler, self.epoch, _place_seed(self.seed, self.epoch, -2))
            plan = list(self._sampler)
        return iter([(_place_seed(self.seed, self.epoch, i), plan[i]) for i in range(self.first, len(plan))])


def ordered(loader: DataLoader[Any], order: Order) -> DataLoader[Any]:
    """`loader` as it is, but that its batches are those of `order`, and draw from their seeds alone."""
    options = {name: getattr(loader, name) for name in _AS_THEY_WERE if hasattr(loader, name)}
    kind: Any = DataLoader
    if hasattr(loader, "gradient_state"):  # accelerate's, whose __class__ does not tell
        kind = type(loader)
        options |= {name: getattr(loader, name) for name in ("device", "_non_blocking")}
    return kind(  # type: ignore[no-any-return]
        _Drawn(loader),
        batch_sampler=order,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or each iteration would draw from the global one
        **options,
    )


class _Drawn(Dataset[Any]):
    """Makes a batch from a seed and its indices, in whichever process."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._dataset: Any = loader.dataset
        self._collate = loader.collate_fn
        self._whole = loader.batch_sampler is None  # one index a batch, and nothing to collate

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, at: tuple[int, Any]) -> Any:
        seed, indices = at
        with _drawn_from(seed):
            if self._whole:
                return self._collate(self._dataset[indices])
            several = getattr(self._dataset, "__getitems__", None)
            return self._collate(several(indices) if several else [self._dataset[i] for i in indices])


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """The global generators of the main memory, seeded inside, and as they were outside."""
    kept = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _place_seed(seed: int, epoch: int, batch: int) -> int:
    """63 bits, unlike those of any other place."""
    parts = (number.to_bytes(9, "big", signed=True) for number in (seed, epoch, batch))
    return int.from_bytes(tagged("brakeline/batch-seed/v1", *parts)[:8], "big") >> 1


def _seed_samplers(sampler: Any, epoch: int, seed: int) -> None:
    """Samplers lie in one another; each may have an epoch or a generator of its own."""
    while sampler is not None:
        if callable(getattr(sampler, "set_epoch", None)):
            sampler.set_epoch(epoch)
        if isinstance(getattr(sampler, "generator", None), torch.Generator):
            sampler.generator.manual_seed(seed)
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
