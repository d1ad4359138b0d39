"""Logs that show one thing each, which their last entry does: how such a scene is written, and made a vector."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from brakeline.core.finding import Fault, Finding
from brakeline.core.pledge import Assent
from brakeline.core.state.events import Event, Void
from brakeline.core.treaty import articles_digest
from scenes.made import Made, folded, log_of, world
from world import Live, World

OTHER = "ab" * 32  # a digest of nothing
VOTE = {"motion": "trip", "epoch": 0, "reason": "test"}


class Shown(NamedTuple):
    """One scene: its name, what it is about, the rule that decides, and what must come of its last entry."""

    name: str
    about: str
    spec: str
    expect: str
    wants: tuple[str, ...]
    act: Callable[[], World]


SCENES: list[Shown] = []


def scene(
    name: str, spec: str, about: str, *, expect: str = "ok", wants: str = ""
) -> Callable[[Callable[[], World]], Callable[[], World]]:
    """Make a vector of what the function does: its last entry has the effect `expect` and causes the events `wants`."""

    def keep(act: Callable[[], World]) -> Callable[[], World]:
        SCENES.append(Shown(name, about, spec, expect, tuple(wants.split()), act))
        return act

    return keep


def made() -> Iterator[Made]:
    """All vectors of the noun `log`."""
    for shown in SCENES:
        log = shown.act()
        log.check()
        output, events = folded(log.first, log.entries)
        _check(shown, events[-1])
        yield Made("log", shown.name, shown.about, shown.spec, log_of(log), shown.expect, output)


def _check(shown: Shown, last: tuple[Event, ...]) -> None:
    came = next((str(e.reason) for e in last if isinstance(e, Void)), "ok")
    assert came == shown.expect, f"{shown.name}: {came} came of the last entry, not {shown.expect}: {last}"
    kinds = {type(e).__name__ for e in last}
    assert kinds.issuperset(shown.wants), f"{shown.name}: {sorted(kinds)} came of the last entry, not {shown.wants}"


def assent(log: World) -> Assent:
    return Assent(text=log.treaty.digest, articles=articles_digest(log.treaty))


def gap() -> Finding:
    return Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=(0, 0), detail="test")


def small(steps: int = 6, **changes: Any) -> tuple[World, Live]:
    """Alpha's run of a few steps, stopped and stamped, on a log in which nobody is bound: no permit is asked for."""
    log = world(**changes)
    run = log.opened("alpha", steps=max(30, steps))
    log.train(run, steps)
    log.head(run, "stopped")
    log.stamp()
    return log, run
