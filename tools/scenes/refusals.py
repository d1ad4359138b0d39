"""Logs: entries without effect, one for each reason and rule."""

from brakeline.core.duty import Request
from brakeline.core.evidence import Evidence
from brakeline.core.finding import Fault
from brakeline.core.keys import PrivateKey
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.state import begin
from brakeline.core.state.dues import MAX_ASKED
from brakeline.core.state.events import Void
from brakeline.core.treaty import articles_digest
from scenes.made import bound, world
from scenes.shown import OTHER, VOTE, scene, small
from world import DAY, STEP_FLOP, World, key, plain, violation

# --- who says it, and when


@scene("forged-by-a-stranger", "formats.md §Statement", "Alpha's key id over a stranger's signature.", expect="forged")
def _() -> World:
    log = world()
    data = log.statement("alpha", "vote", VOTE, by=PrivateKey(b"s" * 32))
    stranger, alpha = PrivateKey(b"s" * 32).public.id, key("alpha").public.id
    log.append(data.replace(stranger.encode(), alpha.encode()))
    return log


@scene("forged-in-anothers-name", "formats.md §Statement", "Beta signs in alpha's name.", expect="forged")
def _() -> World:
    log = world()
    log.append(log.statement("alpha", "vote", VOTE, by=key("beta")))
    return log


@scene("unknown-issuer", "Treaty 1.1", "Signed by no party.", expect="unknown-issuer")
def _() -> World:
    log = world()
    log.append(log.statement("omega", "vote", VOTE, by=PrivateKey(b"s" * 32)))
    return log


@scene("foreign-treaty", "formats.md §Statement", "A statement under another treaty.", expect="foreign")
def _() -> World:
    log = world()
    log.append(log.statement("alpha", "vote", VOTE, treaty=OTHER))
    return log


@scene("foreign-text", "Treaty 2.1", "Assent to another text.", expect="foreign")
def _() -> World:
    log = world()
    log.log("alpha", "assent", Assent(text=OTHER, articles=articles_digest(log.treaty)))
    return log


@scene("foreign-articles", "Treaty 2.1", "Assent to other articles than this build applies.", expect="foreign")
def _() -> World:
    log = world()
    log.log("alpha", "assent", Assent(text=log.treaty.digest, articles=OTHER))
    return log


@scene(
    "no-time-yet", "Treaty 6.5", "Nothing counts before the first stamp; the number is spent.", expect="not-yet-valid"
)
def _() -> World:
    log = world()
    data = log.statement("alpha", "vote", VOTE)
    log.state, log.events, log.entries = begin(log.treaty), [], []
    log.append(data)
    return log


@scene("not-yet-valid", "Treaty 6.5", "Dated one second too far ahead.", expect="not-yet-valid")
def _() -> World:
    log = world()
    late = log.now + log.treaty.skew + 1
    log.vote("trip", "alpha", not_before=late, expires=late + 1)
    return log


@scene("valid-on-the-last-second-ahead", "Treaty 6.5", "Dated as far ahead as clocks may differ.")
def _() -> World:
    log = world()
    late = log.now + log.treaty.skew
    log.vote("trip", "alpha", not_before=late, expires=late + 1)
    return log


@scene("expired", "Treaty 6.5", "It expires in the second of the log's time.", expect="expired")
def _() -> World:
    log = world()
    log.vote("trip", "alpha", expires=log.now)
    return log


@scene("dated-too-far-back", "Treaty 6.5", "Dated more than seven days back.", expect="expired")
def _() -> World:
    log = world()
    log.vote("trip", "alpha", not_before=log.now - 7 * DAY - 1)
    return log


@scene("replayed-number", "Treaty 1.5", "A number below one that was logged.", expect="replayed")
def _() -> World:
    log = world()
    held = log.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "held back"})
    log.vote("trip", "alpha")
    log.append(held)
    return log


