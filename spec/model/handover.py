"""Model A: may two histories of one log both be accepted while its witnesses change? (I1, I2)

A history is a tuple of entries:

    "x"        anything
    "A" …      the assent at which that text is adopted by the quorums of the text in force
    ("s", k)   a stamp, the cosigned checkpoint of the first k entries, that the witnesses of both texts have signed
    ("l", k)   a stamp by the witnesses of the text in force alone, so late that the adoption lapses

The keeper of the log is hostile: it shows any witness any extension, in any order, late, or never. An honest witness is
generic (C2SP tlog-witness): it signs whatever extends the largest tree that it has signed. Witnesses in `byz` sign
everything. A stamp can be written once the signatures that it needs exist. The state is the largest tree of every
honest witness; those that the texts treat alike are interchangeable.

Wrong: two accepted histories, neither of which is a prefix of the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Final

from explore import Found, explore

Entry = str | tuple[str, int]
History = tuple[Entry, ...]
State = tuple[History, ...]

PARENT: Final = {"A": "T", "B": "T", "C": "A"}  # which text each amends
RULES: Final = {
    "ours": "adoption, turn and close are three entries; between turn and close a checkpoint needs both quorums (11.3)",
    "direct": "the next text's quorum alone is needed from its adoption on",
    "joint-close": "both quorums for the stamp at which the text turns, and no close",
    "follower": "each follower takes the text that its own clock says",
    "signatures": "the quorum of any text will do",
    "overlap": "a second adoption before the first has closed",
    "lapse": "each follower's own clock says that an adoption has lapsed",
}


@dataclass(frozen=True)
class World:
    """`sets`: the witnesses of each text. `f` of them may lie, and those in `byz` do."""

    name: str
    sets: dict[str, frozenset[int]]
    f: int
    byz: frozenset[int]


def worlds() -> tuple[World, ...]:
    def world(name: str, f: int, byz: set[int], **sets: set[int]) -> World:
        return World(name, {text: frozenset(witnesses) for text, witnesses in sets.items()}, f, frozenset(byz))

    four = {1, 2, 3, 4}
    return (
        world("one of four replaced", 1, {2}, T=four, A={2, 3, 4, 5}),
        world("two of four replaced", 1, {3}, T=four, A={3, 4, 5, 6}),
        world("two rivals", 1, {2}, T=four, A={2, 3, 4, 5}, B={1, 2, 3, 5}),
        world("one after another", 1, {3}, T=four, A={2, 3, 4, 5}, C={3, 4, 5, 6}),
        world("all of two replaced", 0, set(), T={1, 2}, A={3, 4}),
        world("one of seven replaced, two lie", 2, {2, 3}, T=set(range(1, 8)), A=set(range(2, 9))),
    )


@dataclass(frozen=True)
class Texts:
    """What a history makes of the texts: in force, the one before while that is open, adopted, and where."""

    now: str = "T"
    before: str = ""
    coming: str = ""
    adopted: int = -1
    turned: int = -1


def is_prefix(a: History, b: History) -> bool:
    return len(a) <= len(b) and b[: len(a)] == a


class Model:
    def __init__(self, world: World, rule: str, depth: int) -> None:
        self.world, self.rule, self.depth = world, rule, depth
        self.quorum = {t: (len(w) + world.f) // 2 + 1 for t, w in world.sets.items()}
        honest = sorted(frozenset().union(*world.sets.values()) - world.byz)
        groups: dict[tuple[bool, ...], list[int]] = {}
        for w in honest:
            groups.setdefault(tuple(w in s for s in world.sets.values()), []).append(w)
        self.order = [w for group in groups.values() for w in group]
        self.cuts, at = [], 0
        for group in groups.values():
            self.cuts.append((at, at + len(group)))
            at += len(group)
        self.fold = lru_cache(None)(self._fold)

    def _fold(self, h: History) -> Texts:
        t = Texts()
        for i, e in enumerate(h):
            if isinstance(e, str):
                free = not t.coming and (not t.before or self.rule == "overlap")
                if PARENT.get(e) == t.now and free:
                    t = Texts(e) if self.rule == "direct" else Texts(t.now, t.before, e, i, t.turned)
            elif t.coming and e[1] > t.adopted:
                t = Texts(t.coming, t.now, turned=i) if e[0] == "s" else Texts(t.now, t.before, turned=t.turned)
            elif t.before and e[1] > t.turned and e[0] == "s":
                t = Texts(t.now)
        return t

    def need(self, h: History) -> tuple[str, ...]:
        """Whose quorums a checkpoint of just this history needs."""
        t = self.fold(h)
        return (t.before, t.now) if t.before and self.rule not in ("direct", "joint-close") else (t.now,)

    def has(self, state: dict[int, History], h: History, text: str) -> bool:
        witnesses = self.world.sets[text]
        return sum(w in self.world.byz or is_prefix(h, state[w]) for w in witnesses) >= self.quorum[text]

    def accepted(self, state: dict[int, History], h: History) -> bool:
        t = self.fold(h)
        if self.rule == "signatures":
            return any(self.has(state, h, text) for text in self.world.sets)
        if self.rule == "follower":
            return any(self.has(state, h, text) for text in {t.now, t.before, t.coming} - {""})
        if self.rule == "lapse" and t.before and self.has(state, h, t.before):
            return True
        return all(self.has(state, h, text) for text in self.need(h))

    def entries(self, h: History) -> Iterator[Entry]:
        t = self.fold(h)
        yield "x"
        yield from (e for e in self.world.sets if PARENT.get(e) == t.now and not t.coming)
        if t.coming or t.before:
            last = max((e[1] for e in h if not isinstance(e, str)), default=0)
            for k in range(max(last, t.adopted if t.coming else t.turned) + 1, len(h) + 1):
                yield ("s", k)
                if t.coming:
                    yield ("l", k)

    def possible(self, state: dict[int, History], h: History, e: Entry) -> bool:
        """Whether the signatures that a stamp needs exist."""
        if isinstance(e, str):
            return True
        t = self.fold(h)
        texts = (t.now,) if e[0] == "l" else (t.now, t.coming) if t.coming else (t.before, t.now)
        return all(self.has(state, h[: e[1]], text) for text in texts)

    def steps(self, v: State) -> Iterator[State]:
        state = dict(zip(self.order, v, strict=True))
        for i, h in enumerate(v):
            if len(h) >= self.depth:
                continue
            for e in self.entries(h):
                if self.possible(state, h, e):
                    after = list(v)
                    after[i] = (*h, e)
                    yield tuple(x for a, b in self.cuts for x in sorted(after[a:b], key=repr))

    def wrong(self, v: State) -> Iterator[str]:
        state = dict(zip(self.order, v, strict=True))
        accepted = [h for h in {h[:i] for h in v for i in range(1, len(h) + 1)} if self.accepted(state, h)]
        for a, b in combinations(accepted, 2):
            if not is_prefix(a, b) and not is_prefix(b, a):
                yield "fork"
                return

    def run(self, *, stop: bool, limit: int = 5_000_000) -> Found[State]:
        start = ((),) * len(self.order)
        return explore([start], self.steps, self.wrong, stop=stop, limit=limit)

    def divide(self, *, stop: bool) -> Found[tuple[History, History]]:
        """Every pair of histories that part, and every way to divide the honest witnesses between them.

        Signatures are never taken back, and what may be written only asks whether they exist; so of a division it is
        enough to write as much as can be. Goes deeper than `run` in the same time. The states are the divisions.
        """
        level: list[History] = [()]
        every: list[History] = []
        for _ in range(self.depth):
            level = [(*h, e) for h in level for e in self.entries(h)]
            every += level
        runs, found = 0, dict[str, tuple[History, History]]()
        for a, b in combinations(every, 2):
            if is_prefix(a, b) or is_prefix(b, a):
                continue
            for side in product((a, b), repeat=len(self.order)):
                if any(list(side[x:y]) != sorted(side[x:y], key=repr) for x, y in self.cuts):
                    continue  # witnesses of a group are interchangeable
                runs += 1
                state = self._written(dict(zip(self.order, side, strict=True)))
                if self.accepted(state, a) and self.accepted(state, b):
                    found.setdefault("fork", (a, b))
                    if stop:
                        return Found(runs, dict(found))
        return Found(runs, dict(found))

    def _written(self, goals: dict[int, History]) -> dict[int, History]:
        """The largest trees that the witnesses can have on the way to their goals."""
        state: dict[int, History] = dict.fromkeys(goals, ())
        moved = True
        while moved:
            moved = False
            for w, goal in goals.items():
                while len(state[w]) < len(goal) and self.possible(state, state[w], goal[len(state[w])]):
                    state[w] = goal[: len(state[w]) + 1]
                    moved = True
        return state
