"""Keys: nobody registers one that anyone can sign for."""

from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import KeyType, PrivateKey, PublicKey
from brakeline.core.tlog.note import ED25519, VerifierKey, parse_vkey
from vector import Vector, load, refused

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
SIGN = 1 << 255
D = -121665 * pow(121666, -1, P) % P
KEY = PrivateKey(bytes(range(32)))
MESSAGE = b"pause"


def compressed(y: int) -> bytes:
    return y.to_bytes(32, "little")


@load("key", 25)
def test_key_vectors(v: Vector) -> None:
    with v.expected():
        key = PublicKey.decode(bytes([v.input["type"]]) + v.bytes("raw"))
        assert key.encode() == bytes([v.input["type"]]) + v.bytes("raw")


# The curve, written again in the plainest way: -x² + y² = 1 + d·x²·y², affine.
def points_with(y: int) -> list[tuple[int, int]]:
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * pow(2, (P - 1) // 4, P) % P
    return [(x, y % P), (-x % P, y % P)] if x * x % P == x2 else []


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times_eight(point: tuple[int, int]) -> tuple[int, int]:
    for _ in range(3):
        point = add(point, point)
    return point


def times(k: int, point: tuple[int, int]) -> tuple[int, int]:
    result = (0, 1)
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


@cache
def small_order_points() -> frozenset[tuple[int, int]]:
    """The eight points of the torsion subgroup: L times any point, and the multiples of one of order eight."""

    found: set[tuple[int, int]] = set()
    for y in range(2, 40):
        for point in points_with(y):
            found.add(times(L, point))
    return frozenset(found)


def test_every_point_of_small_order_in_every_encoding_is_refused() -> None:
    points = small_order_points()
    assert len(points) == 8
    assert all(times_eight(point) == (0, 1) for point in points)
    encodings = {
        compressed(y + sign)
        for _, y0 in points
        for y in (y0, y0 + P)
        if y < SIGN
        for sign in (0, SIGN)  # with the sign of x, and with the wrong one
    }
    assert len(encodings) >= 14
    for raw in encodings:
        with refused(Reason.WEAK_KEY):
            PublicKey(KeyType.ED25519, raw)
        with refused(Reason.WEAK_KEY):
            parse_vkey(vkey(raw))


def vkey(raw: bytes) -> str:
    good = VerifierKey("a", ED25519, KEY.public)
    bad = object.__new__(PublicKey)  # past the check, as an attacker who writes the text by hand
    object.__setattr__(bad, "type", KeyType.ED25519)
    object.__setattr__(bad, "raw", raw)
    object.__setattr__(good, "key", bad)
    return good.text


def test_why_small_order_is_refused() -> None:
    # One signature for every message: the library behind us accepts it, so registration must not.
    neutral, forged = compressed(1), compressed(1) + bytes(32)
    for message in (b"", b"pause", b"resume"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(forged, message)
    with refused(Reason.WEAK_KEY):
        PublicKey(KeyType.ED25519, neutral)


def test_every_non_canonical_encoding_is_refused() -> None:
    for y in range(P, SIGN):  # the 19 values from p to 2^255 - 1
        for sign in (0, SIGN):
            with refused(Reason.WEAK_KEY):
                PublicKey(KeyType.ED25519, compressed(y + sign))


@given(st.integers(2, P - 2), st.sampled_from([0, SIGN]))
@settings(max_examples=40)
def test_a_key_is_a_point_of_the_prime_subgroup(y: int, sign: int) -> None:
    on_curve = points_with(y)
    try:
        key = PublicKey(KeyType.ED25519, compressed(y + sign))
    except Refused:
        assert not on_curve or times(L, on_curve[0]) != (0, 1) or times_eight(on_curve[0]) == (0, 1)
    else:
        assert times(L, on_curve[0]) == (0, 1)
        assert times_eight(on_curve[0]) != (0, 1)
        assert PublicKey.decode(key.encode()) == PublicKey.parse(key.text) == key


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7))
@settings(max_examples=20)
def test_a_key_with_torsion_is_refused(seed: bytes, part: int) -> None:
    """Of 64 signatures crafted for such a key, one library refused 49 and another took all: builds would differ."""
    raw = int.from_bytes(PrivateKey(seed).public.raw, "little")
    honest = next(p for p in points_with(raw % SIGN) if p[0] & 1 == raw >> 255)
    torsion = times(part, next(p for p in sorted(small_order_points()) if times(4, p) != (0, 1)))
    mixed = add(honest, torsion)
    with refused(Reason.WEAK_KEY):
        PublicKey(KeyType.ED25519, compressed(mixed[1] + (mixed[0] & 1) * SIGN))


@given(st.binary(max_size=40))
def test_every_key_is_refused_or_read_back(data: bytes) -> None:
    try:
        key = PublicKey.decode(data)
    except (Malformed, Refused):
        return
    assert key.encode() == data


@pytest.mark.parametrize(
    "text", ["", "AQ", "AQ==", "!", "AQ==\n", "Ag==", KEY.public.text + "=", KEY.public.text + "\n"]
)
def test_a_key_has_no_other_text(text: str) -> None:
    with pytest.raises(Malformed):
        PublicKey.parse(text)


def test_signatures() -> None:
    signature = KEY.sign(MESSAGE)
    assert KEY.public.verify(signature, MESSAGE)
    assert KEY.sign(MESSAGE) == signature
    assert not KEY.public.verify(signature, MESSAGE + b"!")
    assert not PrivateKey(bytes(32)).public.verify(signature, MESSAGE)


@pytest.mark.parametrize("signature", [b"", b"?", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_what_is_no_signature_does_not_verify(signature: bytes) -> None:
    assert not KEY.public.verify(signature, MESSAGE)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    signature = KEY.sign(MESSAGE)
    for i in range(64):
        for bit in range(8):
            bent = signature[:i] + bytes([signature[i] ^ 1 << bit]) + signature[i + 1 :]
            assert not KEY.public.verify(bent, MESSAGE)


def test_s_beyond_the_group_order_is_refused() -> None:
    signature = KEY.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little")
    assert not KEY.public.verify(signature[:32] + compressed(s + L), MESSAGE)


def test_rfc8032_test_2() -> None:
    key = PrivateKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(length: int) -> None:
    with pytest.raises(Malformed):
        PrivateKey(bytes(length))


def test_a_private_key_does_not_show_itself() -> None:
    shown = repr(KEY) + str(KEY)
    assert KEY.seed.hex() not in shown
    assert repr(KEY.seed) not in shown
    assert KEY.public.id in shown


def test_a_key_id_is_a_prefix_of_a_digest() -> None:
    assert len(KEY.public.id) == 16
    assert KEY.public.id != PrivateKey(bytes(32)).public.id
