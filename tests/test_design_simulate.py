"""The agent-based check: audits on the real core convict the guilty and the honest as often as the closed forms say."""

import json
from pathlib import Path
from random import Random
from statistics import mean, stdev

import pytest
from click.testing import CliRunner
from scipy.stats import binomtest

from brakeline.cli.main import cli
from brakeline.core.brake import Phase
from brakeline.core.errors import Misuse, Unavailable
from brakeline.core.state import replay
from brakeline.core.state.codec import encode
from brakeline.core.state.events import Barred, Tripped, Void
from brakeline.design import simulate as module
from brakeline.design.measured import read_measured, shipped
from brakeline.design.model import channels, cheat_value
from brakeline.design.quorum import CONFIRMED, convict
from brakeline.design.rehearsal import CHEATED, SEGMENTS, Episode, Stage, Terms
from brakeline.design.scenario import Scenario, build, read_scenario
from brakeline.design.simulate import Chunk, Game, Simulation, life, simulate

TEXT = """[scenario]
name = "rehearsal"
title = "A small treaty"
policy = "verified"
breakout = "BREAKOUT"
[parameters]
inspections = 2
inspectors = 2
quorum = 2
false_alarm = 0.05
fine = 0.1
"""


@pytest.fixture(autouse=True)
def _few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNKS", 5)


def scenario(breakout: str = "exponential", **changes: str) -> Scenario:
    text = TEXT.replace("BREAKOUT", breakout)
    for old, new in changes.items():
        text = text.replace(f"{old} = ", f"{old} = {new} #")
    return read_scenario(text.encode(), read_measured(shipped()))


def played(terms: Terms, rounds: int, seed: int = 11) -> list[Episode]:
    random = Random(seed)
    return [e for _ in range(rounds) for e in Stage(terms, random).play([random.random() < 0.5 for _ in range(20)])]


def likely(found: int, of: int, predicted: float) -> bool:
    """Whether a right prediction would miss by as much once in a thousand times or more often."""
    return binomtest(found, of, min(1.0, max(0.0, predicted))).pvalue > 1e-3


# --- episodes


@pytest.mark.parametrize(
    "terms",
    [
        Terms(2, 2, 2, 2, 0, 0.0),
        Terms(2, 2, 2, 1, 0, 0.2),
        Terms(3, 3, 3, 2, 1, 0.2),
        Terms(2, 2, 4, 2, 1, 0.3),
    ],
)
def test_convictions_by_the_log_are_those_of_the_closed_form(terms: Terms) -> None:
    episodes = played(terms, 9)
    t = terms
    p, alpha = convict(t.detection, t.false_alarm, t.inspectors, t.quorum, t.corrupt, CONFIRMED, t.confirmers)
    for cheated, predicted in ((True, float(p)), (False, float(alpha))):
        kind = [e.convicted for e in episodes if e.cheated is cheated]
        assert likely(sum(kind), len(kind), predicted)
        assert not likely(sum(kind), len(kind), predicted + 0.3 if predicted < 0.5 else predicted - 0.3)


def test_the_detection_of_one_inspector() -> None:
    terms = Terms(2, 2, 2, 2, 0, 0.0)
    assert terms.detection == pytest.approx(1 - 1 / 1 * _miss(SEGMENTS, CHEATED, 5))


def _miss(n: int, k: int, s: int) -> float:
    out = 1.0
    for i in range(s):
        out *= (n - k - i) / (n - i)
    return out


def test_without_mistakes_no_honest_run_is_ever_convicted() -> None:
    episodes = played(Terms(2, 3, 3, 1, 0, 0.0), 3)
    honest = [e for e in episodes if not e.cheated]
    assert len(honest) > 20
    assert not any(e.convicted for e in honest)


def test_a_corrupt_quorum_frames_the_honest_and_clears_the_guilty() -> None:
    """What corruption buys below the quorum, and at it: P5 says nothing, and everything."""
    below, at = (played(Terms(2, 3, 3, 2, b, 0.0), 2) for b in (1, 2))
    assert not any(e.convicted for e in below if not e.cheated)
    assert any(e.convicted for e in below if e.cheated)
    assert all(e.convicted for e in at if not e.cheated)
    assert not any(e.convicted for e in at if e.cheated)


def test_a_conviction_trips_the_real_brake_and_nothing_else_does() -> None:
    random = Random(3)
    quiet = Stage(Terms(2, 2, 2, 2, 0, 0.0), random)
    quiet.play([False] * 4)
    assert quiet.state.phase is Phase.CLEAR
    tripped = Stage(Terms(2, 2, 2, 2, 0, 0.0), random)
    while not any(e.convicted for e in tripped.play([True] * 6)):
        tripped = Stage(Terms(2, 2, 2, 2, 0, 0.0), random)
    assert tripped.state.phase is not Phase.CLEAR
    # All of it is in the log, and anybody who folds that finds the same.
    state, events = replay(tripped.treaty, tripped.entries)
    assert encode(state) == encode(tripped.state)
    assert not [e for e in events if isinstance(e, Void)]  # everything logged was lawful
    (trip,) = (e for e in events if isinstance(e, Tripped))
    assert trip.entry == next(e.entry for e in events if isinstance(e, Barred))


# --- lives


def game(**changes: float) -> Game:
    fields = dict.fromkeys(Game.__struct_fields__, 0.0)
    return Game(**{**fields, "blocs": 2, "discount": 0.05, "solve": 0.1, "safe": 1.0, **changes})  # type: ignore[arg-type]


