"""The articles: every rule once, every number exactly, and no two treaties with one text."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from brakeline.core import units
from brakeline.core.encoding import sha256
from brakeline.core.treaty import (
    ARTICLES,
    PEOPLE,
    Exemption,
    Growth,
    Tier,
    Treaty,
    articles_digest,
    duration,
    exact,
    parse_treaty,
    render,
    rules,
)
from world import EXAMPLE, enrolled, treaty

EXAMPLES = sorted(EXAMPLE.parent.glob("*.toml"))
CLUSTER = Tier("cluster", frozenset({"declared"}), None, 10**20, 16, "", False)  # for the numbers the example has not
FULL = replace(treaty(), tiers=(*treaty().tiers, CLUSTER))

COMPUTE = {"above", "up_to", "permit_allowance"}
COUNTS = {
    "version", "rules", "faults", "trip", "permit", "lift", "witnesses", "chips_above", "snapshot_every", "inspectors",
    "adjudicators", "segment_steps", "segment_most", "head_every", "findings", "brake", "runs", "audits", "rest",
    "bytes",
}  # fmt: skip

Path = tuple[str | int, ...]


def numbers(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every number of a treaty, with the way to it."""
    if is_dataclass(value):
        for field in fields(value):
            if field.name != "parties":
                yield from numbers(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple):
        for i, x in enumerate(value):
            yield from numbers(x, (*path, i))
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        yield path, value


def changed(value: Any, path: Path, number: Any) -> Any:
    """The treaty with another number at `path`."""
    if not path:
        return number
    step, *rest = path
    if isinstance(step, int):
        return tuple(changed(x, tuple(rest), number) if i == step else x for i, x in enumerate(value))
    return replace(value, **{step: changed(getattr(value, step), tuple(rest), number)})


def shown(path: Path, number: Any) -> str:
    """How the number at `path` must appear."""
    name = path[-1]
    if name == "lift_delay" and not number:
        return "at once"
    if name in COMPUTE:
        return units.show_flop(number)
    if name == "rate_above":
        return units.show_rate(number)
    if name in COUNTS:
        return str(number)
    if isinstance(number, Decimal):
        return f"{number.scaleb(2).normalize():f} %"
    if isinstance(number, float):
        return exact(number)
    return duration(number)


NUMBERS = dict(numbers(FULL))


def another(path: Path) -> st.SearchStrategy[Any]:
    number = NUMBERS[path]
    if isinstance(number, float):
        return st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(number, Decimal):
        return st.integers(0, 10**20).map(lambda n: Decimal(n).scaleb(-20))
    return st.integers(0, 253_370_764_799) if path[-1] == "effective" else st.integers(0, 10**60)


CASES = st.sampled_from(list(NUMBERS)).flatmap(lambda p: st.tuples(st.just(p), another(p), another(p)))


def test_every_number_of_a_treaty_is_tried() -> None:
    names = {path[-1] for path in NUMBERS}
    assert names >= COMPUTE | COUNTS | {"rate_above", "window", "settle_within", "floor", "doubles_within", "at_least"}
    assert len(NUMBERS) >= 48


@given(CASES)
def test_treaties_that_differ_in_a_number_render_differently(case: tuple[Path, Any, Any]) -> None:
    path, a, b = case
    assume(a != b)
    one, other = changed(FULL, path, a), changed(FULL, path, b)
    assert one.digest == other.digest  # so the line with the digest of the text is not what differs
    assert render(one) != render(other)
    assert articles_digest(one) != articles_digest(other)


@given(CASES)
def test_the_text_holds_every_number_exactly(case: tuple[Path, Any, Any]) -> None:
    path, number, _ = case
    text = render(changed(FULL, path, number))
    if path[-1] == "effective":
        assert re.search(r"before \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.", text)
    else:
        assert re.search(rf"(?<![\w.-]){re.escape(shown(path, number))}(?![\w]|\.\w)", text), path


