"""Scenarios: what is refused and how it is said, the three that are documented, treaties fitted, and every command."""

import contextlib
import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.cli.main import cli
from brakeline.core.encoding import canonical
from brakeline.core.errors import BrakelineError, Malformed
from brakeline.design.answer import Answer, Treaty, belief_map, solve
from brakeline.design.figures import FIGURES
from brakeline.design.fit import fit, under
from brakeline.design.measured import clean_audits, clopper_pearson, read_measured, shipped
from brakeline.design.model import LUMP, slack, stable
from brakeline.design.parameters import PARAMETERS, TABLE
from brakeline.design.regime import VERDICTS, Verdict
from brakeline.design.scenario import YEAR, Scenario, build, read_scenario
from brakeline.design.sensitivity import claims, sobol
from brakeline.design.standin import rehearsed
from brakeline.design.window import allowed, stable_where

ROOT = Path(__file__).parents[1]
SCENARIOS = ROOT / "examples" / "scenarios"
DEMO = ROOT / "examples" / "treaties" / "demo.toml"
MEASURED = read_measured(shipped())
HEAD = '[scenario]\nname = "t"\ntitle = "test"\npolicy = "verified"\n'


def scenario(text: str = "", head: str = HEAD) -> Scenario:
    return read_scenario((head + text).encode(), MEASURED)


def example(name: str) -> Scenario:
    return read_scenario((SCENARIOS / f"{name}.toml").read_bytes(), MEASURED)


def treaty_of(answer: Answer, inputs: str) -> Treaty:
    return next(t for t in answer.treaties if t.breakout == LUMP and t.inputs == inputs)


# --- the table


def test_the_table_is_sound() -> None:
    assert len({p.symbol for p in TABLE}) == len({p.name for p in TABLE}) == len(TABLE)
    for p in TABLE:
        assert p.low < p.high
        assert all((p.unit, p.meaning, p.source))
        if p.default is None:
            assert p.same_as in PARAMETERS or (p.label == "measured" and p.name in MEASURED)
        else:
            assert p.low <= p.default <= p.high
    assert set(MEASURED) == {p.name for p in TABLE if p.label == "measured"}


def test_the_documented_table_is_this_one() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    for p in TABLE:
        row = next((line for line in page.splitlines() if line.startswith(f"| `{p.name}` |")), None)
        assert row is not None, f"docs/design.md has no row for {p.name}"
        assert f"| {p.symbol} |" in row
        assert f"| {p.low:.3g} to {p.high:.3g} |" in row
        assert p.label in row


