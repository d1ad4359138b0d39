"""Golden logs: long ones, kept for ever. Whoever says that it applies the rules of a version finds these digests."""

from collections.abc import Callable, Iterator

from brakeline.core.brake import Phase
from brakeline.core.duty import Request
from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason
from brakeline.core.evidence import Evidence
from brakeline.core.finding import Fault
from brakeline.core.keys import PrivateKey
from brakeline.core.kinds import KINDS
from brakeline.core.lineage import FRESH
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.state import events as e
from brakeline.core.state.codec import digest
from scenes.made import Made, bound, folded, log_of, world
from scenes.raw import envelopes, good, payloads, resigned, signatures, signed
from scenes.shown import OTHER, VOTE, assent, gap
from succession import next_text, propose, revoke, rotate
from world import DAY, LABS, PARTIES, START, Live, World, key, model, plain, violation

RULES = 2
FROZEN: frozenset[int] = frozenset({1})  # versions of the rules that are published: their logs are only read
# What came with rules 2.
SUCCESSION = frozenset({Reason.SUPERSEDED, Reason.RETIRED_KEY, Reason.REUSED_KEY, Reason.PENDING, Reason.LEFT})
# What no entry of a log is refused for: the gate, a permit signer and a treaty's reader give these.
ELSEWHERE = frozenset({Reason.BARRED, Reason.STALE, Reason.WEAK_KEY})

LOGS: dict[str, tuple[str, Callable[[], World]]] = {}


def log(name: str, about: str) -> Callable[[Callable[[], World]], Callable[[], World]]:
    """Make a golden log of what the function does."""

    def keep(act: Callable[[], World]) -> Callable[[], World]:
        LOGS[name] = (about, act)
        return act

    return keep


def made() -> Iterator[Made]:
    """All golden logs of the newest rules."""
    if RULES in FROZEN:
        return
    for name, (about, act) in LOGS.items():
        made = act()
        made.check()
        output, _ = folded(made.first, made.entries)
        yield Made(f"golden/{RULES}", name, about, f"rules {RULES}", log_of(made), "ok", output)


