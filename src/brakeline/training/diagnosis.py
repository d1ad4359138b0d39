"""Why two stretches of one run differ: the place in the state, and the variable in the recipe's code."""

import re
from collections.abc import Mapping, Sequence, Set
from typing import Final

import msgspec

from brakeline.training.digest import RNG
from brakeline.training.live import GLOBAL, Live
from brakeline.training.trail import Step, Trail

_MOST: Final = 4
_STOPS: Final = 6  # that are tried beside those of every rehearsal
_PLACES: Final = ("generator", "iterator")
_RANDOM: Final = ("torch._C.Generator", "numpy.random.", "random.Random")
# Objects of these kinds steer later steps, though nothing may show within those that were rehearsed.
_STEERING: Final = (
    *("LR", "Scheduler", "Plateau", "Scaler", "AveragedModel"),
    *("SGD", "Adam", "AdamW", "Muon", "LBFGS", "Adafactor"),
)
_KEEP: Final = "keep it in the state: a buffer of a module, an object with state_dict(); or derive it from the step"
_AHEAD: Final = (
    "draw what a step needs within that step: what was drawn ahead of it, a batch say, is lost at a stop; "
    "what is drawn once comes before recorder.open()"
)
_BUCKETS: Final = (
    "DistributedDataParallel sorts its buckets anew after its first step: "
    "with find_unused_parameters=True it does not, and a resumed run adds in the same order"
)
_UNSEEDED: Final = (
    "seed it from int(config['seed'], 16); torch.use_deterministic_algorithms(True) names operations; "
    "the order of a set is fixed where Python starts with PYTHONHASHSEED=0"
)
_LACKS: Final = {
    "batch": "the order of your data is not in the state: pass data=... with state_dict() and load_state_dict()",
    "loss": "something that the forward pass reads is not in the state: pass it to recorder.open()",
    "state": "something that the update reads is not in the state: pass optimizer, scheduler and scaler; "
    "gradients that are left over from one recorder.step() to the next are lost at a stop",
}


class Cause(msgspec.Struct, frozen=True):
    """What is wrong, and what to do about it."""

    text: str
    hint: str


def stretch(a: Trail, b: Trail) -> frozenset[str]:
    """Variables that differ between two starts without any stop (clocks, process numbers): they explain nothing."""
    both = a.looks.keys() & b.looks.keys()
    return frozenset(path for step in both for path in _differ(a.looks[step], b.looks[step]))


class _Case(msgspec.Struct, frozen=True):
    """One difference: how it is said, and what the code held before that step in both.

    `fresh`: of two starts from nothing. `drawn` are the global generators that had been used otherwise at its end, and
    `early` those that were used between `recorder.open()` and the first step. `late` is whether anything that is
    recorded had moved on between `recorder.step()` and the next step.
    """

    text: str
    a: Mapping[str, Live]
    b: Mapping[str, Live]
    fresh: bool = False
    drawn: Sequence[str] = ()
    early: Set[str] = frozenset()
    late: bool = True
    batches: Set[str] = frozenset()


def compare(what: str, a: Trail, b: Trail, begin: int, noise: frozenset[str] | None = None) -> list[Cause]:
    """Why `b`, from step `begin` on, is not what `a` was; [] where it is. `what` names the two.

    `noise` are variables that explain nothing (`stretch`); None of two fresh starts, of which nothing is known yet.
    """
    for step in range(begin, max(a.steps) + 1):
        if step not in a.steps or step not in b.steps or not b.steps[step].batch:
            break
        if difference := _difference(a.steps[step], b.steps[step]):
            kind, where = difference
            before = b.looks.get(step - 1, {})
            case = _Case(
                text=f"{what}, step {step} has another {kind}" + (f" ({where})" if where else ""),
                a=a.looks.get(step - 1, {}),
                b=before,
                fresh=noise is None,
                drawn=sorted(GLOBAL.keys() & _differ(a.looks.get(step, {}), b.looks.get(step, {}))),
                early=_differ(b.opened, before) if step == b.began + 1 else frozenset(),
                late=bool(a.moved.get(step - 1)),
                batches=a.batches,
            )
            return _explained(case, kind, noise or frozenset())
    if b.error:
        return [Cause(f"{what}: {b.error}", b.hint)]
    return []


def latent(a: Trail, b: Trail, noise: frozenset[str]) -> list[Cause]:
    """Objects that steer later steps and were lost at a stop, though no step so far shows it."""
    step = max(a.looks.keys() & b.looks.keys(), default=-1)
    if step < 0:
        return []
    here, there = a.looks[step], b.looks[step]
    gone = [p for p in _differ(here, there) - noise if not here[p].recorded and _steers(p, here[p], a)]
    return _culprits(_Case("after a stop, and before it shows", here, there), gone)