# --- refusals


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("[parameters]\nlosss = 2\n", "parameters.losss: no such parameter", "did you mean loss?"),
        ("[parameters]\nzzz = 2\n", "parameters.zzz: no such parameter", "brakeline design parameters"),
        ("[parameters]\nloss = 12\n", "parameters.loss: 12 is out of range: 0 to 10 prizes", "catastrophe"),
        ("[parameters]\nloss = nan\n", "parameters.loss: nan is out of range: 0 to 10 prizes", ""),
        ("[parameters]\nloss = inf\n", "out of range", ""),
        ("[parameters]\nrisk = -0.1\n", "parameters.risk: -0.1 is out of range: 0.004 to 0.5", ""),
        ("[parameters]\nloss = true\n", "parameters.loss: must be a number, not True", ""),
        ('[parameters]\nloss = "2"\n', "parameters.loss: must be a number, not '2'", ""),
        ("[parameters]\nquorum = 2.5\n", "2.5 is not a whole number", ""),
        ("[parameters]\nquorum = 5\n", "parameters.quorum: 5 is out of range: 1 to 3", ""),
        ("[parameters]\ncorrupt = 4\n", "parameters.corrupt: 4 is out of range: 0 to 3", ""),
        ("[parameters]\nconfirmers = 2\n", "confirmers: 2 is out of range: 3 to 64", ""),
        ("[parameters]\ncovert_risk = 0.3\n", "party A: covert_risk: 0.3 is out of range", ""),
        ("[parameters]\ncovert_risk = 0.1\n", "risk x (1 - solo_relief) to risk, 0.14 to 0.2", ""),
        ("[parameters]\nshared_value = 0.4\n", "party A: shared_value: 0.4 is out of range: 1/2 to 0.9", ""),
        ('[[party]]\nname = "A"\nshare = 1.0\n', "allowed are 2 to 12", ""),
        ('[[party]]\nname = "A"\nshare = 0.5\n[[party]]\nname = "B"\nshare = 0.4\n', "add up to 0.9, not to 1", ""),
        ('[[party]]\nname = "A"\nshare = 0.5\n[[party]]\nname = "A"\nshare = 0.5\n', "a printable name of its own", ""),
        ('[[party]]\nname = "A"\nshare = 0\n[[party]]\nname = "B"\nshare = 1\n', "share: 0 is out of range", ""),
        (
            '[[party]]\nname = "A"\nshare = 0.5\nleakage = 0.1\n[[party]]\nname = "B"\nshare = 0.5\n',
            "party A.leakage: is the same for all parties",
            "",
        ),
        (
            '[[party]]\nname = "A"\nshare = 0.5\nloss = 11\n[[party]]\nname = "B"\nshare = 0.5\n',
            "party A.loss: 11 is out of range: 0 to 10",
            "",
        ),
        ("[treaty]\nx = 1\n", "unknown field `treaty`", "brakeline design parameters"),
        (f"[parameters]\nloss = 1{'0' * 400}\n", "parameters.loss: inf is out of range: 0 to 10 prizes", ""),
        (f'[[party]]\nname = "A"\nshare = 1{"0" * 400}\n' * 2, "party A: share: inf is out of range", ""),
        ("oops", "not TOML", ""),
        ('[party]\nname = "A"\n', "Expected `array`, got `object` - at `$.party`", "[[party]]"),
    ],
)
def test_a_bad_scenario_is_named(text: str, said: str, hint: str) -> None:
    with pytest.raises(Malformed) as e:
        scenario(text)
    assert said in str(e.value)
    assert hint in e.value.hint


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ('[scenario]\nname = "t"\ntitle = "t"\npolicy = "unilateral"\n', "names the party that pauses alone"),
        ('[scenario]\nname = "t"\ntitle = "t"\npolicy = "unilateral"\npauses = "C"\n', "there is no party 'C'"),
        ('[scenario]\nname = "t"\ntitle = "t"\npolicy = "verified"\npauses = "A"\n', "and no other"),
        ('[scenario]\nname = "t"\ntitle = "t"\npolicy = "hope"\n', "must be one of unilateral, coordinated, verified"),
        ('[scenario]\nname = "t"\ntitle = ""\npolicy = "verified"\n', "scenario.title: must be printable"),
        ('[scenario]\nname = "t"\npolicy = "verified"\n', "missing required field `title`"),
        (HEAD + 'breakout = "sudden"\n', "scenario.breakout: must be one of exponential, lump"),
    ],
)
def test_a_bad_head_is_named(head: str, said: str) -> None:
    with pytest.raises(Malformed, match=said.replace("(", r"\(")):
        scenario(head=head)


def test_an_empty_scenario_is_told_how_to_begin() -> None:
    with pytest.raises(Malformed) as e:
        scenario(head="")
    assert "[scenario]" in e.value.hint


@settings(max_examples=150)
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda t: (HEAD + t).encode("utf-8", "ignore")))
def test_no_scenario_makes_a_traceback(data: bytes) -> None:
    with contextlib.suppress(BrakelineError):
        read_scenario(data, MEASURED)


VALUES = st.one_of(st.floats(), st.integers(-5, 500), st.booleans(), st.text(max_size=3))


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), VALUES, max_size=5))
def test_what_is_accepted_lies_in_the_ranges(wanted: dict[str, Any]) -> None:
    lines = [f"{k} = {json.dumps(v) if not isinstance(v, float) else repr(v)}" for k, v in wanted.items()]
    try:
        s = scenario("[parameters]\n" + "\n".join(lines) + "\n")
    except Malformed:
        return
    for name in wanted:
        assert PARAMETERS[name].low <= s.values[name].min() <= s.values[name].max() <= PARAMETERS[name].high
    assert np.isfinite(slack(build(s), s.breakout)).all()


