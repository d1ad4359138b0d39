"""What inspectors found: samples they must replay, allegations, what upholds one and what makes it fall.

The count is the verifier's (Treaty 7.4): the log knows which segments a sample demands, whoever signs the audit. One
inspector alleges; `adjudicators` bar; as many who looked at the same steps as strictly and did not find it let it fall
(Treaty 7.7). A replay in the declared environment is strict, bit against bit; one in another environment has a
tolerance, and what hides in a tolerance does not refute what was seen without one.
"""

from typing import Final

import msgspec

from brakeline.core.encoding import b64decode, is_text
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.finding import (
    BLAMELESS,
    REPLAYED,
    SINCE_RULES_2,
    Answer,
    Audit,
    Fault,
    Finding,
    Retraction,
    key_of,
    verdict,
)
from brakeline.core.keys import PublicKey
from brakeline.core.sampling import audit_seed, sample, ticket_message
from brakeline.core.state.events import Alleged, Answered, Audited, Barred, Event, Fell, Retracted
from brakeline.core.state.runs import Allegation, Bar, Examined, LoggedHead, Run
from brakeline.core.treaty import Treaty

MAX_ALLEGATIONS: Final = 256  # of one inspector against one run, so that nobody uses up another's
MAX_ANSWER: Final = 2000  # characters


def find_head(run: Run, index: int) -> LoggedHead:
    """Raises:
    Refused(FOREIGN): the entry is no head of this run that is kept. Treaty 7.10
    """
    logged = next((h for h in run.kept if h.index == index), None)
    if logged is None:
        raise Refused(Reason.FOREIGN, f"entry {index} is no head of this run that may still be audited (Treaty 7.10)")
    return logged


def required_sample(
    treaty: Treaty, run: Run, logged: LoggedHead, inspector: str, ticket: bytes, key: PublicKey
) -> tuple[tuple[int, int], ...]:
    """The segments that `inspector`, whose `key` it is, must replay for an audit up to `logged`. Treaty 7.3, 7.4.

    Raises:
        Refused: MISSING, no stamp follows the head yet; FORGED, the ticket is not the inspector's signature.
    """
    if not logged.beacon:
        raise Refused(Reason.MISSING, "no checkpoint has been cosigned after this head: wait for the next stamp")
    if not key.verify(ticket, ticket_message(logged.leaf, logged.beacon)):
        raise Refused(Reason.FORGED, "the sample's ticket is not signed by the inspector")
    # By arithmetic: a list of all segments of a run that claims 2**53 steps would fill the memory.
    steps, parts = logged.steps, run.segments(logged.steps)
    joints = (*run.seams, *(m.steps for m in run.moves))
    seams = frozenset(i for j in joints if 0 < j <= steps for i in parts.around(j))
    seed = audit_seed(logged.leaf, logged.beacon, inspector, ticket)
    drawn = sample(seed, len(parts), seams, treaty.p_catch, treaty.f_cheat)
    return tuple(parts[i] for i in drawn)


def owed(treaty: Treaty, run: Run, time: int) -> bool:
    """Whether the lab owes what an inspector may ask for, at the log's `time`. Treaty 7.4

    Until the run has ended and enough inspectors passed it, and for as long after its last head as an older one may
    be audited; an inspector who comes later finds what is still there. What is owed no more is never owed again: what
    such an inspector says would else make a fault of what was rightly removed.
    """
    if run.released is True:
        return False
    if run.head is None or run.head.status != "ended" or run.settlement != "settled" or run.open_allegations:
        return True
    return next(iter(run.kept)).time >= time - treaty.audit_within


