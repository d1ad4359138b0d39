"""The agent-based check: lives under a treaty whose inspections are audits on the real core, against the closed forms.

A life is one bloc's: it complies or cheats within declared runs, while the clock of the model draws what comes next:
an inspection of it or of another bloc, background detection, a solved pause, a breakout, the end by discounting. Every
inspection is an episode: a run is declared, trained and audited in `rehearsal`, and what the log adjudicates decides
whether the life goes on. What a conviction, a victory or a race is worth comes from the model.
"""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import numpy as np
from scipy.stats import beta, norm

from brakeline.core.encoding import canonical, parse, sha256
from brakeline.core.errors import Misuse, Unavailable
from brakeline.design.model import (
    LUMP,
    Model,
    channels,
    cheat_value,
)
from brakeline.design.parameters import TABLE
from brakeline.design.quorum import CONFIRMED
from brakeline.design.regime import binding
from brakeline.design.rehearsal import Stage, Terms
from brakeline.design.scenario import Scenario, build

CHUNKS: Final = 20
CONFIDENCE: Final = 0.99  # of each interval, so that five of them hold together with 95 %
Progress = Callable[[int, int], None]  # chunks done, chunks in all


class Game(msgspec.Struct, frozen=True, kw_only=True):
    """What a life needs to know. Rates 1/yr, values in prizes."""

    blocs: int
    inspections: float
    background: float
    solve: float
    discount: float
    success: float  # of exponential cheating; 0 when it is lump
    breakout: float  # years; infinite, written as 0, when it is exponential
    coverage: float
    pause_cost: float
    cheat_cost: float
    inspection_cost: float
    safe: float
    prize: float
    race: float
    convicted_honest: float
    convicted_cheat: float


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Tallies of some lives: episodes and convictions of cheated and honest runs; payoffs of both kinds."""

    cheated: int
    caught: int
    honest: int
    accused: int
    cheating: tuple[float, ...]
    complying: tuple[float, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One prediction: the closed form, and what was simulated with its 99 % interval."""

    name: str
    predicted: float
    simulated: float
    lower: float
    upper: float
    of: int

    @property
    def agrees(self) -> bool:
        return self.lower - 1e-12 <= self.predicted <= self.upper + 1e-12


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The check of one scenario, for the bloc that a treaty loses first. `inputs` determine everything."""

    inputs: dict[str, Any]
    episodes: int
    lives: int
    party: str
    detection_per_inspector: float
    predicted_stable: bool
    simulated_stable: bool | None
    comparisons: tuple[Comparison, ...]


def rehearse(s: Scenario) -> Scenario:
    """The scenario with the detection of the rehearsed treaty's sample in place of the measured one.

    Raises:
        Misuse: not decided as Brakeline's log decides; or more parts than a rehearsal has.
    """
    if s.adjudication != CONFIRMED or s.trigger != "public":
        raise Misuse(
            "only a public trigger and confirmed findings can be rehearsed",
            hint="the log upholds a finding only when inspectors agree on the same segment",
        )
    if _terms(s).confirmers > 12:
        raise Misuse("at most 12 inspectors can be rehearsed")
    values = {**s.values, "detection": np.array([_terms(s).detection])}
    return replace(s, values=values, given=s.given | {"detection"})


def simulate(s: Scenario, *, episodes: int, seed: int, out: Path, workers: int, progress: Progress) -> Simulation:
    """Simulate about `episodes` inspections; resumes from what `out` holds of the same simulation.

    Raises:
        Misuse: `out` holds another simulation, or the scenario cannot be rehearsed.
    """
    s = rehearse(s)
    m = build(s)
    party = binding(m, s.breakout)[0]
    game, terms = _game(s, m, party), _terms(s)
    lives = _lives(game, m, episodes)
    inputs = {
        "scenario": {p.name: np.atleast_1d(s.values[p.name]).tolist() for p in TABLE if p.name in s.values},
        "shares": s.share.tolist(),
        "breakout": s.breakout,
        "party": s.parties[party],
        "seed": seed,
        "lives": list(lives),
        "chunks": CHUNKS,
    }
    _claim(out, inputs)
    todo = [n for n in range(CHUNKS) if not _file(out, n).exists()]
    progress(CHUNKS - len(todo), CHUNKS)
    jobs = [(n, game, terms, tuple(_part(count, n) for count in lives), seed) for n in todo]
    for done, (n, chunk) in enumerate(_run(jobs, workers), CHUNKS - len(todo) + 1):
        _write(_file(out, n), canonical(chunk))
        progress(done, CHUNKS)
    chunks = [parse(_file(out, n).read_bytes(), Chunk) for n in range(CHUNKS)]
    return _compare(s, m, party, chunks, inputs)


def _run(jobs: list[Any], workers: int) -> Iterator[tuple[int, Chunk]]:
    if workers == 1:
        yield from map(play_chunk, jobs)
        return
    # Ctrl-C is for this process: the workers end their chunk, the others are cancelled.
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(play_chunk, jobs)
        except BrokenProcessPool as e:
            raise Unavailable("a worker process died", hint="the same command goes on where it was") from e
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def play_chunk(job: tuple[int, Game, Terms, tuple[int, int], int]) -> tuple[int, Chunk]:
    """All lives of one chunk, audited together in rounds. The result depends on the job alone."""
    number, game, terms, (cheats, compliers), seed = job
    random = Random(sha256(f"{seed} {number}".encode()))
    lives = [life(game, cheating, random) for cheating in (True,) * cheats + (False,) * compliers]
    payoffs: dict[int, float] = {}
    waiting: dict[int, bool] = {}
    tally = dict.fromkeys([(a, b) for a in (True, False) for b in (True, False)], 0)

    def go_on(i: int, convicted: bool | None) -> None:
        try:
            waiting[i] = next(lives[i]) if convicted is None else lives[i].send(convicted)
        except StopIteration as e:
            payoffs[i] = e.value

    for i in range(len(lives)):
        go_on(i, None)
    while waiting:
        due = list(waiting)[:40]
        episodes = Stage(terms, random).play([waiting.pop(i) for i in due])
        for i, episode in zip(due, episodes, strict=True):
            tally[episode] += 1
            go_on(i, episode.convicted)
    return number, Chunk(
        cheated=tally[True, True] + tally[True, False],
        caught=tally[True, True],
        honest=tally[False, True] + tally[False, False],
        accused=tally[False, True],
        cheating=tuple(payoffs[i] for i in range(cheats)),
        complying=tuple(payoffs[i] for i in range(cheats, len(lives))),
    )


def life(game: Game, cheating: bool, random: Random) -> Generator[bool, bool, float]:
    """One bloc's life: yields whether the run to be audited is a cheat, is told whether it was convicted; its payoff.

    Discounting is a chance to end at rate r with nothing more, so what is earned counts in full.
    """
    kinds = {"end": game.discount, "solve": game.solve, "inspect": game.inspections * game.blocs}
    if cheating:
        kinds |= {"background": game.background, "success": game.success}
    total, left, earned = sum(kinds.values()), game.breakout if cheating and game.breakout else float("inf"), 0.0
    flow = game.cheat_cost if cheating else game.pause_cost
    while True:
        waited = min(random.expovariate(total), left)
        left -= waited
        earned -= flow * waited
        kind = random.choices(list(kinds), list(kinds.values()))[0] if left > 0 else "success"
        match kind:
            case "end":
                return earned
            case "solve":
                return earned + game.safe
            case "success":
                return earned + game.prize
            case "background":
                return earned + game.convicted_cheat
        own = random.random() * game.blocs < 1
        earned -= game.inspection_cost if own else 0.0
        if (yield own and cheating and random.random() < game.coverage):
            if not own:
                return earned + game.race
            return earned + (game.convicted_cheat if cheating else game.convicted_honest)


def _terms(s: Scenario) -> Terms:
    n, k_q, b = (int(s.values[name][0]) for name in ("inspectors", "quorum", "corrupt"))
    asked = int(s.values.get("confirmers", s.values["inspectors"])[0])
    return Terms(len(s.parties), n, asked, k_q, b, float(s.values["false_alarm"][0]))


def _game(s: Scenario, m: Model, i: int) -> Game:
    def at(value: Any) -> float:
        return float(np.broadcast_to(value, (m.parties,))[i])

    lump = s.breakout == LUMP
    return Game(
        blocs=m.parties,
        inspections=at(m.nu),
        background=at(m.eta),
        solve=at(m.g),
        discount=at(m.r),
        success=0.0 if lump else at(m.psi * m.lam * m.x),
        breakout=at(m.T_b) if lump else 0.0,
        coverage=float(s.values["coverage"][0]),
        pause_cost=at(m.c),
        cheat_cost=at(m.c_h),
        inspection_cost=at(m.k),
        safe=at(m.w_s),
        prize=at(m.pi),
        race=at(m.W_R),
        convicted_honest=at(m.W_R - m.F),
        convicted_cheat=at(m.W_X),
    )


def _lives(game: Game, m: Model, episodes: int) -> tuple[int, int]:
    """How many cheats and compliers live, so that each kind meets about half of the episodes."""
    alpha = float(m.alpha.max())
    rate = game.inspections * game.blocs
    ends = game.discount + game.solve + rate * alpha
    cheat_ends = ends + game.inspections * (float(m.p.max()) - alpha) + game.background + game.success
    if game.breakout:
        cheat_ends = cheat_ends / -np.expm1(-cheat_ends * game.breakout)
    return tuple(max(CHUNKS, round(episodes / 2 * x / max(rate, 1e-9))) for x in (cheat_ends, ends))  # type: ignore[return-value]


def _part(count: int, chunk: int) -> int:
    """The chunk's part of `count` lives."""
    return count * (chunk + 1) // CHUNKS - count * chunk // CHUNKS


