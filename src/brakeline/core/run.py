"""A run: declared before its first step, seeded by the log after it is declared, followed by lineage."""

import re
from typing import Final, Literal

import msgspec

from brakeline.core.encoding import Wire, decimal, is_text, tagged, unhex32
from brakeline.core.errors import Malformed

MAX_PARENTS: Final = 16
MAX_RANKS: Final = 64  # an inspector starts as many processes
MAX_MOVES: Final = 64  # of one run: each is a seam, and is looked at with every segment
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Declaration(Wire, frozen=True):
    """Body of a `declaration`. The run's id is the digest of the statement that carries it.

    `recipe`, `dataset` and `environment` are hex SHA-256: of the recipe (code and configuration), of the canonical
    data set, of the environment profile. Compute in FLOP as decimal text, since it outgrows 2**53. `parents` are ids
    of the runs whose weights or synthetic data this one starts from. `purpose` is "" or one of the treaty's
    exemptions. `chips` are the accelerators of the cluster it runs on, `flop_per_second` what they can do at most, as
    decimal text, and `domain` is "" or what it learns about, where a tier asks. `rung` says what stands behind the
    run's heads: steps that an inspector can execute again, or the lab's word about a job that could not be changed.
    """

    name: str
    rung: Literal["re-executable", "attested"]
    recipe: str
    dataset: str
    environment: str
    steps: int
    segment_steps: int
    flop_per_step: str
    parents: tuple[str, ...]
    purpose: str
    chips: int
    flop_per_second: str
    domain: str

    @property
    def step_flop(self) -> int:
        return decimal(self.flop_per_step.encode(), bound=10**40)

    @property
    def total_flop(self) -> int:
        return self.steps * self.step_flop

    @property
    def rate(self) -> int:
        return decimal(self.flop_per_second.encode(), bound=10**40)


class Move(Wire, frozen=True):
    """Body of a `moved`: beyond `steps` the run is trained in another environment, or by another number of `ranks`,
    which is absent where it is the recipe's. Treaty 7.5."""

    run: str
    steps: int
    environment: str
    ranks: int | msgspec.UnsetType = msgspec.UNSET


class Designation(Wire, frozen=True):
    """Body of a `designation`: its issuer wants the run in this tier of the treaty. Treaty 3.7."""

    run: str
    tier: str


def check_folder_name(name: str) -> None:
    """That a run may have a folder of this name, and no other one than its own.

    Raises:
        Malformed: not 1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or a digit.
    """
    if not _FOLDER.fullmatch(name):
        text = f"{name[:80]!r} is no name of a run that is recorded: its evidence is kept in a folder of that name"
        raise Malformed(text, hint="1 to 64 letters, digits, . _ or -; the first a letter or a digit")


def check_declaration(d: Declaration) -> None:
    """Raises:
    Malformed: empty name, digest that is none, no steps, no compute, a parent named twice.
    """
    if not d.name or len(d.name) > 64 or not is_text(d.name):
        raise Malformed("a run needs a printable name of at most 64 characters")
    for digest in (d.recipe, d.dataset, d.environment, *d.parents):
        unhex32(digest)
    if d.steps < 1 or d.segment_steps < 1 or d.step_flop < 1 or d.chips < 0 or d.rate < 0:
        raise Malformed("a run has at least one step, one step a segment and one FLOP a step")
    if list(d.parents) != sorted(set(d.parents)) or len(d.parents) > MAX_PARENTS:
        raise Malformed(f"parents must be sorted and distinct, and at most {MAX_PARENTS}")
    if len(d.domain) > 64 or not is_text(d.domain):
        raise Malformed("a domain is a printable name of at most 64 characters")


def run_seed(run: str, beacon: bytes) -> bytes:
    """The seed of initialisation and data order: 32 bytes.

    It depends on a checkpoint that was cosigned after the declaration was logged, so neither the weights' start nor
    the order of the data can be chosen (attacks A-07, A-11).
    """
    return tagged("brakeline/run-seed/v1", unhex32(run), beacon)
