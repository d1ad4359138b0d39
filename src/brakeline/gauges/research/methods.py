"""The space of methods: what makes a strong learner of a weak supervisor's word about a pool.

A method is data, never code, and has no seed: a researcher names its parts, and only this module runs them. Each is a
chain, after which the strong learner answers; `rounds` times before, it relabels the pool out of fold and goes back.

    view → denoise → prior → keep → strong learner → answers
             ↑                          │
             └──────────────────────────┘

Sources: Zhou et al. 2004 (label spreading), Ng et al. 2001 (spectral view), Zelnik-Manor & Perona 2004 (local scale),
Cuturi 2013 (Sinkhorn), Lee 2013 (self-training), Burns et al. 2023 (confident labels, weak-to-strong).
"""

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from brakeline.core.encoding import Wire, canonical, convert, tagged
from brakeline.core.errors import Misuse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FOLDS: Final = 4
_SINKHORN: Final = 100  # alternating normalisations


class Seen(NamedTuple):
    """All that a method is given: `pool` [n, d], the weak supervisor's probabilities for it `weak` [n, classes], and
    the items to be answered, `asked` [t, d]. No label, of any item."""

    pool: Floats
    weak: Floats
    asked: Floats


class Method(Wire, frozen=True):
    """One point of `SPACE`.

    `view`: where neighbours and clusters are looked for, in `dims` dimensions. `denoise`: how the pool's items correct
    each other's labels, by `neighbours`, by `clusters` (averaged over `members` clusterings), or by spreading with
    weight `alpha`. `hard`: begin with the weak supervisor's answers, else with its probabilities. `prior`: hold the
    classes' shares to those that the weak supervisor expects; the power says how firmly each item keeps its own word;
    0 is off. `keep`: share of each class to learn from, the surest first. `rounds`: of self-training.
    """

    view: str
    dims: int
    denoise: str
    neighbours: int
    clusters: int
    members: int
    alpha: float
    hard: bool
    prior: int
    keep: float
    rounds: int

    @property
    def id(self) -> str:
        """Hex digest by which the method is registered: equal for two spellings of one method."""
        return tagged("brakeline/research-method/v1", canonical(self)).hex()


SPACE: Final[dict[str, tuple[Any, ...]]] = {
    "view": ("raw", "pca", "spectral"),
    "dims": (8, 12, 16, 24),
    "denoise": ("none", "knn", "cluster", "spread"),
    "neighbours": (5, 10, 20),
    "clusters": (10, 14, 20, 30, 50),
    "members": (1, 4, 8),
    "alpha": (0.5, 0.9, 0.99),
    "hard": (True, False),
    "prior": (0, 1, 2, 4),
    "keep": (1.0, 0.85, 0.7, 0.5),
    "rounds": (0, 1, 2),
}

VANILLA: Final = Method(
    view="raw",
    dims=16,
    denoise="none",
    neighbours=10,
    clusters=10,
    members=1,
    alpha=0.9,
    hard=True,
    prior=0,
    keep=1.0,
    rounds=0,
)
BASELINES: Final[dict[str, Method]] = {
    "vanilla": VANILLA,
    "confident": msgspec.structs.replace(VANILLA, keep=0.5),
    "cluster": msgspec.structs.replace(VANILLA, denoise="cluster", clusters=30),
    "neighbours": msgspec.structs.replace(VANILLA, denoise="knn"),
    "propagation": msgspec.structs.replace(VANILLA, denoise="spread"),
}


def read_method(value: object) -> Method:
    """A method from parsed JSON, in its normal form: a part that plays no role takes the value it has in `VANILLA`.

    So nobody gets a second answer, or a second throw of the dice, for one method under another spelling.

    Raises:
        Malformed: a field missing, unknown (a seed, say) or of a wrong type.
        Misuse: a value outside the space.
    """
    method = convert(value, Method)
    for name, allowed in SPACE.items():
        if getattr(method, name) not in allowed:
            raise Misuse(f"{name} = {getattr(method, name)!r} is not in the space", hint=f"one of {allowed}")
    idle = []
    if method.denoise == "none":
        idle += ["view"]
    if method.denoise == "none" or method.view == "raw":
        idle += ["dims"]
    if method.denoise not in ("knn", "spread") and (method.view != "spectral" or "view" in idle):
        idle += ["neighbours"]
    if method.denoise != "cluster":
        idle += ["clusters", "members"]
    if method.denoise != "spread":
        idle += ["alpha"]
    return msgspec.structs.replace(method, **{name: getattr(VANILLA, name) for name in idle})


def strong() -> SVC:
    """The strong learner, for every method and for the ceiling."""
    return SVC(C=10.0, gamma="scale")


