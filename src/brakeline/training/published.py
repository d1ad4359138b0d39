"""Weights as people publish them: a safetensors file, or several with an index. Whoever published them may be hostile.

Each file is read once, front to back, and its digest is of the bytes that were handed out: what is compared is what is
signed for. A file must say one thing to every reader: no name twice, no byte that belongs to no tensor or to two.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec
import torch

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.training.tensorfile import Entry, open_plain

INDEX: Final = ".safetensors.index.json"
MOST: Final = 100_000_000  # bytes of a header or an index, as the safetensors library bounds it
_FILES: Final = 10_000
_CHUNK: Final = 1 << 20  # bytes
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Subject(NamedTuple):
    """A file by its name, without a folder, and the SHA-256 of its bytes (hex)."""

    name: str
    digest: str


class Published:
    """The weights at `path`: a safetensors file, an index of several, or a folder that holds either and no other.

    `tensors()` gives them all, once; `subjects` are complete after that, by name. `name` is that of the model: the
    name of the folder in which they lie.

    Raises, on construction and by `tensors()`:
        Malformed: it is no such file, or could be read in two ways. Misuse: the folder does not say which files they
            are. Unavailable: it cannot be read. MemoryError.
    """

    def __init__(self, path: Path) -> None:
        self._subjects: list[Subject] = []
        listing = _listing(path)
        self._folder = listing.parent
        self._places: dict[str, str] | None = None
        self._files = [listing.name]
        # What a model that is one file is called, signers of models disagree about. Of a folder they don't.
        self.name = Path(os.path.realpath(listing.parent)).name or "model"
        if listing.name.endswith(INDEX):
            self._places = self._index(listing)
            self._files = sorted(set(self._places.values()))
            if beside := sorted({f.name for f in self._folder.glob("*.safetensors")} - {*self._files}):
                hint = "publish each model in a folder of its own"
                raise Misuse(f"{beside[0]} lies beside {listing.name}, which does not list it", hint=hint)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(sorted(self._subjects))

    def tensors(self, most: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of each, on the CPU; on the device `meta`, without a value, where it has more than `most`
        elements."""
        seen: set[str] = set()
        for file in self._files:
            for name, value in self._read(file, most):
                if self._places is not None and self._places.get(name) != file:
                    raise Malformed(f"{file} holds {name[:200]!r}, which the index does not place there")
                seen.add(name)
                yield name, value
        if self._places is not None and (lost := sorted(self._places.keys() - seen)):
            raise Malformed(f"the index places {lost[0][:200]!r} where it is not")

    def _read(self, file: str, most: int) -> Iterator[tuple[str, torch.Tensor]]:
        digest = hashlib.sha256()
        with _opened(self._folder / file) as f:
            size = os.fstat(f.fileno()).st_size
            first = _take(f, 8, digest, file)
            length = int.from_bytes(first, "little")
            if length > min(MOST, size - 8):
                raise Malformed(f"{file} is no safetensors file: its header is too long, or it ends early")
            for name, it in _entries(bytes(_take(f, length, digest, file)), size - 8 - length, file):
                left, dtype = it.data_offsets[1] - it.data_offsets[0], _DTYPES[it.dtype]
                if math.prod(it.shape) <= most:
                    data = _take(f, left, digest, file)
                    value = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
                    yield name, value.reshape(it.shape)
                    continue
                while left:
                    left -= len(_take(f, min(left, _CHUNK), digest, file))
                yield name, torch.empty(it.shape, dtype=dtype, device="meta")
            if f.read(1):
                raise Malformed(f"{file} grew while it was read")
        self._subjects.append(Subject(file, digest.hexdigest()))

    def _index(self, path: Path) -> dict[str, str]:
        with _opened(path) as f:
            data = f.read(MOST + 1)
        if len(data) > MOST:
            raise Malformed(f"{path.name} has more than {MOST:,} bytes")
        found = _json(data, path.name)
        try:
            places = msgspec.convert(found.get("weight_map"), dict[str, str])
        except (msgspec.ValidationError, AttributeError) as e:
            raise Malformed(f"{path.name} is no index of safetensors files: {e}") from e
        files = set(places.values())
        # A name with a folder in it would lead to what is not published.
        if not files or len(files) > _FILES or any(not _is_name(name) for name in files):
            raise Malformed(f"{path.name} lists no files beside it")
        self._subjects.append(Subject(path.name, hashlib.sha256(data).hexdigest()))
        return places


def _listing(path: Path) -> Path:
    """The file to begin with."""
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{INDEX}")) or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        hint = "name the file, or the one that ends in " + INDEX
        raise Misuse(f"{path} holds {len(found)} files that could be the weights", hint=hint)
    return found[0]


def _is_name(name: str) -> bool:
    return name.endswith(".safetensors") and name.isprintable() and not {"/", "\\", ":"} & set(name)


def _opened(path: Path) -> BufferedReader:
    try:
        return open_plain(path)
    except (OSError, ValueError) as e:
        raise Unavailable(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e


def _take(f: BufferedReader, count: int, digest: Any, file: str) -> bytearray:
    data = bytearray(count)
    try:
        got = f.readinto(data)
    except OSError as e:
        raise Unavailable(f"cannot read {file}: {e.strerror}") from e
    if got != count:
        raise Malformed(f"{file} is no safetensors file: it ends early")
    digest.update(data)
    return data


def _entries(header: bytes, size: int, file: str) -> list[tuple[str, Entry]]:
    """Of `size` bytes of data, every one belongs to one tensor: in the order in which they lie there."""
    found = _json(header, file)
    found.pop("__metadata__", None)
    try:
        entries = {name: msgspec.convert(value, Entry) for name, value in found.items()}
    except msgspec.ValidationError as e:
        raise Malformed(f"{file} is no safetensors file: {e}") from e
    at, ordered = 0, sorted(entries.items(), key=lambda item: item[1].data_offsets)
    for name, it in ordered:
        start, end = it.data_offsets
        if it.dtype not in _DTYPES or len(it.shape) > 64 or math.prod(max(n, 1) for n in it.shape) >= 2**60:
            raise Malformed(f"{file} holds {name[:200]!r} in a form that is not known here: {it.dtype[:40]!r}")
        if start != at or end - start != math.prod(it.shape) * _DTYPES[it.dtype].itemsize:
            raise Malformed(f"{file} does not say where {name[:200]!r} lies, or it lies where another one does")
        at = end
    if at != size:
        raise Malformed(f"{file} holds {size:,} bytes of tensors and lists {at:,}")
    return ordered


def _json(data: bytes, file: str) -> dict[str, Any]:
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        raise Malformed(f"{file} cannot be read: {e}") from e
    if not isinstance(found, dict):
        raise Malformed(f"{file} cannot be read: it is no object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("one name stands for two things")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
