"""Two signed things that an honest log, or an honest witness, does not sign both: a file that anybody can check.

- Two histories: checkpoints of one size and other roots; or a smaller one whose root the larger one's tree does not
  have, which a consistency proof of the root that it does have shows. Its log signed both, and maybe witnesses did.
- A witness that goes backwards: at a later time it cosigned a smaller tree.
- A receipt, and a checkpoint under which its place holds another entry; or that was cosigned after its time, and is
  still too small to hold it.

Nothing here is believed of whoever brings it: whose keys count is said by a treaty that the reader trusts.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from brakeline.core.encoding import Wire, b64decode, b64encode, canonical, parse, unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.tlog.checkpoint import Checkpoint, parse_checkpoint, timestamp_of
from brakeline.core.tlog.merkle import (
    HashReader,
    consistency_proof,
    inclusion_proof,
    reader,
    root,
    verify_consistency,
    verify_inclusion,
)
from brakeline.core.tlog.note import ED25519, Note, VerifierKey, parse_note, verify_note
from brakeline.core.tlog.policy import Policy, verify_cosigned
from brakeline.core.tlog.receipt import is_receipt, parse_receipt, verify_receipt
from brakeline.core.treaty import Treaty

WHAT: Final = "brakeline/contradiction/v1"
_MAX_HASHES: Final = 64


class Contradiction(Wire, frozen=True):
    """`first` is the smaller checkpoint, or a receipt; `second` a checkpoint of the same log: the texts of two notes.

    Where the two speak for themselves, `have` and `hashes` are empty. Otherwise `have` (hex) is what the tree of
    `second` has in the place of what `first` says: the root of as many entries, or the leaf hash at the index; and
    `hashes` (base64) are the consistency or the inclusion proof of that.
    """

    what: Literal["brakeline/contradiction/v1"]
    first: str
    second: str
    have: str
    hashes: tuple[str, ...]

    def encode(self) -> bytes:
        return canonical(self) + b"\n"


class Fault(NamedTuple):
    """What a log (by its origin) or a witness (by its party) did."""

    role: Literal["log", "witness"]
    who: str
    what: str


def read_contradiction(data: bytes) -> Contradiction:
    """Read a file; verify nothing. Raises Malformed."""
    found = parse(data.removesuffix(b"\n"), Contradiction)
    if len(found.hashes) > _MAX_HASHES:
        raise Malformed(f"a proof has at most {_MAX_HASHES} hashes")
    return found


def ordered(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    """Two notes as a contradiction has them: the receipt or the smaller checkpoint first. Raises Malformed."""
    small, large = sorted((one, other), key=lambda note: -1 if is_receipt(note) else _checkpoint(note).size)
    return small, large


def contradiction(first: bytes, second: bytes, leaves: Sequence[bytes] = ()) -> Contradiction:
    """The file that shows how two notes contradict one another. `leaves`: of the tree of the larger, where it is known.

    Raises:
        Malformed: not a receipt or checkpoint, and a checkpoint; or `leaves` are not of its tree.
    """
    have, hashes = b"", tuple[bytes, ...]()
    first, second = ordered(first, second)
    new = _checkpoint(second)
    if leaves:
        if len(leaves) != new.size or root(leaves) != new.root:
            raise Malformed(f"these are not the {new.size} entries of the checkpoint")
        read: HashReader = reader(leaves)
        if is_receipt(first):
            index = parse_receipt(parse_note(first).text).index
            if index < new.size:
                have, hashes = leaves[index], inclusion_proof(index, new.size, read)
        elif 0 < (size := _checkpoint(first).size) < new.size:
            have, hashes = root(leaves[:size]), consistency_proof(size, new.size, read)
    return Contradiction(
        what=WHAT,
        first=first.decode(),
        second=second.decode(),
        have=have.hex(),
        hashes=tuple(b64encode(h) for h in hashes),
    )


def faults(found: Contradiction, policy: Policy) -> tuple[Fault, ...]:
    """Who did what, by the keys in the policy: the log first, then witnesses by name; nobody, where the two agree.

    Raises:
        Malformed: not two notes, or not a proof. Refused: FORGED, DUPLICATE, FOREIGN, NO_QUORUM, MISSING,
            TAMPERED: a signature or a proof does not hold, or is not of keys that are known here.
    """
    first, second = found.first.encode(), found.second.encode()
    have = unhex32(found.have) if found.have else None
    hashes = tuple(b64decode(h) for h in found.hashes)
    found_in = _word_broken if is_receipt(first) else _apart
    return tuple(found_in(first, second, have, hashes, policy))


def told(who: Sequence[Fault], treaty: Treaty) -> Iterator[str]:
    """A contradiction's faults, by the keys of a treaty: a line each."""
    yield f"treaty   {treaty.name} v{treaty.version}, sha256 {treaty.digest}"
    for fault in who:
        yield f"{fault.role:<8} {fault.who} {fault.what}"
    if (count := sum(fault.role == "witness" for fault in who)) > treaty.faults:
        yield f"         {count} witnesses: more than the {treaty.faults} that this treaty bears"


