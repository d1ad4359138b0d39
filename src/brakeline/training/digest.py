"""Digests of all that a training step depends on, and of nothing else (device, strides, order of dict keys).

A state is a tree per component (`model`, `optimizer`, …, and `rng`). Each tree gives one *structure* item, with
all its scalars and the places of its tensors, and one item per tensor. An item's digest is BLAKE3 over component,
path, dtype and shape, each prefixed by its length, and then the bytes (little-endian, as in memory). The state's
digest is BLAKE3 over the ordered list of item digests, so that a dispute can be narrowed down to one tensor.
"""

import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from blake3 import blake3

from brakeline.core.encoding import canonical
from brakeline.core.errors import Malformed, Misuse
from brakeline.training.environment import processors
from brakeline.training.shards import local, module_state, optimizer_state

Path = tuple[str | int, ...]
Tree = Any  # None, bool, int, float, str, Tensor, and lists, tuples, dicts (keys str or int) of these

RNG: Final = "rng"  # the component that holds every global random generator
_STATE: Final = b"brakeline/state/v1"
_STRETCH: Final = 16 << 20  # bytes that are worth a thread
_THREADS: Final = 8


class Stateful(Protocol):
    """A module, an optimizer, a scheduler, a data cursor: anything that can be put back where it was."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def is_stateful(it: object) -> bool:
    """Whether it has both methods."""
    return callable(getattr(it, "state_dict", None)) and callable(getattr(it, "load_state_dict", None))


class Item(NamedTuple):
    """One opened part of a state. The structure item of a component has the path ()."""

    component: str
    path: Path
    digest: bytes


class Part(NamedTuple):
    """One tensor of a state: `source`, referred to where it stands still, else copied.

    `view` are its bytes, kept for the next step where they lie in main memory and the tensor stands still.
    """

    component: str
    path: Path
    tensor: torch.Tensor
    header: bytes
    view: Any
    stands: bool
    source: torch.Tensor
    place: tuple[int, torch.Size]  # address, shape


class Memory:
    """What a walk over one component finds the same from step to step: it makes the next walk quick.

    One node for each place in the tree: the kind of container (`tag`), its `keys` as found, their encoding `head`, a
    child for each in canonical order; or the `part`, where there is a tensor that stands still.
    """

    __slots__ = ("children", "head", "keys", "part", "path", "tag")

    def __init__(self, path: Path = ()) -> None:
        self.path = path
        self.tag = b""
        self.keys: tuple[str | int, ...] = ()
        self.head = b""
        self.children: list[tuple[str | int, Memory]] = []
        self.part: Part | None = None

    def learn(self, tag: bytes, keys: tuple[Any, ...], where: str) -> None:
        out = [tag, len(keys).to_bytes(8, "big")]
        self.tag, self.keys, self.children = tag, keys, []
        for key in sorted(keys, key=lambda key: (type(key) is str, key)):
            if type(key) is str:
                out.append(b"s" + _lp(key.encode("utf-8", "surrogatepass")))
            elif type(key) is int:
                out.append(b"i" + _lp(str(key).encode()))
            else:
                raise Misuse(f"{place(where, self.path)}: keys of a state are str or int, not {type(key).__name__}")
            self.children.append((key, Memory((*self.path, key))))
        self.head = b"".join(out)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state at one moment. `tree` is what a checkpoint holds.

    `standing` are tensors that were not copied: the digest is that of the moment while `unchanged()` holds.
    """

    tree: dict[str, Tree]
    structures: dict[str, bytes]
    parts: tuple[Part, ...]
    standing: tuple[tuple[torch.Tensor, int], ...]

    def items(self) -> list[Item]:
        """Every item: the structures, then the tensors, components by name. Large states are hashed on several
        processors."""
        structures = [Item(name, (), structure_digest(name, data)) for name, data in self.structures.items()]
        stretches = list(_stretches(self.parts))
        if len(stretches) < 2:
            return [*structures, *_hashed(self.parts)]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # Those threads read on streams of their own.
            torch.cuda.current_stream().synchronize()
        # Threads of this call alone: those of a pool that outlives it would be missing in a forked child.
        with ThreadPoolExecutor(len(stretches), "brakeline-digest") as pool:
            return [*structures, *chain.from_iterable(pool.map(_hashed, stretches))]

    def digest(self) -> bytes:
        """BLAKE3 over the ordered list of item digests: 32 bytes."""
        return state_digest([item.digest for item in self.items()])

    def unchanged(self) -> bool:
        """Whether no tensor in `standing` was written since, as far as autograd's version counters tell."""
        # Writes through `.data`, NumPy or a raw pointer escape the counters. They harm only the run that makes
        # them: its transcript then fails its own replay.
        return all(tensor._version == version for tensor, version in self.standing)

    def changed(self) -> str:
        """The first tensor that was written since, as `component['path']`, or ""."""
        places = (place(part.component, part.path) for part in self.parts if part.stands)
        both = zip(places, self.standing, strict=True)
        return next((where for where, (tensor, version) in both if tensor._version != version), "")

    def copy(self) -> dict[str, Tree]:
        """The tree with tensors of its own, in main memory, to be saved while training goes on."""
        return {name: _copied(value) for name, value in self.tree.items()}


