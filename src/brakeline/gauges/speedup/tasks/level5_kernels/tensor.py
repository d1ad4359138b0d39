"""A small automatic differentiation engine: every operation remembers its inputs and how to send gradients back.

Arrays may carry any number of leading axes: the samples of a batch go through together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Tensor:
    """An array, its gradient, and the operation it came from."""

    def __init__(self, data: object, parents: tuple[Tensor, ...] = ()) -> None:
        self.data = np.array(data, dtype=np.float64)
        self.grad = np.zeros_like(self.data)
        self.parents = parents
        self.send: Callable[[], None] = lambda: None

    def __add__(self, other: Tensor) -> Tensor:
        out = Tensor(self.data + other.data, (self, other))

        def send() -> None:
            self.grad = self.grad + unbroadcast(out.grad, self.data.shape)
            other.grad = other.grad + unbroadcast(out.grad, other.data.shape)

        out.send = send
        return out

    def __mul__(self, other: Tensor) -> Tensor:
        out = Tensor(self.data * other.data, (self, other))

        def send() -> None:
            self.grad = self.grad + unbroadcast(out.grad * other.data, self.data.shape)
            other.grad = other.grad + unbroadcast(out.grad * self.data, other.data.shape)

        out.send = send
        return out

    def __matmul__(self, other: Tensor) -> Tensor:
        out = Tensor(self.data @ other.data, (self, other))

        def send() -> None:
            self.grad = self.grad + out.grad @ other.data.swapaxes(-1, -2)
            other.grad = other.grad + unbroadcast(self.data.swapaxes(-1, -2) @ out.grad, other.data.shape)

        out.send = send
        return out

    def power(self, exponent: float) -> Tensor:
        out = Tensor(self.data**exponent, (self,))

        def send() -> None:
            self.grad = self.grad + out.grad * exponent * self.data ** (exponent - 1)

        out.send = send
        return out

    def relu(self) -> Tensor:
        out = Tensor(np.maximum(self.data, 0), (self,))

        def send() -> None:
            self.grad = self.grad + out.grad * (self.data > 0)

        out.send = send
        return out

    def sum(self) -> Tensor:
        """Over the last axis, which stays with length one."""
        out = Tensor(self.data.sum(-1, keepdims=True), (self,))

        def send() -> None:
            self.grad = self.grad + np.broadcast_to(out.grad, self.data.shape)

        out.send = send
        return out

    def heads(self, count: int) -> Tensor:
        """Split the last axis into heads, and put them before the places."""
        samples, places, width = self.data.shape
        out = Tensor(self.data.reshape(samples, places, count, width // count).swapaxes(1, 2), (self,))

        def send() -> None:
            self.grad = self.grad + out.grad.swapaxes(1, 2).reshape(self.data.shape)

        out.send = send
        return out

    def join(self) -> Tensor:
        """The inverse of `heads`."""
        samples, count, places, size = self.data.shape
        out = Tensor(self.data.swapaxes(1, 2).reshape(samples, places, count * size), (self,))

        def send() -> None:
            self.grad = self.grad + out.grad.reshape(samples, places, count, size).swapaxes(1, 2)

        out.send = send
        return out

    def backward(self) -> None:
        """Fill the gradient of everything this scalar came from."""
        order: list[Tensor] = []
        seen: set[int] = set()

        def visit(node: Tensor) -> None:
            if id(node) not in seen:
                seen.add(id(node))
                for parent in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        self.grad = np.ones_like(self.data)
        for node in reversed(order):
            node.send()


def unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `grad` over the axes along which a shape was stretched."""
    grad = grad.sum(tuple(range(grad.ndim - len(shape))))
    for axis, length in enumerate(shape):
        if length == 1 and grad.shape[axis] != 1:
            grad = grad.sum(axis, keepdims=True)
    return grad


def gather(table: Tensor, rows: np.ndarray) -> Tensor:
    """The rows of `table` that belong to the tokens."""
    out = Tensor(table.data[rows], (table,))

    def send() -> None:
        grad = np.zeros_like(table.data)
        np.add.at(grad, rows, out.grad)
        table.grad = table.grad + grad

    out.send = send
    return out


def weigh(query: Tensor, key: Tensor, mask: np.ndarray) -> Tensor:
    """Attention weights: softmax(query keyᵀ / √size + mask), in one operation."""
    scale = query.data.shape[-1] ** -0.5
    scores = query.data @ key.data.swapaxes(-1, -2) * scale + mask
    e = np.exp(scores - scores.max(-1, keepdims=True))
    out = Tensor(e / e.sum(-1, keepdims=True), (query, key))

    def send() -> None:
        grad = out.data * (out.grad - (out.grad * out.data).sum(-1, keepdims=True)) * scale
        query.grad = query.grad + grad @ key.data
        key.grad = key.grad + grad.swapaxes(-1, -2) @ query.data

    out.send = send
    return out


def cross_entropy(logits: Tensor, targets: np.ndarray) -> Tensor:
    """The mean of -log softmax(logits)[target], in one operation."""
    e = np.exp(logits.data - logits.data.max(-1, keepdims=True))
    chances = (e / e.sum(-1, keepdims=True)).reshape(targets.size, -1)
    rows = np.arange(targets.size)
    out = Tensor(-np.log(chances[rows, targets.ravel()]).mean(), (logits,))

    def send() -> None:
        grad = chances.copy()
        grad[rows, targets.ravel()] -= 1
        logits.grad = logits.grad + out.grad * grad.reshape(logits.data.shape) / targets.size

    out.send = send
    return out
