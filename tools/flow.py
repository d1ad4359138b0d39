"""Read the imports of `src/brakeline` and draw them: writes docs/flow.md, or compares it under `--check`.

tests/test_architecture.py holds the same reading against the rules. Nothing is imported or executed.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "flow.md"

RINGS = {
    "core": 0,
    "node": 1,
    **dict.fromkeys(
        ("training", "cluster", "drivers", "meters", "gauges", "design", "report", "testing", "web"),
        2,
    ),
    "adapters": 3,
    "cli": 4,
}
MEANING = (
    "bytes, numbers and `now` in; values out",
    "disk, sockets and the clock",
    "optional edges, apart from one another",
    "what fits the edges to other people's frameworks",
    "the command line",
)


class Import(NamedTuple):
    """One import: of a module of this package, or of another top-level package. `hidden`: inside a function."""

    target: str
    line: int
    hidden: bool


class Module(NamedTuple):
    """A module: its dotted name, the first paragraph of its docstring, what it imports, and its syntax tree."""

    name: str
    doc: str
    internal: tuple[Import, ...]
    external: tuple[Import, ...]
    tree: ast.Module

    @property
    def folder(self) -> str:
        """`brakeline.core.tlog.merkle` → `core`; the package itself → the empty string."""
        return folder_of(self.name)


def folder_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def read(source: Path = SOURCE) -> dict[str, Module]:
    """Every module under `source/brakeline`, by dotted name."""
    files = {}
    for path in sorted((source / "brakeline").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if "tasks" in parts:  # programs that a gauge times, no modules of the package
            continue
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: _module(name, path, frozenset(files)) for name, path in files.items()}


def _module(name: str, path: Path, names: frozenset[str]) -> Module:
    tree = ast.parse(path.read_text(), str(path))
    found = set()
    for node, hidden in _walk(tree, False):
        for target in _targets(node, name, path.stem == "__init__"):
            # `from a.b import c` imports the module a.b.c where there is one, or else something a.b defines.
            known = target if target in names else target.rpartition(".")[0]
            if target.partition(".")[0] != "brakeline":
                found.add(Import(target.partition(".")[0], node.lineno, hidden))
            elif known != name:
                found.add(Import(known, node.lineno, hidden))
    paragraph = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return Module(
        name=name,
        doc=" ".join(paragraph.split()),
        internal=tuple(sorted(i for i in found if i.target.partition(".")[0] == "brakeline")),
        external=tuple(sorted(i for i in found if i.target.partition(".")[0] != "brakeline")),
        tree=tree,
    )


def _walk(node: ast.AST, hidden: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, hidden
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, hidden or inside)


def _targets(node: ast.Import | ast.ImportFrom, name: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        above = name.split(".")[: len(name.split(".")) - node.level + is_package]
        base = ".".join([*above, base] if base else above)
    return [f"{base}.{alias.name}" for alias in node.names]


def page(modules: Mapping[str, Module]) -> str:
    """The text of docs/flow.md."""
    folders = sorted({m.folder for m in modules.values()} - {""}, key=lambda f: (RINGS[f], f))
    edges = {(m.folder, folder_of(i.target)) for m in modules.values() for i in m.internal}
    lines = [
        "# What imports what",
        "",
        "Written from the imports by `python tools/flow.py`; a test fails when it is out of date. An arrow points",
        "at what is imported; one that follows from others is left out. Imports point down:",
        "",
        *(f"- ring {ring}, {meaning}" for ring, meaning in enumerate(MEANING)),
        "",
        "```mermaid",
        "flowchart TD",
        *(f"  {folder}[{folder}/]" for folder in reversed(folders)),
        *(f"  {a} --> {b}" for a, b in _essential({(a, b) for a, b in edges if a and b and a != b})),
        "```",
    ]
    for folder in folders:
        members = [m for m in modules.values() if m.folder == folder]
        package = modules[f"brakeline.{folder}"]
        lines += ["", f"## {folder}/ (ring {RINGS[folder]})", "", package.doc, ""]
        inside = {(m.name, i.target) for m in members for i in m.internal if folder_of(i.target) == folder}
        inside = {(a, b) for a, b in inside if package.name not in (a, b)}
        if inside:
            drawn = sorted({name for edge in inside for name in edge})
            lines += ["```mermaid", "flowchart TD"]
            lines += [f'  {_id(name)}["{_short(name)}"]' for name in drawn]
            lines += [f"  {_id(a)} --> {_id(b)}" for a, b in _essential(inside)]
            lines += ["```", ""]
        for module in members:
            if module is not package:
                below = sorted({i.target for i in module.internal if folder_of(i.target) not in ("", folder)})
                uses = f" Imports {', '.join(name.removeprefix('brakeline.') for name in below)}." if below else ""
                lines.append(f"- **{_short(module.name)}**: {module.doc}{uses}")
    return "\n".join(lines).rstrip() + "\n"


def _essential(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges of an acyclic graph that do not follow from longer ways."""
    ahead: dict[str, set[str]] = {}
    for a, b in edges:
        ahead.setdefault(a, set()).add(b)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for n in ahead.get(stack.pop(), set()) - seen:
                seen.add(n)
                stack.append(n)
        return seen

    return sorted((a, b) for a, b in edges if not any(b in reach(c) for c in ahead[a] - {b}))


def _short(name: str) -> str:
    return name.split(".", 2)[2]


def _id(name: str) -> str:
    # A prefix, because `end` and `graph` are words of the drawing language.
    return "m_" + _short(name).replace(".", "_")


def main() -> int:
    text = page(read())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print("error: docs/flow.md is out of date\nhint: python tools/flow.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
