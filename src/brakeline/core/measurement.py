"""A measurement: what a gauge found, with all that another party needs to find it again. A reading is logged of it."""

import math
from typing import Any, Literal

from brakeline.core.encoding import Wire, canonical, parse, sha256
from brakeline.core.errors import Malformed


class Measurement(Wire, frozen=True):
    """What one gauge found. Its canonical bytes are the evidence that a reading names.

    `version` counts the definitions of the gauge: it grows when the same inputs may give another value. `subject` is
    the printable name of what was measured. `inputs` is all that determines the result (digests, parameters, seeds,
    windows), and nothing that the result determines; who has the same inputs must find a value that agrees. `value`
    and the 95 % bounds are in `unit`; `threshold` is the published reference, not the treaty's. `complete` says whether
    all evidence that the gauge asks for was there: what is incomplete may alarm, and never reassures. `alarms` are
    codes of what counts whatever the value is (only a safety gauge has any). `details` explain, and `logs` are the hex
    SHA-256 of the Inspect logs it rests on.
    """

    gauge: str
    version: int
    subject: str
    inputs: dict[str, Any]
    unit: str
    value: float
    lower: float
    upper: float
    threshold: float
    complete: bool
    alarms: tuple[str, ...]
    details: dict[str, Any]
    logs: tuple[str, ...]

    @property
    def inputs_digest(self) -> str:
        """Hex SHA-256: equal for two parties that measured the same thing in the same way."""
        return sha256(canonical([self.gauge, self.version, self.inputs])).hex()

    @property
    def verdict(self) -> Literal["reached", "below", "inconclusive"]:
        """Against the reference threshold. Only `reached` counts for a brake; a wide interval is never a pass."""
        if self.alarms or self.lower >= self.threshold:
            return "reached"
        return "below" if self.complete and self.upper < self.threshold else "inconclusive"


def read_measurement(data: bytes) -> Measurement:
    """Read a measurement's file.

    Raises:
        Malformed: not canonical, or bounds that do not enclose the value.
    """
    m = parse(data, Measurement)
    check_bounds(m.lower, m.value, m.upper)
    return m


def check_bounds(lower: float, value: float, upper: float) -> None:
    """Raises:
    Malformed: not finite, or the bounds do not enclose the value.
    """
    if not all(map(math.isfinite, (lower, value, upper))):
        raise Malformed("value and bounds must be finite")
    if not lower <= value <= upper:
        raise Malformed(f"bounds [{lower}, {upper}] do not enclose {value}")
