"""How many, and whose, signatures are enough: the arithmetic of faults and the C2SP tlog-policy file."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from brakeline.core.encoding import decimal
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.tlog.checkpoint import Checkpoint, checkpoint_in, parse_checkpoint, timestamp_of
from brakeline.core.tlog.note import (
    COSIGNATURE,
    ED25519,
    Keyring,
    Note,
    SignatureLine,
    VerifierKey,
    keyring,
    parse_note,
    parse_vkey,
    verify_note,
)

LIMIT: Final = 128  # logs, witnesses and groups of one policy; also bounds how deep groups nest

_OCTETS: Final = re.compile(rb"[\x09\x0a\x20-\x7e\x80-\xff]*")
_WORD: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_NONE: Final = "none"


def trip_threshold(n: int, f: int) -> int:
    """Votes that show at least one honest voter among them, with `f` of `n` faulty."""
    return f + 1


def permit_threshold(n: int, f: int) -> int:
    """The least k for which two quorums of k share an honest member: 2k > n + f."""
    return (n + f) // 2 + 1


def check_arithmetic(n: int, f: int) -> None:
    """That a quorum can be both safe and live with `f` of `n` faulty.

    Raises:
        Malformed: n < 3f + 1.
    """
    if f < 0 or n < 3 * f + 1:
        raise Malformed(f"{n} parties cannot bear {f} faults", hint=f"{f} faults need {3 * f + 1} parties")


@dataclass(frozen=True, slots=True)
class Group:
    """A monotone threshold group: holds when `k` of its members do. A member is a leaf's name or another group.

    Raises on construction:
        Malformed: not 1 <= k <= n, or a leaf that counts in two places.
    """

    k: int
    members: tuple["str | Group", ...]

    def __post_init__(self) -> None:
        if not 1 <= self.k <= len(self.members):
            raise Malformed(f"a group of {len(self.members)} has no threshold {self.k}")
        if len(self.leaves) != sum(1 if isinstance(m, str) else len(m.leaves) for m in self.members):
            raise Malformed("a name may be a member only once")

    @property
    def leaves(self) -> frozenset[str]:
        """Every name in the group, however deep."""
        return frozenset().union(*({m} if isinstance(m, str) else m.leaves for m in self.members))

    def holds(self, present: frozenset[str]) -> bool:
        return bool(self.satisfying(present))

    def satisfying(self, present: frozenset[str]) -> frozenset[str]:
        """Those of `present` that the group counts when it holds; nobody when it does not."""
        parts = (present & {m} if isinstance(m, str) else m.satisfying(present) for m in self.members)
        holding = [part for part in parts if part]
        return frozenset().union(*holding) if len(holding) >= self.k else frozenset()


def parse_group_lines(text: bytes, leaves: frozenset[str]) -> Group | None:
    """The group that `group` and `quorum` lines define over `leaves`; None for `quorum none`.

    Raises:
        Malformed: see `parse_policy`.
    """
    names = _Names()
    for leaf in leaves:
        names.define(leaf, leaf)
    for words in _lines(text):
        if not names.read(words):
            raise Malformed(f"not a group or quorum line: {' '.join(words)[:80]!r}")
    return names.group()


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom to believe about a log: any one of `logs`, and enough of `witnesses`. Each key may have a URL.

    Raises on construction:
        Malformed: a key of the wrong type, one public key or one (name, key id) twice, a name or URL that is
            not one word, or a quorum over names that are no witnesses.
    """

    logs: tuple[tuple[VerifierKey, str | None], ...]
    witnesses: Mapping[str, tuple[VerifierKey, str | None]]
    quorum: Group
    known: Keyring = field(init=False, repr=False, compare=False)
    _names: Mapping[tuple[str, bytes], str] = field(init=False, repr=False, compare=False)  # witnesses, as `known`

    def __post_init__(self) -> None:
        logs = [key for key, _ in self.logs]
        witnesses = [key for key, _ in self.witnesses.values()]
        for keys, kind, who in ((logs, ED25519, "log"), (witnesses, COSIGNATURE, "witness")):
            if any(key.type != kind for key in keys):
                raise Malformed(f"a {who} key in a policy has the type {kind:02x}")
            # Two witnesses with one key would be one witness counted twice: the cosignature covers no name.
            if len({key.key for key in keys}) != len(keys):
                raise Malformed(f"two {who} lines of a policy have the same public key")
            if len(keys) > LIMIT:
                raise Malformed(f"a policy has at most {LIMIT} {who} lines")
        if len({(key.name, key.id) for key in logs + witnesses}) != len(logs + witnesses):
            raise Malformed("two keys of a policy share their name and key id")
        words = [*self.witnesses, *(key.text for key in logs + witnesses)]
        words += [url for _, url in (*self.logs, *self.witnesses.values()) if url is not None]
        if _NONE in self.witnesses or not all(_WORD.fullmatch(_octets(word)) for word in words):
            raise Malformed("a name or URL of a policy is one word of printable octets")
        if not self.quorum.leaves <= self.witnesses.keys():
            raise Malformed("the quorum of a policy counts names that are not witnesses")
        object.__setattr__(self, "known", keyring(logs + witnesses))
        names = {(key.name, key.id): name for name, (key, _) in self.witnesses.items()}
        object.__setattr__(self, "_names", names)

    def witness(self, line: SignatureLine) -> str | None:
        """The policy's name for the witness whose line this says to be."""
        return self._names.get((line.name, line.key_id))

    @property
    def text(self) -> bytes:
        """A policy file with this meaning: `parse_policy` reads it back as an equal policy."""
        lines = [["log", key.text, url] for key, url in self.logs]
        lines += [["witness", name, key.text, url] for name, (key, url) in self.witnesses.items()]
        free = (g for i in range(LIMIT + len(self.witnesses)) if (g := f"group-{i}") not in self.witnesses)

        def write(group: Group) -> str:
            members = [m if isinstance(m, str) else write(m) for m in group.members]
            name = next(free)
            lines.append(["group", name, str(group.k), *members])
            return name

        lines.append(["quorum", write(self.quorum)])
        return _octets("".join(" ".join(w for w in line if w) + "\n" for line in lines))


