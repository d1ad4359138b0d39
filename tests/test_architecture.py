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

CORE_PACKAGES = {"cryptography", "msgspec", "rfc8785"}
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
            if there != module.folder and flow.RINGS.get(there, -1) >= flow.RINGS.get(module.folder, -1):
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
