"""Whether a recorded state is one that honest replays in other environments may give.

Nothing here knows how far two environments lie apart: the inspector replays in some of its own whose bits really
differ, and under noise, and how far those lie apart says it, tensor by tensor. Where that is far, the tensor is *not
determined*: nobody's record can be told from another there, and no tolerance follows from it for the rest.

Compared is every component that was recorded, and nothing that the recipe chooses to show.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import torch

from brakeline.core.transcript import Likeness
from brakeline.training.digest import RNG, Snapshot, Tree, place, raw_bytes
from brakeline.training.ranks import Together

State = Snapshot | Together
Key = tuple[int, str, tuple[str | int, ...]]  # rank, component, path
Tensors = Mapping[Key, torch.Tensor]

FACTOR: Final = 16  # of the spread, by which a record may lie beside every replay; honest ones measured 9.3
SHARE: Final = 0.99  # of the squared movement of the weights, which determined tensors must hold
ULPS: Final = 4  # a number of Python's, per step; and a weight drawn by another kernel, of the tensor's largest
_LOSS: Final = 2.0**-20  # by which a loss may be rounded
_NAMED: Final = 3
_LONG: Final = 80  # characters of a name


def tensors(state: State) -> dict[Key, torch.Tensor]:
    """The tensors of a state, of all its ranks."""
    ranks = state.ranks if isinstance(state, Together) else (state,)
    return {(n, p.component, p.path): p.tensor for n, s in enumerate(ranks) for p in s.parts}


def compare(
    before: State,
    after: State,
    replays: Sequence[State],
    *,
    steps: int,
    widest: float,
    weights: Collection[Key] = (),
    known: Collection[Key] = (),
    moments: Collection[Key] = (),
) -> Likeness:
    """The recorded state `after`, `steps` steps beyond `before`, beside `replays` of them, the first in the inspector's
    own environment without noise.

    A tensor is determined where the replays lie within `widest` of its movement (Treaty 7.5). `weights` are those that
    an optimizer moves, all of the modules' tensors if none is known; `known` are weights that follow from their
    `moments`: what can be told of those is then what can be told.
    """
    if difference := _plain_difference(after, replays[0], steps):
        return Likeness("contested", difference)
    start, record, made = tensors(before), tensors(after), [tensors(it) for it in replays]
    wide: list[str] = []
    moved, vague = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}  # of first moments, and of weights
    for key, there in record.items():
        here = [it[key] for it in made]
        if _is_elsewhere(key):
            continue
        if not there.is_floating_point() or _is_count(here):
            if not _same(there, here[0]):
                return Likeness("contested", f"{named(key)} comes out otherwise")
            continue
        if not _alike(here[0], there):
            return Likeness("contested", f"{named(key)} is no number at other places")
        if any(not _alike(here[0], it) for it in here[1:]):
            wide.append(named(key))
            continue
        origin = start.get(key, start.get((0, *key[1:])))  # of a rank there was not before: what every rank had
        movement = min(_distance(it, origin) for it in here)
        apart = max((_distance(a, b) for i, a in enumerate(here) for b in here[:i]), default=0.0)
        away = min(_distance(there, it) for it in here)
        moment = key in moments
        weighs = moment or ((key in weights if weights else is_weight(key)) and key not in known)
        moved[moment] += weighs * movement**2
        if movement == 0.0 and apart == 0.0 and origin is not None:  # what no replay moves
            if away:
                return Likeness("contested", f"{named(key)} moves, and moves in no replay")
            continue
        if key in known:
            continue
        if not away <= FACTOR * (apart + _rounding(there)):
            ratio = away / movement if movement else math.inf
            return Likeness("contested", f"{named(key)} lies {ratio:.1e} of its movement beside every replay")
        if apart > widest * movement:
            wide.append(named(key))
            vague[moment] += weighs * movement**2
    share = max((vague[it] / moved[it] for it in moved if moved[it]), default=0.0)
    if share > 1 - SHARE:
        text = f"replays here lie too far apart to tell for {share:.0%} of the movement: {_some(wide)}"
        return Likeness("not-verified", text)
    return Likeness("agrees", f"not verified here: {_some(wide)}" if wide else "")


def losses(record: Sequence[float], replays: Sequence[Sequence[float]]) -> str:
    """Why the recorded losses are not among those of the replays, step by step; "" where they are."""
    for step, said in enumerate(record):
        made = [it[step] for it in replays]
        if not all(map(math.isfinite, made)):
            near = any(said == it or (math.isnan(said) and math.isnan(it)) for it in made)
        else:
            away = min(abs(said - it) for it in made)
            near = away <= FACTOR * (max(made) - min(made) + _LOSS * abs(made[0]))
        if not near:
            return f"the loss of step {step + 1} of these lies beside every replay"
    return ""


def begins(record: State, own: State) -> str:
    """Why the recorded start is not what the seed gives, "" where it is: kernels draw normal numbers otherwise, by a
    few units in the last place of a tensor's largest."""
    if difference := _plain_difference(record, own, 1):
        return difference
    made = tensors(own)
    for key, there in tensors(record).items():
        here = made[key]
        if _is_elsewhere(key) or _same(there, here):
            continue
        if not there.is_floating_point() or not _alike(there, here):
            return f"{named(key)} comes out otherwise"
        finite = here.isfinite()
        largest = float(here[finite].abs().max()) if bool(finite.any()) else 0.0
        off = float((there.double() - here.double())[finite].abs().max()) if bool(finite.any()) else 0.0
        if not off <= ULPS * torch.finfo(there.dtype).eps * largest:
            return f"{named(key)} is off by {off:.1e}"
    return ""


