"""What succession does to the whole state: texts that follow one another, and keys that change. Articles 11 and 12.

Nothing is lifted, freed or un-barred where a text turns. Phase, epoch, lapse, bars, heads, runs, edges, compute,
readings, pledges with their notices and votes to trip go over; votes to lift do not, or a turn could itself lift.
"""

import msgspec

from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.pledge import Assent
from brakeline.core.state import chain as c
from brakeline.core.state import events as e
from brakeline.core.state import keyring as k
from brakeline.core.state import members, readings, tiers
from brakeline.core.state.events import Event
from brakeline.core.state.state import State
from brakeline.core.statement import Statement
from brakeline.core.succession import Amend, KeyChange, Purpose, Revocation, check_assent, check_change
from brakeline.core.tlog.policy import verify_cosigned
from brakeline.core.treaty import parse_treaty
from brakeline.core.treaty.parties import digest_of
from brakeline.core.treaty.text import rules_of

Step = tuple[State, tuple[Event, ...]]


def _with(state: State, **parts: object) -> State:
    return msgspec.structs.replace(state, **parts)


def amend(state: State, entry: int, issuer: str, body: Amend) -> Step:
    """Treaty 11.1. Raises as `chain.propose`, and `parse_treaty`."""
    data, mine = body.text.encode(), state.treaty.rules
    rules = rules_of(data)
    if isinstance(rules, int) and rules > mine:
        # Treaty 1.4: also to a build that knows them, or two builds would judge one log differently.
        raise Malformed(f"rules {mine} know no text of rules {rules} (Treaty 11.1)")
    next_ = parse_treaty(data)
    after = c.propose(state.chain, state.keyring, state.members, entry, issuer, body, next_)
    return _with(state, chain=after), (e.Proposed(entry=entry, text=next_.digest, by=issuer),)


def assent(state: State, entry: int, s: Statement, body: Assent) -> State:
    """To the text in force (Treaty 2.1), or to a next one (Treaty 11.1).

    Raises:
        Refused: FOREIGN, to another text, or to articles that this build does not apply; as `chain.assent`.
    """
    if not state.treaty.amends or body.text == state.ground.digest:
        check_assent(body, state.ground.asked)
        return _with(state, members=members.assent(state.members, s.issuer))
    if state.chain.find(body.text):
        raise Refused(Reason.SUPERSEDED, "assent to a text that is no longer in force (Treaty 11.1)")
    after = c.assent(state.chain, entry, s.issuer, body.text, s.expires)
    check_assent(body, after.proposals[body.text].ground.asked)
    return _with(state, chain=after)


def change_key(state: State, entry: int, issuer: str, body: KeyChange, *, itself: bool) -> Step:
    """Treaty 12.1. `itself`: it is signed by the party's next key for statements.

    Raises:
        Refused: FORGED, a key for statements is shown by another one; as `keyring.change`.
    """
    if {body.next, digest_of(check_change(body))} & (state.chain.witnesses.keys() | state.chain.log_keys):
        raise Refused(Reason.REUSED_KEY, "a key that witnesses, or has kept the log, serves nothing else (Treaty 1.1)")
    after = _with(state, keyring=k.change(state.keyring, entry, issuer, body))
    if body.purpose == "statement" and not itself:
        # Whoever stole the old key would see the next one in its owner's words, and name another to come after it.
        raise Refused(Reason.FORGED, "a key for statements is shown by itself: it signs this (Treaty 12.1)")
    return after, (e.Rekeyed(entry=entry, party=issuer, purpose=body.purpose),)


def revoke(state: State, entry: int, issuer: str, body: Revocation) -> Step:
    """Treaty 12.2. What was done stays done: history, epoch, phase and bars. What stands, and was said since, falls.

    Raises:
        Malformed: `since` is an entry that is not there. Refused: as `keyring.revoke`.
    """
    if not 0 <= body.since <= entry:
        raise Malformed(f"a revocation counts since an entry that the log holds, not since {body.since}")
    seats = state.members.seats - state.members.equivocators
    after = k.revoke(state.keyring, entry, issuer, body, state.treaty.members, seats)
    fell = after.of[body.party].of(body.purpose).key == ""
    state = _with(state, keyring=after)
    if not fell:
        asked = e.Asked(entry=entry, party=body.party, purpose=body.purpose, since=body.since, by=issuer)
        return state, (asked,)
    event = e.Revoked(entry=entry, party=body.party, purpose=body.purpose, since=body.since)
    if body.purpose != "statement":
        return state, (event,)
    box = state.ballot.without(body.party) if after.of[body.party].voted >= body.since else state.ballot
    left = readings.without(state.treaty, state.readings, body.party, body.since, active=state.voice)
    notice = state.time + state.treaty.withdrawal_notice
    return _with(
        state,
        ballot=box,
        readings=left,
        chain=c.without(state.chain, body.party, body.since),
        members=members.part(state.members, body.party, body.since, notice),
    ), (event,)


