"""Write the public names of the doors of `src/brakeline`: docs/api.md, or compare it under `--check`.

A door is a module that users import. It names what is public in `__all__`; where it has none, public is what it defines
without an underscore. What is written is the source's own text: nothing is imported or executed.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "api.md"

DOORS = (
    "brakeline",
    "brakeline.core.treaty",
    "brakeline.core.state",
    "brakeline.core.state.events",
    "brakeline.core.views",
    "brakeline.core.errors",
    "brakeline.core.bundle",
    "brakeline.core.tlog.merkle",
    "brakeline.core.tlog.note",
    "brakeline.core.tlog.checkpoint",
    "brakeline.core.tlog.tile",
    "brakeline.core.tlog.policy",
    "brakeline.core.tlog.proof",
    "brakeline.training",
    "brakeline.training.recipe",
    "brakeline.training.session",
    "brakeline.training.recorder",
    "brakeline.training.gatehook",
    "brakeline.report",
)
HEAD = """# API reference

Written from the source by `python tools/api.py`; a test fails when it is out of date. What is here stays within a minor
version; everything else may change in any. [library.md](library.md) shows how it is used.
"""
LONGEST = 4  # lines of a constant that is written out

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class Source(NamedTuple):
    """A module: its lines, and its syntax tree."""

    name: str
    lines: list[str]
    tree: ast.Module


class Public(NamedTuple):
    """A public name of a door, and where it is defined; `node` is None where it is a module."""

    name: str
    module: str
    defined: str
    node: Definition | None


@cache
def source(module: str) -> Source | None:
    """The module, where there is one of this name."""
    path = SOURCE.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            text = file.read_text()
            return Source(module, text.split("\n"), ast.parse(text, str(file)))
    return None


def public(door: str) -> list[Public]:
    """The names that a door offers, in its order.

    Raises:
        SystemExit: `__all__` has a name that is defined nowhere, or there is no such door.
    """
    module = source(door)
    if module is None:
        sys.exit(f"error: no module {door}")
    listed = next((node.value for node in module.tree.body if "__all__" in _targets(node)), None)
    if listed is None:
        return [
            Public(name, door, name, node)
            for node in module.tree.body
            for name in _targets(node)
            if isinstance(node, Definition) and not name.startswith("_") and not _is_variable(node)
        ]
    return [find(door, name) for name in ast.literal_eval(listed)]


def find(module: str, name: str) -> Public:
    """Where `name` of `module` is defined, through as many imports as there are."""
    here = source(module)
    for node in here.tree.body if here else ():
        if name in _targets(node):
            assert isinstance(node, Definition)
            return Public(name, module, name, node)
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if (alias.asname or alias.name) == name and node.module:
                if source(f"{node.module}.{alias.name}"):
                    return Public(name, f"{node.module}.{alias.name}", "", None)
                return find(node.module, alias.name)._replace(name=name)
    sys.exit(f"error: {module} offers {name}, which is defined nowhere")


def _targets(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _is_variable(node: Definition) -> bool:
    """A type variable is nobody's to import."""
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and getattr(value.func, "id", "") == "TypeVar"


# ---- what is written of a definition: its own lines ----


def _text(lines: list[str], first: int, last: int) -> list[str]:
    return lines[first - 1 : last]


def _function(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    indent = " " * node.col_offset
    for decorator in node.decorator_list:
        name = ast.unparse(decorator)
        if name.rpartition(".")[2] in ("property", "cached_property", "classmethod", "staticmethod", "contextmanager"):
            yield f"{indent}@{name}"
    first = node.body[0]
    head = _text(lines, node.lineno, max(node.lineno, first.lineno - 1))
    if ast.get_docstring(node) is not None:
        yield from head
        yield from _text(lines, first.lineno, first.end_lineno or first.lineno)
    else:
        yield from (*head[:-1], head[-1] if head[-1].rstrip().endswith("...") else f"{head[-1]} ...")


def _class(lines: list[str], node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(text for text in map(ast.unparse, node.bases) if not text.startswith("_"))
    yield f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    kept = [member for member in node.body if _is_shown(member)]
    if not kept:
        yield "    ..."
    for i, member in enumerate(kept):
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ("", *_function(lines, member))
        else:
            before = kept[i - 1] if i else None
            if isinstance(before, ast.Expr):
                yield ""
            yield from _text(lines, member.lineno, member.end_lineno or member.lineno)


def _is_shown(member: ast.stmt) -> bool:
    match member:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name == "__init__" or not name.startswith("_")
        case ast.AnnAssign() | ast.Assign():
            return not _targets(member)[0].startswith("_") if _targets(member) else False
    return False


def written(found: Public) -> list[str]:
    """The source's text of a definition, without what it does."""
    module, node = source(found.module), found.node
    assert module is not None
    lines = module.lines
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return list(_function(lines, node))
    if isinstance(node, ast.ClassDef):
        return list(_class(lines, node))
    assert node is not None
    text = _text(lines, node.lineno, node.end_lineno or node.lineno)
    return text if len(text) <= LONGEST else [f"{text[0].partition(' = ')[0]} = ..."]


# ---- the page ----


def _home(found: Public, offers: dict[str, list[Public]]) -> str:
    """Of the doors that offer it, the one nearest to where it is defined: there it is written out."""
    near = [d for d, names in offers.items() if any(_same(x, found) for x in names)]
    return max(near, key=lambda d: (found.module == d or found.module.startswith(f"{d}."), len(d)))


def _same(one: Public, other: Public) -> bool:
    return (one.module, one.defined) == (other.module, other.defined)


def _anchor(door: str) -> str:
    return door.replace(".", "")


def _first(found: Public) -> str:
    """The first sentence of what is said about it."""
    node, module = found.node, source(found.module)
    assert module is not None
    told = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | None)
    text = ast.get_docstring(node or module.tree) if told else ""  # type: ignore[arg-type]
    sentence = " ".join((text or "").partition("\n\n")[0].split()).partition(". ")[0].rstrip(".:")
    return f": {sentence}" if sentence and not sentence.startswith("Raises") else ""


def page() -> str:
    """The whole reference."""
    offers = {door: public(door) for door in DOORS}
    parts = [HEAD]
    for door, names in offers.items():
        module = source(door)
        assert module is not None
        parts.append(f"## `{door}`\n\n{ast.get_docstring(module.tree)}\n")
        here = [found for found in names if found.node is not None and _home(found, offers) == door]
        for found in names:
            if found in here:
                continue
            where = found.module if found.node is None else _home(found, offers)
            called = "" if found.defined in ("", found.name) else f" (there `{found.defined}`)"
            target = f"[{where}](#{_anchor(where)})" if where in DOORS else f"`{where}`"
            parts.append(f"- `{found.name}`{_first(found)}. In {target}{called}.")
        if len(here) < len(names):
            parts.append("")
        if here:
            text = "\n\n".join("\n".join(line.rstrip() for line in written(found)) for found in here)
            renamed = [f"# `{f.name}` is `{f.defined}` of {f.module}\n" for f in here if f.name != f.defined]
            parts.append("```python\n" + "\n".join([*renamed, text]) + "\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    new = page()
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif not PAGE.exists() or PAGE.read_text() != new:
        sys.exit("error: docs/api.md is out of date. hint: python tools/api.py")
