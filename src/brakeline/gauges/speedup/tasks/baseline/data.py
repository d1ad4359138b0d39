"""The text of the job, its tokens, and the batches of a step."""

import numpy as np

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz,.;?"


class Data:
    def __init__(self, text: bytes, seed: int, steps: int, batch: int, context: int) -> None:
        self.text = text.decode("ascii")
        self.context = context
        self.starts = np.random.default_rng([seed, 1]).integers(0, len(text) - context, (steps, batch))

    def tokens(self) -> list[int]:
        return [ALPHABET.index(character) for character in self.text]

    def batch(self, step: int) -> list[tuple[list[int], list[int]]]:
        """Inputs and targets of every sample in step `step`, which counts from 0."""
        tokens = self.tokens()
        samples = []
        for start in self.starts[step]:
            inputs, targets = [], []
            for i in range(self.context):
                inputs.append(tokens[start + i])
                targets.append(tokens[start + i + 1])
            samples.append((inputs, targets))
        return samples
