"""The pages of docs/ do what they say, and define what code and tests cite."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import brakeline
from brakeline.cli.common import EXIT, EXIT_INTERRUPTED, EXIT_SPENT, EXIT_STOPPED, EXIT_VERDICT
from brakeline.cli.main import COMMANDS
from brakeline.core.errors import Reason
from brakeline.core.finding import REPLAYED, Fault
from brakeline.core.kinds import KINDS
from brakeline.core.treaty import rules
from brakeline.core.treaty.text import Text
from pages import ROOT, Reader, blocks, check_commands
from world import treaty

sys.path.insert(0, str(ROOT / "tools"))

import api

WALK = ("party", "training", "inspector", "operator", "library")  # pages that go on in one folder, one after another
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").glob("*.md")))
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
CODE = ("src", "tests", "tools", "bench", "examples")
ATTACKS = re.compile(r"\b([AS]-\d{2})\b")
FORMULAS = re.compile(r"\b(F-\d{1,2})\b")


def page(name: str) -> str:
    return (ROOT / name).read_text()


ALONE = [
    n for n in NAMES if n.startswith("docs/") and Path(n).stem not in WALK and any(b.kind for b in blocks(page(n)))
]


def table(name: str, *columns: int) -> Iterator[tuple[str, ...]]:
    """The cells in `columns` of every row of every table of a page."""
    for line in page(name).splitlines():
        if line.startswith("| ") and (cells := line.split(" | ")) and len(cells) > max(columns):
            yield tuple(cells[i].strip("| ") for i in columns)


@cache
def code(folder: str) -> dict[str, str]:
    """The Python files under a folder, by path."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / folder).rglob("*.py"))}


def cited(pattern: re.Pattern[str], texts: Iterable[str]) -> set[str]:
    return {id_ for text in texts for id_ in pattern.findall(text)}


