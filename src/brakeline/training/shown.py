"""What a lab shows of a run, opened with care: measured before it is read, read once, and no more of it than there is.

A head may claim 2**53 steps; nothing here is as long as what a lab claims, only as what it shows, and the log's heads
bound that (Treaty 7.2).
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

from brakeline.core.encoding import parse
from brakeline.core.errors import BrakelineError, Malformed, Unavailable
from brakeline.core.statement import open_envelope
from brakeline.core.transcript import LEAF_BYTES, Leaf, decode_leaf
from brakeline.training.checkpoint import checkpoint_path
from brakeline.training.digest import Snapshot
from brakeline.training.environment import MAX_PROFILE, PROFILE, kept_distributions
from brakeline.training.environment import digest as profile_digest
from brakeline.training.ranks import Together, folder
from brakeline.training.recipe import MANIFEST, RECIPE, Recipe, deposited
from brakeline.training.recorder import LEAVES
from brakeline.training.replay import open_recorded
from brakeline.training.session import PERMITS, evidence_permits

# Failures of the inspector's own machine. Any other one of a disk is what the lab made of a file it shows.
_OWN: Final = {
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
}


_PROFILES: Final = 65  # that declared, and those of 64 moves


class NotShown(Exception):
    """What was asked for is not there, or is not what was recorded."""


class Leaves(Sequence[Leaf]):
    """The leaves that a lab shows, `most` at most. To count them costs nothing; they are read when one is asked for.

    Once: a file that is read twice may say two things. Raises, when they are read:
        Malformed: damaged or out of order. OSError, MemoryError.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._count = min(path.stat().st_size // LEAF_BYTES, most)
        self._leaves: tuple[Leaf, ...] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Leaf: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Leaf, ...]: ...
    def __getitem__(self, at: int | slice) -> Leaf | tuple[Leaf, ...]:
        return self._read()[at]

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self._read())

    def _read(self) -> tuple[Leaf, ...]:
        if self._leaves is None:
            leaves: list[Leaf] = []
            with self._path.open("rb") as f:
                for step in range(self._count):
                    leaf = decode_leaf(f.read(LEAF_BYTES))
                    if leaf.step != step:  # at the first one: a file of holes is as long as anybody likes
                        raise Malformed(f"{LEAVES} is out of order at step {step}")
                    leaves.append(leaf)
            self._leaves = tuple(leaves)
        return self._leaves


class Shown(NamedTuple):
    """Of a run: its leaves, and its recipe with the digest that it has."""

    leaves: Leaves
    digest: str
    recipe: Recipe


def open_shown(evidence: Path, steps: int) -> Shown:
    """What the lab shows of a run up to `steps`.

    Raises:
        NotShown. Unavailable: the inspector cannot read what is there.
    """
    try:
        for name in (LEAVES, PERMITS, f"{RECIPE}/{MANIFEST}"):
            _check_plain(evidence / name)
        recipe = deposited(evidence / RECIPE)
        for name in (recipe.source.name, *recipe.files):
            _check_within(evidence / RECIPE, name)
        return Shown(Leaves(evidence / LEAVES, steps + 1), recipe.digest, recipe)
    except (BrakelineError, OSError, TypeError, ValueError) as e:
        check_fault(e)
        raise NotShown(str(e)) from e


def distributions(evidence: Path) -> tuple[str, ...]:
    """Those that the run's profile names: where it shows none, its environment is nobody's."""
    try:
        _check_plain(evidence / PROFILE)
    except (BrakelineError, OSError):
        return ()
    return kept_distributions(evidence)


def profiles(evidence: Path) -> dict[str, dict[str, Any]]:
    """The environment profiles shown, by their digest: nothing else is believed of them."""
    found = {}
    for path in sorted(evidence.glob("environment*.json"))[:_PROFILES]:
        with suppress(BrakelineError, OSError):
            _check_plain(path)
            with path.open("rb") as f:
                it = parse(f.read(MAX_PROFILE), dict[str, Any])
            found[profile_digest(it)] = it
    return found


def permits(evidence: Path, leaves: Sequence[Leaf]) -> tuple[bytes, ...]:
    """Of the permits shown, those that the transcript names. Raises Unavailable as `open_shown`."""
    named = {leaf.permit for leaf in leaves}
    kept: dict[bytes, bytes] = {}
    try:
        for line in evidence_permits(evidence):
            with suppress(BrakelineError):
                it = bytes.fromhex(open_envelope(line).digest)
                if it in named:
                    kept.setdefault(it, line)
    except Unavailable as e:
        check_fault(e)
    return tuple(kept.values())


def checkpoint(evidence: Path, leaf: Leaf, ranks: int) -> Snapshot | Together:
    """The state of `leaf`, of so many ranks.

    Raises:
        NotShown, Unavailable: as `open_shown`. MemoryError.
    """
    try:
        for rank in range(ranks):
            _check_plain(checkpoint_path(folder(evidence, rank), leaf.step))
        return open_recorded(evidence, leaf, ranks)
    except (BrakelineError, OSError) as e:
        check_fault(e)
        if "allocate memory" in str(e.__cause__):  # torch reports it as RuntimeError
            raise MemoryError from e
        text = f"there is no checkpoint of step {leaf.step}: {e.strerror}" if isinstance(e, OSError) else str(e)
        raise NotShown(text) from e


def _check_plain(path: Path) -> None:
    """A pipe would be read for ever, and a device too. Raises FileNotFoundError."""
    if path.exists() and not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not a plain file", str(path))


def _check_within(folder: Path, name: str) -> None:
    """A link may lead to what is the inspector's own, of which a digest would then be logged. Raises
    FileNotFoundError."""
    _check_plain(folder / name)
    if not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder)):  # loops do not raise
        raise FileNotFoundError(errno.ENOENT, "it leads out of the recipe's folder", name)


def check_fault(e: BaseException) -> None:
    """Raises Unavailable where `e` goes back to the inspector's own machine."""
    cause: BaseException | None = e
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OWN:
            raise Unavailable(f"cannot read the evidence: {cause}", hint="check the disk and the permissions") from e
        cause = cause.__cause__
