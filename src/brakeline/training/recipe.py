"""A recipe: the code and the configuration of a run, pinned by one digest, and copied for the inspector."""

import hashlib
import importlib.util
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import msgspec

from brakeline.core.encoding import canonical, parse, tagged
from brakeline.core.errors import Malformed, Misuse, Unavailable

MANIFEST: Final = "recipe.json"
_RESERVED: Final = frozenset({"seed", "steps"})


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    entry: str
    steps: int
    purpose: str = ""
    parents: list[str] = []
    config: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`source` is one Python file with `train(config, gate, recorder)`, `dataset_root(config)` and
    `flop_per_step(config)`; `config` is what the run's declaration fixes, without the seed."""

    name: str
    source: Path
    steps: int
    purpose: str
    parents: tuple[str, ...]
    config: dict[str, Any]

    @property
    def digest(self) -> str:
        """Hex digest over the exact source and the canonical configuration."""
        return tagged("brakeline/recipe/v1", self.source.read_bytes(), canonical(self._manifest())).hex()

    def _manifest(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source.name, "steps": self.steps, "config": self.config}

    def full_config(self, seed: bytes) -> dict[str, Any]:
        """What `train` gets: the configuration, the number of steps, and the seed that the log gave (hex)."""
        return {**self.config, "steps": self.steps, "seed": seed.hex()}

    def deposit(self, folder: Path) -> None:
        """Copy source and manifest into the evidence, where an inspector finds them."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.source, folder / self.source.name)
        (folder / MANIFEST).write_bytes(canonical(self._manifest()))

    def load(self) -> "Code":
        """Run the source and take its three functions.

        Raises:
            Malformed: it does not run, or lacks one of them.
        """
        # The name carries the content, so that two recipes never share a module.
        name = f"brakeline_recipe_{hashlib.sha256(self.source.read_bytes()).hexdigest()[:16]}"
        module = sys.modules.get(name) or _run(name, self.source)
        missing = [f for f in ("train", "dataset_root", "flop_per_step") if not callable(getattr(module, f, None))]
        if missing:
            raise Malformed(f"{self.source} has no function {missing[0]}()", hint="see examples/train.py")
        return Code(module.train, module.dataset_root, module.flop_per_step)


class Code(NamedTuple):
    """The functions of a recipe."""

    train: Callable[..., None]
    dataset_root: Callable[[dict[str, Any]], str]
    flop_per_step: Callable[[dict[str, Any]], int]


def _run(name: str, source: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise Malformed(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise Malformed(f"{source} does not run: {type(e).__name__}: {e}") from e
    return module


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file (TOML: name, entry, steps, purpose, parents, [config]).

    Raises:
        Unavailable: no such file. Malformed: unknown or missing key, wrong type.
    """
    try:
        raw = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File, strict=True)
    except OSError as e:
        raise Unavailable(f"no recipe at {path}: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as e:
        raise Malformed(f"{path}: {e}") from e
    if _RESERVED & raw.config.keys():
        raise Malformed(f"{path}: [config] may not set {' or '.join(sorted(_RESERVED))}: the log gives the seed")
    return Recipe(
        raw.name, (path.parent / raw.entry).resolve(), raw.steps, raw.purpose, tuple(sorted(raw.parents)), raw.config
    )


def deposited(folder: Path) -> Recipe:
    """The recipe in an evidence folder.

    Raises:
        Unavailable: none there. Malformed: not a manifest.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as e:
        raise Unavailable(f"no recipe in {folder}: {e.strerror}") from e
    m = parse(data, dict[str, Any])
    if set(m) != {"name", "source", "steps", "config"} or not isinstance(m["config"], dict):
        raise Malformed(f"{folder / MANIFEST} is not a recipe's manifest")
    source = str(m["source"])
    if Path(source).name != source or not source.endswith(".py"):
        raise Misuse(f"the manifest names the file {source!r}, which is not a plain Python file name")
    return Recipe(str(m["name"]), folder / source, int(m["steps"]), "", (), m["config"])
