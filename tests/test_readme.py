"""The README is run, not believed. A comment on the line before a fenced block says how:

    <!-- test: run -->             sh: executed; a ```text block that comes next is what it prints, stderr included
    <!-- test: python -->          python: executed
    <!-- help: brakeline audit --> text: what `brakeline audit --help` prints

All blocks run in order in one folder, which holds a copy of examples/, with `brakeline` on the path. In what is
printed `...` stands for anything.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- (test|help): (.+) -->")
LANGUAGE = {"run": "sh", "python": "python"}

# Text files that travel with the project, and what none of them may name: a package registry, or a person's folders.
FILES = ("*.md", "*.toml", "Makefile", "LICENSE", ".ci", "bench", "docs", "examples", "src", "spec", "tests", "tools")
REGISTRY = re.compile(r"pypi[.]|pythonhosted[.]|npmjs[.]|download[.]pytorch[.]|crates[.]io|rubygems[.]")
PRIVATE = re.compile(r"(?<![\w.:/}])/(?:home|root|work|Users|opt)/\w|C:\\Users")


class Block(NamedTuple):
    """A fenced block: its line, its mark (`run`, `python` or a command's help), its language and its text."""

    line: int
    kind: str
    mark: str
    language: str
    text: str


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks in order. A mark that is not followed by a block is an error, not a comment."""
    kind = mark = ""
    fence: tuple[int, str] | None = None
    body: list[str] = []
    for number, line in enumerate(markdown.splitlines(), 1):
        if fence is not None:
            if line.rstrip() == "```":
                yield Block(fence[0], kind, mark, fence[1], "".join(f"{b}\n" for b in body))
                kind, mark, fence, body = "", "", None, []
            else:
                body.append(line)
        elif line.startswith("```"):
            fence = (number, line[3:].strip())
        elif found := MARK.fullmatch(line.strip()):
            assert not kind, f"line {number}: a second mark before a block"
            kind, mark = found.groups()
        else:
            assert not kind or not line.strip(), f"line {number}: text between a mark and its block"
    assert fence is None, f"line {fence and fence[0]}: block without an end"
    assert not kind, "a mark at the end, and no block"


def matches(expected: str, printed: str) -> bool:
    """Whether the lines agree, where `...` stands for anything and spaces at a line's end for nothing."""
    wanted, got = ("\n".join(line.rstrip() for line in text.strip("\n").splitlines()) for text in (expected, printed))
    return re.fullmatch(".*".join(re.escape(part) for part in wanted.split("...")), got, re.DOTALL) is not None


def run(command: list[str], folder: Path) -> str:
    """What a command prints; it must succeed."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    nothing, pipe, both = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=folder, env=env, stdin=nothing, stdout=pipe, stderr=both, text=True)
    assert done.returncode == 0, f"exit status {done.returncode}:\n{done.stdout}"
    return done.stdout


def check(markdown: str, folder: Path) -> None:
    """Run every marked block and compare what it prints with what the page says."""
    page = list(blocks(markdown))
    for block, after in zip(page, [*page[1:], None], strict=True):
        if not block.kind:
            continue
        if block.kind == "help":
            assert block.language == "text", f"line {block.line}: help stands in a text block"
            printed, expected = run([*block.mark.split(), "--help"], folder), block.text
        else:
            assert block.language == LANGUAGE.get(block.mark), f"line {block.line}: {block.mark} of {block.language}"
            starter = ["sh", "-euc"] if block.mark == "run" else [sys.executable, "-c"]
            printed = run([*starter, block.text], folder)
            expected = after.text if after and not after.kind and after.language == "text" else "..."
        assert matches(expected, printed), f"line {block.line} prints something else:\n{printed}"


@pytest.mark.timeout(600)
def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    marks = {block.kind for block in blocks(readme)}
    assert {"test", "help"} <= marks, "the README shows no block that runs, or no --help"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    check(readme, tmp_path)


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
    check(GOOD, tmp_path)


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
    with pytest.raises(AssertionError):
        check(GOOD.replace(good, bad), tmp_path)


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
