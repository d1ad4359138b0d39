"""A party's home: one folder with its name, its keys, its treaty and what it must not forget."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.keys import PrivateKey
from brakeline.core.treaty import Party, Treaty, parse_treaty
from brakeline.node.disk import write_private

Purpose = Literal["statement", "log", "witness", "signer"]
PASSPHRASE: Final = "BRAKELINE_PASSPHRASE"  # the environment variable that opens encrypted keys
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
    return PrivateKey(secrets.token_bytes(32))


def _from_environment() -> bytes:
    value = os.environ.get(PASSPHRASE)
    if not value:
        raise Misuse("the key is encrypted", hint=f"set {PASSPHRASE}")
    return value.encode()


class Home:
    """Paths and contents of a party's folder. Opening checks that it is one."""

    def __init__(self, path: Path, *, passphrase: Callable[[], bytes] = _from_environment) -> None:
        self.path = path
        self._passphrase = passphrase
        try:
            self.name = (path / "party").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise Unavailable(f"{path} is not a party's home", hint=f"make one with {_KEYGEN}") from e

    def key(self, purpose: Purpose) -> PrivateKey:
        return load_key(self.path / "keys" / f"{purpose}.pem", self._passphrase)

    @property
    def treaty(self) -> Treaty:
        """Raises:
        Unavailable: the party has not signed one. Malformed: the text does not pass.
        """
        try:
            return parse_treaty((self.path / "treaty.toml").read_bytes())
        except OSError as e:
            raise Unavailable(f"no treaty in {self.path}", hint="sign one with `brakeline treaty sign FILE`") from e

    def me(self, treaty: Treaty) -> Party:
        """This home's party in `treaty`.

        Raises:
            Misuse: it is no party, or its key is not the one entered there.
        """
        party = treaty.parties.get(self.name)
        if party is None:
            raise Misuse(f"{self.name} is no party to the treaty {treaty.name}")
        if party.key != self.key("statement").public:
            raise Misuse(f"the treaty names another key for {self.name}", hint="is this the right home?")
        return party
