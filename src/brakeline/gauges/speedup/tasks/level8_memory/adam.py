"""Adam (Kingma & Ba 2015), all weights at once, in place."""

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-6


class Adam:
    def __init__(self, weights: np.ndarray, rate: float) -> None:
        self.weights, self.rate, self.step_count = weights, rate, 0
        self.first, self.second, self.spare = (np.zeros_like(weights) for _ in range(3))

    def step(self, grads: np.ndarray) -> None:
        self.step_count += 1
        first, second, spare = self.first, self.second, self.spare
        first *= BETA1
        first += np.multiply(grads, 1 - BETA1, out=spare)
        second *= BETA2
        np.multiply(grads, grads, out=spare)
        spare *= 1 - BETA2
        second += spare
        np.divide(second, 1 - BETA2**self.step_count, out=spare)
        np.sqrt(spare, out=spare)
        spare += EPSILON
        np.divide(first, spare, out=spare)
        spare *= self.rate / (1 - BETA1**self.step_count)
        self.weights -= spare
