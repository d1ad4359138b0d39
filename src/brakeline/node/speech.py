"""With which key, and under which text, a party speaks now: what the log has in force, not what a home remembers.

Two homes with one key speak for the party, too: one of them is a copy. The log is the only place where they meet, so
before anything is signed, what the log holds of the party must be what this home has said. A vote to trip alone is not
kept back by that: it goes behind what the log holds.
"""

from collections.abc import Iterator

from brakeline.core.errors import Malformed, Misuse, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.state import State
from brakeline.core.state.members import LANES, Last, Member
from brakeline.core.succession import Purpose
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.treaty import Lane
from brakeline.node.home import Home
from brakeline.node.logclient import LogClient
from brakeline.node.outbox import Outbox


def settled(home: Home, outbox: Outbox, state: State) -> Outbox:
    """The outbox that speaks for the home at this state: the given one, or one with the key that the log went on to.

    What waited under the old key is signed anew. The key that the log has gone on to is in use from here on, whoever of
    this home's processes brought the change to the log.

    Raises:
        Misuse: the log has a key in force that this home does not hold. As `Home.promote`, `Outbox`.
    """
    outbox.under(state.treaty)
    outbox.follow(r.entry for r in state.chain.reopened)
    keys = state.keyring.of.get(home.name)
    # It joins when the next text turns, it was revoked, or all is as ever.
    if keys is None or keys.statement.key in ("", outbox.key.text):
        return outbox
    promoted(home, "statement", state)
    current = home.key("statement")
    if current.public.text != keys.statement.key:
        if home.was("statement", keys.statement.key):
            return outbox  # what has been seen of the log is older than this home
        text = f"the log has a key of {home.name} in force that is not in this home"
        raise Misuse(text, hint="is this the right home, or an old copy of it?")
    if outbox.key.text != current.public.text:
        outbox = outbox.with_key(current)
        outbox.carry()
    return outbox


def promoted(home: Home, purpose: Purpose, state: State) -> bool:
    """Go on to the home's next key, if the log has it in force."""
    held = state.keyring.of[home.name].of(purpose).key
    return bool(held) and home.promote(purpose, held)


def newest(state: State, outbox: Outbox, lane: Lane) -> Last:
    """The outbox's newest statement of a lane that the log holds: of the key that it signs with (Treaty 12.1)."""
    keys = state.keyring.of.get(outbox.issuer)
    if keys is None or keys.statement.key != outbox.key.text:
        return Last()
    return state.members.by_name.get(outbox.issuer, Member()).of(lane)


def alone(state: State, outbox: Outbox, lane: Lane) -> Last:
    """As `newest`, where no other home speaks for the party.

    Raises:
        Refused(EQUIVOCATION), for later: the log holds what this outbox never gave.
    """
    for each in LANES:
        last = newest(state, outbox, each)
        if not outbox.gave(each, last):
            raise Refused(
                Reason.EQUIVOCATION,
                f"the log holds number {last.seq} of {outbox.issuer}'s lane {each}, which this home never gave: "
                "it is an old copy, or another one speaks for the party",
                hint="stop the other one, and `brakeline key reclaim`; if there is none, `brakeline key rotate`",
                later=True,
            )
    return newest(state, outbox, lane)


def compared(outbox: Outbox, client: LogClient, state: State) -> int:
    """Let a home that is a copy take back what the log holds of it; returns how much it did not know.

    Raises:
        Malformed: what the log sends is not what led to `state`; nothing has been taken. As `Outbox.take_back`.
    """
    if not outbox.restored:
        return 0
    own = list[tuple[int, bytes]]()

    def leaves() -> Iterator[bytes]:
        for index, entry in enumerate(client.stream(0, state.size)):
            if outbox.may_be_own(entry):  # the rest of a log need not be held at once
                own.append((index, entry))
            yield leaf_hash(entry)

    if Frontier().extend(leaves()).root() != state.root():
        raise Malformed("the log sent other entries than before", hint="this home says nothing until it has compared")
    return outbox.take_back(own)


class PermitKey:
    """The key with which a home signs permits at a state, or None. A change of keys reaches it without a restart."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._loaded: dict[str, PrivateKey] = {}

    def __call__(self, state: State) -> PrivateKey | None:
        keys = state.keyring.of.get(self._home.name)
        held = keys.signer.key if keys else ""
        if held and held not in self._loaded:
            loaded = (self._home.key("signer", which) for which in ("", "next") if self._home.holds("signer", which))
            self._loaded = {key.public.text: key for key in loaded}
        return self._loaded.get(held)
