"""Of which runs an inspector can tell anything from another environment: those of the kinds it has replayed itself.

The rule for other environments (`spread`) measures its own tolerance, replay by replay. How often it contests an honest
run nevertheless is known only from honest replays of the same kind: of one line of PyTorch, on one kind of device. The
inspector makes those itself, `brakeline audit calibrate`, and never learns from what a lab shows. A library's next line
is another kind.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from brakeline.core.encoding import Wire, canonical, parse
from brakeline.core.errors import Malformed
from brakeline.node.disk import write_atomic

CALIBRATION: Final = "calibration.json"  # in an inspector's home
_MOST: Final = 1 << 20


class Kind(Wire, frozen=True):
    """Honest replays of one kind: how many segments of one step, and of more, were looked at, and how many of them were
    contested or could not be told."""

    torch: str
    device: str
    steps: int
    contested: int
    untold: int
    segments: int
    undecided: int


def kind_of(profile: Mapping[str, Any]) -> tuple[str, str]:
    """The line of PyTorch and the kind of device of an environment profile."""
    line = ".".join(str(profile.get("torch", "")).split("+")[0].split(".")[:2])
    return line, "cuda" if profile.get("devices") else "cpu"


def doubt(run: Mapping[str, Any] | None, own: Mapping[str, Any], known: Sequence[Kind]) -> str:
    """Why an inspector in `own` can tell nothing of what was made in the environment of the profile `run`; "" where it
    can."""
    if run is None:
        return "the profile of the run's environment was not shown"
    theirs, mine = kind_of(run), kind_of(own)
    if theirs != mine:
        return f"the run was made by PyTorch {theirs[0]} on {theirs[1]}, and this is {mine[0]} on {mine[1]}"
    if not any((k.torch, k.device) == mine for k in known):
        return f"no honest replays of PyTorch {mine[0]} on {mine[1]} are known here: brakeline audit calibrate"
    return ""


def known(home: Path | None) -> tuple[Kind, ...]:
    """What the inspector measured itself, and what came with Brakeline. Raises Malformed."""
    own = home / CALIBRATION if home else None
    came = files("brakeline.training").joinpath(CALIBRATION).read_bytes()
    data = [came] if own is None or not own.exists() else [own.read_bytes()[:_MOST], came]
    try:
        return tuple(kind for it in data for kind in parse(it, tuple[Kind, ...]))
    except Malformed as e:
        raise Malformed(f"{own} is damaged: {e}", hint="remove it, and run brakeline audit calibrate") from e


def keep(home: Path, kind: Kind) -> None:
    """Put what was measured into the inspector's home. Raises Unavailable, Malformed."""
    path = home / CALIBRATION
    others = parse(path.read_bytes(), tuple[Kind, ...]) if path.exists() else ()
    kept = [k for k in others if (k.torch, k.device) != (kind.torch, kind.device)]
    write_atomic(path, canonical((*kept, kind)))
