"""A safetensors file as a list of named bytes, read with care: whoever shows one may be hostile.

Nothing is mapped into memory, so a file that is cut short meanwhile is an error and no signal; nothing but a plain file
is opened, so nobody waits for a pipe; and no more is read than what is asked for by name.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import msgspec
import torch

from brakeline.core.errors import Malformed

MAX_HEADER: Final = 1 << 28  # bytes
_Size = Annotated[int, msgspec.Meta(ge=0)]


def open_plain(path: Path) -> BufferedReader:
    """A plain file, to be read. Raises OSError: it cannot be read, or is none."""
    # Without O_NONBLOCK a pipe would be waited for, before anybody sees that it is one.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(2, "not a plain file", str(path))
    return os.fdopen(fd, "rb")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a header says of one tensor; the offsets are bytes from the end of the header."""

    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


class TensorFile:
    """The tensors in a file, all of which are bytes in a row.

    Raises, on entering:
        Malformed: it is no such file. OSError: it cannot be read, or is no plain file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BufferedReader | None = None
        self.metadata: dict[str, str] = {}
        self._at: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        self._file = open_plain(self._path)
        try:
            self._open(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, size: int) -> None:
        length = int.from_bytes(self._take(0, 8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise Malformed(f"{self._path.name} is not a checkpoint: its list is too long, or it ends early")
        try:
            header = msgspec.json.decode(self._take(8, length), type=dict[str, dict[str, Any]])
            self.metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
            entries = {name: msgspec.convert(value, Entry) for name, value in header.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise Malformed(f"{self._path.name} is not a checkpoint: {e}") from e
        for name, entry in entries.items():
            start, end = entry.data_offsets
            if entry.dtype != "U8" or entry.shape != (end - start,) or end > size - 8 - length:
                raise Malformed(f"{self._path.name} is not a checkpoint: it holds something else than bytes")
            self._at[name] = 8 + length + start, end - start
        if sum(count for _, count in self._at.values()) > size - 8 - length:  # what is read is not more than there is
            raise Malformed(f"{self._path.name} is not a checkpoint: it holds the same bytes twice")

    def _take(self, at: int, count: int) -> bytearray:
        assert self._file is not None
        data = bytearray(count)
        self._file.seek(at)
        if self._file.readinto(data) != count:
            raise Malformed(f"{self._path.name} is not a checkpoint: it ends early")
        return data

    def size(self, name: str) -> int | None:
        """Bytes of the tensor `name`; None where there is none."""
        return self._at[name][1] if name in self._at else None

    def read(self, name: str) -> bytearray:
        """Its bytes. Raises Malformed, KeyError, OSError, MemoryError."""
        return self._take(*self._at[name])

    def tensor(self, name: str) -> torch.Tensor:
        """As `read`: one-dimensional, of the type torch.uint8."""
        data = self.read(name)
        return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