# --- measured inputs


def test_bounds_of_what_was_counted() -> None:
    assert clopper_pearson(0, 50)[1] == pytest.approx(1 - 0.05 ** (1 / 50))
    assert clopper_pearson(20, 20) == pytest.approx((0.05 ** (1 / 20), 1))
    assert clean_audits(0.058156) == 50
    assert clean_audits(0.058155) == 51
    assert MEASURED["detection"].bound == pytest.approx(0.861, abs=1e-3)
    assert MEASURED["false_alarm"].bound == pytest.approx(0.058, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        ("found = 20", "found = 21"),
        ("of = 50", "of = 0"),
        ("of = 50", f"of = 1{'0' * 400}"),
        ("worst = 0.162", "worst = 0.01"),
    ],
)
def test_impossible_measurements_are_refused(change: tuple[str, str]) -> None:
    with pytest.raises(Malformed, match="measured inputs"):
        read_measured(shipped().replace(change[0].encode(), change[1].encode()))


def test_a_value_that_was_not_measured_is_labelled_so() -> None:
    assert scenario().label("detection") == "measured"
    assumed = scenario("[parameters]\ndetection = 0.99\n")
    assert assumed.label("detection") == "assumption"
    assert assumed.at_bounds().values["detection"] == 0.99
    assert solve(assumed).values["detection"]["label"] == "assumption"


def test_better_measurements_widen_what_a_treaty_may_be() -> None:
    text = (SCENARIOS / "verified.toml").read_bytes()
    few, many = (
        read_scenario(text, read_measured(shipped().replace(b"of = 50", f"of = {n}".encode()))) for n in (40, 2000)
    )
    narrow, wide = (stable_where(s.at_bounds(), "inspections", LUMP)[0] for s in (few, many))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


# --- the three scenarios, and where each claim fails


def test_a_lone_pause_is_counterproductive() -> None:
    answer = solve(example("unilateral"))
    assert answer.holds
    (careful,) = (a for a in answer.alone if a.party == "careful")
    assert careful.privately_worse
    assert careful.globally_worse
    assert (careful.catastrophe_race, careful.catastrophe_alone) == pytest.approx((0.20, 0.27))


@pytest.mark.parametrize(
    ("old", "new"),
    [("solo_relief = 0.1", "solo_relief = 0.35"), ("risk = 0.3", "risk = 0.1"), ("share = 0.5", "share = 0.1")],
)
def test_where_the_claim_about_a_lone_pause_fails(old: str, new: str) -> None:
    text = (SCENARIOS / "unilateral.toml").read_text()
    assert old in text
    text = text.replace(old, new, 1)
    if "share" in new:  # the shares add up to 1
        text = text.replace("share = 0.5", "share = 0.9", 1)
    answer = solve(scenario(head=text))
    (careful,) = (a for a in answer.alone if a.party == "careful")
    assert careful.privately_worse
    assert not careful.globally_worse
    assert not answer.holds


def test_a_coordinated_pause_without_inspections_is_unstable() -> None:
    answer = solve(example("coordinated"))
    assert answer.holds
    assert {p.regime for p in answer.parties} == {"prisoner's dilemma"}
    assert answer.stable_coalitions == ((),)


@pytest.mark.parametrize(("loss", "said"), [(0.5, "not worth it"), (6, "stable without verification")])
def test_where_the_claim_about_a_coordinated_pause_fails(loss: float, said: str) -> None:
    text = (SCENARIOS / "coordinated.toml").read_text().replace("loss = 2", f"loss = {loss}")
    answer = solve(scenario(head=text))
    assert not answer.holds
    assert said in answer.headline


def test_a_verified_conditional_pause_is_an_equilibrium() -> None:
    answer = solve(example("verified"))
    assert answer.holds
    assert all(t.stable for t in answer.treaties)
    bounds = treaty_of(answer, "bounds")
    assert bounds.inspections[0][0] < 12 < bounds.inspections[0][1]
    assert bounds.smallest_quorum == 4
    assert answer.pledged == ("A", "B")


