"""Train the language model of the job on standard input; write its weights to standard output. See CONTRACT.md."""

import copy
import json
import sys

import numpy as np
from adam import Adam
from model import Model
from tensor import Tensor

from data import Data


def main() -> None:
    job = json.loads(sys.stdin.buffer.readline())
    text = sys.stdin.buffer.read(job["text"])
    data = Data(text, job["seed"], job["steps"], job["batch"], job["context"])
    model = Model(job["seed"], job["context"], job["width"], job["heads"])
    adam = Adam(model.weights, job["rate"])
    checkpoints = {0: copy.deepcopy(model.weights)}
    history: list[Tensor] = []
    for step in range(job["steps"]):
        for w in model.weights.values():
            w.grad = np.zeros_like(w.data)
        loss = model.losses(data.batch(step))
        loss.backward()
        adam.step()
        history = [*history[-3:], loss]
        after = model.losses(data.batch(step))
        mean = sum(float(loss.data[0, 0]) for loss in history) / len(history)
        print(f"step {step + 1}: loss {mean:.3f}, after it {float(after.data[0, 0]):.3f}", file=sys.stderr)
        checkpoints[step + 1] = copy.deepcopy(model.weights)
    for step in job["report"]:
        for w in checkpoints[step].values():
            sys.stdout.buffer.write(w.data.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
