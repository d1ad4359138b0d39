"""Tensors that lie in shards on several ranks (DTensor, of FSDP2): a rank records its own shard, and puts it back.

Where a run goes on with another number of ranks, `refit` cuts the shards of all anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from brakeline.core.errors import Misuse

Tree = Any  # as in `digest`

try:
    from torch.distributed.tensor import DTensor, Shard
except ImportError:  # a build of torch without distributed
    DTensor = Shard = None  # type: ignore[assignment, misc]


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


def refit(objects: Mapping[str, Any], trees: Sequence[Mapping[str, Tree]], rank: int) -> dict[str, Tree]:
    """What rank `rank` of `objects` goes on from, of the `trees` of a run that had another number of ranks.

    Of modules and optimizers what lay in shards is put together and cut anew. All else is that of the old rank of this
    number, or, of more ranks than there were, of the number that it has when they are counted round and round; random
    generators of such a rank stay as `train` has seeded them.

    Raises:
        Misuse: a shard that does not fit.
    """
    mine = dict(trees[rank % len(trees)])
    for name, it in objects.items():
        if DTensor is None or name not in mine:
            continue
        if isinstance(it, torch.nn.Module):
            likes = it.state_dict()
            states = [tree[name]["state"] for tree in trees]
            mine[name] = {**mine[name], "state": _recut(states, likes, rank, len(trees))}
        elif isinstance(it, torch.optim.Optimizer):
            params = [p for group in it.param_groups for p in group["params"]]
            kept = {
                i: _recut([tree[name]["state"][i] for tree in trees], dict.fromkeys(of, params[i]), rank, len(trees))
                for i, of in mine[name]["state"].items()
            }
            mine[name] = {**mine[name], "state": kept}
    return mine


def _recut(states: Sequence[Mapping[str, Tree]], likes: Mapping[str, Any], rank: int, old: int) -> dict[str, Tree]:
    """Each tensor that is in shards in `likes`: whole, and of it what is this rank's."""
    out = dict(states[rank % old])
    for key, value in out.items():
        like = likes.get(key)
        if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.dim() != like.dim():
            continue
        (placement, *more) = like.placements
        if more or not isinstance(placement, Shard):
            raise Misuse(f"{key} lies on a mesh of more than one dimension: it cannot be cut for other ranks")
        whole = torch.cat([state[key] for state in states], placement.dim)
        each = -(-whole.shape[placement.dim] // like.device_mesh.size())  # as torch.chunk, by which shards are cut
        first = min(rank * each, whole.shape[placement.dim])
        out[key] = whole.narrow(placement.dim, first, min(each, whole.shape[placement.dim] - first)).clone()
        if out[key].shape != local(like).shape:
            raise Misuse(f"{key} lies in shards of another kind: it cannot be cut for other ranks")
    return out
