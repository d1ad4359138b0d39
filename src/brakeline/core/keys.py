"""Public and private keys. A type byte stands before the raw key, so that ML-DSA can stand beside Ed25519."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from brakeline.core.encoding import b64decode, b64encode, sha256
from brakeline.core.errors import Malformed, Reason, Refused


class KeyType(IntEnum):
    """Algorithm bytes of C2SP signed-note. 4 and 6 are uses of a key (cosignatures), not keys of their own."""

    ED25519 = 1


_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493  # the order of the prime subgroup
_Point = tuple[int, int, int, int]
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})


@lru_cache(maxsize=1024)
def _check_ed25519(raw: bytes) -> None:
    # OpenSSL accepts the signature 01 00…00 under the public key 01 00…00 for every message. Refuse, once and for all
    # at registration, points of small order, encodings that are not the canonical one, points off the curve, and those
    # outside the subgroup of prime order: for a key with torsion, libraries disagree about which signatures hold.
    if len(raw) != 32:
        raise Malformed(f"an Ed25519 public key has 32 bytes, not {len(raw)}")
    number = int.from_bytes(raw, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= _P:
        raise Refused(Reason.WEAK_KEY, "Ed25519 key is not canonically encoded (y >= p)")
    if y in _SMALL_ORDER_Y:
        raise Refused(Reason.WEAK_KEY, "Ed25519 key is a point of small order: anyone can sign for it")
    x2 = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x2, (_P - 1) // 2, _P) != 1:
        raise Refused(Reason.WEAK_KEY, "Ed25519 key is not a point on the curve")
    x = pow(x2, (_P + 3) // 8, _P)  # RFC 8032 §5.1.3
    if x * x % _P != x2:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if not _in_subgroup(x if x & 1 == sign else _P - x, y):
        raise Refused(Reason.WEAK_KEY, "Ed25519 key has a part of small order: libraries disagree about its signatures")


def _in_subgroup(x: int, y: int) -> bool:
    """Whether L times the point is the neutral element, in extended coordinates (RFC 8032 §5.1.4)."""

    def add(a: _Point, b: _Point) -> _Point:
        (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
        s, u = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
        v, w = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
        e, f, g, h = u - s, w - v, w + v, u + s
        return e * f % _P, g * h % _P, f * g % _P, e * h % _P

    found, point = (0, 1, 1, 0), (x, y, 1, x * y % _P)
    for bit in range(_L.bit_length()):
        if _L >> bit & 1:
            found = add(found, point)
        point = add(point, point)
    return found[0] % _P == 0 and (found[1] - found[2]) % _P == 0


@lru_cache(maxsize=1024)
def _loaded(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that has passed the registration checks.

    Raises on construction:
        Malformed: unknown type or wrong length. Refused(WEAK_KEY): small order, non-canonical, off the curve.
    """

    type: KeyType
    raw: bytes

    def __post_init__(self) -> None:
        _check_ed25519(self.raw)

    @classmethod
    def decode(cls, data: bytes) -> "PublicKey":
        """From type byte ‖ raw key."""
        if not data or data[0] not in KeyType.__members__.values():
            raise Malformed(f"unknown key type {data[:1].hex() or 'nothing'}")
        return cls(KeyType(data[0]), data[1:])

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """From the base64 text that `text` gives."""
        return cls.decode(b64decode(text))

    def encode(self) -> bytes:
        return bytes([self.type]) + self.raw

    @property
    def text(self) -> str:
        """base64(type ‖ raw), as in a C2SP vkey."""
        return b64encode(self.encode())

    @property
    def id(self) -> str:
        """First 16 hex digits of SHA-256(type ‖ raw). A hint for finding the key, never a proof."""
        return sha256(self.encode()).hex()[:16]

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's signature over `message` (RFC 8032)."""
        try:
            _loaded(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class PrivateKey:
    """An Ed25519 private key. Its `repr` shows nothing of the secret."""

    __slots__ = ("_key", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        """From a 32-byte seed that the caller drew from the system's random source."""
        if len(seed) != 32:
            raise Malformed(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        self.seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(KeyType.ED25519, self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.id})"
