"""The treaty as people read it: numbered articles, rendered from the same values that the code applies.

Every rule has an id. The code cites it where it applies it (`# Treaty 4.2`); `PEOPLE` are the rules that no code can
apply, because people must act.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from brakeline.core.treaty import Treaty
from brakeline.core.units import show_flop

PEOPLE: Final = frozenset({"9.1", "10.1", "10.2", "10.3", "11.1"})

ARTICLES: Final = {
    "1": "Parties",
    "2": "Entry into force",
    "3": "Scope",
    "4": "The brake",
    "5": "Permits",
    "6": "The log",
    "7": "Transcripts and audits",
    "8": "Lifting the brake",
    "9": "Accounting for compute",
    "10": "Clocks",
    "11": "Amendment",
}


def duration(seconds: int) -> str:
    """`259200` → `"3 days"`, in the largest unit that divides it."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 and seconds >= size:
            return f"{seconds // size} {unit}{'s' if seconds != size else ''}"
    return "0 seconds"


def _percent(value: object) -> str:
    return f"{float(str(value)) * 100:g} %"


def rules(t: Treaty) -> dict[str, str]:
    """Rule id → sentence."""
    n = len(t.parties)
    signers, witnesses = len(t.with_role("permit-signer")), len(t.with_role("witness"))
    conditions = {
        "stopped": "every covered run has logged that it stopped",
        "audited": f"every covered run is settled, passed by {t.inspectors} inspectors up to its last head or barred, "
        "or was examined by as many without an open allegation",
        "readings": "no gauge stands at or above its threshold",
    }
    gauges = "; ".join(f"{x.gauge} ({x.gauge_class}) at {x.at_least:g} {x.unit}" for x in t.triggers) or "none"
    growing = "; ".join(
        f"{x.gauge} from {x.growth.floor:g} {x.unit} within {duration(x.growth.doubles_within)}"
        for x in t.triggers
        if x.growth
    )
    met = "; ".join(conditions[c] for c in sorted(t.lift_conditions)) or "none beyond the quorum"
    return {
        "1.1": "Each party is known by the keys entered here. No key serves two parties or two purposes.",
        "1.2": "A party does what its roles allow: lab, log, witness, permit signer, inspector.",
        "1.3": f"The treaty bears {t.faults} dishonest or absent of its {n} parties.",
        "2.1": "A party assents by signing this exact text.",
        "2.2": "A party is bound while the condition of its pledge holds among the parties bound: the largest set of "
        "parties whose pledges all hold together.",
        "2.3": f"No duty binds before {datetime.fromtimestamp(t.effective, UTC):%Y-%m-%d %H:%M} UTC.",
        "2.4": "A party that signs two different statements under one number voids its votes and readings, and has "
        "withdrawn: its duties end when the notice has passed.",
        "2.5": f"A party may withdraw; its pledge ends {duration(t.withdrawal_notice)} after the log shows it. A "
        "pledge in force cannot be weakened or shortened.",
        "3.1": f"A run is covered when its compute, over its lineage, exceeds {show_flop(t.covered_above)}.",
        "3.2": f"Exempt: {', '.join(sorted(t.exempt)) or 'nothing'}.",
        "3.3": f"No permit is given to a run above {show_flop(t.prohibited_above)} over its lineage.",
        "3.4": "Compute follows the weights: a run counts its own and that of every run it descends from.",
        "3.5": "A lab logs how each model came to be: its parents, its data, who labelled and who chose them, the "
        "recipe. It names the parents that the run declared, and no model of which that is not logged before.",
        "4.1": f"The brake trips on the votes of {t.trip} parties.",
        "4.2": f"The brake trips when gauges of two classes reach their thresholds by the lower bound. "
        f"Gauges: {gauges}.",
        "4.3": "A gauge of the class safety suffices alone, by its lower bound or by an alarm.",
        "4.4": f"An adjudicated finding {'trips' if t.findings_trip else 'does not trip'} the brake.",
        "4.5": "When tripped, every covered run stops at its next optimizer step with a checkpoint. The brake counts "
        "as paused when all have logged the stop, or when every permit must have lapsed.",
        "4.6": "The brake dominates: while it is on, no permit is given and none counts.",
        "4.7": "A permit signer heeds a vote to trip as soon as it holds it, whether or not the log shows it: who "
        "keeps the log cannot hold a trip back.",
        "4.8": f"A reading counts when {max(2, t.faults + 1)} parties measured the same inputs and their bounds meet. "
        "Where they do not meet, the log shows a disagreement, and neither confirms the other.",
        "4.9": f"A gauge also reaches its threshold when its lower bound doubles the upper bound of an earlier reading "
        f"of the same subject that counted: {growing or 'no gauge'}.",
        "5.1": "No covered run takes an optimizer step without a permit in force.",
        "5.2": f"A permit needs the signatures of {t.permit} of {signers} permit signers, each on its own view of the "
        "log.",
        "5.3": f"A permit lasts at most {duration(t.permit_lifetime)} and lapses by itself.",
        "5.4": f"A permit allows at most {show_flop(t.permit_allowance)} beyond the run's last logged head.",
        "5.5": "A trip begins a new epoch; a permit of an earlier epoch is void.",
        "5.6": "A run with an adjudicated finding gets no permit.",
        "5.7": "A run that inspectors examined and could not settle before a lift gets no permit until it is settled.",
        "5.8": "A run that descends from another gets no permit until the models of each parent are logged "
        "and a safety gauge read on each of them counts: as many parties as 4.8 asks for agree, each with a complete "
        "reading that stays below the threshold without alarm."
        if t.lineage_gate
        else "A run that descends from another needs no reading of its parents.",
        "6.1": f"A statement counts when it is in the log under a checkpoint cosigned by {t.witnesses} of {witnesses} "
        "witnesses.",
        "6.2": "Time is the median of the witnesses' timestamps, as the log itself records it.",
        "6.3": f"The log records its own cosigned checkpoint at least every {duration(t.heartbeat)}.",
        "6.4": f"Nobody decides on a checkpoint older than {duration(t.stale_after)}.",
        "7.1": "A run is declared before its first step: recipe, data, environment, compute, parents.",
        "7.2": f"A run commits to every step, and logs a head at least every {t.head_every} segments of "
        f"{t.segment_steps} steps, at every stop and at every opening.",
        "7.3": "An inspector's sample is drawn from the head and from the first checkpoint cosigned after it.",
        "7.4": f"Each inspector replays the first and last segment, every seam, and as many others as catch a cheat on "
        f"{_percent(t.f_cheat)} of the segments with {_percent(t.p_catch)} probability.",
        "7.5": f"In the declared environment a replay must agree bit for bit; in another, the update must agree within "
        f"{t.update_error:g} of its size.",
        "7.6": "A difference that another environment explains is recorded and is no violation.",
        "7.7": f"A violation is upheld when {t.adjudicators} inspectors, none of them the lab's, find it; it falls "
        "when as many checked the same steps and did not.",
        "7.8": "A job that cannot be changed may run as an attested run: a supervisor stops it, it commits to its "
        "running time, and behind it stands the lab's word alone."
        if t.attested_runs
        else "A run that inspectors cannot execute again is not admitted.",
        "8.1": f"The brake lifts on the votes of {t.lift} parties, cast after the trip.",
        "8.2": f"Conditions: {met}.",
        "8.3": f"Permits are given again {duration(t.lift_delay)} after that, unless a condition fails or the brake "
        "trips meanwhile."
        if t.lift_delay
        else "Permits are given again at once.",
        "9.1": f"Compute that is neither declared and audited nor proven idle stays below {_percent(t.residual)} of "
        "capacity.",
        "10.1": f"A safety incident is reported within {duration(t.incident_clock)}.",
        "10.2": f"A threshold met, or known to be met soon, is notified within {duration(t.notification_clock)}.",
        "10.3": f"A report that another party asks for is given within {duration(t.report_clock)}.",
        "11.1": f"An amendment is a new version of this text, signed by all that were bound by the old one, and takes "
        f"effect no sooner than {duration(t.amendment_notice)} after the last signature.",
    }


def render(t: Treaty) -> str:
    """The whole treaty as numbered plain text."""
    return "\n".join(_lines(t)) + "\n"


def _lines(t: Treaty) -> Iterator[str]:
    yield f"{t.title}"
    yield f"{t.name}, version {t.version}. SHA-256 {t.digest}"
    article = ""
    for id_, sentence in rules(t).items():
        if id_.split(".")[0] != article:
            article = id_.split(".")[0]
            yield ""
            yield f"Article {article}. {ARTICLES[article]}"
            if article == "1":
                for p in t.parties.values():
                    label = f" ({p.represents})" if p.represents else ""
                    yield f"     - {p.name}{label}: {', '.join(sorted(p.roles))}. Key {p.key.id}."
        yield f"{id_:>4} {sentence}"
