"""A party's home: one folder with its name, its keys, its treaty and what it must not forget."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.treaty import Party, Treaty, parse_treaty
from brakeline.node.disk import disk_errors, locked, write_atomic, write_private
from brakeline.node.granted import GRANTED, Granted
from brakeline.node.memory import RESTORED
from brakeline.node.ports import dice, disk

Purpose = Literal["statement", "log", "witness", "signer"]
Which = Literal["", "next", "after"]
PASSPHRASE: Final = "BRAKELINE_PASSPHRASE"  # the environment variable that opens encrypted keys
_WAIT: Final = 30.0  # s for another process of the home that changes its keys
_KEYGEN: Final = "`brakeline keygen NAME --home DIR --enroll TREATY`"
PURPOSES: Final[tuple[Purpose, ...]] = ("statement", "log", "witness", "signer")


def save_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    """Write a key as PKCS #8 PEM, encrypted when there is a passphrase."""
    how: ser.KeySerializationEncryption = (
        ser.BestAvailableEncryption(passphrase) if passphrase else ser.NoEncryption()
    )
    raw = Ed25519PrivateKey.from_private_bytes(key.seed)
    write_private(path, raw.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, how))


def load_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """Read a key file. `passphrase` is asked only when the file is encrypted.

    Raises:
        Unavailable: no such file. Misuse: others may read it, or the passphrase is wrong. Malformed: not a key.
    """
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as e:
        raise Unavailable(f"no key at {path}: {e.strerror}", hint=f"run {_KEYGEN}") from e
    if mode & 0o077:
        raise Misuse(f"{path} can be read by others", hint=f"chmod 600 {path}")
    try:
        secret = passphrase() if b"ENCRYPTED" in data else None
        key = ser.load_pem_private_key(data, secret)
    except (ValueError, TypeError) as e:
        if b"ENCRYPTED" in data:
            raise Misuse(f"wrong passphrase for {path}") from e
        raise Malformed(f"{path} is not a PEM private key") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed(f"{path} is not an Ed25519 key")
    return PrivateKey(key.private_bytes_raw())


def new_key() -> PrivateKey:
    """A key from the system's random source."""
    return PrivateKey(dice(32))


def _from_environment() -> bytes:
    value = os.environ.get(PASSPHRASE)
    if not value:
        raise Misuse("the key is encrypted", hint=f"set {PASSPHRASE}")
    return value.encode()


class Home:
    """Paths and contents of a party's folder. Opening checks that it is one."""

    def __init__(self, path: Path, *, passphrase: Callable[[], bytes] = _from_environment) -> None:
        self.path = path
        self.passphrase = passphrase
        try:
            self.name = (path / "party").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise Unavailable(f"{path} is not a party's home", hint=f"make one with {_KEYGEN}") from e

    def key(self, purpose: Purpose, which: Which = "") -> PrivateKey:
        """The key in use; with `which`, the one that it was committed to be followed by, or the one after that."""
        return load_key(self._file(purpose, which), self.passphrase)

    def holds(self, purpose: Purpose, which: Which = "") -> bool:
        return self._file(purpose, which).exists()

    def was(self, purpose: Purpose, text: str) -> bool:
        """Whether this home has gone on from this key: what it has seen of the log is older."""
        return f"{purpose} {text}" in self._past()

    def _file(self, purpose: Purpose, which: Which = "") -> Path:
        return self.path / "keys" / f"{purpose}{which and '.' + which}.pem"

    def new_after(self, purpose: Purpose) -> PrivateKey:
        """The key after the next one; it is made where there is none yet, protected as the others are."""
        path = self._file(purpose, "after")
        with self.alone():
            if not path.exists():
                encrypted = b"ENCRYPTED" in self._file(purpose, "next").read_bytes()
                save_key(path, new_key(), self.passphrase() if encrypted else None)
        return self.key(purpose, "after")

    def promote(self, purpose: Purpose, key: str) -> bool:
        """Go on to the next key if it is `key`, which the log has in force.

        What was in use is destroyed, and its public key noted. Several processes of one home may come to this at a
        time: the second would destroy the key that the first went on to.
        """
        with self.alone():
            self._tidy(purpose)
            if not self.holds(purpose, "next") or self.key(purpose, "next").public.text != key:
                return False
            past = self.path / "keys" / "past"
            known = past.read_text() if past.exists() else ""
            line = f"{purpose} {self.key(purpose).public.text}\n"
            if line not in known:
                write_atomic(past, (known + line).encode())
            disk().rename(self._file(purpose, "next"), self._file(purpose))
            self._tidy(purpose)
        return True

    def tidy(self, purpose: Purpose) -> None:
        """Finish what a crash in the middle of `promote` has left."""
        with self.alone():
            self._tidy(purpose)

    def _tidy(self, purpose: Purpose) -> None:
        if self.holds(purpose, "after") and not self.holds(purpose, "next"):
            disk().rename(self._file(purpose, "after"), self._file(purpose, "next"))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process of this home changes its keys meanwhile."""
        busy = f"another process is changing the keys of {self.path}"
        with locked(self.path / "keys" / "lock", _WAIT, busy=busy, hint="try again"):
            yield

    @property
    def treaty(self) -> Treaty:
        """The first text of the treaty's log, by which the log goes.

        Raises:
            Unavailable: the party has not signed one. Malformed: the text does not pass.
        """
        try:
            return parse_treaty((self.path / "treaty.toml").read_bytes())
        except OSError as e:
            raise Unavailable(f"no treaty in {self.path}", hint="sign one with `brakeline treaty sign FILE`") from e

    @property
    def newest(self) -> Treaty:
        """The newest text that this party has signed. Raises as `treaty`."""
        try:
            return parse_treaty((self.path / "next.toml").read_bytes())
        except FileNotFoundError:
            return self.treaty
        except OSError as e:
            raise Unavailable(f"cannot read the text in {self.path}: {e.strerror}") from e

    def granted(self, *, new: bool = False) -> Granted:
        """What this party's permit signer must not forget. As `Granted`."""
        return Granted(self.path / "signer" / GRANTED, new=new)

    def me(self, treaty: Treaty) -> Party:
        """This home's party in `treaty`, or in the newest text that it has signed.

        Raises:
            Misuse: it is no party, or its key is none of those entered there and what came of them.
        """
        party = treaty.parties.get(self.name)
        if party is None and (self.path / "next.toml").exists():
            party = self.newest.parties.get(self.name)
        if party is None:
            raise Misuse(f"{self.name} is no party to the treaty {treaty.name}")
        if party.key != self.key("statement").public and f"statement {party.key.text}" not in self._past():
            raise Misuse(f"the treaty names another key for {self.name}", hint="is this the right home?")
        return party

    def doubt(self) -> None:
        """This home may be a copy: it says nothing before it has compared itself with the log."""
        write_atomic(self.path / RESTORED, b"")

    def _past(self) -> list[str]:
        path = self.path / "keys" / "past"
        with disk_errors():
            return path.read_text().split("\n") if path.exists() else []
