"""`brakeline gauge`: one command a gauge."""

from typing import Final

from brakeline.cli.common import LazyGroup

GAUGES: Final = {
    "authorship": "G1: the share of new code that AI wrote.",
    "throughput": "G2: merged code per engineer and day, against a base period.",
    "speedup": "G3: how much faster a candidate makes training code.",
    "research": "G4: how much of a research gap an autonomous loop recovers.",
    "lineage": "G5: whether misalignment grows from parent to successor.",
}

command = LazyGroup(
    "brakeline.cli.gauge",
    GAUGES,
    name="gauge",
    help="Measure recursive self-improvement. Every gauge gives a value, its 95 % bounds and a verdict.",
)
