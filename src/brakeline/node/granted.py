"""What a permit signer must not forget: the highest epoch that it signed a permit in, and which logs it has closed.

Two processes use it, the server that signs and the command that closes a log. What is told of one holds for the other:
no permit is signed after a closing that does not count it (Treaty 11.9, 11.10).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from brakeline.core.errors import Reason, Refused, Unavailable
from brakeline.node import ports
from brakeline.node.disk import disk_errors, locked, write_atomic

GRANTED: Final = "granted.json"  # in a home's folder of its signer
_WAIT: Final = 10.0  # s for the other process


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`closed`: origins, in the order in which they were closed."""

    epoch: int = 0
    closed: tuple[str, ...] = ()


class Granted:
    """Kept in the file `path`."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """With `new` it is made where it is not there: this signer has closed nothing, and signed no permit.

        Raises:
            Unavailable: it is gone, damaged, or the disk fails.
        """
        self._path = path
        with disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._stamp: tuple[int, int] = (0, 0)
        self._kept = _Kept()
        if not path.exists():
            if not new:
                hint = "put it back from a copy; or, if this signer has closed no log: `brakeline signer --new`"
                raise Unavailable(f"{path} is gone: nobody knows which logs this signer has closed", hint=hint)
            self._write(self._kept)
        self._read()

    def _read(self) -> _Kept:
        """What is kept now, whoever wrote it last."""
        with disk_errors():
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                # Renamed it may be, and gone after a power cut: whoever wrote it may have failed at its last step.
                ports.disk().sync(self._path.parent)
                try:
                    self._kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
                except msgspec.DecodeError as e:
                    hint = "put it back from a copy: without it nobody knows which logs this signer has closed"
                    raise Unavailable(f"{self._path} is damaged: {e}", hint=hint) from e
                self._stamp = stamp
        return self._kept

    @contextmanager
    def _locked(self) -> Iterator[_Kept]:
        lock, hint = self._path.with_name(f"{self._path.name}.lock"), "is another command of this home running?"
        with locked(lock, _WAIT, busy=f"{self._path} is in use", hint=hint):
            yield self._read()

    @contextmanager
    def signing(self, origin: str, epoch: int) -> Iterator[None]:
        """A permit may be signed meanwhile, in this epoch of the log of this origin.

        Raises:
            Refused(LEFT): this signer has closed that log.
        """
        with self._locked() as kept:
            if origin in kept.closed:
                text = f"this signer has closed the log {origin}, and signs nothing by it (Treaty 11.10)"
                raise Refused(Reason.SUPERSEDED, text)
            if epoch > kept.epoch:
                self._write(_Kept(epoch, kept.closed))
            yield

    def close(self, origin: str) -> int:
        """Sign nothing by the log of this origin from here on; returns the highest epoch that was signed in."""
        with self._locked() as kept:
            if origin not in kept.closed:
                self._write(_Kept(kept.epoch, (*kept.closed, origin)))
            return kept.epoch

    def _write(self, kept: _Kept) -> None:
        write_atomic(self._path, msgspec.json.encode(kept))
