"""The treaty as people read it: numbered articles, rendered from the same values that the code applies.

Every rule has an id. The code cites it where it applies it (`# Treaty 4.2`); `PEOPLE` are the rules that no code can
apply, because people must act. Numbers are written exactly: what parties sign must not round what the code applies.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, NamedTuple

from brakeline.core.encoding import sha256
from brakeline.core.treaty.values import BEHIND, Duty, Party, Tier, Treaty
from brakeline.core.units import show_flop, show_rate

PEOPLE: Final = frozenset({"3.8", "9.1"})

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
    "12": "Keys",
}

_DUTIES: Final[tuple[Duty, ...]] = ("declared", "monitored", "permitted", "prohibited")  # in the order of their weight


def duration(seconds: int) -> str:
    """`259200` → `"3 days"`, in the largest unit that divides it."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 and seconds >= size:
            return f"{seconds // size} {unit}{'s' if seconds != size else ''}"
    return "0 seconds"


def exact(value: float) -> str:
    """`4.0` → `"4"`: the shortest text that `float` reads back as the same value."""
    return repr(value).removesuffix(".0")


def _percent(share: Decimal) -> str:
    sign, digits, exponent = share.as_tuple()
    text = f"{Decimal((sign, digits, int(exponent) + 2)):f}" if share else "0"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def _tier(x: Tier) -> str:
    criteria = []
    if x.domain:
        criteria.append(f'it declares the domain "{x.domain}"')
    if x.above is not None:
        together = ", or that of its lab's runs together (3.6)," if x.sum else ""
        criteria.append(f"its compute over its lineage{together} exceeds {show_flop(x.above)}")
    if x.rate_above is not None:
        criteria.append(f"its machines can do more than {show_rate(x.rate_above)}")
    if x.chips_above is not None:
        criteria.append(f"its cluster has more than {x.chips_above} accelerators")
    duties = ", ".join(d for d in _DUTIES if d in x.duties)
    return f'A run is in the tier "{x.name}" ({duties}) when {" and ".join(criteria)}.'


def _exemptions(t: Treaty) -> str:
    if not t.exemptions:
        return "No purpose is exempt."
    listed = "; ".join(
        f'"{x.purpose}" up to {show_flop(x.up_to)}, {"also" if x.while_braked else "but not"} while the brake is on'
        for x in t.exemptions
    )
    return (
        "A run for an exempt purpose needs no permit up to the compute that is stated here, over its lineage and over "
        f"all that its lab declared for the purpose within {duration(t.window)}, and is still declared, logged and "
        f"open to audit: {listed}."
    )


def _between(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}, as it declares,"


