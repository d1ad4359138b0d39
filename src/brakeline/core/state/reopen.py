"""What a reopening does to the state, and whether it may: rules 11.8 and 11.9."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from brakeline.core import reopening
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.reopening import Closing, Reopening
from brakeline.core.state import ballot
from brakeline.core.state import chain as c
from brakeline.core.state import events as e
from brakeline.core.state import keyring as k
from brakeline.core.state.events import Event
from brakeline.core.state.state import State
from brakeline.core.statement import Envelope, signing_parties
from brakeline.core.tlog.policy import verify_all
from brakeline.core.treaty import Treaty
from brakeline.core.treaty.parties import digest_of

_EPOCHS: Final = 2**20  # that a log may have come to in its last part, which nobody has


class _Bench(NamedTuple):
    """Who decides by one text: keys for statements → party; and by party, keys of permit signers and of witnesses."""

    treaty: Treaty
    speakers: Mapping[PublicKey, str]
    signers: Mapping[str, PublicKey]
    witnesses: Mapping[str, PublicKey]

    def key(self, closing: Closing) -> PublicKey | None:
        """The key by which a closing would be this party's."""
        held = (self.witnesses if closing.role == "witness" else self.signers).get(closing.party)
        return held if held and held.id == closing.key else None

    def closed(self, r: Reopening, role: reopening.Role, origin: str) -> frozenset[str]:
        return frozenset(x.party for x in reopening.closings_of(r, role, origin) if self.key(x))


def benches(state: State) -> Iterator[_Bench]:
    """Of every text whose quorums may have to do with what the log held last: that in force, and the one that it goes
    to or comes from. What one of them decided alone would not bind the others' witnesses."""
    chain, void = state.chain, state.members.equivocators
    for ground in chain.under_way:
        coming = chain.coming if chain.coming and ground == chain.coming.ground else None
        speakers: dict[PublicKey, str] = {}
        signers: dict[str, PublicKey] = {}
        for name, p in ground.treaty.parties.items():
            new = coming is not None and name in coming.joined
            keys = k.entered(p, -1) if new else state.keyring.of[name]
            if keys.statement.key and (new or name not in void):
                speakers[PublicKey.parse(keys.statement.key)] = name
            given = coming is not None and not new and not chain.now.treaty.parties[name].signer_key
            signs = k.entered(p, -1).signer.key if given else keys.signer.key
            if "permit-signer" in p.roles and signs:
                signers[name] = PublicKey.parse(signs)
        once = ground.treaty.with_role("witness")
        witnesses = {p.name: p.witness_key.key for p in once if p.witness_key}
        yield _Bench(ground.treaty, speakers, signers, witnesses)


def check(state: State, envelope: Envelope) -> Reopening:
    """That a reopening goes on from this very state: its quorums, and that it begins late enough. Treaty 11.8.

    Raises:
        Malformed. Refused: FOREIGN, of another log; DUPLICATE, under an origin that it had; ROLLBACK, it begins at
            another size, or too early; TAMPERED, from another tree; REUSED_KEY; UNKNOWN_ISSUER, a keeper or closer
            that the text does not know; FORGED; NO_QUORUM.
    """
    r, chain = reopening.check(envelope.payload), state.chain
    if (r.treaty, r.over[0]) != (state.first, chain.log.key.name):
        raise Refused(Reason.FOREIGN, f"it reopens another log than {chain.log.key.name} (Treaty 11.8)")
    if r.key.name in chain.origins:
        raise Refused(Reason.DUPLICATE, f"the log has been {r.key.name} before: it takes another origin (Treaty 11.8)")
    cosigned = verify_all(r.stamp.encode(), chain.need)
    if cosigned.checkpoint.size != state.size:
        text = f"it begins behind {cosigned.checkpoint.size} entries, and here are {state.size} (Treaty 11.8)"
        raise Refused(Reason.ROLLBACK, text)
    if cosigned.checkpoint.root != state.root():
        raise Refused(Reason.TAMPERED, "it begins from another tree than this one (Treaty 11.8)")
    if any(r.keeper not in ground.treaty.parties for ground in chain.under_way):
        raise Refused(Reason.UNKNOWN_ISSUER, f"{r.keeper[:60]!r} is no party: it keeps no log (Treaty 11.8)")
    if digest_of(r.key.key) in state.keyring.digests | chain.witnesses.keys() | chain.log_keys | _entered(chain):
        raise Refused(Reason.REUSED_KEY, "the new log's key is one that the log knows (Treaty 11.8)")
    for ground in chain.under_way:
        c.kept_by(ground, r.log_key, r.url)  # no name and key id that a witness has
    check_closed(state, r, size=state.size)
    check_members(state, r, envelope, size=state.size)
    return r