def parse_policy(text: bytes) -> Policy:
    """Read a C2SP tlog-policy file.

    Raises:
        Malformed: unknown line, octet or name; a name defined twice or after its use, or a member twice; not
            1 <= k <= n; not exactly one quorum line; keys as `Policy` refuses them.
        Refused(NO_QUORUM): `quorum none`. Refused(WEAK_KEY): see `PublicKey`.
    """
    logs: list[tuple[VerifierKey, str | None]] = []
    witnesses: dict[str, tuple[VerifierKey, str | None]] = {}
    names = _Names()
    for words in _lines(text):
        match words:
            case ["log", vkey]:
                logs.append((parse_vkey(vkey), None))
            case ["log", vkey, url]:
                logs.append((parse_vkey(vkey), url))
            case ["witness", name, vkey]:
                names.define(name, name)
                witnesses[name] = parse_vkey(vkey), None
            case ["witness", name, vkey, url]:
                names.define(name, name)
                witnesses[name] = parse_vkey(vkey), url
            case _ if not names.read(words):
                raise Malformed(f"not a line of a policy: {' '.join(words)[:80]!r}")
    group = names.group()
    if group is None:
        raise Refused(Reason.NO_QUORUM, "a policy of `quorum none` trusts the log alone")
    return Policy(tuple(logs), witnesses, group)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that a policy accepts. `time`: lower median of the times of `witnesses`, POSIX seconds.

    `counted` are the text and the signature lines of those witnesses, by name: what nobody chooses but they.
    """

    checkpoint: Checkpoint
    time: int
    witnesses: frozenset[str]
    note: Note
    counted: tuple[bytes, ...]


def verify_cosigned(data: bytes, policy: Policy) -> Cosigned:
    """Accept a checkpoint note by policy. How fresh its time must be is for the caller to judge.

    Raises:
        Malformed: not a note over a checkpoint.
        Refused: FOREIGN, the origin is no log of the policy; DUPLICATE, two lines of one key; FORGED, a known
            line does not verify; MISSING, the log has not signed; NO_QUORUM, too few witnesses have.
    """
    note = parse_note(data)
    return _accepted(note, parse_checkpoint(note.text), policy)


def _accepted(note: Note, checkpoint: Checkpoint, policy: Policy) -> Cosigned:
    _check_origin(checkpoint, policy)
    verified = verify_note(note, policy.known)
    if not any(key.type == ED25519 and key.name == checkpoint.origin for key, _ in verified):
        raise Refused(Reason.MISSING, f"the log {checkpoint.origin!r} has not signed its checkpoint")
    lines = {name: line for _, line in verified if (name := policy.witness(line)) is not None}
    counted = policy.quorum.satisfying(frozenset(lines))
    if not counted:
        raise Refused(Reason.NO_QUORUM, f"cosigned by {', '.join(sorted(lines)) or 'nobody'}: no quorum")
    median = sorted(timestamp_of(lines[name]) for name in counted)[(len(counted) - 1) // 2]
    parts = (note.text, *(x for name in sorted(counted) for x in (name.encode(), lines[name].blob)))
    return Cosigned(checkpoint, median, counted, note, parts)


def checkpoint_of(data: bytes, policy: Policy) -> Checkpoint:
    """The checkpoint in a note, of a log of the policy; no signature is verified.

    Raises:
        Malformed: not a note over a checkpoint. Refused(FOREIGN): of another log.
    """
    checkpoint = checkpoint_in(data)
    _check_origin(checkpoint, policy)
    return checkpoint


def _check_origin(checkpoint: Checkpoint, policy: Policy) -> None:
    # C2SP tlog-policy §Defining a log: the key name is the origin.
    if all(key.name != checkpoint.origin for key, _ in policy.logs):
        raise Refused(Reason.FOREIGN, f"{checkpoint.origin!r} is not a log of the policy")


def verify_all(data: bytes, need: Callable[[int], Sequence[Policy]]) -> Cosigned:
    """Accept a checkpoint note that all policies accept which a checkpoint of its size needs.

    The time is the earliest that one of them gives. Raises as `verify_cosigned`.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    found = [_accepted(note, checkpoint, policy) for policy in need(checkpoint.size)]
    if len(found) == 1:
        return found[0]
    return Cosigned(
        checkpoint,
        min(c.time for c in found),
        frozenset().union(*(c.witnesses for c in found)),
        note,
        tuple(part for c in found for part in c.counted),
    )