@pytest.mark.parametrize(
    "change",
    [
        ("inspections = 12", "inspections = 3"),
        ("inspections = 12", "inspections = 120"),
        ("quorum = 4", "quorum = 3"),
        ("corrupt = 1", "corrupt = 2"),
        ("breakout = 0.25 ", "breakout = 0.1 "),
        ("residual = 0.02", "residual = 0.05"),
        ("loss = 2", "loss = 0.8"),
        ("coverage = 0.5", "coverage = 0.1"),
    ],
)
def test_where_the_claim_about_a_verified_pause_fails(change: tuple[str, str]) -> None:
    text = (SCENARIOS / "verified.toml").read_text()
    assert change[0] in text
    assert not solve(scenario(head=text.replace(*change))).holds


def test_verified_differs_from_coordinated_by_the_treaty_alone() -> None:
    a, b = example("coordinated"), example("verified")
    different = {n for n in a.values if (a.values[n] != b.values[n]).any()}
    beliefs = {p.name for p in TABLE if p.label == "belief"}
    assert not different & beliefs


def test_it_can_say_that_no_verification_is_needed_and_not_to_pause() -> None:
    said = [treaty_of(solve(scenario(f"[parameters]\nloss = {d}\n")), "bounds").verdict for d in (0.5, 2, 4, 9)]
    assert said[0] == Verdict.DO_NOT_PAUSE
    assert said[2] == Verdict.NO_VERIFICATION
    assert said[3] == Verdict.DOMINANT


def test_an_invalid_region_is_reported_and_not_passed_off_as_self_enforcing() -> None:
    answer = solve(scenario("[parameters]\nloss = 0.5\n"))
    assert {(p.required_rate, p.required_detection) for p in answer.parties} == {(None, None)}
    at = example("verified")
    codes = belief_map(at, risk=np.array([0.2]), loss=np.array([0.5]))
    assert VERDICTS[codes[0, 0]] is Verdict.DO_NOT_PAUSE


def test_each_window_ends_where_stability_does() -> None:
    s = example("verified").at_bounds()
    for name, found in solve(example("verified")).levers.items():
        p = PARAMETERS[name]
        for low, high in found:
            inside = {name: np.array([(low + high) / 2 if not p.whole else low])}
            assert stable(build(s, inside), LUMP)
            for end, step in ((low, -1), (high, 1)):
                beyond = end + step * 1e-5 * (p.high - p.low)
                if allowed(s, name)[0] < beyond < allowed(s, name)[1] and not p.whole:
                    assert not stable(build(s, {name: np.array([beyond])}), LUMP), name


# Where background detection finds what nothing else can.
GAP = """[parameters]
loss = 3.2
background = 0.1
fine = 0.05
breakout = 0.25
covert_speed = 0.05
inspection_cost = 0.0001
split_speed = 0.0
residual = 0.0
"""
SHORT_OF_ONE = "[parameters]\ninspectors = 3\nconfirmers = 6\nquorum = 4\ncorrupt = 2\ncovert_risk = 0.15\n"


def test_a_window_holds_only_what_a_scenario_may_say() -> None:
    """Its ends, written into the scenario, are accepted: no quorum above its inspectors."""
    s = scenario(SHORT_OF_ONE)
    for name in ("inspectors", "confirmers", "quorum", "corrupt", "risk", "covert_risk", "solo_relief"):
        p = PARAMETERS[name]
        for end, step in zip(allowed(s, name), (-1, 1), strict=True):
            kept = [row for row in SHORT_OF_ONE.splitlines() if not row.startswith(f"{name} =")]
            for value, fits in ((end, True), (end + (step if p.whole else step * 1e-6), False)):
                text = "\n".join([*kept, f"{name} = {int(value) if p.whole else value}\n"])
                if fits:
                    scenario(text)
                else:
                    with pytest.raises(Malformed, match=r"out of range"):
                        scenario(text)


