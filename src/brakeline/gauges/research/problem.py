"""The research problem: a strong learner sees only what a weak supervisor says about an unlabelled pool.

Source: Burns et al. 2023, *Weak-to-strong generalization*, for the problem and PGR. The weak supervisor is a logistic
regression on few features and few labels; the strong learner is a support vector machine on all features.

Items are cut three ways once for each draw: *oracle* items answer questions during the search, *sealed* items answer
once, at the end, and the rest is dealt anew for each seed into the weak supervisor's labelled items and the pool. So
no answer about an oracle item ever concerns a sealed one, whatever the seed.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from brakeline.core.encoding import tagged
from brakeline.core.errors import Misuse
from brakeline.gauges.research.language import embedded
from brakeline.gauges.research.methods import Floats, Ints, Seen, strong

Split = Literal["oracle", "sealed"]


class Data(NamedTuple):
    """`features` [items, d] for the strong learner, `few` [items, e] for the weak one, `labels` [items] from 0.

    `weak_labels`: how many labels the weak supervisor learns from. `share`: of the items, in each of the two splits.
    `digest`: hex, of all that the data follow from.
    """

    features: Floats
    few: Floats
    labels: Ints
    weak_labels: int
    share: float
    digest: str


class Deal(NamedTuple):
    """One seed's problem as the scorer holds it: `truth`, and what weak supervisor and ceiling answer, each [t]."""

    seen: Seen
    truth: Ints
    weak: Ints
    ceiling: Ints


def _digits(folder: Path | None) -> Data:
    """1,797 scanned digits, 64 pixels; the weak supervisor sees 6 pixels, each pooled of 2×2."""
    pixels, labels = load_digits(return_X_y=True)
    pooled = (pixels / 16).reshape(-1, 4, 2, 4, 2).mean((2, 4))
    return _of_numbers(pixels / 16, pooled[:, :3, 1:3].reshape(-1, 6), labels.astype(np.int64), 150, 0.22)


def _cancer(folder: Path | None) -> Data:
    """569 breast tumours, 30 measures; the weak supervisor sees mean texture and mean smoothness."""
    measures, labels = load_breast_cancer(return_X_y=True)
    features = StandardScaler().fit_transform(measures)
    return _of_numbers(features, features[:, [1, 4]], labels.astype(np.int64), 40, 0.3)


def _docstrings(folder: Path | None) -> Data:
    """1,900 docstrings, 8 packages, 384 dimensions; the weak supervisor sees 48, each the mean of 8 next to each other.

    The digest is of texts and model: the vectors' last bits differ between machines.
    """
    vectors, labels, digest = embedded(folder)
    pooled = StandardScaler().fit_transform(vectors.reshape(len(vectors), 48, 8).mean(2))
    return Data(vectors, pooled, labels, 150, 0.22, digest)


def _of_numbers(features: Floats, few: Floats, labels: Ints, weak_labels: int, share: float) -> Data:
    """With SHA-256 over both feature matrices and the labels, as little-endian 8-byte numbers."""
    arrays = (features.astype("<f8"), few.astype("<f8"), labels.astype("<i8"))
    digest = tagged("brakeline/research-data/v1", *(np.ascontiguousarray(a).tobytes() for a in arrays)).hex()
    return Data(features, few, labels, weak_labels, share, digest)


DATA: Final[dict[str, Callable[[Path | None], Data]]] = {
    "digits": _digits,
    "cancer": _cancer,
    "docstrings": _docstrings,
}
_loaded: Final[dict[str, Data]] = {}


def load(name: str, folder: Path | None = None) -> Data:
    """A data set, made once in a process. `folder`: where features that take long to compute are kept.

    Raises:
        Misuse: no data set of this name. Unavailable: it needs a package that is not there.
    """
    if name not in DATA:
        raise Misuse(f"no data set {name!r}", hint=f"there are {', '.join(DATA)}")
    if name not in _loaded:
        _loaded[name] = DATA[name](folder)
    return _loaded[name]


def generator(*words: object) -> np.random.Generator:
    """A generator for one purpose and no other, the same on every machine."""
    seed = tagged("brakeline/research/v1", *(str(word).encode() for word in words))
    return np.random.default_rng(np.frombuffer(seed, "<u4"))


@cache
def items(name: str, draw: int) -> dict[str, Ints]:
    """Indices of the `oracle`, `sealed` and `rest` items. A verifier names `draw` after the researcher is declared."""
    data = load(name)
    order = generator("items", name, draw).permutation(len(data.labels))
    size = round(data.share * len(order))
    return {"oracle": order[:size], "sealed": order[size : 2 * size], "rest": order[2 * size :]}


@cache
def deal(name: str, draw: int, seed: int, split: Split) -> Deal:
    """The problem of one seed. Weak supervisor and ceiling are fitted anew; the ceiling learns from the same pool as
    every method, with its true labels."""
    data, cut = load(name), items(name, draw)
    rest = generator("seed", name, draw, seed).permutation(cut["rest"])
    labelled, pool, asked = rest[: data.weak_labels], rest[data.weak_labels :], cut[split]
    weak = LogisticRegression(max_iter=5000).fit(data.few[labelled], data.labels[labelled])
    probabilities = np.zeros((len(pool), int(data.labels.max()) + 1))
    probabilities[:, weak.classes_] = weak.predict_proba(data.few[pool])
    ceiling = strong().fit(data.features[pool], data.labels[pool])
    return Deal(
        Seen(data.features[pool], probabilities, data.features[asked]),
        data.labels[asked],
        weak.predict(data.few[asked]),
        ceiling.predict(data.features[asked]),
    )
