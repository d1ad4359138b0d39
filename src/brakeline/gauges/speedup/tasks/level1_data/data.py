"""The text of the job, its tokens, and the batches of a step. The text is tokenised once."""

import numpy as np

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz,.;?"


class Data:
    def __init__(self, text: bytes, seed: int, steps: int, batch: int, context: int) -> None:
        index = {character: i for i, character in enumerate(ALPHABET)}
        self.tokens = [index[character] for character in text.decode("ascii")]
        self.context = context
        self.starts = np.random.default_rng([seed, 1]).integers(0, len(text) - context, (steps, batch))

    def batch(self, step: int) -> list[tuple[list[int], list[int]]]:
        """Inputs and targets of every sample in step `step`, which counts from 0."""
        windows = [self.tokens[start : start + self.context + 1] for start in self.starts[step]]
        return [(window[:-1], window[1:]) for window in windows]
