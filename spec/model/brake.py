"""Model B: what fold, signers and gates make of a succession while the brake acts. (I3, I4, I5, I6)

One history: model A keeps it one. Parties 1 to 4, of which 4 lies; a quorum is 3, and 2 trip. Party 1 leaves with the
text A, and 5 joins; A has shorter permits, and asks for no condition of a lift that does not hold already. The keeper
logs the messages in any order, late or never, stamps when it likes, and shows every signer any published prefix. Time
goes on by itself, a unit a step.

The state is the log, and the last time at which it had so many entries. A signer may be kept at a prefix for as long as
its newest checkpoint is at most `STALE` old, each by itself; so a permit of a text and epoch can be had now just when
such a prefix says clear.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from explore import Found, explore

Entry = str | tuple[str, int]
State = tuple[tuple[Entry, ...], tuple[int, ...]]

LIFE: Final = {"T": 3, "A": 1}  # of a permit
STALE, NOTICE, LEAVE = 1, 1, 3
PARTIES: Final = {"T": frozenset((1, 2, 3, 4)), "A": frozenset((2, 3, 4, 5))}
LIFTABLE: Final = {"T": False, "A": True}  # whether all conditions of a lift hold
PLEDGE: Final = {1: {2}, 2: {1}, 3: {1}, 4: set[int](), 5: set[int]()}  # whom each one's pledge waits for
RULES: Final = {
    "ours": "trip votes and pledges stand, lift votes do not; permits of every text lapse; duties last (11.4, 11.5)",
    "clock": "permits have lapsed by the log's clock at the trip, not by the first stamp over it",
    "shorter": "only permits of the text in force are waited for",
    "carried": "votes to lift stand",
    "foreign": "what names the old text is foreign to the new one",
    "gone": "who leaves is not bound any more from the turn on",
}
MESSAGES: Final = ("trip2", "trip3", "lift2", "lift3", "lift4", "adopt")
SCENES: Final = {  # the log at the start, what the keeper may log, the last time, the longest log
    "all": ((), MESSAGES, 6, 6),
    "permits": ((), ("trip2", "trip3", "adopt"), 7, 8),
    "lift": (("trip2", "trip3"), ("lift2", "lift3", "lift4", "adopt"), 6, 9),
}


@dataclass(frozen=True)
class Brake:
    """What a log says. `left`: until when party 1 is bound after it left; `turned`: the time of the turn."""

    clock: int = 0
    text: str = "T"
    phase: str = "clear"
    epoch: int = 0
    lapse: int | None = 0
    due: int | None = None
    left: int = 0
    turned: int | None = None
    trip: frozenset[tuple[int, int]] = frozenset()  # party and epoch
    lift: frozenset[tuple[int, int]] = frozenset()
    wrong: frozenset[str] = frozenset()


class Model:
    def __init__(self, rule: str, scene: str) -> None:
        self.rule = rule
        self.start, self.messages, self.horizon, self.length = SCENES[scene]
        self.fold = lru_cache(None)(self._fold)

    def bound(self, text: str, *, inside: bool) -> frozenset[int]:
        """Who is bound: the largest set whose pledges hold together. `inside`: party 1's notice still runs."""
        there = set(PARTIES[text])
        if self.rule != "gone" and text == "A" and inside:
            there.add(1)
        while out := {p for p in there if not PLEDGE[p] <= there}:
            there -= out
        return frozenset(there)

    def _fold(self, log: tuple[Entry, ...]) -> Brake:
        if not log:
            return Brake()
        before = self.fold(log[:-1])
        b, entry, turning = before, log[-1], False
        was = self.bound(b.text, inside=b.clock < b.left)
        if entry == "adopt":
            b = replace(b, due=b.clock + NOTICE, left=b.clock + LEAVE)
        elif isinstance(entry, tuple):
            b = replace(b, clock=entry[1])
            if b.phase == "tripped" and b.lapse is None:
                b = replace(b, lapse=self.lapse(b))
            if b.due is not None and b.text == "T" and b.clock >= b.due:
                turning = True
                b = replace(b, text="A", turned=b.clock, lift=b.lift if self.rule == "carried" else frozenset())
        else:
            b = self.vote(b, entry[:4], int(entry[4]))
        if turning and b.clock < b.left and not was <= self.bound(b.text, inside=True):
            b = replace(b, wrong=b.wrong | {"duties end at the turn"})  # I6
        b = self.advance(b, turning=turning)
        if turning and before.phase in ("tripped", "paused") and b.phase in ("lifting", "clear"):
            b = replace(b, wrong=b.wrong | {"the turn lifts the brake"})  # I3
        if b.epoch < before.epoch:
            b = replace(b, wrong=b.wrong | {"the epoch falls"})  # I3
        if {"trip2", "trip3"} <= set(log) and b.epoch == 0 and {2, 3} <= self.voice(b):
            b = replace(b, wrong=b.wrong | {"two votes in the log, and no trip"})
        return b

    def voice(self, b: Brake) -> frozenset[int]:
        return self.bound(b.text, inside=b.clock < b.left) & PARTIES[b.text]

    def vote(self, b: Brake, motion: str, party: int) -> Brake:
        stands = (motion == "trip" and self.rule != "foreign") or (motion == "lift" and self.rule == "carried")
        if party not in PARTIES[b.text] or not (b.text == "T" or stands):
            return b
        votes: frozenset[tuple[int, int]] = getattr(b, motion)
        cast = frozenset((p, e) for p, e in votes if p != party) | {(party, b.epoch)}
        return replace(b, trip=cast) if motion == "trip" else replace(b, lift=cast)

    def advance(self, b: Brake, *, turning: bool) -> Brake:
        while True:
            here = self.voice(b)
            trips, lifts = ({p for p, e in votes if e == b.epoch and p in here} for votes in (b.trip, b.lift))
            if b.phase in ("clear", "lifting") and len(trips) >= 2:
                b = replace(b, phase="tripped", epoch=b.epoch + 1, lapse=None, trip=frozenset(), lift=frozenset())
                if self.rule == "clock":
                    b = replace(b, lapse=self.lapse(b))
            elif turning and self.rule != "carried":
                return b  # nothing goes nearer to clear where a text turns
            elif b.phase == "tripped" and b.lapse is not None and b.clock >= b.lapse:
                b = replace(b, phase="paused")
            elif b.phase == "paused" and len(lifts) >= 3 and LIFTABLE[b.text]:
                b = replace(b, phase="lifting")
            elif b.phase == "lifting" and not turning:
                b = replace(b, phase="clear", trip=frozenset(), lift=frozenset())
            else:
                return b

    def lapse(self, b: Brake) -> int:
        """When no permit of before the trip can be in force: over all texts under which one may have been given."""
        own = b.clock + STALE + LIFE[b.text]
        if b.turned is None or self.rule == "shorter":
            return own
        return max(own, b.turned + STALE + LIFE["T"])

    def lives(self, log: tuple[Entry, ...], last: tuple[int, ...], epoch: int) -> bool:
        """Whether a permit of an epoch before `epoch` may still be in force now."""
        now = last[-1]
        for i in range(len(log) + 1):
            b = self.fold(log[:i])
            if b.phase == "clear" and b.epoch < epoch and min(now, last[i] + STALE) + LIFE[b.text] > now:
                return True
        return False

    def steps(self, s: State) -> Iterator[State]:
        log, last = s
        now, b = last[-1], self.fold(log)
        if now < self.horizon:
            yield log, (*last[:-1], now + 1)
        if len(log) < self.length:
            for m in self.messages:
                if m not in log and not (m.startswith("lift") and b.epoch == 0):
                    yield (*log, m), (*last, now)
            if now > b.clock:
                yield (*log, ("s", now)), (*last, now)

    def wrong(self, s: State) -> Iterator[str]:
        b = self.fold(s[0])
        yield from b.wrong
        if b.phase in ("paused", "lifting") and self.lives(*s, b.epoch):  # I4
            yield "paused while a permit lives"

    def run(self, *, stop: bool, limit: int = 5_000_000) -> Found[State]:
        start = (self.start, (0,) * (len(self.start) + 1))
        return explore([start], self.steps, self.wrong, stop=stop, limit=limit)
