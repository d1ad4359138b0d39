"""Train the language model of the job on standard input; write its weights to standard output. See CONTRACT.md.

The loss is the one training computes anyway, no step's graph outlives it, and only what was asked for is copied.
"""

import json
import sys

import numpy as np
from adam import Adam
from model import Model

from data import Data


def main() -> None:
    job = json.loads(sys.stdin.buffer.readline())
    text = sys.stdin.buffer.read(job["text"])
    data = Data(text, job["seed"], job["steps"], job["batch"], job["context"])
    model = Model(job["seed"], job["context"], job["width"], job["heads"])
    adam = Adam(model.weights, job["rate"])
    for step in range(job["steps"] + 1):
        if step in job["report"]:
            for w in model.weights.values():
                sys.stdout.buffer.write(w.data.astype("<f4").tobytes())
        if step < job["steps"]:
            for w in model.weights.values():
                w.grad = np.zeros_like(w.data)
            model.losses(data.batch(step)).backward()
            adam.step()


if __name__ == "__main__":
    main()
