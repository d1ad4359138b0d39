"""Model C: one party's key for statements is stolen. What can the thief make of it? (I4, I7, I8, I9)

Owner and thief hold key 0. The owner also holds key 1, to whose digest the text commits; the thief draws key 9. Whoever
keeps the log orders, delays and drops at will. Messages:

    vote(k, n)    a vote signed with key k under the number n
    old           the thief's vote, dated before what the owner or the others did, and logged after it
    move(0 → k)   a change of keys
    revoke(0)     by a quorum of the others: key 0 does not count from here on

Wanted: once the owner or the others have acted, nothing that the thief signs counts; the owner can always come back,
and is never an equivocator for what it signed after its act; and what was done stays done.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from explore import Found, explore

FAR: Final = 99  # the largest number
RULES: Final = {
    "ours": "the next key signs the change, numbers begin again, keys count by entry, what was done stays (12.1, 12.2)",
    "old-key": "the old key signs the change to the next",
    "one-space": "numbers go on from key to key",
    "claimed-time": "a statement counts by the date that it bears",
    "undone": "a revocation undoes what the key has done",
}


class Message(NamedTuple):
    who: str
    what: str
    key: int
    arg: int


MESSAGES: Final = (
    Message("thief", "vote", 0, 5), Message("thief", "vote", 0, FAR), Message("thief", "move", 0, 9),
    Message("thief", "vote", 9, 6), Message("thief", "old", 0, 7),
    Message("owner", "vote", 0, 5), Message("owner", "move", 0, 1), Message("owner", "vote", 1, 1),
    Message("owner", "vote", 1, 8), Message("others", "revoke", 0, 0),
)  # fmt: skip
OWNERS: Final = frozenset(m for m in MESSAGES if m.who == "owner" and (m.what, m.key) != ("vote", 0))


class State(NamedTuple):
    """The key in force (-1: none), the last number and its speaker by number space, and what has come of it."""

    key: int = 0
    numbers: tuple[tuple[int, int, str], ...] = ()
    spoke: str = ""
    acted: bool = False
    void: bool = False
    tripped: bool = False
    wrong: str = ""
    used: frozenset[Message] = frozenset()


class Model:
    def __init__(self, rule: str, depth: int = 10) -> None:
        self.rule, self.depth = rule, depth

    def step(self, s: State, m: Message) -> State:
        s = s._replace(used=s.used | {m})
        if m.what in ("vote", "old"):
            return self._vote(s, m)
        if m.what == "move":
            # Only the key that was committed to is a next key; the old one need not be there any more.
            allowed = s.key == m.key if self.rule == "old-key" else m.arg == 1 and s.key in (0, -1)
            return s._replace(key=m.arg, acted=s.acted or m.who == "owner") if allowed else s
        if s.key != 0:
            return s
        undone = "what was done is undone" if self.rule == "undone" and s.tripped else s.wrong
        return s._replace(key=-1, acted=True, wrong=undone)

    def _vote(self, s: State, m: Message) -> State:
        counts = s.key == m.key or (self.rule == "claimed-time" and m.what == "old")
        if not counts:
            return s
        space = 0 if self.rule == "one-space" else m.key
        numbers = {k: (n, by) for k, n, by in s.numbers}
        last, by = numbers.get(space, (-1, ""))
        if m.arg == last and by != m.who:
            wrong = "the owner is void for what it said after its act" if s.acted else s.wrong
            return s._replace(void=True, wrong=wrong)
        if m.arg <= last:
            return s
        numbers[space] = (m.arg, m.who)
        wrong = "the thief counts after the act" if s.acted and m.who == "thief" else s.wrong
        kept = tuple(sorted((k, n, by) for k, (n, by) in numbers.items()))
        return s._replace(numbers=kept, spoke=m.who, tripped=s.tripped or m.who == "owner", wrong=wrong)

    def steps(self, s: State) -> Iterator[State]:
        if len(s.used) < self.depth:
            yield from (self.step(s, m) for m in MESSAGES if m not in s.used)

    def wrong(self, s: State) -> Iterator[str]:
        if s.wrong:
            yield s.wrong
        # However the rest is ordered: with all its messages left, the owner comes to speak with its own key.
        if not s.used & OWNERS and not self.comes_back(s):
            yield "the owner cannot come back"

    def comes_back(self, s: State) -> bool:
        for m in (Message("owner", "move", 0, 1), Message("owner", "vote", 1, 1), Message("owner", "vote", 1, 8)):
            s = self.step(s, m)
        return s.key == 1 and s.spoke == "owner"

    def run(self, *, stop: bool, limit: int = 5_000_000) -> Found[State]:
        return explore([State()], self.steps, self.wrong, stop=stop, limit=limit)
