"""Where two states differ, in words that an engineer can look up in their own code."""

import torch

from brakeline.training.digest import Snapshot, Tree, place, raw_bytes


def first_difference(a: Snapshot, b: Snapshot) -> str:
    """The first place where two states differ, as `component['path']: what`; "" where they are the same."""
    for component in sorted({*a.structures, *b.structures}):
        there, here = ({p.path: p for p in s.parts if p.component == component} for s in (a, b))
        for path in (*there, *(p for p in here if p not in there)):
            where = place(component, path)
            if path not in there or path not in here:
                return f"{where}: a tensor that is only in one of them"
            x, y = there[path].tensor, here[path].tensor
            if x.dtype != y.dtype or x.shape != y.shape:
                return f"{where}: {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
            if bytes(raw_bytes(x)) != bytes(raw_bytes(y)):
                return f"{where}: other values"
        if a.structures.get(component) != b.structures.get(component):
            return _plain_difference(component, a.tree.get(component), b.tree.get(component))
    return ""


def _plain_difference(where: str, a: Tree, b: Tree) -> str:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        found = (_plain_difference(f"{where}[{key!r}]", a[key], b[key]) for key in a)
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        found = (_plain_difference(f"{where}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return ""
    else:
        return "" if type(a) is type(b) and repr(a) == repr(b) else f"{where}: {a!r:.60} and {b!r:.60}"
    return next(filter(None, found), "")
