"""What a run hands over: the weights at the steps asked for; what they are worth, and how far two runs' lie apart.

The loss is computed here, from the weights, by this forward pass; no run is asked for it.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from brakeline.gauges.speedup.job import ALPHABET, Work

Array = NDArray[Any]

_EPSILON: Final = 1e-5
_VOCABULARY: Final = len(ALPHABET)


def shapes(work: Work) -> tuple[tuple[int, int], ...]:
    """Of tokens, places, query, key, value, mix, up, down, out: the order of CONTRACT.md."""
    w = work.width
    return ((_VOCABULARY, w), (work.context, w), *[(w, w)] * 4, (w, 4 * w), (4 * w, w), (w, _VOCABULARY))


def output_size(work: Work) -> int:
    """Bytes that a run prints: 32-bit floats, at the start, at the probes and at the end."""
    return 4 * (work.probes + 2) * sum(rows * columns for rows, columns in shapes(work))


def read_weights(work: Work, output: bytes) -> Array:
    """Checkpoints by weights, float64, as the run's output has them; they may be anything, infinite too."""
    return np.frombuffer(output, "<f4").reshape(work.probes + 2, -1).astype(np.float64)


def held_out_loss(work: Work, weights: Array, text: bytes) -> float:
    """Mean cross-entropy in nats a character, over windows of `context` characters that follow one another."""
    sizes = [rows * columns for rows, columns in shapes(work)]
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    tokens, places, query, key, value, mix, up, down, out = (
        part.reshape(shape) for part, shape in zip(parts, shapes(work), strict=True)
    )
    index = np.array([ALPHABET.index(chr(byte)) for byte in text])
    count = (len(index) - 1) // work.context
    inputs, targets = (index[i : i + count * work.context].reshape(count, -1) for i in (0, 1))
    x = tokens[inputs] + places
    heads = (count, work.context, work.heads, -1)
    q, k, v = ((_norm(x) @ w).reshape(heads).swapaxes(1, 2) for w in (query, key, value))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores[..., np.triu(np.ones((work.context, work.context), bool), 1)] = -np.inf
    x = x + (np.exp(_log_softmax(scores)) @ v).swapaxes(1, 2).reshape(x.shape) @ mix
    x = x + np.maximum(_norm(x) @ up, 0) ** 2 @ down
    chances = _log_softmax(_norm(x) @ out)
    return -float(np.take_along_axis(chances, targets[..., None], -1).mean())


def _norm(x: Array) -> Array:
    result: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPSILON)
    return result


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    result: Array = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def deviations(base: Array, candidate: Array) -> Array:
    """How far the candidate's weights lie from the baseline's, one number a checkpoint.

    The first is the distance over the norm of the start. Each later one compares what the weights moved by since the
    checkpoint before, so that a step left out weighs the more the fewer there are between.
    """

    moved, other = np.diff(base, axis=0, prepend=0), np.diff(candidate, axis=0, prepend=0)
    result: Array = np.linalg.norm(moved - other, axis=1) / np.linalg.norm(moved, axis=1)
    return result
