"""Readings: what parties measured, when several found the same, and which triggers of the treaty that reaches.

A reading is a claim. It counts when enough parties measured the same inputs and their bounds meet (Treaty 4.8): then
one of them is honest, and a second party found the value again. Whoever disagrees confirms nothing.
"""

from collections.abc import Collection, Iterable

import msgspec

from brakeline.core.encoding import Wire, canonical, is_text, sha256, unhex32
from brakeline.core.errors import Malformed
from brakeline.core.measurement import Measurement, check_bounds
from brakeline.core.treaty import Treaty, Trigger


class Reading(Wire, frozen=True):
    """Body of a `reading`: the part of a measurement on which the brake acts.

    `value` and the 95 % bounds are in `unit`; `complete` as in the measurement. `inputs` is the hex SHA-256 of all that
    determines the result, `evidence` that of the whole measurement. `alarms`, sorted, reach the trigger of a safety
    gauge whatever the value.
    """

    gauge: str
    subject: str
    inputs: str
    value: float
    lower: float
    upper: float
    unit: str
    complete: bool
    alarms: tuple[str, ...]
    evidence: str


def reading_of(m: Measurement) -> Reading:
    """What a party logs of its measurement."""
    return Reading(
        gauge=m.gauge,
        subject=m.subject,
        inputs=m.inputs_digest,
        value=m.value,
        lower=m.lower,
        upper=m.upper,
        unit=m.unit,
        complete=m.complete,
        alarms=tuple(sorted(m.alarms)),
        evidence=sha256(canonical(m)).hex(),
    )


def check_reading(reading: Reading, treaty: Treaty) -> Trigger:
    """The treaty's trigger for this reading.

    Raises:
        Malformed: no such gauge in the treaty, another unit, bounds that do not enclose the value, a subject that
            cannot be printed, alarms of a gauge that has none, or a digest that is none.
    """
    trigger = next((t for t in treaty.triggers if t.gauge == reading.gauge), None)
    if trigger is None:
        raise Malformed(f"the treaty has no gauge {reading.gauge[:60]!r}")
    if reading.unit != trigger.unit:
        raise Malformed(f"gauge {reading.gauge} reads in {trigger.unit!r}, not {reading.unit[:60]!r}")
    check_bounds(reading.lower, reading.value, reading.upper)
    if not 0 < len(reading.subject) <= 200 or not is_text(reading.subject):
        raise Malformed("a reading's subject is a printable name of at most 200 characters")
    unhex32(reading.inputs)
    unhex32(reading.evidence)
    if list(reading.alarms) != sorted(set(reading.alarms)) or not all(a and is_text(a) for a in reading.alarms):
        raise Malformed("alarms must be printable, sorted and distinct")
    if reading.alarms and trigger.gauge_class != "safety":
        raise Malformed(f"{reading.gauge} is no safety gauge: it has no alarms (Treaty 4.3)")
    return trigger


class Standing(msgspec.Struct, frozen=True):
    """A reading in the log: entry `index`, logged at `time`, in force until `expires` (POSIX s)."""

    index: int
    time: int
    expires: int
    reading: Reading


class Reproduced(msgspec.Struct, frozen=True):
    """What enough parties found of one subject.

    A quorum of `parties` reads `lower` or more, and a quorum `upper` or less; a quorum read it at `time` or later.
    """

    gauge: str
    subject: str
    time: int
    lower: float
    upper: float
    complete: bool
    alarms: tuple[str, ...]
    parties: tuple[str, ...]


def meet(a: Reading, b: Reading) -> bool:
    """Whether two readings of the same inputs can both be right."""
    return a.lower <= b.upper and b.lower <= a.upper and (a.complete, a.alarms) == (b.complete, b.alarms)


def agreed(readings: Collection[tuple[str, Standing]], quorum: int) -> Reproduced | None:
    """What at least `quorum` of these readings of the same inputs support, or None.

    Of all sets of readings with a value in common, the one whose `quorum` largest lower bounds reach highest: a
    dishonest reading beside an honest quorum can neither hide it nor raise it alone.
    """
    best: Reproduced | None = None
    for _, at in readings:
        point, said = at.reading.lower, (at.reading.complete, at.reading.alarms)
        members = [
            (p, s)
            for p, s in readings
            if s.reading.lower <= point <= s.reading.upper and (s.reading.complete, s.reading.alarms) == said
        ]
        if len(members) < quorum:
            continue
        lower = sorted((s.reading.lower for _, s in members), reverse=True)[quorum - 1]
        upper = sorted(s.reading.upper for _, s in members)[quorum - 1]
        if best is None or (said[1], lower) > (best.alarms, best.lower):
            # By a quorum, as the bounds: who logs a reading again makes an old one of another party no newer.
            time = sorted((s.time for _, s in members), reverse=True)[quorum - 1]
            parties = tuple(sorted(p for p, _ in members))
            best = Reproduced(at.reading.gauge, at.reading.subject, time, lower, upper, *said, parties)
    return best


def trips(triggers: Iterable[Trigger]) -> bool:
    """Whether these triggers trip the brake: two classes, or the safety class alone."""
    classes = {t.gauge_class for t in triggers}
    # Treaty 4.2: activity gauges lead, but alone they prove nothing. Treaty 4.3: a safety gauge suffices.
    return len(classes) >= 2 or "safety" in classes
