"""The measurement: the typical engineer's surviving merged code lines per working day, against a base period.

    median over engineers, in quarter q   ÷   the same, over the base period

Beside it stand the other figures that the published claim could mean, since it names three bases and two averages.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from brakeline.core.errors import Misuse, Refused
from brakeline.core.measurement import Measurement
from brakeline.gauges.authorship.agents import AGENTS_VERSION
from brakeline.gauges.git.blame import RULE, Cache, Progress
from brakeline.gauges.git.files import FILTER_VERSION
from brakeline.gauges.git.repository import Repository
from brakeline.gauges.throughput.calendar import Quarter, between, parse_quarter, parse_years, quarter_at
from brakeline.gauges.throughput.people import PEOPLE_VERSION, Identity, People, join
from brakeline.gauges.throughput.quarters import CAP, Quarterly, Source, collect, newest
from brakeline.gauges.throughput.ratio import DRAWS, SEED, Ratio, Statistic, ratio

VERSION: Final = 1
THRESHOLD: Final = 8.0  # Favaro & Clark, "When AI builds itself", 2026: "merging 8x as much code per day"
OTHER_BASE: Final = "2021-2025"  # the same text's introduction
MIN_DAYS: Final = 5  # days with a commit that make somebody an engineer of the quarter
CAVEAT: Final = (
    "Lines of code overstate productivity: the source of the 8x calls it almost certainly an overstatement of the true "
    "gain, and asked people estimated about half of it."
)


def measure(
    repos: Sequence[Repository],
    *,
    base: str = "2024",
    quarter: str | None = None,
    cache: Cache | None = None,
    progress: Progress = lambda done, total: None,
) -> Measurement:
    """Measure all repositories together, as the work of one organisation.

    `base` are whole years, `quarter` defaults to the last one that is over at the newest commit.

    Raises:
        Refused: a history is not whole, or a period has fewer than five engineers.
        Misuse: a period that is malformed, or a base that does not end before the quarter.
    """
    sources = [Source.open(repo) for repo in repos]
    if not sources:
        raise Misuse("no repository to measure")
    current = quarter_at(int(newest(sources).timestamp()))
    now = parse_quarter(quarter) if quarter else _previous(current)
    base_quarters, other_quarters = parse_years(base), parse_years(OTHER_BASE)
    if base_quarters[-1] >= now:
        raise Misuse(f"the base period {base} does not end before {now}", hint="choose earlier years with --base")
    if now >= current:
        raise Misuse(f"{now} is not over at the newest commit")
    sources.sort(key=lambda source: source.line.before(now.end) or "")
    quarters = between(min(base_quarters[0], other_quarters[0]), now)
    found = collect(sources, quarters, cache, progress)
    ends = {source: source.line.before(now.end) for source in sources}
    identities = _identities(found.values())
    people = join(identities, [s.mailmap(end) for s, end in ends.items() if end])
    rates = {q: _Rates(found[q], q, people) for q in quarters}
    unmapped = {q: _Rates(found[q], q, join(identities, [])) for q in quarters}
    main = ratio(pooled(rates, base_quarters), pooled(rates, (now,)))
    return Measurement(
        gauge="throughput",
        version=VERSION,
        subject=f"{len(sources)} {'repository' if len(sources) == 1 else 'repositories'}",
        inputs={
            "repositories": sorted([end or "", s.after(now) or "", s.notes] for s, end in ends.items()),
            "quarter": str(now),
            "base": base,
            "filter": FILTER_VERSION,
            "agents": AGENTS_VERSION,
            "people": PEOPLE_VERSION,
            "blame": list(RULE.flags),
            "cap": CAP,
            "min_days": MIN_DAYS,
            "bootstrap": {"draws": DRAWS, "seed": SEED},
        },
        unit="ratio",
        value=main.value,
        lower=main.lower,
        upper=main.upper,
        threshold=THRESHOLD,
        complete=True,
        alarms=(),
        details={
            "caveat": CAVEAT,
            "engineers": {"base": main.engineers[0], "now": main.engineers[1]},
            "lines_per_day": {"base": _median(rates, base_quarters), "now": _median(rates, (now,))},
            "also": _also(rates, base_quarters, other_quarters, now)
            | {"median_without_mailmap": _reading(unmapped, base_quarters, now)},
            "quarters": {str(q): _summary(rates, q) for q in quarters if pooled(rates, (q,))},
            "uncredited_lines": sum(q.uncredited for q in found.values()),
            "bot_lines": sum(q.bots for q in found.values()),
            "capped_lines": sum(q.capped for q in found.values()),
            "restored_lines": sum(q.restored for q in found.values()),
        },
        logs=(),
    )


class _Rates:
    """One quarter's lines by person, of those who are its engineers. `days` are their days with a commit."""

    def __init__(self, found: Quarterly, quarter: Quarter, people: People) -> None:
        days: defaultdict[str, set[int]] = defaultdict(set)
        for identity, on in found.days.items():
            days[people.person(identity)] |= on
        self.days = {person: len(on) for person, on in days.items() if len(on) >= MIN_DAYS}
        self.working_days = quarter.working_days
        self.lines = self._of(found.lines, people)
        self.without_ai = self._of(found.without_ai, people)
        self.lasting = None if found.lasting is None else self._of(found.lasting, people)

    def _of(self, lines: Mapping[Identity, int], people: People) -> dict[str, int]:
        totals: Counter[str] = Counter()
        for identity, n in lines.items():
            totals[people.person(identity)] += n
        return {person: totals[person] for person in self.days}


