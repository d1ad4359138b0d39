"""Which keys speak for whom. Article 12.

A statement counts at an entry when its key is in force *there*: no date that somebody claims makes an old key count. A
party goes on to the key whose digest it gave beforehand, so whoever steals the key in use cannot go on to one of their
own, and cannot keep the owner from doing so. Numbers begin again with every key (`members`).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final, NamedTuple

import msgspec

from brakeline.core.errors import Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.succession import KeyChange, Purpose, Revocation, check_change
from brakeline.core.treaty import Party, Treaty
from brakeline.core.treaty.parties import digest_of

MAX_CHANGES: Final = 64  # of one party's keys: each is known for ever, so that none comes back
MAX_ASKED: Final = 4  # revocations that one party may ask for at a time


class Key(msgspec.Struct, frozen=True, gc=False):
    """A key (base64), or "" after a revocation; the digest of the next one; and the entry since which it counts."""

    key: str = ""
    next: str = ""
    since: int = -1


class Keys(msgspec.Struct, frozen=True, gc=False):
    """One party's keys. `changes` counts those it has had; `voted` is the entry of its newest vote, or -1."""

    statement: Key = Key()
    signer: Key = Key()
    changes: int = 0
    voted: int = -1

    def of(self, purpose: Purpose) -> Key:
        key: Key = getattr(self, purpose)
        return key


