"""The gauge: from evidence to a measurement. Pure; the same evidence gives the same bytes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from brakeline.core.encoding import canonical, sha256, unhex32
from brakeline.core.errors import Misuse
from brakeline.core.lineage import Ancestry, ancestry
from brakeline.core.measurement import Measurement
from brakeline.gauges.lineage.evidence import Evidence
from brakeline.gauges.lineage.looks import Look, admit, generations
from brakeline.gauges.lineage.probe import MIN_PROBES, Family
from brakeline.gauges.lineage.rates import Bounds, Count, e_process, growth, rate

ALPHA: Final = 0.05  # one-sided, of each kind of alarm, over all families of one lineage
THRESHOLD: Final = 1.0
ALARMS: Final = ("ancestry", "rate", "growth", "anchors")


def measure(
    evidence: Evidence, models: Sequence[str], controls: Sequence[str] = (), *, subject: str = "lineage"
) -> Measurement:
    """Gauge the lineages that end in `models`; those that end in `controls` are reported beside them.

    The value is the growth that lasted: the largest, over every grandparent, parent and child, over families and
    lineages, of the smaller of the two ratios; lower and upper are the same of the ratios' lower and upper bounds. With
    fewer than three generations that count nothing is known, which reads 1, between 0 and the number of probes. Where a
    look does not count the upper bound says no less than that.

    Not among the inputs: what the probes found, so that a party that asks the same models the same lists confirms or
    contradicts; and edges that tell nothing of these lineages, so that nobody who logs others keeps two parties apart.

    Raises:
        Misuse: no models, or one named twice. Malformed: a model that is no digest.
    """
    names = [*models, *controls]
    for name in names:
        unhex32(name)
    if not models or len(set(names)) != len(names):
        raise Misuse("name at least one model, and each of them once", hint="--model SHA256-OF-ITS-WEIGHTS")
    level = ALPHA / len(evidence.plan.families)
    trees = {name: ancestry(evidence.edges, name) for name in names}
    reports = [_lineage(evidence, model, trees[model], level) for model in models]
    beside = [_lineage(evidence, model, trees[model], level) for model in controls]
    lasted = [Bounds(**r["lasting"]) for r in reports]
    return Measurement(
        gauge="lineage",
        version=1,
        subject=subject,
        inputs={
            "alpha": ALPHA,
            "min_probes": MIN_PROBES,
            "plan": _digest(evidence.plan),
            "models": sorted(models),
            "controls": sorted(controls),
            "ancestries": _digest({name: [tree.issuers, tree.edges, tree.gaps] for name, tree in trees.items()}),
        },
        unit="growth",
        value=max(b.value for b in lasted),
        lower=max(b.lower for b in lasted),
        upper=max(b.upper for b in lasted),
        threshold=THRESHOLD,
        complete=all(r["complete"] for r in reports),
        alarms=tuple(a for a in ALARMS if any(a in r["alarms"] for r in reports)),
        details={
            "lineages": reports,
            "controls": beside,
            "refused": [list(r) for r in evidence.refused],
        },
        logs=evidence.logs,
    )


def _digest(value: object) -> str:
    return sha256(canonical(value)).hex()


def _lineage(evidence: Evidence, model: str, tree: Ancestry, level: float) -> dict[str, Any]:
    """The report on the lineage of one model: everything that the plot and a reader need."""
    # A model whose ancestry has gaps still has a generation, as far as the edges tell.
    born = generations(tree)
    families = {f.name: _family(f, tree, born, evidence, level) for f in evidence.plan.families}
    raised: dict[str, int] = {"ancestry": 0} if tree.gaps else {}
    for alarm in ALARMS[1:]:
        when = [f["alarms"][alarm] for f in families.values() if alarm in f["alarms"]]
        raised |= {alarm: min(when)} if when else {}
    lasting = [Bounds(**f["lasting"]) for f in families.values()]
    return {
        "model": model,
        "issuer": tree.issuers.get(model, ""),
        "alarms": raised,  # alarm → the generation that raised it
        "complete": not tree.gaps and not any(f["problems"] for f in families.values()),
        "gaps": [{"fault": g.fault, "model": g.model, "detail": g.detail} for g in tree.gaps],
        "lasting": _plain(Bounds(*(max(getattr(b, side) for b in lasting) for side in ("lower", "value", "upper")))),
        "families": families,
    }


def _family(family: Family, tree: Ancestry, born: dict[str, int], evidence: Evidence, level: float) -> dict[str, Any]:
    looks, problems = admit(family, born, evidence)
    counts = [look.probe.count for look in looks]
    e_bad = e_process(counts, family.limit)
    e_anchors = e_process([look.probe.moved(family) for look in looks], family.anchor_limit)
    ratios = _ratios(looks, tree, level)
    after = defaultdict(list)
    for ratio in ratios:
        after[ratio["parent"]].append(ratio)
    pairs = [(first, second) for first in ratios for second in after[first["child"]]]
    alarms: dict[str, int] = {}
    for look, bad, anchors in zip(looks, e_bad, e_anchors, strict=True):
        if bad >= -math.log(level):
            alarms.setdefault("rate", look.generation)
        if anchors >= -math.log(level):
            alarms.setdefault("anchors", look.generation)
    grown = [born[second["child"]] for first, second in pairs if min(first["lower"], second["lower"]) > 1]
    if grown:
        alarms["growth"] = min(grown)
    return {
        "limit": family.limit,
        "alarms": alarms,
        "lasting": _plain(_lasting(pairs, counts, whole=not problems and not tree.gaps)),
        "looks": [
            {
                "model": look.model,
                "generation": look.generation,
                "bad": count.bad,
                "n": count.n,
                **_plain(rate(count, ALPHA)),
                "anchors_moved": look.probe.moved(family).bad,
                "log10_e": bad / math.log(10),
                "log10_e_anchors": anchors / math.log(10),
            }
            for look, count, bad, anchors in zip(looks, counts, e_bad, e_anchors, strict=True)
        ],
        "growth": ratios,
        "problems": [{"model": model, "problem": problem} for model, problem in problems],
    }


def _ratios(looks: Sequence[Look], tree: Ancestry, level: float) -> list[dict[str, Any]]:
    """Growth from every parent to its child, where both looks count.

    Also from parents of much older generations: else a decoy of many generations beside the real parent hides it.
    """
    by_model = {look.model: look for look in looks}
    result = []
    for child in looks:
        for parent in tree.edges[child.model].parents:
            before = by_model.get(parent)
            if before is not None:
                bounds = growth(before.probe.count, child.probe.count, level)
                result.append({"parent": parent, "child": child.model, **_plain(bounds)})
    return result


def _lasting(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], counts: Sequence[Count], *, whole: bool) -> Bounds:
    unknown = Bounds(0.0, 1.0, float(max((c.n for c in counts), default=MIN_PROBES)))
    if not pairs:
        return unknown
    lower, value, upper = (max(min(a[s], b[s]) for a, b in pairs) for s in ("lower", "value", "upper"))
    return Bounds(lower, value, upper if whole else max(upper, unknown.upper))


def _plain(bounds: Bounds) -> dict[str, float]:
    return {"lower": bounds.lower, "value": bounds.value, "upper": bounds.upper}
