"""Readings: what parties measured, when several found the same, and which triggers of the treaty that reaches.

A reading is a claim. It counts when enough parties measured the same inputs and their bounds meet (Treaty 4.8): then
one of them is honest, and a second party found the value again. Whoever disagrees confirms nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from brakeline.core.encoding import Wire, canonical, sha256, unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.measurement import Measurement, check_bounds
from brakeline.core.treaty import Treaty, Trigger

MAX_SUBJECTS: Final = 64  # readings of one gauge that one party may have in force, so that nobody slows every fold down


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
    if not 0 < len(reading.subject) <= 200 or not reading.subject.isprintable():
        raise Malformed("a reading's subject is a printable name of at most 200 characters")
    unhex32(reading.inputs)
    unhex32(reading.evidence)
    if list(reading.alarms) != sorted(set(reading.alarms)) or not all(a.isprintable() and a for a in reading.alarms):
        raise Malformed("alarms must be printable, sorted and distinct")
    if reading.alarms and trigger.gauge_class != "safety":
        raise Malformed(f"{reading.gauge} is no safety gauge: it has no alarms (Treaty 4.3)")
    return trigger


@dataclass(frozen=True, slots=True)
class Standing:
    """A reading in the log: entry `index`, logged at `time`, in force until `expires` (POSIX s)."""

    index: int
    time: int
    expires: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class Reproduced:
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


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two parties measured the same inputs, and one of the two is wrong: party and entry of each."""

    gauge: str
    subject: str
    first: tuple[str, int]
    second: tuple[str, int]


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


