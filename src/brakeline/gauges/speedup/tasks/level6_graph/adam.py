"""Adam (Kingma & Ba 2015), one array at a time."""

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-6


class Adam:
    def __init__(self, weights: list[np.ndarray], rate: float) -> None:
        self.weights, self.rate, self.step_count = weights, rate, 0
        self.first = [np.zeros_like(w) for w in weights]
        self.second = [np.zeros_like(w) for w in weights]

    def step(self, grads: list[np.ndarray]) -> None:
        self.step_count += 1
        for i, (w, grad) in enumerate(zip(self.weights, grads, strict=True)):
            self.first[i] = BETA1 * self.first[i] + (1 - BETA1) * grad
            self.second[i] = BETA2 * self.second[i] + (1 - BETA2) * grad**2
            first = self.first[i] / (1 - BETA1**self.step_count)
            second = self.second[i] / (1 - BETA2**self.step_count)
            w -= self.rate * first / (second**0.5 + EPSILON)
