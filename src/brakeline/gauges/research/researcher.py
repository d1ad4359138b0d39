"""Researchers: whoever proposes methods, knowing the forum and nothing else. The default one is a search."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from brakeline.core.errors import Misuse
from brakeline.gauges.research.methods import SPACE, VANILLA, Method, read_method
from brakeline.gauges.research.problem import generator

_PARENTS: Final = 4
_FRESH, _CROSS, _CHANGE = 0.25, 0.5, 0.25  # shares of proposals from nothing and of two parents; of fields changed
_TRIES: Final = 50


class Finding(NamedTuple):
    """What the forum says of one experiment. `heard`: the oracle's rounded PGR, or None when it beat no best."""

    team: int
    method: Method
    heard: float | None
    error: str


def search(draw: int, team: int, turn: int, forum: Sequence[Finding], count: int) -> list[Method]:
    """`count` proposals of the default researcher: each team begins in a corner of its own, then all vary and cross
    the forum's best. A function of its arguments, so a loop that was killed goes on as if it had not been."""
    rng = generator("search", draw, team, turn)
    known = {finding.method.id for finding in forum}
    heard = sorted((f for f in forum if f.heard is not None), key=lambda f: -(f.heard or 0))
    parents = [finding.method for finding in heard[:_PARENTS]]
    proposals: list[Method] = []
    for _ in range(count):
        for _ in range(_TRIES):
            method = _varied(rng, parents) if parents and rng.random() > _FRESH else _corner(rng, team, turn)
            if method.id not in known:
                break
        known.add(method.id)
        proposals.append(method)
    return proposals


def _corner(rng: np.random.Generator, team: int, turn: int) -> Method:
    values = {name: allowed[rng.integers(len(allowed))] for name, allowed in SPACE.items()}
    if turn == 0:
        corners = [(view, denoise) for denoise in SPACE["denoise"][1:] for view in SPACE["view"]]
        values["view"], values["denoise"] = corners[team % len(corners)]
    return read_method(values)


def _varied(rng: np.random.Generator, parents: Sequence[Method]) -> Method:
    first, second = (msgspec.structs.asdict(parents[int(rng.integers(len(parents)))]) for _ in range(2))
    if rng.random() < _CROSS:
        first = {name: (first, second)[rng.integers(2)][name] for name in first}
    for name, allowed in SPACE.items():
        if rng.random() < _CHANGE:
            first[name] = allowed[rng.integers(len(allowed))]
    return read_method(first)


def briefing(team: int, forum: Sequence[Finding], count: int) -> str:
    """What a language model is told: the problem, the space, the forum. It answers in JSON."""
    best = sorted((f for f in forum if f.heard is not None), key=lambda f: -(f.heard or 0))[:8]
    lines = [f"  {f.heard:.2f} {msgspec.json.encode(f.method).decode()}" for f in best] or ["  nothing yet"]
    space = "\n".join(f"  {name}: {msgspec.json.encode(allowed).decode()}" for name, allowed in SPACE.items())
    return f"""You are researcher {team}. A weak supervisor (about 60 % right) labels a pool of items; a strong learner
is trained on labels that a method has cleaned. Find the method with the highest share of the gap recovered (PGR).
A method is a JSON object with exactly these fields, each with one of the values listed:
{space}
The plain method is {msgspec.json.encode(VANILLA).decode()}
Best findings so far of all researchers (PGR, method):
{chr(10).join(lines)}
Answer with {{"methods": […]}}, a list of {count} new methods, and nothing else."""


def read_proposals(text: str) -> list[Any]:
    """The JSON values in a model's answer: its object's `methods`, its array, or its one object.

    Raises:
        Misuse: there is none.
    """
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            try:
                value = msgspec.json.decode(text[start : end + 1].encode("utf-8", "replace"))
            except (msgspec.DecodeError, RecursionError):
                continue
            if isinstance(value, dict) and isinstance(value.get("methods"), list):
                value = value["methods"]
            return value if isinstance(value, list) else [value]
    raise Misuse("the answer holds no methods in JSON")