def _checkpoint(note: bytes) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


def _apart(
    first: bytes, second: bytes, have: bytes | None, hashes: Sequence[bytes], policy: Policy
) -> Iterator[Fault]:
    one, two = parse_note(first), parse_note(second)
    old, new = parse_checkpoint(one.text), parse_checkpoint(two.text)
    if old.origin != new.origin:
        raise Refused(Reason.FOREIGN, f"checkpoints of two logs, {old.origin!r} and {new.origin!r}")
    before, after = _signed(one, policy), _signed(two, policy)
    forked = old.size == new.size and old.root != new.root
    if old.size < new.size and have is not None:
        verify_consistency(old.size, have, new.size, new.root, hashes)
        forked = have != old.root
    if forked:
        sizes = f"{old.size} and of {new.size} entries" if old.size < new.size else f"{old.size} entries"
        for who, times in _both(before, after):
            text = f"two histories, of {sizes}"
            yield Fault("witness", who, f"cosigned {text}") if times else Fault("log", who, f"signed {text}")
    for who, times in _both(before, after):
        if times and old.size < new.size and times[0] > times[1]:
            text = f"cosigned {new.size} entries at {times[1]}, and {old.size} at {times[0]}"
            yield Fault("witness", who, f"{text}: its memory or its clock went back")


def _signed(note: Note, policy: Policy) -> dict[str, int | None]:
    """Who of the policy has signed the note: the log, without a time, and witnesses, each with the time it signed."""
    found: dict[str, int | None] = {}
    origin = parse_checkpoint(note.text).origin
    for key, line in verify_note(note, policy.known):
        if (name := policy.witness(line)) is not None:
            found[name] = timestamp_of(line)
        elif key.type == ED25519 and key.name == origin:
            found[origin] = None
    return found


def _both(before: dict[str, int | None], after: dict[str, int | None]) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Who has signed both, the log first: with the two times, where it is a witness."""
    for who in sorted(before.keys() & after.keys(), key=lambda who: (before[who] is not None, who)):
        a, b = before[who], after[who]
        yield who, (a, b) if a is not None and b is not None else None


def _word_broken(
    first: bytes, second: bytes, have: bytes | None, hashes: Sequence[bytes], policy: Policy
) -> Iterator[Fault]:
    key = _log_key(policy, parse_receipt(parse_note(first).text).origin)
    promise = verify_receipt(first, key)
    new = _checkpoint(second)
    if new.origin != promise.origin or new.origin not in _signed(parse_note(second), policy):
        raise Refused(Reason.FOREIGN, "the checkpoint is not signed by the log that gave the receipt")
    if new.size > promise.index and have is not None:
        verify_inclusion(have, promise.index, new.size, hashes, new.root)
        if have != promise.leaf:
            yield Fault("log", new.origin, f"promised an entry {promise.index}, and published another one in its place")
    elif new.size <= promise.index and (time := verify_cosigned(second, policy).time) > promise.until:
        text = f"promised to publish entry {promise.index} until {promise.until}"
        yield Fault("log", new.origin, f"{text}, and at {time} had published {new.size} entries")


def _log_key(policy: Policy, origin: str) -> VerifierKey:
    found = next((key for key, _ in policy.logs if key.name == origin), None)
    if found is None:
        raise Refused(Reason.FOREIGN, f"{origin!r} is not a log of the policy")
    return found
