"""A transformer with one block over characters: RMS norm, causal attention, a squared-ReLU layer; no biases.

The gradient is written out by hand, so that nothing is recorded and nothing is searched on the way back.
"""

import numpy as np
from precision import FLOAT

VOCABULARY = 32
EPSILON = 1e-5


class Model:
    """`weights` and `grads` hold, in this order: tokens, places, query, key, value, mix, up, down, out."""

    def __init__(self, seed: int, context: int, width: int, heads: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.heads = heads
        self.mask = np.triu(np.full((context, context), -1e9, FLOAT), 1)  # nothing is seen before it is written
        square = (width, width)
        inner = [*([square] * 4), (width, 4 * width), (4 * width, width), (width, VOCABULARY)]
        self.weights = [rng.standard_normal(shape) * 0.1 for shape in ((VOCABULARY, width), (context, width))]
        self.weights += [rng.standard_normal(shape) * shape[0] ** -0.5 for shape in inner]
        self.weights = [w.astype(FLOAT) for w in self.weights]
        self.grads = [np.zeros_like(w) for w in self.weights]

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Set `grads` to the gradient of the mean cross-entropy of a batch (samples by places)."""
        tokens, places, query, key, value, mix, up, down, out = self.weights
        samples, length = inputs.shape
        count, width = inputs.size, places.shape[1]
        size = width // self.heads
        cut = (samples, length, 3, self.heads, size)
        scale = size**-0.5
        # Forward.
        x = (tokens[inputs] + places).reshape(count, width)
        a, a_size = norm(x)
        joint = np.concatenate([query, key, value], axis=1)
        q, k, v = (a @ joint).reshape(cut).transpose(2, 0, 3, 1, 4)
        share = softmax(q @ k.swapaxes(-1, -2) * scale + self.mask)
        seen = (share @ v).swapaxes(1, 2).reshape(count, width)
        x = x + seen @ mix
        b, b_size = norm(x)
        rise = np.maximum(b @ up, 0)
        hidden = rise * rise
        x = x + hidden @ down
        c, c_size = norm(x)
        # Backward, in the opposite order.
        d_logits = softmax(c @ out)
        d_logits[np.arange(count), targets.ravel()] -= 1
        d_logits /= count
        dx = norm_back(d_logits @ out.T, c, c_size)
        d_rise = dx @ down.T * rise * 2
        d_down = hidden.T @ dx
        dx = dx + norm_back(d_rise @ up.T, b, b_size)
        d_mix = seen.T @ dx
        d_seen = (dx @ mix.T).reshape(samples, length, self.heads, size).swapaxes(1, 2)
        d_share = d_seen @ v.swapaxes(-1, -2)
        d_scores = share * (d_share - (d_share * share).sum(-1, keepdims=True)) * scale
        d_heads = np.stack([d_scores @ k, d_scores.swapaxes(-1, -2) @ q, share.swapaxes(-1, -2) @ d_seen])
        d_joint = d_heads.transpose(1, 3, 0, 2, 4).reshape(count, 3 * width)
        dx = dx + norm_back(d_joint @ joint.T, a, a_size)
        d_tokens = one_hot(inputs.ravel()).T @ dx  # faster than adding row by row
        d_query, d_key, d_value = np.split(a.T @ d_joint, 3, axis=1)
        d_places = dx.reshape(samples, length, width).sum(0)
        self.grads = [d_tokens, d_places, d_query, d_key, d_value, d_mix, b.T @ d_rise, d_down, c.T @ d_logits]


def one_hot(tokens: np.ndarray) -> np.ndarray:
    out = np.zeros((len(tokens), VOCABULARY), FLOAT)
    out[np.arange(len(tokens)), tokens] = 1
    return out


def norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row divided by its root mean square, and what it was multiplied with."""
    factor = (np.einsum("ij,ij->i", x, x) / x.shape[1] + EPSILON)[:, None] ** -0.5
    return x * factor, factor


def norm_back(grad: np.ndarray, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return (grad - y * (np.einsum("ij,ij->i", grad, y) / y.shape[1])[:, None]) * factor


def softmax(x: np.ndarray) -> np.ndarray:
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x
