"""A training loop with a brake pedal: a small byte-level GPT that learns Python's standard library.

An inspector replays the same `train(config, gate, recorder)`. Initial weights and the order of the data are pure
functions of `config["seed"]`, which the log fixes after the run is declared.
"""

import hashlib
import sysconfig
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from brakeline.training.digest import seed_generators

DEFAULTS = {
    "seed": "00" * 32, "steps": 200, "batch": 8, "context": 128, "layers": 4, "width": 96, "heads": 4,
    "lr": 1e-3, "corpus_bytes": 4_000_000,
}  # fmt: skip


@lru_cache
def corpus(limit: int) -> tuple[tuple[str, bytes], ...]:
    """The first `limit` bytes of the standard library's *.py files, by path: (path, content) pairs."""
    root, files = Path(sysconfig.get_path("stdlib")), []
    for path in sorted(p.relative_to(root).as_posix() for p in root.rglob("*.py")):
        if "site-packages" not in path and limit > 0:
            files.append((path, (root / path).read_bytes()[:limit]))
            limit -= len(files[-1][1])
    return tuple(files)


def dataset_root(config: dict) -> str:
    """Hex SHA-256 over the length-prefixed paths and contents: what a declaration names as the run's data set."""
    digest = hashlib.sha256()
    for path, content in corpus({**DEFAULTS, **config}["corpus_bytes"]):
        for part in (path.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class Data:
    """Batches of (input, target), int64 (batch, context), each a function of seed and step: the cursor is the step."""

    def __init__(self, c: dict) -> None:
        self.c, self.step = c, 0
        text = b"".join(content for _, content in corpus(c["corpus_bytes"]))
        self.bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch, context = self.c["batch"], self.c["context"]
        draw = hashlib.shake_256(bytes.fromhex(self.c["seed"]) + self.step.to_bytes(8, "big")).digest(8 * batch)
        starts = [int.from_bytes(draw[i : i + 8], "big") % (len(self.bytes) - context) for i in range(0, 8 * batch, 8)]
        rows = torch.stack([self.bytes[s : s + context + 1] for s in starts]).long()
        self.step += 1
        return rows[:, :-1], rows[:, 1:]

    def state_dict(self) -> dict:
        return {"step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]


class GPT(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        d = c["width"]
        self.byte, self.place = nn.Embedding(256, d), nn.Embedding(c["context"], d)
        block = partial(nn.TransformerEncoderLayer, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(block(d, c["heads"], 4 * d, dropout=0.0) for _ in range(c["layers"]))
        self.norm = nn.LayerNorm(d)
        for embedding in (self.byte, self.place):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, context, 256); input and output share the embedding."""
        h = self.byte(x) + self.place.weight[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return F.linear(self.norm(h), self.byte.weight)


def flop_per_step(config: dict) -> int:
    """6 N D: N parameters, D tokens a step."""
    c = {**DEFAULTS, **config}
    with torch.device("meta"):  # no memory, no random numbers
        parameters = sum(p.numel() for p in GPT(c).parameters())
    return 6 * parameters * c["batch"] * c["context"]


def train(config: dict, gate, recorder) -> None:
    c = {**DEFAULTS, **config}
    seed_generators(int(c["seed"], 16))
    model, data = GPT(c), Data(c)
    optimizer = torch.optim.AdamW(model.parameters(), lr=c["lr"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=c["steps"])
    step = recorder.open(model=model, optimizer=optimizer, scheduler=scheduler, data=data)

    while step < c["steps"] and gate.may_step():
        x, y = data.next()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        recorder.step(loss=loss, batch=(x, y))
    recorder.stop("ended" if step == c["steps"] else "stopped")


if __name__ == "__main__":  # a smoke run: the gate is open, the recorder prints
    printer = SimpleNamespace(open=lambda **_: 0, step=lambda loss, batch: print(f"{loss:.4f}"), stop=print)
    train({"steps": 20}, gate=SimpleNamespace(may_step=lambda: True), recorder=printer)
