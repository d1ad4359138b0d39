"""The root of a data set, over files as they lie on the disk: our own code reads them, never the recipe's.

Names and contents are prefixed by their length, so that no byte can pass from one file into another unnoticed, and
every byte of every file counts (attack A-12).
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from brakeline.core.errors import Malformed, Unavailable

_CHUNK: Final = 1 << 20
_TAG: Final = b"brakeline/dataset/v1\n"


def root_of(paths: Sequence[Path]) -> str:
    """Hex SHA-256 over the files at `paths` and below, by the last name of each path and what is below it.

    A file's part is its name (`/` between folders), 8 bytes of its length, the name's own before it, and its content;
    files go in the order of their names' bytes. Where the folders lie does not matter.

    Raises:
        Malformed: there is no file, two of `paths` have one name, or something is neither file nor folder.
        Unavailable: one cannot be read, or changes while it is read.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise Malformed("two parts of the data set have the same last name", hint="give one of them another")
    files = sorted((name.encode("utf-8", "surrogateescape"), file) for path in paths for name, file in _files(path))
    if not files:
        raise Malformed("the data set has no file")
    digest = hashlib.sha256(_TAG)
    for name, file in files:
        digest.update(_length(len(name)) + name)
        try:
            size = file.stat().st_size
            digest.update(_length(size))
            with file.open("rb") as f:
                while data := f.read(_CHUNK):
                    digest.update(data)
                    size -= len(data)
        except OSError as e:
            raise Unavailable(f"cannot read {file}: {e.strerror}") from e
        if size:
            raise Unavailable(f"{file} changes while it is read")
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if not path.exists():
        raise Unavailable(f"there is no {path}", hint="it is a part of the data set")
    for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
        if file.is_file():
            yield (path.name if file == path else f"{path.name}/{file.relative_to(path).as_posix()}"), file
        elif not file.is_dir():
            raise Malformed(f"{file} is neither a file nor a folder")


def _length(n: int) -> bytes:
    return n.to_bytes(8, "big")