class Past(msgspec.Struct, frozen=True, gc=False):
    """A key that counted for the entries `since` to `until`, and counts no more."""

    party: str
    purpose: Purpose
    key: str
    since: int
    until: int


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A revocation that waits for a quorum: `by` ask for it, each in an entry."""

    party: str
    purpose: Purpose
    key: str
    since: int
    by: Mapping[str, int]


class Speaker(NamedTuple):
    """A party, and the key that speaks for it."""

    party: str
    key: PublicKey


class _Index:
    """What follows from a keyring and is asked at every entry."""

    def __init__(self, keyring: "Keyring") -> None:
        self._of = keyring.of
        self.by_id: dict[str, Speaker] = {}
        self.next: dict[str, str] = {}  # a key's id is the head of its digest
        for name, keys in keyring.of.items():
            if keys.statement.key:
                key = PublicKey.parse(keys.statement.key)
                self.by_id[key.id] = Speaker(name, key)
            if keys.statement.next:
                self.next[keys.statement.next[:16]] = name
        self.past: dict[str, Past] = {}  # that spoke
        for past in keyring.past:
            keyid = PublicKey.parse(past.key).id
            self.next.pop(keyid, None)
            if past.purpose == "statement":
                self.past[keyid] = past

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Index)  # it follows from what is compared beside it

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def signers(self) -> Mapping[PublicKey, str]:
        return {PublicKey.parse(k.signer.key): name for name, k in self._of.items() if k.signer.key}


class Keyring(msgspec.Struct, frozen=True, gc=False):
    """All keys by party, those that count no more, and the revocations that wait."""

    of: Mapping[str, Keys] = {}
    past: tuple[Past, ...] = ()
    asked: tuple[Asked, ...] = ()
    index: _Index | None = None

    @classmethod
    def made(cls, of: Mapping[str, Keys], past: tuple[Past, ...], asked: tuple[Asked, ...]) -> "Keyring":
        keyring = cls(of, past, asked)
        return msgspec.structs.replace(keyring, index=_Index(keyring))

    def put(self, name: str, keys: Keys, *past: Past) -> "Keyring":
        asked = tuple(a for a in self.asked if not any((a.party, a.key) == (p.party, p.key) for p in past))
        return Keyring.made({**self.of, name: keys}, (*self.past, *past), asked)

    def speaker(self, keyid: str) -> Speaker | None:
        """Whose key has this id and is in force."""
        assert self.index is not None
        return self.index.by_id.get(keyid)

    def next_of(self, keyid: str) -> str | None:
        """The party whose next key has this id."""
        assert self.index is not None
        return self.index.next.get(keyid)

    def signers(self, treaty: Treaty) -> Mapping[PublicKey, str]:
        """Keys in force that sign permits under `treaty` → party."""
        assert self.index is not None
        seats = treaty.parties
        found = self.index.signers.items()
        return {k: name for k, name in found if name in seats and "permit-signer" in seats[name].roles}

    def signers_at(self, treaty: Treaty, size: int) -> Mapping[PublicKey, str]:
        """As `signers`, for a permit that was asked for when the log had `size` entries under `treaty`."""
        spans = [(n, k.signer.key, k.signer.since) for n, k in self.of.items() if k.signer.key]
        now = {PublicKey.parse(key): name for name, key, since in spans if since <= size}
        then = {
            PublicKey.parse(p.key): p.party
            for p in self.past
            if p.purpose == "signer" and p.since <= size <= p.until
        }
        seats = treaty.parties
        return {k: n for k, n in (now | then).items() if n in seats and "permit-signer" in seats[n].roles}

    def of_party(self, name: str) -> tuple[PublicKey, ...]:
        """All keys by which a party speaks or spoke, those that fell included: for what it signed at any time."""
        now = [self.of[name].statement.key] if name in self.of else []
        then = [p.key for p in self.past if p.party == name and p.purpose == "statement"]
        return tuple(PublicKey.parse(key) for key in (*now, *then) if key)

    def retired(self, keyid: str) -> Past | None:
        """The key with this id that counted once, where there is one."""
        assert self.index is not None
        return self.index.past.get(keyid)

    @property
    def digests(self) -> frozenset[str]:
        """Digests of all keys that are known, those to come included."""
        found: set[str] = {digest_of(PublicKey.parse(p.key)) for p in self.past}
        for keys in self.of.values():
            for key in (keys.statement, keys.signer):
                found |= {digest_of(PublicKey.parse(key.key))} if key.key else set()
                found |= {key.next} if key.next else set()
        return frozenset(found)


def entered(party: Party, since: int) -> Keys:
    """The keys that a text enters for a party."""
    signer = Key(party.signer_key.text, party.signer_next, since) if party.signer_key else Key()
    return Keys(Key(party.key.text, party.next, since), signer)


def begin(treaty: Treaty) -> Keyring:
    return Keyring.made({name: entered(p, -1) for name, p in treaty.parties.items()}, (), ())


def change(keyring: Keyring, entry: int, party: str, body: KeyChange) -> Keyring:
    """Treaty 12.1: go on to the key that was committed to, wherever the old one is.

    Raises:
        Malformed, Refused: as `check_change`; TAMPERED, not the key that was committed to; REUSED_KEY, `next` is a
            key that is known; ALLOWANCE, too many changes.
    """
    key, keys = check_change(body), keyring.of[party]
    old = keys.of(body.purpose)
    if digest_of(key) != old.next:
        raise Refused(
            Reason.TAMPERED, f"not the {body.purpose} key that {party} committed to as its next (Treaty 12.1)"
        )
    if body.next in keyring.digests:
        raise Refused(Reason.REUSED_KEY, "the next key is one that the log knows already (Treaty 12.1)")
    if keys.changes >= MAX_CHANGES:
        text = f"{party} has changed keys {MAX_CHANGES} times: it leaves and joins anew (Treaty 11.6)"
        raise Refused(Reason.ALLOWANCE, text)
    new = Key(body.key, body.next, entry)
    keys = msgspec.structs.replace(keys, changes=keys.changes + 1, **{body.purpose: new})
    past = [Past(party, body.purpose, old.key, old.since, entry)] if old.key else []
    return keyring.put(party, keys, *past)


def revoke(keyring: Keyring, entry: int, issuer: str, body: Revocation, quorum: int, seats: Iterable[str]) -> Keyring:
    """Treaty 12.2. Whether the key fell shows in `Keyring.of`.

    Raises:
        Refused: RETIRED_KEY, the key is not in force; NO_QUORUM, too few members would be left that can speak;
            DUPLICATE, the issuer asks for it already; ALLOWANCE, it asks for too many.
    """
    keys = keyring.of.get(body.party, Keys())
    held, seated = keys.of(body.purpose), frozenset(seats)
    if not held.key or held.key != body.key:
        raise Refused(Reason.RETIRED_KEY, f"that is no key of {body.party} in force (Treaty 12.2)")
    able = sum(bool(keyring.of[p].statement.key) for p in seated if p in keyring.of)
    if body.purpose == "statement" and body.party in seated and able - 1 < quorum:
        text = f"{able} members can speak and {quorum} decide: change the key, do not revoke it (Treaty 12.2)"
        raise Refused(Reason.NO_QUORUM, text)
    if issuer == body.party:
        return _fall(keyring, entry, body)
    same = [a for a in keyring.asked if (a.party, a.purpose, a.key, a.since) == _what(body)]
    by = {p: at for p, at in (same[0].by if same else {}).items() if p in seated}
    if same and issuer in same[0].by:
        raise Refused(Reason.DUPLICATE, f"{issuer} asks for this revocation already")
    if len({*by, issuer} & seated) >= quorum:
        return _fall(keyring, entry, body)
    if sum(issuer in a.by for a in keyring.asked) >= MAX_ASKED:
        raise Refused(Reason.ALLOWANCE, f"{issuer} asks for {MAX_ASKED} revocations already")
    rest = tuple(a for a in keyring.asked if a not in same)
    asked = (*rest, Asked(body.party, body.purpose, body.key, body.since, {**by, issuer: entry}))
    return msgspec.structs.replace(keyring, asked=asked)


def _what(body: Revocation) -> tuple[str, Purpose, str, int]:
    return body.party, body.purpose, body.key, body.since


def _fall(keyring: Keyring, entry: int, body: Revocation) -> Keyring:
    keys = keyring.of[body.party]
    old = keys.of(body.purpose)
    keys = msgspec.structs.replace(keys, **{body.purpose: Key("", old.next, entry)})
    if body.purpose == "statement":
        keyring = unasked(keyring, body.party, body.since)
    return keyring.put(body.party, keys, Past(body.party, body.purpose, old.key, old.since, entry))


def unasked(keyring: Keyring, party: str, since: int) -> Keyring:
    """Without what the party asked for from an entry on."""
    kept = (
        msgspec.structs.replace(a, by={p: at for p, at in a.by.items() if p != party or at < since})
        for a in keyring.asked
    )
    return msgspec.structs.replace(keyring, asked=tuple(a for a in kept if a.by))


def lacking(keyring: Keyring, body: Revocation, quorum: int) -> int:
    """How many more must say the same before the key falls; 0 where it counts no more."""
    if keyring.of[body.party].of(body.purpose).key != body.key:
        return 0
    same = (a for a in keyring.asked if (a.party, a.purpose, a.key, a.since) == _what(body))
    return quorum - sum(len(a.by) for a in same)


def voted(keyring: Keyring, party: str, entry: int) -> Keyring:
    """The keyring after a vote of the party: whether it falls with a key depends on when it was cast."""
    keys = msgspec.structs.replace(keyring.of[party], voted=entry)
    return msgspec.structs.replace(keyring, of={**keyring.of, party: keys})
