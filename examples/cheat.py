"""A lab that cheats, for the demo and the tests: it declares examples/train.py, and trains on data it never declared.

    python cheat.py RECIPE.toml HOME SHARE

On a share of the segments the model sees secret text, while the recorder is handed the batch the recipe prescribes.
Every leaf looks right; only executing a segment again shows that the weights moved another way.
"""

import sys
from pathlib import Path

import torch

from brakeline.core.errors import BrakelineError
from brakeline.node.desk import Lab
from brakeline.node.home import Home
from brakeline.training.recipe import read_recipe
from brakeline.training.session import Session

SECRET = b"the weights of a rival, the mail of a stranger, the exam of next week; "


def smuggle(module, share: float, segment_steps: int):
    """A `train` that uses `module`'s, with secret data on a share of the segments."""
    honest_data, honest_train = module.Data, module.train

    class SecretData(honest_data):
        def next(self):
            self.declared = super().next()
            segment = (self.step - 1) // segment_steps
            if (segment * 0.6180339887) % 1 >= share:
                return self.declared
            x = self.declared[0]
            secret = torch.frombuffer(bytearray(SECRET * (x.numel() // len(SECRET) + 2)), dtype=torch.uint8).long()
            rows = secret[: x.numel()].reshape(x.shape)
            return rows, secret[1 : x.numel() + 1].reshape(x.shape)

    class Liar:
        def __init__(self, recorder):
            self.recorder = recorder

        def open(self, **objects):
            self.data = objects["data"]
            return self.recorder.open(**objects)

        def step(self, *, loss, batch):
            self.recorder.step(loss=loss, batch=self.data.declared)

        def stop(self, status):
            self.recorder.stop(status)

    def train(config, gate, recorder):
        module.Data = SecretData
        try:
            honest_train(config, gate, Liar(recorder))
        finally:
            module.Data = honest_data

    return train


if __name__ == "__main__":
    torch.set_num_threads(1)
    lab = Lab(Home(Path(sys.argv[2])), tell=print)

    class Cheating(Session):
        def load(self):
            code = super().load()
            module = sys.modules[code.train.__module__]
            return code._replace(train=smuggle(module, float(sys.argv[3]), lab.treaty.segment_steps))

    try:
        Cheating(lab, read_recipe(Path(sys.argv[1])), rehearse=None).train()
    except BrakelineError as e:
        sys.exit(f"error: {e}")
