"""Which looks count: one a model and family, at what was sealed for its generation, by the judge that was agreed on."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from brakeline.core.lineage import Ancestry
from brakeline.gauges.lineage.evidence import Evidence
from brakeline.gauges.lineage.probe import MIN_PROBES, Family, Probe


class Problem(StrEnum):
    """Why a look does not count. A model without a look that counts leaves the measurement inconclusive."""

    MISSING = "no-probe"
    REPEATED = "two-results"  # two different results of one look: one may have been the luckier
    UNSEALED = "unsealed"  # the plan seals no list for this generation
    SWAPPED = "probe-swap"  # asked something else than what was sealed
    HIDDEN = "list-not-shown"  # the items cannot be compared with those of other generations
    LEAKED = "probe-leak"  # an item was shown to an earlier generation already
    FEW = "few-probes"
    JUDGE = "judge-swap"
    ANCHORS = "anchor-swap"  # other anchors than those agreed on


@dataclass(frozen=True, slots=True)
class Look:
    """A look that counts."""

    model: str
    generation: int
    probe: Probe


def generations(ancestry: Ancestry) -> dict[str, int]:
    """How many births lie between each model and the farthest root it descends from."""
    result: dict[str, int] = {}
    for model, edge in ancestry.edges.items():
        result[model] = 1 + max((result[p] for p in edge.parents if p in result), default=-1)
    return result


def admit(
    family: Family, generation_of: Mapping[str, int], evidence: Evidence
) -> tuple[list[Look], list[tuple[str, Problem]]]:
    """The looks of `family` at these models that count, oldest generation first, and the problem of every other."""
    found: dict[str, set[Probe]] = defaultdict(set)
    for probe in evidence.probes:
        if probe.family == family.name:
            found[probe.model].add(probe)
    leaked = _leaked(family, evidence.lists)
    looks: list[Look] = []
    problems: list[tuple[str, Problem]] = []
    for model, generation in sorted(generation_of.items(), key=lambda item: (item[1], item[0])):
        probes = found[model]
        problem = Problem.MISSING if not probes else Problem.REPEATED if len(probes) > 1 else None
        problem = problem or _problem(family, next(iter(probes)), generation, evidence, leaked)
        if problem is None:
            looks.append(Look(model, generation, next(iter(probes))))
        else:
            problems.append((model, problem))
    return looks, problems


def _problem(
    family: Family, probe: Probe, generation: int, evidence: Evidence, leaked: frozenset[str]
) -> Problem | None:
    if generation >= len(family.items):
        return Problem.UNSEALED
    if probe.items != family.items[generation]:
        return Problem.SWAPPED
    if probe.items not in evidence.lists:
        return Problem.HIDDEN
    if len(probe.bad) != len(evidence.lists[probe.items]):
        return Problem.SWAPPED
    if probe.items in leaked:
        return Problem.LEAKED
    if len(probe.bad) < MIN_PROBES:
        return Problem.FEW
    if probe.judge != family.judge:
        return Problem.JUDGE
    if probe.anchors != family.anchors or len(probe.anchor_bad) != len(family.expected):
        return Problem.ANCHORS
    return None


def _leaked(family: Family, lists: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The lists that ask what an earlier generation was asked."""
    seen: set[str] = set()
    leaked = set()
    for digest in family.items:
        items = lists.get(digest, ())
        if not seen.isdisjoint(items):
            leaked.add(digest)
        seen.update(items)
    return frozenset(leaked)
