"""Every rule of the treaty is applied somewhere, tested somewhere, and cited at both places by its id."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from brakeline.core.treaty import PEOPLE, rules
from world import treaty

ROOT = Path(__file__).parents[1]
RULES = frozenset(rules(treaty()))
APPLIED = RULES - PEOPLE

_CITED = re.compile(r"Treaty ((?:\d+\.\d+(?:-\d+\.\d+)?(?:, | and |, and )?)+)")
_ID = re.compile(r"(\d+)\.(\d+)(?:-(\d+)\.(\d+))?")


def ids(text: str) -> Iterable[str]:
    """The rules that a text cites: `Treaty 4.2`, `Treaty 7.3, 7.4`, `Treaty 4.1-4.4`."""
    for cited in _CITED.findall(text):
        for article, first, to_article, last in _ID.findall(cited):
            assert not last or article == to_article, f"a range within one article: {cited}"
            for number in range(int(first), int(last or first) + 1):
                yield f"{article}.{number}"


@cache
def cited_in(folder: str) -> dict[str, frozenset[str]]:
    """Rule id → files under a folder that cite it. The rules' own text and this test cite nothing."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.name not in ("legal.py", Path(__file__).name):
            for id_ in ids(path.read_text()):
                found.setdefault(id_, set()).add(str(path.relative_to(ROOT)))
    return {id_: frozenset(files) for id_, files in found.items()}


def test_citations_are_read() -> None:
    text = "(Treaty 4.2) # Treaty 7.3, 7.4: x. Treaty 4.1-4.3; Treaty 8.1 and 8.2. treaty 9.9, Treaty-free 1.1"
    assert list(ids(text)) == ["4.2", "7.3", "7.4", "4.1", "4.2", "4.3", "8.1", "8.2"]


@pytest.mark.parametrize("id_", sorted(APPLIED))
def test_every_rule_is_applied_and_tested(id_: str) -> None:
    assert cited_in("src").get(id_), f"no code cites {id_}"
    assert cited_in("tests").get(id_), f"no test cites {id_}"


@pytest.mark.parametrize("folder", ["src", "tests", "examples", "bench", "tools"])
def test_nothing_cites_a_rule_that_is_not_there(folder: str) -> None:
    unknown = {id_: sorted(files) for id_, files in cited_in(folder).items() if id_ not in RULES}
    assert unknown == {}


def test_rules_for_people_are_rules() -> None:
    assert PEOPLE < RULES
