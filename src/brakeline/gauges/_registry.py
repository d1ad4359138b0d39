"""What Inspect finds by the entry point `inspect_ai`: `inspect eval brakeline/speedup --model …`.

Authorship and throughput are no tasks: they measure a repository, and no model answers.
"""

from brakeline.gauges.lineage.task import lineage_probe
from brakeline.gauges.research.task import research
from brakeline.gauges.speedup.task import speedup_task

__all__ = ["lineage_probe", "research", "speedup_task"]
