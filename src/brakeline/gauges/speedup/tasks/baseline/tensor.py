"""A small automatic differentiation engine: every operation remembers its inputs and how to send gradients back."""

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
            self.grad = self.grad + out.grad @ other.data.T
            other.grad = other.grad + self.data.T @ out.grad

        out.send = send
        return out

    def power(self, exponent: float) -> Tensor:
        out = Tensor(self.data**exponent, (self,))

        def send() -> None:
            self.grad = self.grad + out.grad * exponent * self.data ** (exponent - 1)

        out.send = send
        return out

    def exp(self) -> Tensor:
        out = Tensor(np.exp(self.data), (self,))

        def send() -> None:
            self.grad = self.grad + out.grad * out.data

        out.send = send
        return out

    def log(self) -> Tensor:
        out = Tensor(np.log(self.data), (self,))

        def send() -> None:
            self.grad = self.grad + out.grad / self.data

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

    def turn(self) -> Tensor:
        """The transpose."""
        out = Tensor(self.data.T, (self,))

        def send() -> None:
            self.grad = self.grad + out.grad.T

        out.send = send
        return out

    def columns(self, start: int, end: int) -> Tensor:
        out = Tensor(self.data[:, start:end], (self,))

        def send() -> None:
            grad = np.zeros_like(self.data)
            grad[:, start:end] = out.grad
            self.grad = self.grad + grad

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
    for axis, length in enumerate(shape):
        if length == 1 and grad.shape[axis] != 1:
            grad = grad.sum(axis, keepdims=True)
    return grad


def beside(parts: list[Tensor]) -> Tensor:
    """Put matrices side by side."""
    out = Tensor(np.concatenate([part.data for part in parts], axis=1), tuple(parts))

    def send() -> None:
        start = 0
        for part in parts:
            end = start + part.data.shape[1]
            part.grad = part.grad + out.grad[:, start:end]
            start = end

    out.send = send
    return out