def rules(t: Treaty) -> dict[str, str]:
    """Rule id → sentence."""
    n = len(t.parties)
    signers, witnesses = len(t.with_role("permit-signer")), len(t.with_role("witness"))
    conditions = {
        "stopped": "every run that the brake stops has logged that it stopped, or its last permit has lapsed",
        "audited": f"every covered run is settled (7.4), was examined by {t.inspectors} inspectors up to "
        "its last head without an open allegation (5.7), or is held back alone (8.4)",
        "readings": "no gauge stands at or above its threshold",
    }
    gauges = "; ".join(f"{x.gauge} ({x.gauge_class}) at {exact(x.at_least)} {x.unit}" for x in t.triggers) or "none"
    growing = "; ".join(
        f"{x.gauge} from {exact(x.growth.floor)} {x.unit} within {duration(x.growth.doubles_within)}"
        for x in t.triggers
        if x.growth
    )
    met = "; ".join(conditions[c] for c in sorted(t.lift_conditions)) or "none beyond the quorum"
    incidents = ", ".join(f'"{x.name}" within {duration(x.within)}' for x in t.incidents)
    return {
        "1.1": "Each party is known by the keys entered here. No key serves two parties or two purposes.",
        "1.2": "A party does what its roles allow: lab, log, witness, permit signer, inspector.",
        "1.3": f"The treaty bears {t.faults} dishonest or absent of its {n} parties.",
        "1.4": f"These articles are applied by rules version {t.rules}. A statement of a kind that these rules do not "
        "know takes its number and has no effect.",
        "1.5": f"A party may log, a day, {t.budget.brake} statements in the lane of the brake, {t.budget.runs} about "
        f"runs, {t.budget.audits} about audits and {t.budget.rest} others, of {t.budget.bytes} bytes together. A "
        f"statement is charged to the day it is dated, at most {duration(BEHIND)} back; beyond the budget it waits for "
        "another day. No other lane uses up the brake's.",
        "2.1": "A party assents by signing this exact text and these articles.",
        "2.2": "A party is bound while the condition of its pledge holds among the parties bound: the largest set of "
        "parties whose pledges all hold together.",
        "2.3": f"No duty binds before {datetime.fromtimestamp(t.effective, UTC):%Y-%m-%d %H:%M:%S} UTC.",
        "2.4": "A party that signs two different statements under one number of one lane voids its votes, readings and "
        "designations, and has withdrawn: its duties end when the notice has passed. Both envelopes together are the "
        "evidence, to anybody.",
        "2.5": f"A party may withdraw; its pledge ends {duration(t.withdrawal_notice)} after the log shows it. A "
        "pledge in force cannot be weakened or shortened.",
        "3.1": " ".join(_tier(x) for x in t.tiers) + " A run is covered when it is in a prohibited tier, or in a "
        "permitted one without being exempt (3.2).",
        "3.2": _exemptions(t),
        "3.3": "No run in a prohibited tier gets a permit or trains, whatever its purpose.",
        "3.4": "Compute follows the weights: a run counts its own and that of every run it descends from.",
        "3.5": "A lab logs how each model came to be: its parents, its data, who labelled and who chose them, the "
        "recipe. It names the parents that the run declared, and no model of which that is not logged before.",
        "3.6": f"In a tier that counts a lab's runs together, a run counts with all that its lab declared in the "
        f"{duration(t.window)} before it, of common lineage or not.",
        "3.7": f"A run is also in a tier when {t.lift} parties in force decide so.",
        "3.8": "A lab with a run in a monitored tier meters its machines: devices, busy time and energy.",
        "4.1": f"The brake trips on the votes of {t.trip} parties in force. A vote for one motion takes back that for "
        "the other.",
        "4.2": f"The brake trips when gauges of two classes reach their thresholds by the lower bound. "
        f"What stood when the brake was lifted does not trip it again. Gauges: {gauges}.",
        "4.3": "A gauge of the class safety suffices alone, by its lower bound or by an alarm.",
        "4.4": "An adjudicated finding on a run that the brake stops trips the brake."
        if t.findings_trip
        else "An adjudicated finding does not trip the brake.",
        "4.5": "When tripped, every covered run, and every exempt one that may not go on, stops at its next optimizer "
        "step with a checkpoint. The brake counts as paused when all have logged the stop, or when every permit must "
        "have lapsed.",
        "4.6": "The brake dominates: while it is on, no permit is given and none counts.",
        "4.7": "A permit signer heeds a vote to trip as soon as it holds it, whether or not the log shows it: who "
        "keeps the log cannot hold a trip back. It holds votes for the present epoch and for the next, whatever date "
        "they bear.",
        "4.8": f"A reading counts when {max(2, t.faults + 1)} parties in force measured the same inputs, their bounds "
        "meet, and they say the same of completeness and alarms. "
        "Where they do not meet, the log shows a disagreement, and neither confirms the other.",
        "4.9": f"A gauge also reaches its threshold when its lower bound doubles the upper bound of an earlier reading "
        f"of the same subject that counted: {growing or 'no gauge'}.",
        "5.1": "No covered run takes an optimizer step without a permit in force. A run that was declared or open "
        "while its lab was bound stays under the treaty.",
        "5.2": f"A permit needs the signatures of {t.permit} of {signers} permit signers, each on its own view of the "
        "log.",
        "5.3": f"A permit lasts at most {duration(t.permit_lifetime)} and lapses by itself.",
        "5.4": f"A permit allows at most {show_flop(t.permit_allowance)} beyond the run's last logged head.",
        "5.5": "A trip begins a new epoch; a permit of an earlier epoch is void.",
        "5.6": "A run with an adjudicated finding gets no permit, nor does one that descends from it.",
        "5.7": "A run that inspectors examined and could not settle before a lift, or that is held back alone (8.4), "
        "gets no permit until it is settled, nor does one that descends from it."
        if "audited" in t.lift_conditions
        else "No run is held back after a lift.",
        "5.8": "A run that descends from another gets no permit until the models of each parent are logged "
        "and a safety gauge read on each of them, as they were logged when the run was declared, counts: as many "
        "parties as 4.8 asks for agree, each with a complete reading that stays below the threshold without alarm."
        if t.lineage_gate
        else "A run that descends from another needs no reading of its parents.",
        "6.1": f"A statement counts when it is in the log under a checkpoint cosigned by {t.witnesses} of {witnesses} "
        "witnesses.",
        "6.2": "Time is the median of the witnesses' timestamps, as the log itself records it.",
        "6.3": f"The log records its own cosigned checkpoint at least every {duration(t.heartbeat)}.",
        "6.4": f"Nobody decides on a checkpoint older than {duration(t.stale_after)}.",
        "6.5": f"A statement may be dated at most {duration(t.skew)} ahead of the log's time and "
        f"{duration(BEHIND)} behind it. After a silence, the log records its time before it takes statements.",
        "6.6": f"Permit signers log a digest of the state every {t.snapshot_every} entries. What {t.permit} of them "
        "state is where a newcomer may start; one who states two is an equivocator (2.4).",
        "7.1": "A run is declared before its first step: recipe, data, environment, compute, parents.",
        "7.2": f"A run commits to every step, and logs a head at least every {t.head_every} segments of "
        f"{_between(t.segment_steps, t.segment_most)} steps, at every stop and at every opening.",
        "7.3": "An inspector's sample is drawn from the head and from the first checkpoint cosigned after it.",
        "7.4": f"A run is settled when {t.inspectors} inspectors passed it up to its last head and no allegation is "
        "open, or when it is barred. Each inspector replays the first and last segment, every seam, and as many others "
        f"as catch a cheat on {_percent(t.f_cheat)} of the segments with {_percent(t.p_catch)} probability."
        + (
            f" What they may ask for is kept until an ended run is settled, and {duration(t.audit_within)} more."
            if t.amends
            else ""
        ),
        "7.5": f"In the declared environment a replay must agree bit for bit; in another, {_elsewhere(t)}."
        + (" A lab logs first that a run moves: each stretch is judged where it was made." if t.amends else ""),
        "7.6": "What comes out otherwise in another environment, and a recipe that does not agree with itself, is "
        "recorded, accuses nobody, and does not pass the run."
        if t.amends
        else "A difference that another environment explains is recorded and is no violation.",
        "7.7": f"A violation is upheld when {t.adjudicators} inspectors, none of them the lab's, find it; it falls "
        "when as many checked the same steps as strictly and did not find it. A replay in another environment never "
        f"refutes one in the declared environment, unless nobody has confirmed that within {duration(t.audit_within)}."
        + (
            " A replay accuses only there. That something was not shown counts against the lab where it is said after "
            f"the lab has answered, or {duration(t.answer_within)} after it was first said."
            if t.amends
            else ""
        ),
        "7.8": "A job that cannot be changed may run as an attested run: a supervisor stops it, it commits to its "
        "running time, and behind it stands the lab's word alone; there is nothing of it to settle."
        if t.attested_runs
        else "A run that inspectors cannot execute again is not admitted.",
        "7.9": "An inspector may retract a finding that is not upheld, and then not find it again. The lab that is "
        "accused may answer on the record.",
        "7.10": "An audit is about the run's last head, or about one logged at most "
        f"{duration(t.audit_within)} before, and carries at most {t.findings} findings.",
        "8.1": f"The brake lifts on the votes of {t.lift} parties in force, cast after the trip.",
        "8.2": f"Conditions: {met}.",
        "8.3": f"Permits are given again {duration(t.lift_delay)} after that, unless a condition fails or the brake "
        "trips meanwhile."
        if t.lift_delay
        else "Permits are given again at once.",
        "8.4": f"A run that is not settled {duration(t.settle_within)} after the pause began is held back alone: it "
        "gets no permit until it is settled, and the lift does not wait for it."
        if "audited" in t.lift_conditions
        else f"No lift waits for the settling of a run, not even {duration(t.settle_within)}.",
        "9.1": f"Compute that is neither declared and audited nor proven idle stays below {_percent(t.residual)} of "
        "capacity.",
        "10.1": f"An incident is reported by its class: {incidents}.",
        "10.2": f"A run that enters a tier is notified within {duration(t.notification_clock)}, counted from when it "
        "enters or, if that is earlier, from when it is known that it will. A declaration that names the run's compute "
        "is its own notice.",
        "10.3": f"A report that another party asks for is given within {duration(t.report_clock)}.",
        "10.4": "What is due, since when and by whom, follows from the log. A duty that is not met in time is a lapse, "
        "recorded against the party.",
        **(_succession(t) if t.amends else _amended_by_all(t)),
    }


