"""Imports point down, nothing goes round, and the core is pure. The first tests try the rules on a bad example."""

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import flow  # noqa: E402

CORE_PACKAGES = {"cryptography", "msgspec", "rfc8785", "rpds"}
# fmt: off
WORLD = {
    "os", "sys", "io", "pathlib", "shutil", "glob", "tempfile", "sqlite3",
    "socket", "ssl", "http", "urllib", "select", "selectors",
    "time", "random", "secrets", "uuid", "platform", "logging",
    "subprocess", "signal", "threading", "multiprocessing", "concurrent", "asyncio", "ctypes", "importlib",
}
# fmt: on
WORLD_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "now", "utcnow", "today"}
NOT_IN_CORE = {"torch", "numpy", "starlette", "uvicorn", "httpx", "psutil", "rich", "click", "sqlite3", "socket"}


def violations(modules: Mapping[str, flow.Module]) -> Iterator[str]:
    """What breaks the rules, as `module:line rule`."""
    for name, module in modules.items():
        if module.folder not in flow.RINGS and name != "brakeline":
            yield f"{name}:1 stands in no ring"
            continue
        if not module.doc:
            yield f"{name}:1 has no docstring"
        for target, line, hidden in module.internal:
            there = flow.folder_of(target)
            if hidden:
                yield f"{name}:{line} hides an import in a function"
            ring = flow.RINGS.get(module.folder, -1)
            if module.folder and there != module.folder and flow.RINGS.get(there, -1) >= ring:
                yield f"{name}:{line} does not import downwards"
        if module.folder == "core":
            yield from impurities(module)
    try:
        graphlib.TopologicalSorter({m.name: {i.target for i in m.internal} for m in modules.values()}).prepare()
    except graphlib.CycleError as e:
        yield f"{e.args[1][0]}:1 imports itself by way of {' '.join(e.args[1][1:])}"


def impurities(module: flow.Module) -> Iterator[str]:
    for package, line, _ in module.external:
        if package in WORLD or package not in CORE_PACKAGES | sys.stdlib_module_names:
            yield f"{module.name}:{line} the core may not import {package}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in WORLD_CALLS:
                yield f"{module.name}:{node.lineno} the core may not call {called}"


BAD = {
    "__init__.py": '"""Top."""',
    "core/__init__.py": '"""Ring 0."""',
    "core/a.py": '"""A."""\nfrom brakeline.core import b\nimport json\nimport cryptography.x509',
    "core/b.py": '"""B."""\nfrom . import c\nfrom datetime import datetime\nNOW = datetime.now()',
    "core/c.py": '"""C."""\nfrom ..core.a import X\nimport os.path\nimport numpy as np\nopen("f")',
    "core/d.py": '"""D."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from brakeline.node.e import E',
    "node/__init__.py": '"""Ring 1."""',
    "node/e.py": "def f():\n    import brakeline.core.a\n    import os",
    "cluster/__init__.py": '"""Ring 2."""\nfrom brakeline import web',
    "web/__init__.py": '"""Ring 2."""\nfrom brakeline.core.a import X',
    "extra/__init__.py": '"""No ring."""',
}


def test_each_rule_notices_its_violation(tmp_path: Path) -> None:
    for name, text in BAD.items():
        path = tmp_path / "brakeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    *found, cycle = violations(flow.read(tmp_path))
    assert sorted(found) == [
        "brakeline.cluster:2 does not import downwards",
        "brakeline.core.b:4 the core may not call now",
        "brakeline.core.c:3 the core may not import os",
        "brakeline.core.c:4 the core may not import numpy",
        "brakeline.core.c:5 the core may not call open",
        "brakeline.core.d:4 does not import downwards",
        "brakeline.extra:1 stands in no ring",
        "brakeline.node.e:1 has no docstring",
        "brakeline.node.e:2 hides an import in a function",
    ]
    assert "imports itself by way of" in cycle


def test_the_package_keeps_the_rules() -> None:
    modules = flow.read()
    assert len(modules) > 20
    assert list(violations(modules)) == []


def test_importing_the_core_loads_no_edge() -> None:
    core = [name for name, module in flow.read().items() if module.folder == "core"]
    program = f"import sys, {', '.join(core)}; print(*sorted({NOT_IN_CORE!r} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(flow.SOURCE)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_flow_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/flow.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- who decides ----

DECIDES = {"core", "design"}  # the designer reasons about treaties; it applies none
_TESTS = (ast.If, ast.IfExp, ast.While, ast.Assert)


