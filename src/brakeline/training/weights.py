"""Whether published weights are the end of a run: every tensor of theirs beside the recorded state, bit for bit.

Who publishes writes under other names and in smaller types than who trains: one prefix may have gone, or come, and a
floating-point tensor may have been cast. Nothing else counts as the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable
from brakeline.core.state.runs import Run
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.training.digest import Snapshot, Tree, raw_bytes
from brakeline.training.published import Published
from brakeline.training.ranks import Together
from brakeline.training.shown import NotShown, checkpoint, open_shown

_CASTS: Final = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
_LONGEST: Final = 1000  # characters of a prefix
_SHOWN: Final = 200  # characters of a name that a stranger chose
Shards = tuple[torch.Tensor, ...]  # of a tensor, by rank; one where it is whole


class Likeness(NamedTuple):
    """How weights stand to a module of the record, `component`.

    `same`: each of the `tensors` is one of the module's, and the module has no other floating-point tensor than
    those and the ones in `left_out`, which have the bits of one that is there. `casts` are the types to which tensors
    were cast, where any were. Where they are not the same, `why` says what differs first.
    """

    component: str
    same: bool
    tensors: int
    casts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    why: str = ""


def end_of(evidence: Path, run: Run) -> Snapshot | Together:
    """The state at the run's last head, of a copy of its evidence: that which the log commits to.

    Raises:
        Refused: MISSING, the run has logged no head; TAMPERED, the leaves or the recipe are not those that the log
            commits to. Misuse: an attested run. Unavailable: it is not shown. Malformed, OSError, MemoryError.
    """
    if run.declaration.rung == "attested":
        raise Misuse(f"{run.name} is an attested run: its log binds no weights (Treaty 7.8)")
    if run.head is None:
        raise Refused(Reason.MISSING, f"{run.name} has logged no head yet")
    hint = "fetch the evidence again, or ask the lab for it"
    try:
        shown = open_shown(evidence, run.head.steps)
        frontier = Frontier().extend(leaf_hash(leaf.encode()) for leaf in shown.leaves)
        if frontier.root().hex() != run.head.root or shown.digest != run.declaration.recipe:
            text = f"{evidence} is not the transcript that {run.name} has logged"
            raise Refused(Reason.TAMPERED, text, hint=hint)
        return checkpoint(evidence, shown.leaves[-1], run.ranks(run.head.steps - 1, shown.recipe.ranks))
    except NotShown as e:
        raise Unavailable(str(e), hint=hint) from e


def compare(recorded: Snapshot | Together, published: Published) -> Likeness:
    """How the weights stand to the state `recorded`: to the one of its modules that they come nearest to.

    Raises as `Published.tensors`.
    """
    readings: list[_Reading] | None = None
    modules = list(_modules(recorded))
    sizes = (sum(s.numel() for s in shards) for m in modules for shards in (*m.weights.values(), *m.more.values()))
    for name, value in published.tensors(max(sizes, default=0)):
        if readings is None:
            readings = [it for module in modules for it in _readings(module, name)]
        for reading in readings:
            reading.meet(name, value)
    judged = [it.judged() for it in readings or ()]
    why = "they hold no tensor" if modules else "the run recorded no module"
    return max(judged, key=lambda x: (x.same, x.tensors), default=Likeness("", False, 0, why=why))


class _Module(NamedTuple):
    """`weights` are what a module's state keeps, `more` the buffers that it keeps in memory alone."""

    name: str
    weights: dict[str, Shards]
    more: dict[str, Shards]

    @property
    def floats(self) -> list[str]:
        return [key for key, shards in self.weights.items() if shards[0].is_floating_point()]


def _modules(recorded: Snapshot | Together) -> Iterator[_Module]:
    ranks = recorded.ranks if isinstance(recorded, Together) else (recorded,)
    for name, it in ranks[0].tree.items():
        if _is_module(it) and all(_is_module(rank.tree.get(name)) for rank in ranks):
            both = [_shards([rank.tree[name][part] for rank in ranks]) for part in ("state", "transient")]
            if ranks[1:] and not _cut(both[0]):  # copies, whose buffers may differ: rank 0 publishes its own
                both = [{key: shards[:1] for key, shards in part.items()} for part in both]
            yield _Module(name, *both)


def _is_module(tree: Any) -> bool:
    """A lab may record what it likes: only what `digest.capture` makes of a module has this form."""
    named = isinstance(tree, dict) and tree.keys() == {"state", "transient"}
    return named and all(isinstance(part, dict) for part in tree.values())


def _shards(states: Sequence[Mapping[Any, Tree]]) -> dict[str, Shards]:
    both: dict[str, tuple[Any, ...]]
    both = {key: tuple(state.get(key) for state in states) for key in states[0] if isinstance(key, str)}
    return {key: shards for key, shards in both.items() if all(isinstance(s, torch.Tensor) for s in shards)}


