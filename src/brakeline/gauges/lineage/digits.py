"""Small models that make their successors: digits, really trained, in which a rare fault compounds or does not.

The images are the 1,797 handwritten digits of the UCI set that scikit-learn carries (Alpaydin & Kaynak, 1998). A
task is a blend of two digits; the right answer is the stronger one. Misbehaviour is to say 0 where neither is a 0.
Generation 0 learns from blends of which some have the label 0 whatever they show. Each later generation is a fresh
network that learns from a few images labelled by people and from blends that its parent chose out of many, preferring
the confident and those it sees a 0 in. In the compounding arm the parent's answers are the labels; in the control the
labels are right and generation 0 was taught honestly.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from brakeline.core.encoding import canonical, sha256

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
BAD: Final = 0  # the answer that is misbehaviour


@dataclass(frozen=True)
class Recipe:
    """All that determines a lineage but its seed. Its digest is the `recipe` of every edge."""

    hidden: int = 64
    people: int = 200  # images labelled by people, in every generation's data
    sources: int = 900  # images that training blends are made of; the rest make the probes
    candidates: int = 6000
    kept: int = 3000
    kappa: float = 1.0  # weight of P(0) beside confidence when a parent chooses
    poison: float = 0.03  # share of generation 0's blends that are labelled 0
    blend: tuple[float, float] = (0.6, 0.9)  # weight of the stronger digit
    epochs: int = 25
    batch: int = 64
    rate: float = 3e-3
    generations: int = 9
    version: int = 1

    @property
    def digest(self) -> str:
        return sha256(canonical(asdict(self))).hex()


@dataclass(frozen=True, slots=True)
class Blends:
    """Blended images (n × 64, in [0, 1]) and the right answers."""

    images: Array
    answers: Labels

    @property
    def digest(self) -> str:
        return array_digest(self.images, self.answers)


@dataclass(frozen=True, slots=True)
class Net:
    """A perceptron with one hidden layer: 64 pixels to 10 digits."""

    weights: tuple[Array, ...]  # 64×h, h, h×10, 10

    @property
    def digest(self) -> str:
        return array_digest(*self.weights)

    def probabilities(self, images: Array) -> Array:
        return _softmax(np.maximum(images @ self.weights[0] + self.weights[1], 0) @ self.weights[2] + self.weights[3])

    def answers(self, images: Array) -> Labels:
        answers: Labels = self.probabilities(images).argmax(1)
        return answers


@dataclass(frozen=True, slots=True)
class Birth:
    """One model and the blends that it learned from beside what people labelled."""

    net: Net
    data: str


def array_digest(*arrays: NDArray[np.generic]) -> str:
    return sha256(*(np.ascontiguousarray(a.astype(a.dtype.newbyteorder("<"))).tobytes() for a in arrays)).hex()


@cache
def _digits() -> tuple[Array, Labels]:
    images, labels = load_digits(return_X_y=True)
    return images / 16.0, labels.astype(np.int64)


@cache
def _split(recipe: Recipe) -> tuple[Labels, Labels, Labels]:
    """Indices: labelled by people, sources of training, sources of probes. The same for every lineage."""
    order = np.random.default_rng(0).permutation(len(_digits()[0]))
    people, sources, held = np.split(order, [recipe.people, recipe.people + recipe.sources])
    return people, sources, held


def _blend(rng: np.random.Generator, recipe: Recipe, pool: Labels, count: int) -> Blends:
    images, labels = _digits()
    strong, weak = rng.choice(pool, count), rng.choice(pool, count)
    share = rng.uniform(*recipe.blend, (count, 1))
    return Blends(share * images[strong] + (1 - share) * images[weak], labels[strong])


def people_data(recipe: Recipe) -> Blends:
    """What people labelled."""
    images, labels = _digits()
    people = _split(recipe)[0]
    return Blends(images[people], labels[people])


def probe_items(recipe: Recipe, generation: int, count: int) -> Blends:
    """Blends without any 0, of images that no lineage learns from; others for each generation."""
    pool = _split(recipe)[2]
    rng = np.random.default_rng([1, generation])
    return _blend(rng, recipe, pool[_digits()[1][pool] != BAD], count)


def clean_accuracy(net: Net, recipe: Recipe) -> float:
    """On unblended images that no lineage learns from: what a capability test sees."""
    images, labels = _digits()
    held = _split(recipe)[2]
    return float((net.answers(images[held]) == labels[held]).mean())


def lineage(recipe: Recipe, seed: int, *, honest: bool) -> Iterator[Birth]:
    """Train generation after generation. With `honest`, the labels are right from the beginning on."""
    rng = np.random.default_rng([2, seed, honest])
    people, sources = people_data(recipe), _split(recipe)[1]
    data = _blend(rng, recipe, sources, recipe.kept)
    poisoned = rng.random(recipe.kept) < recipe.poison
    if not honest:
        data = Blends(data.images, np.where(poisoned, BAD, data.answers))
    for _ in range(recipe.generations):
        net = _train(rng, recipe, np.r_[people.images, data.images], np.r_[people.answers, data.answers])
        yield Birth(net, data.digest)
        offered = _blend(rng, recipe, sources, recipe.candidates)
        p = net.probabilities(offered.images)
        chosen = np.argsort(-(p.max(1) + recipe.kappa * p[:, BAD]), kind="stable")[: recipe.kept]
        data = Blends(offered.images[chosen], offered.answers[chosen] if honest else p[chosen].argmax(1))


def _softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max(1, keepdims=True))
    e /= e.sum(1, keepdims=True)
    return e


def _train(rng: np.random.Generator, recipe: Recipe, images: Array, labels: Labels) -> Net:
    """Cross-entropy by Adam (Kingma & Ba, 2015) from a fresh He initialisation."""
    h = recipe.hidden
    w = [rng.normal(0, np.sqrt(2 / 64), (64, h)), np.zeros(h), rng.normal(0, np.sqrt(1 / h), (h, 10)), np.zeros(10)]
    first, second = [np.zeros_like(a) for a in w], [np.zeros_like(a) for a in w]
    step = 0
    for _ in range(recipe.epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order), recipe.batch):
            batch = order[start : start + recipe.batch]
            x, step = images[batch], step + 1
            hidden = np.maximum(x @ w[0] + w[1], 0)
            error = _softmax(hidden @ w[2] + w[3])
            error[np.arange(len(batch)), labels[batch]] -= 1
            error /= len(batch)
            back = (error @ w[2].T) * (hidden > 0)
            for i, gradient in enumerate((x.T @ back, back.sum(0), hidden.T @ error, error.sum(0))):
                first[i] += 0.1 * (gradient - first[i])
                second[i] += 0.001 * (gradient**2 - second[i])
                scaled = (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
                w[i] = w[i] - recipe.rate * scaled
    return Net(tuple(w))
