"""The text of the job, its tokens, and the batches of a step. The text is tokenised once."""

import numpy as np

ALPHABET = b"\n abcdefghijklmnopqrstuvwxyz,.;?"


class Data:
    def __init__(self, text: bytes, seed: int, steps: int, batch: int, context: int) -> None:
        index = np.zeros(256, int)
        index[np.frombuffer(ALPHABET, np.uint8)] = np.arange(len(ALPHABET))
        self.tokens = index[np.frombuffer(text, np.uint8)]
        self.window = np.arange(context)
        self.starts = np.random.default_rng([seed, 1]).integers(0, len(text) - context, (steps, batch))

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of step `step`, which counts from 0: samples by places."""
        places = self.starts[step][:, None] + self.window
        return self.tokens[places], self.tokens[places + 1]
