"""Logs: a keeper that is replaced without its help. Rules 11.8 to 11.10."""

from dataclasses import replace

from brakeline.core import reopening as r
from scenes.shown import scene
from scenes.succession import start
from succession import adopted, closing, closings, next_text, reopening
from world import World, key, log_key


@scene("reopen", "Treaty 11.8", "The log goes on under another origin, and the brake is on.", wants="Reopened Tripped")
def _() -> World:
    w = start()
    w.append(reopening(w))
    return w


@scene("reopened", "Treaty 11.8", "What follows is stamped by the new log.", wants="Stamped")
def _() -> World:
    w = start()
    w.append(reopening(w))
    w.stamp()
    return w


@scene("reopened-old-origin", "Treaty 11.8", "The old log's checkpoints count no more.", expect="foreign")
def _() -> World:
    w, other = start(), start()
    w.append(reopening(w))
    other.stamp()
    w.append(other.checkpoint())
    return w


@scene("reopen-few-members", "Treaty 11.8", "Two parties sign where three decide.", expect="no-quorum")
def _() -> World:
    w = start()
    w.append(reopening(w, "alpha", "alpha", "beta"))
    return w


@scene("reopen-few-witnesses", "Treaty 11.8", "Two witnesses closed the old log.", expect="no-quorum")
def _() -> World:
    w = start()
    some = tuple(c for c in closings(w) if (c.party, c.role) != ("gamma", "witness"))
    w.append(reopening(w, closings=some))
    return w


@scene("reopen-few-signers", "Treaty 11.8", "Two permit signers closed the old log.", expect="no-quorum")
def _() -> World:
    w = start()
    some = tuple(c for c in closings(w) if (c.party, c.role) != ("gamma", "permit-signer"))
    w.append(reopening(w, closings=some))
    return w


@scene("reopen-too-early", "Treaty 11.8", "A closer has seen more of the old log stamped.", expect="rollback")
def _() -> World:
    w = start()
    more = closing(w, "delta", "witness", settled=w.state.size + 1, size=w.state.size + 2)
    w.append(reopening(w, closings=r.ordered([*closings(w), more])))
    return w


@scene("reopen-elsewhere", "Treaty 11.8", "An entry later than where it begins.", expect="rollback")
def _() -> World:
    w = start()
    data = reopening(w)
    w.vote("trip", "gamma")
    w.append(data)
    return w


@scene("reopen-forged", "Treaty 11.8", "A closing is not signed by its party's key.", expect="forged")
def _() -> World:
    w = start()
    bent = closing(w, "delta", "witness", treaty="ab" * 32)
    w.append(reopening(w, closings=r.ordered([*closings(w), bent])))
    return w


@scene("reopen-reused-key", "Treaty 11.8", "The new log has the old one's key.", expect="reused-key")
def _() -> World:
    w = start()
    w.append(reopening(w, log_key=replace(log_key("alpha", 1), key=key("delta", "log").public).text))
    return w


@scene("reopen-amid-a-turn", "Treaty 11.8", "An adopted text's signers did not close the log.", expect="no-quorum")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.stamp()
    some = closings(w, "alpha", "beta", "gamma", size=w.state.size + 1)
    w.append(reopening(w, "alpha", "alpha", "beta", "delta", closings=some))
    return w


@scene("evidence-closed", "Treaty 11.10", "A witness cosigned the log after it had closed it.", wants="Equivocated")
def _() -> World:
    w = start()
    envelope = r.envelope_of(closing(w, "beta", "witness"), w.first.digest)
    w.now += 1
    late = w.checkpoint(by=("alpha", "beta"))
    w.log("alpha", "evidence", {"first": late.decode(), "second": envelope.decode()})
    return w
