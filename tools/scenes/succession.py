"""Logs: texts that follow one another. Article 11."""

from brakeline.core.tlog.note import VerifierKey, parse_vkey
from brakeline.core.treaty import parse_treaty
from scenes.made import world
from scenes.shown import OTHER, VOTE, scene
from succession import NOTICE, SHORT, adopted, assent, joining, next_text, propose, turned
from world import LABS, PARTIES, World, key, witness_key


def start(**changes: str) -> World:
    """A log in which everybody is bound, and an amendment takes seconds."""
    made = world(**{**SHORT, **changes})
    made.bind()
    made.stamp()
    return made


def replaced(w: World) -> World:
    """Gamma has left by the next text, and epsilon has joined."""
    turned(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    return w


@scene("amend", "Treaty 11.1", "A member brings the next text before the parties.", wants="Proposed")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty))
    return w


@scene("amend-adopted", "Treaty 11.1", "The last assent that was needed: the text is adopted.", wants="Adopted")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty))
    return w


@scene("amend-joiner", "Treaty 11.1", "A party that joins has signed with its key in the next text.", wants="Proposed")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    return w


@scene("amend-no-joiner", "Treaty 11.1", "A party that joins has not signed.", expect="missing")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty, drop="gamma", join="epsilon"), joining=())
    return w


@scene("amend-superseded", "Treaty 11.1", "It amends a text that is not in force any more.", expect="superseded")
def _() -> World:
    w = replaced(start())
    propose(w, next_text(w.treaty), amends=w.first.digest)
    return w


@scene("amend-skips", "Treaty 11.1", "A version is left out.", expect="rollback")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty, **{"treaty.version": "3"}))
    return w


@scene("amend-name", "Treaty 11.1", "The next text has another name.", expect="foreign")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty, **{"treaty.name": '"other"'}))
    return w


@scene("amend-rules", "Treaty 11.1", "The next text names older rules.", expect="rollback")
def _() -> World:
    w = start()
    lines = next_text(w.treaty).text.decode().replace("rules = 2", "rules = 1").split("\n")
    text = "\n".join(x for x in lines if not x.startswith(("next =", "signer_next =")))
    w.log("alpha", "amend", {"amends": w.treaty.digest, "text": text, "joining": []})
    return w


@scene("amend-no-treaty", "Treaty 11.1", "The next text is none.", expect="malformed")
def _() -> World:
    w = start()
    w.log("alpha", "amend", {"amends": w.treaty.digest, "text": "version = 2", "joining": []})
    return w


@scene("amend-stranger-joins", "Treaty 11.1", "Signed with another key than it enters.", expect="unknown-issuer")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty, drop="gamma", join="epsilon")
    propose(w, next_, joining=[joining(w, next_, "epsilon", by=key("mallory"))])
    return w


@scene("amend-joiner-under-the-next", "Treaty 11.1", "Who joins signs under the text in force.", expect="foreign")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty, drop="gamma", join="epsilon")
    propose(w, next_, joining=[joining(w, next_, "epsilon", treaty=next_.digest)])
    return w


@scene("amend-witness-key", "Treaty 1.1", "Who joins witnesses with the key of one that has left.", expect="reused-key")
def _() -> World:
    w = replaced(start())
    text = next_text(w.treaty, drop="epsilon", join="zeta").text.decode()
    propose(w, parse_treaty(text.replace(witness_key("zeta").text, witness_key("gamma").text).encode()))
    return w


@scene("amend-readmits", "Treaty 11.6", "An equivocator comes back with new keys.", wants="Turned")
def _() -> World:
    w = start()
    for reason in "ab":
        w.append(w.statement("gamma", "vote", {**VOTE, "reason": reason}, seq=50))
    adopted(w, next_text(w.treaty, drop="gamma", join="gamma", generation=1))
    w.stamp(NOTICE)
    return w


@scene("amend-keeper", "Treaty 11.1", "The next text gives the log another key.", expect="prohibited")
def _() -> World:
    w = start()
    text = next_text(w.treaty).text.decode()
    line = next(x for x in text.split("\n") if x.startswith("log_key"))
    held = parse_vkey(line.split('"')[1])
    other = f'log_key = "{VerifierKey("log.example/other", held.type, held.key).text}"'
    w.log("alpha", "amend", {"amends": w.treaty.digest, "text": text.replace(line, other), "joining": []})
    return w


