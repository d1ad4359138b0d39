"""Quantities as people write them, exactly: `1e25 FLOP`, `72 h`, `5 %`. No float ever stands between text and value."""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

from brakeline.core.errors import Malformed

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,3})?) ([A-Za-z%/]+)")
_FLOP: Final = {"FLOP": 0, "kFLOP": 3, "MFLOP": 6, "GFLOP": 9, "TFLOP": 12, "PFLOP": 15, "EFLOP": 18}
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def _split(text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Malformed(f"not a quantity: {text[:60]!r}", hint='write a number, one space and a unit, as "1e25 FLOP"')
    try:
        return Decimal(match[1]), match[2]
    except InvalidOperation as e:
        raise Malformed(f"not a number: {match[1]!r}") from e


def _whole(value: Fraction, text: str, unit: str) -> int:
    if value.denominator != 1 or value > 10**60:
        raise Malformed(f"{text[:60]!r} is not a whole number of {unit}")
    return int(value)


def flop(text: str) -> int:
    """`"1e25 FLOP"` → 10**25. Exact.

    Raises:
        Malformed: another unit, or not a whole number of operations.
    """
    value, unit = _split(text)
    if unit not in _FLOP:
        raise Malformed(f"{text!r} is not an amount of compute", hint=f"use one of {', '.join(_FLOP)}")
    return _whole(Fraction(value) * 10 ** _FLOP[unit], text, "FLOP")


def seconds(text: str) -> int:
    """`"72 h"` → 259200.

    Raises:
        Malformed: another unit, or not a whole number of seconds.
    """
    value, unit = _split(text)
    if unit not in _SECONDS:
        raise Malformed(f"{text!r} is not a duration", hint=f"use one of {', '.join(_SECONDS)}")
    return _whole(Fraction(value) * _SECONDS[unit], text, "seconds")


def fraction(text: str) -> Decimal:
    """`"5 %"` → Decimal("0.05").

    Raises:
        Malformed: not a percentage, or above 100 %.
    """
    value, unit = _split(text)
    if unit != "%" or value > 100:
        raise Malformed(f"{text!r} is not a share", hint='write a percentage from 0 to 100, as "95 %"')
    return value / 100


def show_flop(value: int) -> str:
    """`10**25` → `"1.00e+25 FLOP"`, for people."""
    return f"{value:.2e} FLOP" if value >= 1000 else f"{value} FLOP"
