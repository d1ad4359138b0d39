"""A transformer with one block over characters: RMS norm, causal attention, a squared-ReLU layer; no biases.

The gradient is written out by hand, so that nothing is recorded and nothing is searched on the way back. All weights
lie in one array, and all gradients in another; what a step computes goes to memory that is there already.
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
        parts = [rng.standard_normal(shape) * 0.1 for shape in ((VOCABULARY, width), (context, width))]
        parts += [rng.standard_normal(shape) * shape[0] ** -0.5 for shape in inner]
        self.weights = np.concatenate([part.ravel() for part in parts]).astype(FLOAT)
        self.grads = np.zeros_like(self.weights)
        ends = np.cumsum([part.size for part in parts])[:-1]
        shapes = [part.shape for part in parts]
        self.parts, self.grad_parts = (
            [piece.reshape(shape) for piece, shape in zip(np.split(whole, ends), shapes, strict=True)]
            for whole in (self.weights, self.grads)
        )
        self.samples = 0

    def reserve(self, samples: int, length: int, width: int) -> None:
        """Memory for a batch of this size."""
        self.samples, count, wide = samples, samples * length, 4 * width
        self.rows = np.arange(count)
        self.hidden, self.d_rise = (np.empty((count, wide), FLOAT) for _ in range(2))
        self.joint = np.empty((width, 3 * width), FLOAT)
        self.share = np.empty((samples, self.heads, length, length), FLOAT)
        self.d_share = np.empty_like(self.share)
        self.d_joint = np.empty((samples, length, 3, self.heads, width // self.heads), FLOAT)
        self.d_heads = self.d_joint.transpose(2, 0, 3, 1, 4)
        self.one_hot = np.zeros((count, VOCABULARY), FLOAT)

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Set `grads` to the gradient of the mean cross-entropy of a batch (samples by places)."""
        tokens, places, query, key, value, mix, up, down, out = self.parts
        d_tokens, d_places, d_query, d_key, d_value, d_mix, d_up, d_down, d_out = self.grad_parts
        samples, length = inputs.shape
        count, width = inputs.size, places.shape[1]
        if samples != self.samples:
            self.reserve(samples, length, width)
        size = width // self.heads
        scale = size**-0.5
        # Forward.
        x = (tokens[inputs] + places).reshape(count, width)
        a, a_size = norm(x)
        np.concatenate([query, key, value], axis=1, out=self.joint)
        q, k, v = (a @ self.joint).reshape(samples, length, 3, self.heads, size).transpose(2, 0, 3, 1, 4)
        share = np.matmul(q, k.swapaxes(-1, -2), out=self.share)
        share *= scale
        share += self.mask
        softmax(share)
        seen = (share @ v).swapaxes(1, 2).reshape(count, width)
        x += seen @ mix
        b, b_size = norm(x)
        rise = b @ up
        np.maximum(rise, 0, out=rise)
        hidden = np.multiply(rise, rise, out=self.hidden)
        x += hidden @ down
        c, c_size = norm(x)
        # Backward, in the opposite order.
        d_logits = softmax(c @ out)
        d_logits[self.rows, targets.ravel()] -= 1
        d_logits /= count
        np.matmul(c.T, d_logits, out=d_out)
        dx = norm_back(d_logits @ out.T, c, c_size)
        np.matmul(hidden.T, dx, out=d_down)
        d_rise = np.matmul(dx, down.T, out=self.d_rise)
        d_rise *= rise
        d_rise *= 2
        np.matmul(b.T, d_rise, out=d_up)
        dx += norm_back(d_rise @ up.T, b, b_size)
        np.matmul(seen.T, dx, out=d_mix)
        d_seen = (dx @ mix.T).reshape(samples, length, self.heads, size).swapaxes(1, 2)
        d_share = np.matmul(d_seen, v.swapaxes(-1, -2), out=self.d_share)
        d_share -= np.einsum("bhij,bhij->bhi", d_share, share)[..., None]
        d_share *= share
        d_share *= scale
        np.matmul(d_share, k, out=self.d_heads[0])
        np.matmul(d_share.swapaxes(-1, -2), q, out=self.d_heads[1])
        np.matmul(share.swapaxes(-1, -2), d_seen, out=self.d_heads[2])
        d_joint = self.d_joint.reshape(count, 3 * width)
        d_query[:], d_key[:], d_value[:] = np.split(a.T @ d_joint, 3, axis=1)
        dx += norm_back(d_joint @ self.joint.T, a, a_size)
        dx.reshape(samples, length, width).sum(0, out=d_places)
        self.one_hot.fill(0)
        self.one_hot[self.rows, inputs.ravel()] = 1
        np.matmul(self.one_hot.T, dx, out=d_tokens)


def norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row divided by its root mean square, and what it was multiplied with."""
    factor = (np.einsum("ij,ij->i", x, x) / x.shape[1] + EPSILON)[:, None] ** -0.5
    return x * factor, factor


def norm_back(grad: np.ndarray, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Overwrites `grad`."""
    grad -= y * (np.einsum("ij,ij->i", grad, y) / y.shape[1])[:, None]
    grad *= factor
    return grad


def softmax(x: np.ndarray) -> np.ndarray:
    """In place."""
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x
