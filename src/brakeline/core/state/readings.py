"""Readings that are in force, what several parties found, and which triggers of the treaty that reaches.

What enough parties agree on is worked out for a subject when a reading of it comes, goes or expires, and kept: asking
which triggers are reached costs the number of gauges that are, whatever the log holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec
from rpds import HashTrieMap

from brakeline.core.errors import Reason, Refused
from brakeline.core.reading import Reproduced, Standing, agreed, meet
from brakeline.core.treaty import Treaty, Trigger

MAX_SUBJECTS: Final = 64  # readings of one gauge that one party may have in force, so that nobody slows every fold down
_NEVER: Final = 2**53

Subject = tuple[str, str]  # gauge and subject
Part = tuple[Subject, Mapping[str, Standing], Mapping[int, float]]  # what is written down of a subject
Counts: TypeAlias = "HashTrieMap[tuple[str, str], int]"  # party and gauge → subjects


class Shown(msgspec.Struct, frozen=True, gc=False):
    """All about one subject: each party's newest reading, and when it was reproduced → the least upper bound then.

    `found` is what parties in force agree on, once for each set of inputs.
    """

    by: Mapping[str, Standing] = {}
    past: Mapping[int, float] = {}
    found: tuple[Reproduced, ...] = ()


class Readings(msgspec.Struct, frozen=True, gc=False):
    """`until` is when the next reading expires; `counts` are subjects by party and gauge."""

    shown: HashTrieMap[Subject, Shown] = HashTrieMap()
    counts: Counts = HashTrieMap()
    high: HashTrieMap[Subject, int] = HashTrieMap()  # subjects that reach, and the newest entry that makes them
    until: int = _NEVER


def quorum(treaty: Treaty) -> int:
    """Parties that must find the same: f+1, so that one is honest, and never fewer than two. Treaty 4.8."""
    return max(2, treaty.faults + 1)


def add(
    treaty: Treaty, readings: Readings, party: str, s: Standing, *, active: Collection[str]
) -> tuple[Readings, tuple[tuple[str, int], ...]]:
    """Take a checked reading, at its own time; also the parties and entries that it contradicts.

    Raises:
        Refused(ALLOWANCE): the party has too many readings of this gauge in force.
    """
    key = (s.reading.gauge, s.reading.subject)
    shown = readings.shown.get(key, Shown())
    counted = (party, s.reading.gauge)
    count = readings.counts.get(counted, 0)
    counts = readings.counts
    if party not in shown.by:
        if count >= MAX_SUBJECTS:
            raise Refused(Reason.ALLOWANCE, f"{party} has {count} readings of {s.reading.gauge} in force")
        counts = counts.insert(counted, count + 1)
    against = tuple(
        (other, theirs.index)
        for other, theirs in sorted(shown.by.items())
        if other != party and theirs.reading.inputs == s.reading.inputs and not meet(theirs.reading, s.reading)
    )
    shown = msgspec.structs.replace(shown, by={**shown.by, party: s})
    found = _found(treaty, shown, active)
    past = dict(shown.past)
    for r in found:
        past[r.time] = min(r.upper, past.get(r.time, r.upper))
    past = _recent(treaty, key[0], shown.by, past, s.time)
    gone = readings.shown.get(key, Shown()).by.get(party)
    shown = msgspec.structs.replace(shown, past=past, found=found)
    after = _put(treaty, readings, key, shown, counts, min(readings.until, s.expires))
    if gone is not None and gone.expires == readings.until:  # the one replaced is no longer the next to expire
        after = msgspec.structs.replace(after, until=_until(after))
    return after, against


def _until(readings: Readings) -> int:
    return min((s.expires for _, shown in readings.shown.items() for s in shown.by.values()), default=_NEVER)


def _put(
    treaty: Treaty, readings: Readings, key: Subject, shown: Shown, counts: Counts, until: int
) -> Readings:
    reaches = [r for r in shown.found if _reaches(treaty, shown, r)]
    high = readings.high.discard(key)
    if reaches:
        high = high.insert(key, max(shown.by[p].index for r in reaches for p in r.parties))
    return Readings(readings.shown.insert(key, shown), counts, high, until)


def _recent(
    treaty: Treaty, gauge: str, by: Mapping[str, Standing], past: Mapping[int, float], now: int
) -> dict[int, float]:
    """Without what is too old to be the start of a growth of a reading in force, however old that reading is."""
    oldest = min((s.time for s in by.values()), default=now)
    window = next((t.growth.doubles_within for t in treaty.triggers if t.gauge == gauge and t.growth), 0)
    return {then: upper for then, upper in past.items() if then >= oldest - window}


def refresh(treaty: Treaty, readings: Readings, *, now: int, active: Collection[str], gone: str = "") -> Readings:
    """Without what has expired at `now`, without all that `gone` read, and with what `active` parties agree on.

    Called when a reading expires, when the parties in force change, and when one loses its word.
    """
    parts = []
    for key, shown in readings.shown.items():
        by = {p: s for p, s in shown.by.items() if now < s.expires and p != gone}
        past = _recent(treaty, key[0], by, shown.past, now)
        if by or past:
            parts.append((key, by, past))
    return rebuild(treaty, parts, active)


def without(treaty: Treaty, readings: Readings, party: str, since: int, *, active: Collection[str]) -> Readings:
    """Without what the party read from the entry `since` on. Treaty 12.2."""
    parts = []
    for key, shown in readings.shown.items():
        by = {p: s for p, s in shown.by.items() if p != party or s.index < since}
        if by or shown.past:
            parts.append((key, by, shown.past))
    return rebuild(treaty, parts, active)


def succeed(treaty: Treaty, readings: Readings, *, active: Collection[str]) -> Readings:
    """Under the next text, `treaty`: of the gauges that it has, by its thresholds. Treaty 11.4."""
    gauges = {t.gauge for t in treaty.triggers}
    parts = ((key, shown.by, shown.past) for key, shown in readings.shown.items() if key[0] in gauges)
    return rebuild(treaty, parts, active)


def rebuild(treaty: Treaty, parts: Iterable[Part], active: Collection[str]) -> Readings:
    """The readings from what is written down of them."""
    kept, until = Readings(), _NEVER
    for key, by, past in parts:
        shown = Shown(by, past)
        shown = msgspec.structs.replace(shown, found=_found(treaty, shown, active))
        counts = kept.counts
        for p in by:
            counts = counts.insert((p, key[0]), counts.get((p, key[0]), 0) + 1)
        until = min([until, *(s.expires for s in by.values())])
        kept = _put(treaty, kept, key, shown, counts, until)
    return kept


def _found(
    treaty: Treaty, shown: Shown, active: Collection[str], *, after: int = -1, calm: bool = False
) -> tuple[Reproduced, ...]:
    need = quorum(treaty)
    if len(shown.by) < need:
        return ()
    groups: dict[str, list[tuple[str, Standing]]] = {}
    for party, s in sorted(shown.by.items()):  # in an order that a state read back has, too
        if party in active and s.index > after and (not calm or _is_calm(treaty, shown, s)):
            groups.setdefault(s.reading.inputs, []).append((party, s))
    found = (agreed(group, need) for _, group in sorted(groups.items()))
    return tuple(r for r in found if r)


def _is_calm(treaty: Treaty, shown: Shown, s: Standing) -> bool:
    r = s.reading
    return r.complete and not r.alarms and not _high(treaty, shown, r.gauge, r.lower, s.time)


def reached(treaty: Treaty, readings: Readings, *, active: Collection[str], after: int = -1) -> tuple[Trigger, ...]:
    """Triggers that reproduced readings reach. Treaty 4.2, 4.3, 4.9.

    Only readings logged after the entry `after` are asked.
    """
    gauges: set[str] = set()
    for key, newest in readings.high.items():
        if newest > after and key[0] not in gauges:
            shown = readings.shown[key]
            if any(_reaches(treaty, shown, r) for r in _found(treaty, shown, active, after=after)):
                gauges.add(key[0])
    return tuple(t for t in treaty.triggers if t.gauge in gauges)


def reaches(treaty: Treaty, readings: Readings, r: Reproduced) -> bool:
    """Whether it counts for the brake: by its lower bound, by an alarm, or by its growth."""
    return _reaches(treaty, readings.shown[(r.gauge, r.subject)], r)


def _reaches(treaty: Treaty, shown: Shown, r: Reproduced) -> bool:
    return bool(r.alarms) or _high(treaty, shown, r.gauge, r.lower, r.time)


def _high(treaty: Treaty, shown: Shown, gauge: str, lower: float, time: int) -> bool:
    trigger = next(t for t in treaty.triggers if t.gauge == gauge)
    growth = trigger.growth
    if lower >= trigger.at_least:
        return True
    # Treaty 4.9: by bounds at both ends, and by a whole doubling, so that noise in a short time is no growth.
    if growth is None or lower < growth.floor:
        return False
    earliest = time - growth.doubles_within
    return any(lower >= 2 * upper for then, upper in shown.past.items() if earliest <= then < time)


def passes(treaty: Treaty, readings: Readings, subject: str, *, active: Collection[str]) -> bool:
    """Whether of every safety gauge of the treaty a quorum's readings of `subject` agree, none of which objects.

    Treaty 5.8. A reading objects that is incomplete, alarms or is high: beside a liar's wide bounds, too, which meet
    everything. A lineage too young for its growth to be known passes: it has shown no fault yet.
    """
    gauges = [t.gauge for t in treaty.triggers if t.gauge_class == "safety"]
    return bool(gauges) and all(_calm(treaty, readings, (g, subject), active) for g in gauges)


def _calm(treaty: Treaty, readings: Readings, key: Subject, active: Collection[str]) -> bool:
    shown = readings.shown.get(key)
    if shown is None or key in readings.high:
        return False
    return bool(_found(treaty, shown, active, calm=True))


def current(readings: Readings) -> Iterator[Reproduced]:
    """All that is reproduced now, by gauge and subject."""
    for _, shown in sorted(readings.shown.items()):
        yield from shown.found


def of_subject(readings: Readings, gauge: str, subject: str) -> tuple[Reproduced, ...]:
    """What is reproduced now of one subject, once for each set of inputs."""
    return readings.shown.get((gauge, subject), Shown()).found


def disagreements(readings: Readings) -> Iterable[tuple[Subject, tuple[str, int], tuple[str, int]]]:
    """Pairs of readings in force that cannot both be right: subject, and party and entry of each."""
    for key, shown in sorted(readings.shown.items()):
        by = sorted(shown.by.items())
        for i, (a, mine) in enumerate(by):
            for b, theirs in by[i + 1 :]:
                if mine.reading.inputs == theirs.reading.inputs and not meet(mine.reading, theirs.reading):
                    yield key, (a, mine.index), (b, theirs.index)