def test_a_lever_that_parties_cannot_share_is_not_said_to_fail() -> None:
    """Parties of such different risks have no covert risk in common, and the treaty is stable nevertheless."""
    text = (SCENARIOS / "verified.toml").read_text()
    parties = "".join(f'[[party]]\nname = "{n}"\nshare = 0.5\nrisk = {q}\n' for n, q in (("A", 0.19), ("B", 0.4)))
    s = scenario(head=text + parties)
    answer = solve(s)
    assert treaty_of(answer, "bounds").stable
    assert "covert_risk" not in answer.levers
    assert all(answer.levers.values())


def test_a_pause_that_nobody_should_enter_binds_nobody() -> None:
    answer = solve(scenario("[parameters]\nloss = 0.5\n"))
    assert treaty_of(answer, "bounds").verdict == Verdict.DO_NOT_PAUSE
    assert answer.pledged == ()
    assert {p.joins_at for p in answer.parties} == {None}


def test_pledges_to_a_pause_that_cheats_end_are_said_to_be_in_vain(tmp_path: Path) -> None:
    path = str(SCENARIOS / "coordinated.toml")
    assert not treaty_of(solve(example("coordinated")), "bounds").stable
    assert "the pause that follows is not stable" in run("answer", path)
    assert "the pause that follows is not stable" not in run("answer", str(SCENARIOS / "verified.toml"))


def test_no_coalition_is_called_stable_that_cheating_ends() -> None:
    """Between D3 and D2 nobody would leave in the open, and each would race in secret."""
    text = "[parameters]\ncovert_risk = 0.14\nbackground = 0\ninspections = 0\nloss = "
    assert solve(scenario(text + "5.1\n")).stable_coalitions == ((),)
    assert solve(scenario(text + "5.4\n")).stable_coalitions == ((), ("A", "B"))


def test_inspections_that_break_what_would_hold_without_them_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(HEAD + "[parameters]\nloss = 4\ninspections = 100\nfalse_alarm = 0.1\n")
    answer = solve(read_scenario(path.read_bytes(), MEASURED))
    bounds = treaty_of(answer, "bounds")
    assert bounds.verdict == Verdict.NO_VERIFICATION
    assert not bounds.stable
    assert "at this rate of inspections unstable" in answer.headline
    assert "no verification needed; at this rate of inspections unstable" in run("answer", str(path))


def test_private_triggers_do_worse_than_a_public_one() -> None:
    text = "[parameters]\ninspections = 12\nfalse_alarm = 0.02\n"
    parties = "".join(f'[[party]]\nname = "{n}"\nshare = 0.25\n' for n in "ABCD")
    public = scenario(text + parties)
    private = scenario(text + parties, HEAD + 'trigger = "private"\n')
    assert build(private).alpha > 10 * build(public).alpha
    assert slack(build(private), LUMP).min() < slack(build(public), LUMP).min()


def test_twelve_parties_are_answered() -> None:
    shares = [0.2, 0.15, 0.12, 0.1, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04, 0.02, 0.01]
    parties = "".join(f'[[party]]\nname = "P{i}"\nshare = {x}\nloss = {2 + i / 4}\n' for i, x in enumerate(shares))
    answer = solve(scenario("[parameters]\ninspections = 30\n" + parties))
    assert len(answer.parties) == len(answer.alone) == 12
    assert all(p.joins_at is None or 1 <= p.joins_at <= 12 for p in answer.parties)


# --- treaties


def test_a_treaty_that_admits_attested_runs_or_a_large_residual_does_not_fit() -> None:
    s, demo = example("verified"), DEMO.read_bytes()
    found = fit(rehearsed(demo), s, bounds=False)
    assert not found.stable
    assert {c.condition for c in found.checks if not c.holds} == {"hide", "attested"}
    assert set(found.together or {}) == {"residual", "attested_runs"}
    assert found.binds == ("A", "attested")
    assert found.verdict != Verdict.STABLE
    better = demo.replace(b'residual = "5 %"', b'residual = "2.5 %"').replace(
        b"attested_runs = true", b"attested_runs = false"
    )
    mended = fit(rehearsed(better), s, bounds=False)
    assert mended.stable
    assert mended.together == {}