def take(
    treaty: Treaty, run: Run, index: int, issuer: str, audit: Audit, key: PublicKey, *, time: int
) -> tuple[Run, tuple[Event, ...]]:
    """The run with one more audit, and what follows from it.

    Raises:
        Malformed, Refused: see the rule cited.
    """
    if run.owner == issuer:  # Treaty 7.7
        raise Refused(Reason.WRONG_ROLE, "a lab does not inspect itself")
    if run.declaration.rung == "attested":  # what it did not show could bar it, and it has nothing to show
        raise Refused(Reason.PROHIBITED, "an attested run has nothing to execute again (Treaty 7.8)")
    logged = find_head(run, audit.head)
    if logged.index != next(iter(run.kept)).index and logged.time < time - treaty.audit_within:
        raise Refused(Reason.EXPIRED, f"entry {audit.head} was logged too long ago to be audited (Treaty 7.10)")
    if not logged.beacon or logged.stamp != audit.beacon:
        raise Refused(Reason.FOREIGN, "the sample's beacon is not the first stamp after the head (Treaty 7.3)")
    if treaty.rules > 1 and not owed(treaty, run, time):
        run = msgspec.structs.replace(run, released=True)
    if len(audit.findings) > treaty.findings:  # Treaty 7.10
        raise Refused(Reason.ALLOWANCE, f"{len(audit.findings)} findings; an audit carries {treaty.findings} at most")
    cuts = frozenset(h.steps for h in run.kept)
    for finding in audit.findings:
        _check_place(run, finding, logged.steps, cuts)
        if treaty.rules > 1:
            _check_accuses(run, finding, audit.environment)
        elif finding.fault in SINCE_RULES_2:
            raise Malformed(f"rules 1 do not know a finding of {finding.fault}")
    if audit.verdict != "partial":
        _check_count(treaty, run, logged, issuer, audit, key)
    # Treaty 7.7: who noticed that its machine computes differently has not looked strictly, whatever it declares.
    elsewhere = {run.environment(f.segment[0]) for f in audit.findings if f.fault is Fault.ENVIRONMENT_MISMATCH}
    environment = "" if audit.environment in elsewhere else audit.environment
    return _weigh(treaty, run, index, issuer, audit, logged, cuts, environment, time)


def _strictly(treaty: Treaty, run: Run, environment: str, a: Allegation) -> bool:
    """Whether who looked in `environment` looked at what is alleged without a tolerance."""
    if a.open_to_all or (a.not_shown and clocked(treaty)):
        return True
    return {environment} == (set(run.environments) if a.whole else {run.environment(a.segment[0])})


def _check_count(
    treaty: Treaty, run: Run, logged: LoggedHead, issuer: str, audit: Audit, key: PublicKey
) -> None:
    required = required_sample(treaty, run, logged, issuer, b64decode(audit.ticket), key)
    missing = set(required) - set(audit.segments)
    if missing and audit.verdict == "pass":  # Treaty 7.4: the verifier owns the count
        raise Refused(Reason.MISSING, f"{len(missing)} of the required segments were not replayed")
    if audit.verdict != verdict(audit.findings):
        raise Malformed("the verdict does not follow from the findings")


def _weigh(
    treaty: Treaty,
    run: Run,
    index: int,
    issuer: str,
    audit: Audit,
    logged: LoggedHead,
    cuts: frozenset[int],
    environment: str,
    time: int,
) -> tuple[Run, tuple[Event, ...]]:
    events: list[Event] = [Audited(entry=index, inspector=issuer, audit=audit)]
    allegations = dict(run.allegations)
    mine = sum(issuer in a.accusers or issuer in a.retracted for a in allegations.values())
    accused = {f.key: f for f in audit.findings if f.severity == "violation"}
    for key, finding in accused.items():
        if run.bar:
            break
        if key in allegations and issuer in allegations[key].retracted:
            continue  # what was taken back is not alleged again: to do so for ever would hold the run for ever
        if key not in allegations and (mine := mine + 1) > MAX_ALLEGATIONS:
            text = f"{MAX_ALLEGATIONS} allegations of {issuer} against the run are on record"
            raise Refused(Reason.ALLOWANCE, text)
        before = allegations.get(key) or _recall(treaty, run, finding, logged, time)
        strict = _strictly(treaty, run, environment, before)
        if before.not_shown and clocked(treaty):  # Treaty 7.7
            strict = before.answered >= 0 or time >= before.since + treaty.answer_within
        allegations[key] = _accuse(before, issuer, strict)
        if issuer not in before.accusers:
            events.append(Alleged(entry=index, run=run.id, inspector=issuer, finding=finding))
    looked = frozenset(audit.segments).difference(f.segment for f in audit.findings if f.severity == "gap")
    for key, a in allegations.items():
        shown = a.not_shown and clocked(treaty)  # what was not there may be there now
        if key not in accused and (shown or issuer not in a.accusers) and _denies(a, audit, looked):
            allegations[key] = _deny(a, issuer, _strictly(treaty, run, environment, a))
    examined = dict(run.examined)
    if audit.verdict != "partial":
        real = sorted(s for s in looked if _is_segment(run, s, logged.steps, cuts))
        examined[issuer] = Examined(audit.head, audit.verdict, environment == run.declaration.environment, tuple(real))
        if run.moves:
            examined[issuer] = msgspec.structs.replace(examined[issuer], environment=environment)
    run = msgspec.structs.replace(run, allegations=allegations, examined=examined)
    run, decided = decide(treaty, run, index, time)
    return run, (*events, *decided)


