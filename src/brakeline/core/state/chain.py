"""The texts that one log has been judged by, and what is under way to the next. Article 11.

The log goes by the digest of its first text. From one text to the next it takes three entries:

    adoption   the statement at which enough have assented; the first in the log goes
    turn       the first stamp over the adoption, after the notice, that the witnesses of both texts have cosigned
    close      the first stamp over the turn, likewise

A checkpoint of `size` entries needs the witnesses of the text up to the turn, those of both between turn and close, and
those of the next text afterwards. To go over directly would let a keeper show two histories: with n = 3f + 1 witnesses,
replacing a single one is too many (spec/model).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec

from brakeline.core.errors import Reason, Refused
from brakeline.core.kinds import Kind, known
from brakeline.core.pledge import Assent
from brakeline.core.reopening import Reopening
from brakeline.core.state.keyring import Keyring
from brakeline.core.state.members import Last, Members
from brakeline.core.succession import Amend, assent_to, joiner
from brakeline.core.tlog.note import VerifierKey, parse_vkey
from brakeline.core.tlog.policy import Policy
from brakeline.core.treaty import Party, Treaty
from brakeline.core.treaty.parties import digest_of


class Ground:
    """What follows from a text alone and is asked at every entry; worked out once."""

    def __init__(self, treaty: Treaty) -> None:
        self.treaty = treaty
        self.digest = treaty.digest
        self.policy: Policy = treaty.policy
        self.kinds: Mapping[str, Kind] = known(treaty.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ground) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def asked(self) -> Assent:
        """What a party signs that assents to this text."""
        return assent_to(self.treaty)

    @property
    def lasts(self) -> int:
        """Seconds from a stamp over a trip until every permit of before has lapsed; see `ballot`."""
        t = self.treaty
        return 2 * t.stale_after + t.heartbeat + t.permit_lifetime

    @property
    def articles(self) -> str:
        """Hex SHA-256 of the articles as this build renders and applies them."""
        return self.asked.articles


class Assented(NamedTuple):
    """Who assented in `entry`, until `expires` (POSIX s)."""

    entry: int
    expires: int


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """A next text: who brought it, in which entry, and who has assented.

    `joined`: of those who assented with a key that it enters, the number and what took it.
    """

    ground: Ground
    by: str
    entry: int
    assents: Mapping[str, Assented]
    joined: Mapping[str, Last]

    @property
    def treaty(self) -> Treaty:
        return self.ground.treaty


class Coming(msgspec.Struct, frozen=True, gc=False):
    """A text that was adopted in `entry`, at `time`. It turns no sooner than `due`, and lapses at `lapses` (POSIX s).

    `assents`: who assented; `joined` as in `Proposal`.
    """

    ground: Ground
    entry: int
    time: int
    due: int
    lapses: int
    assents: tuple[str, ...]
    joined: Mapping[str, Last]

    @property
    def treaty(self) -> Treaty:
        return self.ground.treaty


class Text(msgspec.Struct, frozen=True, gc=False):
    """A text that is in force, or was: from entry `turned` and the time `since` (POSIX s) on; closed in `closed`.

    -1: not yet; of the first text, from the beginning.
    """

    ground: Ground
    turned: int = -1
    since: int = 0
    closed: int = -1

    @property
    def treaty(self) -> Treaty:
        return self.ground.treaty


class Reopened(msgspec.Struct, frozen=True, gc=False):
    """From behind `entry` on the log has another origin: that of `key` (a vkey), kept by `keeper` at `url`.

    `over` are the origins that ended there. `lasts`: seconds from a stamp until every permit has lapsed that the void
    part of the old log may have let anybody give, by whatever text.
    """

    entry: int
    keeper: str
    key: str
    url: str
    over: tuple[str, ...]
    lasts: int

    @property
    def origin(self) -> str:
        return parse_vkey(self.key).name


class Log(NamedTuple):
    """Who keeps the log, under which key, whose name is the log's origin, and where."""

    keeper: str
    key: VerifierKey
    url: str


class Lacking(NamedTuple):
    """What an adoption still needs: how many members of either text, and whose assent by name."""

    members: int
    next_members: int
    named: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.members > 0 or self.next_members > 0 or self.named)


@lru_cache(maxsize=256)
def kept_by(ground: Ground, key: str, url: str) -> Policy:
    """The text's witnesses over the log that was reopened under this key (a vkey).

    Raises:
        Malformed: the key has the name and id of a witness's.
    """
    return replace(ground.policy, logs=((parse_vkey(key), url),))