def test_a_proposal_would_hold_and_its_outside_would_not() -> None:
    demo = DEMO.read_bytes().replace(b"attested_runs = true", b"attested_runs = false")
    found = fit(rehearsed(demo), example("verified"), bounds=False)
    ((low, high),) = next(p.allowed for p in found.proposals if p.key == "audit.residual")
    assert low == 0
    for residual, holds in ((high * 0.999, True), (high * 1.001, False)):
        text = demo.replace(b'residual = "5 %"', f'residual = "{residual:.4f} %"'.encode())
        assert fit(rehearsed(text), example("verified"), bounds=False).stable is holds


def test_what_a_treaty_decides_is_taken_from_it() -> None:
    t = rehearsed(DEMO.read_bytes())
    s = under(t, example("verified"))
    assert (s.values["inspectors"], s.values["confirmers"], s.values["quorum"], s.values["corrupt"]) == (2, 3, 2, 1)
    assert s.values["residual"] == 0.05
    assert s.values["detection"] == 0.95  # the treaty promises no more, whatever was measured
    assert s.values["inspections"] == 12
    # A permit's lifetime, the age of a signer's view, and what clocks may differ: 10 s, 5 s and 30 s.
    assert s.values["permit_lifetime"] * YEAR == pytest.approx(45)


# --- sensitivity


def test_beliefs_decide() -> None:
    """Total Sobol indices of the margin at one conviction a year, over the ranges of the table."""
    s = scenario("[parameters]\ninspections = 0\n", HEAD + 'breakout = "exponential"\n')
    s = replace(s, values={**s.values, "background": np.ones(1)})
    factors = (
        "risk",
        "loss",
        "arrival_rate",
        "fine",
        "safety_rate",
        "discount",
        "shared_value",
        "pause_cost",
        "leakage",
    )
    found = {i.factor: i for i in sobol(s, samples=2048, seed=3, factors=factors).indices}
    assert found["risk"].total == pytest.approx(0.6, abs=0.08)
    assert found["loss"].total == pytest.approx(0.45, abs=0.08)
    assert all(found[name].total < 0.06 for name in factors[2:])


