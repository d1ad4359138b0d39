"""A checkpoint: what a leaf's state digest binds, in a file that holds bytes and runs nothing.

One safetensors file a checkpoint. Its metadata lists, in the order of the state's items, every tensor's type, shape and
item digest, and the step whose file holds its bytes; the structures are those that were hashed. So the digest of the
state follows from the list alone, each tensor can be checked by itself, and a large tensor that has not changed since
an earlier checkpoint, as most of a fine-tuned model, is not stored again.
"""

import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file

from brakeline.core.encoding import Wire, canonical, parse, unhex32
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Unavailable
from brakeline.node import ports
from brakeline.training.digest import (
    Item,
    Snapshot,
    Tree,
    raw_bytes,
    snapshot,
    state_digest,
    structure_digest,
    tensor_digest,
)
from brakeline.training.tensorfile import TensorFile

CHECKPOINTS: Final = "checkpoints"
FORMAT: Final = "brakeline/checkpoint/v2"
GOES_ON: Final = "make room, or mend the disk; the same command goes on from the last checkpoint"
_NAME: Final = re.compile(r"step-([0-9]{8,})\.safetensors")
_SHARED: Final = 1 << 20  # bytes from which on a tensor that has not changed is referred to: a file less to depend on
MAX_DEPTH: Final = 200
_DIMENSIONS: Final = 64
_METADATA: Final = "brakeline"


