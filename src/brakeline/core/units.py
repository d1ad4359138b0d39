"""Quantities as people write them, exactly: `1e25 FLOP`, `72 h`, `5 %`. No float ever stands between text and value."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

from brakeline.core.errors import Malformed

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,3})?) ([A-Za-z%/]+)")
_FLOP: Final = {
    "FLOP": 1,
    "kFLOP": 10**3,
    "MFLOP": 10**6,
    "GFLOP": 10**9,
    "TFLOP": 10**12,
    "PFLOP": 10**15,
    "EFLOP": 10**18,
}
_RATE: Final = {f"{unit}/s": value for unit, value in _FLOP.items()}
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _split(text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Malformed(f"not a quantity: {text[:60]!r}", hint='write a number, one space and a unit, as "1e25 FLOP"')
    try:
        return Decimal(match[1]), match[2]
    except InvalidOperation as e:
        raise Malformed(f"not a number: {match[1]!r}") from e


def _whole(text: str, units: Mapping[str, int], what: str, unit: str) -> int:
    value, name = _split(text)
    if name not in units:
        raise Malformed(f"{text[:60]!r} is not {what}", hint=f"use one of {', '.join(units)}")
    whole = Fraction(value) * units[name]
    if whole.denominator != 1 or whole > 10**60:
        raise Malformed(f"{text[:60]!r} is not a whole number of {unit}")
    return int(whole)


def flop(text: str) -> int:
    """`"1e25 FLOP"` → 10**25. Exact.

    Raises:
        Malformed: another unit, or not a whole number of operations.
    """
    return _whole(text, _FLOP, "an amount of compute", "FLOP")


def rate(text: str) -> int:
    """`"1e20 FLOP/s"` → 10**20. Exact.

    Raises:
        Malformed: another unit, or not a whole number of operations a second.
    """
    return _whole(text, _RATE, "a rate of compute", "FLOP/s")


def seconds(text: str) -> int:
    """`"72 h"` → 259200.

    Raises:
        Malformed: another unit, or not a whole number of seconds.
    """
    return _whole(text, _SECONDS, "a duration", "seconds")


def size(text: str) -> int:
    """`"1 MiB"` → 1048576 bytes.

    Raises:
        Malformed: another unit, or not a whole number of bytes.
    """
    return _whole(text, _BYTES, "a size", "bytes")


def fraction(text: str) -> Decimal:
    """`"5 %"` → Decimal("0.05"). Exact.

    Raises:
        Malformed: not a percentage, or above 100 %.
    """
    value, unit = _split(text)
    if unit != "%" or value > 100:
        raise Malformed(f"{text[:60]!r} is not a share", hint='write a percentage from 0 to 100, as "95 %"')
    # Not divided: a division would round to the context's 28 digits.
    sign, digits, exponent = value.as_tuple()
    return Decimal((sign, digits, int(exponent) - 2))


def show_flop(value: int) -> str:
    """`9996 * 10**20` → `"9.996e23 FLOP"`. Exact: up to 10**60, `flop` reads the same value back."""
    return f"{_shortest(value)} FLOP"


def show_rate(value: int) -> str:
    """`10**20` → `"1e20 FLOP/s"`. Exact: up to 10**60, `rate` reads the same value back."""
    return f"{_shortest(value)} FLOP/s"


def _shortest(value: int) -> str:
    plain = str(value)
    digits = plain.rstrip("0")
    scientific = f"{digits[:1]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{len(plain) - 1}"
    return scientific if value >= 10**6 and len(scientific) < len(plain) else plain


def about_flop(value: int) -> str:
    """`10**25` → `"1.00e+25 FLOP"`: rounded, for tables."""
    return f"{value:.2e} FLOP" if value >= 1000 else f"{value} FLOP"