@log("every-kind", "Each kind of statement with its effect, and a long trip through everything that may happen.")
def every_kind() -> World:
    w = bound(log_snapshot_every="16", **{"scope.tier.sum": "true"})
    run = w.finished("alpha", name="first")
    w.edge("alpha", "m", run=run.id)
    child = w.opened("beta", name="child", parents=(run.id,))
    w.edge("beta", "n", "m", run=child.id, initialisation=model("m"))
    w.log("beta", "moved", {"run": child.id, "steps": 3, "environment": OTHER})
    w.log("gamma", "edge", {**plain_edge(w), "child": model("found")})
    w.audit("delta", run, violation(segment=(3, 6)))
    w.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [3, 6], "text": "no: see the code"})
    w.log("delta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [3, 6]})
    for inspector in ("beta", "gamma"):
        w.audit(inspector, run)
    w.log("gamma", "declaration", w.declaration(name="one", steps=6))
    w.log("gamma", "declaration", w.declaration(name="two", steps=6))
    (due,) = w.of(e.Due)
    w.log("gamma", "notice", {"about": due.entry, "text": "we know"})
    for party in LABS:
        w.log(party, "designation", {"run": child.id, "tier": "prohibited"})
    asked = w.log("delta", "request", Request(party="beta", text="why is it so large?"))
    w.log("beta", "report", {"about": asked.index, "text": "for science"})
    w.log("alpha", "incident", {"incident": "safety", "known": w.now - 60, "text": "a model asked for more"})
    w.read("authorship", 0.5, *LABS, value=0.6, upper=0.7)
    w.read("speedup", 2.0, "alpha")
    w.read("speedup", 7.0, "beta")
    size = len(w.entries) // 16 * 16
    w.log("delta", "snapshot", {"rules": 2, "size": size, "root": OTHER, "state": digest(w.state)})
    propose(w, next_text(w.treaty))
    revoke(w, "beta", "alpha", since=size)
    rotate(w, "alpha")
    w.withdraw("gamma")
    one, two = (w.statement("gamma", "vote", VOTE | {"reason": r}, seq=99).decode() for r in ("a", "b"))
    w.log("alpha", "evidence", Evidence(first=min(one, two), second=max(one, two)))
    w.vote("trip", "alpha", "beta")
    w.head(child, "stopped")
    w.stamp()
    assert {x.kind for x in w.of(e.Entered)} == {k.name for k in KINDS}
    return w


def plain_edge(w: World) -> dict[str, object]:
    return {"child": "", "run": "", "parents": [], "data": [], "recipe": OTHER, "initialisation": FRESH}


@log("every-refusal", "An entry for each reason for which an entry has no effect, and for many of its rules.")
def every_refusal() -> World:
    w = world(audit_findings="8", audit_attested_runs="false", budget_rest="36", log_snapshot_every="16")
    first = w.statement("alpha", "vote", VOTE)  # held back
    w.bind()
    w.append(first)
    w.append(w.entries[-2])
    _not_alphas(w)
    for text in ((OTHER, assent(w).articles), (w.treaty.digest, OTHER)):
        w.log("alpha", "assent", Assent(text=text[0], articles=text[1]))
    late = w.now + w.treaty.skew + 1
    w.vote("trip", "alpha", not_before=late, expires=late + 1)
    w.vote("trip", "alpha", expires=w.now)
    w.vote("trip", "alpha", not_before=w.now - 7 * DAY - 1)
    w.vote("trip", "alpha", epoch=3)
    w.log("alpha", "pledge", Pledge(condition="quorum beta\n"))
    w.log("alpha", "pledge", Pledge(condition="quorum nobody\n"))
    w.log("alpha", "of-later-rules", {"text": "of later rules"})
    w.log("delta", "declaration", w.declaration())
    _runs(w)
    _audits(w)
    for n in range(6):
        w.log("beta", "request", Request(party="gamma", text=f"{n}"))
    w.log("beta", "request", Request(party="beta", text="to itself"))
    w.log("beta", "report", {"about": 0, "text": "to nobody"})
    w.log("beta", "incident", {"incident": "boredom", "known": w.now, "text": "x"})
    w.log("beta", "reading", w.reading("speedup", 1.0, value=0.5))
    w.log("beta", "snapshot", {"rules": 2, "size": 5, "root": OTHER, "state": OTHER})
    w.log("beta", "snapshot", {"rules": 2, "size": 16, "root": OTHER, "state": OTHER})
    for n in range(30):
        w.log("beta", "notice", {"about": -1, "text": f"{n}"})
    _stamps(w)
    seq = len(w.said["gamma", "brake"]) - 1
    w.append(w.statement("gamma", "vote", VOTE | {"reason": "another"}, seq=seq))
    w.vote("trip", "gamma")
    w.stamp()
    found = {x.reason for x in w.of(e.Void)}
    want = set(Reason) - ELSEWHERE - SUCCESSION
    assert found == want, sorted(found ^ want)
    return w


def _not_alphas(w: World) -> None:
    stranger = PrivateKey(b"s" * 32)
    w.append(w.statement("alpha", "vote", VOTE, by=key("beta")))
    w.append(w.statement("omega", "vote", VOTE, by=stranger))
    w.append(w.statement("alpha", "vote", VOTE, by=stranger).replace(stranger.public.id.encode(), _id("alpha")))
    w.append(w.statement("alpha", "vote", VOTE, treaty=OTHER))


def _id(party: str) -> bytes:
    return key(party).public.id.encode()


def _runs(w: World) -> None:
    w.log("alpha", "declaration", w.declaration(purpose="profit"))
    w.log("alpha", "declaration", w.declaration(segment_steps=4))
    w.log("alpha", "declaration", w.declaration(rung="attested"))
    w.log("alpha", "declaration", w.declaration(parents=(OTHER,)))
    w.log("alpha", "declaration", w.declaration(name=""))
    run = w.declare("alpha")
    w.log("alpha", "declaration", w.declaration(steps=9))
    w.head(run, "running")
    w.log("beta", "head", w.head_of(run, "opened"))
    w.log("alpha", "head", w.head_of(run, "opened", run=OTHER))
    w.head(run, "opened")
    w.head(run, "running", root=OTHER)
    w.head(run, "running", flop="1")
    w.edge("beta", "m", run=run.id)
    w.edge("alpha", "m", "nobody told", run=run.id)
    w.edge("gamma", "elsewhere")
    w.edge("alpha", "m", run=run.id)
    child = w.declare("beta", name="child")
    w.edge("beta", "n", "m", run=child.id)
    w.train(run, 6)
    w.head(run, "stopped")
    w.train(run, 7)
    w.head(run, "opened")
    w.head(run, "running")
    w.log("alpha", "designation", {"run": run.id, "tier": "enormous"})


def _audits(w: World) -> None:
    run = Live(w, next(iter(w.leaves)))
    del w.leaves[run.id][7:]
    assert not run.heads[-1].beacon
    w.stamp()
    body = plain(w.audit_of("delta", run))
    w.audit("alpha", run)
    w.log("beta", "audit", body)
    w.log("delta", "audit", {**body, "head": 0})
    w.log("delta", "audit", {**body, "beacon": 0})
    w.log("delta", "audit", {**body, "segments": [[0, 3]]})
    w.log("delta", "audit", {**body, "verdict": "fail"})
    w.audit("delta", run, violation(segment=(1, 4)))
    w.audit("delta", run, *(violation(f, s) for f in _MANY for s in ((0, 3), (3, 6), (0, 0))))
    w.log("alpha", "answer", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3], "text": "no"})
    w.log("delta", "retraction", {"run": run.id, "fault": "replay-mismatch", "segment": [0, 3]})
    w.trip()
    w.head(run, "opened")


