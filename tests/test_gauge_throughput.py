"""G2: a planted ratio is found again, and nobody can make one alone: not by imports, reformatting, names or periods."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from brakeline.cli.gauge.throughput import command
from brakeline.core.encoding import canonical
from brakeline.core.errors import Misuse, Refused
from brakeline.core.measurement import Measurement, read_measurement
from brakeline.gauges.git.blame import open_cache
from brakeline.gauges.git.history import Commit
from brakeline.gauges.git.repository import open_repository
from brakeline.gauges.throughput.calendar import Quarter, between, parse_quarter, parse_years, quarter_at
from brakeline.gauges.throughput.measure import CAVEAT, measure
from brakeline.gauges.throughput.people import Identity, credited, join
from brakeline.gauges.throughput.plot import figure
from brakeline.gauges.throughput.ratio import ratio
from planted import Planted, git, lines, when

TEAM = [f"Engineer Number{i}" for i in range(8)]
BASE, NOW = ["2024-02", "2024-08"], "2025-05"  # two quarters of the base, and the measured one


def of(name: str) -> Identity:
    return name, f"{name.replace(' ', '.').lower()}@example.org"


class Team(Planted):
    """A history in which everybody works on six days of a month, in files of his own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commit({"README.md": "start\n"}, at=when("2023-12-30"))

    def month(self, month: str, each: Mapping[Identity, int], *, days: int = 6) -> None:
        """Each identity merges so many lines in that month."""
        for (name, email), count in each.items():
            tag = f"{''.join(filter(str.isalnum, name + email))}_{month.replace('-', '_')}"
            for day in range(days):
                text = lines(tag, count * (day + 1) // days)
                self.commit({f"src/{tag}.py": text}, author=(name, email), at=when(f"{month}-{day + 2:02}"))

    def whole(self, factor: float, *, seed: int = 1) -> "Team":
        """Base and now, with factor times as many lines now; people differ, and some come and go."""
        rng = np.random.default_rng(seed)
        usual = {name: rng.lognormal(3.0, 0.5) for name in TEAM}
        for month in BASE:
            self.month(month, {of(n): 6 + int(usual[n] * rng.lognormal(0, 0.2)) for n in TEAM[:7]})
        self.month(NOW, {of(n): int(factor * (6 + usual[n] * rng.lognormal(0, 0.2))) for n in TEAM[1:]})
        return self

    def end(self, day: str = "2025-09-01") -> "Team":
        """Something later, so that the quarter is over and thirty days have passed."""
        self.commit({"README.md": f"{day}\n"}, at=when(day))
        self.write()
        return self


def gauge(*teams: Planted, quarter: str | None = "2025Q2", base: str = "2024") -> Measurement:
    return measure([open_repository(t.path) for t in teams], base=base, quarter=quarter)


# --- a planted truth is found


def test_a_planted_eightfold_is_found(tmp_path: Path) -> None:
    m = gauge(Team(tmp_path / "r").whole(8.0).end())
    assert m.lower <= 8 <= m.upper
    assert m.lower > 4
    assert m.details["engineers"] == {"base": 7, "now": 7}
    assert m.details["caveat"] == CAVEAT
    assert m.details["also"]["median_after_30_days"]["value"] == m.value  # nothing was deleted
    assert m.details["also"]["median_without_ai"]["value"] == m.value
    assert m.details["also"]["mean"]["lower"] <= 8 <= m.details["also"]["mean"]["upper"]
    assert set(m.details["quarters"]) == {"2024Q1", "2024Q3", "2025Q2"}
    assert read_measurement(canonical(m)) == m


def test_a_team_that_works_as_before_does_not_trip_it(tmp_path: Path) -> None:
    m = gauge(Team(tmp_path / "r").whole(1.0).end())
    assert m.lower <= 1 <= m.upper
    assert m.verdict == "below"


def test_lines_deleted_within_thirty_days_show_beside(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(8.0)
    gone = {f"src/EngineerNumber{i}engineernumber{i}exampleorg_2025_05.py": None for i in range(1, 8)}
    t.commit(gone, at=when("2025-07-20"))
    m = gauge(t.end())
    assert m.value > 4  # they survived to the quarter's end
    assert m.details["also"]["median_after_30_days"]["value"] == 0


def test_without_the_days_after_it_there_is_no_figure_of_what_lasts(tmp_path: Path) -> None:
    m = gauge(Team(tmp_path / "r").whole(2.0).end("2025-07-02"), quarter=None)
    assert m.inputs["quarter"] == "2025Q2"  # the last one that is over
    assert m.details["also"]["median_after_30_days"] is None


# --- the interval


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(150):
        people = [f"p{i}" for i in range(12)]
        usual = rng.lognormal(3, 0.6, size=12)
        base = dict(zip(people, usual * rng.lognormal(0, 0.2, 12), strict=True))
        now = dict(zip(people, 8 * usual * rng.lognormal(0, 0.2, 12), strict=True))
        r = ratio(base, now)
        hits += r.lower <= 8 <= r.upper
    assert hits >= 0.93 * 150


@given(
    st.lists(st.floats(1, 50), min_size=5, max_size=9),
    st.integers(0, 4),
    st.floats(0, 1e9),
)
def test_nobody_trips_it_alone(rates: list[float], who: int, alone: float) -> None:
    """Whatever one engineer does, the lower bound stays at what the others did: as before."""
    base = {f"p{i}": rate for i, rate in enumerate(rates)}
    cheat = f"p{who}"
    assert ratio(base, base | {cheat: alone}).lower <= 1 + 1e-9
    assert ratio(base, base | {cheat: 1e9}, np.nanmean).value > 8  # where a mean would trip


def test_fewer_than_five_give_no_answer() -> None:
    five = {f"p{i}": 1.0 for i in range(5)}
    four = dict(list(five.items())[:4])
    assert ratio(five, five).value == 1
    for base, now in ((four, five), (five, four), ({}, five)):
        with pytest.raises(Refused, match="each needs 5"):
            ratio(base, now)
    with pytest.raises(Refused, match="next to nothing"):
        ratio(dict.fromkeys(five, 0.0), five)


# --- what must not fool it


def test_one_maintainer_is_no_team(tmp_path: Path) -> None:
    t = Team(tmp_path / "r")
    for month, count in ((BASE[0], 10), (NOW, 200)):
        t.month(month, {of(TEAM[0]): count})
    with pytest.raises(Refused, match="1 engineers in the base period and 1 now"):
        gauge(t.end())


NAMES = [
    ("Jane Doe", "jane.doe@work.example"),
    ("Jane Doe", "jane@home.example"),
    ("jdoe", "jane.doe@old.example"),
    ("Jane D", "4711+jdoe@users.noreply.github.com"),
    ("J. Doe", "root@laptop"),
]
MAILMAP = """\
Jane Doe <jane@home.example> <4711+jdoe@users.noreply.github.com>
Jane Doe <jane@home.example> J. Doe <root@laptop>
"""


def test_one_person_under_five_addresses_is_one_person(tmp_path: Path) -> None:
    t = Team(tmp_path / "r")
    for month, count in ((BASE[0], 10), (NOW, 200)):
        t.month(month, dict.fromkeys(NAMES, count))
    t.write()
    assert len(git(t.path, "shortlog", "-se", "HEAD").splitlines()) == 5 + 1  # by address, a team
    t.commit({".mailmap": MAILMAP}, at=when("2025-06-20"))
    with pytest.raises(Refused, match="1 engineers in the base period and 1 now"):
        gauge(t.end())


def test_persons_are_joined_by_what_is_specific_only() -> None:
    people = join([*NAMES, ("Jane Roe", "jane@other.example"), ("J. Doe", "root@server")], [MAILMAP])
    assert len({people.person(identity) for identity in NAMES}) == 1
    assert people.person(("Jane Roe", "jane@other.example")) != people.person(NAMES[0])
    strangers = [("Michael Smith", "michael@a.example"), ("Michael Jones", "michael@b.example")]
    strangers += [("Your Name", "you@example.com"), ("unknown", "root@localhost"), ("root", "root@localhost")]
    assert len({join(strangers, []).person(s) for s in strangers}) == 5
    assert join([], ["# comment\n<a@b.c>\nbroken\n"]).person(("X", "x@y.z"))


@given(st.permutations(NAMES))
def test_joining_does_not_depend_on_the_order(names: list[Identity]) -> None:
    assert join(names, [MAILMAP]).person(names[0]) == join(NAMES, [MAILMAP]).person(NAMES[0])


def test_a_bulk_import_moves_the_mean_and_not_the_median(tmp_path: Path) -> None:
    honest, bulk = Team(tmp_path / "honest").whole(1.0), Team(tmp_path / "bulk").whole(1.0)
    library = {f"lib/{i}.py": lines(f"lib{i}", 2300) for i in range(8)}
    bulk.commit(library, author=of(TEAM[3]), at=when("2025-05-20"))
    expected, m = gauge(honest.end()), gauge(bulk.end())
    assert m.details["also"]["mean"]["value"] > 8  # the import alone would trip a mean
    assert m.details["capped_lines"] == 8 * 300
    assert m.verdict == "below"
    assert m.value < 1.5 * expected.value


def test_reformatting_and_moving_merge_nothing(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(1.0)
    old = {n: f"src/EngineerNumber{i}engineernumber{i}exampleorg_2024_02.py" for i, n in enumerate(TEAM[:7])}
    for i, path in enumerate(old.values()):
        text = git(t.write().path, "show", f"HEAD:{path}") + "\n"
        tabs = "".join(f"\t{row}\n\n" for row in text.splitlines())
        t.commit({path: None, f"moved/{i}.py": tabs}, author=of(TEAM[(i + 1) % 7]), at=when("2025-06-02"))
    assert gauge(t.end()).value == gauge(Team(tmp_path / "still").whole(1.0).end()).value


def test_taking_out_and_putting_back_merges_nothing(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(1.0)
    for i in range(7):
        path = f"src/EngineerNumber{i}engineernumber{i}exampleorg_2024_02.py"
        text = git(t.write().path, "show", f"HEAD:{path}") + "\n"
        t.commit({path: None}, at=when("2025-06-02"), author=of(TEAM[i]))
        t.commit({path: text}, at=when("2025-06-03"), author=of(TEAM[i]))
    m = gauge(t.end())
    assert m.details["restored_lines"] > 100
    assert m.value == gauge(Team(tmp_path / "still").whole(1.0).end()).value


def test_bots_are_nobody(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(1.0)
    expected = gauge(Team(tmp_path / "still").whole(1.0).end())
    bots = [(f"{n}[bot]", f"1+{n}[bot]@users.noreply.github.com") for n in ("dependabot", "renovate", "weblate")]
    t.month("2025-05", dict.fromkeys([*bots, ("pre-commit-ci", "x@ci")], 3000))
    m = gauge(t.end())
    assert (m.value, m.details["engineers"]) == (expected.value, expected.details["engineers"])
    assert m.details["bot_lines"] == 4 * 3000


def commit_by(author: Identity, committer: Identity, message: str = "work") -> Commit:
    return Commit("a" * 40, (), author, committer, 0, 0, message)


ADA, AGENT = ("Ada Lovelace", "ada@example.org"), ("Devin AI", "1+devin-ai-integration[bot]@users.noreply.github.com")
WEB = ("GitHub", "noreply@github.com")


@pytest.mark.parametrize(
    ("commit", "who"),
    [
        (commit_by(ADA, WEB), ADA),
        (commit_by(AGENT, ADA), ADA),
        (commit_by(AGENT, WEB, "x\n\nCo-authored-by: Ada Lovelace <ada@example.org>"), ADA),
        (commit_by(AGENT, WEB), None),
        (commit_by(AGENT, AGENT, "x\n\nCo-authored-by: Claude <noreply@anthropic.com>"), None),
        (commit_by(("Ada Lovelace (aider)", "ada@example.org"), WEB), ADA),
        (commit_by(("renovate[bot]", "bot@renovateapp.com"), ADA), None),
    ],
)
def test_whose_work_a_commit_is(commit: Commit, who: Identity | None) -> None:
    assert credited(commit) == who


def test_agents_are_no_engineers_but_their_work_is_somebodys(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(1.0)
    agents = [AGENT, ("Claude", "noreply@anthropic.com"), ("aider (m)", "aider@aider.chat")]
    t.month(NOW, dict.fromkeys(agents, 400))
    for i, name in enumerate(TEAM[1:]):
        for day in range(6):
            text = lines(f"ai{i}", 50 * (day + 1))
            t.commit({f"ai/{i}.py": text}, author=AGENT, committer=of(name), at=when(f"2025-06-{day + 2:02}"))
    m = gauge(t.end())
    assert m.details["engineers"]["now"] == 7
    assert m.details["uncredited_lines"] == 3 * 400
    without = m.details["also"]["median_without_ai"]
    assert without["value"] == gauge(Team(tmp_path / "still").whole(1.0).end()).value
    assert m.value > 2 * without["value"]


def test_accounts_for_a_day_do_not_drag_the_median(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(8.0)
    expected = gauge(Team(tmp_path / "still").whole(8.0).end())
    t.month(NOW, {of(f"Sock Puppet{i}"): 1 for i in range(20)}, days=1)
    assert gauge(t.end()).value == expected.value


def test_a_fork_beside_its_origin_counts_once(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(2.0).end()
    fork = tmp_path / "fork"
    git(tmp_path, "clone", "-q", "--bare", str(t.path), str(fork))
    alone, both = gauge(t), measure([open_repository(t.path), open_repository(fork)], quarter="2025Q2")
    assert (both.value, both.lower, both.upper) == (alone.value, alone.lower, alone.upper)


def test_the_base_is_whole_years_before_and_others_stand_beside(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(3.0).end()
    m = gauge(t)
    assert m.details["also"]["median_base_2021-2025"] is not None
    assert {m.inputs["base"], m.inputs["quarter"]} == {"2024", "2025Q2"}
    for base, quarter in (("2024Q1", "2025Q2"), ("2025", "2025Q2"), ("2024", "2024Q3"), ("2025-2024", "2026Q1")):
        with pytest.raises(Misuse):
            gauge(t, base=base, quarter=quarter)
    for quarter in ("2025Q3", "2025Q5", "Q2"):  # not over, not a quarter
        with pytest.raises(Misuse):
            gauge(t, quarter=quarter)


def test_a_mailmap_that_merges_strangers_shows(tmp_path: Path) -> None:
    """Who joins those who left into few busy persons raises the base; only reading without the map shows it."""
    t = Team(tmp_path / "r")
    gone = [f"Former Colleague{i}" for i in range(10)]
    t.month(BASE[0], {of(n): 12 for n in gone})
    t.month(NOW, {of(n): 96 for n in TEAM})
    honest = gauge(t.end())
    assert honest.verdict == "reached"
    rows = [f"{a} <{of(a)[1]}> <{of(b)[1]}>\n" for a, b in zip(gone[::2], gone[1::2], strict=True)]
    t.commit({".mailmap": "".join(rows)}, at=when("2025-06-20"))
    m = gauge(t.end("2025-09-02"))
    assert m.value == honest.value / 2
    assert m.details["also"]["median_without_mailmap"]["value"] == honest.value


def test_one_commit_of_1970_or_2999_does_not_take_the_base_away(tmp_path: Path) -> None:
    expected = gauge(Team(tmp_path / "still").whole(2.0).end()).value
    for i, lie in enumerate([0, 10**13]):
        t = Team(tmp_path / str(i)).whole(2.0)
        t.commit({"README.md": "a clock that lies\n"}, at=lie)
        t.commit({"README.md": "later\n"}, at=when("2025-06-20"))
        assert gauge(t.end()).value == expected
    t.commit({"README.md": "on top\n"}, at=10**13)
    t.write()
    assert gauge(t).value == expected


def test_inputs_name_all_that_the_figures_follow_from(tmp_path: Path) -> None:
    t = Team(tmp_path / "r").whole(2.0)
    early = gauge(t.end("2025-07-02"))
    later = gauge(t.end())
    assert early.details != later.details  # what lasts thirty days is known only later
    assert early.inputs_digest != later.inputs_digest
    again = gauge(t.end("2025-10-01"))
    assert (again.details, again.inputs_digest) == (later.details, later.inputs_digest)
    who = next(i for i, oid in t.ids.items() if git(t.path, "show", "-s", "--format=%an", oid) == TEAM[3])
    t.note({who: "not a note"})
    assert gauge(t).inputs_digest != later.inputs_digest


# --- the calendar


def test_quarters() -> None:
    assert (Quarter(2024, 1).working_days, Quarter(2024, 4).working_days) == (65, 66)
    assert sum(q.working_days for q in parse_years("2024")) == 262
    assert quarter_at(when("2024-12-31")) == Quarter(2024, 4) == parse_quarter("2024Q4")
    assert Quarter(2024, 4).next == Quarter(2025, 1)
    assert len(parse_years("2021-2025")) == len(between(Quarter(2021, 1), Quarter(2025, 4))) == 20
    assert str(Quarter(2026, 2)) == "2026Q2"


# --- the command


def test_the_command_resumes(tmp_path: Path) -> None:
    t = Team(tmp_path / "team").whole(2.0).end()
    arguments = [str(t.path), "--quarter", "2025Q2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert CAVEAT in done.output
    assert "median without ai:" in done.output
    m = read_measurement((tmp_path / "out" / "measurement.json").read_bytes())
    assert m == gauge(t)
    with open_cache(tmp_path / "out" / "blame.sqlite") as cache:
        assert measure([open_repository(t.path)], quarter="2025Q2", cache=cache) == m
    assert len(figure(m).axes) == 2
    assert CliRunner().invoke(command, []).exit_code == 2
