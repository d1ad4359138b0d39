"""Golden logs of texts that follow one another, in every phase of the brake, and of keys that change."""

from brakeline.core.brake import Phase
from brakeline.core.duty import Request
from brakeline.core.evidence import Evidence
from brakeline.core.pledge import Pledge
from brakeline.core.state import events as e
from scenes import golden
from scenes.golden import log
from scenes.made import world
from scenes.shown import OTHER, VOTE
from succession import (
    NOTICE,
    SHORT,
    adopted,
    assent,
    fresh_key,
    joining,
    next_text,
    propose,
    reopening,
    revoke,
    rotate,
    turned,
)
from world import DAY, LABS, World, key, next_digest, violation

FREE = Pledge(condition="quorum none\n")


def start(**changes: str) -> World:
    """A log in which everybody is bound for long, and an amendment takes seconds."""
    made = world(**{**SHORT, **changes})
    made.bind(expires=made.now + 400 * DAY)
    made.stamp()
    return made


@log("succession-refusals", "An entry for each reason for which a succession, or a key, does not go on.")
def succession_refusals() -> World:
    w = start()
    old = w.first
    _keys_refused(w)
    for changes in ({"treaty.version": "3"}, {"treaty.version": "1"}, {"treaty.name": '"other"'}):
        propose(w, next_text(old, **changes))
    keep = next_text(old, drop="gamma", join="epsilon")
    good = joining(w, keep, "epsilon")
    bad = joining(w, keep, "epsilon", by=key("mallory"))
    for joined in ([], [good, good], [bad], [joining(w, keep, "epsilon", treaty=OTHER)], ["x"]):
        propose(w, keep, joining=joined)
    propose(w, next_text(old), amends=OTHER)
    w.log("alpha", "amend", {"amends": old.digest, "text": "no treaty", "joining": []})
    assent(w, keep, "alpha")
    adopted(w, keep, "beta")
    propose(w, next_text(old), "beta")
    assent(w, next_text(old), "beta")
    w.append(w.statement("epsilon", "vote", VOTE, seq=1))
    w.append(w.statement("alpha", "vote", VOTE, treaty=keep.digest))
    w.stamp(NOTICE)
    for by in (LABS, ("beta", "delta", "epsilon"), ("alpha", "beta", "epsilon")):
        w.append(w.checkpoint(by=by))
    propose(w, next_text(w.treaty))
    w.stamp()
    w.append(w.checkpoint(by=LABS))
    w.vote("trip", "gamma")
    assent(w, old, "beta")
    w.vote("lift", "beta", treaty=old.digest)
    propose(w, next_text(w.treaty, drop="epsilon", join="gamma"))
    w.stamp()
    assert {x.reason for x in w.of(e.Void)} >= golden.SUCCESSION
    return w


def _keys_refused(w: World) -> None:
    shown, mine = key("alpha", "statement 1").public.text, {"key": key("mallory").public.text, "next": OTHER}
    w.log("alpha", "key", {"purpose": "statement", **mine})
    w.log("alpha", "key", {"purpose": "statement", "key": shown, "next": OTHER})
    w.log("alpha", "key", {"purpose": "signer", **mine})
    refused = rotate(w, "alpha", next=next_digest("beta"))
    w.append(w.entries[1])
    w.append(w.entries[refused.index])
    rotate(w, "alpha", next="xyz")
    assert rotate(w, "alpha").reason is None
    w.append(w.statement("alpha", "vote", VOTE, by=key("alpha"), seq=77))
    two = sorted(w.statement("alpha", "vote", VOTE, by=key("alpha"), seq=n).decode() for n in (78, 79))
    w.log("beta", "evidence", Evidence(first=two[0], second=two[1]))
    revoke(w, "alpha", "beta", "beta")
    revoke(w, "alpha", "gamma", since=len(w.entries) + 5)
    revoke(w, "epsilon" if "epsilon" in w.state.keyring.of else "alpha", "gamma", key=shown[::-1])
    for since in range(4):
        revoke(w, "alpha", "delta", since=since)
    revoke(w, "alpha", "delta", since=9)
    revoke(w, "delta", "delta", purpose="signer", key=w.state.keyring.of["delta"].signer.key)
    revoke(w, "delta", "delta", purpose="signer", key=key("delta", "signer").public.text)


