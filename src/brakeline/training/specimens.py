"""A recipe of Brakeline's own: small networks of the kinds that people train, for an inspector's honest replays.

Each has what is hard to replay elsewhere: dropout and weights that hardly move, kinks and biases before a normalisation
whose gradient is noise, attention and tied weights.
"""

import hashlib
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F

_BATCH: Final = 16
_WORDS: Final = 96


class _Attending(nn.Module):
    def __init__(self, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(_WORDS, width), nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(self.word(x) + self.place)
        return F.linear(hidden.mean(1), self.word.weight[:4])


def _model(kind: str) -> nn.Module:
    if kind == "dropout":
        layers = [nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4)]
        return nn.Sequential(*layers)
    if kind == "kinks":
        one, two = (nn.Conv2d(i, 12, 3, padding=1) for i in (3, 12))
        return nn.Sequential(
            *(one, nn.BatchNorm2d(12), nn.ReLU(), two, nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 4)),
        )
    return _Attending()


def _batch(kind: str, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of integers, which are the same on every machine."""
    generator = torch.Generator().manual_seed(1_000_003 * step + 17)
    if kind == "attention":
        words = torch.randint(0, _WORDS, (_BATCH, 16), generator=generator)
        return words, words.sum(1) % 4
    shape = (_BATCH, 32) if kind == "dropout" else (_BATCH, 3, 8, 8)
    x = torch.randint(-64, 65, shape, generator=generator).float() / 64
    return x, (x.flatten(1)[:, :4] * 64).argmax(1)


def train(config: dict[str, Any], gate: Any, recorder: Any) -> None:
    """Train `config["kind"]`: "dropout", "kinks" or "attention", in `config["dtype"]` at `config["lr"]`, if any."""
    torch.manual_seed(int(config["seed"], 16) % 2**63)
    dtype = getattr(torch, config.get("dtype", "float32"))
    model = _model(config["kind"]).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=float(config.get("lr", 1e-3)))
    step = recorder.open(model=model, optimizer=optimizer)
    while step < config["steps"] and gate.may_step():
        x, y = _batch(config["kind"], step)
        loss = F.cross_entropy(model(x.to(dtype) if x.is_floating_point() else x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        recorder.step(loss=loss, batch=(x, y))
        step += 1
    recorder.stop("ended" if step == config["steps"] else "stopped")


def dataset_root(config: dict[str, Any]) -> str:
    """Of the function that makes the data."""
    return hashlib.sha256(f"brakeline specimen {config['kind']}".encode()).hexdigest()


def flop_per_step(config: dict[str, Any]) -> int:
    """Of six operations a weight and row."""
    return 6 * _BATCH * sum(p.numel() for p in _model(config["kind"]).parameters())
