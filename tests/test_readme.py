"""The README does what it says; how pages are run is in `pages`, and tried here on good pages and bad ones."""

import os
import re
from pathlib import Path

import pytest

from pages import ROOT, Reader, blocks, check_commands

# Text files that travel with the project, and what none of them may name: a package registry, or a person's folders.
FILES = ("*.md", "*.toml", "Makefile", "LICENSE", ".ci", "bench", "docs", "examples", "src", "spec", "tests", "tools")
REGISTRY = re.compile(r"pypi[.]|pythonhosted[.]|npmjs[.]|download[.]pytorch[.]|crates[.]io|rubygems[.]")
PRIVATE = re.compile(r"(?<![\w.:/}])/(?:home|root|work|Users|opt)/\w|C:\\Users")
LONGEST = 8_500  # bytes of the README: what is longer belongs on a page of docs/


@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    assert "test" in {block.kind for block in blocks(readme)}, "the README shows no block that runs"
    assert check_commands(readme) > 10
    with Reader(tmp_path / "reader") as reader:
        reader.read(readme)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= LONGEST


GOOD = """
<!-- test: run -->
```sh
echo one; echo two >&2
echo "3.14 s" > time
```
prints
```text
o...e
two
```
<!-- test: python -->

```python
assert open("time").read() == "3.14 s\\n"
```
```sh
exit 1  # no mark, not run
```
<!-- help: env -->
```text
Usage: env ...
```
"""


def test_a_good_page_passes(tmp_path: Path) -> None:
    with Reader(tmp_path / "reader") as reader:
        reader.read(GOOD)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("two\n```", "too\n```"),
        ("two\n```", "two\nthree\n```"),
        ("echo one;", "echo one; false;"),
        ("== ", "!= "),
        ("Usage: env", "Usage: ls"),
        ("```sh\necho", "```bash\necho"),
        ("-->\n\n```python", "-->\nas follows\n```python"),
        ("Usage: env ...\n```", "Usage: env ...\n"),
        ("test: python", "test: pyhton"),
    ],
)
def test_each_fault_in_a_page_is_noticed(good: str, bad: str, tmp_path: Path) -> None:
    assert GOOD.count(good) == 1
    with Reader(tmp_path / "reader") as reader, pytest.raises(AssertionError):
        reader.read(GOOD.replace(good, bad))


BACKGROUND = """
<!-- test: run -->
```sh
python -m http.server --bind 127.0.0.1 7400 > server.log 2>&1 &
echo $! > pid
echo 127.0.0.1:7400
```
<!-- test: run -->
```sh
kill -0 $(cat pid)
```
"""


def test_what_a_page_leaves_running_ends_with_its_reader(tmp_path: Path) -> None:
    with Reader(tmp_path / "reader") as reader:
        reader.read(BACKGROUND)
        pid = int((tmp_path / "reader" / "pid").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_pages_of_one_reader_name_one_address(tmp_path: Path) -> None:
    """The port of a page is another one when it is run, and the same one on the next page."""
    page = "<!-- test: run -->\n```sh\necho 127.0.0.1:7400 127.0.0.1:74000 7400 >> ports\n```\n"
    with Reader(tmp_path / "reader") as reader:
        reader.read(page)
        reader.read(page)
    one, two = (tmp_path / "reader" / "ports").read_text().splitlines()
    assert one == two
    assert one.split()[0] != "127.0.0.1:7400"
    assert one.split()[1:] == ["127.0.0.1:74000", "7400"]


@pytest.mark.parametrize(
    "line",
    [
        "brakeline vote trip --home alpha --reason 'loss of control'",
        "brakeline run --home alpha --name x --time '12 h' --flop-per-second '1 TFLOP' -- torchrun --standalone t.py",
        "brakeline --help",
        "brakeline design answer examples/scenarios/verified.toml --json",
    ],
)
def test_commands_that_are(line: str) -> None:
    assert check_commands(f"```sh\necho brakeline; until {line} > x; do true; done &  # brakeline nothing\n```\n") == 1


@pytest.mark.parametrize(
    "line",
    ["brakeline brake", "brakeline vote trip --because x", "brakeline treaty sing FILE", "brakeline verify -t x y"],
)
def test_commands_that_are_not(line: str) -> None:
    for around in ("{}", "{} &", "true; {} | head", "until {}; do true; done", "x || {} > y"):
        with pytest.raises(AssertionError):
            check_commands(f"```\n{around.format(line)}\n```")


def test_no_file_names_a_registry_or_a_private_folder() -> None:
    found = []
    files = [path for pattern in FILES for start in ROOT.glob(pattern) for path in (start, *start.rglob("*"))]
    texts = [p for p in files if p.is_file() and "__pycache__" not in p.parts]
    assert len(texts) > 20
    for path in texts:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if REGISTRY.search(line) or PRIVATE.search(line)
        ]
    assert found == []