def names_treaty(node: ast.AST) -> bool:
    """Whether an expression reads a value of a treaty: `treaty.x`, `self._treaty.x`, `state.treaty.x`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute):
            owner = inner.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in ("treaty", "_treaty"):
                return True
    return False


def decisions(module: flow.Module) -> Iterator[str]:
    """Conditions and comparisons about the treaty, which are the core's to make."""
    for node in ast.walk(module.tree):
        conditions: list[ast.expr] = []
        if isinstance(node, _TESTS):
            conditions = [node.test]
        elif isinstance(node, ast.comprehension):
            conditions = node.ifs
        elif isinstance(node, ast.Compare):
            conditions = [node]
        elif isinstance(node, ast.match_case) and node.guard:
            conditions = [node.guard]
        if any(names_treaty(c) for c in conditions):
            yield f"{module.name}:{conditions[0].lineno} decides about the treaty"


def test_a_decision_is_noticed() -> None:
    for text in (
        "if len(votes) >= self.treaty.trip: pass",
        "x = 1 if state.treaty.lineage_gate else 0",
        "ok = left < self._treaty.permit_lifetime",
        "xs = [r for r in runs if r.flop > treaty.permit_allowance]",
        "while size % treaty.snapshot_every: pass",
    ):
        tree = ast.parse(text)
        assert list(decisions(flow.Module("brakeline.node.x", "X", (), (), tree))), text
    harmless = ast.parse("url = treaty.with_role('log')[0].log_url\nif url: pass")
    assert not list(decisions(flow.Module("brakeline.node.x", "X", (), (), harmless)))


def test_only_the_core_decides_about_the_treaty() -> None:
    found = [d for m in flow.read().values() if m.folder and m.folder not in DECIDES for d in decisions(m)]
    assert found == []


def test_the_node_asks_the_machine_through_its_ports() -> None:
    """Whatever goes past them escapes the simulator. What serves sockets, builds sandboxes or looks at the machine is
    no part of a world."""
    machine = {"time", "threading", "secrets", "random", "shutil", "filelock", "socket", "subprocess", "httpcore"}
    outside = {"machine", "wire", "http", "connections", "sandbox", "doctor"}
    found = [
        f"{m.name} imports {package}"
        for m in flow.read().values()
        if m.folder == "node" and m.name.rpartition(".")[2] not in outside
        for package, _, _ in m.external
        if package in machine
    ]
    assert found == []


def test_the_command_line_neither_folds_nor_flushes_nor_counts() -> None:
    """A command says something through `Desk.say` and shows a view: the ways past both are not called."""
    deciding = {"apply", "replay", "begin", "voters", "number", "authenticate", "Admission", "Outbox"}
    found = []
    for module in flow.read().values():
        if module.folder != "cli":
            continue
        for node in ast.walk(module.tree):
            inner = ("brakeline.core", "brakeline.node")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(inner):
                found += [f"{module.name} imports {alias.name}" for alias in node.names if alias.name in deciding]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "flush":
                found.append(f"{module.name} flushes")
    # The signer is handed its way to the log; a signature of the treaty is written before there is any log to ask.
    assert sorted(found) == ["brakeline.cli.signer imports Outbox", "brakeline.cli.treaty imports Outbox"]


def test_what_threads_share_is_replaced_under_its_lock() -> None:
    """The follower's state is a value: reading it needs no lock, and whoever replaces it holds one."""
    tree = flow.read()["brakeline.node.client"].tree
    (follower,) = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "Follower"]
    shared, before_threads = {"state", "cosigned", "stated", "_floor"}, {"__init__", "_restore"}
    for function in (n for n in follower.body if isinstance(n, ast.FunctionDef) and n.name not in before_threads):
        held = {
            id(inner)
            for node in ast.walk(function)
            if isinstance(node, ast.With)
            and any(ast.unparse(item.context_expr) == "self.lock" for item in node.items)
            for inner in ast.walk(node)
        }
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in (t for x in targets for t in ast.walk(x)):
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" and target.attr in shared:
                    assert id(node) in held, f"{function.name}:{node.lineno} replaces {target.attr} without the lock"


def test_no_file_is_longer_than_a_reader_holds_in_mind() -> None:
    longest = {p: len(p.read_text().splitlines()) for p in (ROOT / "src" / "brakeline").rglob("*.py")}
    assert {str(p): n for p, n in longest.items() if n > 450} == {}





def test_verify_needs_the_base_install_only() -> None:
    """`brakeline verify` with every package hidden that an extra brings."""
    program = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in HIDDEN: raise ModuleNotFoundError(name, name=name)\n"
        "from brakeline.cli.common import EXTRAS\n"
        "HIDDEN = set(EXTRAS)\n"
        "assert not HIDDEN & set(sys.modules), HIDDEN & set(sys.modules)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from brakeline.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True)

    done = call("verify", str(ROOT / "README.md"))
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, "error: not a brakeline bundle (v1), or cut short")
    done = call("status")
    assert done.returncode == 5
    assert done.stderr == (
        'error: `-c status` needs the package httpx\nhint: pip install "brakeline[node]"\n'
    )
