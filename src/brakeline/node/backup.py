"""A copy of a home in one file, taken while its servers run, and put back so that it can do no harm.

What is put back is old. So it is marked: its outbox says nothing, and its witness cosigns nothing, before it has been
compared with the log. Keys are copied as they are: encrypted ones stay encrypted.
"""

import io
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Misuse
from brakeline.node import ports
from brakeline.node.disk import database_errors, disk_errors, write_atomic, write_private
from brakeline.node.evidence import FORKS, PROOFS, RECEIPTS
from brakeline.node.home import Home
from brakeline.node.memory import RESTORED
from brakeline.node.witness import MEMORY

_TABLE: Final = "brakeline-backup.json"  # names and digests (hex SHA-256) of what follows; the first in the file
_LARGEST: Final = 2**31  # bytes of one file
# Files of a home, and all files of folders; what is not here is made anew, or too large: logs, mirrors, runs.
_FILES: Final = ("party", "treaty.toml", "next.toml", "reopening.json", "signed.json", "contested")
_KEPT: Final = (FORKS, PROOFS, RECEIPTS)
_FOLDERS: Final = ("keys", *(str(Path(memory) / kept) for memory in ("seen", "signer") for kept in ("", *_KEPT)))
_DATABASES: Final = ("outbox.sqlite", f"witness/{MEMORY}")


def backup(home: Home, file: Path) -> tuple[str, ...]:
    """Write what the home must not lose into `file`, readable by its owner alone; returns the names of what is in it.

    Raises:
        Misuse: `file` exists, or there is something strange in the home. Unavailable, Refused: the disk fails, or a
            database is damaged.
    """
    with home.alone(), disk_errors():  # no key is replaced meanwhile
        found = dict(_contents(home.path))
    out = io.BytesIO()
    table = msgspec.json.encode({name: sha256(data).hex() for name, data in found.items()})
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in ((_TABLE, table), *found.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    write_private(file, out.getvalue())
    return tuple(found)


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    for name in _DATABASES:
        if (path / name).exists():
            yield name, _copy(path / name)
    files = [path / name for name in _FILES]
    for folder in _FOLDERS:
        files += sorted((path / folder).glob("*"))
    for file in files:
        if file.is_file() and file.suffix not in (".lock", ".new") and file.name != "lock":
            if not file.name.isascii():
                raise Misuse(f"{file.name!r} in {file.parent} is no file of a home", hint="move it away")
            yield file.relative_to(path).as_posix(), file.read_bytes()


def _copy(file: Path) -> bytes:
    """A database as of one moment, whoever writes to it meanwhile."""
    with database_errors(), closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(":memory:")) as target:
        source.backup(target)
        return target.serialize()


def restore(file: Path, folder: Path) -> Home:
    """Make `folder` a home again from a backup, whole or not at all; marked, so that it compares before it signs.

    Raises:
        Misuse: there is something in `folder`. Malformed: `file` is no backup, or is damaged. Unavailable: the disk.
    """
    with disk_errors():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Misuse(f"{folder} is not empty", hint="nothing is overwritten: choose a new folder")
        found = _read(file)
        partial = folder.with_name(f"{folder.name}.partial")
        if partial.exists():  # of a crash before
            ports.disk().remove(partial)
        partial.mkdir(parents=True, mode=0o700)
    for name, data in found.items():
        write_private(partial / name, data)
    if "treaty.toml" in found:  # without one there is no log to compare it with, and it has said nothing
        write_atomic(partial / RESTORED, b"")
    write_atomic(partial / "witness" / RESTORED, b"")
    with disk_errors():
        for made in (*(path for path in partial.rglob("*") if path.is_dir()), partial):
            ports.disk().sync(made)
        if folder.exists():
            folder.rmdir()
        ports.disk().rename(partial, folder)
        ports.disk().sync(folder.parent)
    return Home(folder)


def _read(file: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:gz") as tar:
            for member in tar:
                if not member.isfile() or member.size > _LARGEST or member.name in found:
                    raise Malformed(f"{file} is no backup of a home: {member.name}")
                data = tar.extractfile(member)
                assert data is not None
                found[member.name] = data.read()
        table = msgspec.json.decode(found.pop(_TABLE, b""), type=dict[str, str])
    except (tarfile.TarError, EOFError, ValueError, msgspec.MsgspecError, OSError) as e:
        if isinstance(e, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise Malformed(f"{file} is no backup of a home, or is damaged: {e}") from e
    # By name, too: a backup from elsewhere must write nowhere but into the home.
    if {name: sha256(data).hex() for name, data in found.items()} != table or "party" not in found:
        raise Malformed(f"{file} is damaged: what is in it is not what was put there")
    for name in found:
        parent, _, leaf = name.rpartition("/")
        if not (name in (*_FILES, *_DATABASES) or (parent in _FOLDERS and leaf not in ("", ".", ".."))):
            raise Malformed(f"{file} holds {name!r}, which is no part of a home")
    return found