# ---- pages that are run ----


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_walk_does_what_it_says(tmp_path: Path) -> None:
    """A treaty is signed and served, a lab trains, inspectors look, the brake trips and lifts, a bundle is read."""
    with Reader(tmp_path / "reader") as reader:
        for name in WALK:
            try:
                reader.read(page(f"docs/{name}.md"))
            except AssertionError as e:
                raise AssertionError(f"docs/{name}.md: {e}") from e


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ALONE)
def test_a_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    with Reader(tmp_path / "reader") as reader:
        reader.read(page(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_commands_that_are(name: str) -> None:
    check_commands(page(name))


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(page(name) for name in NAMES)
    shown = {name for name in COMMANDS if re.search(rf"brakeline {name}\b", text)}
    assert sorted(COMMANDS.keys() - shown - {"completion"}) == []


# ---- links ----


def anchors(markdown: str) -> set[str]:
    """What a link into a page may name: its headings, as they are usually written there, and marks."""
    plain = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    slugs = (
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", plain, re.MULTILINE)
    )
    return {*slugs, *re.findall(r'<a id="([^"]+)">', markdown)}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    folder, lost = (ROOT / name).parent, []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page(name), flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        there = (folder / path).resolve() if path else ROOT / name
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            lost.append(target)
    assert lost == []


def test_every_page_is_reached_from_the_readme() -> None:
    found, new = set(), {ROOT / "README.md"}
    while new:
        found |= new
        links = {
            (path.parent / link).resolve()
            for path in new
            if path.suffix == ".md"
            for link in re.findall(r"\]\(([^)\s#:]+)", path.read_text())
        }
        folders = {inside for link in links if link.is_dir() for inside in link.glob("*.md")}
        new = {path for path in links | folders if path.is_file()} - found
    assert sorted(set(PAGES) - found) == []


# ---- what pages define ----


def test_exit_codes_are_those_of_the_page() -> None:
    codes = [int(code) for (code,) in table("docs/operator.md", 0) if code.isdigit()]
    assert codes == sorted({0, *EXIT.values(), EXIT_VERDICT, EXIT_STOPPED, EXIT_SPENT, EXIT_INTERRUPTED})


def test_reasons_are_those_of_the_page() -> None:
    rows = [re.findall(r"`([a-z-]+)`", names) for names, _, _ in table("docs/operator.md", 0, 1, 2)]
    named = [name for row in rows for name in row if name in Reason.__members__.values()]
    assert sorted(named) == sorted(Reason)


def test_faults_are_those_of_the_page() -> None:
    rows = {fault.strip("`"): seen for fault, _, seen in table("docs/inspector.md", 0, 1, 2) if fault.startswith("`")}
    assert rows == {str(f): "replay" if f in REPLAYED else "anybody" for f in Fault}


def test_kinds_are_those_of_the_page() -> None:
    rows = [row for row in table("spec/formats.md", 0, 2, 3) if row[1] in ("brake", "runs", "audits", "rest")]
    named = [(name, lane, who) for names, lane, who in rows for name in re.findall(r"`([a-z]+)`", names)]
    assert sorted(named) == sorted((k.name, k.lane, (k.role or "any party").replace("-", " ")) for k in KINDS)


def test_the_keys_of_a_treaty_are_on_the_page() -> None:
    named: set[str] = set()
    for keys, rule in table("docs/party.md", 0, 2):
        stem = ""
        for key in re.findall(r"`([\w.]+)`", keys) if re.match(r"\d", rule) else ():
            stem = key.rpartition(".")[0] if not key.startswith(".") else stem
            named.add(f"{stem}{key}" if key.startswith(".") else key)
    wanted = set()
    for name, field in Text.__annotations__.items():
        inner = getattr(field, "__struct_fields__", None)
        wanted |= {name} if inner is None or name in ("budget", "clocks") else {f"{name}.{x}" for x in inner}
    names = {"treaty.name", "treaty.title", "treaty.version"}  # which say what the treaty is called
    wanted = {re.sub("^party$", "party.NAME", x) for x in wanted} - names
    assert wanted == named


def test_every_rule_that_a_page_cites_is_one() -> None:
    known = set(rules(treaty()))
    for name in NAMES:
        for several in re.findall(r"Treaty ((?:\d+\.\d+(?:, | and )?)+)", page(name)):
            assert set(re.findall(r"\d+\.\d+", several)) <= known, name
    for _, rule in table("docs/party.md", 0, 2):
        if re.match(r"\d", rule):
            assert set(rule.split(", ")) <= known


# ---- what code cites ----


def test_every_attack_is_defined_once() -> None:
    ids = re.findall(r'^\| <a id="([as]-\d+)"></a>(\S+) \|', page("docs/attacks.md"), re.MULTILINE)
    assert [(anchor.upper(), id_) for anchor, id_ in ids] == [(id_, id_) for _, id_ in ids]
    assert [id_ for _, id_ in ids] == [f"A-{n:02}" for n in range(1, 35)] + [f"S-{n:02}" for n in range(1, 34)]


def test_every_attack_that_is_cited_is_defined() -> None:
    found = cited(ATTACKS, (text for folder in CODE for text in code(folder).values()))
    assert len(found) > 20
    assert found <= {id_.upper() for id_ in anchors(page("docs/attacks.md"))}


def test_what_shows_an_attack_is_a_test() -> None:
    text = "\n".join(code("tests").values())
    for row in table("docs/attacks.md", 0, 3):
        shown = re.findall(r"`(test_\w+)`", row[1])
        assert shown or row[1] in ("shown by", "---", "not covered yet"), row
        assert [name for name in shown if f"def {name}(" not in text] == [], row


def test_every_formula_that_is_cited_is_defined() -> None:
    texts = [text for folder in CODE for text in code(folder).values()]
    found = cited(FORMULAS, [*texts, *(page(name) for name in NAMES)])
    assert {"F-3", "F-5", "F-6"} <= found <= {id_.upper() for id_ in anchors(page("docs/formulas.md"))}


# ---- decisions, changes, the reference ----


def test_decisions_are_numbered_and_say_what_they_cost() -> None:
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:5] for path in paths] == [f"{n:04}-" for n in range(1, len(paths) + 1)]
    for path in paths:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]} ")
        assert {"**Chosen.**", "**Costs.**"} <= set(re.findall(r"\*\*\w+\.\*\*", text)), path.name


def test_the_newest_changes_are_those_of_this_version() -> None:
    first = re.search(r"^## (.*)$", page("CHANGELOG.md"), re.MULTILINE)
    assert first
    assert brakeline.__version__ in first[1].split()


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/api.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("door", api.DOORS)
def test_a_door_has_what_the_reference_says(door: str) -> None:
    module, names = importlib.import_module(door), api.public(door)
    assert [found.name for found in names if not hasattr(module, found.name)] == []
    assert len({found.name for found in names}) == len(names)


def test_every_public_name_is_written_out_once() -> None:
    text = page("docs/api.md")
    for name in brakeline.__all__:
        assert re.search(rf"^- `{name}`|^(def|class) {name}\b|^{name}\b", text, re.MULTILINE), name
    written = re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)
    assert {"verify_bundle", "State", "Treaty", "Refused", "Tripped"} <= set(written)