def _recall(treaty: Treaty, run: Run, finding: Finding, logged: LoggedHead, time: int) -> Allegation:
    """A new allegation, with the denials of those who looked there before."""
    a = Allegation(finding.fault, finding.segment, logged.index, time)
    for inspector, e in run.examined.items():
        if a.segment in e.segments or (a.whole and e.verdict == "pass" and e.head >= logged.index):
            a = _deny(a, inspector, _strictly(treaty, run, e.where(run), a))
    return a


def _denies(a: Allegation, audit: Audit, looked: frozenset[tuple[int, int]]) -> bool:
    """Whether an audit that does not allege it looked at the same steps.

    By replaying the segment, or, where no replay is needed to see it, by passing as many steps or more.
    """
    return a.segment in looked or (a.whole and audit.verdict == "pass" and audit.head >= a.head)


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(sorted({*names, name}))


def _without(a: Allegation, name: str) -> Allegation:
    return msgspec.structs.replace(
        a,
        strict=tuple(n for n in a.strict if n != name),
        loose=tuple(n for n in a.loose if n != name),
        denied_strict=tuple(n for n in a.denied_strict if n != name),
        denied_loose=tuple(n for n in a.denied_loose if n != name),
    )


def _accuse(a: Allegation, name: str, strict: bool) -> Allegation:
    a = a if name not in a.loose or not strict else _without(a, name)
    a = msgspec.structs.replace(
        a,
        denied_strict=tuple(n for n in a.denied_strict if n != name),
        denied_loose=tuple(n for n in a.denied_loose if n != name),
    )
    if strict:
        return msgspec.structs.replace(a, strict=_with(a.strict, name))
    return a if name in a.strict else msgspec.structs.replace(a, loose=_with(a.loose, name))


def _deny(a: Allegation, name: str, strict: bool) -> Allegation:
    if strict:
        return msgspec.structs.replace(_without(a, name), denied_strict=_with(a.denied_strict, name))
    return a if name in a.denied_strict else msgspec.structs.replace(a, denied_loose=_with(a.denied_loose, name))


def decide(treaty: Treaty, run: Run, index: int, time: int) -> tuple[Run, tuple[Event, ...]]:
    """Uphold what enough inspectors found, and let fall what enough did not, at the log's `time`. Treaty 7.7."""
    events: list[Event] = []
    if run.bar:
        return run, ()
    allegations = dict(run.allegations)
    for key, a in sorted(allegations.items()):
        if upheld(treaty, a):
            bar = Bar(a.fault, a.segment)
            events.append(Barred(entry=index, run=run.id, fault=bar.fault, segment=bar.segment))
            return msgspec.structs.replace(run, allegations=allegations, bar=bar), tuple(events)
        deniers = _refuters(treaty, a, time)
        fell = len(deniers) >= treaty.adjudicators or not a.accusers
        if fell and not a.fell:
            events.append(Fell(entry=index, run=run.id, fault=a.fault, segment=a.segment))
        allegations[key] = msgspec.structs.replace(a, fell=fell)
    return msgspec.structs.replace(run, allegations=allegations), tuple(events)


def clocked(treaty: Treaty) -> bool:
    """Whether a lab that is asked to show something has a clock to do so. Treaty 7.7"""
    return treaty.rules > 1


def counted(treaty: Treaty, a: Allegation) -> frozenset[str]:
    """The accusers who count: that something was not shown is no fault before the lab had its time. Treaty 7.7"""
    return frozenset(a.strict) if a.not_shown and clocked(treaty) else a.accusers


def upheld(treaty: Treaty, a: Allegation) -> bool:
    """Whether enough inspectors found it. Treaty 7.7"""
    return len(counted(treaty, a)) >= treaty.adjudicators


