"""Signatures that implementations of Ed25519 disagree about. The curve, written in the plainest way."""

from collections.abc import Mapping
from hashlib import sha512

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


def _x_of(y: int) -> int:
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    return x if x * x % P == x2 else x * pow(2, (P - 1) // 4, P) % P


def _base() -> Point:
    y = 4 * pow(5, -1, P) % P
    x = _x_of(y)
    return (x if x % 2 == 0 else P - x, y)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(k: int, point: Point) -> Point:
    found = NEUTRAL
    while k:
        if k & 1:
            found = add(found, point)
        point, k = add(point, point), k >> 1
    return found


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def signatures(seed: bytes, public: bytes, message: bytes) -> Mapping[str, tuple[bytes, bool, str]]:
    """Name → signature, whether it counts, and what is special about it.

    What counts is RFC 8032 without the cofactor, S below L, and R compared as bytes: so do OpenSSL, Go and libsodium's
    default, and every signature that is made by the algorithm passes.
    """
    digest = sha512(seed).digest()
    a = int.from_bytes(digest[:32], "little") & ~7 & (1 << 254) - 1 | 1 << 254
    r = int.from_bytes(sha512(b"crafted" + message).digest(), "little") % L
    torsion = (_x_of(_ORDER_8_Y), _ORDER_8_Y)

    def made(big_r: bytes, small_r: int) -> bytes:
        k = int.from_bytes(sha512(big_r + public + message).digest(), "little") % L
        return big_r + ((small_r + k * a) % L).to_bytes(32, "little")

    honest = made(encode(times(r, _base())), r)
    s = int.from_bytes(honest[32:], "little")
    not_on_curve = next(
        y for y in range(2, 99) if pow((y * y - 1) * pow(D * y * y + 1, -1, P) % P, (P - 1) // 2, P) != 1
    )
    return {
        "another-nonce": (honest, True, "made with another nonce than RFC 8032 draws: nobody can tell"),
        "neutral-r": (made(encode(NEUTRAL), 0), True, "R is the neutral point, in its one encoding"),
        "s-plus-l": (honest[:32] + (s + L).to_bytes(32, "little"), False, "S + L instead of S: another spelling"),
        "torsion-in-r": (
            made(encode(add(times(r, _base()), torsion)), r),
            False,
            "R has a part of order 8: valid only where both sides are multiplied by 8",
        ),
        "neutral-r-beyond-p": (made((P + 1).to_bytes(32, "little"), 0), False, "R is the neutral point as y = p + 1"),
        "neutral-r-signed": (
            made((1 | 1 << 255).to_bytes(32, "little"), 0),
            False,
            "R is the neutral point with the sign of -0",
        ),
        "r-off-curve": (made(not_on_curve.to_bytes(32, "little"), r), False, "R is no point of the curve"),
        "all-zero": (bytes(64), False, "64 zero bytes"),
        "short": (honest[:63], False, "63 bytes"),
        "long": (honest + b"\0", False, "65 bytes"),
        "empty": (b"", False, "no bytes"),
        "swapped": (honest[32:] + honest[:32], False, "S before R"),
    }
