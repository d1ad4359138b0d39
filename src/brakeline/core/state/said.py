"""Who says it, and whether it may be said: signature, number, budget, role.

What is checked goes from the cheap to the dear: the envelope's grammar, the signature, and only then what the signed
bytes say, so that only parties can make anybody work.
"""

import re
from typing import Final, NamedTuple

import msgspec

from brakeline.core import kinds
from brakeline.core.duty import Incident, Notice, Report
from brakeline.core.encoding import Wire, b64decode, sha256
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.finding import Answer, Retraction
from brakeline.core.lineage import Edge
from brakeline.core.run import Declaration
from brakeline.core.state import events as e
from brakeline.core.state import keyring as k
from brakeline.core.state import members
from brakeline.core.state.clock import SECONDS_A_DAY
from brakeline.core.state.events import Event
from brakeline.core.state.state import State
from brakeline.core.statement import Envelope, Statement, open_envelope, pae
from brakeline.core.succession import KeyChange, check_change
from brakeline.core.transcript import Head
from brakeline.core.treaty import Lane

# What an equivocator must still say: its duties last. Treaty 2.4
_STILL_SAID: Final = (Head, Declaration, Edge, Answer, Retraction, Incident, Notice, Report)
_KEY_CHANGE: Final = 4096  # bytes of a change of keys
MAX_DEPTH: Final = 32  # of lists and objects in one another in what is signed
_STRING: Final = re.compile(rb'(?s)"(?:[^"\\]|\\.)*(?:"|\\?\Z)')  # one without an end reaches to the end: no way back
_NOT_MARKS: Final = bytes(set(range(256)) - set(b"[]{}"))


class Said(NamedTuple):
    """A statement whose signature holds, as log entry `entry` with leaf hash `leaf`.

    `rekeys`: its issuer's next key signed it, and with it numbers begin again.
    """

    entry: int
    leaf: bytes
    envelope: Envelope
    statement: Statement
    digest: str
    lane: Lane
    rekeys: bool = False

    @property
    def kind(self) -> str:
        return self.envelope.kind

    @property
    def what(self) -> str:
        """Kind and digest, as `Envelope.what`."""
        return f"{self.kind} {self.digest}"

    @property
    def issuer(self) -> str:
        return self.statement.issuer


def authenticate(state: State, data: bytes, index: int = -1, leaf: bytes = b"") -> Said:
    """A statement of a party to this treaty, by its signature.

    Raises:
        Malformed: not a statement. Refused: UNKNOWN_ISSUER, FORGED, FOREIGN.
    """
    envelope = open_envelope(data)
    if len(envelope.signatures) != 1:
        raise Refused(Reason.FORGED, "a statement carries one signature, its issuer's")
    speaker = state.keyring.speaker(envelope.signatures[0][0])
    rekeys = speaker is None
    speaker = speaker or _newcomer(state, envelope)
    if not speaker.key.verify(envelope.signatures[0][1], pae(envelope.kind, envelope.payload)):
        raise Refused(Reason.FORGED, f"the {envelope.kind} is not signed by {speaker.party}'s key")
    check_depth(envelope.payload)
    statement = envelope.statement
    if statement.issuer != speaker.party:
        raise Refused(Reason.FORGED, f"{speaker.party} signed in the name of {statement.issuer[:60]!r}")
    if statement.treaty != state.ground.digest:
        _check_text(state, statement.treaty)
    statement.check()
    lane = kinds.lane_of(envelope.kind, state.treaty.rules)
    return Said(index, leaf, envelope, statement, envelope.digest, lane, rekeys)


def _newcomer(state: State, envelope: Envelope) -> k.Speaker:
    """Who speaks with a key that does not count yet: only a party that goes on to its next one. Treaty 12.1.

    Raises:
        Refused: RETIRED_KEY; NOT_YET_VALID, later, of a party that joins at the turn; UNKNOWN_ISSUER. Malformed.
    """
    keyid, coming = envelope.signatures[0][0], state.chain.coming
    party = state.keyring.next_of(keyid) if state.treaty.amends and envelope.kind == "key" else None
    # The key is in what it signs, so that this is read before the signature: it is small.
    if party is not None and len(envelope.payload) <= _KEY_CHANGE:
        change = envelope.statement.body_as(KeyChange)
        # Whoever cannot sign makes nobody examine a key: only the one that was committed to is looked at closer.
        committed = state.keyring.of[party].statement.next
        if change.purpose == "statement" and sha256(b64decode(change.key)).hex() == committed:
            return k.Speaker(party, check_change(change))
    if past := state.keyring.retired(keyid):
        raise Refused(
            Reason.RETIRED_KEY,
            f"signed with a key of {past.party} that counts no more since entry {past.until} (Treaty 12.1, 12.2)",
            hint="sign it anew with the key in force",
        )
    if coming is not None and any(p.key.id == keyid for p in coming.treaty.parties.values()):
        text = "signed by a party that joins when the next text turns (Treaty 11.2)"
        raise Refused(Reason.NOT_YET_VALID, text, later=True)
    raise Refused(Reason.UNKNOWN_ISSUER, "signed by no party to the treaty")


