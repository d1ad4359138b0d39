"""What is fixed before the first run, and the record of all runs: a folder cannot be measured until it looks good.

`plan.json` holds the inputs of the measurement, the number of pairs among them. `runs.jsonl` gets a line when a pair
starts and one when it is over, whatever came of it. A second command in the same folder makes the pairs that are
missing and no other; a refusal stands.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from brakeline.core.encoding import Wire, canonical, parse
from brakeline.core.errors import Malformed, Misuse
from brakeline.node.disk import disk_errors, write_atomic

PLAN: Final = "plan.json"
RUNS: Final = "runs.jsonl"


class Timed(Wire, frozen=True):
    """One run: seconds on the verifier's clock and of processor, and the held-out loss at each checkpoint."""

    wall: float
    cpu: float
    losses: tuple[float, ...]


class Pair(Wire, frozen=True):
    """One line of the record. `started`: the pair was begun, no more. `refused`: why the candidate's run is void."""

    pair: int
    started: bool
    base: Timed | None
    candidate: Timed | None
    deviation: float | None
    refused: str


class Record:
    """The folder of one measurement.

    Raises:
        Misuse: the folder holds the runs of another measurement. Malformed: its files are damaged.
        Unavailable: the disk.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any]) -> None:
        self._path = folder / RUNS
        plan = folder / PLAN
        data = canonical(inputs)
        with disk_errors():
            if not plan.exists():
                write_atomic(plan, data)
            elif plan.read_bytes() != data:
                raise Misuse(
                    f"{folder} holds the runs of another candidate, seed or number of pairs",
                    hint="choose another folder with --out; all runs of a measurement stay together",
                )
            lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        self.lines = [parse(line, Pair) for line in lines]
        if not all(_possible(line, inputs) for line in self.lines):
            raise Malformed(f"{self._path} holds a line that no run writes")

    @property
    def pairs(self) -> dict[int, Pair]:
        """What came of the pairs that are over."""
        return {line.pair: line for line in self.lines if not line.started}

    @property
    def abandoned(self) -> int:
        """Pairs that were begun and not finished: a power cut, Ctrl-C, or a pair that looked bad."""
        return sum(1 if line.started else -1 for line in self.lines)

    def start(self, pair: int) -> None:
        self._append(Pair(pair=pair, started=True, base=None, candidate=None, deviation=None, refused=""))

    def finish(self, pair: Pair) -> None:
        self._append(pair)

    def _append(self, line: Pair) -> None:
        self.lines.append(line)
        write_atomic(self._path, b"".join(canonical(line) + b"\n" for line in self.lines))


def _possible(line: Pair, inputs: dict[str, Any]) -> bool:
    """Whether it is a pair that was planned, and of both runs took a time if it is over."""
    took = [run is not None and run.wall > 0 and run.cpu >= 0 for run in (line.base, line.candidate)]
    return 0 <= line.pair < inputs["pairs"] and (line.started or all(took))


def known_seed(folder: Path) -> str | None:
    """The seed of the measurement that was begun in `folder`, or None where there is none.

    Raises:
        Malformed: the plan is damaged.
    """
    try:
        return parse_seed((folder / PLAN).read_bytes())
    except FileNotFoundError:
        return None


def parse_seed(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data)["seed"])
    except (msgspec.DecodeError, KeyError, TypeError) as e:
        raise Malformed(f"{PLAN} is damaged: {e}") from e