class Chain(msgspec.Struct, frozen=True, gc=False):
    """`texts` from the first to that in force, `proposals` by digest, and what was adopted and has not turned.

    `reopened`: where the log went on under another origin, in order.
    """

    texts: tuple[Text, ...]
    proposals: Mapping[str, Proposal] = {}
    coming: Coming | None = None
    reopened: tuple[Reopened, ...] = ()

    @property
    def now(self) -> Text:
        """The text in force."""
        return self.texts[-1]

    @property
    def open(self) -> bool:
        """Whether a turn has not closed yet."""
        return len(self.texts) > 1 and self.now.closed < 0

    @property
    def wish(self) -> tuple[Policy, ...]:
        """Whose quorum is asked for as well, so that a text that was adopted may turn. Treaty 11.2."""
        return () if self.coming is None else (self.policy(self.coming.ground),)

    @property
    def under_way(self) -> tuple[Ground, ...]:
        """The texts whose quorums may have to do with what follows: that in force, and what it goes to or comes from.

        Treaty 11.8.
        """
        texts = [t.ground for t in self.texts[-2 if self.open else -1 :]]
        return (*texts, *([self.coming.ground] if self.coming else []))

    @property
    def log(self) -> Log:
        """The log, as it is kept now."""
        party = self.now.treaty.with_role("log")[0]
        assert party.log_key is not None
        if self.reopened and (last := self.reopened[-1]).key != party.log_key.text:
            return Log(last.keeper, parse_vkey(last.key), last.url)
        return Log(party.name, party.log_key, party.log_url)

    @property
    def origins(self) -> tuple[str, ...]:
        """Under which the log has been kept, or was to be kept, in order."""
        first = self.texts[0].ground.policy.logs[0][0].name
        found = [first, *(name for r in self.reopened for name in (*r.over, r.origin))]
        return tuple(dict.fromkeys(found))

    @property
    def witnesses(self) -> Mapping[str, str]:
        """Digests of all keys that a text has entered for a witness → whose."""
        texts = (*(t.treaty for t in self.texts), *([self.coming.treaty] if self.coming else []))
        once = (p for text in texts for p in text.with_role("witness"))
        return {digest_of(p.witness_key.key): p.name for p in once if p.witness_key}

    @property
    def log_keys(self) -> frozenset[str]:
        """Digests of all keys under which the log has been kept."""
        first = self.texts[0].ground.policy.logs[0][0]
        return frozenset(digest_of(k.key) for k in (first, *(parse_vkey(r.key) for r in self.reopened)))

    def lapse(self, tripped: int, time: int) -> int:
        """When permits have lapsed that a void part of the log may have let anybody give, where the trip of entry
        `tripped` is that of a reopening, and the first stamp over it is of `time` (POSIX s). Treaty 11.9."""
        return max((time + r.lasts for r in self.reopened if r.entry == tripped), default=0)

    def policy(self, ground: Ground, size: int | None = None) -> Policy:
        """Whom to believe about a checkpoint of `size` entries by a text; by default, about the newest."""
        for reopened in reversed(self.reopened):
            if size is None or reopened.entry < size:
                return kept_by(ground, reopened.key, reopened.url)
        return ground.policy

    def find(self, digest: str) -> Text | None:
        """The text in force, or one before it, with this digest."""
        return next((t for t in reversed(self.texts) if t.ground.digest == digest), None)

    def at(self, size: int) -> Text:
        """The text by which the entry after the first `size` is judged."""
        return next(t for t in reversed(self.texts) if t.turned < size)

    def need(self, size: int) -> tuple[Policy, ...]:
        """Whom a checkpoint of `size` entries must be cosigned by: quorums of all of these. Treaty 11.3."""
        at = next(i for i in reversed(range(len(self.texts))) if self.texts[i].turned < size)
        text = self.texts[at]
        if at == 0 or (0 <= text.closed < size):
            return (self.policy(text.ground, size),)
        return self.policy(self.texts[at - 1].ground, size), self.policy(text.ground, size)

    def spans(self, now: int) -> tuple[tuple[Treaty, int], ...]:
        """The texts so far, each with the time at which the next one began, or `now` (POSIX s)."""
        ends = [t.since for t in self.texts[1:]]
        return tuple((t.treaty, end) for t, end in zip(self.texts, [*ends, now], strict=True))

    def party(self, name: str) -> Party | None:
        """The party, as the newest text that has it enters it."""
        for text in reversed(self.texts):  # asked at every entry
            if name in text.treaty.parties:
                return text.treaty.parties[name]
        return None


