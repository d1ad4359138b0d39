"""The state as bytes, and its digest: what two builds must agree on, to the bit.

Canonical JSON (RFC 8785) of one object with the parts of the state, in which bytes are base64, compute is decimal text,
and maps whose keys are no text are lists in order. What is not in it decides nothing:
outcomes, envelopes, older roots and the history of events can be had from the log. What follows from the treaty or from
the rest is left out, and worked out again on reading.
"""

from itertools import pairwise
from typing import Any, Final

import msgspec
from rpds import HashTrieMap, List

from brakeline.core.encoding import canonical, sha256
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.pledge import activate
from brakeline.core.reading import Standing
from brakeline.core.state import keyring
from brakeline.core.state import readings as r
from brakeline.core.state.ballot import Ballot
from brakeline.core.state.chain import Assented, Chain, Coming, Ground, Proposal, Reopened, Text, kept_by
from brakeline.core.state.clock import Clock, Stamp
from brakeline.core.state.dues import Dues, Lapse, Owed
from brakeline.core.state.keyring import Asked, Keyring, Keys, Past
from brakeline.core.state.members import Last, Member, Members, settle
from brakeline.core.state.runs import Claim, Heads, LoggedHead, Run, Runs, add_tally
from brakeline.core.state.state import State
from brakeline.core.tlog.merkle import Frontier
from brakeline.core.treaty import Treaty, parse_treaty

FORMAT: Final = 1
_SORTED: Final = msgspec.json.Encoder(order="sorted", enc_hook=list)  # of persistent lists, the only foreign values


class _Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    time: int
    last: Stamp | None
    base: Frontier
    mark: Frontier
    leaves: tuple[tuple[bytes, str], ...]
    forks: int


class _Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runs: dict[str, Run]
    told: dict[str, dict[str, Claim]]
    days: dict[str, tuple[tuple[int, str], ...]]


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gauge: str
    subject: str
    by: dict[str, Standing]
    past: tuple[tuple[int, float], ...]