def state_digest(items: Sequence[bytes]) -> bytes:
    """The digest of a state, of the digests of its items in order."""
    return blake3(b"".join([_lp(_STATE), len(items).to_bytes(8, "big"), *items])).digest()


def structure_digest(component: str, structure: bytes) -> bytes:
    """That of a component's structure item."""
    return _hash(_header(component, (), "structure", ()), structure)


def tensor_digest(component: str, path: Path, dtype: str, shape: tuple[int, ...], data: Any) -> bytes:
    """That of a tensor's item, of its bytes."""
    return _hash(_header(component, path, dtype, shape), data)


def place(component: str, path: Path) -> str:
    """A place in a state, as an engineer would write it."""
    return component + "".join(f"[{key!r}]" for key in path)


def capture(objects: Mapping[str, Stateful], known: dict[str, Memory] | None = None) -> Snapshot:
    """The state of `objects` and of every global random generator, now.

    Parameters and optimizer state are referred to, as they stand still until the next optimizer step; the rest
    (buffers, cursors) is copied, since a forward pass may change it. `known` is a cache for calls in a row on the
    same objects.

    Raises:
        Misuse: a state with something else in it than plain values, containers and strided tensors.
    """
    trees: dict[str, Tree] = {}
    for name, it in objects.items():
        if isinstance(it, torch.nn.Module):
            state = it.state_dict(keep_vars=True)
            transient = {key: buffer for key, buffer in it.named_buffers() if key not in state}
            trees[name] = {"state": state, "transient": transient}
        else:
            trees[name] = it.state_dict()
    trees[RNG] = generators()
    still = {RNG, *(name for name, it in objects.items() if isinstance(it, torch.optim.Optimizer))}
    return snapshot(trees, lambda name, tensor: name in still or isinstance(tensor, torch.nn.Parameter), known)


def snapshot(
    trees: Mapping[str, Tree], stands: Callable[[str, torch.Tensor], bool], known: dict[str, Memory] | None = None
) -> Snapshot:
    """Flatten trees. Tensors for which `stands(component, tensor)` are referred to, others copied.

    Raises:
        Misuse: a type that has no canonical form here.
    """
    walk = _Walk(stands)
    known = {} if known is None else known
    plain: dict[str, Tree] = {}
    structures: dict[str, bytes] = {}
    for component in sorted(trees):
        if type(component) is not str:
            raise Misuse(f"a component's name is a str, not {type(component).__name__}")
        walk.component, walk.out = component, []
        plain[component] = walk.visit(known.setdefault(component, Memory()), trees[component])
        structures[component] = b"".join(walk.out)
    return Snapshot(plain, structures, tuple(walk.parts), tuple(walk.standing))