@scene("numbers-run-by-lane", "Treaty 1.5", "A number of one lane does not pass one of another.")
def _() -> World:
    log = world()
    held = log.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "held back"})
    log.log("alpha", "notice", {"about": -1, "text": "first"}, seq=9)
    log.append(held)
    return log


@scene("duplicate", "Treaty 2.4", "The same statement again: no equivocation.", expect="duplicate")
def _() -> World:
    log = world()
    log.vote("trip", "alpha")
    log.append(log.entries[-1])
    return log


@scene(
    "equivocation",
    "Treaty 2.4",
    "Two statements of one number; votes fall.",
    expect="equivocation",
    wants="Equivocated",
)
def _() -> World:
    log = bound()
    log.vote("trip", "alpha")
    seq = len(log.said["alpha", "brake"]) - 1
    log.append(log.statement("alpha", "vote", {"motion": "lift", "epoch": 0, "reason": "x"}, seq=seq))
    return log


@scene(
    "equivocation-across-kinds",
    "Treaty 2.4",
    "Two kinds of one lane share their numbers.",
    expect="equivocation",
    wants="Equivocated",
)
def _() -> World:
    log = world()
    log.vote("trip", "alpha")
    log.append(log.statement("alpha", "withdrawal", {"reason": "x"}, seq=0))
    return log


@scene("word-of-an-equivocator", "Treaty 2.4", "Who has equivocated votes no more.", expect="equivocation")
def _() -> World:
    log = bound()
    log.vote("trip", "alpha")
    seq = len(log.said["alpha", "brake"]) - 1
    log.append(log.statement("alpha", "vote", {"motion": "lift", "epoch": 0, "reason": "x"}, seq=seq))
    log.vote("trip", "alpha")
    return log


@scene("wrong-role", "Treaty 1.2", "An institute that is no lab declares a run.", expect="wrong-role")
def _() -> World:
    log = world()
    log.log("delta", "declaration", log.declaration())
    return log


@scene("wrong-role-own-inspector", "Treaty 7.7", "A lab inspects itself.", expect="wrong-role")
def _() -> World:
    log, run = small()
    log.audit("alpha", run)
    return log


@scene("wrong-role-not-bound", "Treaty 3.7", "Who is not bound decides on no tier.", expect="wrong-role")
def _() -> World:
    log = world()
    run = log.declare("alpha", steps=3)
    log.log("beta", "designation", {"run": run.id, "tier": "covered"})
    return log


@scene("unknown-kind", "Treaty 1.4", "A kind of later rules: its number is spent.", expect="unknown-kind")
def _() -> World:
    log = world()
    log.log("alpha", "amendment", {"text": "anything"})
    return log


@scene(
    "unknown-kind-spends-its-number",
    "Treaty 1.4",
    "A number of the lane rest that such a kind has taken.",
    expect="replayed",
)
def _() -> World:
    log = world()
    held = log.statement("alpha", "notice", {"about": -1, "text": "held back"})
    log.log("alpha", "amendment", {"text": "anything"})
    log.append(held)
    return log


# --- budgets


@scene("budget-spent", "Treaty 1.5", "One statement more than a day of the lane holds.", expect="budget")
def _() -> World:
    log = bound(budget_rest="36")
    for n in range(37):
        log.log("alpha", "notice", {"about": -1, "text": f"{n}"})
    return log


@scene("budget-nearly-spent", "Treaty 1.5", "Four fifths of a day are spent.", wants="NearBudget Reported")
def _() -> World:
    log = bound(budget_rest="36")
    for n in range(29):
        log.log("alpha", "notice", {"about": -1, "text": f"{n}"})
    return log


@scene(
    "budget-of-another-day", "Treaty 1.5", "A statement dated on the next day is charged to that day.", wants="Reported"
)
def _() -> World:
    log = world(budget_rest="36")
    log.stamp(DAY - log.now % DAY - 1)
    for n in range(36):
        log.log("alpha", "notice", {"about": -1, "text": f"{n}"})
    log.log("alpha", "notice", {"about": -1, "text": "next day"}, not_before=log.now + 1)
    return log


