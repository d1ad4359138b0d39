"""A transformer with one block over characters: RMS norm, causal attention, a squared-ReLU layer; no biases."""

import numpy as np
from tensor import Tensor, cross_entropy, gather, weigh

VOCABULARY = 32
EPSILON = 1e-5


class Model:
    def __init__(self, seed: int, context: int, width: int, heads: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.heads = heads
        self.mask = np.triu(np.full((context, context), -1e9), 1)  # nothing is seen before it is written
        shapes = {
            "tokens": (VOCABULARY, width),
            "places": (context, width),
            "query": (width, width),
            "key": (width, width),
            "value": (width, width),
            "mix": (width, width),
            "up": (width, 4 * width),
            "down": (4 * width, width),
            "out": (width, VOCABULARY),
        }
        self.weights = {
            name: Tensor(rng.standard_normal(shape) * (0.1 if name in ("tokens", "places") else shape[0] ** -0.5))
            for name, shape in shapes.items()
        }

    def losses(self, batch: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Mean cross-entropy of the batch, in nats a character."""
        (inputs, targets), w = batch, self.weights
        x = gather(w["tokens"], inputs) + w["places"]
        x = x + self.attention(norm(x))
        up = (norm(x) @ w["up"]).relu()
        x = x + (up * up) @ w["down"]
        return cross_entropy(norm(x) @ w["out"], targets)

    def attention(self, x: Tensor) -> Tensor:
        query, key, value = ((x @ self.weights[name]).heads(self.heads) for name in ("query", "key", "value"))
        return (weigh(query, key, self.mask) @ value).join() @ self.weights["mix"]


def norm(x: Tensor) -> Tensor:
    mean = (x * x).sum() * Tensor([[1 / x.data.shape[-1]]])
    return x * (mean + Tensor([[EPSILON]])).power(-0.5)
