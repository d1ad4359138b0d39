"""Model E: the keeper is replaced while one text goes to another. Whose closings does it take? (I10)

The witnesses, the hostile keeper, adoption, turn and close are those of `handover`; beside them there are plain stamps,
("p", k), that nothing follows from. A reopening begins behind an accepted history, where witnesses have closed the log
none of whom has seen a stamp of more; liars close with any report. Those who have not closed sign on, so that each
state is looked at for every set of closers.

Wrong: what an accepted history shows stamped, and the reopened log does not begin with.

`along` goes deeper than `run` in the same time, along one history at a time. No two accepted histories part, says
`handover`; so what is lost has the start of the reopened log as a prefix. A witness that has gone another way from some
entry on has signed, of this history, what one has that stopped there, and has seen no less stamped.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Final

from explore import Found, explore
from handover import Entry, History, Model, State, Texts, World, is_prefix

RULES: Final = {
    "ours": "quorums of every text whose witnesses may have to do with what the log held last (11.8)",
    "now": "a quorum of the text in force where it begins",
    "next": "a quorum of the newest text that was adopted where it begins",
}


def highest(h: History) -> int:
    return max((e[1] for e in h if not isinstance(e, str)), default=0)


class Reopening(Model):
    def __init__(self, world: World, rule: str, depth: int) -> None:
        super().__init__(world, "ours", depth)
        self.closers = rule

    def _fold(self, h: History) -> Texts:
        t = Texts()
        for i, e in enumerate(h):
            if isinstance(e, str):
                if not t.coming and not t.before and e == "A":
                    t = Texts(t.now, "", e, i, t.turned)
            elif e[0] == "p":
                continue
            elif t.coming:
                t = Texts(t.coming, t.now, turned=i)
            else:
                t = Texts(t.now)
        return t

    def entries(self, h: History) -> Iterator[Entry]:
        t = self.fold(h)
        yield "x"
        if t.now == "T" and not t.coming:
            yield "A"
        for k in range(highest(h) + 1, len(h) + 1):
            joint = k > t.adopted if t.coming else bool(t.before) and k > t.turned
            if not joint or t.coming:
                yield ("p", k)
            if joint:
                yield ("s", k)

    def possible(self, state: dict[int, History], h: History, e: Entry) -> bool:
        if isinstance(e, str) or e[0] == "s":
            return super().possible(state, h, e)
        return self.accepted(state, h[: e[1]])

    def asked(self, t: Texts) -> set[str]:
        if self.closers == "now":
            return {t.now}
        if self.closers == "next":
            return {t.coming or t.now}
        return {t.before, t.now, t.coming} - {""}

    def may_begin(self, state: dict[int, History], h: History) -> bool:
        """Whether enough witnesses can close it without having seen a stamp of more than this."""
        for text in self.asked(self.fold(h)):
            good = sum(w in self.world.byz or highest(state[w]) <= len(h) for w in self.world.sets[text])
            if good < self.quorum[text]:
                return False
        return True

    def wrong(self, v: State) -> Iterator[str]:
        state = dict(zip(self.order, v, strict=True))
        every = {h[:i] for h in v for i in range(len(h) + 1)}
        accepted = [h for h in every if self.accepted(state, h)]
        settled = [h[: highest(h)] for h in accepted]
        starts = [h for h in accepted if self.may_begin(state, h)]
        if any(not is_prefix(a, b) for a in settled for b in starts):
            yield "a settled history is lost"

    def run(self, *, stop: bool, limit: int = 5_000_000) -> Found[State]:
        return explore([((),) * len(self.order)], self.steps, self.wrong, stop=stop, limit=limit)

    def along(self, *, stop: bool) -> Found[tuple[History, ...]]:
        """Every history, and every way in which the honest witnesses have signed some of it."""
        level: list[History] = [()]
        for _ in range(self.depth):
            level = [(*h, e) for h in level for e in self.entries(h)]
        states, found = 0, dict[str, tuple[History, ...]]()
        for h in level:
            parts = [h[:i] for i in range(len(h) + 1)]
            ways = product(*(combinations_with_replacement(parts, b - a) for a, b in self.cuts))
            for v in (tuple(x for group in way for x in group) for way in ways):
                if not self._written_so(v):
                    continue
                states += 1
                for what in self.wrong(v):
                    found.setdefault(what, v)
                    if stop:
                        return Found(states, found)
        return Found(states, found)

    def _written_so(self, v: State) -> bool:
        """Whether every stamp in it could be written, by the signatures that there are in the end."""
        state, longest = dict(zip(self.order, v, strict=True)), max(v, key=len)
        return all(self.possible(state, longest[:i], e) for i, e in enumerate(longest))