class Listed(Wire, frozen=True):
    """One tensor: its bytes lie in the checkpoint of `step`, under its digest (hex)."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    step: int


class _Index(Wire, frozen=True):
    format: str
    step: int
    structures: tuple[str, ...]  # components, in order
    tensors: tuple[Listed, ...]


class Image(NamedTuple):
    """A state ready to be written: `data` are copies of the tensors that no earlier checkpoint holds, by digest."""

    step: int
    structures: Mapping[str, bytes]
    tensors: tuple[Listed, ...]
    data: Mapping[str, torch.Tensor]

    @property
    def held(self) -> dict[str, int]:
        """By digest, the step of the checkpoint that holds each tensor which a later one may refer to."""
        return {t.digest: t.step for t in self.tensors if _size(t) >= _SHARED}


def image(step: int, state: Snapshot, items: Sequence[Item], held: Mapping[str, int]) -> Image:
    """The image of `state`, whose `items` they are; what is `held` by an earlier checkpoint is not copied."""
    listed, data = [], {}
    for part, item in zip(state.parts, items[len(state.structures) :], strict=True):
        digest = item.digest.hex()
        at = held.get(digest, step)
        listed.append(Listed(dtype=str(part.tensor.dtype), shape=tuple(part.tensor.shape), digest=digest, step=at))
        if at == step:
            data[digest] = torch.from_numpy(raw_bytes(part.tensor).copy())
    return Image(step, state.structures, tuple(listed), data)


def write(directory: Path, it: Image) -> None:
    """Write a checkpoint, durably, unless it is there; nobody sees a part of it.

    Raises:
        Misuse: what was written is not what was hashed. Unavailable: the disk.
    """
    path = checkpoint_path(directory, it.step)
    if path.exists():
        return
    temporary = path.with_suffix(".tmp")
    try:
        tensors, metadata = _contents(it)
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        _check_written(temporary, it)
        temporary.rename(path)
        for folder in (path.parent, directory):
            ports.disk().sync(folder)
    except (OSError, SafetensorError) as e:
        raise Unavailable(f"cannot write the checkpoint of step {it.step}: {e}", hint=GOES_ON) from e


def _contents(it: Image) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    index = _Index(format=FORMAT, step=it.step, structures=tuple(it.structures), tensors=it.tensors)
    structures = {
        _structure(name): torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in it.structures.items()
    }
    return {**structures, **it.data}, {_METADATA: canonical(index).decode()}


def pack(file: IO[bytes], tree: Mapping[str, Tree]) -> None:
    """Write a state into a file by itself, that of one rank or of several as `ranks.merged` has them.

    Raises:
        Misuse: it has no canonical form. OSError: the disk.
    """
    state = snapshot(tree, lambda *_: True)
    data = save(*_contents(image(0, state, state.items(), {})))
    file.seek(0)
    file.truncate()
    file.write(data)
    file.flush()


def unpack(path: Path, most: int) -> Snapshot:
    """What was packed, by whoever. Raises as `load_checkpoint`; Malformed too where it has more than `most` bytes."""
    if (size := path.stat().st_size) > most:
        raise Malformed(f"a state of {size:,} bytes, where {most:,} are read")

    def only(step: int) -> AbstractContextManager[TensorFile]:
        if step:
            raise Malformed("what is packed refers to nothing")
        return TensorFile(path)

    return _load(0, path.name, only)


def _check_written(path: Path, it: Image) -> None:
    # A write through `.data` escapes autograd's counters: the leaf may then be of a state that never was.
    with TensorFile(path) as file:
        for (component, place), listed in zip(_places(it.structures), it.tensors, strict=True):
            if listed.step == it.step:
                data = file.read(listed.digest)
                if tensor_digest(component, place, listed.dtype, listed.shape, data).hex() != listed.digest:
                    raise Misuse(
                        f"the state of step {it.step} was written to while it was recorded, past autograd's counters",
                        hint="something writes through .data or NumPy after recorder.step(): move it before",
                    )


def load_checkpoint(directory: Path, step: int) -> Snapshot:
    """The state in the checkpoint of `step`. Nothing in the file is executed, and its sizes are checked first.

    Raises:
        Unavailable: no such file, or one that it refers to. Malformed: not a checkpoint of this step.
        OSError, MemoryError.
    """
    return _load(step, checkpoint_path(directory, step).name, partial(_file, directory))


def _load(step: int, name: str, opened: Callable[[int], AbstractContextManager[TensorFile]]) -> Snapshot:
    """`opened` gives the file of a step."""
    with opened(step) as file:
        structures, tensors = _listing(file, step, name)
    _check_once(tensors, step)
    data: dict[str, torch.Tensor] = {}
    for at in sorted({t.step for t in tensors}):
        with opened(at) as file:
            for listed in (t for t in tensors if t.step == at):
                _check_size(listed, file.size(listed.digest), step)
                data[listed.digest] = file.tensor(listed.digest)
    try:
        values = iter([_tensor(listed, data.pop(listed.digest)) for listed in tensors])
        tree = {name: _Reader(kept, values).whole() for name, kept in structures.items()}
        if next(values, None) is not None:
            raise Malformed("more tensors than places")
    except (BrakelineError, ValueError, RecursionError, RuntimeError) as e:
        raise Malformed(f"{name} is not a checkpoint: {e}") from e
    return snapshot(tree, lambda *_: True)


def listed_digest(directory: Path, step: int) -> bytes:
    """The digest of the state that the checkpoint of `step` says it has, for the cost of its list. Raises as
    `load_checkpoint`."""
    structures, tensors = _read(directory, step)
    try:
        listed = [unhex32(t.digest) for t in tensors]
    except Malformed as e:
        raise Malformed(f"{checkpoint_path(directory, step).name} is not a checkpoint: {e}") from e
    return state_digest([*(structure_digest(name, data) for name, data in structures.items()), *listed])


def listed_bytes(directory: Path, step: int) -> int:
    """Bytes of all tensors in the checkpoint of `step`, also of those that lie in another. Raises as
    `load_checkpoint`."""
    return sum(_size(listed) for listed in _read(directory, step)[1])


def list_size(path: Path) -> int:
    """Bytes of a checkpoint up to the end of its list, by which it is known. Raises OSError."""
    with path.open("rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


def check_bytes(path: Path) -> None:
    """That the bytes in a checkpoint are those that it lists.

    Raises:
        Malformed: they are not, or it is no checkpoint. OSError.
    """
    directory, step = path.parent.parent, int(path.stem.removeprefix("step-"))
    structures, tensors = _read(directory, step)
    _check_once(tensors, step)
    try:
        with _file(directory, step) as file:
            for (component, place), listed in zip(_places(structures), tensors, strict=True):
                if listed.step == step:
                    _check_size(listed, file.size(listed.digest), step)
                    data = file.read(listed.digest)
                    if tensor_digest(component, place, listed.dtype, listed.shape, data).hex() != listed.digest:
                        raise Malformed("it holds other bytes than it lists")
    except (BrakelineError, ValueError, RecursionError) as e:
        raise Malformed(f"{path.name} is not a checkpoint: {e}") from e


def shared(directory: Path, step: int) -> dict[str, int]:
    """`Image.held` of the checkpoint of `step`. Raises as `load_checkpoint`."""
    return Image(step, {}, _read(directory, step)[1], {}).held


def referred(directory: Path, step: int) -> frozenset[int]:
    """The steps of the checkpoints that the one of `step` needs beside itself. Raises as `load_checkpoint`."""
    return frozenset(t.step for t in _read(directory, step)[1]) - {step}


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_steps(directory: Path) -> list[int]:
    """Steps that have a checkpoint under `directory`, ascending."""
    names = (_NAME.fullmatch(path.name) for path in (directory / CHECKPOINTS).glob("*.safetensors"))
    return sorted(int(name[1]) for name in names if name)


def _structure(component: str) -> str:
    return f"structure {component}"


@contextmanager
def _file(directory: Path, step: int) -> Iterator[TensorFile]:
    try:
        with TensorFile(checkpoint_path(directory, step)) as file:
            yield file
    except FileNotFoundError as e:
        raise Unavailable(f"there is no checkpoint of step {step} in {directory}", hint="put it back") from e


def _read(directory: Path, step: int) -> tuple[dict[str, bytes], tuple[Listed, ...]]:
    """Structures and list."""
    with _file(directory, step) as file:
        return _listing(file, step, checkpoint_path(directory, step).name)


def _listing(file: TensorFile, step: int, name: str) -> tuple[dict[str, bytes], tuple[Listed, ...]]:
    try:
        index = parse(file.metadata.get(_METADATA, "").encode(), _Index)
        if index.format != FORMAT or index.step != step or len({*index.structures}) != len(index.structures):
            raise Malformed(f"not the checkpoint of step {step}")
        return {part: bytes(file.read(_structure(part))) for part in index.structures}, index.tensors
    except (Malformed, KeyError, UnicodeEncodeError) as e:
        raise Malformed(f"{name} is not a checkpoint: {e}") from e


def _check_once(tensors: Sequence[Listed], step: int) -> None:
    """A digest is of one place alone: what were listed a million times would be a million times as large."""
    if len({t.digest for t in tensors}) != len(tensors):
        raise Malformed(f"the checkpoint of step {step} lists one tensor twice")


def _check_size(listed: Listed, size: int | None, step: int) -> None:
    dtype = getattr(torch, listed.dtype.removeprefix("torch."), None)
    if not listed.dtype.startswith("torch.") or not isinstance(dtype, torch.dtype):
        raise Malformed(f"the checkpoint of step {step} has a tensor of type {listed.dtype[:40]!r}")
    if size is None:
        raise Malformed(f"the checkpoint of step {listed.step} does not hold what that of step {step} refers to")
    if len(listed.shape) > _DIMENSIONS or any(not 0 <= n < 2**48 for n in listed.shape) or _size(listed) != size:
        raise Malformed(f"the checkpoint of step {step} has {size} bytes for a tensor of shape {listed.shape}")


def _tensor(listed: Listed, data: torch.Tensor) -> torch.Tensor:
    dtype = getattr(torch, listed.dtype.removeprefix("torch."))
    return data.view(dtype).reshape(listed.shape) if len(data) else torch.empty(listed.shape, dtype=dtype)


def _size(listed: Listed) -> int:
    dtype = getattr(torch, listed.dtype.removeprefix("torch."), None)
    return math.prod(listed.shape) * (dtype.itemsize if isinstance(dtype, torch.dtype) else 0)


def _places(structures: Mapping[str, bytes]) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Component and path of every tensor, in order."""
    for component, data in structures.items():
        reader = _Reader(data, None)
        reader.whole()
        for path in reader.paths:
            yield component, path


