"""What a loop holds besides what it records: the variables of the recipe's code, by name, with a digest of each value.

A rehearsal looks here before every step, in a run that was never stopped and in one that was: a variable that is not
the same in both is what the state lacks, and its name is one that the engineer wrote.
"""

import array
import csv
import gc
import hashlib
import inspect
import io
import itertools
import mmap
import os
import queue
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from brakeline.training.digest import is_stateful, raw_bytes

_NODES: Final = 20_000
_DEPTH: Final = 14
_ELEMENTS: Final = 512
_TENSOR_BYTES: Final = 1 << 26
_PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
_GENERATORS: Final = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
)
GLOBAL: Final[dict[str, Any]] = {
    "torch's generator": torch.default_generator,
    "NumPy's generator": np.random.mtrand._rand,
    "Python's generator": random._inst,
}
# These say nothing of their place; what they go through does. All but `cycle`, once it repeats.
_ITERATORS: Final[tuple[type, ...]] = (
    *(enumerate, filter, map, zip, reversed, type(csv.reader([])), type(iter(int, 0))),
    *(it for it in vars(itertools).values() if isinstance(it, type) and it not in (itertools.count, itertools.repeat)),
)
_FLAGS: Final[dict[str, Callable[[], Any]]] = {
    "torch.get_default_dtype()": torch.get_default_dtype,
    "torch.get_num_threads()": torch.get_num_threads,
    "torch.is_grad_enabled()": torch.is_grad_enabled,
    "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled,
}
_NOT_STATE: Final = (ModuleType, torch.device, torch.dtype)
_SHOWN: Final = {"tqdm", "rich", "wandb", "mlflow", "trackio", "logging", "tensorboard"}  # they steer nothing
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Live(msgspec.Struct, frozen=True):
    """One value: its digest and kind, how it reads, and the nearest object around it that has a state of its own.

    `recorded` where it lies in what was passed to `recorder.open()`.
    """

    digest: str
    kind: str
    text: str
    owner: str
    owner_kind: str
    recorded: bool


class Look(NamedTuple):
    """What was found, by its path; and the generators, to look at them again."""

    found: dict[str, Live]
    generators: dict[str, Any]

    def used(self) -> set[str]:
        """Those of the generators that have been drawn from since."""
        states = ((path, _digest(_generator_state(it))) for path, it in self.generators.items())
        return {path for path, state in states if state != self.found[path].digest}


def look(frame: FrameType | None, folder: Path, recorded: Iterable[object], without: Iterable[object] = ()) -> Look:
    """Every value that the code in `folder` can reach from `frame` outwards, or from its modules' variables.

    Tensors of modules and optimizers that are recorded are left out: they are in the state. So is what hangs on
    `without` alone.
    """
    walk = _Walk(folder, recorded, without)
    for name, value in GLOBAL.items():
        walk.visit(name, value, 0, (name, "", True))
    for name, flag in _FLAGS.items():
        walk.flag(name, flag())
    walk.visit("os.environ", dict(os.environ), 0, None)
    frames = []
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(folder):
            frames.append(frame)
        frame = frame.f_back
    # The simple ones first, and then what has the better name: a list may hold the same, and be long.
    for pick in (_is_plain, _is_object, _is_container):
        for outer in reversed(frames):
            for name, value in dict(outer.f_locals).items():
                if pick(value):
                    walk.visit(name, value, 0, None)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file).is_relative_to(folder):
            for name, value in list(vars(module).items()):
                if not name.startswith("__"):
                    walk.visit(name, value, 0, None)
    return Look(walk.found, walk.generators)


def holding(frame: FrameType | None, values: Iterable[object]) -> set[str]:
    """The variables of a function that are one of these objects, or several of them."""
    ids = {id(it) for it in values if not isinstance(it, _PLAIN)}  # there is one 3 for all

    def holds(value: object) -> bool:
        if isinstance(value, list | tuple) and len(value) > 1:
            return all(id(it) in ids for it in value)
        return id(value) in ids

    return {name for name, value in (dict(frame.f_locals).items() if frame else ()) if holds(value)}


