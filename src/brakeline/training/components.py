"""What may be recorded: the objects that people pass to `recorder.open()`, as things that can be put back exactly.

What cannot be put back is refused here, in words that say what to pass instead.
"""

import random
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from brakeline.core.errors import Misuse
from brakeline.training.digest import RNG, Stateful, Tree, is_stateful

MAX_COMPONENTS: Final = 256
_HINT_RESUMABLE: Final = "wrap it: loader = brakeline.adapters.pytorch.resumable(loader); recorder.open({name}=loader)"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class _TorchGenerator:
    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> Tree:
        return {"state": self._generator.get_state()}

    def load_state_dict(self, state: Tree) -> None:
        self._generator.set_state(state["state"])


class _NumpyGenerator:
    def __init__(self, generator: np.random.Generator | np.random.RandomState) -> None:
        self._bits: Any = getattr(generator, "bit_generator", None) or generator._bit_generator  # type: ignore[union-attr]
        self._generator = generator  # which owns the bits

    def state_dict(self) -> Tree:
        # Some hold integers beyond 64 bits and arrays, which have no place in a state.
        return _spelled(self._bits.state)

    def load_state_dict(self, state: Tree) -> None:
        self._bits.state = _read(state)


class _PythonGenerator:
    def __init__(self, generator: random.Random) -> None:
        self._generator = generator

    def state_dict(self) -> Tree:
        version, words, gauss = self._generator.getstate()
        return {"version": version, "words": list(words), "gauss": gauss}

    def load_state_dict(self, state: Tree) -> None:
        self._generator.setstate((state["version"], tuple(state["words"]), state["gauss"]))


class _Loader:
    """A loader with a state of its own, as torchdata's.

    It draws when it makes its iterator, which is due when its state is put back: before the generators are.
    """

    def __init__(self, loader: Stateful, generator: torch.Generator | None) -> None:
        self._loader = loader
        self._generator = generator

    def state_dict(self) -> Tree:
        state = self._loader.state_dict()
        return {"loader": state, "generator": self._generator and self._generator.get_state()}

    def load_state_dict(self, state: Tree) -> None:
        self._loader.load_state_dict(state["loader"])
        self._loader.state_dict()
        if self._generator is not None:
            self._generator.set_state(state["generator"])


def components(objects: Mapping[str, Any]) -> dict[str, Stateful]:
    """The objects to record, by name; wrappers of optimizers are taken off, random generators get a state.

    Raises:
        Misuse: none, too many, a name that is none, or an object that cannot be put back where it was.
    """
    if not 0 < len(objects) <= MAX_COMPONENTS:
        raise Misuse(f"recorder.open() takes 1 to {MAX_COMPONENTS} objects, by name", hint="see docs/training.md")
    for name in objects:
        if name == RNG or not _NAME.fullmatch(name):
            hint = f"1 to 64 letters, digits or _; {RNG!r} are the global generators, which are always recorded"
            raise Misuse(f"{name[:80]!r} is no name for what recorder.open() records", hint=hint)
    return {name: _component(name, it) for name, it in objects.items()}


def _component(name: str, it: Any) -> Stateful:
    if isinstance(it, torch.Generator):
        return _TorchGenerator(it)
    if isinstance(it, np.random.Generator | np.random.RandomState):
        return _NumpyGenerator(it)
    if isinstance(it, random.Random):
        return _PythonGenerator(it)
    inner = getattr(it, "optimizer", None)
    if isinstance(it, torch.optim.Optimizer) and isinstance(inner, torch.optim.Optimizer):
        return inner  # a wrapper, as of accelerate: its hooks and its state are the optimizer's
    if isinstance(it, type) or not is_stateful(it):
        raise _without_state(name, it)
    if isinstance(it, DataLoader):
        return _loader(name, it)
    return it  # type: ignore[no-any-return]


def _loader(name: str, it: Any) -> Stateful:
    if hasattr(it, "base_dataloader"):  # accelerate's: a state_dict() which fails, or lags behind
        raise _without_state(name, it)
    if not isinstance(it.dataset, IterableDataset):
        hint = _HINT_RESUMABLE.format(name=name)
        if it.num_workers:
            text = f"{name}: what its workers draw on random generators is no part of a {type(it).__name__}'s state"
            raise Misuse(text, hint=hint)
        if not all(_rewinds(sampler) for sampler in (it.sampler, it.batch_sampler)):
            raise Misuse(f"{name}: its sampler cannot be put back in the middle of an epoch", hint=hint)
    return _Loader(it, it.generator)


def _rewinds(sampler: Any) -> bool:
    if sampler is None or isinstance(sampler, SequentialSampler) or callable(getattr(sampler, "state_dict", None)):
        return True
    return type(sampler).__module__.partition(".")[0] == "torchdata"


def _without_state(name: str, it: Any) -> Misuse:
    kind = type(it).__name__
    if isinstance(it, DataLoader):
        if isinstance(it.dataset, IterableDataset):
            hint = "torchdata's StatefulDataLoader has one, where the data set has state_dict and load_state_dict"
        else:
            hint = _HINT_RESUMABLE.format(name=name)
        return Misuse(f"{name}: a DataLoader does not know where it stands, so that a run cannot be resumed", hint=hint)
    if isinstance(it, list | tuple | dict) and it:
        hint = f"pass each by a name of its own: recorder.open({name}_0=..., {name}_1=...)"
    else:
        hint = "give it state_dict() and load_state_dict(), with all that a later step depends on"
    return Misuse(f"{name}: a {kind} has no state_dict() and load_state_dict()", hint=hint)


def _spelled(value: Any) -> Tree:
    if isinstance(value, dict):
        return {key: _spelled(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": [int(x) for x in value], "dtype": str(value.dtype)}
    return value if isinstance(value, str | float) else int(value)


def _read(value: Tree) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array", "dtype"}:
            return np.array(value["array"], value["dtype"])
        return {key: _read(v) for key, v in value.items()}
    return value
