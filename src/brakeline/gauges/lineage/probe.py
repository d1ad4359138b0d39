"""What is agreed before the first look (the plan), and what one look at one model found (a probe)."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from brakeline.core.encoding import Wire, canonical, sha256, unhex32
from brakeline.core.errors import Malformed
from brakeline.gauges.lineage.rates import Count

MIN_PROBES: Final = 1000  # of one family and generation; fewer say nothing


class Family(Wire, frozen=True):
    """Probes for one kind of misbehaviour.

    `limit` is the bad rate that H0 allows. `judge` is the hex SHA-256 of what scores an answer (a rule, or model,
    prompt and version). `items` are the sealed probe lists, one a generation, by digest: what a generation is asked is
    fixed before it exists and was asked of none before it. `anchors` is the digest of fixed transcripts that are judged
    anew at every look; `expected` are their verdicts, 1 for bad, and `anchor_limit` the share that a judge which is
    still the same may get otherwise.
    """

    name: str
    limit: float
    judge: str
    items: tuple[str, ...]
    anchors: str
    expected: tuple[int, ...]
    anchor_limit: float


class Plan(Wire, frozen=True):
    """What the parties agreed on before the first look: `plan.json`, by its digest part of every measurement."""

    families: tuple[Family, ...]


class Probe(Wire, frozen=True):
    """One look: what `model` (hex SHA-256 of weights) did on the list `items`, and what `judge` said of the anchors.

    `bad` and `anchor_bad` are 1 for bad and 0 for not, in the order of the lists.
    """

    model: str
    family: str
    judge: str
    items: str
    bad: tuple[int, ...]
    anchors: str
    anchor_bad: tuple[int, ...]

    @property
    def count(self) -> Count:
        return Count(sum(self.bad), len(self.bad))

    def moved(self, family: Family) -> Count:
        """Anchors whose verdict is not the expected one."""
        return Count(sum(a != b for a, b in zip(self.anchor_bad, family.expected, strict=True)), len(self.anchor_bad))


def list_digest(items: Iterable[str]) -> str:
    """Hex SHA-256 that seals a list of items, each given by its own hex SHA-256."""
    return sha256(canonical(list(items))).hex()


def check_list(items: tuple[str, ...]) -> None:
    """Raises:
    Malformed: an item that is no digest, or one asked twice.
    """
    for item in items:
        unhex32(item)
    if len(set(items)) != len(items):
        raise Malformed("a list of probes asks an item twice")


def check_plan(plan: Plan) -> None:
    """Raises:
    Malformed: no family, families unsorted, a limit that is no share, a list sealed for two generations, no
        anchors, or hardly any of either verdict.
    """
    names = [f.name for f in plan.families]
    if not names or any(not a < b for a, b in pairwise(names)):
        raise Malformed("a plan has families of probes, sorted by name and distinct")
    for f in plan.families:
        if not f.name or len(f.name) > 64 or not f.name.isprintable():
            raise Malformed("a family needs a printable name of at most 64 characters")
        if not (0 < f.limit < 1 and 0 < f.anchor_limit < 1):
            raise Malformed(f"{f.name}: limits lie between 0 and 1")
        for digest in (f.judge, f.anchors, *f.items):
            unhex32(digest)
        if len(set(f.items)) != len(f.items):
            raise Malformed(f"{f.name}: one list is sealed for two generations")
        _check_verdicts(f.expected)
        # A judge that has come to call everything good, or everything bad, must differ more often than it may.
        if not f.expected or not f.anchor_limit < sum(f.expected) / len(f.expected) < 1 - f.anchor_limit:
            raise Malformed(f"{f.name}: without bad and good anchors nobody notices a judge that drifts")


def check_probe(probe: Probe) -> None:
    """Raises:
    Malformed: a digest that is none, a verdict that is neither 0 nor 1, or no probes.
    """
    for digest in (probe.model, probe.judge, probe.items, probe.anchors):
        unhex32(digest)
    _check_verdicts(probe.bad)
    _check_verdicts(probe.anchor_bad)
    if not probe.bad:
        raise Malformed("a look at no probes")


def _check_verdicts(verdicts: tuple[int, ...]) -> None:
    if not set(verdicts) <= {0, 1}:
        raise Malformed("a verdict is 1 for bad or 0 for not bad")
