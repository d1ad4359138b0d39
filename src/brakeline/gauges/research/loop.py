"""The loop: propose, register, run, hear the oracle, tell the forum; at the end one sealed evaluation.

Every state is what the ledger says, so opening a ledger is resuming it. A round is registered team by team before any
of it runs, and results are entered in that order however many run at once: the result does not depend on the workers.

    start · (hypotheses … run …)* · submission · sealed
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from brakeline.core.encoding import Wire, convert, tagged
from brakeline.core.errors import BrakelineError, Misuse, Reason, Refused
from brakeline.gauges.research.ledger import Ledger
from brakeline.gauges.research.methods import BASELINES, VANILLA, Method, read_method
from brakeline.gauges.research.oracle import Oracle
from brakeline.gauges.research.problem import Split, deal, load
from brakeline.gauges.research.researcher import Finding, search
from brakeline.gauges.research.runner import Outcome, Run
from brakeline.gauges.research.score import Bools, pgr, score

SEARCH_SEEDS: Final = tuple(range(5))
SEALED_SEEDS: Final = tuple(range(5, 15))  # pools and weak supervisors that no search has met


class Config(Wire, frozen=True):
    """All that determines the default loop. `draw` picks the splits; `proposals`: methods a team may try a round."""

    data: str
    second: str
    draw: int
    agents: int
    rounds: int
    proposals: int
    researcher: str


class Hypothesis(NamedTuple):
    """A registered method. `run` is the ledger's entry of its experiment, or None before."""

    team: int
    turn: int
    method: Method
    run: dict[str, Any] | None


class Rows(NamedTuple):
    """Who answered which item rightly, [seeds, items] each."""

    right: Bools
    weak: Bools
    ceiling: Bools