_MANY = (Fault.REPLAY_MISMATCH, Fault.INITIAL_STATE, Fault.OPENING_MISMATCH)


def _stamps(w: World) -> None:
    early = w.checkpoint()
    w.stamp()
    w.stamp()
    w.append(early)
    w.append(w.checkpoint(by=LABS[:2]))
    w.append(w.checkpoint(len(w.entries) + 5, root=bytes(32)))
    w.append(w.checkpoint(root=sha256(b"another history")))
    w.append(w.checkpoint().replace(b"log.example", b"log.elsewhere"))
    lines = w.checkpoint().split(b"\n")
    w.append(b"\n".join([*lines[:4], *lines[5:]]))
    w.append(b"\n".join([*lines[:-2], lines[-2][:-8] + b"AAAAAA==", b""]))


@log(
    "trip-pause-lift", "A trip by votes, a pause, a lift that is withheld and comes back, and a run that is held back."
)
def trip_pause_lift() -> World:
    w = bound(lift_delay='"60 s"')
    done, murky = w.finished("alpha", name="done"), w.finished("beta", name="murky")
    free = w.opened("gamma", name="free", steps=3)
    going = w.opened("gamma", name="going")
    w.vote("trip", "alpha")
    w.vote("trip", "beta")
    w.head(free, "running")
    w.head(going, "opened")
    w.stamp()
    w.head(going, "stopped")
    assert w.phase is Phase.PAUSED
    for inspector in ("gamma", "delta"):
        w.audit(inspector, done)
        w.audit(inspector, murky, gap())
    w.vote("lift", "alpha", "beta")
    w.vote("lift", "delta", expires=w.now + 30)
    assert w.phase is Phase.LIFTING
    w.stamp(30)
    assert w.phase is Phase.PAUSED
    w.vote("lift", "delta")
    w.vote("trip", "gamma", "delta")
    assert (w.phase, w.state.epoch) == (Phase.PAUSED, 2)
    w.vote("lift", *LABS)
    w.stamp(61)
    assert w.phase is Phase.CLEAR
    assert [run.held for run in (done, murky, free, going)] == [False, True, False, False]
    for run in (done, murky):
        w.head(run, "opened")
    w.stamp()
    for inspector in ("gamma", "delta"):
        w.audit(inspector, murky)
    w.stamp()
    return w


