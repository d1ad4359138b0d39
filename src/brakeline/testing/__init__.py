"""A whole circle on a virtual clock, in one thread: the real log, witnesses, signers, gate and desks, on machines that
lose power, disks that fail, and a network that delays, with a Byzantine party among them.

    from brakeline.testing import World
    report = World(seed=7).run()
    assert not report.violations, report

One seed is one history: the same faults at the same moments, whatever the machine. See docs/testing.md.
"""

from brakeline.testing.report import Report
from brakeline.testing.world import World

__all__ = ["Report", "World"]