def pooled(
    rates: Mapping[Quarter, _Rates], quarters: Iterable[Quarter], kind: str = "lines", *, per: str = "working_days"
) -> dict[str, float]:
    """Lines a day by person over several quarters. A person's days are those of the quarters he was an engineer in."""
    lines: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for quarter in quarters:
        here = rates[quarter]
        for person, n in (getattr(here, kind) or {}).items():
            lines[person] += n
            days[person] += here.working_days if per == "working_days" else here.days[person]
    return {person: lines[person] / days[person] for person in days}


def _also(
    rates: Mapping[Quarter, _Rates], base: Sequence[Quarter], other: Sequence[Quarter], now: Quarter
) -> dict[str, Any]:
    """The other readings of the published claim."""
    other = [q for q in other if q < now]
    return {
        "mean": _reading(rates, base, now, np.nanmean),
        f"median_base_{OTHER_BASE}": _reading(rates, other, now),
        f"mean_base_{OTHER_BASE}": _reading(rates, other, now, np.nanmean),
        "median_after_30_days": _reading(rates, base, now, kind="lasting"),
        "median_without_ai": _reading(rates, base, now, kind="without_ai"),
        "median_per_active_day": _reading(rates, base, now, per="days"),
    }


def _reading(
    rates: Mapping[Quarter, _Rates],
    base: Sequence[Quarter],
    now: Quarter,
    statistic: Statistic = np.nanmedian,
    kind: str = "lines",
    per: str = "working_days",
) -> dict[str, float] | None:
    """Ratio and bounds; None where the data do not reach (or would refuse)."""
    if any(getattr(rates[q], kind) is None for q in (*base, now)):
        return None
    try:
        return _bounds(ratio(pooled(rates, base, kind, per=per), pooled(rates, (now,), kind, per=per), statistic))
    except Refused:
        return None


def _bounds(r: Ratio) -> dict[str, float]:
    return {"value": r.value, "lower": r.lower, "upper": r.upper}


def _median(rates: Mapping[Quarter, _Rates], quarters: Iterable[Quarter]) -> float:
    return float(np.median(list(pooled(rates, quarters).values())))


def _summary(rates: Mapping[Quarter, _Rates], quarter: Quarter) -> dict[str, float]:
    each = list(pooled(rates, (quarter,)).values())
    return {"engineers": len(each), "median": float(np.median(each)), "mean": float(np.mean(each))}


def _identities(found: Collection[Quarterly]) -> Collection[Identity]:
    return {identity for quarter in found for identity in (*quarter.lines, *quarter.days)}


def _previous(quarter: Quarter) -> Quarter:
    return Quarter(quarter.year - (quarter.number == 1), (quarter.number + 2) % 4 + 1)
