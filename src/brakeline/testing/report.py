"""What came of one simulated world."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold: its id, when (s of the world), and what was seen."""

    invariant: str
    time: float
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.time:.3f} s: {self.text}"


@dataclass(frozen=True)
class Report:
    """`trace` is a digest of all that happened: two runs of one seed have the same. `counts` says how often what
    happened; `seconds` is how long the world lasted, by its own clock."""

    seed: int
    violations: tuple[Violation, ...]
    trace: str
    seconds: float
    requests: int
    steps: int
    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.seconds:.0f} s, {self.requests} requests, {self.steps} steps, {self.trace}"]
        lines += [f"  {name}: {count}" for name, count in sorted(self.counts.items())]
        return "\n".join([*lines, *(f"  VIOLATION {v}" for v in self.violations)])