def settle(before: State, state: State, entry: int) -> Step:
    """Adopt a next text as soon as enough have assented. Treaty 11.1."""
    changed = state.chain is not before.chain or state.members is not before.members
    if not (state.chain.proposals and changed):
        return state, ()
    for digest, p in sorted(state.chain.proposals.items(), key=lambda item: item[1].entry):
        if not c.lacking(state.chain, p, state.members, state.time):
            after = c.adopt(state.chain, digest, entry, state.time)
            assert after.coming is not None
            event = e.Adopted(entry=entry, text=digest, due=after.coming.due, lapses=after.coming.lapses)
            return _with(state, chain=after), (event,)
    return state, ()


def stamped(state: State, entry: int, size: int, time: int, note: bytes) -> Step:
    """What a stamp does to a succession: it turns, lapses or closes. Treaty 11.2, 11.3."""
    chain, coming = state.chain, state.chain.coming
    if chain.open and size > chain.now.turned:
        return _with(state, chain=c.closed(chain, entry)), (e.Closed(entry=entry, text=chain.now.ground.digest),)
    if coming is None:
        return state, ()
    if time >= coming.lapses:
        event = e.Unadopted(entry=entry, text=coming.ground.digest)
        return _with(state, chain=msgspec.structs.replace(chain, coming=None)), (event,)
    if size <= coming.entry or time < coming.due:
        return state, ()
    try:
        verify_cosigned(note, chain.policy(coming.ground, size))
    except Refused:  # the next text's witnesses are not there: the present one stays in force
        return state, ()
    return _turn(state, coming, entry, time)


def _turn(state: State, coming: c.Coming, entry: int, time: int) -> Step:
    text, next_ = state.treaty, coming.treaty
    parties = members.succeed(state.members, text, next_, coming.assents, coming.joined, coming.time)
    keys = state.keyring
    for name, p in next_.parties.items():
        if name in coming.joined:
            old = keys.of.get(name)
            past = [] if old is None else _all(name, old, entry)
            keys = k.unasked(keys, name, 0).put(name, k.entered(p, entry), *past)
        elif p.signer_key and not text.parties[name].signer_key:
            old, signer = keys.of[name], k.Key(p.signer_key.text, p.signer_next, entry)
            past = [k.Past(name, "signer", old.signer.key, old.signer.since, entry)] if old.signer.key else []
            keys = keys.put(name, msgspec.structs.replace(old, signer=signer), *past)
    runs = state.runs
    for run in sorted(runs.by_id.values(), key=lambda run: run.index):
        # Treaty 11.6: what they decided before they left or equivocated is not said anew with their names.
        left = {tier: tuple(p for p in by if p not in coming.joined) for tier, by in run.designated.items()}
        run = msgspec.structs.replace(run, designated=left)
        runs = runs.keep(tiers.classify(next_, run))  # settled or held as it was: a turn frees none
    state = _with(
        state,
        chain=c.turned(state.chain, entry, time),
        keyring=keys,
        members=parties,
        runs=runs,
        ballot=msgspec.structs.replace(state.ballot, lift={}),  # Treaty 11.4
        readings=readings.succeed(next_, state.readings, active=parties.voice),
    )
    return state, (e.Turned(entry=entry, text=coming.ground.digest, version=next_.version, time=time),)


def _all(name: str, keys: k.Keys, entry: int) -> list[k.Past]:
    purposes: tuple[Purpose, ...] = ("statement", "signer")
    held = ((purpose, keys.of(purpose)) for purpose in purposes)
    return [k.Past(name, purpose, key.key, key.since, entry) for purpose, key in held if key.key]