@scene("amend-reused-key", "Treaty 11.6", "Who comes back brings the key that it had.", expect="reused-key")
def _() -> World:
    w = replaced(start())
    propose(w, next_text(w.treaty, drop="epsilon", join="gamma"))
    return w


@scene("amend-other-key", "Treaty 12.1", "The text enters a key that beta never showed.", expect="tampered")
def _() -> World:
    w = start()
    text = next_text(w.treaty).text.decode().replace(key("beta").public.text, key("mallory").public.text)
    w.log("alpha", "amend", {"amends": w.treaty.digest, "text": text, "joining": []})
    return w


@scene("amend-equivocator", "Treaty 11.6", "An equivocator keeps its key.", expect="equivocation")
def _() -> World:
    w = start()
    for reason in "ab":
        w.append(w.statement("gamma", "vote", {**VOTE, "reason": reason}, seq=50))
    propose(w, next_text(w.treaty))
    return w


@scene("amend-pending", "Treaty 11.1", "Another text has been adopted and has not turned.", expect="pending")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty))
    propose(w, next_text(w.treaty, **{"lift.delay": '"9 s"'}))
    return w


@scene("amend-twice", "Treaty 11.1", "The text is before the parties already.", expect="duplicate")
def _() -> World:
    w = start()
    propose(w, next_text(w.treaty))
    propose(w, next_text(w.treaty), "beta")
    return w


@scene("assent-next", "Treaty 11.1", "Assent to the next text, of which one is not enough.")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty)
    propose(w, next_)
    assent(w, next_, "alpha")
    return w


@scene("assent-nobodys", "Treaty 11.1", "Assent to a text that nobody has brought.", expect="foreign")
def _() -> World:
    w = start()
    assent(w, next_text(w.treaty), "alpha")
    return w


@scene("assent-expired", "Treaty 11.1", "An assent has expired before there were enough.")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty, drop="gamma", join="epsilon")
    propose(w, next_)
    assent(w, next_, "alpha", expires=w.now + 2)
    w.stamp(3)
    assent(w, next_, "beta", "delta")
    assert w.state.chain.coming is None
    return w


@scene("assent-without-who-is-kept", "Treaty 11.1", "Enough, but one in force that is kept has not assented.")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty)
    propose(w, next_)
    assent(w, next_, "alpha", "beta", "gamma")
    assert w.state.chain.coming is None
    return w


@scene("assent-rival", "Treaty 11.1", "A rival has been adopted meanwhile.", expect="replayed")
def _() -> World:
    w = start()
    one, two = next_text(w.treaty), next_text(w.treaty, **{"lift.delay": '"9 s"'})
    propose(w, one, "alpha")
    propose(w, two, "beta")
    assent(w, one, *PARTIES)
    assent(w, two, "alpha")
    return w


@scene("assent-old-text", "Treaty 11.4", "Assent to the text that is no longer in force.", expect="superseded")
def _() -> World:
    w = start()
    first = w.treaty
    turned(w, next_text(first))
    assent(w, first, "alpha")
    return w


@scene("turn", "Treaty 11.2", "After the notice, both witness quorums cosign a stamp over it.", wants="Turned")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.stamp(NOTICE)
    return w


@scene("turn-one-quorum", "Treaty 11.2", "The next witnesses are not there: a stamp like any other.", wants="Stamped")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.now += NOTICE
    w.append(w.checkpoint(by=("alpha", "beta", "gamma")))
    return w


@scene("turn-lapse", "Treaty 11.2", "They have not come in time: the adoption has lapsed.", wants="Unadopted")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.now += 2 * NOTICE
    w.append(w.checkpoint(by=("alpha", "beta", "gamma")))
    return w


@scene("turn-early", "Treaty 11.2", "Both quorums, before the notice has passed.", wants="Stamped")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty))
    w.stamp(NOTICE - 1)
    assert w.treaty.version == 1
    return w


