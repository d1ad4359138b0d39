"""Which faults of a failing seed it takes: delta debugging over the list (Zeller and Hildebrandt 2002)."""

from brakeline.testing.faults import Fault
from brakeline.testing.report import Report
from brakeline.testing.world import World


def shortest(world: World, report: Report) -> tuple[Fault, ...]:
    """A list of faults of which none can be left out, with which the same invariant does not hold.

    What is drawn at the moment it is needed (delays, how much of a disk is lost) has a stream for each purpose, so that
    a fault that is left out changes as little else as can be.
    """
    wanted = report.violations[0].invariant

    def fails(faults: tuple[Fault, ...]) -> bool:
        found = World(world.seed, faults=faults, until=world.until).run()
        return any(v.invariant == wanted for v in found.violations)

    faults, pieces = world.faults, 2
    while len(faults) > 1:
        size = -(-len(faults) // pieces)
        without = (faults[:at] + faults[at + size :] for at in range(0, len(faults), size))
        smaller = next((rest for rest in without if fails(rest)), None)
        if smaller is not None:
            faults, pieces = smaller, max(2, pieces - 1)
        elif size == 1:
            break
        else:
            pieces = min(len(faults), 2 * pieces)
    return faults
