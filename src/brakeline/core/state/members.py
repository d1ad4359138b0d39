"""The parties as the log knows them: what they signed, what they may still say today, and who is bound.

Numbers run per party and lane and only rise, so that one number a lane is all that the state must remember: whoever
holds back a statement and logs a later one has dropped it, and the party signs it anew. Two different statements of one
number are void as evidence for anything but themselves (Treaty 2.4).
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from brakeline.core.errors import Reason, Refused
from brakeline.core.pledge import Activation, Pledge, activate
from brakeline.core.state.clock import SECONDS_A_DAY
from brakeline.core.statement import Statement
from brakeline.core.treaty import Lane, Treaty

DAYS_BACK: Final = 7  # how far behind the log's time a statement may be dated. Treaty 6.5
_NEVER: Final = 2**53
_YEAR_9999: Final = 253_370_764_800  # POSIX s; no calendar shows more
LANES: Final[tuple[Lane, ...]] = ("brake", "runs", "audits", "rest")


class Last(msgspec.Struct, frozen=True, gc=False):
    """The newest number in a lane, and what took it: kind and payload digest (hex). -1: none yet."""

    seq: int = -1
    what: str = ""


class Spent(msgspec.Struct, frozen=True, gc=False):
    """What a party has logged of one day: statements by lane, in the order of `LANES`, and bytes.

    Of a member's days the one that it spoke of last stands last.
    """

    day: int
    counts: tuple[int, int, int, int]
    bytes: int


class Pledged(msgspec.Struct, frozen=True, gc=False):
    """A pledge in force until `expires` (POSIX s)."""

    entry: int
    expires: int
    condition: str


class Member(msgspec.Struct, frozen=True, gc=False):
    """One party. `leaves` is when its notice ends (POSIX s), `equivocated` the entry that proves it, or -1.

    `stated` are the size, and root and digest (hex), of the last state that it signed as a permit signer.
    """

    assented: bool = False
    pledge: Pledged | None = None
    leaves: int | None = None
    equivocated: int = -1
    last: tuple[Last, Last, Last, Last] = (Last(),) * 4
    spent: tuple[Spent, ...] = ()
    stated: tuple[int, str] = (0, "")

    def of(self, lane: Lane) -> Last:
        """The newest number in `lane`."""
        return self.last[LANES.index(lane)]


class Members(msgspec.Struct, frozen=True, gc=False):
    """All parties by name, and who of them is in force. `activation` holds until the log's time reaches `until`.

    `seats` are the parties to the text in force. One that has left it may still be bound, without a vote (Treaty 11.5).
    """

    by_name: Mapping[str, Member]
    activation: Activation
    seats: frozenset[str]
    until: int = 0

    @property
    def active(self) -> frozenset[str]:
        """The parties in force. Treaty 2.2."""
        return self.activation.active

    @property
    def voice(self) -> frozenset[str]:
        """Who decides: the parties in force that have a seat."""
        return self.active & self.seats

    @property
    def equivocators(self) -> frozenset[str]:
        return frozenset(name for name, m in self.by_name.items() if m.equivocated >= 0)

    def put(self, name: str, **changes: object) -> "Members":
        """The members with another `name`."""
        member = msgspec.structs.replace(self.by_name[name], **changes)
        return msgspec.structs.replace(self, by_name={**self.by_name, name: member})

    def rebind(self, name: str, **changes: object) -> "Members":
        """As `put`, where who is in force may change with it: `settle` is due."""
        return msgspec.structs.replace(self.put(name, **changes), until=0)


class Twice(Refused):
    """Two different statements of one number: kind and payload digest (hex) of both."""

    def __init__(self, issuer: str, seq: int, first: str, second: str) -> None:
        super().__init__(Reason.EQUIVOCATION, f"{issuer} signed two different statements number {seq}")
        self.first, self.second = first, second


def begin(treaty: Treaty) -> Members:
    """The parties before the first entry."""
    return Members({name: Member() for name in treaty.parties}, activate({}), frozenset(treaty.parties))


def next_number(member: Member, s: Statement, lane: Lane, what: str) -> tuple[Last, Last, Last, Last]:
    """The member's numbers with the statement's spent. Raises as `check_number`."""
    check_number(member, s, lane, what)
    last = list(member.last)
    last[LANES.index(lane)] = Last(s.seq, what)
    return last[0], last[1], last[2], last[3]


def check_number(member: Member, s: Statement, lane: Lane, what: str) -> None:
    """That the statement's number is new in its lane.

    Raises:
        Refused: DUPLICATE, it is the last statement again; EQUIVOCATION, another one has taken the number; REPLAYED, a
            later number was logged: it must be signed anew.
    """
    last = member.of(lane)
    if s.seq > last.seq:
        return
    if s.seq < last.seq:
        raise Refused(Reason.REPLAYED, f"{s.issuer} has logged number {last.seq} of the lane {lane} already")
    if what == last.what:
        raise Refused(Reason.DUPLICATE, f"{s.issuer} has logged this statement already")
    raise Twice(s.issuer, s.seq, last.what, what)


def _date(time: int) -> str:
    shown = 0 <= time < _YEAR_9999
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC" if shown else str(time)


def check_dates(treaty: Treaty, s: Statement, time: int) -> None:
    """Treaty 6.5, by the log's own `time` (POSIX s).

    Raises:
        Refused: NOT_YET_VALID, later; EXPIRED, or dated too far back to be charged to its day.
    """
    if s.not_before > time + treaty.skew:
        text = f"not valid before {_date(s.not_before)}; the log's time is {_date(time)}"
        raise Refused(Reason.NOT_YET_VALID, text, later=True)
    if s.expires <= time:
        raise Refused(Reason.EXPIRED, f"expired at {_date(s.expires)}; the log's time is {_date(time)}")
    if s.not_before < time - DAYS_BACK * SECONDS_A_DAY:
        raise Refused(Reason.EXPIRED, f"dated more than {DAYS_BACK} days before the log's time: sign it anew")


def charge(treaty: Treaty, member: Member, lane: Lane, day: int, size: int, time: int) -> tuple[Spent, ...]:
    """What the party has spent with one more statement of `size` bytes, dated on `day`. Treaty 1.5.

    Days are the issuer's, so that whoever keeps the log cannot spend them by logging many at once.

    Raises:
        Refused(BUDGET): the day is spent; later.
    """
    at = LANES.index(lane)
    *earlier, now = member.spent or (Spent(day, (0, 0, 0, 0), 0),)
    if now.day != day:
        oldest = time // SECONDS_A_DAY - DAYS_BACK - 1
        kept = {s.day: s for s in member.spent if s.day >= oldest}
        now = kept.pop(day, Spent(day, (0, 0, 0, 0), 0))
        earlier = list(kept.values())
    counts = list(now.counts)
    counts[at] += 1
    # The brake's lane pays no bytes: nothing else that a party logs keeps it from voting.
    total = now.bytes + (0 if lane == "brake" else size)
    if counts[at] > treaty.budget.of(lane) or total > treaty.budget.bytes:
        what = f"{treaty.budget.of(lane)} statements of the lane {lane}, {treaty.budget.bytes} bytes"
        raise Refused(Reason.BUDGET, f"more than a party may log in a day: {what} (Treaty 1.5)", later=True)
    return (*earlier, Spent(day, (counts[0], counts[1], counts[2], counts[3]), total))


def near_budget(treaty: Treaty, spent: Spent, lane: Lane, size: int) -> bool:
    """Whether this statement of `size` bytes crossed four fifths of what the lane may hold, or of the day's bytes."""
    if spent.counts[LANES.index(lane)] == _four_fifths(treaty.budget.of(lane)):
        return True
    return lane != "brake" and spent.bytes - size < _four_fifths(treaty.budget.bytes) <= spent.bytes


