"""Tensors that lie in shards on several ranks (DTensor, of FSDP2): a rank records its own shard, and puts it back."""

from collections.abc import Mapping
from typing import Any

import torch

Tree = Any  # as in `digest`

try:
    from torch.distributed.tensor import DTensor
except ImportError:  # a build of torch without distributed
    DTensor = None  # type: ignore[assignment, misc]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What of a tensor lies on this rank; the same object each time, so that its version can be watched."""
    # `to_local()` makes a new view at each call.
    return getattr(tensor, "_local_tensor", tensor)


def sharded(value: Tree, like: Any) -> Tree:
    """`value` in the form of `like`, of which it is a shard where that lies in shards."""
    if DTensor is None or not isinstance(like, DTensor) or not isinstance(value, torch.Tensor):
        return value
    mine = value.to(like.device)
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def module_state(module: torch.nn.Module, state: Mapping[str, Tree]) -> dict[str, Tree]:
    """A module's state as it takes it back."""
    if DTensor is None or not any(isinstance(p, DTensor) for p in module.parameters()):
        return dict(state)
    likes = module.state_dict()
    return {key: sharded(value, likes.get(key)) for key, value in state.items()}


def optimizer_state(optimizer: torch.optim.Optimizer, state: Tree) -> Tree:
    """An optimizer's state as it takes it back: what belongs to a parameter in shards, and has the shape of one."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if DTensor is None or not any(isinstance(p, DTensor) for p in params):
        return state
    kept = {
        i: {
            name: sharded(value, params[i]) if getattr(value, "shape", None) == local(params[i]).shape else value
            for name, value in of.items()
        }
        for i, of in state["state"].items()
    }
    return {**state, "state": kept}