def _amended_by_all(t: Treaty) -> dict[str, str]:
    """Article 11 of rules 1, which no log can follow."""
    return {
        "11.1": f"An amendment is a new version of this text, signed by all that were bound by the old one, and takes "
        f"effect no sooner than {duration(t.amendment_notice)} after the last signature.",
    }


def _succession(t: Treaty) -> dict[str, str]:
    n, notice, leave = len(t.parties), duration(t.amendment_notice), duration(t.withdrawal_notice)
    return {
        "11.1": "An amendment is a whole new text, of the next version, by the same rules version, with the same "
        f"keeper and key of the log. It is adopted at the log entry where {t.members} of the {n} parties to this text, "
        "as many of the next as its own numbers ask for, every party that joins or is given a role or a witness key, "
        "and every party in force that it keeps have assented to it. Who joins assents with the key that it enters. "
        "The first that is adopted goes; no other is adopted before it has closed or lapsed. Who refuses may be left "
        "out: nobody's veto keeps the others from amending.",
        "11.2": f"What is adopted takes effect at a stamp over the adoption, no sooner than {notice} after it nor than "
        "its own date, that the witness quorums of both texts have cosigned. If those of the next text are not there "
        f"within another {notice}, it lapses, and this text stays in force.",
        "11.3": "From there until the next stamp that both quorums have cosigned, every checkpoint needs both; after "
        "it, that of the next text alone.",
        "11.4": "Nothing is lifted, freed or un-barred by it. The phase and epoch of the brake, what has lapsed, bars, "
        "runs with their tiers, compute, heads and models, readings, pledges with their notices and votes to trip go "
        "over; votes to lift do not. Permits given before count until they lapse by themselves. Assents, states and "
        "votes to lift name the text in force.",
        "11.5": "Who is left out has no vote from then on; its duties, and its place in the pledges of others, last "
        f"{leave}, or the next text's notice where that is longer, from the adoption. So do those of a party that "
        "came to be bound after the adoption and has not assented. No text shortens a notice that runs.",
        "11.6": "A party that joins, and one that has equivocated (2.4) and is re-admitted, comes with keys that the "
        "log has never known, and its numbers begin anew. What an equivocator said stays void. No one else is "
        "re-admitted, and nobody by another way.",
        "11.7": "This text enters, beside each key for statements and permits, the digest of the next one.",
        "11.8": "The keeper of the log, or its key, is replaced without their help by a reopening: another origin and "
        "key, kept by a party, behind the old log's entries up to a checkpoint that a witness quorum has cosigned. "
        f"Before it {t.witnesses} witnesses and {t.permit} permit signers close the old origin, and say how much of it "
        f"they have seen stamped. {t.members} parties sign the reopening. It begins no earlier than the highest stamp "
        "that one of the closers has seen. While one text goes to another, it takes these numbers of both; not of one "
        "that waits, where so many witnesses have cosigned nothing beyond where it begins that it cannot have turned.",
        "11.9": "A reopening turns the brake on, in an epoch above every one in which a closer has signed a permit. "
        "The pause begins when every permit of before has lapsed, whatever the runs say. What the old log held "
        "beyond where it begins is void, and is said anew.",
        "11.10": "Who has closed an origin cosigns nothing and signs no permit by it again. A witness that does has "
        "equivocated (2.4).",
        "12.1": "A party goes on to its next key by a statement that this key signs (for permits: that its key for "
        "statements signs), with the digest of the one after it. Whoever stole the old key can neither do so nor "
        "prevent it. A statement counts when its key is in force at its entry, whatever date it bears. The key of a "
        "witness changes by an amendment.",
        "12.2": f"A party may revoke its own key; {t.members} parties may revoke another's, when all say the same. "
        "From that entry on the key counts for nothing. What was done stays done: phase, epoch, bars and history; the "
        "party's votes, readings and assents to a next text that stand and were logged since the entry that the "
        "revocation names fall. A pledge of then binds until its notice has passed. No revocation leaves fewer parties "
        "that can speak than decide.",
    }


