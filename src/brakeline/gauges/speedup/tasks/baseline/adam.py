"""Adam (Kingma & Ba 2015), one weight at a time."""

import numpy as np
from tensor import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-6


class Adam:
    def __init__(self, weights: dict[str, Tensor], rate: float) -> None:
        self.weights, self.rate, self.step_count = weights, rate, 0
        self.first = {name: np.zeros_like(w.data) for name, w in weights.items()}
        self.second = {name: np.zeros_like(w.data) for name, w in weights.items()}

    def step(self) -> None:
        self.step_count += 1
        for name, w in self.weights.items():
            first, second = self.first[name], self.second[name]
            for i in range(w.data.shape[0]):
                for j in range(w.data.shape[1]):
                    first[i, j] = BETA1 * first[i, j] + (1 - BETA1) * w.grad[i, j]
                    second[i, j] = BETA2 * second[i, j] + (1 - BETA2) * w.grad[i, j] ** 2
                    move = first[i, j] / (1 - BETA1**self.step_count)
                    size = (second[i, j] / (1 - BETA2**self.step_count)) ** 0.5
                    w.data[i, j] -= self.rate * move / (size + EPSILON)
