"""Visit every state of a small model, and find a shortest way to one that must not be."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Found(Generic[S]):
    """How many states were visited; what is wrong → the first state in which it is; whether the limit cut it off."""

    states: int
    wrong: dict[str, S]
    cut: bool = False


def explore(
    starts: Iterable[S],
    steps: Callable[[S], Iterable[S]],
    wrong: Callable[[S], Iterable[str]],
    *,
    stop: bool,
    limit: int = 5_000_000,
) -> Found[S]:
    """Breadth first, so that what is found first is shortest. With `stop`, no further than to the first fault."""
    seen = set(starts)
    todo = deque(seen)
    found: dict[str, S] = {}
    while todo:
        state = todo.popleft()
        for what in wrong(state):
            found.setdefault(what, state)
        if found and stop:
            break
        if len(seen) > limit:
            return Found(len(seen), found, True)
        for after in steps(state):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return Found(len(seen), found)
