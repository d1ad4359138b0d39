"""`python -m brakeline.testing FIRST [COUNT]`: play seeds, and print what did not hold."""

import sys
import time

from brakeline.testing.world import World


def main() -> int:
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    bad, began = 0, time.process_time()
    for seed in range(first, first + count):
        report = World(seed).run()
        if report.violations or count == 1:
            print(report)
        bad += bool(report.violations)
    print(f"{count} seeds, {bad} with violations, {(time.process_time() - began) / count:.3f} CPU s a seed")
    return bad > 0


if __name__ == "__main__":
    raise SystemExit(main())
