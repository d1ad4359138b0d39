"""What goes wrong in a world, drawn apart from it: a list, so that a seed that fails can be made shorter.

Each seed has some kinds of faults and not others (swarm testing: Groce et al. 2012): all of them at once hide one
another.
"""

from collections.abc import Iterable
from random import Random
from typing import Final, NamedTuple

from brakeline.testing.treaty import KEEPER, LAB, PARTIES

KINDS: Final = (
    "kill",  # a process dies: SIGKILL
    "power",  # a host loses its power
    "points",  # a host loses its power at some operation of its disk, within a while
    "cut",  # some hosts do not reach others
    "swizzle",  # hosts are cut off one by one, and come back in another order
    "io",  # a disk fails now and then, or always, for a while
    "skew",  # a clock jumps
    "weather",  # the network loses, delays and doubles for a while
    "stale",  # the log lies: it shows some hosts what it showed before
    "fork",  # the log lies: it shows some hosts another history, under its own key and its own witness's
    "hide",  # the log lies: it takes no votes, or says that it never will
    "cosign",  # a witness lies: it cosigns whatever it is shown, tells wrong times, or babbles
    "sign",  # a permit signer lies: it signs whatever it is asked for, or babbles, and holds no vote
    "twice",  # a party says two things under one number
    "accuse",  # an inspector finds what is not there
    "restore",  # an old copy of a witness's memory, or of the log, is put back
    "ask",  # a Byzantine process of the lab asks for permits at any time
    "trip",  # an ambush: operators trip while a permit is on its way, and the permit is slow
)
_OF_THE_LOG: Final = ("stale", "fork", "hide")
BYZANTINE: Final = frozenset((*_OF_THE_LOG, "cosign", "sign", "twice", "accuse"))  # of the one party that may be faulty
SPOKEN: Final = ("twice", "accuse")
SHOWN: Final = ("stale", "fork")  # to one host and not to others


class Fault(NamedTuple):
    """From `at` (s of the world), for `length` s. An ambush counts permit requests instead of seconds."""

    at: float
    kind: str
    target: str
    length: float
    amount: float


def liar_in(faults: Iterable[Fault]) -> str:
    """The party that is faulty, as `draw` chose it; "" where all are honest."""
    kinds = {fault.kind: fault.target for fault in faults if fault.kind in BYZANTINE}
    return KEEPER if kinds.keys() & set(_OF_THE_LOG) else next(iter(kinds.values()), "")


def _may(liar: str, kind: str) -> bool:
    """Whether a party lies in this way. A lab that is void by its own fault trains no more, which shows nothing."""
    return (liar == KEEPER or kind not in _OF_THE_LOG) and (liar != LAB or kind not in SPOKEN)


def ends(fault: Fault) -> float:
    """When it is over (s of the world); an ambush has no time of its own."""
    return 0.0 if fault.kind == "trip" else fault.at + fault.length


def draw(seed: int, services: tuple[str, ...], until: float) -> tuple[Fault, ...]:
    """The faults of a seed, in their order."""
    rng = Random(f"{seed}/faults")
    liar = KEEPER if rng.random() < 0.5 else rng.choice([p for p in PARTIES if p != KEEPER])
    kinds = [kind for kind in KINDS if rng.random() < 0.4 and _may(liar, kind)]
    found: list[Fault] = []
    time = 1.0
    while kinds and (time := time + rng.expovariate(0.6)) < until:
        kind = rng.choice(kinds)
        match kind:
            case "kill":
                found.append(Fault(time, kind, rng.choice(services), rng.uniform(0.05, 3), 0))
            case "power" | "skew":
                found.append(Fault(time, kind, rng.choice(PARTIES), rng.uniform(0.3, 3), rng.uniform(-2, 2)))
            case "points":
                found.append(Fault(time, kind, rng.choice(PARTIES), rng.uniform(0.5, 3), rng.choice((0.003, 0.02))))
            case "cut":
                side = " ".join(p for p in PARTIES if rng.random() < 0.5)
                found.append(Fault(time, kind, side, rng.uniform(0.5, 15), 0))
            case "swizzle":
                found += [Fault(time + rng.uniform(0, 2), kind, p, rng.uniform(0.5, 4), 0) for p in PARTIES]
            case "io":
                found.append(Fault(time, kind, rng.choice(PARTIES), rng.uniform(0.1, 2), rng.choice((0.02, 0.2, 1.0))))
            case "weather":
                found.append(Fault(time, kind, "", rng.uniform(1, 10), rng.choice((0.01, 0.05))))
            case "stale":  # and something of that host may be started again meanwhile
                again = rng.choice((0.0, rng.uniform(0.1, 0.9)))
                found.append(Fault(time, kind, rng.choice(PARTIES), rng.uniform(1, 8), again))
            case "fork":
                found.append(Fault(time, kind, rng.choice(PARTIES), rng.uniform(1, 8), 0))
            case "hide":
                found.append(Fault(time, kind, KEEPER, rng.uniform(1, 8), rng.choice((0, 1))))
            case "cosign" | "sign":
                found.append(Fault(time, kind, liar, rng.uniform(1, 8), rng.randrange(4)))
            case "twice" | "accuse":
                found.append(Fault(time, kind, liar, 0, 0))
            case "restore":
                of = f"log.{KEEPER}" if rng.random() < 0.5 else f"witness.{rng.choice(PARTIES)}"
                found.append(Fault(time, kind, of, rng.uniform(1, 6), 0))
            case "trip":
                found.append(Fault(float(rng.randint(3, 40)), kind, "", rng.uniform(0.5, 4.5), 0))
            case "ask":
                found.append(Fault(time, kind, LAB, 0, 0))
    return tuple(sorted(found))
