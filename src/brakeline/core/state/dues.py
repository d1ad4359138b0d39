"""What is due, since when, by whom: the clocks of Article 10, as far as the log can tell.

A run that enters a tier is to be notified, a request is to be answered. What is not done in time is a lapse, which
stands against the party; it is no fault of any run, so it bars none.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from brakeline.core.duty import Incident, Notice, Report, Request, check_text
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.state.events import Due, Event, Lapsed, Met, Reported
from brakeline.core.treaty import Treaty

MAX_ASKED: Final = 4  # open requests of one party to another
MAX_LAPSES: Final = 64  # lapses of one party that the state names; further ones are counted in the log
_NEVER: Final = 2**53


class Owed(msgspec.Struct, frozen=True, gc=False):
    """`party` owes `what` because of entry `about`, since `since` and by `by` (POSIX s). `to`: who asked, or ""."""

    party: str
    what: Literal["notice", "report"]
    about: int
    since: int
    by: int
    to: str = ""


class Lapse(msgspec.Struct, frozen=True, gc=False):
    """What a party did not do in time."""

    what: str
    about: int
    by: int


class Dues(msgspec.Struct, frozen=True, gc=False):
    """What is owed, by the entry that it is about; each party's lapses; `until` when the next one lapses."""

    owed: Mapping[int, Owed] = {}
    lapses: Mapping[str, tuple[Lapse, ...]] = {}
    until: int = _NEVER

    @classmethod
    def of(cls, owed: Iterable[Owed], lapses: Mapping[str, tuple[Lapse, ...]]) -> "Dues":
        """From what is written down."""
        return cls(lapses=lapses)._owe({o.about: o for o in owed})

    def _owe(self, owed: Mapping[int, Owed]) -> "Dues":
        return msgspec.structs.replace(self, owed=owed, until=min((o.by for o in owed.values()), default=_NEVER))

    def _lapse(self, party: str, lapse: Lapse) -> "Dues":
        kept = (*self.lapses.get(party, ()), lapse)[-MAX_LAPSES:]
        return msgspec.structs.replace(self, lapses={**self.lapses, party: kept})


def owe_notice(treaty: Treaty, dues: Dues, party: str, entry: int, time: int) -> tuple[Dues, tuple[Event, ...]]:
    """A run of `party` entered a tier at `entry` otherwise than by its own numbers. Treaty 10.2.

    A declaration that names its compute is its own notice. One notice is due at a time, about all such runs.
    """
    if any(o.party == party and o.what == "notice" for o in dues.owed.values()):
        return dues, ()
    by = time + treaty.notification_clock
    owed = Owed(party, "notice", entry, time, by)
    event = Due(entry=entry, party=party, what="notice", about=entry, since=time, by=by)
    return dues._owe({**dues.owed, entry: owed}), (event,)


def request(
    treaty: Treaty, dues: Dues, issuer: str, entry: int, r: Request, time: int
) -> tuple[Dues, tuple[Event, ...]]:
    """Treaty 10.3.

    Raises:
        Malformed: no such party. Refused(ALLOWANCE): too many requests of the one to the other are open; later.
    """
    check_text(r.text)
    if r.party not in treaty.parties or r.party == issuer:
        raise Malformed(f"a report is asked of another party, not of {r.party[:60]!r}")
    asked = sum(o.party == r.party and o.to == issuer for o in dues.owed.values())
    if asked >= MAX_ASKED:
        raise Refused(Reason.ALLOWANCE, f"{asked} requests to {r.party} are open already")
    by = time + treaty.report_clock
    owed = Owed(r.party, "report", entry, time, by, issuer)
    return dues._owe({**dues.owed, entry: owed}), (
        Reported(entry=entry, party=issuer, kind="request", text=r.text),
        Due(entry=entry, party=r.party, what="report", about=entry, since=time, by=by),
    )


def meet(
    dues: Dues, issuer: str, entry: int, body: Notice | Report, time: int
) -> tuple[Dues, tuple[Event, ...]]:
    """A notice or a report. One that answers nothing is put on record.

    Raises:
        Refused(MISSING): nothing of the kind is owed for that entry; it may have lapsed.
    """
    check_text(body.text)
    what = "notice" if isinstance(body, Notice) else "report"
    said = Reported(entry=entry, party=issuer, kind=what, text=body.text)
    if isinstance(body, Notice) and body.about < 0:
        return dues, (said,)
    owed = dues.owed.get(body.about)
    if owed is None or owed.what != what or owed.party != issuer:
        raise Refused(Reason.MISSING, f"{issuer} owes no {what} for entry {body.about}")
    rest = {k: o for k, o in dues.owed.items() if k != body.about}
    return dues._owe(rest), (said, Met(entry=entry, party=issuer, about=body.about))


def incident(
    treaty: Treaty, dues: Dues, issuer: str, entry: int, body: Incident, time: int
) -> tuple[Dues, tuple[Event, ...]]:
    """Treaty 10.1. Reported late is a lapse, by the reporter's own word.

    Raises:
        Malformed: no such class, or known in the future.
    """
    check_text(body.text)
    kind = next((c for c in treaty.incidents if c.name == body.incident), None)
    if kind is None:
        known = ", ".join(c.name for c in treaty.incidents)
        raise Malformed(f"the treaty has no class of incidents {body.incident[:60]!r}; it has {known}")
    if not 0 <= body.known <= time + treaty.skew:
        raise Malformed("an incident is known since a time that has come")
    said = Reported(entry=entry, party=issuer, kind="incident", text=body.text, incident=kind.name)
    by = body.known + kind.within
    if time <= by:
        return dues, (said,)
    late = Lapsed(entry=entry, party=issuer, what="incident", about=entry, by=by)
    return dues._lapse(issuer, Lapse("incident", entry, by)), (said, late)


def pass_time(dues: Dues, entry: int, time: int) -> tuple[Dues, tuple[Event, ...]]:
    """What has lapsed at `time`. Treaty 10.4."""
    if time <= dues.until:
        return dues, ()
    events = []
    for about, o in sorted(dues.owed.items()):
        if time > o.by:
            dues = dues._lapse(o.party, Lapse(o.what, about, o.by))
            events.append(Lapsed(entry=entry, party=o.party, what=o.what, about=about, by=o.by))
    return dues._owe({k: o for k, o in dues.owed.items() if time <= o.by}), tuple(events)