def propose(
    chain: Chain, keyring: Keyring, members: Members, entry: int, issuer: str, body: Amend, next_: Treaty
) -> Chain:
    """Treaty 11.1. `next_` is what `body.text` says.

    Raises:
        Refused: PENDING, SUPERSEDED, ROLLBACK, FOREIGN, PROHIBITED, TAMPERED, REUSED_KEY, EQUIVOCATION, MISSING,
            FORGED, UNKNOWN_ISSUER, DUPLICATE: see the rule cited. Malformed.
    """
    text = chain.now.treaty
    if chain.coming is not None or chain.open:
        raise Refused(Reason.PENDING, "a succession is under way: amend when it has closed or lapsed (Treaty 11.1)")
    if body.amends != chain.now.ground.digest:
        raise Refused(Reason.SUPERSEDED, f"it amends {body.amends[:16]}…, which is not in force (Treaty 11.1)")
    check_next(text, next_, chain.log)
    fresh, ground = fresh_parties(chain, next_, keyring, members), Ground(next_)
    assents: dict[str, Assented] = {}
    joined: dict[str, Last] = {}
    for data in body.joining:
        party, envelope, statement = joiner(data, chain.now.ground.digest, next_, ground.asked)
        assents[party.name], joined[party.name] = Assented(entry, statement.expires), Last(statement.seq, envelope.what)
    if set(joined) != set(fresh) or len(joined) != len(body.joining):
        odd = ", ".join(sorted(set(joined) ^ set(fresh))) or "one twice"
        text_ = f"whoever has no key yet assents with the new one, and nobody else: {odd} (Treaty 11.1)"
        raise Refused(Reason.MISSING, text_)
    if ground.digest in chain.proposals:
        raise Refused(Reason.DUPLICATE, "this text has been brought already: assent to it (Treaty 11.1)")
    others = {d: p for d, p in chain.proposals.items() if p.by != issuer}
    proposal = Proposal(ground, issuer, entry, assents, joined)
    return msgspec.structs.replace(chain, proposals={**others, ground.digest: proposal})


def check_next(text: Treaty, next_: Treaty, log: Log) -> None:
    """That a text may follow another, whoever their parties are. `log` as `Chain.log`. Treaty 11.1.

    Raises:
        Refused: ROLLBACK, FOREIGN, PROHIBITED.
    """
    if next_.name != text.name:
        raise Refused(Reason.FOREIGN, f"the next text is called {text.name!r}, too (Treaty 11.1)")
    if next_.version != text.version + 1:
        what = f"version {next_.version} does not follow version {text.version} (Treaty 11.1)"
        raise Refused(Reason.ROLLBACK, what)
    if next_.rules < text.rules:
        raise Refused(Reason.ROLLBACK, f"rules never fall: {next_.rules} after {text.rules} (Treaty 11.1)")
    kept = next_.with_role("log")[0]
    if (kept.name, kept.log_key) != (log.keeper, log.key):
        what = f"an amendment leaves the log with {log.keeper} and its key {log.key.text} (Treaty 11.1, 11.8)"
        raise Refused(Reason.PROHIBITED, what)


def fresh_parties(chain: Chain, next_: Treaty, keyring: Keyring, members: Members) -> tuple[str, ...]:
    """Who speaks with a new key under the next text: who joins, and an equivocator that is re-admitted. Treaty 11.6.

    Raises:
        Refused: TAMPERED, another key than the one in force; REUSED_KEY, a key that the chain has known;
            EQUIVOCATION, an equivocator that keeps its key.
    """
    text, known = chain.now.treaty, keyring.digests
    witnesses, fresh = chain.witnesses, []
    seen = known | witnesses.keys() | chain.log_keys
    for name, p in next_.parties.items():
        keys, before = keyring.of.get(name), text.parties.get(name)
        void = name in members.equivocators
        new = keys is None or before is None or void
        if new:
            fresh.append(name)
            shown = [digest_of(p.key), p.next]
            shown += [digest_of(p.signer_key), p.signer_next] if p.signer_key else []
            if seen.intersection(shown):
                reason = Reason.EQUIVOCATION if void else Reason.REUSED_KEY
                raise Refused(reason, f"{name} comes with keys that the log has never known (Treaty 11.6)")
        else:
            assert before is not None
            _check_kept(name, p, before, keyring, seen)
        came = before is None or before.witness_key != p.witness_key
        shown_as = digest_of(p.witness_key.key) if came and p.witness_key else ""
        if shown_as in known | chain.log_keys or witnesses.get(shown_as, name) != name:
            raise Refused(Reason.REUSED_KEY, f"{name} witnesses with a key that served for something else (Treaty 1.1)")
    return tuple(sorted(fresh))