def unnoticed(a: Trail, b: Trail, noise: frozenset[str]) -> str:
    """What a stop loses, though no step so far depends on it; "" where that is nothing."""
    step = max(a.looks.keys() & b.looks.keys(), default=-1)
    if step < 0:
        return ""
    here = a.looks[step]
    gone = _differ(here, b.looks[step]) - noise - GLOBAL.keys()
    roots = {_root(p) for p in gone if not here[p].recorded and here[p].kind not in ("flag", "gradients")}
    names = sorted(roots - a.batches - {"os", "torch"})[:_MOST]
    if not names:
        return ""
    return f"a stop loses {_named(names)}, on which none of these steps depends"


def untried(whole: Trail, tried: Set[int], noise: frozenset[str]) -> list[int]:
    """Steps after which a stop may lose what it loses after none that was tried: something is not what it was at the
    start, or goes on between `recorder.step()` and the gate, as every tenth step does that evaluates."""
    steps = [n for n in sorted(whole.looks) if n and n < max(whole.looks)]
    known = {path for n in tried for path in _lost(whole, n)} | noise
    always = set.intersection(*(set(whole.moved.get(n, ())) for n in steps)) if steps else set()
    # A mode that is set and unset is lost after one step and not after another.
    modes = {path for n in steps for path in _lost(whole, n) if _mode(path) or whole.looks[n][path].kind == "flag"}
    toggled = {path for path in modes - noise if path not in _lost(whole, steps[-1])}
    found = []
    for n in steps:
        lost = _lost(whole, n)
        if n not in tried and (set(whole.moved.get(n, ())) - always or lost - known or lost & toggled):
            found.append(n)
            known |= lost
    return found[:_STOPS]


def _lost(trail: Trail, step: int) -> frozenset[str]:
    here, first = trail.looks.get(step, {}), trail.looks.get(0, {})
    kept = {path for path, live in here.items() if live.recorded and live.kind != "flag" and not _mode(path)}
    return _differ(here, first) - kept - GLOBAL.keys()


def _mode(path: str) -> bool:
    return path.endswith(".training")


def _steers(path: str, live: Live, trail: Trail) -> bool:
    return live.owner_kind.endswith(_STEERING) or (live.kind.startswith(_RANDOM) and path in trail.used)


def _difference(a: Step, b: Step) -> tuple[str, str] | None:
    if a.batch != b.batch:
        return "batch", ""
    places = dict(a.items)
    others = dict(b.items)
    first = next((p for p in (*places, *others) if places.get(p) != others.get(p)), "")
    if a.loss != b.loss:
        return "loss", ""
    return ("state", first) if first else None


def _differ(a: Mapping[str, Live], b: Mapping[str, Live]) -> frozenset[str]:
    return frozenset(path for path in a.keys() & b.keys() if a[path].digest != b[path].digest)


def _explained(case: _Case, kind: str, noise: frozenset[str]) -> list[Cause]:
    text, a, b = case.text, case.a, case.b
    paths = sorted(_differ(a, b) - noise)
    if any(a[path].kind in _PLACES and not a[path].recorded for path in paths):
        paths = [path for path in paths if path not in GLOBAL]  # beginning anew, it may have drawn
    paths = [path for path in paths if _root(path) not in case.batches]
    if kind == "batch" and not case.fresh and all(_rank(case, path) > 1 or path in GLOBAL for path in paths):
        loaders_of = (live for live in {**b, **a}.values() if live.kind == "DataLoader" and not live.recorded)
        plain = {live.owner: live.text for live in loaders_of}
        loaders = sorted(plain, key=lambda name: (plain[name] != "shuffled", name))
        others = [p for p in paths if _rank(case, p) > 1 and a[p].kind not in ("int", "iterator", "gradients")]
        if loaders and (plain[loaders[0]] == "shuffled" or not others):
            return [_loader(text, loaders[0])]
    gradients = [path for path in paths if a[path].kind == "gradients"]
    if found := _culprits(case, [path for path in paths if path not in gradients]):
        return found
    if places := [path for path, live in a.items() if live.kind == "iterator" and not live.recorded]:
        return [_iterator(text, places[0], a[places[0]])]
    if case.fresh and case.drawn:
        text = f"{text}: {case.drawn[0]} is seeded within the step, with what is another number at each start"
        return [Cause(text, "seed it from int(config['seed'], 16) and the step")]
    if case.fresh:
        return [Cause(f"{text}: something comes out otherwise at each start", _UNSEEDED)]
    if any(live.kind == "ddp" and live.text == "False" for live in a.values()):
        return [Cause(text, _BUCKETS)]
    return [Cause(text, _LACKS["state" if gradients else kind])]


def _culprits(case: _Case, paths: list[str]) -> list[Cause]:
    """One cause for each object that explains the difference, those that are likeliest first; of plain values, which
    may follow from one another, one for all."""
    ranked = sorted(paths, key=lambda path: (_rank(case, path), path.count("."), path))
    if ranked and _rank(case, ranked[0]) > 2:
        roots = list(dict.fromkeys(map(_root, sorted(ranked, key=lambda path: (case.a[path].kind == "int", path)))))
        if len(roots) > 1:
            return [Cause(f"{case.text}: one of {_named(roots[:_MOST])} is not what it was", _KEEP)]
        ranked = ranked[:1]
    causes: dict[str, Cause] = {}
    for path in ranked:
        best = _rank(case, ranked[0])
        if _rank(case, path) > max(best, 1) or len(causes) == _MOST:
            break
        causes.setdefault(_root(case.a[path].owner), _cause(case, path))
    return list(causes.values())