class _Reader:
    """Reads a structure as `digest` spells it, back into a tree; `values` are its tensors, in order.

    Without `values` the tree has None for each, and `paths` says where they are.
    """

    def __init__(self, data: bytes, values: Iterator[torch.Tensor] | None) -> None:
        self._data, self._at, self._values = data, 0, values
        self.paths: list[tuple[str | int, ...]] = []

    def whole(self) -> Tree:
        tree = self._value((), 0)
        if self._at != len(self._data):
            raise Malformed("more than one value in a structure")
        return tree

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self._at:
            raise Malformed("a structure ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def _text(self) -> bytes:
        return self._take(int.from_bytes(self._take(8), "big"))

    def _key(self) -> str | int:
        return self._text().decode("utf-8", "surrogatepass") if self._take(1) == b"s" else int(self._text())

    def _value(self, path: tuple[str | int, ...], depth: int) -> Tree:
        tag = self._take(1)
        if tag in (b"m", b"l", b"u"):
            count = int.from_bytes(self._take(8), "big")
            if depth > MAX_DEPTH or count > len(self._data):
                raise Malformed("a structure is too deep, or ends early")
            keys = [self._key() for _ in range(count)]
            values = [self._value((*path, key), depth + 1) for key in keys]
            return dict(zip(keys, values, strict=True)) if tag == b"m" else values if tag == b"l" else tuple(values)
        if tag == b"T":
            self.paths.append(path)
            tensor = next(self._values, None) if self._values else None
            if self._values and tensor is None:
                raise Malformed("more places than tensors")
            return tensor
        if tag == b"d":
            return struct.unpack(">d", self._take(8))[0]
        if tag == b"i":
            return int(self._text())
        if tag == b"s":
            return self._text().decode("utf-8", "surrogatepass")
        try:
            return {b"n": None, b"t": True, b"f": False}[tag]
        except KeyError as e:
            raise Malformed("a structure has a value of no known kind") from e