def _check_kept(name: str, p: Party, before: Party, keyring: Keyring, seen: frozenset[str]) -> None:
    keys = keyring.of[name]
    held = keys.statement
    if (p.key, p.next) != (before.key, before.next) and (p.key.text, p.next) != (held.key, held.next):
        what = f"{name} keeps the key that it has: a key changes by the party's own word (Treaty 12.1)"
        raise Refused(Reason.TAMPERED, what)
    if p.signer_key is None:
        return
    shown = (p.signer_key.text, p.signer_next)
    if before.signer_key is None:
        if seen.intersection((digest_of(p.signer_key), p.signer_next)):
            raise Refused(Reason.REUSED_KEY, f"{name} signs permits with a key that the log knows (Treaty 11.1)")
    elif shown not in ((before.signer_key.text, before.signer_next), (keys.signer.key, keys.signer.next)):
        what = f"{name} keeps the permit key that it has: it changes by the party's own word (Treaty 12.1)"
        raise Refused(Reason.TAMPERED, what)


def assent(chain: Chain, entry: int, issuer: str, digest: str, expires: int) -> Chain:
    """Treaty 11.1.

    Raises:
        Refused: FOREIGN, nobody has brought such a text; REPLAYED, another was adopted.
    """
    proposal = chain.proposals.get(digest)
    if proposal is None:
        under_way = chain.coming is not None or chain.open
        reason = Reason.REPLAYED if under_way else Reason.FOREIGN
        raise Refused(reason, "no such next text is before the parties (Treaty 11.1)")
    assents = {**proposal.assents, issuer: Assented(entry, expires)}
    proposal = msgspec.structs.replace(proposal, assents=assents)
    return msgspec.structs.replace(chain, proposals={**chain.proposals, digest: proposal})


def lacking(chain: Chain, proposal: Proposal, members: Members, time: int) -> Lacking:
    """What the adoption of a next text still needs. Treaty 11.1."""
    text, next_ = chain.now.treaty, proposal.treaty
    void = members.equivocators
    valid = {name for name, a in proposal.assents.items() if time < a.expires}
    old = {name for name in valid if name in text.parties and name not in void}
    # Who is re-admitted speaks for the next text alone, with the key that this enters.
    new = {name for name in valid if name in next_.parties and (name not in void or name in proposal.joined)}
    named: set[str] = set()
    for name, p in next_.parties.items():
        before = text.parties.get(name)
        given = before is None or not p.roles <= before.roles or p.witness_key != before.witness_key
        if given or name in void or name in members.active:
            named.add(name)
    return Lacking(
        max(0, text.members - len(old)), max(0, next_.members - len(new)), tuple(sorted(named - new))
    )


def adopt(chain: Chain, digest: str, entry: int, time: int) -> Chain:
    """The chain with a proposal adopted; all others are void. Treaty 11.1, 11.2."""
    proposal, notice = chain.proposals[digest], chain.now.treaty.amendment_notice
    due = max(proposal.treaty.effective, time + notice)
    assents = tuple(sorted(proposal.assents))
    coming = Coming(proposal.ground, entry, time, due, due + notice, assents, proposal.joined)
    return msgspec.structs.replace(chain, proposals={}, coming=coming)


def turned(chain: Chain, entry: int, time: int) -> Chain:
    """The chain with the adopted text in force from the stamp of `entry` on. Treaty 11.2."""
    assert chain.coming is not None
    text = Text(chain.coming.ground, entry, time)
    return msgspec.structs.replace(chain, texts=(*chain.texts, text), coming=None)


def closed(chain: Chain, entry: int) -> Chain:
    """The chain after the stamp of `entry`, which closes the succession. Treaty 11.3."""
    text = msgspec.structs.replace(chain.now, closed=entry)
    return msgspec.structs.replace(chain, texts=(*chain.texts[:-1], text))


def reopened(chain: Chain, entry: int, r: Reopening) -> Chain:
    """The chain whose log goes on behind `entry` as it says. What was proposed names the old log: it falls."""
    lasts = max(ground.lasts for ground in chain.under_way)
    found = Reopened(entry, r.keeper, r.log_key, r.url, r.over, lasts)
    return msgspec.structs.replace(chain, proposals={}, reopened=(*chain.reopened, found))


def without(chain: Chain, party: str, since: int) -> Chain:
    """The chain without the assents of a party from an entry on, and what it brought. Treaty 2.4, 12.2."""
    proposals = {}
    for digest, p in chain.proposals.items():
        if p.by == party and p.entry >= since:
            continue
        kept = {n: a for n, a in p.assents.items() if n != party or a.entry < since}
        proposals[digest] = msgspec.structs.replace(p, assents=kept)
    return msgspec.structs.replace(chain, proposals=proposals)