def _root(path: str) -> str:
    """The variable in which a path begins."""
    return re.split(r"[.\[()]", path.removeprefix("len("))[0]


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _rank(case: _Case, path: str) -> int:
    """How likely a variable that differs is the reason and no consequence: lower is likelier."""
    live = case.a[path]
    if live.kind.startswith(_RANDOM):
        return 0
    if live.owner_kind.endswith(_STEERING):
        return 1
    if live.kind in ("flag", *_PLACES) or _mode(path) or (live.kind in ("set", "frozenset") and case.fresh):
        return 2
    if live.owner and live.owner_kind not in ("", live.kind) and not live.recorded:
        return 2
    if live.kind in ("int", "count", "bool"):
        return 3
    if live.kind in ("float", "tensor", "ndarray"):
        return 4
    return 5


def _cause(case: _Case, path: str) -> Cause:
    text, a, b = case.text, case.a[path], case.b[path]
    name = _identifier(a.owner or path)
    values = f" is {b.text} after it, {a.text} without" if a.text else " is not what it was"
    if a.kind.startswith(_RANDOM) and case.fresh:
        what = path if path in GLOBAL else f"`{path}`"
        return Cause(f"{text}: {what} is not seeded", "seed it from int(config['seed'], 16)")
    if a.kind in ("set", "frozenset") and case.fresh:
        text = f"{text}: `{path}`, a {a.kind}, comes in another order at each start"
        return Cause(text, "sort it; of texts alone, start Python with PYTHONHASHSEED=0, as brakeline train does")
    if _mode(path):
        hint = f"{path.removesuffix('.training')}.train() comes before every step, also after an evaluation"
        return Cause(f"{text}: `{path}`{values}", hint)
    if path in case.early:
        return Cause(f"{text}: {path} is used between recorder.open() and the first step", _AHEAD)
    if path in GLOBAL:
        return Cause(
            f"{text}: {path} is used between recorder.step() and the next step",
            "evaluate and draw samples inside: with recorder.aside():",
        )
    if a.kind == "flag":
        hint = "set it as a function of the step, before every step, so that a resumed run sets it too"
        return Cause(f"{text}: `{path}` is {b.text}, was {a.text}", hint)
    if a.recorded and not case.late and path != a.owner:
        hint = f"let {a.owner}.state_dict() hold it, or derive it from the step; of a module, a buffer is in it"
        return Cause(f"{text}: `{path}`{values}, and {a.owner}.state_dict() lacks it", hint)
    if a.recorded:
        call = f"{a.owner}.step()" if a.owner_kind.endswith(_STEERING) else f"whatever changes {a.owner}"
        return Cause(
            f"{text}: `{path}` changes between recorder.step() and the next step",
            f"call recorder.step() last: {call} comes before it; or let its state_dict() hold it",
        )
    if a.kind == "DataLoader":
        return _loader(text, a.owner)
    if a.kind.startswith(_RANDOM):
        hint = f"pass it: recorder.open(..., {name}={a.owner})"
        if "__self__" in a.owner:
            hint = "keep the generator itself in a variable, and pass that to recorder.open()"
        return Cause(f"{text}: `{a.owner}`, a random generator, is not in the state", hint)
    if a.owner_kind not in ("", a.kind):
        hint = f"pass it: recorder.open(..., {name}={a.owner})"
        return Cause(f"{text}: `{a.owner}` ({a.owner_kind}) is not in the state", hint)
    if a.kind in _PLACES:
        return _iterator(text, path, a)
    if a.kind == "cache":
        hint = "let what it returns follow from its arguments alone, not from a draw or a variable"
        return Cause(f"{text}: `{path}` remembers what it returned, a resumed run does not", hint)
    return Cause(f"{text}: `{path}`{values}", _KEEP)


def _iterator(text: str, path: str, live: Live) -> Cause:
    hint = "make it a class with state_dict() and load_state_dict() that knows its place, and pass it"
    if live.text == "itertools.cycle":
        hint = "loop over brakeline.adapters.pytorch.resumable(loader) again and again, and pass that"
    article = "an" if live.text[:1] in "aeiou" else "a"
    return Cause(f"{text}: `{path}`, {article} {live.text}, cannot be put back where it was", hint)


def _loader(text: str, name: str) -> Cause:
    where = _identifier(name)
    hint = f"{where} = brakeline.adapters.pytorch.resumable({name}); recorder.open(..., data={where})"
    return Cause(f"{text}: the order of your data is not in the state, `{name}` is a plain DataLoader", hint)


def _identifier(path: str) -> str:
    name = re.findall(r"[A-Za-z_]\w*", path)[-1].strip("_")
    return "generator" if name == RNG else name or "it"
