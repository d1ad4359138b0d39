"""Logs: one of each kind of statement, in the ways in which it has an effect; and stamps."""

from brakeline.core.duty import Request
from brakeline.core.encoding import sha256
from brakeline.core.evidence import Evidence
from scenes.made import bound, world
from scenes.shown import OTHER, VOTE, assent, gap, scene, small
from world import DAY, LABS, START, World, model, violation

# --- one of each kind


@scene("assent", "Treaty 2.1", "A party signs the treaty's text and the articles that follow from it.")
def _() -> World:
    log = world()
    log.log("alpha", "assent", assent(log))
    return log


@scene("pledge", "Treaty 2.2", "Two pledges that each wait for the other: both bind.", wants="Bound")
def _() -> World:
    log = world()
    log.bind("alpha", condition="quorum beta\n")
    log.bind("beta", condition="quorum alpha\n")
    return log


@scene("withdrawal", "Treaty 2.5", "A party gives notice; it stays bound until the notice has passed.")
def _() -> World:
    log = world()
    log.bind("alpha", expires=log.now + 1000 * DAY)
    log.withdraw("alpha")
    return log


@scene("withdrawal-passed", "Treaty 2.5", "The notice has passed: the party is bound no more.", wants="Bound")
def _() -> World:
    log = world()
    log.bind("alpha", expires=log.now + 1000 * DAY)
    log.withdraw("alpha")
    log.stamp(log.treaty.withdrawal_notice)
    return log


@scene("vote", "Treaty 4.1", "One vote of two that are needed: nothing moves.")
def _() -> World:
    log = bound()
    log.vote("trip", "alpha")
    return log


@scene("evidence", "Treaty 2.4", "Beta proves that alpha signed two statements of one number.", wants="Equivocated")
def _() -> World:
    log = world()
    one, two = (log.statement("alpha", "vote", VOTE | {"reason": r}, seq=7).decode() for r in ("a", "b"))
    log.log("beta", "evidence", Evidence(first=min(one, two), second=max(one, two)))
    return log


@scene(
    "evidence-snapshots", "Treaty 6.6", "Alpha signed two states at one size, under two numbers.", wants="Equivocated"
)
def _() -> World:
    log = world()
    body = {"rules": 2, "size": 1000, "root": OTHER, "state": OTHER}
    one = log.statement("alpha", "snapshot", body, seq=7).decode()
    two = log.statement("alpha", "snapshot", body | {"state": "cd" * 32}, seq=8).decode()
    log.log("beta", "evidence", Evidence(first=min(one, two), second=max(one, two)))
    return log


@scene("declaration", "Treaty 7.1", "A run is declared; its id is the digest of the statement.", wants="Declared")
def _() -> World:
    log = world()
    log.log("alpha", "declaration", log.declaration())
    return log


@scene(
    "declaration-seed", "Treaty 7.1", "The first stamp over the declaration gives the run its seed.", wants="Stamped"
)
def _() -> World:
    log = world()
    log.declare("alpha")
    return log


@scene(
    "declaration-lineage", "Treaty 3.4", "A run of two parents that share one: compute counts once.", wants="Declared"
)
def _() -> World:
    log = world()
    root = log.declare("alpha", name="root")
    left = log.declare("alpha", name="left", parents=(root.id,))
    right = log.declare("beta", name="right", parents=(root.id,))
    log.log("gamma", "declaration", log.declaration(name="merge", parents=tuple(sorted((left.id, right.id)))))
    return log


@scene(
    "declaration-exempt", "Treaty 3.2", "An exempt run below its cap is in a tier and not covered.", wants="Declared"
)
def _() -> World:
    log = bound()
    log.log("alpha", "declaration", log.declaration(purpose="safety-research"))
    return log


@scene(
    "declaration-prohibited",
    "Treaty 3.3",
    "A run beyond the treaty's limit is in the tier prohibited.",
    wants="Declared",
)
def _() -> World:
    log = bound()
    log.log("alpha", "declaration", log.declaration(steps=2 * 10**9, purpose="inference"))
    return log


