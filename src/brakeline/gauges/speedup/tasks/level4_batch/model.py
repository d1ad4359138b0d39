"""A transformer with one block over characters: RMS norm, causal attention, a squared-ReLU layer; no biases."""

import numpy as np
from tensor import Tensor, beside

VOCABULARY = 32
EPSILON = 1e-5
ONE_HOT = np.eye(VOCABULARY)


class Model:
    def __init__(self, seed: int, context: int, width: int, heads: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.width, self.heads = width, heads
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
        x = Tensor(ONE_HOT[inputs]) @ w["tokens"] + w["places"]
        x = x + self.attention(norm(x))
        up = (norm(x) @ w["up"]).relu()
        x = x + (up * up) @ w["down"]
        chances = softmax(norm(x) @ w["out"])
        picked = (chances * Tensor(ONE_HOT[targets])).sum()
        return picked.log().mean() * Tensor(-1.0)

    def attention(self, x: Tensor) -> Tensor:
        w, size = self.weights, self.width // self.heads
        parts = []
        for head in range(self.heads):
            start, end = head * size, (head + 1) * size
            query = (x @ w["query"]).columns(start, end)
            key = (x @ w["key"]).columns(start, end)
            value = (x @ w["value"]).columns(start, end)
            scores = (query @ key.turn()) * Tensor([[size**-0.5]]) + Tensor(mask(x.data.shape[1]))
            parts.append(softmax(scores) @ value)
        return beside(parts) @ w["mix"]


def mask(length: int) -> np.ndarray:
    """Nothing is seen before it is written."""
    return np.triu(np.full((length, length), -1e9), 1)


def norm(x: Tensor) -> Tensor:
    mean = (x * x).sum() * Tensor([[1 / x.data.shape[-1]]])
    return x * (mean + Tensor([[EPSILON]])).power(-0.5)


def softmax(x: Tensor) -> Tensor:
    e = (x + Tensor(-x.data.max(-1, keepdims=True))).exp()
    return e * e.sum().power(-1)
