"""A recipe: the code and the configuration of a run, pinned by one digest, and copied for the inspector."""

import hashlib
import importlib.util
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from brakeline.core import units
from brakeline.core.encoding import canonical, parse, tagged
from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.run import check_folder_name

MANIFEST: Final = "recipe.json"
MAX_SOURCE: Final = 1 << 24  # bytes of the code, and of the manifest: an inspector reads both before it judges them
MAX_MANIFEST: Final = 1 << 20
_RESERVED: Final = frozenset({"seed", "steps"})


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    entry: str
    steps: int
    purpose: str = ""
    parents: list[str] = []
    chips: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 1
    flop_per_second: str = "0 FLOP/s"
    domain: str = ""
    config: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`source` is one Python file with `train(config, gate, recorder)`, `dataset_root(config)` and
    `flop_per_step(config)`; `config` is what the run's declaration fixes, without the seed.

    From `purpose` on down, all is said in the declaration and is no code: the digest does not change with it.
    """

    name: str
    source: Path
    steps: int
    config: dict[str, Any]
    purpose: str = ""
    parents: tuple[str, ...] = ()
    chips: int = 1
    flop_per_second: int = 0
    domain: str = ""

    @property
    def digest(self) -> str:
        """Hex digest over the exact source and the canonical configuration.

        Raises:
            Malformed: either is longer than an inspector reads. Unavailable: the source cannot be read.
        """
        return tagged("brakeline/recipe/v1", _bounded(self.source, MAX_SOURCE), self._manifest()).hex()

    def _manifest(self) -> bytes:
        what = {"name": self.name, "source": self.source.name, "steps": self.steps, "config": self.config}
        data = canonical(what)
        if len(data) > MAX_MANIFEST:
            raise Malformed(f"the configuration takes {len(data)} bytes; an inspector reads {MAX_MANIFEST}")
        return data

    def full_config(self, seed: bytes) -> dict[str, Any]:
        """What `train` gets: the configuration, the number of steps, and the seed that the log gave (hex)."""
        return {**self.config, "steps": self.steps, "seed": seed.hex()}

    def deposit(self, folder: Path) -> None:
        """Copy source and manifest into the evidence, where an inspector finds them. Raises as `digest`."""
        source, manifest = _bounded(self.source, MAX_SOURCE), self._manifest()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.source.name).write_bytes(source)
        (folder / MANIFEST).write_bytes(manifest)

    def load(self) -> "Code":
        """Run the source and take its three functions.

        Raises:
            Unavailable: there is no such file. Malformed: it does not run, or lacks one of them.
        """
        # The name carries the content, so that two recipes never share a module.
        name = f"brakeline_recipe_{hashlib.sha256(_bounded(self.source, MAX_SOURCE)).hexdigest()[:16]}"
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


def _bounded(path: Path, most: int) -> bytes:
    """Raises:
    Unavailable: it cannot be read. Malformed: it is longer.
    """
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from e
    if len(data) > most:
        raise Malformed(f"{path.name} is longer than {most} bytes, which is as much as an inspector reads")
    return data


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file (TOML: name, entry, steps; purpose, parents, chips, flop_per_second, domain; [config]).

    `chips` are the accelerators of the cluster, `flop_per_second` what they can do at most, as "400 TFLOP/s".

    Raises:
        Unavailable: no such file. Malformed: unknown or missing key, wrong type, or a name that no folder may have.
    """
    try:
        raw = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File, strict=True)
        rate = units.rate(raw.flop_per_second)
    except OSError as e:
        raise Unavailable(f"no recipe at {path}: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as e:
        raise Malformed(f"{path}: {e}") from e
    except Malformed as e:
        raise Malformed(f"{path}: flop_per_second: {e}", hint=e.hint) from e
    if _RESERVED & raw.config.keys():
        raise Malformed(f"{path}: [config] may not set {' or '.join(sorted(_RESERVED))}: the log gives the seed")
    check_folder_name(raw.name)
    return Recipe(
        raw.name,
        (path.parent / raw.entry).resolve(),
        raw.steps,
        raw.config,
        raw.purpose,
        tuple(sorted(raw.parents)),
        raw.chips,
        rate,
        raw.domain,
    )


def deposited(folder: Path) -> Recipe:
    """The recipe in an evidence folder.

    Raises:
        Unavailable: none there. Malformed: not a manifest.
    """
    m = parse(_bounded(folder / MANIFEST, MAX_MANIFEST), dict[str, Any])
    if set(m) != {"name", "source", "steps", "config"} or not isinstance(m["config"], dict):
        raise Malformed(f"{folder / MANIFEST} is not a recipe's manifest")
    source = str(m["source"])
    if Path(source).name != source or not source.endswith(".py"):
        raise Misuse(f"the manifest names the file {source!r}, which is not a plain Python file name")
    return Recipe(str(m["name"]), folder / source, int(m["steps"]), m["config"])