@scene("budget-of-the-brake", "Treaty 1.5", "Bytes that are spent elsewhere keep nobody from voting.")
def _() -> World:
    log = world(budget_bytes='"64 KiB"')
    for n in range(17):
        log.log("alpha", "notice", {"about": -1, "text": f"{n}" + "x" * 3900})
    assert log.of(Void), "the bytes are not spent"
    log.vote("trip", "alpha")
    return log


# --- what the bodies may not say


@scene("replayed-epoch", "Treaty 4.1", "A vote for an epoch that is not now.", expect="replayed")
def _() -> World:
    log = bound()
    log.vote("trip", "alpha", epoch=1)
    return log


@scene("weaker-pledge", "Treaty 2.5", "A pledge in force is made conditional.", expect="prohibited")
def _() -> World:
    log = bound()
    log.log("alpha", "pledge", Pledge(condition="quorum beta\n"))
    return log


@scene("pledge-that-ends-earlier", "Treaty 2.5", "A pledge in force is made shorter.", expect="prohibited")
def _() -> World:
    log = bound()
    log.log("alpha", "pledge", Pledge(condition="quorum none\n"), expires=log.now + 60)
    return log


@scene("withdrawn-already", "Treaty 2.5", "A second withdrawal.", expect="duplicate")
def _() -> World:
    log = bound()
    log.withdraw("alpha")
    log.withdraw("alpha")
    return log


@scene("evidence-of-what-is-known", "Treaty 2.4", "Evidence against a party that has equivocated.", expect="duplicate")
def _() -> World:
    log = world()
    one, two = (log.statement("alpha", "vote", VOTE | {"reason": r}, seq=7).decode() for r in ("a", "b"))
    for party in ("beta", "gamma"):
        log.log(party, "evidence", Evidence(first=min(one, two), second=max(one, two)))
    return log


@scene("evidence-of-nothing", "Treaty 2.4", "Two statements of one number in two lanes.", expect="malformed")
def _() -> World:
    log = world()
    one = log.statement("alpha", "vote", {"motion": "trip", "epoch": 0, "reason": "a"}, seq=7).decode()
    two = log.statement("alpha", "notice", {"about": -1, "text": "b"}, seq=7).decode()
    log.log("beta", "evidence", Evidence(first=min(one, two), second=max(one, two)))
    return log


@scene("name-declared-already", "Treaty 7.1", "A lab declares a second run of one name.", expect="duplicate")
def _() -> World:
    log = world()
    log.declare("alpha")
    log.log("alpha", "declaration", log.declaration(steps=9))
    return log


@scene("parent-undeclared", "Treaty 3.4", "A parent that is no declared run.", expect="undeclared")
def _() -> World:
    log = world()
    log.log("alpha", "declaration", log.declaration(parents=(OTHER,)))
    return log


@scene("no-such-exemption", "Treaty 3.2", "A purpose that the treaty does not know.", expect="prohibited")
def _() -> World:
    log = world()
    log.log("alpha", "declaration", log.declaration(purpose="profit"))
    return log


@scene("other-segments", "Treaty 7.2", "Segments of another length than the treaty's.", expect="prohibited")
def _() -> World:
    log = world()
    log.log("alpha", "declaration", log.declaration(segment_steps=4))
    return log


@scene("attested-not-admitted", "Treaty 7.8", "A run that cannot be executed again.", expect="prohibited")
def _() -> World:
    log = world(audit_attested_runs="false")
    log.log("alpha", "declaration", log.declaration(rung="attested"))
    return log


@scene("edge-of-an-untold-parent", "Treaty 3.5", "Nobody said how the parent was made.", expect="undeclared")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.edge("alpha", "m", "before", run=run.id)
    return log


