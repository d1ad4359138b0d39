"""Logs: keys that change, and keys that fall. Article 12."""

from brakeline.core.evidence import Evidence
from scenes.shown import OTHER, VOTE, scene
from scenes.succession import replaced, start
from succession import fresh_key, revoke, rotate
from world import World, key, next_digest


@scene("key", "Treaty 12.1", "A party goes on to its next key.", wants="Rekeyed")
def _() -> World:
    w = start()
    rotate(w, "alpha")
    return w


@scene("key-signer", "Treaty 12.1", "A permit signer tells its next key for permits.", wants="Rekeyed")
def _() -> World:
    w = start()
    new = fresh_key("alpha", "signer", 1)
    body = {"purpose": "signer", "key": new.public.text, "next": next_digest("alpha", "signer", 2)}
    w.log("alpha", "key", body)
    return w


@scene("key-thief", "Treaty 12.1", "Whoever stole the key would go on to one of their own.", expect="tampered")
def _() -> World:
    w = start()
    w.log("alpha", "key", {"purpose": "statement", "key": key("mallory").public.text, "next": "ab" * 32})
    return w


@scene("key-shown-by-the-old", "Treaty 12.1", "The next key does not sign for itself.", expect="forged")
def _() -> World:
    w = start()
    w.log("alpha", "key", {"purpose": "statement", "key": key("alpha", "statement 1").public.text, "next": OTHER})
    return w


@scene("key-refused-frees-no-number", "Treaty 12.1", "The old key's numbers go on after it.", expect="replayed")
def _() -> World:
    w = start()
    rotate(w, "alpha", next=next_digest("beta"))
    w.append(w.entries[1])
    return w


@scene("key-of-a-leaver", "Treaty 11.5", "Who has left the treaty changes no key.", expect="left")
def _() -> World:
    w = replaced(start())
    rotate(w, "gamma")
    return w


@scene("key-after-revocation", "Treaty 12.1", "A party whose key was revoked goes on to its next.", wants="Rekeyed")
def _() -> World:
    w = start()
    revoke(w, "alpha", "beta", "gamma", "delta")
    rotate(w, "alpha")
    return w


@scene("evidence-by-a-retired-key", "Treaty 12.2", "Anybody may have it: it proves nothing.", expect="unknown-issuer")
def _() -> World:
    w = start()
    one, two = sorted(w.statement("alpha", "vote", {**VOTE, "reason": r}, seq=40).decode() for r in "ab")
    rotate(w, "alpha")
    w.log("beta", "evidence", Evidence(first=one, second=two))
    return w


@scene("key-known", "Treaty 12.1", "The key that is to come next is another's.", expect="reused-key")
def _() -> World:
    w = start()
    rotate(w, "alpha", next=next_digest("beta"))
    return w


@scene("key-retired", "Treaty 12.1", "Signed with the key of before, and dated before.", expect="retired-key")
def _() -> World:
    w = start()
    early = w.statement("alpha", "vote", VOTE, seq=40)
    rotate(w, "alpha")
    w.append(early)
    return w


@scene("revoke-own", "Treaty 12.2", "A party revokes its own key.", wants="Revoked")
def _() -> World:
    w = start()
    revoke(w, "alpha", "alpha")
    return w


@scene("revoke-asked", "Treaty 12.2", "One of three that must say the same.", wants="Asked")
def _() -> World:
    w = start()
    revoke(w, "alpha", "beta")
    return w


@scene("revoke", "Treaty 12.2", "The third says the same: the key falls, and the vote of since then.", wants="Revoked")
def _() -> World:
    w = start()
    w.vote("trip", "alpha")
    revoke(w, "alpha", "beta", "gamma", "delta", since=w.state.size - 1)
    return w


@scene("revoke-twice", "Treaty 12.2", "A party asks for the same a second time.", expect="duplicate")
def _() -> World:
    w = start()
    revoke(w, "alpha", "beta", "beta")
    return w


@scene("revoke-too-few", "Treaty 12.2", "Fewer would be left that can speak than decide.", expect="no-quorum")
def _() -> World:
    w = start()
    revoke(w, "alpha", "beta", "gamma", "delta")
    revoke(w, "beta", "gamma")
    return w


@scene("revoke-retired", "Treaty 12.2", "The key is not in force any more.", expect="retired-key")
def _() -> World:
    w = start()
    rotate(w, "alpha")
    revoke(w, "alpha", "beta", key=key("alpha").public.text)
    return w


@scene("revoke-asked-by-a-thief", "Treaty 12.2", "What a stolen key asked for falls with it: two ask.", wants="Asked")
def _() -> World:
    w = start()
    revoke(w, "alpha", "gamma", since=4)
    revoke(w, "gamma", "alpha", "beta", "delta", since=w.state.size - 1)
    rotate(w, "gamma")
    revoke(w, "alpha", "beta", "delta", since=4)
    assert w.state.keyring.of["alpha"].statement.key
    return w


@scene("revoke-signer", "Treaty 12.2", "A permit signer's key falls by a quorum.", wants="Revoked")
def _() -> World:
    w = start()
    revoke(w, "alpha", "beta", "gamma", "delta", purpose="signer", key=key("alpha", "signer").public.text)
    return w