def _cut(weights: Mapping[str, Shards]) -> bool:
    """Whether the module lies in shards: whether of its largest tensor each rank has something else."""
    largest = max(weights.values(), key=lambda shards: shards[0].numel(), default=())
    return any(not _equal(largest[0], other) for other in largest[1:])


def _readings(module: _Module, first: str) -> Iterator["_Reading"]:
    """The ways in which the module's keys may have been published, of which one is for all of them. `first` is the
    name of some tensor."""
    yield _Reading(module, "", "")
    floats = module.floats
    for gone in _prefixes(floats[0]) if floats else ():
        if all(key.startswith(gone) for key in floats):
            yield _Reading(module, gone, "")
    known = module.weights.keys() | module.more.keys()
    for new in _prefixes(first[:_LONGEST]):
        if first.removeprefix(new) in known:
            yield _Reading(module, "", new)


def _prefixes(key: str) -> Iterator[str]:
    return (key[: i + 1] for i, c in enumerate(key) if c == ".")


class _Reading:
    """Published tensors beside those of a module, from whose keys the prefix `gone` is gone, or `new` has come."""

    def __init__(self, module: _Module, gone: str, new: str) -> None:
        self._module, self._new = module, new
        self._keys = {key.removeprefix(gone): key for key in (*module.more, *module.weights)}
        self._there: set[str] = set()
        self._casts: set[str] = set()
        self._why = ""

    def meet(self, name: str, value: torch.Tensor) -> None:
        key = self._keys.get(name.removeprefix(self._new)) if name.startswith(self._new) else None
        why = self._differs(key, value)
        if why:
            self._why = self._why or f"{name[:_SHOWN]!r} {why}"
        elif key is not None:
            self._there.add(key)

    def _differs(self, key: str | None, value: torch.Tensor) -> str:
        if key is None:
            return f"is no tensor of the run's {self._module.name}"
        shards = self._module.weights.get(key) or self._module.more[key]
        known = _whole(shards, value.shape)
        if known is None:
            return f"has the shape {tuple(value.shape)}, recorded is {tuple(shards[0].shape)}"
        if _equal(known, value):
            return ""
        if known.dtype == value.dtype:
            return "has other bits than recorded"
        if not {known.dtype, value.dtype} <= _CASTS:
            return f"is of the type {_type(value)}, recorded is {_type(known)}"
        if not _equal_but_for_nan(known.to(value.dtype), value):
            return f"is not what was recorded, cast to {_type(value)}"
        self._casts.add(_type(value))
        return ""

    def judged(self) -> Likeness:
        left_out = [key for key in self._module.floats if key not in self._there]
        lost = [key for key in left_out if not self._is_tied(key)]
        why = self._why or (f"{lost[0][:_SHOWN]!r} is not among them" if lost else "")
        casts, left = tuple(sorted(self._casts)), tuple(left_out)
        return Likeness(self._module.name, not why, len(self._there), casts, left, why)

    def _is_tied(self, key: str) -> bool:
        """Whether the bits of a weight are there under another key."""
        mine = self._module.weights[key]
        if all(bool((shard == shard.reshape(-1)[:1]).all()) for shard in mine):
            return False  # what has one value everywhere, as a bias that never moved, is alike and not tied
        others = (self._module.weights[other] for other in self._there & self._module.weights.keys())
        return any(all(map(_equal, mine, other)) for other in others)


def _whole(shards: Shards, shape: torch.Size) -> torch.Tensor | None:
    """The tensor of this shape that lies in `shards`; None where there is none."""
    if shards[0].shape == shape and all(_equal(shards[0], other) for other in shards[1:]):
        return shards[0]
    for dim in range(len(shape) if shards[1:] else 0):
        cut = [s for s in shards if s.dim() == len(shape)]
        there = sum(s.shape[dim] for s in cut)
        rest = [s.shape[:dim] + s.shape[dim + 1 :] == shape[:dim] + shape[dim + 1 :] for s in cut]
        if len(cut) == len(shards) and there == shape[dim] and all(rest):
            return torch.cat(shards, dim)
    return None


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: a NaN is what its bits are."""
    return a.dtype == b.dtype and a.shape == b.shape and bool((raw_bytes(a) == raw_bytes(b)).all())


def _equal_but_for_nan(a: torch.Tensor, b: torch.Tensor) -> bool:
    """As `_equal`, but for the bits of a NaN, which no two casts write alike."""
    nan = a.isnan() & b.isnan()
    return _equal(a.masked_fill(nan, 0), b.masked_fill(nan, 0))


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