class _Walk:
    def __init__(self, folder: Path, recorded: Iterable[object], without: Iterable[object]) -> None:
        self.found: dict[str, Live] = {}
        self.generators: dict[str, Any] = {}
        self._folder = folder
        self._recorded = {id(it) for it in recorded}
        self._seen: dict[int, object] = {id(it): it for it in without}  # kept, so that no number is used twice

    def visit(self, path: str, value: Any, depth: int, owner: tuple[str, str, bool] | None) -> None:
        if len(self.found) > _NODES or depth > _DEPTH:
            return
        if isinstance(value, _PLAIN):
            self._note(path, value, owner)
            return
        if id(value) in self._seen or isinstance(value, _NOT_STATE):
            return
        if type(value).__module__.partition(".")[0] in _SHOWN:
            return
        self._seen[id(value)] = value
        try:
            self._enter(path, value, depth, owner)
        except Exception:  # other people's objects: what cannot be looked at is not looked at
            return

    def _enter(self, path: str, value: Any, depth: int, owner: tuple[str, str, bool] | None) -> None:
        recorded = id(value) in self._recorded or bool(owner and owner[2])
        stateful = is_stateful(value)
        if isinstance(value, type):
            file = getattr(sys.modules.get(value.__module__), "__file__", None)
            if file and Path(file).is_relative_to(self._folder):
                self.attributes(path, vars(value), depth, None)
        elif isinstance(value, _GENERATORS):
            self.generators[path] = value
            self._note(path, _generator_state(value), (path, kind_of(value), recorded), kind_of(value))
        elif isinstance(value, torch.Tensor):
            self._tensor(path, value, owner)
        elif isinstance(value, np.ndarray) and value.dtype == object:
            self._items(path, list(value.flat), depth, owner)
        elif isinstance(value, array.array | bytearray):
            self._note(path, bytes(value), owner, kind_of(value))
        elif isinstance(value, queue.SimpleQueue):
            self._note(f"len({path})", value.qsize(), owner)
        elif isinstance(value, ContextVar):
            self.visit(f"{path}.get()", value.get(None), depth + 1, owner)
        elif isinstance(value, np.ndarray | np.generic):
            self._note(path, value.tobytes() if value.nbytes <= _TENSOR_BYTES else value.shape, owner, kind_of(value))
        elif isinstance(value, torch.nn.Module):
            self._module(path, value, depth, owner if owner else (path, kind_of(value), recorded))
        elif isinstance(value, torch.optim.Optimizer) and recorded:
            if not type(value).__module__.startswith("torch."):
                own = {k: v for k, v in vars(value).items() if k not in _OPTIMIZER and not k.startswith("_")}
                self.attributes(path, own, depth, (path, kind_of(value), True))
        elif held := getattr(type(value), "__brakeline_held__", None):  # the rest of it is a function of its state
            self.attributes(path, held(value), depth, None)
        elif isinstance(value, DataLoader):
            itself = owner if owner and owner[2] else (path, "DataLoader", recorded)
            in_order = isinstance(value.dataset, IterableDataset) or isinstance(value.sampler, SequentialSampler)
            self._note(path, None, itself, "DataLoader", "in order" if in_order else "shuffled")
            self.attributes(path, vars(value), depth, itself if stateful or recorded else None)
        elif isinstance(value, dict | Mapping):
            self._container(path, value, owner)
            if all(isinstance(v, _PLAIN) for v in value.values()):
                self._note(f"{path}.values()", list(value.values()), owner, "values")
            for i, (key, v) in enumerate(itertools.islice(value.items(), _ELEMENTS)):
                self.visit(f"{path}[{key!r}]" if isinstance(key, str | int) else f"{path}[{i}]", v, depth + 1, owner)
        elif isinstance(value, list | tuple | set | frozenset | deque):
            if isinstance(value, set | frozenset):
                shown = [v if isinstance(v, _PLAIN) else _plain(v) for v in itertools.islice(value, _ELEMENTS)]
                self._note(path, shown, owner, kind_of(value), str(len(value)))
            elif all(isinstance(v, _PLAIN) for v in itertools.islice(value, _ELEMENTS)):
                self._note(path, value, owner, kind_of(value))
            else:
                self._items(path, value, depth, owner)
        elif isinstance(value, FunctionType | MethodType | partial):
            self._function(path, value, depth, owner)
        elif isinstance(value, GeneratorType):
            if value.gi_frame and id(value.gi_frame.f_locals.get("self")) in self._recorded:
                return  # an iteration over what is recorded goes on where that stands
            frame = value.gi_frame
            numbers = (*_PLAIN, np.generic)
            at = frame and (frame.f_lasti, {k: v for k, v in frame.f_locals.items() if isinstance(v, numbers)})
            self._note(path, at, owner, "generator", "Python generator")
            if value.gi_frame is not None:
                self.attributes(path, value.gi_frame.f_locals, depth, owner)
        elif isinstance(value, itertools.count | itertools.repeat):
            self._note(path, repr(value), owner, kind_of(value))
        elif isinstance(value, _ITERATORS):
            within = _Walk(self._folder, (), self._seen.values())
            within.visit("", gc.get_referents(value), depth + 1, None)
            self._note(path, [(p, live.digest) for p, live in within.found.items()], owner, "iterator", _name(value))
        elif isinstance(value, _BaseDataLoaderIter):
            self._note(path, value._num_yielded, owner, "iterator", "iteration over a DataLoader")
        elif isinstance(value, io.IOBase | mmap.mmap):
            if isinstance(value, mmap.mmap | io.BytesIO | io.StringIO) or (value.readable() and not value.writable()):
                self._note(path, _position(value), owner, "iterator", "open file")
        elif isinstance(value, BuiltinFunctionType):
            if not isinstance(value.__self__, ModuleType | type):
                self.visit(f"{path}.__self__", value.__self__, depth + 1, owner)
        elif callable(getattr(value, "cache_info", None)):
            self._note(path, value.cache_info().currsize, owner, "cache")
        elif callable(getattr(value, "__length_hint__", None)):
            self._note(path, value.__length_hint__(), owner, "iterator", _name(value))
        else:
            mine = (path, kind_of(value), recorded) if stateful and not (owner and owner[2]) else owner
            self._note(path, kind_of(value), mine, "object")
            self.attributes(path, _held(value), depth, mine)

    def attributes(self, path: str, values: Mapping[str, Any], depth: int, owner: tuple[str, str, bool] | None) -> None:
        for name, value in list(values.items()):
            if not name.startswith("__"):
                self.visit(f"{path}.{name}", value, depth + 1, owner)

    def _container(self, path: str, value: Any, owner: tuple[str, str, bool] | None) -> None:
        self._note(path, kind_of(value), owner, "object")
        self._note(f"len({path})", len(value), owner)

    def _items(self, path: str, values: Any, depth: int, owner: tuple[str, str, bool] | None) -> None:
        self._container(path, values, owner)
        for i, v in enumerate(itertools.islice(values, _ELEMENTS)):
            self.visit(f"{path}[{i}]", v, depth + 1, owner)

    def _function(self, path: str, value: Any, depth: int, owner: tuple[str, str, bool] | None) -> None:
        if isinstance(value, partial):
            self.visit(path, value.func, depth + 1, owner)
            self.visit(f"{path}.args", value.args, depth + 1, owner)
            self.visit(f"{path}.keywords", value.keywords, depth + 1, owner)
        elif isinstance(value, MethodType):
            drawing = isinstance(value.__self__, _GENERATORS)
            self.visit(f"{path}.__self__" if drawing else path, value.__self__, depth + 1, owner)
        else:
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
                self.visit(name, cell.cell_contents, depth + 1, owner)
            self.visit(f"{path}.__defaults__", value.__defaults__ or (), depth + 1, owner)
            self.visit(f"{path}.__kwdefaults__", value.__kwdefaults__ or {}, depth + 1, owner)
            self.attributes(path, vars(value), depth, owner)

    def flag(self, path: str, value: Any) -> None:
        """A setting of the whole process."""
        self._note(path, value, None, "flag")

    def _module(self, path: str, value: torch.nn.Module, depth: int, owner: tuple[str, str, bool]) -> None:
        recorded = owner[2] or id(value) in self._recorded
        owner = (owner[0], owner[1], recorded)
        self._note(path, kind_of(value), owner, "object")
        if path == owner[0]:
            left = any(bool(p.grad.any()) for p in value.parameters() if p.grad is not None)
            self._note(f"gradients in {path}", left, None, "gradients")
        for name, parameter in value._parameters.items():
            if parameter is not None:
                self._seen[id(parameter)] = parameter
                self.attributes(f"{path}.{name}", vars(parameter), depth + 1, None)
                self._hooked(f"{path}.{name}", parameter._backward_hooks, depth)
                self._note(f"{path}.{name}.requires_grad", parameter.requires_grad, owner, "flag")
                if not recorded:
                    self._tensor(f"{path}.{name}", parameter, owner)
        for name, buffer in value._buffers.items():
            if buffer is not None:
                self._seen[id(buffer)] = buffer
                if not recorded:
                    self._tensor(f"{path}.{name}", buffer, owner)
        if isinstance(value, DistributedDataParallel):
            self._note(f"{path} finds unused parameters", value.find_unused_parameters, owner, "ddp")
        for name, module in value._modules.items():
            self.visit(f"{path}.{name}", module, depth + 1, owner)
        # Plain attributes are what state_dict() leaves out, of a recorded module too. Not torch's own.
        own = not type(value).__module__.startswith("torch.")
        plain = {k: v for k, v in vars(value).items() if k not in _MODULE and (own or not k.startswith("_"))}
        self.attributes(path, plain, depth, owner)
        for hooks in _HOOKS:
            self._hooked(f"{path}.{hooks}", getattr(value, hooks), depth)

    def _hooked(self, path: str, hooks: Mapping[int, Any] | None, depth: int) -> None:
        for hook in list((hooks or {}).values()):
            if not str(getattr(hook, "__module__", type(hook).__module__)).startswith("torch."):
                self.visit(path, hook, depth + 1, None)

    def _tensor(self, path: str, value: torch.Tensor, owner: tuple[str, str, bool] | None) -> None:
        tensor = value.detach()
        whole = tensor.layout is torch.strided and tensor.nbytes <= _TENSOR_BYTES
        data = bytes(raw_bytes(tensor)) if whole else repr(tuple(tensor.shape)).encode()
        self._note(path, data + str(tensor.dtype).encode(), owner, "tensor")

    def _note(
        self, path: str, value: Any, owner: tuple[str, str, bool] | None, kind: str = "", text: str = ""
    ) -> None:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "backslashreplace")
        if not text:
            text = "" if isinstance(value, bytes) or kind not in ("", "flag", "ddp") else repr(value)[:40]
        where = owner or (path, kind, False)
        self.found.setdefault(path, Live(_digest(data), kind or type(value).__name__, text, *where))