@scene("declaration-at-the-edge", "Treaty 3.1", "A tier is exceeded above its limit, not at it.", wants="Declared")
def _() -> World:
    log = bound()
    log.log("alpha", "declaration", log.declaration(steps=10))
    return log


@scene(
    "declaration-by-sum",
    "Treaty 3.6, 10.2",
    "A lab's small runs count together; a notice is due.",
    wants="Declared Due",
)
def _() -> World:
    log = bound(**{"scope.tier.sum": "true"})
    log.log("alpha", "declaration", log.declaration(name="one", steps=6))
    log.log("alpha", "declaration", log.declaration(name="two", steps=6))
    return log


@scene("edge", "Treaty 3.5", "How a model came to be of a declared run.", wants="Told")
def _() -> World:
    log = world()
    run = log.declare("alpha")
    log.edge("alpha", "m", run=run.id)
    return log


@scene("head-opened", "Treaty 7.2", "A run commits to where it starts.", wants="Committed")
def _() -> World:
    log = world()
    log.opened("alpha")
    return log


@scene("head-running", "Treaty 7.2", "A run commits to its first six steps.", wants="Committed")
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.train(run, 6)
    log.head(run, "running")
    return log


@scene(
    "head-seam",
    "Treaty 7.4",
    "A run is opened again where it was killed: a seam that every sample holds.",
    wants="Committed",
)
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.train(run, 6)
    log.head(run, "running")
    log.head(run, "opened")
    return log


@scene("head-stamped", "Treaty 7.3", "The first stamp over a head is the beacon of its sample.", wants="Stamped")
def _() -> World:
    return small()[0]


@scene(
    "head-while-braked",
    "Treaty 4.5",
    "The news takes time: a run may log steps while the brake is tripped.",
    wants="Committed",
)
def _() -> World:
    log = bound()
    run = log.opened("alpha")
    log.trip()
    log.train(run, 3)
    log.head(run, "running")
    return log


@scene(
    "head-of-an-equivocator",
    "Treaty 2.4",
    "Who has equivocated must still say where its runs stand.",
    wants="Committed",
)
def _() -> World:
    log = world()
    run = log.opened("alpha")
    log.vote("trip", "alpha")
    log.append(log.statement("alpha", "vote", {"motion": "lift", "epoch": 0, "reason": "x"}, seq=0))
    log.head(run, "stopped")
    return log


@scene("audit-pass", "Treaty 7.4", "An inspector replayed what its sample demands.", wants="Audited")
def _() -> World:
    log, run = small()
    log.audit("delta", run)
    return log


@scene("audit-settles", "Treaty 8.2", "The second inspector passes the run: it is settled.", wants="Audited Settled")
def _() -> World:
    log, run = small()
    log.audit("delta", run)
    log.audit("beta", run)
    return log


@scene("audit-inconclusive", "Treaty 5.7", "A check that could not be made is never a pass.", wants="Audited")
def _() -> World:
    log, run = small()
    log.audit("delta", run, gap())
    return log


@scene("audit-alleges", "Treaty 7.7", "One inspector alleges a violation.", wants="Audited Alleged")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    return log


@scene(
    "audit-alleges-a-last-part",
    "Treaty 7.7",
    "A head cuts the last segment short; it can be replayed.",
    wants="Alleged",
)
def _() -> World:
    log, run = small(steps=5)
    log.audit("delta", run, violation(segment=(3, 5)))
    return log


@scene(
    "audit-bars", "Treaty 7.7, 5.6", "Two inspectors find the same: the run is barred.", wants="Audited Alleged Barred"
)
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    log.audit("beta", run, violation())
    return log


@scene(
    "audit-lets-fall", "Treaty 7.7", "Two who replayed the segment do not find it: the allegation falls.", wants="Fell"
)
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    for inspector in ("beta", "gamma"):
        log.audit(inspector, run, segments=((0, 3), (3, 6)))
    return log