def _check_text(state: State, digest: str) -> None:
    """That a statement names a text of this log's chain. Whether it must name the one in force, its kind says.

    Raises:
        Refused: FOREIGN; NOT_YET_VALID, later, the next text.
    """
    coming = state.chain.coming
    if coming is not None and coming.ground.digest == digest:
        text = "the statement names the next text, which has not turned yet (Treaty 11.2)"
        raise Refused(Reason.NOT_YET_VALID, text, later=True)
    if state.chain.find(digest) is None:
        raise Refused(Reason.FOREIGN, "the statement belongs to another treaty")


def check_in_force(state: State, said: Said) -> None:
    """That what concerns the text itself names the one in force. Treaty 11.4.

    Raises:
        Refused(SUPERSEDED): an older one.
    """
    if said.statement.treaty != state.ground.digest:
        text = f"a {said.kind} of this sense names the text in force, and this one does not (Treaty 11.4)"
        raise Refused(Reason.SUPERSEDED, text, hint="look at the text in force, and say it anew")


def check_depth(payload: bytes) -> None:
    """That what is signed is not nested deeply: how deep a reader gets depends on the stack that it has left.

    Raises:
        Malformed: deeper than `MAX_DEPTH`.
    """
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for mark in _STRING.sub(b"", payload).translate(None, _NOT_MARKS):
        depth += 1 if mark in b"[{" else -1
        if depth > MAX_DEPTH:
            raise Malformed(f"a statement is nested more than {MAX_DEPTH} deep")


def number(state: State, said: Said) -> tuple[State, Refused | None]:
    """Spend the statement's number, and charge it to its day. Treaty 1.5, 6.5.

    Whatever else becomes of it, its number is spent: what could be logged at another time must be signed anew.

    Raises:
        Refused: see `members.check_number`.
    """
    member = state.members.by_name[said.issuer]
    spent, refused, last = member.spent, None, member.last
    if not said.rekeys:  # the old key's numbers go on until the new key is in force: `rekeyed`
        last = members.next_number(member, said.statement, said.lane, said.what)
    try:
        spent = charge(state, said)
    except Refused as err:
        refused = err
    return msgspec.structs.replace(state, members=state.members.put(said.issuer, last=last, spent=spent)), refused


def rekeyed(state: State, said: Said) -> State:
    """Numbers begin anew with the key that is in force from this statement on, by which it is signed. Treaty 12.1."""
    last = members.next_number(members.Member(), said.statement, said.lane, said.what)
    return msgspec.structs.replace(state, members=state.members.put(said.issuer, last=last))


def charge(state: State, said: Said) -> tuple[members.Spent, ...]:
    """What its issuer has spent with this statement, if its dates let it count.

    Raises:
        Refused: NOT_YET_VALID and BUDGET, later; EXPIRED.
    """
    s, treaty = said.statement, state.treaty
    if state.clock.last is None:
        raise Refused(Reason.NOT_YET_VALID, "the log has recorded no time yet", later=True)
    members.check_dates(treaty, s, state.time)
    member, day = state.members.by_name[s.issuer], s.not_before // SECONDS_A_DAY
    return members.charge(treaty, member, said.lane, day, len(said.envelope.data), state.time)


def near_budget(state: State, said: Said) -> tuple[Event, ...]:
    spent = state.members.by_name[said.issuer].spent[-1]
    if not members.near_budget(state.treaty, spent, said.lane, len(said.envelope.data)):
        return ()
    return (e.NearBudget(entry=said.entry, issuer=said.issuer, lane=said.lane, day=spent.day),)


def read(state: State, said: Said) -> Wire:
    """The body, where the treaty's rules know its kind and its issuer may say it.

    Raises:
        Refused: UNKNOWN_KIND (Treaty 1.4), WRONG_ROLE (Treaty 1.2), EQUIVOCATION (Treaty 2.4). Malformed.
    """
    kind = state.ground.kinds.get(said.kind)
    if kind is None:
        raise Refused(Reason.UNKNOWN_KIND, f"rules {state.treaty.rules} know no {said.kind} (Treaty 1.4)")
    seat = state.chain.party(said.issuer)
    if kind.role is not None and (seat is None or kind.role not in seat.roles):
        text = f"{said.issuer} may not log a {said.kind}: it is no {kind.role} (Treaty 1.2)"
        raise Refused(Reason.WRONG_ROLE, text)
    if said.issuer not in state.members.seats and kind.body not in _STILL_SAID:
        text = f"{said.issuer} has left the treaty: its {said.kind} does not count (Treaty 11.5)"
        raise Refused(Reason.LEFT, text)
    if state.members.by_name[said.issuer].equivocated >= 0 and kind.body not in _STILL_SAID:
        raise Refused(Reason.EQUIVOCATION, f"{said.issuer} has equivocated: its {said.kind} does not count")
    return said.statement.body_as(kind.body)