@scene("turn-keeps-the-bound", "Treaty 11.4", "Who was bound after the adoption stays bound.", wants="Turned")
def _() -> World:
    w = world(**SHORT)
    w.bind(*LABS)
    w.stamp()
    next_ = next_text(w.treaty)
    propose(w, next_)
    assent(w, next_, *LABS)
    w.bind("delta")
    w.stamp(NOTICE)
    assert "delta" in w.state.active
    return w


@scene("turn-withholds", "Treaty 11.4", "While lifting: votes to lift do not go over.", wants="Turned Withheld")
def _() -> World:
    w = start(**{"lift.conditions": "[]", "lift.delay": '"60 s"'})
    w.trip()
    w.stamp()
    w.vote("lift", *LABS)
    adopted(w, next_text(w.treaty))
    w.stamp(NOTICE)
    return w


@scene("turn-trips", "Treaty 11.4", "Votes that were one too few are enough by the next text.", wants="Turned Tripped")
def _() -> World:
    w = start(**{"quorum.trip": "3"})
    w.vote("trip", "alpha", "beta")
    adopted(w, next_text(w.treaty, **{"quorum.trip": "2"}))
    w.stamp(NOTICE)
    return w


@scene("close", "Treaty 11.3", "The next stamp by both quorums closes the succession.", wants="Closed")
def _() -> World:
    return replaced(start())


@scene("close-old-quorum", "Treaty 11.3", "Between turn and close, the old quorum alone.", expect="no-quorum")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.stamp(NOTICE)
    w.append(w.checkpoint(by=("alpha", "beta", "gamma")))
    return w


@scene("close-new-quorum", "Treaty 11.3", "Between turn and close, the new quorum alone.", expect="no-quorum")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.stamp(NOTICE)
    w.append(w.checkpoint(by=("beta", "delta", "epsilon")))
    return w


@scene("closed-old-quorum", "Treaty 11.3", "After the close, the old quorum proves nothing.", expect="no-quorum")
def _() -> World:
    w = replaced(start())
    w.append(w.checkpoint(by=("alpha", "beta", "gamma")))
    return w


@scene("left", "Treaty 11.5", "Who has left the treaty votes.", expect="left")
def _() -> World:
    w = replaced(start())
    w.vote("trip", "gamma")
    return w


@scene("left-and-stops", "Treaty 11.5", "Who has left the treaty still says that its run stopped.", wants="Committed")
def _() -> World:
    w = start()
    run = w.opened("gamma")
    replaced(w)
    w.head(run, "stopped")
    return w


@scene("joins-later", "Treaty 11.2", "Who joins at the turn speaks before it: later.", expect="not-yet-valid")
def _() -> World:
    w = start()
    adopted(w, next_text(w.treaty, drop="gamma", join="epsilon"))
    w.vote("trip", "epsilon")
    return w


@scene("names-the-next", "Treaty 11.2", "A statement names the next text before it turns.", expect="not-yet-valid")
def _() -> World:
    w = start()
    next_ = next_text(w.treaty)
    adopted(w, next_)
    w.vote("trip", "alpha", treaty=next_.digest)
    return w


@scene("snapshot-old-text", "Treaty 11.4", "A state is stated under the old text.", expect="superseded")
def _() -> World:
    w = start(**{"log.snapshot_every": "16"})
    first = w.treaty.digest
    turned(w, next_text(w.treaty))
    w.log("alpha", "snapshot", {"rules": 2, "size": 16, "root": OTHER, "state": OTHER}, treaty=first)
    return w


@scene("lift-old-text", "Treaty 11.4", "A vote to lift that names the old text.", expect="superseded")
def _() -> World:
    w = start()
    first = w.treaty.digest
    w.trip()
    turned(w, next_text(w.treaty))
    w.vote("lift", "alpha", treaty=first)
    return w


@scene("trip-old-text", "Treaty 11.4", "Votes to trip count, whichever of the texts they name.", wants="Tripped")
def _() -> World:
    w = start()
    first = w.treaty.digest
    w.vote("trip", "alpha")
    turned(w, next_text(w.treaty))
    w.vote("trip", "beta", treaty=first)
    return w