def _refuters(treaty: Treaty, a: Allegation, time: int) -> tuple[str, ...]:
    """Those who looked there and count against the allegation at the log's `time`.

    What was seen without a tolerance is refuted only without one; but nobody's word alone, that it was in the declared
    environment, stands for ever against all who looked.
    """
    alone = len(a.accusers) < treaty.adjudicators and time >= a.since + treaty.audit_within
    return a.denied_strict if a.strict and not alone else (*a.denied_strict, *a.denied_loose)


def needed(treaty: Treaty, a: Allegation, time: int) -> tuple[int, int]:
    """How many more inspectors would uphold the allegation, and how many would make it fall, at the log's `time`."""
    return treaty.adjudicators - len(counted(treaty, a)), treaty.adjudicators - len(_refuters(treaty, a, time))


def retract(
    treaty: Treaty, run: Run, index: int, issuer: str, r: Retraction, *, time: int
) -> tuple[Run, tuple[Event, ...]]:
    """Treaty 7.9. What was upheld stays upheld.

    Raises:
        Refused(MISSING): the issuer alleges no such thing.
    """
    key = key_of(r.fault, r.segment)
    a = run.allegations.get(key)
    if a is None or issuer not in a.accusers or run.bar:
        raise Refused(Reason.MISSING, f"{issuer} alleges no {r.fault} at steps {r.segment[0]}-{r.segment[1]}")
    left = msgspec.structs.replace(_without(a, issuer), retracted=_with(a.retracted, issuer))
    run = msgspec.structs.replace(run, allegations={**run.allegations, key: left})
    run, decided = decide(treaty, run, index, time)
    event = Retracted(entry=index, run=run.id, inspector=issuer, fault=r.fault, segment=r.segment)
    return run, (event, *decided)


def answer(
    treaty: Treaty, run: Run, index: int, issuer: str, body: Answer, *, time: int
) -> tuple[Run, tuple[Event, ...]]:
    """Treaty 7.9.

    Raises:
        Refused: FOREIGN, another lab's run; MISSING, nothing of the kind is alleged. Malformed: too long.
    """
    if run.owner != issuer:
        raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
    key = key_of(body.fault, body.segment)
    if key not in run.allegations:
        raise Refused(Reason.MISSING, f"nobody alleges a {body.fault} at steps {body.segment[0]}-{body.segment[1]}")
    if not 0 < len(body.text) <= MAX_ANSWER or not is_text(body.text):
        raise Malformed(f"an answer is printable text of at most {MAX_ANSWER} characters")
    a = msgspec.structs.replace(run.allegations[key], answered=index)
    run = msgspec.structs.replace(run, allegations={**run.allegations, key: a})
    run, decided = decide(treaty, run, index, time)
    said = Answered(entry=index, run=run.id, fault=body.fault, segment=body.segment, text=body.text)
    return run, (said, *decided)


def _check_place(run: Run, finding: Finding, steps: int, cuts: frozenset[int]) -> None:
    """An allegation about steps that nobody can check could never fall (Treaty 7.7).

    `cuts` are the steps at which the run logged a head.
    """
    if finding.severity == "violation" and finding.fault in BLAMELESS:
        raise Malformed(f"{finding.fault} is never a violation (Treaty 7.6)")
    start, end = finding.segment
    part = finding.segment == (0, 0) or _is_segment(run, finding.segment, steps, cuts)
    if not 0 <= start <= end <= steps or not (part or finding.fault not in REPLAYED):
        raise Malformed(f"a {finding.fault} at steps {start}-{end} of {steps}: no segment that can be replayed")


def _check_accuses(run: Run, finding: Finding, environment: str) -> None:
    """What another environment computes accuses nobody. Treaty 7.7"""
    computed = finding.severity == "violation" and finding.fault in (Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE)
    if computed and environment != run.environment(finding.segment[0]):
        raise Malformed(f"a {finding.fault} was found in another environment than the run's (Treaty 7.7)")


def _is_segment(run: Run, part: tuple[int, int], steps: int, cuts: frozenset[int]) -> bool:
    """Whether these are the steps of a segment of a run that stands at `steps`; a head may cut one short."""
    start, end = part
    found = run.segments(steps).whole(start)
    return found is not None and start < end and (end == found[1] or (end < found[1] and end in cuts))
