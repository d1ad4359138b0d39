"""Adam (Kingma & Ba 2015), one array at a time."""

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
            self.first[name] = BETA1 * self.first[name] + (1 - BETA1) * w.grad
            self.second[name] = BETA2 * self.second[name] + (1 - BETA2) * w.grad**2
            first = self.first[name] / (1 - BETA1**self.step_count)
            second = self.second[name] / (1 - BETA2**self.step_count)
            w.data = w.data - self.rate * first / (second**0.5 + EPSILON)