@pytest.mark.parametrize("path", [p for p in NUMBERS if p[-1] != "effective"], ids=lambda p: ".".join(map(str, p)))
def test_the_numbers_of_the_example(path: Path) -> None:
    assert shown(path, NUMBERS[path]) in render(FULL)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_so_that_it_is_read_back(value: float) -> None:
    text = exact(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert not text.endswith(".0")


def test_numbers_as_people_read_them() -> None:
    assert [exact(x) for x in (4.0, 0.8, 0.005, 1e25, -0.5)] == ["4", "0.8", "0.005", "1e+25", "-0.5"]
    assert [duration(x) for x in (0, 1, 60, 3600, 90_000, 86_400, 259_200, 61)] == [
        "0 seconds", "1 second", "1 minute", "1 hour", "25 hours", "1 day", "3 days", "61 seconds",
    ]  # fmt: skip


@given(st.integers(0, 10**12), st.integers(0, 20))
def test_a_share_is_shown_as_the_percentage_that_it_was_read_from(n: int, digits: int) -> None:
    value = Decimal(n).scaleb(-digits)
    assume(value <= 100)
    share = units.fraction(f"{value:f} %")
    match = re.search(r"stays below (\S+ %) of", rules(replace(FULL, residual=share))["9.1"])
    assert match
    assert units.fraction(match[1]) == share


# --- the articles


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_rule_is_there_once_and_in_order(path: Any) -> None:
    t = parse_treaty(enrolled(path.read_text()).encode())
    found, text = rules(t), render(t)
    ids = [tuple(map(int, id_.split("."))) for id_ in found]
    assert ids == sorted(ids)
    for article in ARTICLES:
        numbers_ = [second for first, second in ids if first == int(article)]
        assert numbers_ == list(range(1, len(numbers_) + 1)), article
    assert set(found) > PEOPLE == {"3.8", "9.1"}
    for id_, sentence in found.items():
        assert f"\n{id_:>4} {sentence}\n" in text
        assert sentence.endswith(".")
        for cited in re.findall(r"\((\d+\.\d+)\)", sentence):
            assert cited in found, f"{id_} refers to {cited}"
    assert [line.split(".")[0] for line in text.split("\n") if line.startswith("Article")] == [
        f"Article {i}" for i in ARTICLES
    ]
    assert text.isascii()
    assert articles_digest(t) == sha256(text.encode()).hex()


def test_the_digest_of_the_articles_follows_the_text() -> None:
    t = treaty()
    other = parse_treaty(t.text + b"# a remark\n")
    assert rules(other) == rules(t)
    assert articles_digest(other) != articles_digest(t)  # the text that they are the articles of is named in them


def say(id_: str, *changes: tuple[str, Any]) -> str:
    return rules(replace(treaty(), **dict(changes)))[id_]


def test_tiers_say_their_criteria_and_duties() -> None:
    # Treaty 3.1
    assert say("3.1").startswith(
        'A run is in the tier "covered" (declared, monitored, permitted) when its compute over its lineage exceeds '
        '1e10 FLOP. A run is in the tier "prohibited" (prohibited) when'
    )
    all_of = Tier("x", frozenset({"permitted", "declared"}), 10**24, 10**20, 16, "biology", True)
    assert say("3.1", ("tiers", (all_of,))).startswith(
        'A run is in the tier "x" (declared, permitted) when it declares the domain "biology" and its compute over its '
        "lineage, or that of its lab's runs together (3.6), exceeds 1e24 FLOP and its machines can do more than "
        "1e20 FLOP/s and its cluster has more than 16 accelerators."
    )


def test_exemptions_say_their_limits() -> None:
    # Treaty 3.2
    assert say("3.2", ("exemptions", ())) == "No purpose is exempt."
    assert say("3.2").endswith(
        '"inference" up to 1e12 FLOP, also while the brake is on; '
        '"safety-research" up to 1e11 FLOP, but not while the brake is on.'
    )


@pytest.mark.parametrize(
    ("id_", "changes", "words"),
    [
        ("1.4", {}, "rules version 2"),
        ("1.5", {}, "1073741824 bytes"),
        ("3.6", {"window": 86_400}, "in the 1 day "),
        ("3.7", {"lift": 4}, "when 4 parties"),
        ("4.2", {"triggers": ()}, "Gauges: none."),
        ("4.4", {"findings_trip": False}, "does not trip"),
        ("4.9", {"triggers": ()}, "no gauge."),
        ("5.8", {"lineage_gate": False}, "needs no reading"),
        ("6.5", {"heartbeat": 30}, "at most 1 minute ahead of the log's time and 7 days behind it"),
        ("6.6", {}, "every 1000 entries"),
        ("7.8", {"attested_runs": False}, "not admitted"),
        ("7.10", {}, "one logged at most 30 days before, and carries at most 64 findings"),
        ("8.2", {"lift_conditions": frozenset()}, "none beyond the quorum"),
        ("8.2", {"lift_conditions": frozenset({"readings"})}, "Conditions: no gauge stands"),
        ("8.3", {"lift_delay": 0}, "at once"),
        ("8.4", {}, "not settled 1 hour after the pause began"),
        ("10.1", {}, '"safety" within 3 days, "imminent-danger" within 1 day.'),
    ],
)
def test_what_the_articles_say(id_: str, changes: dict[str, Any], words: str) -> None:
    assert words in say(id_, *changes.items())


def test_choices_without_a_number_are_shown_too() -> None:
    t = treaty()
    choices: list[Callable[[Treaty], Treaty]] = [
        lambda t: replace(t, findings_trip=False),
        lambda t: replace(t, lineage_gate=False),
        lambda t: replace(t, attested_runs=False),
        lambda t: replace(t, lift_conditions=frozenset({"stopped"})),
        lambda t: changed(t, ("tiers", 0, "sum"), True),
        lambda t: changed(t, ("tiers", 0, "domain"), "biology"),
        lambda t: changed(t, ("tiers", 0, "above"), None),
        lambda t: changed(t, ("tiers", 0, "duties"), frozenset({"declared", "permitted"})),
        lambda t: changed(t, ("tiers", 1, "name"), "forbidden"),
        lambda t: changed(t, ("exemptions", 0), Exemption("inference", 10**12, while_braked=False)),
        lambda t: changed(t, ("exemptions", 0, "purpose"), "serving"),
        lambda t: changed(t, ("triggers", 0, "growth"), None),
        lambda t: changed(t, ("triggers", 1, "growth"), Growth(0.3, 60)),
        lambda t: changed(t, ("incidents", 0, "name"), "serious"),
    ]
    texts = {render(t), *(render(choice(t)) for choice in choices)}
    assert len(texts) == len(choices) + 1


# --- ready treaties for published regimes

REGIMES: dict[str, dict[str, tuple[str, int, set[str], str]]] = {
    "miri": {
        "watched": ("above", 10**22, {"declared", "monitored"}, ""),
        "prohibited": ("above", 10**24, {"prohibited"}, ""),
        "cluster": ("chips_above", 16, {"declared", "monitored"}, ""),
    },
    "eu-ai-act": {"systemic-risk": ("above", 10**25, {"declared", "permitted"}, "")},
    "sb53": {"frontier": ("above", 10**26, {"declared", "permitted"}, "")},
    "raise": {"frontier": ("above", 10**26, {"declared", "permitted"}, "")},
    "eo14110": {
        "frontier": ("above", 10**26, {"declared", "permitted"}, ""),
        "biology": ("above", 10**23, {"declared", "permitted"}, "biology"),
        "cluster": ("rate_above", 10**20, {"declared"}, ""),
    },
}
MEASURES = {"above": "lineage", "rate_above": "rate", "chips_above": "chips"}
DAY = 86_400


def regime(name: str) -> Treaty:
    return parse_treaty(enrolled((EXAMPLE.parent / f"{name}.toml").read_text()).encode())


def in_tier(tier: Tier, **measured: Any) -> bool:
    return tier.holds(**{"lineage": 0, "window": 0, "rate": 0, "chips": 0, "domain": "", **measured})


@pytest.mark.parametrize("name", REGIMES)
def test_a_regime_says_what_was_published(name: str) -> None:
    t = regime(name)
    assert t.name == name
    assert {x.name: (x.duties, x.domain, x.sum) for x in t.tiers} == {
        tier: (duties, domain, False) for tier, (_, _, duties, domain) in REGIMES[name].items()
    }
    for tier in t.tiers:
        stated = {c: getattr(tier, c) for c in MEASURES if getattr(tier, c) is not None}
        criterion, value, _, _ = REGIMES[name][tier.name]
        assert stated == {criterion: value}
    assert (t.faults, t.trip, t.permit, t.lift, t.witnesses, len(t.parties)) == (2, 3, 5, 5, 5, 7)
    text = (EXAMPLE.parent / f"{name}.toml").read_text()
    assert "primary text" in text
    assert "this text's addition" in text.lower()


@pytest.mark.parametrize("name", REGIMES)
def test_a_regime_begins_above_its_value_and_not_at_it(name: str) -> None:
    # Treaty 3.1: ">" is not ">=".
    for tier in regime(name).tiers:
        criterion, value, _, domain = REGIMES[name][tier.name]
        for measured, inside in ((value - 1, False), (value, False), (value + 1, True)):
            assert in_tier(tier, **{MEASURES[criterion]: measured, "domain": domain}) is inside
            others = {m: 10**40 for m in MEASURES.values() if m != MEASURES[criterion]}
            assert in_tier(tier, **{**others, MEASURES[criterion]: measured, "domain": domain}) is inside
            assert not (domain and in_tier(tier, **{MEASURES[criterion]: measured}))


def test_the_clocks_of_the_regimes() -> None:
    assert regime("eu-ai-act").notification_clock == 14 * DAY
    incidents = {name: {x.name: x.within for x in regime(name).incidents} for name in REGIMES}
    assert incidents["sb53"] == {"critical-safety": 15 * DAY, "imminent-danger": DAY}
    assert incidents["raise"] == {"safety": 3 * DAY}