def _plain_difference(a: State, b: State, steps: int) -> str:
    there, here = tensors(a), tensors(b)
    for key in (*there, *(key for key in here if key not in there)):
        if _is_elsewhere(key):
            continue
        if key not in there:  # its name comes from the cell: it stays here
            return "a tensor that was not recorded comes out"
        if key not in here:
            return f"{named(key)} is recorded, and does not come out"
        if (there[key].dtype, there[key].shape) != (here[key].dtype, here[key].shape):
            return f"{named(key)} has another type or shape"
    found = _beside("", _without_devices(a.tree), _without_devices(b.tree), ULPS * steps)
    return found.encode("utf-8", "backslashreplace").decode()[:_LONG]


def _beside(where: str, a: Tree, b: Tree, ulps: int) -> str:
    """Where plain values differ: numbers by more than so many units in the last place, all else at all."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        found = (_beside(f"{where}[{key!r}]" if where else str(key), a[key], b[key], ulps) for key in a)
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        found = (_beside(f"{where}[{i}]", x, y, ulps) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return ""
    elif type(a) is float and type(b) is float:
        near = a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= ulps * math.ulp(max(abs(a), abs(b)))
        return "" if near else f"{where} is another number"
    else:
        return "" if type(a) is type(b) and a == b else f"{where} is another value"
    return next(filter(None, found), "")


def _without_devices(tree: Mapping[str, Tree]) -> dict[str, Tree]:
    """CUDA's generators count by the size of the device. Another one has others."""
    own = {n: {k: v for k, v in t.items() if k != "cuda"} for n, t in tree.items() if n.split(":")[-1] == RNG}
    return {**tree, **own}


def _is_elsewhere(key: Key) -> bool:
    return key[1] == RNG and key[2][:1] == ("cuda",)


def is_weight(key: Key) -> bool:
    """Of a module, which is recorded with its state and what lives in memory alone (`digest.capture`)."""
    return key[2][:1] == ("state",) and len(key[2]) == 2


def _is_count(replays: Sequence[torch.Tensor]) -> bool:
    """Whole numbers that are the same in every environment: steps that were counted, say."""
    first = replays[0]
    return bool((first == first.round()).all()) and all(_same(first, it) for it in replays[1:]) and first.numel() < 2


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bytes(raw_bytes(a)) == bytes(raw_bytes(b))


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether they are no finite numbers at the same places, and infinite of the same sign."""
    return torch.equal(a.nan_to_num(0.0, 1.0, -1.0)[~a.isfinite()], b.nan_to_num(0.0, 1.0, -1.0)[~b.isfinite()]) and (
        torch.equal(a.isfinite(), b.isfinite())
    )


def _distance(a: torch.Tensor, b: torch.Tensor | None) -> float:
    """Of the finite numbers. Of a tensor that was not there before, its size."""
    one = a.double()
    off = (one if b is None or b.shape != a.shape else one - b.double()).nan_to_num(0.0, 0.0, 0.0)
    return math.sqrt(float(off.square().sum()))


def _rounding(a: torch.Tensor) -> float:
    return float({torch.bfloat16: 2.0**-11, torch.float16: 2.0**-14}.get(a.dtype, 2.0**-24)) * _distance(a, None)


def named(key: Key) -> str:
    """A place as an engineer would write it. The lab has named it, and it may be signed into a log."""
    rank, component, path = key
    text = place(component, path).encode("utf-8", "backslashreplace").decode()
    return text[:_LONG] + (f" of rank {rank}" if rank else "")


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return ", ".join(places[:_NAMED]) + more