@dataclass(slots=True)
class _Names:
    """The one namespace of a policy file while it is read: leaves and groups by name, and the quorum line."""

    defined: dict[str, str | Group] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    groups: int = 0
    quorum: str | None = None

    def define(self, name: str, value: str | Group) -> None:
        if name == _NONE or name in self.defined:
            raise Malformed(f"the name {name[:80]!r} is already defined")
        self.defined[name] = value

    def read(self, words: list[str]) -> bool:
        """Whether the line was a group or quorum line."""
        match words:
            case ["group", name, k, *members] if members:
                self._group(name, k, members)
            case ["quorum", name]:
                if self.quorum is not None:
                    raise Malformed("a policy has one quorum line")
                if name != _NONE and name not in self.defined:
                    raise Malformed(f"the quorum {name[:80]!r} is not defined")
                self.quorum = name
            case _:
                return False
        return True

    def _group(self, name: str, k: str, members: list[str]) -> None:
        for member in members:
            if member not in self.defined:
                raise Malformed(f"group {name[:80]!r}: the member {member[:80]!r} is not defined before")
            if member in self.members:
                raise Malformed(f"group {name[:80]!r}: {member[:80]!r} is already a member of a group")
            self.members.add(member)
        self.groups += 1
        if self.groups > LIMIT:
            raise Malformed(f"a policy has at most {LIMIT} groups")
        threshold = {"all": len(members), "any": 1}.get(k)
        if threshold is None:
            threshold = decimal(_octets(k))
        self.define(name, Group(threshold, tuple(self.defined[m] for m in members)))

    def group(self) -> Group | None:
        if self.quorum is None:
            raise Malformed("a policy has one quorum line")
        if self.quorum == _NONE:
            return None
        value = self.defined[self.quorum]
        return Group(1, (value,)) if isinstance(value, str) else value


def _octets(text: str) -> bytes:
    # Names are opaque octets: surrogateescape maps them one to one to str and back.
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as e:
        raise Malformed(f"not the name of any octets: {text[:80]!r}") from e


def _lines(text: bytes) -> Iterator[list[str]]:
    """The words of every line that is neither blank nor a comment."""
    if not _OCTETS.fullmatch(text) or not text.endswith(b"\n"):
        raise Malformed("a policy is lines of printable octets, each with its newline")
    for line in text[:-1].split(b"\n"):
        words = [w.decode("utf-8", "surrogateescape") for w in re.split(rb"[ \t]+", line.strip(b" \t"))]
        if words[0] and not words[0].startswith("#"):
            yield words