@scene("edge-of-other-parents", "Treaty 3.5", "Other parents than the run declared.", expect="tampered")
def _() -> World:
    log = world()
    one = log.declare("alpha", name="one")
    log.edge("alpha", "m", run=one.id)
    two = log.declare("beta", name="two")
    log.edge("beta", "n", "m", run=two.id)
    return log


@scene("edge-of-anothers-run", "Treaty 3.5", "A lab tells of a run that is not its own.", expect="foreign")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.edge("beta", "m", run=run.id)
    return log


@scene("head-of-no-run", "Treaty 7.1", "A head of a run that was not declared.", expect="undeclared")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.log("alpha", "head", log.head_of(run, "opened", run=OTHER))
    return log


@scene("head-of-anothers-run", "Treaty 7.2", "A head of another lab's run.", expect="foreign")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.log("beta", "head", log.head_of(run, "opened"))
    return log


@scene("head-before-it-opened", "Treaty 7.2", "A run's first head does not open it.", expect="missing")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.train(run, 3)
    log.head(run, "running")
    return log


@scene("head-after-its-end", "Treaty 7.2", "A run that has ended goes on.", expect="replayed")
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.head(run, "ended")
    log.head(run, "opened")
    return log


@scene("head-beyond-its-stop", "Treaty 4.5", "A run opens at another step than it stopped at.", expect="prohibited")
def _() -> World:
    log, run = small()
    log.train(run, 9)
    log.head(run, "opened")
    return log


@scene("head-that-contradicts", "Treaty 7.2", "Another root at the same step.", expect="equivocation")
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.head(run, "running", root=OTHER)
    return log


@scene("head-that-goes-back", "Treaty 7.2", "Fewer steps than were logged.", expect="equivocation")
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.train(run, 6)
    log.head(run, "running")
    log.head(run, "running", steps=3, flop=str(3 * STEP_FLOP))
    return log


@scene("head-of-other-compute", "Treaty 7.2", "Compute that is not the steps times the declared.", expect="malformed")
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.train(run, 3)
    log.head(run, "running", flop="1")
    return log


@scene("head-while-paused", "Treaty 4.5", "A covered run is opened while the brake is on.", expect="paused")
def _() -> World:
    log = bound()
    run = log.declare("alpha")
    log.trip()
    log.head(run, "opened")
    return log


@scene("head-not-covered-while-paused", "Treaty 3.1, 4.5", "The brake does not concern a small run.", wants="Committed")
def _() -> World:
    log = bound()
    run = log.declare("alpha", steps=3)
    log.trip()
    log.head(run, "opened")
    return log


@scene("audit-of-no-head", "Treaty 7.10", "The entry is no head of the run.", expect="foreign")
def _() -> World:
    log, run = small()
    body = log.audit_of("delta", run)
    log.log("delta", "audit", {**plain(body), "head": 0})
    return log


@scene("audit-of-another-beacon", "Treaty 7.3", "Not the first stamp after the head.", expect="foreign")
def _() -> World:
    log, run = small()
    body = log.audit_of("delta", run)
    log.stamp()
    log.log("delta", "audit", {**plain(body), "beacon": len(log.entries) - 1})
    return log


@scene("audit-of-anothers-ticket", "Treaty 7.3", "A ticket that the inspector did not sign.", expect="forged")
def _() -> World:
    log, run = small()
    body = log.audit_of("beta", run)
    log.log("delta", "audit", body)
    return log


@scene("audit-of-too-little", "Treaty 7.4", "A pass without a segment that the sample demands.", expect="missing")
def _() -> World:
    log, run = small()
    log.audit("delta", run, segments=((0, 3),))
    return log


@scene(
    "audit-of-another-verdict", "Treaty 7.7", "A verdict that does not follow from the findings.", expect="malformed"
)
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation(), verdict="pass")
    return log


@scene(
    "audit-of-no-segment",
    "Treaty 7.7",
    "A violation where nothing can be replayed could never fall.",
    expect="malformed",
)
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation(segment=(1, 4)))
    return log