class Change(NamedTuple):
    """What one text says and another does not: a rule's id, or a party's name, and its sentence in either; or ""."""

    id: str
    before: str
    after: str


def compare(old: Treaty, new: Treaty) -> tuple[Change, ...]:
    """All that differs between two texts, rule by rule and party by party, in order."""
    one, two = rules(old), rules(new)
    ids = sorted({*one, *two}, key=lambda id_: tuple(map(int, id_.split("."))))
    one |= {name: _party(p) for name, p in old.parties.items()}
    two |= {name: _party(p) for name, p in new.parties.items()}
    names = [*old.parties, *(name for name in new.parties if name not in old.parties)]
    pairs = ((id_, one.get(id_, ""), two.get(id_, "")) for id_ in (*ids, *names))
    return tuple(Change(*pair) for pair in pairs if pair[1] != pair[2])


def _party(p: Party) -> str:
    label = f" ({p.represents})" if p.represents else ""
    witness = f" Witnesses with {p.witness_key.key.id}." if p.witness_key else ""
    return f"{p.name}{label}: {', '.join(sorted(p.roles))}. Key {p.key.id}.{witness}"


def render(t: Treaty) -> str:
    """The whole treaty as numbered plain text."""
    return "\n".join(_lines(t)) + "\n"


def articles_digest(t: Treaty) -> str:
    """Hex SHA-256 of `render(t)`: what an assent signs beside the text, so that no build words it differently."""
    return sha256(render(t).encode()).hex()


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


def _elsewhere(t: Treaty) -> str:
    if not t.amends:
        return f"the update must agree within {exact(t.update_error)} of its size"
    if not t.foreign:
        return "a replay passes nothing"
    return (
        f"a replay passes weights of {' and '.join(t.foreign)} alone, where every recorded part is as near as honest "
        f"replays there are to one another, which lie within {exact(t.update_error)} of its movement"
    )
