"""What a step was given and what it said: its batch, of whatever a loader may yield, and its loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from brakeline.core.errors import Misuse
from brakeline.training.digest import Snapshot, Tree, snapshot


def batch_snapshot(batch: Any, *, stands: bool) -> Snapshot:
    """One step's batch: tensors, arrays, numbers and texts, and containers of them. Copied unless it `stands` still.

    Raises:
        Misuse: something else in it.
    """
    return snapshot({"batch": _readable(batch)}, lambda *_: stands)


def _readable(value: Any) -> Tree:
    """A batch as a tree: nothing of it is put back, so that arrays and containers of any kind may be read as plain."""
    if isinstance(value, torch.Tensor) or value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError:
            return _readable(value.tolist())
    if isinstance(value, np.generic):
        return _readable(value.item())
    if isinstance(value, Mapping):
        return {key: _readable(v) for key, v in value.items()}
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, list):
        return [_readable(v) for v in value]
    if isinstance(value, tuple):
        return tuple(_readable(v) for v in value)
    return value


def scalar(loss: Any) -> torch.Tensor | float:
    """The loss of one step, apart from its graph, if it is one number.

    Raises:
        Misuse: it is none, or many.
    """
    if isinstance(loss, torch.Tensor):
        if loss.numel() != 1 or loss.is_complex():
            text = f"a step has one loss, not {loss.dtype} of shape {tuple(loss.shape)}"
            raise Misuse(text, hint="recorder.step(loss=loss.mean(), ...)")
        return loss.detach()
    try:
        return float(loss)
    except (TypeError, ValueError) as e:
        raise Misuse(f"a step has one loss, a number, not a {type(loss).__name__}") from e
