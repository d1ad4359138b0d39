"""A recipe: the code, the files and the configuration of a run, pinned by one digest, and copied for the inspector.

The entry's folder is the recipe's: what lies beside the entry and is listed in `files` (modules that it imports,
weights that it starts from) is part of the recipe, and is found there by the lab's run and by the inspector's replay
alike. Both run what was deposited, so that nothing beside it can matter.
"""

import hashlib
import importlib.util
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from brakeline.core import units
from brakeline.core.encoding import Wire, canonical, parse, tagged
from brakeline.core.errors import BrakelineError, Malformed, Misuse, Unavailable
from brakeline.core.run import MAX_RANKS, check_folder_name
from brakeline.training.dataset import root_of

RECIPE: Final = "recipe"  # in a run's evidence
MANIFEST: Final = "recipe.json"
MAX_FILES: Final = 1024
MAX_BYTES: Final = 1 << 36  # of all files: an inspector reads them before it judges them
MAX_MANIFEST: Final = 1 << 20
_RESERVED: Final = frozenset({"seed", "steps"})
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CHUNK: Final = 1 << 20
_MODULE: Final = "brakeline_recipe_"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    entry: str
    steps: int
    purpose: str = ""
    parents: list[str] = []
    chips: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 1
    flop_per_second: str = "0 FLOP/s"
    domain: str = ""
    files: list[str] = []
    data: list[str] = []
    ranks: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    segment: str = ""
    config: dict[str, Any] = {}


class _Listed(Wire, frozen=True):
    """One file of a recipe: its path in the recipe's folder, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    digest: str


class _Manifest(Wire, frozen=True):
    name: str
    entry: str
    steps: int
    config: dict[str, Any]
    files: tuple[_Listed, ...]
    ranks: int
    data: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET  # last names of what the data set consists of


@dataclass(frozen=True, slots=True)
class Recipe:
    """`source` is one Python file with `train(config, gate, recorder)`, `dataset_root(config)` and
    `flop_per_step(config)`; `files` are others, as paths in its folder; `config` is what the run's declaration fixes,
    without the seed; `ranks` is the number of processes that train one model. Where `data` are the files and folders of
    the data set, its root is computed from these, and the source needs no `dataset_root`; of a recipe that was
    deposited they are names, for data sets stay where they are.

    `purpose`, `parents`, `chips`, `flop_per_second`, `domain` and `segment` are said in the declaration and are no
    code: the digest does not change with them. `segment` is "", or what checkpoints may cost: the time between two
    ("10 min"), or what 1,000 steps leave on the disk ("20 GB").
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
    files: tuple[str, ...] = ()
    ranks: int = 1
    segment: str = ""
    data: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        """Hex digest over the exact files and the canonical configuration.

        Raises:
            Malformed: they are more than an inspector reads. Unavailable: a file cannot be read.
        """
        return tagged("brakeline/recipe/v2", self._manifest(None)).hex()

    def _manifest(self, copy: Path | None) -> bytes:
        """The manifest of the files as they are; with `copy`, of what is copied there."""
        paths = sorted({self.source.name, *self.files})
        if len(paths) > MAX_FILES:
            raise Malformed(f"the recipe has {len(paths)} files; an inspector reads {MAX_FILES}")
        left = MAX_BYTES
        listed = []
        for path in paths:
            size, digest = _read(self.source.parent / path, left, copy / path if copy else None)
            listed.append(_Listed(path=path, size=size, digest=digest))
            left -= size
        what = _Manifest(
            name=self.name,
            entry=self.source.name,
            steps=self.steps,
            config=self.config,
            files=tuple(listed),
            ranks=self.ranks,
            data=tuple(path.name for path in self.data) or msgspec.UNSET,
        )
        data = canonical(what)
        if len(data) > MAX_MANIFEST:
            raise Malformed(f"the configuration takes {len(data)} bytes; an inspector reads {MAX_MANIFEST}")
        return data

    def full_config(self, seed: bytes) -> dict[str, Any]:
        """What `train` gets: the configuration, the number of steps, and the seed that the log gave (hex)."""
        return {**self.config, "steps": self.steps, "seed": seed.hex()}

    def deposit(self, folder: Path) -> "Recipe":
        """Copy the files and their manifest into `folder`, where an inspector finds them, and the run its code.

        Returns the recipe that is there. Raises as `digest`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        data = self._manifest(folder)
        (folder / MANIFEST).write_bytes(data)
        return deposited(folder)

    def load(self) -> "Code":
        """Run the source and take its three functions.

        Raises:
            Unavailable: there is no such file. Malformed: it does not run, or lacks one of them.
        """
        # The name carries the code, so that two recipes never share a module. Not the weights: they may be large.
        code = sorted(path for path in {self.source.name, *self.files} if path.endswith(".py"))
        digests = [_read(self.source.parent / path, MAX_BYTES, None)[1] for path in code]
        name = f"{_MODULE}{tagged('brakeline/module/v1', canonical([code, digests])).hex()[:16]}"
        _import_from(self.source.parent)
        module = sys.modules.get(name) or _run(name, self.source)
        wanted = ("train", "flop_per_step") if self.data else ("train", "dataset_root", "flop_per_step")
        missing = [f for f in wanted if not callable(getattr(module, f, None))]
        if missing:
            raise Malformed(f"{self.source.name} has no function {missing[0]}()", hint="see examples/train.py")
        return Code(module.train, _nowhere if self.data else module.dataset_root, module.flop_per_step)

    def dataset(self, code: "Code") -> str:
        """The root of the data set, in hex: of the files that are named as `data`, else as the `code` says.

        Raises as `dataset.root_of`, and what the recipe's code raises.
        """
        return root_of(self.data) if self.data else code.dataset_root(self.full_config(bytes(32)))


class Code(NamedTuple):
    """The functions of a recipe."""

    train: Callable[..., None]
    dataset_root: Callable[[dict[str, Any]], str]
    flop_per_step: Callable[[dict[str, Any]], int]


def _nowhere(config: dict[str, Any]) -> str:
    raise Misuse("the data set of this recipe is named in it, and its root is not the code's to say")


def own_line(e: BaseException, folder: Path) -> tuple[Path, int] | None:
    """Where in the recipe's own code, by its path in `folder`, an error came from: the innermost such line."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).is_relative_to(folder)]
    return (Path(frames[-1].filename).relative_to(folder), frames[-1].lineno or 0) if frames else None


