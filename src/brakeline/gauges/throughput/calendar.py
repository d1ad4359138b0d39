"""Quarters of the calendar, in UTC, and their working days."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from brakeline.core.errors import Misuse
from brakeline.gauges.git.history import midnight

_QUARTER: Final = re.compile(r"(\d{4})Q([1-4])")
_YEARS: Final = re.compile(r"(\d{4})(?:-(\d{4}))?")


@dataclass(frozen=True, order=True)
class Quarter:
    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year}Q{self.number}"

    @property
    def first_day(self) -> date:
        return date(self.year, 3 * self.number - 2, 1)

    @property
    def next(self) -> "Quarter":
        return Quarter(self.year + self.number // 4, self.number % 4 + 1)

    @property
    def start(self) -> int:
        """Unix time of its first second."""
        return midnight(self.first_day)

    @property
    def end(self) -> int:
        """Unix time of the first second after it."""
        return self.next.start

    @property
    def working_days(self) -> int:
        """Mondays to Fridays. Holidays are not taken out: they differ between places, hardly between years."""
        return int(np.busday_count(self.first_day, self.next.first_day))


def quarter_at(when: int) -> Quarter:
    day = datetime.fromtimestamp(when, UTC)
    return Quarter(day.year, (day.month + 2) // 3)


def parse_quarter(text: str) -> Quarter:
    """Raises:
    Misuse: not of the form 2026Q2.
    """
    match = _QUARTER.fullmatch(text)
    if not match or not 1970 <= int(match[1]) < 9999:
        raise Misuse(f"not a quarter: {text!r}", hint="write it as 2026Q2")
    return Quarter(int(match[1]), int(match[2]))


def parse_years(text: str) -> tuple[Quarter, ...]:
    """The quarters of `2024` or of `2021-2025`. Only whole years are a base: a quarter of holidays would flatter now.

    Raises:
        Misuse: anything else.
    """
    match = _YEARS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not 1970 <= first <= last < 9999:
        raise Misuse(f"not a base period: {text!r}", hint="write whole years, as 2024 or 2021-2025")
    return tuple(Quarter(year, n) for year in range(first, last + 1) for n in range(1, 5))


def between(first: Quarter, last: Quarter) -> tuple[Quarter, ...]:
    """All quarters from the first to the last, both included."""
    found = []
    while first <= last:
        found.append(first)
        first = first.next
    return tuple(found)
