"""Pages are run, not believed. A comment on the line before a fenced block says how:

    <!-- test: run -->             sh: executed; a ```text block that comes next is what it prints, stderr included
    <!-- test: python -->          python: executed, likewise
    <!-- help: brakeline audit --> text: what `brakeline audit --help` prints

The marked blocks of a page run in order, in one folder that holds a copy of examples/, with `brakeline` on the path. In
what is printed `...` stands for anything. What a block leaves running ends with its reader, and the ports of the
loopback that a page names are exchanged for free ones: nothing else on the machine is in the way.

A block without a mark is not run, but the commands in it must exist, with the options that it gives them.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

from brakeline.cli.demo.stage import free_ports
from brakeline.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- (test|help): (.+) -->")
LANGUAGE = {"run": "sh", "python": "python"}
PORT = re.compile(r"(?<=127\.0\.0\.1:)74[0-9]{2}\b")
PATIENCE = 300  # s that one block may take


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


class Reader:
    """Somebody who does what pages say, one page after another, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._left: list[int] = []  # process groups with something running
        self._ports: dict[str, str] = {}
        shutil.copytree(ROOT / "examples", folder / "examples")

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            left = [group for group in self._left if _runs(group)]
            for group in left:
                with suppress(ProcessLookupError):
                    os.killpg(group, how)
            deadline = time.monotonic() + 10
            while any(map(_runs, left)) and time.monotonic() < deadline:
                time.sleep(0.1)

    def run(self, command: Sequence[str]) -> str:
        """What a command prints; it must succeed."""
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BRAKELINE_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        process = subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=PATIENCE)
        finally:
            if _runs(process.pid):
                self._left.append(process.pid)
        assert process.returncode == 0, f"exit status {process.returncode}:\n{printed}"
        return printed

    def read(self, markdown: str) -> None:
        """Run every marked block and compare what it prints with what the page says."""
        new = sorted(set(PORT.findall(markdown)) - self._ports.keys())
        self._ports.update(zip(new, map(str, free_ports(len(new))), strict=True))
        page = list(blocks(PORT.sub(lambda port: self._ports[port[0]], markdown)))
        for block, after in zip(page, [*page[1:], None], strict=True):
            if not block.kind:
                continue
            if block.kind == "help":
                assert block.language == "text", f"line {block.line}: help stands in a text block"
                printed, expected = self.run([*block.mark.split(), "--help"]), block.text
            else:
                language = LANGUAGE.get(block.mark)
                assert block.language == language, f"line {block.line}: {block.mark} of {block.language}"
                starter = ["sh", "-euc"] if block.mark == "run" else [sys.executable, "-c"]
                printed = self.run([*starter, block.text])
                expected = after.text if after and not after.kind and after.language == "text" else "..."
            assert matches(expected, printed), f"line {block.line} prints something else:\n{printed}"


def _runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def check_commands(markdown: str) -> int:
    """That every `brakeline …` in a block of commands exists, with its options; returns how many there are."""
    found = 0
    for block in blocks(markdown):
        lines = re.sub(r"\\\n\s*", "", block.text).splitlines() if block.language in ("", "sh") else []
        for line in lines:
            for words in _commands(line) if "brakeline " in line else ():
                if words[:1] == ["brakeline"]:
                    check_command(words, block.line)
                    found += 1
    return found


def _commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if not word.strip(lexer.punctuation_chars) or word in ("until", "while", "if", "then", "do", "else"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def check_command(line: Sequence[str], number: int) -> None:
    """That the command is there, and takes these options."""
    command: click.Command = cli
    context = click.Context(cli, info_name="brakeline")
    words = list(line[1:])
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        command = command.get_command(context, name) or _absent(f"line {number}: no command {name!r}: {line}")
        context = click.Context(command, parent=context, info_name=name)
    options = {name for parameter in command.get_params(context) for name in parameter.opts}
    for word in words[: words.index("--")] if "--" in words else words:
        name = word.partition("=")[0]
        assert not name.startswith("-") or name in options, f"line {number}: no option {name}: {line}"


def _absent(text: str) -> click.Command:
    raise AssertionError(text)