def _file(out: Path, chunk: int) -> Path:
    return out / f"chunk-{chunk:02d}.json"


def _claim(out: Path, inputs: Mapping[str, Any]) -> None:
    path, data = out / "inputs.json", canonical(inputs)
    if not path.exists():
        _write(path, data)
    elif path.read_bytes() != data:
        raise Misuse(f"{out} holds another simulation", hint="choose another --out, or remove the folder")


def _write(path: Path, data: bytes) -> None:
    """Readers see all of it or nothing.

    Raises:
        Unavailable: the disk.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as e:
        raise Unavailable(f"cannot write {path}: {e.strerror}", hint="check the disk's space and health") from e


def _compare(s: Scenario, m: Model, party: int, chunks: list[Chunk], inputs: dict[str, Any]) -> Simulation:
    cheated, caught, honest, accused = (
        sum(getattr(c, name) for c in chunks) for name in ("cheated", "caught", "honest", "accused")
    )
    channel = channels(m)[0]
    met = float(s.values["coverage"][0])
    # What the log convicts, given that the audited run is a cheat.
    p = (float(m.p.max()) - (1 - met) * float(m.alpha.max())) / met
    cheating = np.array([x for c in chunks for x in c.cheating])
    complying = np.array([x for c in chunks for x in c.complying])
    values = (m.W_C[..., party], cheat_value(m, channel, s.breakout)[..., party])
    both = _mean("W_C", float(values[0]), complying), _mean("W_T", float(values[1]), cheating)
    gap = float(values[0] - values[1])
    width = float(np.hypot(both[0].upper - both[0].simulated, both[1].upper - both[1].simulated))
    found = both[0].simulated - both[1].simulated
    comparisons = (
        _rate("conviction of a cheat", p, caught, cheated),
        _rate("conviction of the honest", float(m.alpha.max()), accused, honest),
        *both,
        Comparison(name="W_C - W_T", predicted=gap, simulated=found, lower=found - width, upper=found + width, of=0),
    )
    return Simulation(
        inputs=inputs,
        episodes=cheated + honest,
        lives=len(cheating) + len(complying),
        party=s.parties[party],
        detection_per_inspector=float(s.values["detection"][0]),
        predicted_stable=gap >= 0,
        simulated_stable=None if abs(found) < width else found > 0,
        comparisons=comparisons,
    )


def _rate(name: str, predicted: float, found: int, of: int) -> Comparison:
    """With the two-sided Clopper-Pearson interval."""
    lower = float(beta.ppf((1 - CONFIDENCE) / 2, found, of - found + 1)) if found else 0.0
    upper = float(beta.ppf((1 + CONFIDENCE) / 2, found + 1, of - found)) if found < of else 1.0
    share = found / of if of else 0.0
    return Comparison(name=name, predicted=predicted, simulated=share, lower=lower, upper=upper, of=of)


def _mean(name: str, predicted: float, payoffs: Any) -> Comparison:
    error = float(payoffs.std(ddof=1)) / len(payoffs) ** 0.5
    mean, half = float(payoffs.mean()), float(norm.isf((1 - CONFIDENCE) / 2)) * error
    return Comparison(
        name=name, predicted=predicted, simulated=mean, lower=mean - half, upper=mean + half, of=len(payoffs)
    )