@log("succession-while-clear", "Two texts; runs, heads, findings, readings and dues go over, and permits get shorter.")
def succession_while_clear() -> World:
    w = start(**{"scope.tier.sum": "true", "log.snapshot_every": "16"})
    run, other = w.finished("alpha", name="run"), w.opened("gamma", name="other")
    w.audit("delta", run, violation(segment=(3, 6)))
    w.read("speedup", 2.0, "alpha", "gamma", expires=w.now + 100 * DAY)
    w.log("gamma", "designation", {"run": other.id, "tier": "prohibited"})
    asked = w.log("beta", "request", Request(party="gamma", text="what is it?"))
    w.vote("trip", "gamma")
    next_ = next_text(w.treaty, drop="gamma", join="epsilon", **{"permit.lifetime": '"3 s"', "quorum.trip": "3"})
    turned(w, next_)
    w.log("gamma", "report", {"about": asked.index, "text": "a run"})
    w.head(other, "stopped")
    w.read("speedup", 2.0, "beta", expires=w.now + 100 * DAY)
    w.audit("epsilon", run)
    w.audit("beta", run)
    w.log("epsilon", "pledge", FREE, expires=w.now + 400 * DAY)
    size = len(w.entries) // 16 * 16
    for text in (w.first.digest, w.treaty.digest):
        w.wrong("beta", "snapshot", {"rules": 2, "size": size, "root": OTHER, "state": OTHER}, treaty=text)
    w.vote("trip", "alpha", "beta", treaty=w.first.digest)
    assert w.phase is Phase.CLEAR
    w.vote("trip", "epsilon")
    assert w.phase is Phase.PAUSED
    w.head(run, "ended")
    w.stamp()
    return w


@log("succession-while-tripped", "A trip, and a text with shorter permits turns before all have lapsed; then a lapse.")
def succession_while_tripped() -> World:
    w = start(**{"permit.lifetime": '"60 s"'})
    run = w.opened("alpha")
    w.train(run, 3, w.permit(run))
    old = w.lapse
    w.trip()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon", **{"permit.lifetime": '"2 s"'}))
    w.stamp(1)
    stamped = w.now
    w.stamp(NOTICE)
    assert (w.treaty.version, w.phase) == (2, Phase.TRIPPED)
    w.stamp()
    w.head(run, "running")
    w.stamp(stamped + old - w.now - 1)
    assert w.phase is Phase.TRIPPED
    w.stamp(1)
    assert w.phase is Phase.PAUSED
    return w


@log("succession-while-paused", "Votes to lift stand, the next text asks for no condition, and its turn lifts nothing.")
def succession_while_paused() -> World:
    w = start()
    run = w.finished("alpha")
    w.trip()
    w.vote("lift", *LABS)
    adopted(w, next_text(w.treaty, **{"lift.conditions": "[]", "lift.delay": '"0 s"'}))
    assert w.phase is Phase.PAUSED
    w.stamp(NOTICE)
    assert (w.treaty.version, w.phase, w.voters("lift")) == (2, Phase.PAUSED, frozenset())
    w.stamp()
    w.vote("lift", *LABS[:2])
    w.wrong("delta", "vote", VOTE | {"motion": "lift", "epoch": 1}, treaty=w.first.digest)
    assert w.phase is Phase.PAUSED
    w.vote("lift", "delta")
    assert w.phase is Phase.CLEAR
    w.head(run, "opened")
    return w


@log("succession-while-lifting", "A text turns while the brake lifts: the votes to lift are cast anew.")
def succession_while_lifting() -> World:
    w = start(**{"lift.conditions": "[]", "lift.delay": '"60 s"'})
    w.trip()
    w.stamp()
    w.stamp(w.lapse)
    w.vote("lift", *LABS)
    assert w.phase is Phase.LIFTING
    adopted(w, next_text(w.treaty, **{"lift.delay": '"0 s"'}))
    w.stamp(NOTICE)
    assert (w.treaty.version, w.phase) == (2, Phase.PAUSED)
    w.stamp()
    w.vote("lift", *LABS)
    assert w.phase is Phase.CLEAR
    return w


@log("succession-that-trips", "Two votes of three that were needed; the next text asks for two, and its turn trips.")
def succession_that_trips() -> World:
    w = start(**{"quorum.trip": "3"})
    run = w.opened("beta")
    w.vote("trip", "alpha", "beta")
    adopted(w, next_text(w.treaty, **{"quorum.trip": "2"}))
    w.now += 2 * NOTICE
    w.append(w.checkpoint())
    assert (w.treaty.version, w.phase, len(w.of(e.Unadopted))) == (1, Phase.CLEAR, 1)
    adopted(w, next_text(w.treaty, **{"quorum.trip": "2"}))
    w.stamp(NOTICE)
    assert w.of(e.Tripped)[-1].entry == w.state.chain.now.turned
    w.head(run, "stopped")
    w.stamp()
    assert w.phase is Phase.PAUSED
    return w