@scene("audit-loose-does-not-refute", "Treaty 7.5, 7.7", "What was seen bit for bit is not refuted with a tolerance.")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    for inspector in ("beta", "gamma"):
        log.audit(inspector, run, segments=((0, 3), (3, 6)), environment=OTHER)
    return log


@scene("audit-partial-confirms", "Treaty 7.7", "An answer to another's finding needs no sample.", wants="Barred")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    log.audit("beta", run, violation(), verdict="partial", segments=((0, 3),))
    return log


@scene("answer", "Treaty 7.9", "A lab answers what is alleged of its run.", wants="Answered")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    log.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3], "text": "a cosmic ray"})
    return log


@scene("retraction", "Treaty 7.9", "An inspector takes its allegation back, and it falls.", wants="Retracted Fell")
def _() -> World:
    log, run = small()
    log.audit("delta", run, violation())
    log.log("delta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3]})
    return log


@scene("reading", "Treaty 4.8", "A claim of one party: it counts for nothing yet.", wants="Read")
def _() -> World:
    log = bound()
    log.read("speedup", 9.0, "alpha")
    return log


@scene(
    "reading-disagrees", "Treaty 4.8", "Two parties read the same inputs and cannot both be right.", wants="Disagreed"
)
def _() -> World:
    log = bound()
    log.read("speedup", 1.0, "alpha")
    log.read("speedup", 9.0, "beta")
    return log


@scene("designation", "Treaty 3.7, 10.2", "A quorum puts a run in a tier; a notice is due.", wants="Designated Due")
def _() -> World:
    log = bound()
    run = log.declare("alpha", steps=3)
    for party in LABS:
        log.log(party, "designation", {"run": run.id, "tier": "covered"})
    return log


@scene("moved", "Treaty 7.5", "A run goes on in another environment, and back again.", wants="Shifted")
def _() -> World:
    log = bound()
    run = log.finished("alpha", steps=7)
    home = run.declaration.environment
    for steps, environment in ((7, OTHER), (9, "cd" * 32), (9, OTHER[::-1]), (11, home)):
        log.log("alpha", "moved", {"run": run.id, "steps": steps, "environment": environment})
    return log


@scene("snapshot", "Treaty 6.6", "A permit signer states the digest of the state after 16 entries.", wants="Stated")
def _() -> World:
    log = bound(log_snapshot_every="16")
    for _ in range(10):
        log.stamp()
    log.log("alpha", "snapshot", {"rules": 2, "size": 16, "root": OTHER, "state": OTHER})
    return log


@scene("snapshot-twice", "Treaty 6.6", "Two states at one size: the signer has equivocated.", wants="Equivocated")
def _() -> World:
    log = bound(log_snapshot_every="16")
    for _ in range(10):
        log.stamp()
    for state in (OTHER, "cd" * 32):
        log.log("alpha", "snapshot", {"rules": 2, "size": 16, "root": OTHER, "state": state})
    return log


@scene("incident", "Treaty 10.1", "An incident, reported in time.", wants="Reported")
def _() -> World:
    log = world()
    log.log("alpha", "incident", {"incident": "safety", "known": log.now - 3600, "text": "something\nhappened"})
    return log


@scene(
    "incident-late", "Treaty 10.1, 10.4", "An incident, reported later than the treaty allows.", wants="Reported Lapsed"
)
def _() -> World:
    log = world()
    log.log("alpha", "incident", {"incident": "safety", "known": log.now - 4 * DAY, "text": "late"})
    return log


@scene("request", "Treaty 10.3", "A party asks another one for a report.", wants="Reported Due")
def _() -> World:
    log = world()
    log.log("alpha", "request", Request(party="beta", text="how is it?"))
    return log


@scene("report", "Treaty 10.3", "The report that was asked for, in time.", wants="Reported Met")
def _() -> World:
    log = world()
    asked = log.log("alpha", "request", Request(party="beta", text="how is it?"))
    log.log("beta", "report", {"about": asked.index, "text": "well"})
    return log


@scene("report-lapses", "Treaty 10.4", "A report that was not given by its day.", wants="Stamped Lapsed")
def _() -> World:
    log = world()
    log.log("alpha", "request", Request(party="beta", text="how is it?"))
    log.stamp(log.treaty.report_clock + 1)
    return log


@scene("report-on-its-day", "Treaty 10.4", "On its last second a report has not lapsed.", wants="Stamped")
def _() -> World:
    log = world()
    log.log("alpha", "request", Request(party="beta", text="how is it?"))
    log.stamp(log.treaty.report_clock)
    return log


@scene("notice", "Treaty 10.2", "A notice before anybody asked.", wants="Reported")
def _() -> World:
    log = world()
    log.log("alpha", "notice", {"about": -1, "text": "a large run begins in May"})
    return log


@scene("notice-that-was-due", "Treaty 10.2", "The notice of a run that a quorum put in a tier.", wants="Reported Met")
def _() -> World:
    log = bound()
    run = log.declare("alpha", steps=3)
    last = [log.log(party, "designation", {"run": run.id, "tier": "covered"}) for party in LABS][-1]
    log.log("alpha", "notice", {"about": last.index, "text": "we know"})
    return log


@scene("model-of-a-child", "Treaty 3.5", "A successor's model, told as its run was declared.", wants="Told")
def _() -> World:
    log = world()
    parent = log.declare("alpha", name="parent")
    log.edge("alpha", "m", run=parent.id)
    child = log.declare("beta", name="child", parents=(parent.id,))
    log.edge("beta", "n", "m", run=child.id, initialisation=model("m"))
    return log


# --- stamps


@scene("stamp", "Treaty 6.2", "A stamp sets the log's time: the lower median of its cosignatures.", wants="Stamped")
def _() -> World:
    log = world()
    log.stamp(60)
    return log


@scene("stamp-of-a-quorum", "Treaty 6.1", "Three witnesses of four are enough.", wants="Stamped")
def _() -> World:
    log = world()
    log.append(log.checkpoint(by=LABS))
    return log


@scene("stamp-with-an-earlier-time", "Treaty 6.2", "Time never goes back.", wants="Stamped")
def _() -> World:
    log = world()
    log.append(log.checkpoint(now=START - 3))
    return log


@scene("stamp-of-fewer-witnesses", "Treaty 6.1", "Two witnesses of four.", expect="no-quorum")
def _() -> World:
    log = world()
    log.append(log.checkpoint(by=LABS[:2]))
    return log


@scene("stamp-of-an-older-tree", "Treaty 6.2", "A stamp that covers less than the last one.", expect="rollback")
def _() -> World:
    log = world()
    early = log.checkpoint()
    log.vote("trip", "alpha")
    log.stamp()
    log.append(early)
    return log


@scene(
    "stamp-of-entries-that-are-not-there",
    "Treaty 6.2",
    "A stamp of more entries than the log holds.",
    expect="rollback",
)
def _() -> World:
    log = world()
    log.append(log.checkpoint(9, root=bytes(32)))
    return log


@scene(
    "stamp-of-another-history", "Treaty 6.1", "A quorum cosigned another root.", expect="equivocation", wants="Forked"
)
def _() -> World:
    log = world()
    log.vote("trip", "alpha")
    log.append(log.checkpoint(2, root=sha256(b"another history")))
    return log


@scene("stamp-of-another-log", "Treaty 6.1", "The origin is no log of the treaty.", expect="foreign")
def _() -> World:
    log = world()
    log.append(log.checkpoint().replace(b"log.example", b"log.elsewhere"))
    return log


@scene("stamp-without-the-log", "Treaty 6.1", "Cosigned by all, and not signed by the log.", expect="missing")
def _() -> World:
    log = world()
    lines = log.checkpoint().split(b"\n")
    log.append(b"\n".join([*lines[:4], *lines[5:]]))
    return log