def _entered(chain: c.Chain) -> frozenset[str]:
    """Digests of the keys that an adopted text enters."""
    parties = chain.coming.treaty.parties.values() if chain.coming else ()
    keys = {digest_of(key) for p in parties for key in (p.key, p.signer_key) if key}
    return frozenset(keys | {x for p in parties for x in (p.next, p.signer_next) if x})


def _check_closing(r: Reopening, closing: Closing, sides: tuple[_Bench, ...], size: int, epoch: int) -> None:
    keys = {key for side in sides if (key := side.key(closing))}
    if closing.origin not in r.over[: 1 if closing.role == "permit-signer" else None] or not keys:
        text = f"{closing.party[:60]!r} closes {closing.origin[:60]!r} as {closing.role}: nobody asked it (Treaty 11.8)"
        raise Refused(Reason.UNKNOWN_ISSUER, text)
    for key in keys:
        reopening.check_closing(closing, r.treaty, key)
    if closing.epoch > epoch + _EPOCHS:
        raise Malformed(f"{closing.party} has signed permits of an epoch that no log has come to: {closing.epoch}")
    if closing.settled > size:
        text = f"{closing.party} has seen {closing.settled} entries stamped; it begins behind {size}"
        raise Refused(Reason.ROLLBACK, f"{text} (Treaty 11.8)")
    if closing.origin != r.over[0] and closing.settled:
        raise Refused(Reason.ROLLBACK, f"{closing.origin} has stamps: the log goes on from there (Treaty 11.8)")


def check_members(state: State, r: Reopening, envelope: Envelope, *, size: int) -> None:
    """That members have signed it, as many as decide by what is known here. `size` is where it begins.

    Raises:
        Refused: FORGED; NO_QUORUM.
    """
    for side in _asked(state, r, size):
        who = signing_parties(envelope, side.speakers)
        if len(who) < side.treaty.members:
            raise _too_few(who, "signed it", side.treaty.members, side.treaty)


def may_be_signed(state: State, envelope: Envelope) -> bool:
    """Whether enough members of one text have signed it: a state that is behind may not know that this has closed.

    Raises:
        Refused(FORGED).
    """
    sides = benches(state)
    return any(len(signing_parties(envelope, side.speakers)) >= side.treaty.members for side in sides)


def check_closed(state: State, r: Reopening, *, size: int) -> None:
    """That witnesses and permit signers have closed the origin, by what is known here, and name no stamp beyond `size`.

    Raises as `check`.
    """
    sides = tuple(benches(state))
    for closing in r.closings:
        _check_closing(r, closing, sides, size, state.epoch)
    for side in _asked(state, r, size):
        _check_closers(r, side)


def _asked(state: State, r: Reopening, size: int) -> tuple[_Bench, ...]:
    """Whose quorums it takes.

    Not those of a text that waits, where so many witnesses of the one in force have cosigned nothing beyond `size` that
    nothing beyond it can have been published: it has not turned, and never will there. Who joins has no veto.
    """
    sides = tuple(benches(state))
    if state.chain.coming is None:
        return sides
    now = sides[-2]
    still = {x.party for x in reopening.closings_of(r, "witness", r.over[0]) if x.size <= size and now.key(x)}
    return sides[:-1] if now.treaty.policy.quorum.holds(frozenset(still)) else sides


def holds(state: State, closing: Closing) -> bool:
    """Whether a closing is what its party's key signed, by what is known here."""
    keys = {key for side in benches(state) if (key := side.key(closing))}
    try:
        for key in keys:
            reopening.check_closing(closing, state.first, key)
    except BrakelineError:
        return False
    return bool(keys)


def _check_closers(r: Reopening, side: _Bench) -> None:
    t = side.treaty
    for origin in r.over:
        who = side.closed(r, "witness", origin)
        if not t.policy.quorum.holds(who):
            raise _too_few(who, f"closed {origin} as witnesses", t.witnesses, t)
    who = side.closed(r, "permit-signer", r.over[0])
    if len(who) < t.permit:
        raise _too_few(who, "closed it as permit signers", t.permit, t)


def _too_few(who: frozenset[str], did: str, need: int, t: Treaty) -> Refused:
    names = ", ".join(sorted(who)) or "nobody"
    return Refused(Reason.NO_QUORUM, f"{names} {did}; version {t.version} takes {need} (Treaty 11.8)")


def reopen(state: State, entry: int, r: Reopening) -> tuple[State, tuple[Event, ...]]:
    """The log goes on behind this entry under another origin, and the brake is on. Treaty 11.8, 11.9."""
    cause, epoch = e.ByReopening(r.key.name), max((x.epoch for x in r.closings), default=0)
    box = ballot.reopened(state.ballot, cause, epoch, entry=entry, time=state.time)
    after = msgspec.structs.replace(state, chain=c.reopened(state.chain, entry, r), ballot=box)
    return after, (
        e.Reopened(entry=entry, origin=cause.origin, keeper=r.keeper, over=r.over),
        e.Tripped(entry=entry, cause=cause, epoch=box.brake.epoch, time=state.time),
    )
