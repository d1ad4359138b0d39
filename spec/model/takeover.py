"""Model D: the keeper of the log is dead, silent or hostile. From which size does the next one begin? (I10)

Four witnesses, three of which are a quorum, one of which may lie: it closes with any report. The keeper offers any
extension. Entries are anything ("x", "y") and stamps. A history is *published* when a quorum has signed just it, and
*settled* when a published history holds a stamp of it, or of more. A takeover takes the closings of any three
witnesses, which sign nothing for this log any more, each with its largest tree.

Wrong: a settled history that the next log does not begin with; or two sets of three closers from which two logs would
begin, neither of which is a prefix of the other.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Final

from explore import Found, explore

Entry = str | tuple[str, int]
History = tuple[Entry, ...]
State = tuple[History, ...]

WITNESSES: Final = (1, 2, 3, 4)
QUORUM: Final = 3
RULES: Final = {
    "ours": "it begins at anything published that is no shorter than the highest stamp in the closers' trees (11.8)",
    "head": "it begins at the largest tree that a closer reports",
    "any": "it begins at anything published",
    "published": "it begins at the largest tree of which the closings show a quorum",
}


def is_prefix(a: History, b: History) -> bool:
    return len(a) <= len(b) and b[: len(a)] == a


def stamps(h: History) -> list[int]:
    return [e[1] for e in h if not isinstance(e, str)]


class Model:
    def __init__(self, rule: str, depth: int, liar: int | None) -> None:
        self.rule, self.depth, self.liar = rule, depth, liar
        self.honest = [w for w in WITNESSES if w != liar]

    def signers(self, v: State, h: History) -> int:
        return sum(is_prefix(h, x) for x in v) + (self.liar is not None)

    def steps(self, v: State) -> Iterator[State]:
        for i, h in enumerate(v):
            if len(h) >= self.depth:
                continue
            last = max(stamps(h), default=0)
            named: list[Entry] = [("s", k) for k in range(last + 1, len(h) + 1) if self.signers(v, h[:k]) >= QUORUM]
            for e in ("x", "y", *named):
                yield tuple(sorted((*v[:i], (*h, e), *v[i + 1 :]), key=repr))

    def begins(self, v: State, closers: tuple[int, ...], nodes: list[History]) -> Iterator[History]:
        """From where the next log would begin, whatever the liar among the closers reports."""
        reports = dict(zip(self.honest, v, strict=True))
        mine = [reports[w] for w in closers if w != self.liar]
        for lie in nodes if self.liar in closers else [None]:
            got = mine if lie is None else [*mine, lie]
            if self.rule == "head":
                yield max(got, key=lambda h: (len(h), repr(h)))
            elif self.rule == "published":
                yield max((h for h in nodes if sum(is_prefix(h, g) for g in got) >= QUORUM), key=len)
            else:
                least = 0 if self.rule == "any" else max(k for g in got for k in (0, *stamps(g)))
                yield from (h for h in nodes if len(h) >= least and self.signers(v, h) >= QUORUM)

    def wrong(self, v: State) -> Iterator[str]:
        nodes = sorted({h[:i] for h in v for i in range(len(h) + 1)}, key=repr)
        published = [h for h in nodes if self.signers(v, h) >= QUORUM]
        settled = [p[:k] for p in published for k in stamps(p)]
        starts = {b for closers in combinations(WITNESSES, QUORUM) for b in self.begins(v, closers, nodes)}
        if any(not is_prefix(h, b) for h in settled for b in starts):
            yield "a settled history is lost"
        if any(not is_prefix(a, b) and not is_prefix(b, a) for a, b in combinations(sorted(starts, key=repr), 2)):
            yield "two logs begin"

    def run(self, *, stop: bool, limit: int = 5_000_000) -> Found[State]:
        return explore([((),) * len(self.honest)], self.steps, self.wrong, stop=stop, limit=limit)
