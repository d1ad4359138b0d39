"""Logs: what trips the brake, what pauses it, and what lifts it."""

from brakeline.core.brake import Phase
from brakeline.core.state.events import Cleared
from scenes.made import bound, world
from scenes.shown import scene
from world import DAY, LABS, START, World, violation

# --- the brake


@scene(
    "trip-by-votes",
    "Treaty 4.1, 4.5",
    "Two votes trip; no run is covered, so the pause begins.",
    wants="Tripped Paused",
)
def _() -> World:
    log = bound()
    log.trip()
    return log


@scene("trip-with-a-run", "Treaty 4.1", "Two votes trip; a covered run has not stopped.", wants="Tripped")
def _() -> World:
    log = bound()
    log.opened("alpha")
    log.trip()
    assert log.phase is Phase.TRIPPED
    return log


@scene("trip-by-votes-that-expire", "Treaty 4.1", "A vote that has expired does not count.")
def _() -> World:
    log = bound()
    log.vote("trip", "alpha", expires=log.now + 5)
    log.stamp(5)
    log.vote("trip", "beta")
    assert log.phase is Phase.CLEAR
    return log


@scene("trip-by-votes-of-the-unbound", "Treaty 2.2", "Only parties in force trip the brake.")
def _() -> World:
    log = world()
    log.bind("alpha")
    log.vote("trip", "alpha", "beta")
    assert log.phase is Phase.CLEAR
    return log


@scene("trip-by-a-late-pledge", "Treaty 4.1", "A vote counts from when its party is bound.", wants="Bound Tripped")
def _() -> World:
    log = world()
    log.bind("alpha")
    log.vote("trip", "alpha", "beta")
    log.bind("beta")
    return log


@scene("trip-by-two-classes", "Treaty 4.2", "Readings of two classes of gauges.", wants="Read Tripped")
def _() -> World:
    log = bound()
    log.read("authorship", 0.8, "alpha", "beta", value=0.9, upper=0.95)
    log.read("speedup", 4.0, "alpha", "beta")
    return log


@scene("no-trip-by-one-class", "Treaty 4.2", "Activity alone proves nothing.", wants="Read")
def _() -> World:
    log = bound()
    log.read("authorship", 0.8, "alpha", "beta", value=0.9, upper=0.95)
    assert log.phase is Phase.CLEAR
    return log


@scene("trip-by-a-safety-gauge", "Treaty 4.3", "A safety gauge suffices.", wants="Read Tripped")
def _() -> World:
    log = bound()
    log.read("lineage", 1.0, "alpha", "beta")
    return log


@scene("trip-by-an-alarm", "Treaty 4.3", "An alarm counts whatever the value is.", wants="Read Tripped")
def _() -> World:
    log = bound()
    log.read("lineage", 0.0, "alpha", "beta", alarms=("ancestry",))
    return log


@scene("trip-by-growth", "Treaty 4.9", "A gauge that doubled within its window counts as high.", wants="Read Tripped")
def _() -> World:
    log = world()
    log.bind(expires=START + 1000 * DAY)
    log.read("speedup", 4.0, "alpha", "beta", expires=log.now + 1000 * DAY)
    log.read("authorship", 0.15, "alpha", "beta", value=0.18, upper=0.2, expires=log.now + 1000 * DAY)
    log.stamp(60 * DAY)
    log.read("authorship", 0.4, "alpha", "beta", value=0.45, upper=0.5)
    return log


@scene("no-trip-by-slow-growth", "Treaty 4.9", "Doubled in more than its window.", wants="Read")
def _() -> World:
    log = world()
    log.bind(expires=START + 1000 * DAY)
    log.read("speedup", 4.0, "alpha", "beta", expires=log.now + 1000 * DAY)
    log.read("authorship", 0.15, "alpha", "beta", value=0.18, upper=0.2, expires=log.now + 1000 * DAY)
    log.stamp(121 * DAY)
    log.read("authorship", 0.4, "alpha", "beta", value=0.45, upper=0.5)
    assert log.phase is Phase.CLEAR
    return log


@scene("trip-by-a-finding", "Treaty 4.4", "A violation is upheld.", wants="Barred Tripped")
def _() -> World:
    log = bound()
    run = log.finished("alpha", steps=6)
    for inspector in ("beta", "gamma"):
        log.audit(inspector, run, violation())
    return log


@scene("pause-by-stops", "Treaty 4.5", "The last covered run logs that it has stopped.", wants="Committed Paused")
def _() -> World:
    log = bound()
    run = log.opened("alpha")
    log.trip()
    log.head(run, "stopped")
    return log


@scene("pause-by-lapse", "Treaty 4.5", "Every permit of before the trip has lapsed.", wants="Stamped Paused")
def _() -> World:
    log = bound()
    log.opened("alpha")
    log.trip()
    log.stamp()
    log.stamp(log.lapse)
    return log


@scene("no-pause-before-the-lapse", "Treaty 4.5", "One second earlier a permit may be alive.", wants="Stamped")
def _() -> World:
    log = bound()
    log.opened("alpha")
    log.trip()
    log.stamp()
    log.stamp(log.lapse - 1)
    assert log.phase is Phase.TRIPPED
    return log


@scene("lift", "Treaty 8.1, 8.2", "Three votes and no obstacle: the delay runs.", wants="Lifting")
def _() -> World:
    log = bound()
    log.trip()
    log.vote("lift", *LABS)
    return log


@scene("no-lift-while-unsettled", "Treaty 8.2", "A run waits for its inspectors.")
def _() -> World:
    log = bound()
    log.finished("alpha", steps=6)
    log.trip()
    log.vote("lift", *LABS)
    assert log.phase is Phase.PAUSED
    return log


@scene(
    "lift-after-the-deadline", "Treaty 8.4", "Nothing unsettled holds up the lift for longer.", wants="Stamped Lifting"
)
def _() -> World:
    log = bound()
    log.finished("alpha", steps=6)
    log.trip()
    log.vote("lift", *LABS)
    log.stamp(log.treaty.settle_within)
    return log


@scene("withheld", "Treaty 8.3", "A vote to lift expires during the delay.", wants="Withheld")
def _() -> World:
    log = bound(lift_delay='"60 s"')
    log.trip()
    log.vote("lift", *LABS, expires=log.now + 10)
    log.stamp(10)
    return log


@scene("cleared", "Treaty 8.3", "The delay has passed.", wants="Cleared")
def _() -> World:
    log = bound()
    log.trip()
    log.vote("lift", *LABS)
    log.stamp(2)
    return log


@scene("cleared-holding-a-run", "Treaty 5.7, 8.4", "A run that is not settled is held back alone.", wants="Cleared")
def _() -> World:
    log = bound()
    log.finished("alpha", steps=6)
    log.trip()
    log.vote("lift", *LABS)
    log.stamp(log.treaty.settle_within)
    log.stamp(2)
    assert [e.held for e in log.of(Cleared)] == [(*log.leaves,)]
    return log


@scene("trip-while-lifting", "Treaty 4.6, 5.5", "The brake dominates: a new epoch begins.", wants="Tripped Paused")
def _() -> World:
    log = bound(lift_delay='"60 s"')
    log.trip()
    log.vote("lift", *LABS)
    log.vote("trip", "delta", "alpha")
    return log


@scene("what-was-answered-trips-no-more", "Treaty 8.1", "A reading that the brake was lifted over.", wants="Cleared")
def _() -> World:
    log = bound()
    log.read("lineage", 2.0, "alpha", "beta")
    log.vote("lift", *LABS)
    log.stamp(2)
    return log
