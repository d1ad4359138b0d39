"""The one encoding. `parse(b, T)` raises `Malformed`, or `canonical(parse(b, T)) == b`.

Two texts with one meaning are the root of most signature forgeries, so every reader here re-encodes and compares.
"""

import binascii
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
import rfc8785

from brakeline.core.errors import Malformed

T = TypeVar("T")

_DECIMAL: Final = re.compile(rb"0|[1-9][0-9]*")
_UNSHOWN: Final = (
    (0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E), (0x200B, 0x200F), (0x2028, 0x202E),
    (0x2060, 0x206F), (0xD800, 0xDFFF), (0xFDD0, 0xFDEF), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0xE0000, 0xE0FFF),
)  # fmt: skip
_SAFE: Final = 2**53 - 1
_SORTED: Final = msgspec.json.Encoder(order="sorted")


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every value that travels. Fields carry no defaults: what is signed is written out."""


def canonical(value: object) -> bytes:
    """RFC 8785 canonical JSON of `value`.

    Raises:
        Malformed: an integer beyond 2**53, also as a float; a NaN, a lone surrogate, or a type JSON does not have.
    """
    try:
        plain = msgspec.to_builtins(value, str_keys=False, order="deterministic")
        _check_floats(plain)
        return rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, TypeError, ValueError, RecursionError) as e:
        raise Malformed(f"cannot be written as canonical JSON: {e}") from e


def _check_floats(value: object) -> None:
    """What is written must be read back: RFC 8785 writes a whole float of this size as an integer too large to read."""
    if isinstance(value, float) and 2**53 <= abs(value) < 1e21 and value.is_integer():
        raise ValueError("whole number beyond 2**53")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _check_floats(item)


def parse_json(data: bytes) -> Any:
    """Parse canonical JSON, and nothing else.

    Raises:
        Malformed: not JSON, or not the RFC 8785 form of what it says (duplicate keys, spacing, order, 1.0 for 1).
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Malformed(f"not JSON: {e}") from e
    if canonical(value) != data:
        raise Malformed("not canonical JSON (RFC 8785)")
    return value


def convert(value: object, kind: type[T]) -> T:
    """Read a parsed JSON value as `kind`, strictly: unknown or missing fields and wrong types are refused.

    Raises:
        Malformed: with the path of the field that is wrong.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as e:
        raise Malformed(str(e)) from e


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _is_plain(value: object) -> bool:
    """Whether no number in it has a second spelling, or is too large for every reader of JSON."""
    if isinstance(value, dict):
        items: Iterable[object] = value.values()
    elif isinstance(value, Wire):
        items = msgspec.structs.astuple(value)
    elif isinstance(value, list | tuple):
        items = value
    else:
        return isinstance(value, str)  # an enumeration's word
    for item in items:
        kind = type(item)
        if kind is int:
            if not -_SAFE <= item <= _SAFE:  # type: ignore[operator]
                return False
        elif kind is float:
            # Here both write the shortest digits that read back, and no exponent.
            if not 1e-4 <= abs(item) < 1e15 or item.is_integer():  # type: ignore[arg-type, attr-defined]
                return False
        elif kind is not str and kind is not bool and item is not None and not _is_plain(item):
            return False
    return True


def parse(data: bytes, kind: type[T]) -> T:
    """Parse canonical JSON as `kind`: raises `Malformed`, or `canonical(result) == data`."""
    # Of ASCII text, strings and numbers of ordinary size, what msgspec sorts and writes is the RFC 8785 form, and 50
    # times faster. Whatever is not plainly that goes the long way, which alone refuses.
    if data[:1] == b"{" and data.isascii():
        try:
            value: T = _decoder(kind).decode(data)  # type: ignore[arg-type]
            if _is_plain(value) and _SORTED.encode(value) == data:
                return value
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    result = convert(parse_json(data), kind)
    # A field may accept two spellings of one value (1 and 1.0 for a float): only the one we write is read.
    if canonical(result) != data:
        raise Malformed(f"not the canonical form of {kind.__name__}")
    return result


def decimal(text: bytes, *, bound: int = 2**63 - 1) -> int:
    """An unsigned decimal without sign, space, leading zero, underscore or foreign digit, at most `bound`.

    Raises:
        Malformed: anything else. `int()` would accept `b" 1_0\\n"`.
    """
    if len(text) > 40 or not _DECIMAL.fullmatch(text):
        raise Malformed(f"not a decimal number: {text[:40]!r}")
    value = int(text)
    if value > bound:
        raise Malformed(f"number too large: {value} > {bound}")
    return value


def b64encode(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 §4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def b64decode(text: str | bytes) -> bytes:
    """Strict base64: the only text accepted is the one `b64encode` writes.

    Raises:
        Malformed: junk, missing padding, or stray bits (`AB==` for `AA==`).
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        data = binascii.a2b_base64(raw)  # lenient: what it accepts too much, the comparison refuses
    except (binascii.Error, ValueError) as e:
        raise Malformed(f"not base64: {raw[:40]!r}") from e
    if binascii.b2a_base64(data, newline=False) != raw:
        raise Malformed(f"not canonical base64: {raw[:40]!r}")
    return data


def is_text(text: str) -> bool:
    """Whether a page can show it, by a rule that no version of Unicode changes: builds must agree on it.

    No control character, no line or paragraph separator, nothing that is invisible or turns the order of what is read,
    no surrogate, nothing that is no character.
    """
    if text.isascii() and text.isprintable():  # nearly always, and the same in every version
        return True
    return not any(low <= c <= high or c & 0xFFFE == 0xFFFE for c in map(ord, text) for low, high in _UNSHOWN)


def unhex32(text: str) -> bytes:
    """The 32 bytes behind 64 lowercase hex digits.

    Raises:
        Malformed: anything else.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 32 or data.hex() != text:  # fromhex also takes spaces and capitals
        raise Malformed(f"not a 32-byte digest in lowercase hex: {text[:70]!r}")
    return data


def sha256(first: bytes = b"", *more: bytes) -> bytes:
    """SHA-256 of the concatenation. Use `tagged` where the parts come from more than one place."""
    h = hashlib.sha256(first)
    for part in more:
        h.update(part)
    return h.digest()


def tagged(tag: str, *parts: bytes) -> bytes:
    """SHA-256 under a domain tag, every part prefixed by its length, so that no two inputs share an encoding."""
    h = hashlib.sha256()
    for part in (tag.encode(), *parts):
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h.digest()