@log("reopening", "A keeper is replaced while a run trains and a text waits; the log goes on, and is reopened again.")
def reopened() -> World:
    w = start(**{"lift.conditions": "[]"})
    run = w.opened("alpha")
    w.train(run, 3, w.permit(run))
    w.append(reopening(w, "beta", "alpha", "beta"))
    w.stamp()
    w.append(reopening(w, "beta"))
    assert (w.phase, w.state.epoch) == (Phase.TRIPPED, 1)
    w.head(run, "stopped")
    w.stamp()
    assert w.phase is Phase.TRIPPED
    w.stamp(w.lapse)
    assert w.phase is Phase.PAUSED
    w.vote("lift", *LABS)
    w.stamp(w.treaty.lift_delay)
    assert w.phase is Phase.CLEAR
    w.append(reopening(w, "gamma"))
    w.stamp()
    assert [x.keeper for x in w.state.chain.reopened] == ["beta", "gamma"]
    return w


@log("keys", "Keys for statements and permits change, fall by their owner's word and by a quorum's, and come back.")
def keys() -> World:
    w = start(**{"quorum.trip": "3"})
    run = w.opened("beta")
    w.append(w.statement("alpha", "vote", {**VOTE, "epoch": 9}, seq=2**53 - 2))
    w.vote("trip", "alpha")
    rotate(w, "alpha")
    w.vote("trip", "alpha")
    new = fresh_key("beta", "signer", 1)
    signer = {"purpose": "signer", "key": new.public.text, "next": next_digest("beta", "signer", 2)}
    w.log("beta", "key", signer)
    w.train(run, 3, w.permit(run))
    w.read("speedup", 2.0, "gamma", "delta")
    since = len(w.entries)
    w.vote("trip", "gamma")
    w.read("authorship", 0.1, "gamma", "delta", value=0.2, upper=0.3)
    w.log("gamma", "pledge", FREE, expires=w.now + 500 * DAY)
    propose(w, next_text(w.treaty), "gamma")
    revoke(w, "alpha", "gamma", "delta")
    revoke(w, "gamma", "alpha", "beta", "delta", since=since)
    assert (w.voters("trip"), len(w.state.chain.proposals)) == (frozenset({"alpha"}), 0)
    w.vote("trip", "gamma")
    w.stamp(179)
    assert "gamma" in w.state.active
    w.stamp(2)
    assert "gamma" not in w.state.active
    rotate(w, "gamma")
    w.log("gamma", "pledge", FREE, expires=w.now + 500 * DAY)
    revoke(w, "delta", "delta", purpose="signer", key=key("delta", "signer").public.text)
    revoke(w, "delta", "delta")
    rotate(w, "delta")
    turned(w, next_text(w.treaty, **{"lift.delay": '"9 s"'}))
    w.head(run, "stopped")
    assert not w.state.members.equivocators
    return w


@log("leavers-and-joiners", "Who leaves, who comes, who comes back: a leaver, and one that has equivocated.")
def leavers_and_joiners() -> World:
    w = start()
    run = w.opened("gamma", steps=300)
    one, two = (next_text(w.treaty, drop="gamma", join="epsilon", **c) for c in ({}, {"permit.lifetime": '"3 s"'}))
    first, second = joining(w, one, "epsilon"), joining(w, two, "epsilon", seq=1)
    propose(w, one, joining=[first])
    assent(w, one, "gamma")
    propose(w, two, joining=[second])
    assent(w, two, "alpha", "beta", "delta")
    w.stamp(NOTICE)
    w.append(first.encode())
    w.append(second.encode())
    w.said["epsilon", "brake"] = [second.encode()] * 2
    w.log("epsilon", "pledge", Pledge(condition="quorum alpha\n"))
    w.head(run, "stopped")
    w.stamp()
    rotate(w, "gamma")
    w.append(w.entries[2])
    for reason in ("a", "b"):
        w.append(w.statement("beta", "vote", VOTE | {"reason": reason, "epoch": 9}, seq=50))
    propose(w, next_text(w.treaty))
    turned(w, next_text(w.treaty, drop="beta", join="beta", generation=1))
    w.generation["beta"] = 10
    w.append(w.statement("beta", "vote", VOTE, by=key("beta"), seq=60))
    w.stamp(90)
    turned(w, next_text(w.treaty, drop="epsilon", join="gamma", generation=1))
    w.generation["gamma"] = 10
    assert w.state.active >= {"beta", "gamma"}
    w.stamp(180)
    assert w.state.active == {"alpha", "delta"}
    for party in ("beta", "gamma"):
        w.log(party, "pledge", FREE, expires=w.now + 400 * DAY)
    assert w.state.members.equivocators == frozenset()
    w.vote("trip", "gamma", "epsilon", "beta")
    assert w.phase is not Phase.CLEAR
    w.stamp()
    return w
