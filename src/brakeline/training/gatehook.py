"""The gate of a run with several ranks: all take a step, or none does."""

from typing import Protocol

import torch
import torch.distributed as dist

from brakeline.core.gate import Status


class Gate(Protocol):
    """Asked once per optimizer step, just before it. Anything falsy means: stop here."""

    def may_step(self) -> object: ...


class RankGate:
    """Agrees on `inner`'s answer among all ranks with one all-reduce of one number a step.

    A rank that stopped alone, its permit lapsed a moment before its neighbours', would leave them waiting in the
    next collective for ever; so one no decides for all. Without torch.distributed it hands on `inner`'s answer.
    """

    def __init__(self, inner: Gate) -> None:
        self._inner = inner

    def may_step(self) -> object:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self._inner.may_step()
        try:
            mine = bool(self._inner.may_step())
        except BaseException:
            self._agree(False)  # the others must not hang on a rank that fails
            raise
        return self._agree(mine)

    def status(self) -> Status | None:
        """What `inner` knows; None where it knows nothing, as in a replay."""
        known = getattr(self._inner, "status", None)
        return known() if known else None

    def _agree(self, mine: bool) -> bool:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        answer = torch.tensor(int(mine), dtype=torch.int32, device=device)
        dist.all_reduce(answer, op=dist.ReduceOp.MIN)
        return bool(answer.item())