_OPTIMIZER: Final = frozenset({"defaults", "state", "param_groups"})
_MODULE: Final = frozenset(vars(torch.nn.Module())) - {"training"}


def _held(value: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots too."""
    slots = [name for cls in type(value).__mro__ for name in _several(cls.__dict__.get("__slots__", ()))]
    own = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    # `self.n += 1` makes one of its class's.
    begun = {k: v for cls in reversed(type(value).__mro__) for k, v in vars(cls).items() if isinstance(v, _PLAIN)}
    return {**begun, **own, **getattr(value, "__dict__", {})}


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _position(value: Any) -> int | None:
    if value.closed:
        return None
    try:
        return int(value.tell())
    except OSError:  # a text that is read line by line: so far it is read ahead
        return int(value.buffer.tell())


def kind_of(value: object) -> str:
    """The class of an object, as an engineer would write it."""
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(value, _GENERATORS) else cls.__qualname__


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN)


def _is_container(value: object) -> bool:
    return isinstance(value, dict | list | tuple | set | frozenset | deque)


def _is_object(value: object) -> bool:
    return not _is_plain(value) and not _is_container(value)


def _plain(value: Any) -> Any:
    """What of an object reads the same wherever it lies in memory."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    held = getattr(value, "__dict__", {})
    return value if isinstance(value, _PLAIN) else {k: v for k, v in held.items() if isinstance(v, _PLAIN)}


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _generator_state(value: Any) -> bytes:
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if isinstance(value, random.Random):
        return repr(value.getstate()).encode()
    bits = getattr(value, "bit_generator", None) or getattr(value, "_bit_generator", value)
    state = bits.state
    return repr({k: v.tolist() if isinstance(v, np.ndarray) else str(v) for k, v in _flat(state)}).encode()


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, v in value.items() for pair in _flat(v, f"{path}.{key}")]
    return [(path, value)]


def caller() -> FrameType | None:
    """The frame of whoever called the function that calls this."""
    here = inspect.currentframe()
    return here.f_back.f_back if here and here.f_back else None