@scene("audit-of-too-many-findings", "Treaty 7.10", "More findings than an audit may carry.", expect="allowance")
def _() -> World:
    log, run = small(audit_findings="8")
    places = ((0, 3), (3, 6), (0, 0))
    faults = (Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE, Fault.OPENING_MISMATCH)
    log.audit("delta", run, *(violation(fault, place) for fault in faults for place in places))
    return log


@scene("answer-to-nothing", "Treaty 7.9", "Nothing of the kind is alleged.", expect="missing")
def _() -> World:
    log, run = small()
    log.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3], "text": "no"})
    return log


@scene("retraction-of-anothers", "Treaty 7.9", "Only who alleges can take it back.", expect="missing")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    log.log("beta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3]})
    return log


@scene("reading-of-no-gauge", "Treaty 4.2", "A gauge that the treaty does not know.", expect="malformed")
def _() -> World:
    log = world()
    log.log("alpha", "reading", {**plain(log.reading("speedup", 1.0)), "gauge": "luck"})
    return log


@scene("reading-outside-its-bounds", "Treaty 4.2", "Bounds that do not enclose the value.", expect="malformed")
def _() -> World:
    log = world()
    log.log("alpha", "reading", log.reading("speedup", 1.0, value=0.5))
    return log


@scene("designation-of-no-tier", "Treaty 3.7", "A tier that the treaty does not know.", expect="malformed")
def _() -> World:
    log = bound()
    run = log.declare("alpha")
    log.log("beta", "designation", {"run": run.id, "tier": "enormous"})
    return log


@scene("moved-before-its-head", "Treaty 7.5", "Steps that are logged were made where they were.", expect="replayed")
def _() -> World:
    log = bound()
    run = log.finished("alpha", steps=7)
    log.log("alpha", "moved", {"run": run.id, "steps": 6, "environment": OTHER})
    return log


@scene("moved-nowhere", "Treaty 7.5", "The run is in that environment already.", expect="replayed")
def _() -> World:
    log = bound()
    run = log.finished("alpha", steps=7)
    log.log("alpha", "moved", {"run": run.id, "steps": 7, "environment": run.declaration.environment})
    return log


@scene("moved-by-another", "Treaty 7.5", "Another lab's run.", expect="foreign")
def _() -> World:
    log = bound()
    run = log.finished("alpha", steps=7)
    log.log("beta", "moved", {"run": run.id, "steps": 7, "environment": OTHER})
    return log


@scene("snapshot-between", "Treaty 6.6", "A state at no multiple of the treaty's number.", expect="malformed")
def _() -> World:
    log = world()
    log.log("alpha", "snapshot", {"rules": 2, "size": 1, "root": OTHER, "state": OTHER})
    return log


@scene("snapshot-by-other-rules", "Treaty 6.6", "A state by rules that do not judge this log.", expect="foreign")
def _() -> World:
    log = bound(log_snapshot_every="16")
    for _ in range(10):
        log.stamp()
    log.log("alpha", "snapshot", {"rules": 1, "size": 16, "root": OTHER, "state": OTHER})
    return log


@scene("incident-of-no-class", "Treaty 10.1", "A class that the treaty does not know.", expect="malformed")
def _() -> World:
    log = world()
    log.log("alpha", "incident", {"incident": "boredom", "known": log.now, "text": "x"})
    return log


@scene("report-to-nobody", "Treaty 10.3", "A report that nobody is owed.", expect="missing")
def _() -> World:
    log = world()
    log.log("alpha", "report", {"about": 0, "text": "x"})
    return log


@scene("requests-without-end", "Treaty 10.3", "More open requests to one party than it must bear.", expect="allowance")
def _() -> World:
    log = world()
    for n in range(MAX_ASKED + 1):
        log.log("alpha", "request", Request(party="beta", text=f"{n}"))
    return log
