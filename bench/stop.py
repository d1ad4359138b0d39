"""How long after the quorum a running job takes its last step: real processes, ten trips and lifts.

    python bench/stop.py [--cycles N]

The quorum is the moment the log published the deciding vote: the modification time of the log's own file that holds it.
The baseline is the run's own step time, measured over the steps before the stop, since a stop cannot come sooner than
the step that is under way. Target: one step plus 250 ms.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests")]

from machine import machine

from brakeline.cli.demo.command import published_at
from brakeline.core.brake import Phase
from test_circle_real import Circle, until


def cycle(circle: Circle, lab: str, name: str, number: int) -> tuple[float, float, int]:
    """Trip and lift once: (ms from the quorum to the refused step, ms a step, steps taken after the quorum)."""
    at = circle.steps(lab, name)
    until(lambda: circle.steps(lab, name) > at + 20)
    circle.stage.call("vote", "trip", "--reason", "bench", "--home", "delta")
    circle.stage.call("vote", "trip", "--reason", "bench", "--home", "beta")
    until(lambda: len(circle.stops(lab, name)) == number, 30)
    until(lambda: circle.phase() is Phase.PAUSED, 30)
    stop = circle.stops(lab, name)[-1]
    steps = [float(t) for t in stop["steps"]]  # type: ignore[attr-defined]
    quorum = published_at(circle.stage, circle.follower.state.ballot.tripped)
    assert quorum is not None
    circle.stage.call_all([("vote", "lift", "--reason", "bench", "--home", p) for p in ("alpha", "beta", "delta")])
    until(lambda: circle.phase() is Phase.CLEAR, 30)
    pace = statistics.median(b - a for a, b in pairwise(steps))
    late = sum(t > quorum for t in steps)
    return 1000 * (float(str(stop["refused"])) - quorum), 1000 * pace, late


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=10)
    cycles = parser.parse_args().cycles
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        circle = Circle(Path(folder) / "stage")
        try:
            circle.train("alpha", "bench", 100_000, pace=0.02)
            until(lambda: circle.steps("alpha", "bench") > 20)
            rows = []
            for number in range(1, cycles + 1):
                rows.append(cycle(circle, "alpha", "bench", number))
                print(f"  {number}/{cycles}: {rows[-1][0]:.0f} ms", file=sys.stderr)
        finally:
            circle.stage.close()
            time.sleep(0.5)
    delays, paces, late = zip(*rows, strict=True)
    worst = max(delay - pace for delay, pace in zip(delays, paces, strict=True))
    print(f"from quorum to refused step: median {statistics.median(delays):.0f} ms, worst {max(delays):.0f} ms")
    pace = statistics.median(paces)
    print(f"one step: {pace:.0f} ms; ratio {statistics.median(delays) / pace:.1f}")
    print(f"steps taken after the quorum: at most {max(late)}")
    print(f"worst beyond one step: {worst:.0f} ms (target 250)")
    return int(worst > 250)


if __name__ == "__main__":
    sys.exit(main())