def _four_fifths(whole: int) -> int:
    return -(-whole * 4 // 5)


def equivocate(treaty: Treaty, members: Members, name: str, entry: int, time: int) -> Members:
    """Treaty 2.4: its word is void until an amendment re-admits it.

    Its duties last as long as after a withdrawal: signing twice must not be the fast way out of a pledge.
    """
    member = members.by_name[name]
    if member.equivocated >= 0:
        return members
    leaves = time + treaty.withdrawal_notice if member.leaves is None else member.leaves
    return members.rebind(name, equivocated=entry, leaves=leaves)


def assent(members: Members, issuer: str) -> Members:
    """Treaty 2.1: to the text in force."""
    return members.rebind(issuer, assented=True)


def pledge(treaty: Treaty, members: Members, entry: int, s: Statement, body: Pledge) -> Members:
    """Treaty 2.2, 2.5.

    Raises:
        Malformed: no condition over the treaty's parties. Refused(PROHIBITED): weaker than the one in force.
    """
    group = body.group(frozenset(treaty.parties))
    stands = members.by_name[s.issuer].pledge
    # Treaty 2.5: a weaker pledge would be a withdrawal without notice.
    if (
        stands is not None
        and s.issuer in members.active
        and (s.expires < stands.expires or (group is not None and body.condition != stands.condition))
    ):
        raise Refused(Reason.PROHIBITED, "a pledge in force may only be renewed, or made unconditional")
    return members.rebind(s.issuer, pledge=Pledged(entry, s.expires, body.condition), leaves=None)


def withdraw(treaty: Treaty, members: Members, s: Statement, time: int) -> Members:
    """Treaty 2.5: leaving takes notice, so nobody leaves to race.

    Raises:
        Refused(DUPLICATE): it has withdrawn already.
    """
    if members.by_name[s.issuer].leaves is not None:
        raise Refused(Reason.DUPLICATE, f"{s.issuer} has withdrawn already")
    return members.rebind(s.issuer, leaves=time + treaty.withdrawal_notice)


def settle(treaty: Treaty, members: Members, time: int) -> Members:
    """Who is in force at the log's own time. Treaty 2.1-2.5.

    Raises nothing: a pledge was checked when it was taken.
    """
    if time < treaty.effective:  # Treaty 2.3
        return msgspec.structs.replace(members, activation=activate({}), until=treaty.effective)
    standing: dict[str, Pledged] = {}
    ends: list[int] = []
    for name, m in members.by_name.items():
        if m.assented and m.pledge and time < m.pledge.expires and (m.leaves is None or time < m.leaves):
            standing[name] = m.pledge
            ends += [m.pledge.expires, *([m.leaves] if m.leaves is not None else [])]
    parties = frozenset(members.by_name)  # a pledge may name one that has left since
    activation = activate({name: Pledge(condition=p.condition).group(parties) for name, p in standing.items()})
    return msgspec.structs.replace(members, activation=activation, until=min(ends, default=_NEVER))


def succeed(
    members: Members, text: Treaty, next_: Treaty, assents: Collection[str], joined: Mapping[str, Last], since: int
) -> Members:
    """The members under the next text, which was adopted at the time `since` (POSIX s). Treaty 11.4-11.6.

    Who leaves stays bound until its notice has passed: no text shortens one that runs. `joined` are those who come with
    a new key, and what they assented with: its number is spent.
    """
    by_name, going = dict(members.by_name), {*text.parties} - {*next_.parties}
    for name in next_.parties:
        old = by_name.get(name, Member())
        if name in joined:
            # To come back is not the fast way out of a pledge: a notice that runs goes on, with what it is of.
            numbers = (joined[name], Last(), Last(), Last())
            by_name[name] = Member(True, old.pledge, old.leaves, last=numbers, spent=old.spent)
        elif name in assents or name not in members.active:
            by_name[name] = msgspec.structs.replace(old, assented=name in assents)
        else:
            going.add(name)  # bound since the adoption: no turn frees it, and it has not assented to this text
    for name in going:
        if by_name[name].leaves is None:
            ends = since + max(text.withdrawal_notice, next_.withdrawal_notice)
            by_name[name] = msgspec.structs.replace(by_name[name], leaves=ends)
    return Members(by_name, members.activation, frozenset(next_.parties))


def part(members: Members, name: str, since: int, leaves: int) -> Members:
    """Without what the party said of itself from the entry `since` on: its key was revoked. Treaty 12.2.

    A pledge that falls so binds until `leaves` (POSIX s): a stolen key is not the fast way out of one.
    """
    member = members.by_name[name]
    if member.pledge is None or member.pledge.entry < since or member.leaves is not None:
        return members
    return members.rebind(name, leaves=leaves)
