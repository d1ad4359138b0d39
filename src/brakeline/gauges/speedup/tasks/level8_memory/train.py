"""Train the language model of the job on standard input; write its weights to standard output. See CONTRACT.md."""

import json
import sys

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
            sys.stdout.buffer.write(model.weights.astype("<f4").tobytes())
        if step < job["steps"]:
            model.step(*data.batch(step))
            adam.step(model.grads)


if __name__ == "__main__":
    main()
