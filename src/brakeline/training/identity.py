"""The update identity: what an optimizer does to the weights follows from its recorded moments, to the last place.

For one step nothing of the network is needed for that: the moments after the step, the weights before it and the rates
give the weights after it, the same in every environment. And the moments give the gradient, at the same state. The
first sees what is done to weights, the second what is done to gradients, and neither suffers from coordinates whose
gradient is noise, of which Adam makes whole steps.

Which formula holds, for which weights, at which rates, the inspector's own replay says: one that its own step does not
obey is not used. So nothing that the lab recorded chooses it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch

from brakeline.training.spread import Key, State, Tensors, is_weight, named, tensors

NEAR: Final = {torch.float32: 4.0, torch.float64: 4.0, torch.bfloat16: 0.75, torch.float16: 0.75}  # units, last place
FAR: Final = {torch.float32: 64.0, torch.float64: 64.0}
_FEW: Final = 1e-5  # of 16-bit weights, whose rounding hides more: the share that may lie beyond `NEAR`
_MANTISSA: Final = {torch.float32: 23, torch.float64: 52, torch.bfloat16: 7, torch.float16: 10}

Group = Mapping[str, Any]
Formula = Callable[[torch.Tensor, Mapping[str, torch.Tensor], Mapping[str, torch.Tensor], Group], torch.Tensor]


class Explained(NamedTuple):
    """`weights` are those whose update follows from the `moments`, `wrong` says of which it does not."""

    weights: frozenset[Key]
    wrong: str
    moments: frozenset[Key]


class _Slot(NamedTuple):
    """One parameter of an optimizer: its moments before and after, by name, and its group's settings."""

    key: Key  # of the first moment
    before: Mapping[str, torch.Tensor]
    after: Mapping[str, torch.Tensor]
    record: Mapping[str, torch.Tensor]
    groups: tuple[Group, ...]


def explain(before: State, after: State, own: State) -> Explained:
    """Test the recorded step from `before` to `after`, by what holds of the inspector's `own` step from there."""
    start, here = tensors(before), tensors(own)
    record = _like(tensors(after), here)
    weights = [k for k in record if is_weight(k) and here[k].dtype in _MANTISSA]
    found: set[Key] = set()
    moments: set[Key] = set()
    wrong = ""
    for slot in _slots(before, own, record):
        first = slot.after[str(slot.key[2][-1])]
        moments.add(slot.key)
        for key in weights:
            w0, w1 = start.get(key), here[key]
            if key in found or w0 is None or not w0.shape == w1.shape == first.shape:
                continue
            fitting = next((f for f in _fitting(slot, w0, w1)), None)
            if fitting is None:
                continue
            formula, group = fitting
            off = _off(formula(w0.double(), _doubles(slot.before), _doubles(slot.record), group), w0, record[key])
            if _is_wrong(off, w1.dtype):
                wrong = wrong or f"{named(key)} is not what its moments give"
            elif bool((off <= NEAR[w1.dtype]).all()) or w1.dtype not in FAR:
                found.add(key)
            break
    return Explained(frozenset(found), wrong, frozenset(moments))


def _like(record: Tensors, own: Tensors) -> Tensors:
    """Of what a lab shows what has the type and shape that it must; of the rest `spread.compare` has the word."""
    return {k: v for k, v in record.items() if k in own and (v.dtype, v.shape) == (own[k].dtype, own[k].shape)}


def _slots(before: State, own: State, said: Tensors) -> Iterator[_Slot]:
    new = tensors(own)
    old = _like(tensors(before), new)  # shards that a move cut anew are no part of a step
    for key in new:
        _, _, path = key
        if len(path) != 3 or path[0] != "state" or path[2] not in ("exp_avg", "momentum_buffer"):
            continue
        moments = [k for k in new if k[:2] == key[:2] and k[2][:2] == path[:2]]
        groups = (_group(own, key), _group(before, key))
        if any(k not in said for k in moments) or not all(groups):
            continue
        was, is_, recorded = ({str(k[2][2]): of[k] for k in moments if k in of} for of in (old, new, said))
        yield _Slot(key, was, is_, recorded, tuple(g for g in groups if g))


def _group(state: State, key: Key) -> Group | None:
    """The settings of the group in which a parameter is; None where the component is no optimizer's."""
    rank, component, path = key
    ranks = getattr(state, "ranks", (state,))
    groups = ranks[rank].tree.get(component, {}).get("param_groups") if rank < len(ranks) else None
    if not isinstance(groups, list):
        return None
    return next((g for g in groups if isinstance(g, dict) and path[1] in g.get("params", ())), None)


def _fitting(slot: _Slot, w0: torch.Tensor, w1: torch.Tensor) -> Iterator[tuple[Formula, Group]]:
    """The formulas and settings that the own step obeys: a scheduler may have turned the rate before or after it."""
    for group in slot.groups:
        for formula in _FORMULAS:
            try:
                expected = formula(w0.double(), _doubles(slot.before), _doubles(slot.after), group)
            except (KeyError, TypeError, ZeroDivisionError, ValueError, OverflowError):
                continue
            if bool((_off(expected, w0, w1) <= NEAR[w1.dtype]).all()):
                yield formula, group


def _adam(w: torch.Tensor, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], g: Group) -> torch.Tensor:
    first, second = (float(b) for b in g["betas"])
    lr, steps = float(g["lr"]), float(new["step"])
    root = new.get("max_exp_avg_sq", new["exp_avg_sq"]).sqrt() / math.sqrt(1 - second**steps)
    moved: torch.Tensor = w - lr / (1 - first**steps) * new["exp_avg"] / (root + float(g["eps"]))
    return moved


def _adamw(w: torch.Tensor, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], g: Group) -> torch.Tensor:
    return _adam(w * (1 - float(g["lr"]) * float(g["weight_decay"])), old, new, g)


def _sgd(w: torch.Tensor, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], g: Group) -> torch.Tensor:
    return w - float(g["lr"]) * new["momentum_buffer"]


def _nesterov(
    w: torch.Tensor, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], g: Group
) -> torch.Tensor:
    momentum, moved = float(g["momentum"]), new["momentum_buffer"]
    gradient = moved - momentum * old["momentum_buffer"] if "momentum_buffer" in old else moved
    return w - float(g["lr"]) * (gradient + momentum * moved)


_FORMULAS: Final[tuple[Formula, ...]] = (_adamw, _adam, _sgd, _nesterov)


def _doubles(of: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in of.items()}


def _off(expected: torch.Tensor, w0: torch.Tensor, w1: torch.Tensor) -> torch.Tensor:
    """How far `w1` lies from `expected`, in units of the last place of the weights and of the step."""
    step = (expected - w0.double()).abs()
    unit = _ulp(torch.maximum(w0.abs(), w1.abs()), w1.dtype) + _ulp(step, w1.dtype)
    off: torch.Tensor = (w1.double() - expected).abs() / unit
    return off.where(w1.isfinite() & w0.isfinite(), torch.zeros_like(off)).nan_to_num(math.inf)


def _ulp(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    _, exponent = torch.frexp(x.double())
    least = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    return torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent - 1 - _MANTISSA[dtype]).clamp(min=least)


def _is_wrong(off: torch.Tensor, dtype: torch.dtype) -> bool:
    if dtype in FAR:
        return bool((off > FAR[dtype]).any())
    return float((off > NEAR[dtype]).double().mean()) > _FEW