@log("trip-by-lapse", "A lab that never says that it stopped: the pause comes when its permits have lapsed.")
def trip_by_lapse() -> World:
    w = bound(lift_delay='"0 s"')
    run = w.opened("alpha")
    w.train(run, 6, w.permit(run))
    w.trip()
    w.head(run, "running")
    w.stamp()
    w.vote("lift", *LABS)
    w.stamp(w.lapse - 1)
    assert w.phase is Phase.TRIPPED
    w.stamp(1)
    assert w.phase is Phase.PAUSED
    w.stamp(w.treaty.settle_within)
    assert (w.phase, run.held) == (Phase.CLEAR, True)
    return w


@log(
    "allegations", "What inspectors allege, in and out of the declared environment; what falls, what bars, what trips."
)
def allegations() -> World:
    w = bound()
    run, other = w.finished("alpha", name="run"), w.finished("beta", name="other")
    w.audit("delta", run, violation(segment=(0, 3)), violation(segment=(3, 6)))
    everything = tuple((i, i + 3) for i in range(0, 12, 3))
    w.audit("beta", run, segments=everything, environment=OTHER)
    w.audit("gamma", run, segments=everything)
    w.audit("beta", run, segments=everything)
    assert len(w.of(e.Fell)) == 2
    w.audit("delta", run)
    w.audit("gamma", other, violation(segment=(6, 9)), environment=OTHER)  # accuses nobody
    assert not other.allegations
    w.audit("gamma", other, violation(segment=(6, 9)))
    w.audit("delta", other, violation(segment=(6, 9)), verdict="partial", segments=((6, 9),))
    assert w.phase is not Phase.CLEAR
    w.log("beta", "answer", {"run": other.id, "fault": "replay-mismatch", "segment": [6, 9], "text": "we object"})
    w.audit("alpha", other, violation(segment=(6, 9)))
    w.audit("alpha", other, violation(Fault.NO_PERMIT, (2, 7)))
    w.vote("lift", *LABS)
    w.stamp(2)
    assert (w.phase, bool(other.bar), bool(run.bar)) == (Phase.CLEAR, True, False)
    return w


@log("readings", "Claims, agreement, growth, alarms, readings that expire, and the lineage of a successor.")
def readings() -> World:
    w = world()
    w.bind(expires=START + 1000 * DAY)
    long = {"expires": START + 900 * DAY}
    w.read("authorship", 0.15, "alpha", "beta", value=0.18, upper=0.2, **long)
    w.read("speedup", 4.0, "alpha", **long)
    w.read("speedup", 4.5, "beta", **long)
    w.read("speedup", 40.0, "gamma", **long)
    w.stamp(60 * DAY)
    w.read("authorship", 0.4, "alpha", "delta", value=0.45, upper=0.5, **long)
    assert w.phase is not Phase.CLEAR
    w.vote("lift", *LABS)
    w.stamp(2)
    assert w.phase is Phase.CLEAR
    parent = w.declare("alpha", name="parent")
    w.edge("alpha", "m", run=parent.id)
    w.declare("beta", name="child", parents=(parent.id,))
    w.read("lineage", 0.125, "alpha", "beta", subject=model("m"), complete=False, expires=w.now + 90)
    w.read("lineage", 0.125, "alpha", "beta", subject=model("m"), expires=w.now + 90)
    w.stamp(91)
    w.read("lineage", 0.0, "alpha", "delta", subject=model("m"), alarms=("ancestry", "rate"))
    assert w.phase is not Phase.CLEAR
    return w


