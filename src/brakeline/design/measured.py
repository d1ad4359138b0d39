"""What was measured on Brakeline itself, with bounds, so that a treaty's parameters follow from what audits can do."""

import tomllib
from datetime import date
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from scipy.stats import beta

from brakeline.core.errors import Malformed

CONFIDENCE: Final = 0.95


class _Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    found: int
    of: int
    source: str
    date: date


class _Time(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    seconds: float
    worst: float
    source: str
    date: date


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    detection: _Rate
    false_alarm: _Rate
    stop_time: _Time


class Measured(NamedTuple):
    """One measured parameter: the best estimate, the bound on the side that hurts, and where it comes from."""

    estimate: float
    bound: float
    source: str


def clopper_pearson(found: int, of: int) -> tuple[float, float]:
    """The exact lower and the upper bound of a rate, each one-sided at 95 %: of 0 in n the upper is 1 - .05^(1/n)."""
    lower = float(beta.ppf(1 - CONFIDENCE, found, of - found + 1)) if found else 0.0
    upper = float(beta.ppf(CONFIDENCE, found + 1, of - found)) if found < of else 1.0
    return lower, upper


def clean_audits(alpha: float) -> int:
    """How many audits of honest runs without a false finding it takes to show a rate below `alpha` at 95 %."""
    n = 1
    while clopper_pearson(0, n)[1] > alpha:
        n *= 2
    low, high = n // 2, n
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if clopper_pearson(0, middle)[1] > alpha else (low, middle)
    return high


def shipped() -> bytes:
    """The file that comes with this version."""
    return (files("brakeline.design") / "measured.toml").read_bytes()


def read_measured(data: bytes) -> dict[str, Measured]:
    """Parameters by name. Detection is bounded from below, false alarms and the time to stop from above.

    Raises:
        Malformed: not such a file, or more found than looked at.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(data.decode())
        m = msgspec.convert(raw, _File, strict=True)
    except (ValueError, RecursionError) as e:
        raise Malformed(f"measured inputs: {e}", hint="start from the file that comes with brakeline") from e
    for name, rate in (("detection", m.detection), ("false_alarm", m.false_alarm)):
        if not 0 <= rate.found <= rate.of < 2**53 or rate.of < 1:
            raise Malformed(f"measured inputs: {name}: found {rate.found} of {rate.of}")
    if not 0 <= m.stop_time.seconds <= m.stop_time.worst < 86_400:
        raise Malformed("measured inputs: stop_time: needs 0 <= seconds <= worst < 86400")
    d, f, s = m.detection, m.false_alarm, m.stop_time
    return {
        "detection": Measured(d.found / d.of, clopper_pearson(d.found, d.of)[0], _say(d)),
        "false_alarm": Measured(f.found / f.of, clopper_pearson(f.found, f.of)[1], _say(f)),
        "stop_time": Measured(s.seconds, s.worst, f"{s.source}, {s.date}"),
    }


def _say(rate: _Rate) -> str:
    return f"{rate.found} of {rate.of}; {rate.source}, {rate.date}"