@dataclass
class Readings:
    """All readings of a log.

    `standing`: (gauge, subject) → party → its newest reading. `past`: (gauge, subject) → when it was reproduced → the
    least upper bound found then.
    """

    treaty: Treaty
    standing: dict[tuple[str, str], dict[str, Standing]] = field(default_factory=dict)
    past: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    _clock: int = -1

    @property
    def quorum(self) -> int:
        """Parties that must find the same: f+1, so that one is honest, and never fewer than two. Treaty 4.8."""
        return max(2, self.treaty.faults + 1)

    def add(self, party: str, s: Standing, *, active: Collection[str]) -> None:
        """Take a checked reading, at its own time.

        Raises:
            Refused(ALLOWANCE): the party has too many readings of this gauge in force.
        """
        key = (s.reading.gauge, s.reading.subject)
        self.forget(s.time)
        others = [k for k, by in self.standing.items() if k[0] == key[0] and party in by]
        if key not in others and len(others) >= MAX_SUBJECTS:
            raise Refused(Reason.ALLOWANCE, f"{party} has {len(others)} readings of {key[0]} in force")
        mine = self.standing.setdefault(key, {})
        for other, theirs in sorted(mine.items()):
            same = theirs.reading.inputs == s.reading.inputs
            if other != party and same and not meet(theirs.reading, s.reading):
                self.disagreements.append(Disagreement(*key, (other, theirs.index), (party, s.index)))
        mine[party] = s
        past = self.past.setdefault(key, {})
        for r in self.reproduced(*key, now=s.time, active=active):
            past[r.time] = min(r.upper, past.get(r.time, r.upper))

    def forget(self, now: int) -> None:
        """Drop what has expired at `now`, and what is too old to be the start of a growth.

        Else every fold would go through all that anybody ever read, at every entry.
        """
        if now == self._clock:
            return
        self._clock = now
        for by in self.standing.values():
            for party in [p for p, s in by.items() if s.expires <= now]:
                del by[party]
        self.standing = {key: by for key, by in self.standing.items() if by}
        window = {t.gauge: t.growth.doubles_within for t in self.treaty.triggers if t.growth}
        for key, past in list(self.past.items()):
            # The growth of a reading in force is told from before it, however old that is.
            oldest = min((s.time for s in self.standing.get(key, {}).values()), default=now)
            kept = {then: upper for then, upper in past.items() if then >= oldest - window.get(key[0], 0)}
            if kept:
                self.past[key] = kept
            else:
                del self.past[key]

    def drop(self, party: str) -> None:
        """Void all that the party read."""
        for by in self.standing.values():
            by.pop(party, None)

    def reproduced(
        self, gauge: str, subject: str, *, now: int, active: Collection[str], after: int = -1
    ) -> tuple[Reproduced, ...]:
        """What parties in force agree on at `now` about a subject, once for each set of inputs.

        Only readings logged after the entry `after` are asked.
        """
        by = self.standing.get((gauge, subject), {})
        if len(by) < self.quorum:  # asked at every entry of the log
            return ()
        return self._agreed((p, s) for p, s in by.items() if p in active and now < s.expires and s.index > after)

    def _agreed(self, readings: Iterable[tuple[str, Standing]]) -> tuple[Reproduced, ...]:
        groups: dict[str, list[tuple[str, Standing]]] = defaultdict(list)
        for party, s in readings:
            groups[s.reading.inputs].append((party, s))
        found = (agreed(group, self.quorum) for _, group in sorted(groups.items()))
        return tuple(r for r in found if r)

    def reached(self, *, now: int, active: Collection[str], after: int = -1) -> tuple[Trigger, ...]:
        """Triggers that reproduced readings reach. Treaty 4.2, 4.3, 4.9."""
        found: set[str] = set()
        for gauge, subject in self.standing:
            for r in self.reproduced(gauge, subject, now=now, active=active, after=after):
                if self.reaches(r):
                    found.add(gauge)
        return tuple(t for t in self.treaty.triggers if t.gauge in found)

    def reaches(self, r: Reproduced) -> bool:
        """Whether it counts for the brake: by its lower bound, by an alarm, or by its growth."""
        return bool(r.alarms) or self._high(r.gauge, r.subject, r.lower, r.time)

    def _high(self, gauge: str, subject: str, lower: float, time: int) -> bool:
        trigger = next(t for t in self.treaty.triggers if t.gauge == gauge)
        growth = trigger.growth
        if lower >= trigger.at_least:
            return True
        # Treaty 4.9: by bounds at both ends, and by a whole doubling, so that noise in a short time is no growth.
        if growth is None or lower < growth.floor:
            return False
        earliest = time - growth.doubles_within
        past = self.past.get((gauge, subject), {})
        return any(lower >= 2 * upper for then, upper in past.items() if earliest <= then < time)

    def passes(self, subject: str, *, now: int, active: Collection[str]) -> bool:
        """Whether of every safety gauge of the treaty a quorum's readings of `subject` agree, none of which objects.

        Treaty 5.8. A reading objects that is incomplete, alarms or is high: beside a liar's wide bounds, too, which
        meet everything. A lineage too young for its growth to be known passes: it has shown no fault yet.
        """
        gauges = [t.gauge for t in self.treaty.triggers if t.gauge_class == "safety"]
        return bool(gauges) and all(self._calm(g, subject, now=now, active=active) for g in gauges)

    def _calm(self, gauge: str, subject: str, *, now: int, active: Collection[str]) -> bool:
        if any(self.reaches(r) for r in self.reproduced(gauge, subject, now=now, active=active)):
            return False
        return bool(
            self._agreed(
                (party, s)
                for party, s in self.standing.get((gauge, subject), {}).items()
                if party in active and now < s.expires and s.reading.complete and not s.reading.alarms
                if not self._high(gauge, subject, s.reading.lower, s.time)
            )
        )

    def current(self, *, now: int, active: Collection[str]) -> Iterator[Reproduced]:
        """All that is reproduced now, by gauge and subject."""
        for gauge, subject in sorted(self.standing):
            yield from self.reproduced(gauge, subject, now=now, active=active)


def trips(triggers: Iterable[Trigger]) -> bool:
    """Whether these triggers trip the brake: two classes, or the safety class alone."""
    classes = {t.gauge_class for t in triggers}
    # Treaty 4.2: activity gauges lead, but alone they prove nothing. Treaty 4.3: a safety gauge suffices.
    return len(classes) >= 2 or "safety" in classes