class _Walk:
    """One pass over trees: `visit` returns the plain copy of a value and writes its structure to `out`."""

    def __init__(self, stands: Callable[[str, torch.Tensor], bool]) -> None:
        self.component = ""
        self.out: list[bytes] = []
        self.parts: list[Part] = []
        self.standing: list[tuple[torch.Tensor, int]] = []
        self._stands = stands

    def visit(self, known: Memory, value: Any) -> Tree:
        if isinstance(value, torch.Tensor):
            stands, value = self._stands(self.component, value), local(value)
            part = known.part
            if part is None or part.source is not value or part.place != (value.data_ptr(), value.shape):
                part = self._part(known, value, stands)
            if part.stands:
                self.standing.append((part.tensor, part.tensor._version))
            self.parts.append(part)
            self.out.append(b"T")
            return part.tensor
        kind = type(value)
        if isinstance(value, dict):
            if known.tag != b"m" or tuple(value) != known.keys:
                known.learn(b"m", tuple(value), self.component)
            self.out.append(known.head)
            return {key: self.visit(child, value[key]) for key, child in known.children}
        if kind is list or kind is tuple:
            tag = b"l" if kind is list else b"u"
            if known.tag != tag or len(value) != len(known.keys):
                known.learn(tag, tuple(range(len(value))), self.component)
            self.out.append(known.head)
            return kind([self.visit(child, value[i]) for i, (_, child) in enumerate(known.children)])
        if kind is float:
            self.out.append(b"d" + struct.pack(">d", value))
        elif kind is int:
            self.out.append(b"i" + _lp(str(value).encode()))
        elif kind is str:
            self.out.append(b"s" + _lp(value.encode("utf-8", "surrogatepass")))
        elif kind is bool or value is None:
            self.out.append(b"n" if value is None else b"t" if value else b"f")
        else:
            raise Misuse(
                f"{place(self.component, known.path)}: a state cannot hold a {kind.__name__}",
                hint="keep to None, bool, int, float, str, tensors, and lists, tuples and dicts of them",
            )
        return value

    def _part(self, known: Memory, value: torch.Tensor, stands: bool) -> Part:
        if value.layout is not torch.strided or value.is_quantized:
            raise Misuse(f"{place(self.component, known.path)}: a {value.layout} tensor has no digest here")
        tensor = value.detach() if stands else value.detach().clone()
        header = _header(self.component, known.path, str(tensor.dtype), tuple(tensor.shape))
        view = raw_bytes(tensor) if stands and tensor.is_contiguous() and tensor.device.type == "cpu" else None
        at = (value.data_ptr(), value.shape)
        part = Part(self.component, known.path, tensor, header, view, stands, value, at)
        known.part = part if stands else None
        return part


def restore(objects: Mapping[str, Stateful], tree: Mapping[str, Tree]) -> None:
    """Put `objects` and the random generators into the state of a checkpoint's `tree`.

    Raises:
        Malformed: the checkpoint does not fit: other components, other shapes, other generators.
    """
    if set(tree) != {*objects, RNG}:
        raise Malformed(
            f"the checkpoint holds {sorted(set(tree) - {RNG})}, asked for are {sorted(objects)}",
            hint="pass the same objects to recorder.open() as when the run began",
        )
    try:
        for name, it in objects.items():
            if isinstance(it, torch.nn.Module):
                with torch.no_grad():
                    _seat_buffers(it, {**tree[name]["state"], **tree[name]["transient"]})
                it.load_state_dict(module_state(it, tree[name]["state"]))
            elif isinstance(it, torch.optim.Optimizer):
                it.load_state_dict(optimizer_state(it, _copied(tree[name])))
            else:
                it.load_state_dict(_copied(tree[name]))
        seat_generators(tree[RNG])
    except Exception as e:  # objects of any kind raise what they like
        hint = "build everything as it is during training, all parameter groups too, before recorder.open()"
        raise Malformed(f"the checkpoint does not fit these objects: {e}", hint=hint) from e


