"""Installed distributions, as part of what decides a step's bits: by name, version, and the code that is there."""

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from blake3 import blake3

from brakeline.core.encoding import tagged

_ALWAYS: Final = ("numpy", "torch")
_OURS: Final = "brakeline"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?")
_CODE: Final = re.compile(r"\.(py|so|pyd|dll|dylib)$|\.so\.")
MAX_DISTRIBUTIONS: Final = 512


def fingerprints(names: Iterable[str]) -> dict[str, str]:
    """Version and digest of the code of each distribution, "" for one that is not installed here; torch and NumPy are
    always among them. No code of theirs runs."""
    return {name: _fingerprint(name) for name in sorted({*_ALWAYS, *normal(names)})}


def normal(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are normalised names (PEP 503), sorted, and at most 512."""
    return tuple(sorted({name for name in names if _NAME.fullmatch(name)}))[:MAX_DISTRIBUTIONS]


@cache
def _fingerprint(name: str) -> str:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    parts: list[bytes] = []
    for file in sorted(found.files or (), key=str):
        # What an installer writes for one machine alone (scripts, caches, its notes) is no code that runs in a step.
        if file.parts[0] != ".." and _CODE.search(file.name):
            try:
                digest = blake3().update_mmap(Path(str(file.locate()))).digest()
            except OSError:
                digest = b""
            parts += [str(file).encode(), digest]
    return f"{found.version} {tagged('brakeline/distribution/v1', *parts).hex()[:32]}"


@cache
def _by_module() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def imported() -> frozenset[str]:
    """Names of the distributions of which a module is imported in this process, without Brakeline's own."""
    tops = {name.partition(".")[0] for name in sys.modules}
    names = (re.sub(r"[-_.]+", "-", d).lower() for top in tops for d in _by_module().get(top, ()))
    return frozenset(name for name in names if name != _OURS)


def strays(recipe: Path) -> dict[str, str]:
    """Modules imported in this process that are neither Python's, nor an installed distribution's, nor in the folder
    `recipe`: by name, where they lie. An inspector has no copy of them."""
    known = _by_module()
    ours = Path(__file__).parents[1]
    homes = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, str(recipe), str(ours))]
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = name.partition(".")[0]
        if not isinstance(file, str) or top in known or top in sys.stdlib_module_names:
            continue
        path = Path(file).resolve()
        if any(part.startswith("torchinductor_") or part == ".triton" for part in path.parts):
            continue  # what torch.compile has made of the recipe
        if not any(path.is_relative_to(home) for home in homes):
            found[name] = str(path)
    return found
