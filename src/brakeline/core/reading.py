"""A reading: what one party measured with one gauge, with its bounds. It counts by its lower bound."""

import math
from collections.abc import Iterable, Mapping

from brakeline.core.encoding import Wire
from brakeline.core.errors import Malformed
from brakeline.core.treaty import Treaty, Trigger


class Reading(Wire, frozen=True):
    """Body of a `reading`: value and 95 % bounds in `unit`; `evidence` is the hex SHA-256 of what was measured."""

    gauge: str
    value: float
    lower: float
    upper: float
    unit: str
    evidence: str


def check_reading(reading: Reading, treaty: Treaty) -> Trigger:
    """The treaty's trigger for this reading.

    Raises:
        Malformed: no such gauge in the treaty, another unit, or bounds that do not enclose the value.
    """
    trigger = next((t for t in treaty.triggers if t.gauge == reading.gauge), None)
    if trigger is None:
        raise Malformed(f"the treaty has no gauge {reading.gauge!r}")
    if reading.unit != trigger.unit:
        raise Malformed(f"gauge {reading.gauge} reads in {trigger.unit!r}, not {reading.unit!r}")
    if not all(map(math.isfinite, (reading.lower, reading.value, reading.upper))):
        raise Malformed("a reading must be finite")
    if not reading.lower <= reading.value <= reading.upper:
        raise Malformed(f"bounds [{reading.lower}, {reading.upper}] do not enclose {reading.value}")
    return trigger


def crossed(treaty: Treaty, readings: Mapping[str, Iterable[Reading]]) -> tuple[Trigger, ...]:
    """Triggers reached, by lower bound, in readings of f+1 distinct parties (`readings`: party → its newest ones)."""
    # Treaty 4.2: one party's reading is a claim; f+1 parties include an honest one.
    return tuple(
        t
        for t in treaty.triggers
        if sum(any(r.gauge == t.gauge and r.lower >= t.at_least for r in rs) for rs in readings.values())
        > treaty.faults
    )


def trips(triggers: Iterable[Trigger]) -> bool:
    """Whether these crossed triggers trip the brake: two classes, or the safety class alone."""
    classes = {t.gauge_class for t in triggers}
    # Treaty 4.2: activity gauges lead, but alone they prove nothing. Treaty 4.3: a safety gauge suffices.
    return len(classes) >= 2 or "safety" in classes