def _seat_buffers(module: torch.nn.Module, values: Mapping[str, Tree]) -> None:
    """Buffers may have come, gone or grown since the module was built; `values` has each, by its first name."""
    seated: dict[int, torch.Tensor | None] = {}
    for prefix, owner in module.named_modules():
        for key, buffer in owner._buffers.items():
            value = values.get(f"{prefix}.{key}" if prefix else key)
            if buffer is not None and id(buffer) in seated:
                owner._buffers[key] = seated[id(buffer)]
            elif value is None or buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                device = next((t.device for t in (buffer, *module.parameters()) if t is not None), None)
                owner._buffers[key] = None if value is None else value.detach().to(device, copy=True)
            else:
                buffer.copy_(value)
            if buffer is not None:
                seated[id(buffer)] = owner._buffers[key]


def seed_generators(seed: int) -> None:
    """Seed every global generator a state covers. `train` does this first: leaf 0 binds them all."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)  # CUDA included


@contextmanager
def generators_kept() -> Iterator[None]:
    """The global generators are afterwards as they were before."""
    before = generators()
    try:
        yield
    finally:
        seat_generators(before)


def generators() -> Tree:
    """The states of every global generator, now: of torch, CUDA, NumPy and Python."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].astype(np.int64)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            "bit_generator": str(numpy_state["bit_generator"]),
            "key": torch.from_numpy(key),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": {"version": version, "words": torch.from_numpy(np.array(words, np.int64)), "gauss": gauss},
    }


def seat_generators(tree: Tree) -> None:
    """Put every global generator where `generators()` found it."""
    numpy_state, python = tree["numpy"], tree["python"]
    torch.set_rng_state(tree["torch"])
    # An inspector without these devices goes on: its environment differs, and the judge knows.
    if tree["cuda"] and torch.cuda.device_count() == len(tree["cuda"]):
        torch.cuda.set_rng_state_all(tree["cuda"])
    np.random.set_state(
        {
            "bit_generator": numpy_state["bit_generator"],
            "state": {"key": numpy_state["key"].numpy().astype(np.uint32), "pos": numpy_state["pos"]},
            "has_gauss": numpy_state["has_gauss"],
            "gauss": numpy_state["gauss"],
        }
    )
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))


def _copied(value: Tree) -> Tree:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(v) for v in value)
    return value


def _hashed(parts: Sequence[Part]) -> list[Item]:
    return [
        Item(it.component, it.path, _hash(it.header, raw_bytes(it.tensor) if it.view is None else it.view))
        for it in parts
    ]


def _stretches(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """`parts` in as many stretches of about the same size as there are processors for, in order."""
    # Those that torch leaves alone, if it does: to take turns with a step's own threads costs each of them a little.
    here = processors()
    spare = here - torch.get_num_threads()
    size = sum(part.tensor.nbytes for part in parts)
    each = max(_STRETCH, size // min(_THREADS, spare if spare > 0 else here) + 1)
    first = gathered = 0
    for i, part in enumerate(parts, 1):
        gathered += part.tensor.nbytes
        if gathered >= each or i == len(parts):
            yield parts[first:i]
            first, gathered = i, 0


def _hash(header: bytes, data: Any) -> bytes:
    h = blake3(header)
    h.update(data)
    return h.digest()


def raw_bytes(tensor: torch.Tensor) -> Any:
    # As bytes before NumPy, which lacks bf16 and float8. Zero copy for contiguous tensors in main memory.
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy()


def _lp(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


@lru_cache(maxsize=1 << 16)
def _header(component: str, path: Path, dtype: str, shape: tuple[int, ...]) -> bytes:
    parts = (component.encode(), canonical(path), dtype.encode(), canonical(shape))
    return b"".join(map(_lp, parts))