@log("bonds", "Pledges on conditions, before the treaty is in force and after; withdrawals, equivocation, and time.")
def bonds() -> World:
    w = World(start=START - 10_010, treaty=world().treaty)
    for party in PARTIES:
        others = " ".join(p for p in PARTIES if p != party)
        w.bind(party, condition=f"group others 2 {others}\nquorum others\n", expires=START + 400 * DAY)
    w.vote("trip", *LABS)
    w.stamp(9)
    assert (w.state.active, w.phase) == (frozenset(), Phase.CLEAR)
    w.stamp(1)
    assert w.state.active == frozenset(PARTIES)
    assert w.phase is not Phase.CLEAR
    w.withdraw("gamma")
    w.append(w.statement("delta", "vote", VOTE, seq=0))
    w.append(w.statement("delta", "vote", VOTE | {"reason": "b"}, seq=len(w.said["delta", "brake"]) - 1))
    assert w.state.members.equivocators == {"delta"}
    w.stamp(w.treaty.withdrawal_notice - 1)
    w.stamp(1)
    assert w.state.active == frozenset()
    w.log("gamma", "pledge", Pledge(condition="quorum none\n"), expires=w.now + 500)
    w.stamp(500)
    return w


@log("duties", "Incidents, notices, requests and reports; what is met, what lapses, and what a day of a lane holds.")
def duties() -> World:
    w = world(budget_rest="36", **{"scope.tier.sum": "true"})
    w.bind(expires=START + 1000 * DAY)
    for party in ("alpha", "beta"):
        w.log("delta", "request", Request(party=party, text="how is it?"))
    first = w.of(e.Due)[0].about
    w.log("alpha", "report", {"about": first, "text": "well"})
    w.log("alpha", "report", {"about": first, "text": "again"})
    w.log("gamma", "incident", {"incident": "imminent-danger", "known": w.now - 2 * DAY, "text": "late"})
    w.log("gamma", "declaration", w.declaration(name="one", steps=6))
    w.log("gamma", "declaration", w.declaration(name="two", steps=6))
    w.log("gamma", "declaration", w.declaration(name="three", steps=6))
    w.stamp(w.treaty.notification_clock + 1)
    w.stamp(w.treaty.report_clock)
    assert len(w.of(e.Lapsed)) == 3
    for n in range(40):
        w.log("alpha", "notice", {"about": -1, "text": f"{n}"})
    w.stamp(DAY)
    w.log("alpha", "notice", {"about": -1, "text": "another day"})
    return w


@log("crafted-signatures", "Signatures that not every implementation of Ed25519 verifies alike.")
def crafted_signatures() -> World:
    w = world()
    counts = []
    for name in signatures(good(w)):
        data = good(w)
        signature, valid, _ = signatures(data)[name]
        counts.append((w.append(resigned(data, signature)).reason is None, valid))
    assert [a for a, _ in counts] == [b for _, b in counts]
    w.stamp()
    return w


@log("malformed", "Entries that do not parse, signed where they can be; each kind with a body that is not its own.")
def malformed() -> World:
    w = world()
    for _, data in envelopes(good(w)).values():
        assert w.append(data).reason is Reason.MALFORMED
    for _, payload in payloads(w).values():
        assert w.append(signed(payload)).reason is Reason.MALFORMED
    w.bind()
    for kind in KINDS:
        party = "alpha" if kind.role in (None, "lab") else "delta"
        for body in ({}, {"run": None}, {"text": "x", "more": [0.5, 1e300]}):
            assert w.log(party, kind.name, body).reason is Reason.MALFORMED
    for data in (b"garbage", b"\0" * 300, w.checkpoint()[:-1], b"\xff" + w.checkpoint()):
        assert w.append(data).reason is Reason.MALFORMED
    w.vote("trip", "alpha", "delta")
    assert w.phase is not Phase.CLEAR
    return w