def test_a_life_without_inspections_is_the_closed_form() -> None:
    random = Random(1)
    payoffs = []
    for _ in range(20_000):
        with pytest.raises(StopIteration) as e:
            next(life(game(pause_cost=0.02), False, random))
        payoffs.append(e.value.value)
    assert sum(payoffs) / len(payoffs) == pytest.approx((0.1 - 0.02) / 0.15, abs=0.015)


@pytest.mark.parametrize("breakout", ["exponential", "lump"])
@pytest.mark.parametrize("cheating", [False, True])
def test_lives_with_a_coin_for_a_log(breakout: str, cheating: bool) -> None:
    """Many more lives than audits allow: what surrounds the audits is the model, to a few standard errors."""
    s = module.rehearse(scenario(breakout))
    m = build(s)
    rules, random, payoffs = module._game(s, m, 0), Random(5), []
    alpha = float(m.alpha.max())
    met = float(s.values["coverage"][0])
    p = (float(m.p.max()) - (1 - met) * alpha) / met
    for _ in range(15_000):
        one = life(rules, cheating, random)
        try:
            cheats = next(one)
            while True:
                cheats = one.send(random.random() < (p if cheats else alpha))
        except StopIteration as e:
            payoffs.append(e.value)
    predicted = cheat_value(m, channels(m)[0], breakout)[0] if cheating else m.W_C[0]
    assert abs(mean(payoffs) - predicted) < 4 * stdev(payoffs) / len(payoffs) ** 0.5


def test_a_lump_breakout_comes_at_its_time() -> None:
    with pytest.raises(StopIteration) as e:
        next(life(game(breakout=1e-9, prize=7.0), True, Random(1)))
    assert e.value.value == pytest.approx(7.0)


# --- the whole


@pytest.mark.parametrize("breakout", ["exponential", "lump"])
def test_the_closed_forms_hold_on_the_real_core(
    breakout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any change of the log's bytes draws other samples: so many lives, and intervals that a right form hardly misses.
    monkeypatch.setattr(module, "CONFIDENCE", 0.9999)
    found = check(scenario(breakout), tmp_path, episodes=1500)
    assert [c.name for c in found.comparisons if not c.agrees] == []
    assert found.episodes > 1000
    names = [c.name for c in found.comparisons]
    assert names == ["conviction of a cheat", "conviction of the honest", "W_C", "W_T", "W_C - W_T"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_audits(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONFIDENCE", 0.9999)  # of twenty intervals of 99 % one in five misses
    found = check(scenario(), tmp_path, episodes=10_000, seed=seed)
    assert [c.name for c in found.comparisons if not c.agrees] == []
    assert found.simulated_stable is found.predicted_stable


def test_a_wrong_closed_form_would_be_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: the log contradicts a detection that is too low."""
    right = module.build

    def wrong(s: Scenario) -> object:
        m = right(s)
        return type(m)(**{**{n: getattr(m, n) for n in m.__dataclass_fields__}, "p": m.p * 0.4})

    monkeypatch.setattr(module, "build", wrong)
    found = check(scenario(), tmp_path, episodes=1000)
    assert "conviction of a cheat" in [c.name for c in found.comparisons if not c.agrees]


def check(s: Scenario, out: Path, episodes: int, seed: int = 4) -> Simulation:
    return simulate(s, episodes=episodes, seed=seed, out=out, workers=1, progress=lambda done, total: None)


def test_an_interrupted_simulation_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Interrupted

    whole = check(scenario(), tmp_path / "whole", episodes=60)
    with pytest.raises(Interrupted):
        simulate(scenario(), episodes=60, seed=4, out=tmp_path / "cut", workers=1, progress=stop)
    kept = sorted((tmp_path / "cut").glob("chunk-*.json"))
    before = [p.stat().st_mtime_ns for p in kept]
    assert 0 < len(kept) < 5
    assert check(scenario(), tmp_path / "cut", episodes=60) == whole
    assert [p.stat().st_mtime_ns for p in kept] == before
    with pytest.raises(Misuse, match="holds another simulation"):
        check(scenario(), tmp_path / "cut", episodes=200, seed=5)


def test_a_disk_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot write"):
        check(scenario(), tmp_path / "file" / "out", episodes=60)


def test_what_cannot_be_rehearsed_is_refused(tmp_path: Path) -> None:
    independent = TEXT.replace('"BREAKOUT"', '"lump"\nadjudication = "independent"')
    s = read_scenario(independent.encode(), read_measured(shipped()))
    with pytest.raises(Misuse, match="confirmed findings"):
        check(s, tmp_path, episodes=200)
    with pytest.raises(Misuse, match="at most 12 inspectors"):
        check(scenario(inspectors="13"), tmp_path, episodes=200)


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(TEXT.replace("BREAKOUT", "lump"))
    args = [
        "design",
        "simulate",
        str(path),
        "--episodes",
        "200",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "o"),
        "--json",
    ]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert done.return_value in (0, 1)
    found = json.loads((tmp_path / "o" / "simulation.json").read_text())
    assert found["inputs"]["seed"] == 1
    assert len(list((tmp_path / "o").glob("chunk-*.json"))) == 5
    assert set(Chunk.__struct_fields__) == {"cheated", "caught", "honest", "accused", "cheating", "complying"}