@contextmanager
def own_code(source: Path, folder: Path) -> Iterator[None]:
    """What the code in `folder` raises is said in its terms: where in it, and what. The cause has the whole of it.

    `source` is the entry as its author knows it, who has never seen `folder`.

    Raises:
        Malformed: it failed, or ended its process. What it raises of ours, and what the machine says, as it is.
    """
    try:
        yield
    except (BrakelineError, OSError):
        raise
    except (Exception, SystemExit) as e:
        line = own_line(e, folder)
        where = f"{source.parent / line[0]}, line {line[1]}" if line else str(source)
        hint = "it is the recipe's code that failed, or its [config] that it cannot work with"
        raise Malformed(f"{where}: {_words(e)}", hint=hint) from e


def _words(e: BaseException) -> str:
    return f"it ends its process: sys.exit({e.code!r})" if isinstance(e, SystemExit) else f"{type(e).__name__}: {e}"


def _run(name: str, source: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise Malformed(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        del sys.modules[name]
        if isinstance(e, BrakelineError):
            raise
        line = own_line(e, source.parent)
        where = f"{line[0]}, line {line[1]}" if line else source.name
        raise Malformed(f"{where}: {_words(e)}", hint=_hint(e)) from e
    return module


def _hint(e: BaseException) -> str:
    if isinstance(e, ModuleNotFoundError | FileNotFoundError):
        return "a file that lies beside the entry is part of the recipe only where it is listed: files = [...]"
    return ""


_imported_from = ""


def _import_from(folder: Path) -> None:
    """Modules beside the entry are imported from `folder`, and those of the recipe before it no more."""
    global _imported_from
    here = str(folder.resolve())
    if here == _imported_from:
        return
    if _imported_from:
        sys.path[:] = [path for path in sys.path if path != _imported_from]
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(_imported_from) and not name.startswith(_MODULE):
                del sys.modules[name]
    sys.path.insert(0, here)
    _imported_from = here


def _read(path: Path, most: int, copy: Path | None) -> tuple[int, str]:
    """Size and SHA-256 of a file, copied on the way.

    Raises:
        Unavailable: it cannot be read, or not be copied. Malformed: it is longer, or no plain file.
    """
    digest, size = hashlib.sha256(), 0
    try:
        if not path.is_file():
            raise Unavailable(f"cannot read {path}: it is no file" if path.exists() else f"there is no file {path}")
        target = _fresh(copy) if copy and not (copy.exists() and copy.samefile(path)) else None
        with path.open("rb") as f, target.open("wb") if target else open(os.devnull, "wb") as out:
            while data := f.read(_CHUNK):
                size += len(data)
                if size > most:
                    raise Malformed(f"{path.name} is longer than {most} bytes, which is as much as an inspector reads")
                digest.update(data)
                out.write(data)
        if target and copy:
            target.replace(copy)
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from e
    return size, digest.hexdigest()


def _fresh(copy: Path) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    return copy.with_name(copy.name + ".tmp")


def _listed(folder: Path, patterns: list[str], entry: str) -> tuple[str, ...]:
    """The files in `folder` that `patterns` name, without the entry.

    Raises:
        Malformed: a pattern leads out of the folder, names nothing, or a file whose name is none for all machines.
    """
    found: set[str] = set()
    for pattern in patterns:
        if not pattern or pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
            raise Malformed(f"files: {pattern!r} is not in the entry's folder", hint="move it there")
        paths = {p.relative_to(folder).as_posix() for p in folder.glob(pattern) if p.is_file()}
        if not paths:
            raise Malformed(f"files: {pattern!r} names no file in {folder}")
        found |= paths
    for path in found:
        _check_path(path)
    return tuple(sorted(found - {entry}))


def _check_path(path: str) -> None:
    if len(path) > 240 or path == MANIFEST or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise Malformed(f"a recipe cannot have a file {path[:80]!r}", hint="letters, digits, . _ and - alone")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file. TOML: name, entry, steps; files, data, ranks, purpose, parents, chips, flop_per_second,
    domain, segment; and [config].

    `files` are patterns in the entry's folder (`net.py`, `weights/*.safetensors`, `lib/**/*.py`). `data` are the
    files and folders of the data set, as paths from the recipe file's folder. `chips` are the accelerators of the
    cluster, `flop_per_second` what they can do at most, as "400 TFLOP/s".

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
    source = (path.parent / raw.entry).resolve()
    _check_path(source.name)
    return Recipe(
        raw.name,
        source,
        raw.steps,
        raw.config,
        raw.purpose,
        tuple(sorted(raw.parents)),
        raw.chips,
        rate,
        raw.domain,
        _listed(source.parent, raw.files, source.name),
        raw.ranks,
        raw.segment,
        tuple((path.parent / name).resolve() for name in sorted(raw.data)),
    )


def deposited(folder: Path) -> Recipe:
    """The recipe in an evidence folder, with the digest that its files have there.

    Raises:
        Unavailable: none there. Malformed: not a manifest, or of files that no recipe has.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as f:
            data = f.read(MAX_MANIFEST + 1)
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from e
    if len(data) > MAX_MANIFEST:
        raise Malformed(f"{path.name} is longer than {MAX_MANIFEST} bytes, which is as much as an inspector reads")
    m = parse(data, _Manifest)
    paths = [file.path for file in m.files]
    for name in (m.entry, *paths):
        _check_path(name)
    if m.entry not in paths or "/" in m.entry or len(paths) > MAX_FILES or not 1 <= m.ranks <= MAX_RANKS:
        raise Malformed(f"{path} is not a recipe's manifest")
    names = tuple(map(Path, m.data or ()))
    if any(len(name.parts) != 1 or ".." in name.parts for name in names):
        raise Malformed(f"{path} names data by more than their last name")
    files = tuple(p for p in paths if p != m.entry)
    return Recipe(m.name, folder / m.entry, m.steps, m.config, files=files, ranks=m.ranks, data=names)