class Loop:
    """One loop on one ledger.

    Raises:
        Misuse: the ledger is of a loop with another configuration or other data.
    """

    def __init__(self, config: Config, ledger: Ledger, run: Run) -> None:
        if not 1 <= config.agents <= 64 or not 1 <= config.rounds <= 100 or not 1 <= config.proposals <= 20:
            raise Misuse("a loop has 1 to 64 agents, 1 to 100 rounds and 1 to 20 proposals a round")
        self.config, self.ledger, self._run = config, ledger, run
        self._since = time.monotonic()
        data = [load(name, ledger.folder).digest for name in (config.data, config.second)]
        start = {"config": _plain(config), "data": data}
        if not ledger.entries:
            ledger.append("start", start)
        elif ledger.of("start") != [start]:
            raise Misuse("the ledger here is of another loop", hint="choose another --out, or the same options")

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """In the order registered."""
        runs = {body["id"]: body for body in self.ledger.of("run")}
        return [
            Hypothesis(body["team"], body["turn"], method, runs.get(method.id))
            for body in self.ledger.of("hypotheses")
            for method in (convert(value, Method) for value in body["methods"])
        ]

    @property
    def forum(self) -> list[Finding]:
        """What every researcher may read: all finished experiments, and of scores what the oracle said."""
        return [Finding(h.team, h.method, h.run["heard"], h.run["error"]) for h in self.hypotheses if h.run]

    def has_proposed(self, team: int, turn: int) -> bool:
        return any((body["team"], body["turn"]) == (team, turn) for body in self.ledger.of("hypotheses"))

    def propose(self, team: int, turn: int, proposals: Sequence[object]) -> None:
        """Register a team's methods for a round, before any of them runs.

        What is no method, was registered before, or is one too many is entered as refused, with the reason.

        Raises:
            Refused: the sealed split was opened, or the team has proposed in this round.
            Misuse: no such team or round.
        """
        if self.ledger.of("submission"):
            raise Refused(Reason.PROHIBITED, "the sealed split was opened: this loop is over")
        if self.has_proposed(team, turn):
            raise Refused(Reason.DUPLICATE, f"team {team} has proposed in round {turn}")
        if not (0 <= team < self.config.agents and 0 <= turn < self.config.rounds):
            raise Misuse(f"there is no team {team} or no round {turn}")
        known = {h.method.id for h in self.hypotheses}
        methods, refused = [], []
        for place, value in enumerate(proposals):
            try:
                if place >= self.config.proposals:
                    raise Misuse(f"more than {self.config.proposals} proposals")
                method = read_method(_plain(value))
                if method.id in known:
                    raise Misuse("registered before: its finding is or will be on the forum")
            except BrakelineError as e:
                refused.append({"place": place, "why": str(e)[:300]})
            else:
                known.add(method.id)
                methods.append(_plain(method))
        self.ledger.append("hypotheses", {"team": team, "turn": turn, "methods": methods, "refused": refused})

    def execute(self, told: Callable[[Finding], None] = lambda finding: None) -> None:
        """Run what is registered and has not run, and enter each result with the oracle's answer."""
        waiting = [h for h in self.hypotheses if not h.run]
        seen = [deal(self.config.data, self.config.draw, seed, "oracle").seen for seed in SEARCH_SEEDS]
        for h, outcome in zip(waiting, self._run([h.method for h in waiting], seen), strict=True):
            oracle = self.oracle(h.team)
            heard = None if outcome.answers is None else oracle.ask(pgr(*self._rows(outcome, "oracle", SEARCH_SEEDS)))
            said = {"answers": _digest(outcome), "error": outcome.error, "heard": heard, "exposed": outcome.exposed}
            self.ledger.append("run", {"id": h.method.id, "team": h.team} | said | self._used(outcome.cpu))
            told(Finding(h.team, h.method, heard, outcome.error))

    def oracle(self, team: int, before: str = "") -> Oracle:
        """The team's oracle as its answers left it, up to its run `before` if that is given."""
        oracle = Oracle(self.config.rounds * self.config.proposals)
        for body in self.ledger.of("run"):
            if body["id"] == before:
                break
            if body["team"] == team and not body["error"]:
                oracle.left -= 1
                oracle.best = oracle.best if body["heard"] is None else body["heard"]
        return oracle

    def winner(self) -> Method:
        """The method with the highest answer, the first of equals; the plain one when none beat the weak supervisor."""
        heard = [finding for finding in self.forum if finding.heard is not None]
        return max(heard, key=lambda f: f.heard or 0).method if heard else VANILLA

    def finish(self) -> dict[str, Any]:
        """The sealed evaluation, once: of the winner and the baselines, on both data sets. Later calls read it.

        Raises:
            Misuse: a round is not over.
        """
        if not self.ledger.of("sealed"):
            everyone = ((team, turn) for turn in range(self.config.rounds) for team in range(self.config.agents))
            if any(not h.run for h in self.hypotheses) or not all(self.has_proposed(*one) for one in everyone):
                raise Misuse("the search is not over")
            winner = self.winner()
            if not self.ledger.of("submission"):
                self.ledger.append("submission", {"id": winner.id, "method": _plain(winner)})
            self.ledger.append("sealed", self._sealed(winner))
        return self.ledger.of("sealed")[0]

    def _sealed(self, winner: Method) -> dict[str, Any]:
        names, methods = ["winner", *BASELINES], [winner, *BASELINES.values()]
        found: dict[str, Any] = {"exposed": ""}
        cpu = 0.0
        evaluations: tuple[tuple[str, str, Split, Sequence[int]], ...] = (
            ("search", self.config.data, "oracle", SEARCH_SEEDS),
            ("sealed", self.config.data, "sealed", SEALED_SEEDS),
            ("second", self.config.second, "sealed", SEALED_SEEDS),
        )
        for kind, name, split, seeds in evaluations:
            seen = [deal(name, self.config.draw, seed, split).seen for seed in seeds]
            found[kind] = {}
            for label, outcome in zip(names, self._run(methods, seen), strict=True):
                cpu += outcome.cpu
                found["exposed"] = found["exposed"] or outcome.exposed
                if outcome.answers is None:
                    raise Misuse(f"the final run of {label} failed: {outcome.error}")
                found[kind][label] = score(*self._rows(outcome, split, seeds, name))._asdict()
        return found | self._used(cpu)

    def replay(self, wanted: str = "") -> dict[str, list[str]]:
        """Run the registered hypotheses again whose id begins with `wanted`: what differs, by id. Empty lists are good.

        Raises:
            Misuse: there is none that has run.
        """
        chosen = [h for h in self.hypotheses if h.run and h.method.id.startswith(wanted)]
        if not chosen:
            raise Misuse(f"no hypothesis {wanted!r} has run here")
        seen = [deal(self.config.data, self.config.draw, seed, "oracle").seen for seed in SEARCH_SEEDS]
        differs: dict[str, list[str]] = {}
        for h, outcome in zip(chosen, self._run([h.method for h in chosen], seen), strict=True):
            assert h.run
            heard = None
            if outcome.answers is not None:
                oracle = self.oracle(h.team, before=h.method.id)
                heard = oracle.ask(pgr(*self._rows(outcome, "oracle", SEARCH_SEEDS)))
            again = {"answers": _digest(outcome), "error": outcome.error, "heard": heard}
            differs[h.method.id] = [name for name, value in again.items() if h.run[name] != value]
        return differs

    def _rows(self, outcome: Outcome, split: Split, seeds: Sequence[int], name: str = "") -> Rows:
        deals = [deal(name or self.config.data, self.config.draw, seed, split) for seed in seeds]
        truth = np.stack([d.truth for d in deals])
        if outcome.answers is None or outcome.answers.shape != truth.shape:
            raise Misuse("an experiment did not answer what was asked")
        weak, ceiling = np.stack([d.weak for d in deals]), np.stack([d.ceiling for d in deals])
        return Rows(outcome.answers == truth, weak == truth, ceiling == truth)

    def _used(self, cpu: float) -> dict[str, float]:
        """Processor seconds, and wall seconds since the entry before; what a kill cut off is in neither."""
        since, self._since = self._since, time.monotonic()
        return {"cpu": round(cpu, 3), "wall": round(self._since - since, 3)}


def drive(loop: Loop, told: Callable[[Finding], None] = lambda finding: None) -> None:
    """The default researchers, from wherever the ledger stands to the sealed evaluation."""
    c = loop.config
    for turn in range(c.rounds):
        forum = loop.forum
        for team in range(c.agents):
            if not loop.has_proposed(team, turn):
                loop.propose(team, turn, search(c.draw, team, turn, forum, c.proposals))
        loop.execute(told)
    loop.finish()


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)


def _digest(outcome: Outcome) -> str:
    if outcome.answers is None:
        return ""
    return tagged("brakeline/research-answers/v1", np.ascontiguousarray(outcome.answers, "<i2").tobytes()).hex()