def answer(method: Method, seen: Seen) -> Ints:
    """The classes that the strong learner gives the items asked, [t]. Deterministic with one thread."""
    view = _view(method, seen.pool)
    expected = seen.weak.sum(0)
    labels = _clean(method, view, seen.weak, expected)
    for _ in range(method.rounds):
        again = np.eye(seen.weak.shape[1])[_out_of_fold(seen.pool, labels, method.keep)]
        labels = _clean(method, view, (again + seen.weak) / 2, expected)
    return _fit(seen.pool, labels, _surest(labels, method.keep), seen.asked)


def _view(method: Method, x: Floats) -> Floats:
    if method.denoise == "none" or method.view == "raw":
        return x
    if method.view == "pca":
        reduced: Floats = PCA(min(method.dims, x.shape[1]), random_state=0).fit_transform(x)
        return reduced
    _, vectors = eigh(_graph(x, method.neighbours), subset_by_index=[len(x) - method.dims, len(x) - 1])
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _graph(x: Floats, k: int) -> Floats:
    """Normalised affinity D^-1/2 W D^-1/2 of the `k` nearest neighbours, [n, n], with local scales."""
    distance, index = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)
    scale = np.maximum(distance[:, -1], 1e-9)
    rows, columns = np.repeat(np.arange(len(x)), k), index[:, 1:].ravel()
    affinity: Floats = np.zeros((len(x), len(x)))
    affinity[rows, columns] = np.exp(-(distance[:, 1:].ravel() ** 2) / (scale[rows] * scale[columns]))
    affinity = np.maximum(affinity, affinity.T)
    root = 1 / np.sqrt(np.maximum(affinity.sum(1), 1e-12))
    normalised: Floats = affinity * root[:, None] * root[None, :]
    return normalised


def _clean(method: Method, view: Floats, weak: Floats, expected: Floats) -> Floats:
    """Label probabilities [n, classes] after denoising and, if asked for, with the `expected` class totals."""
    labels = np.eye(weak.shape[1])[weak.argmax(1)] if method.hard else weak
    if method.denoise == "knn":
        index = NearestNeighbors(n_neighbors=method.neighbours).fit(view).kneighbors(view, return_distance=False)
        labels = labels[index].mean(1)
    elif method.denoise == "cluster":
        labels = np.mean([_vote(view, labels, method.clusters, i) for i in range(method.members)], axis=0)
    elif method.denoise == "spread":
        spread = np.eye(len(view)) - method.alpha * _graph(view, method.neighbours)
        labels = np.maximum(solve(spread, labels, assume_a="pos"), 0)
    labels = np.maximum(labels, 1e-9)
    labels /= labels.sum(1, keepdims=True)
    return _balanced(labels**method.prior, expected) if method.prior else labels


def _vote(view: Floats, labels: Floats, clusters: int, member: int) -> Floats:
    cluster = KMeans(min(clusters, len(view)), n_init=2, random_state=member).fit_predict(view)
    inside = np.eye(cluster.max() + 1)[cluster]
    mean = (inside.T @ labels) / np.maximum(inside.sum(0), 1)[:, None]
    voted: Floats = mean[cluster]
    return voted


def _balanced(labels: Floats, expected: Floats) -> Floats:
    """Sinkhorn: rows that sum to 1, columns near to the `expected` totals."""
    for _ in range(_SINKHORN):
        labels = labels * (np.maximum(expected, 1e-9) / np.maximum(labels.sum(0), 1e-300))
        labels = labels / np.maximum(labels.sum(1, keepdims=True), 1e-300)
    return labels


def _surest(labels: Floats, keep: float) -> Ints:
    """Indices of the `keep` share of each class whose margin over the second class is greatest, sorted."""
    ordered = np.sort(labels, axis=1)
    margin, given = ordered[:, -1] - ordered[:, -2], labels.argmax(1)
    kept = []
    for label in np.unique(given):
        members = np.flatnonzero(given == label)
        kept.append(members[np.argsort(-margin[members], kind="stable")[: max(1, round(keep * len(members)))]])
    return np.sort(np.concatenate(kept))


def _out_of_fold(x: Floats, labels: Floats, keep: float) -> Ints:
    """What the strong learner says of each item of the pool when it has not learned from it."""
    kept, said = _surest(labels, keep), np.empty(len(x), np.int64)
    for fold in np.array_split(np.random.default_rng(0).permutation(len(x)), _FOLDS):
        said[fold] = _fit(x, labels, np.setdiff1d(kept, fold), x[fold])
    return said


def _fit(x: Floats, labels: Floats, kept: Ints, asked: Floats) -> Ints:
    given = labels.argmax(1)[kept]
    if len(np.unique(given)) < 2:
        return np.full(len(asked), given[0] if len(given) else 0, np.int64)
    said: Ints = strong().fit(x[kept], given).predict(asked)
    return said