class _Dues(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    owed: tuple[Owed, ...]
    lapses: dict[str, tuple[Lapse, ...]]


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    turned: int
    since: int
    closed: int


class _Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    by: str
    entry: int
    assents: dict[str, Assented]
    joined: dict[str, Last]


class _Coming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    entry: int
    time: int
    due: int
    lapses: int
    assents: tuple[str, ...]
    joined: dict[str, Last]


class _Succession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Texts after the first, next texts by digest, what was adopted, all keys, and where the log was reopened.

    Of rules 1 there is none.
    """

    texts: tuple[_Text, ...]
    proposals: dict[str, _Proposal]
    coming: _Coming | None
    keys: dict[str, Keys]
    past: tuple[Past, ...]
    asked: tuple[Asked, ...]
    reopened: tuple[Reopened, ...]


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    rules: int
    treaty: str
    clock: _Clock
    members: dict[str, Member]
    runs: _Runs
    ballot: Ballot
    readings: tuple[_Subject, ...]
    dues: _Dues
    succession: _Succession | None = None


def _heads(kind: type, value: Any) -> Heads:
    return List(msgspec.convert(value, tuple[LoggedHead, ...]))


_READ: Final = msgspec.json.Decoder(_Form, dec_hook=_heads)


def encode(state: State) -> bytes:
    """The state as canonical bytes: equal states have equal bytes."""
    c, runs = state.clock, state.runs
    plain = {
        "ballot": state.ballot,
        "clock": _Clock(
            c.size, c.time, c.last, c.base, c.mark,
            tuple(c.leaves[i] for i in range(c.base.size, c.size)), c.forks,
        ),
        "dues": _Dues(tuple(o for _, o in sorted(state.dues.owed.items())), dict(state.dues.lapses)),
        "format": FORMAT,
        "members": dict(state.members.by_name),
        "readings": msgspec.Raw(canonical(_readings(state))),
        "rules": state.treaty.rules,
        "runs": _Runs(
            dict(runs.by_id),
            {model: dict(story) for model, story in runs.told.items()},
            {lab: tuple((d, str(f)) for d, f in sorted(days.items())) for lab, days in runs.days.items()},
        ),
        "treaty": state.first,
    }  # fmt: skip
    if state.treaty.amends:
        plain["succession"] = _succession(state)
    return _SORTED.encode(plain)


def _succession(state: State) -> _Succession:
    chain, keys = state.chain, state.keyring
    coming = chain.coming
    return _Succession(
        tuple(_Text(t.treaty.text.decode(), t.turned, t.since, t.closed) for t in chain.texts[1:]),
        {
            digest: _Proposal(p.treaty.text.decode(), p.by, p.entry, dict(p.assents), dict(p.joined))
            for digest, p in chain.proposals.items()
        },
        None
        if coming is None
        else _Coming(
            coming.treaty.text.decode(), coming.entry, coming.time, coming.due, coming.lapses, coming.assents,
            dict(coming.joined),
        ),
        dict(keys.of), keys.past, keys.asked, chain.reopened,
    )  # fmt: skip


def _succeeded(form: _Form, treaty: Treaty) -> tuple[Chain, Keyring]:
    """The chain and the keys, from the first text on."""
    first, s = Text(Ground(treaty)), form.succession
    if (s is not None) != treaty.amends:
        raise Malformed("not a state of this treaty: its rules know no succession, or must")
    if s is None:
        return Chain((first,)), keyring.begin(treaty)

    def ground(text: str) -> Ground:
        return Ground(parse_treaty(text.encode()))

    texts = (first, *(Text(ground(t.text), t.turned, t.since, t.closed) for t in s.texts))
    found = ((ground(p.text), p) for p in s.proposals.values())
    proposals = {g.digest: Proposal(g, p.by, p.entry, p.assents, p.joined) for g, p in found}
    c = s.coming
    coming = None
    if c is not None:
        coming = Coming(ground(c.text), c.entry, c.time, c.due, c.lapses, c.assents, c.joined)
    chain = Chain(texts, proposals, coming, s.reopened)
    entries = [-1, *(r.entry for r in s.reopened), form.clock.size]
    if any(a >= b for a, b in pairwise(entries)):
        raise Malformed("not a state: its log was reopened where it was not")
    for text in texts:  # each is the key of a policy, or this is no state
        for reopened in s.reopened:
            kept_by(text.ground, reopened.key, reopened.url)
    return chain, Keyring.made(s.keys, s.past, s.asked)


def _readings(state: State) -> tuple[_Subject, ...]:
    return tuple(
        _Subject(*key, dict(shown.by), tuple(sorted(shown.past.items())))
        for key, shown in sorted(state.readings.shown.items())
    )


def digest(state: State) -> str:
    """Hex SHA-256 of `encode(state)`."""
    return sha256(encode(state)).hex()


def decode(data: bytes, treaty: Treaty) -> State:
    """Read a state: raises, or `encode(decode(data, treaty)) == data`. Whether it is true is not known by reading it.

    `treaty` is the log's first text; those that followed it are in the state.

    Raises:
        Malformed: not a state. Refused(FOREIGN): of another treaty or other rules.
    """
    try:
        form = _READ.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Malformed(f"not a state: {e}") from e
    if form.format != FORMAT or form.treaty != treaty.digest:
        raise Refused(Reason.FOREIGN, "the state of another treaty, or by other rules")
    chain, keys = _succeeded(form, treaty)
    treaty = chain.now.treaty
    if form.rules != treaty.rules:
        raise Refused(Reason.FOREIGN, "the state of another treaty, or by other rules")
    c = form.clock
    if len(c.leaves) != c.size - c.base.size or not c.base.size <= c.mark.size <= c.size:
        raise Malformed("not a state: its leaves do not reach from its base to its size")
    if not form.members.keys() == keys.of.keys() == {name for t in chain.texts for name in t.treaty.parties}:
        raise Malformed("not a state of this treaty: it has other parties")
    leaves = HashTrieMap(zip(range(c.base.size, c.size), c.leaves, strict=True))
    clock = Clock(c.size, c.time, c.last, c.base, c.mark, leaves, c.forks)
    _check_readings(form, treaty)
    members = settle(treaty, Members(form.members, activate({}), frozenset(treaty.parties)), c.time)
    state = State(
        chain,
        keys,
        clock,
        members,
        _rebuild(form.runs),
        form.ballot,
        r.rebuild(
            treaty, (((s.gauge, s.subject), s.by, dict(s.past)) for s in form.readings), members.voice
        ),
        Dues.of(form.dues.owed, form.dues.lapses),
    )
    if encode(state) != data:
        raise Malformed("not the canonical form of a state")
    return state


def _check_readings(form: _Form, treaty: Treaty) -> None:
    gauges = {t.gauge for t in treaty.triggers}
    for s in form.readings:
        said = {(x.reading.gauge, x.reading.subject) for x in s.by.values()}
        if s.gauge not in gauges or not said <= {(s.gauge, s.subject)}:
            raise Malformed("not a state of this treaty: a reading of another gauge or subject")


def _flop(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise Malformed(f"not a state: {text[:40]!r} is no compute in FLOP")
    return int(text)


def _rebuild(form: _Runs) -> Runs:
    days = {lab: {day: _flop(flop) for day, flop in days} for lab, days in form.days.items()}
    for run in form.runs.values():
        for text in (run.lineage, run.window, run.purpose_window):
            _flop(text)
        if run.since != (run.heads[0].time if run.heads else 0):
            raise Malformed("not a state: a run's oldest head was logged at another time")
    models: dict[str, list[tuple[int, str]]] = {}
    for child, story in form.told.items():
        for claim in story.values():
            if claim.run:
                models.setdefault(claim.run, []).append((claim.entry, child))
    tallies: dict[str, Any] = {}
    for run in form.runs.values():
        add_tally(tallies, run)
    return Runs(
        by_id=HashTrieMap(form.runs),
        names=HashTrieMap({(run.owner, run.declaration.name): run.id for run in form.runs.values()}),
        told=HashTrieMap(form.told),
        models=HashTrieMap({maker: tuple(sorted(made)) for maker, made in models.items()}),
        tallies=tallies,
        days=days,
    )
