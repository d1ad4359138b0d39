"""What a run is subject to: the tiers that it is in by its numbers or by decision, and what exempts it."""

import msgspec

from brakeline.core.errors import Malformed
from brakeline.core.run import Designation
from brakeline.core.state.runs import Run, Runs
from brakeline.core.treaty import Exemption, Treaty


def exemption(treaty: Treaty, purpose: str) -> Exemption | None:
    return next((e for e in treaty.exemptions if e.purpose == purpose), None)


def classify(treaty: Treaty, run: Run) -> Run:
    """The run with its tiers, and what follows from them. Treaty 3.1-3.3, 3.6.

    What it is subject to it stays subject to: no later text frees a run that was declared before (Treaty 11.4).
    """
    d, lineage, window = run.declaration, run.lineage_flop, int(run.window)
    tiers = [
        t
        for t in treaty.tiers
        if t.name in run.chosen
        or t.holds(lineage=lineage, window=window, rate=d.rate, chips=d.chips, domain=d.domain)
    ]
    duties = frozenset(duty for t in tiers for duty in t.duties)
    prohibited = "prohibited" in duties
    found = exemption(treaty, d.purpose) if d.purpose else None
    # Treaty 3.2, 3.3: no word frees a run above its cap, and none frees one that is prohibited.
    compute = max(lineage, int(run.purpose_window))
    exempt = found if found and compute <= found.up_to and not prohibited else None
    covered = prohibited or ("permitted" in duties and exempt is None)
    names = tuple(t.name for t in tiers)
    return msgspec.structs.replace(
        run,
        tiers=(*(name for name in run.tiers if name not in names), *names),
        exempt=exempt.purpose if exempt and not run.covered else "",
        covered=run.covered or covered,
        brakes=run.brakes or covered or (exempt is not None and not exempt.while_braked),
        prohibited=run.prohibited or prohibited,
    )


def by_sum_alone(treaty: Treaty, run: Run) -> bool:
    """Whether the run is in a tier only because its lab's runs count together. Treaty 3.6."""
    d = run.declaration
    return any(
        t.name in run.tiers
        and not t.holds(lineage=run.lineage_flop, window=0, rate=d.rate, chips=d.chips, domain=d.domain)
        for t in treaty.tiers
    )


def designate(
    treaty: Treaty, runs: Runs, issuer: str, d: Designation, active: frozenset[str]
) -> tuple[Runs, bool]:
    """Treaty 3.7; also whether the run is in the tier by decision now, and was not before.

    Raises:
        Refused(UNDECLARED): no such run. Malformed: no such tier.
    """
    run = runs[d.run]
    if d.tier not in {t.name for t in treaty.tiers}:
        raise Malformed(f"the treaty has no tier {d.tier[:60]!r}")
    by = tuple(sorted({*run.designated.get(d.tier, ()), issuer}))
    run = msgspec.structs.replace(run, designated={**run.designated, d.tier: by})
    decided = d.tier not in run.chosen and len(active.intersection(by)) >= treaty.lift
    if decided:
        run = classify(treaty, msgspec.structs.replace(run, chosen=(*run.chosen, d.tier)))
    return runs.put(treaty, run), decided