def test_a_seed_gives_the_same_analysis() -> None:
    s = example("verified")
    first, again, other = (sobol(s, samples=128, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_the_usual_claims_hold_for_some_beliefs_only() -> None:
    found = claims(example("verified"), draws=50_000, seed=1)
    assert 0.4 < found.lone_pause_irrational < 0.8
    assert found.pause_beats_race > 0.7
    assert found.of_those_unverified_unstable < 0.35  # most shared pauses need no verification: state the prior
    assert found.of_those_stable_when_verified > 0.8


# --- commands


def run(*args: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli, ["design", *args], standalone_mode=False, catch_exceptions=True)
    if done.exception:
        raise done.exception
    assert (done.return_value or 0) == status, done.output
    return done.output


def test_the_group_lists_without_loading_numpy() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from brakeline.cli.main import cli; "
        "cli(['design', '--help'], standalone_mode=False); print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "sensitivity" in done.stdout


@pytest.mark.parametrize("name", ["unilateral", "coordinated", "verified"])
def test_answer(name: str, tmp_path: Path) -> None:
    path = str(SCENARIOS / f"{name}.toml")
    text = run("answer", path, "--out", str(tmp_path))
    assert "P1 pausing alone" in text
    assert "measured inputs at their bounds" in text
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert json.loads(run("answer", path, "--json")) == answer
    canonical(answer)  # finite throughout
    assert all(type(x["globally_worse"]) is bool for x in answer["alone"])
    rows = list(csv.DictReader((tmp_path / "map.csv").open()))
    assert len({r["verdict"] for r in rows}) >= 4
    levers = {r["parameter"] for r in csv.DictReader((tmp_path / "levers.csv").open())}
    assert levers == {name for name, found in answer["levers"].items() if found}
    assert "inspections" in levers


def test_fit_says_no_with_its_status() -> None:
    text = run("fit", str(SCENARIOS / "verified.toml"), "--treaty", str(DEMO), status=1)
    assert "FAILS  hide" in text
    assert "audit.attested_runs = false" in text


def test_compare() -> None:
    pair = [str(SCENARIOS / f"{n}.toml") for n in ("coordinated", "verified")]
    rows = json.loads(run("compare", *pair, "--json"))
    assert {"what": "inspections (choice)", "first": "0", "second": "12"} in rows
    assert "verdict on the policy" in run("compare", *pair)


def test_compare_shows_every_difference(tmp_path: Path) -> None:
    """What the head says, and who the parties are; names in brackets are no markup."""
    a, b = tmp_path / "a.toml", tmp_path / "b.toml"
    parties = "".join(f'[[party]]\nname = "{n}"\nshare = {x}\n' for n, x in (("[/x]", 0.4), ("y", 0.6)))
    a.write_text(HEAD)
    b.write_text(HEAD.replace('"t"', '"[/red]"') + 'trigger = "private"\nbreakout = "exponential"\n' + parties)
    rows = {row["what"]: (row["first"], row["second"]) for row in json.loads(run("compare", str(a), str(b), "--json"))}
    assert rows["trigger"] == ("public", "private")
    assert rows["breakout assumed"] == ("lump", "exponential")
    assert rows["parties and shares"] == ("A 0.5, B 0.5", "[/x] 0.4, y 0.6")
    assert "policy" not in rows
    assert "[/red]" in run("compare", str(a), str(b))


def test_sensitivity(tmp_path: Path) -> None:
    text = run("sensitivity", str(SCENARIOS / "verified.toml"), "--samples", "64", "--out", str(tmp_path))
    assert "seed 1, 64 samples" in text
    assert (tmp_path / "sobol.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(BrakelineError, match="not a power of two"):
        run("sensitivity", str(SCENARIOS / "verified.toml"), "--samples", "100")


@pytest.mark.parametrize("kind", list(FIGURES))
def test_plot(kind: str, tmp_path: Path) -> None:
    run("plot", str(SCENARIOS / "verified.toml"), "--kind", kind, "--format", "png", "--out", str(tmp_path))
    assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_a_gap_between_two_windows_is_not_drawn_as_stable() -> None:
    """Few inspections hold, being cheap; many hold, being seen; those between do neither."""
    s = scenario(GAP)
    gap = stable_where(s, "inspections", s.breakout, {"false_alarm": np.array([0.05])})
    assert len(gap) == 2
    between = (gap[0][1] + gap[1][0]) / 2
    (drawn,) = (c for c in FIGURES["window"](s).axes[0].collections if "lump" in str(c.get_label()))
    rates = (gap[0][1] / 2, between, sum(gap[1]) / 2)
    assert [any(p.contains_point((0.05, y)) for p in drawn.get_paths()) for y in rates] == [True, False, True]


def test_a_plot_is_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("plot", str(SCENARIOS / "verified.toml"), "--kind", "roc", "--format", "png", "--out", str(tmp_path / name))
    assert (tmp_path / "a" / "roc.png").read_bytes() == (tmp_path / "b" / "roc.png").read_bytes()


def test_parameters() -> None:
    rows = json.loads(run("parameters", "--json"))
    assert [r["name"] for r in rows] == [p.name for p in TABLE]
    assert "arrival_rate" in run("parameters")


def test_errors_of_the_commands(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(HEAD + "[parameters]\nloss = 12\n")
    with pytest.raises(BrakelineError, match=r"bad.toml: parameters.loss: 12 is out of range: 0 to 10"):
        run("answer", str(bad))
    with pytest.raises(BrakelineError, match="cannot read"):
        run("answer", str(tmp_path / "none.toml"))


def test_the_scenarios_carry_no_number_twice() -> None:
    for path in SCENARIOS.glob("*.toml"):
        raw = tomllib.loads(path.read_text())
        assert raw["scenario"]["name"] == path.stem
