"""The treaty: one TOML text, read strictly. Its identity is the SHA-256 of its exact bytes.

Reading happens in three passes, each with its own kind of refusal: the TOML grammar, the schema (unknown key, missing
key, wrong type), and the rules (units, quorum arithmetic, keys). Every refusal names the line.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar

import msgspec

from brakeline.core import units
from brakeline.core.encoding import sha256
from brakeline.core.errors import BrakelineError, Malformed
from brakeline.core.keys import PublicKey
from brakeline.core.tlog.note import VerifierKey, parse_vkey
from brakeline.core.tlog.policy import Group, Policy, permit_threshold, trip_threshold

Role = Literal["lab", "log", "witness", "permit-signer", "inspector"]
GaugeClass = Literal["activity", "capability", "safety"]
Condition = Literal["stopped", "audited", "readings"]

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
_URL: Final = re.compile(r"[\x21-\x7e]*")
_DATES: Final = range(253_370_764_800)  # 1970 to 9998: POSIX seconds that a calendar can show in any time zone


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Head(_Table, frozen=True):
    name: str
    title: str
    version: int
    effective: datetime


class _Quorum(_Table, frozen=True):
    faults: int
    trip: int
    permit: int
    lift: int
    witnesses: int


class _Scope(_Table, frozen=True):
    covered_above: str
    prohibited_above: str
    exempt: list[str]


class _Growth(_Table, frozen=True):
    floor: float
    doubles_within: str


class _Trigger(_Table, frozen=True):
    gauge: str
    gauge_class: GaugeClass = msgspec.field(name="class")
    at_least: float
    unit: str
    growth: _Growth | None = None


class _Brake(_Table, frozen=True):
    findings_trip: bool
    trigger: list[_Trigger] = []


class _Lift(_Table, frozen=True):
    conditions: list[Condition]
    delay: str


class _Permit(_Table, frozen=True):
    lifetime: str
    allowance: str
    lineage_gate: bool = False


class _Log(_Table, frozen=True):
    heartbeat: str
    stale_after: str


class _Audit(_Table, frozen=True):
    inspectors: int
    adjudicators: int
    p_catch: str
    f_cheat: str
    segment_steps: int
    head_every: int
    update_error: float
    residual: str
    attested_runs: bool


class _Clocks(_Table, frozen=True):
    incident: str
    notification: str
    report: str
    amendment: str
    withdrawal: str


class _Party(_Table, frozen=True):
    roles: list[Role]
    represents: str = ""
    key: str = ""
    log_key: str = ""
    log_url: str = ""
    witness_key: str = ""
    witness_url: str = ""
    signer_key: str = ""
    signer_url: str = ""


class _Text(_Table, frozen=True):
    treaty: _Head
    quorum: _Quorum
    scope: _Scope
    brake: _Brake
    lift: _Lift
    permit: _Permit
    log: _Log
    audit: _Audit
    clocks: _Clocks
    party: dict[str, _Party]


@dataclass(frozen=True, slots=True)
class Growth:
    """A gauge at `floor` or above, in its unit, that doubles within so many seconds is faster than people can act."""

    floor: float
    doubles_within: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """A gauge counts when its lower bound reaches `at_least` (in `unit`), or when it grows as `growth` says."""

    gauge: str
    gauge_class: GaugeClass
    at_least: float
    unit: str
    growth: Growth | None


@dataclass(frozen=True, slots=True)
class Party:
    """One party: its roles and the keys it is known by. A key it has no role for is None."""

    name: str
    represents: str
    roles: frozenset[Role]
    key: PublicKey
    log_key: VerifierKey | None
    log_url: str
    witness_key: VerifierKey | None
    witness_url: str
    signer_key: PublicKey | None
    signer_url: str


@dataclass(frozen=True, slots=True)
class Treaty:
    """A treaty that has passed every check. Durations in seconds, compute in FLOP, times in POSIX seconds."""

    text: bytes
    name: str
    title: str
    version: int
    effective: int
    faults: int
    trip: int
    permit: int
    lift: int
    witnesses: int
    covered_above: int
    prohibited_above: int
    exempt: frozenset[str]
    findings_trip: bool
    triggers: tuple[Trigger, ...]
    lift_conditions: frozenset[Condition]
    lift_delay: int
    permit_lifetime: int
    permit_allowance: int
    lineage_gate: bool
    heartbeat: int
    stale_after: int
    inspectors: int
    adjudicators: int
    p_catch: Decimal
    f_cheat: Decimal
    segment_steps: int
    head_every: int
    update_error: float
    residual: Decimal
    attested_runs: bool
    incident_clock: int
    notification_clock: int
    report_clock: int
    amendment_notice: int
    withdrawal_notice: int
    parties: dict[str, Party]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the exact text: what statements mean by `treaty`."""
        return sha256(self.text).hex()

    def with_role(self, role: Role) -> tuple[Party, ...]:
        return tuple(p for p in self.parties.values() if role in p.roles)

    @property
    def signer_keys(self) -> dict[PublicKey, str]:
        """Permit signers: key → party."""
        return {p.signer_key: p.name for p in self.with_role("permit-signer") if p.signer_key}

    @property
    def policy(self) -> Policy:
        """The log and witness policy (C2SP tlog-policy): any log of the treaty, `witnesses` distinct parties."""
        # One witness a party, named by the party: k-of-n over names is k-of-n over parties.
        return Policy(
            logs=tuple((p.log_key, p.log_url or None) for p in self.with_role("log") if p.log_key),
            witnesses={
                p.name: (p.witness_key, p.witness_url or None) for p in self.with_role("witness") if p.witness_key
            },
            quorum=Group(self.witnesses, tuple(p.name for p in self.with_role("witness"))),
        )


def parse_treaty(data: bytes) -> Treaty:
    """Read and check a treaty.

    Raises:
        Malformed: with line, rule and reason; nothing is assumed, no value has a default that binds anyone.
    """
    text, schema = _read(data)
    try:
        treaty = _check(data, schema)
        _ = treaty.policy
    except _Broken as e:
        raise Malformed(f"treaty line {_line_of(text, e.path)}: {_show(e.path)}: {e}", hint=e.hint) from e
    except Malformed as e:  # what only the log policy refuses, as more than 128 witnesses
        raise Malformed(f"treaty line {_line_of(text, ('party',))}: party: {e}") from e
    return treaty


def missing_keys(data: bytes) -> tuple[str, ...]:
    """Names of the parties that have not yet entered their key in a draft treaty.

    Raises:
        Malformed: the draft does not fit the schema.
    """
    return tuple(name for name, party in _read(data)[1].party.items() if not party.key)


class _Broken(BrakelineError):
    """`path` leads to the value that is wrong; a number in it counts the elements of an array."""

    def __init__(self, path: tuple[str, ...], what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.path = path


def _read(data: bytes) -> tuple[str, _Text]:
    try:
        text = data.decode("utf-8")
        raw = tomllib.loads(text)
    except UnicodeDecodeError as e:
        raise Malformed(f"treaty is not UTF-8 at byte {e.start}") from e
    except ValueError as e:  # TOMLDecodeError is one; so is an integer of more digits than Python reads
        raise Malformed(f"treaty is not TOML: {e}") from e
    except RecursionError as e:
        raise Malformed("treaty is nested too deeply") from e
    try:
        # One by one, since a schema error inside a map does not name the key.
        parties = raw.get("party")
        for name, party in parties.items() if isinstance(parties, dict) else ():
            _convert(party, _Party, ("party", name))
        return text, _convert(raw, _Text, ())
    except _Broken as e:
        raise Malformed(f"treaty line {_line_of(text, e.path)}: {_show(e.path)}: {e}") from e


_T = TypeVar("_T")


def _convert(value: object, kind: type[_T], path: tuple[str, ...]) -> _T:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as e:
        what = str(e).split(" - at")[0]
        match = re.search(r"at `(?:key in )?\$\.?([^`]*)`", str(e))
        inner = tuple(re.findall(r"[^.\[\]]+", match[1])) if match else ()
        field = re.search(r"field `([^`]+)`", what)
        raise _Broken((*path, *inner, *([field[1]] if field else ())), what) from e


def _show(path: tuple[str, ...]) -> str:
    return "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in path).removeprefix(".") or "treaty"


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line where `path` is set, or else where its nearest enclosing table opens. For messages only."""
    best, depth, table = 1, 0, ()  # type: tuple[int, int, tuple[str, ...]]
    counts: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[(\[?)([^\[\]=]+)\]", line):
            here = table = _dotted(header[2])
            if header[1]:
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
                here = table if table == path[: len(table)] else here
        elif key := re.match(r"\s*([^\s#\[\]{},=][^=#]*)=", line):
            here = (*table, *_dotted(key[1]))
        else:
            continue
        if len(here) > depth and here == path[: len(here)]:
            best, depth = number, len(here)
    return best


def _dotted(key: str) -> tuple[str, ...]:
    """The parts of a TOML key; nothing when it is none."""
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        return ()
    path: tuple[str, ...] = ()
    while isinstance(value, dict):
        name = next(iter(value))
        path, value = (*path, name), value[name]
    return path


def _quantity(path: tuple[str, ...], read: Any, text: str) -> Any:
    try:
        return read(text)
    except Malformed as e:
        raise _Broken(path, str(e), hint=e.hint) from e


def _check(data: bytes, t: _Text) -> Treaty:
    def flop(table: str, key: str) -> int:
        value: int = _quantity((table, key), units.flop, getattr(getattr(t, table), key))
        return value

    def seconds(table: str, key: str) -> int:
        value: int = _quantity((table, key), units.seconds, getattr(getattr(t, table), key))
        return value

    def share(table: str, key: str) -> Decimal:
        value: Decimal = _quantity((table, key), units.fraction, getattr(getattr(t, table), key))
        return value

    def need(ok: bool, path: str, what: str, hint: str = "") -> None:
        if not ok:
            raise _Broken(tuple(path.split(".")), what, hint=hint)

    need(bool(_NAME.fullmatch(t.treaty.name)), "treaty.name", "use lowercase letters, digits and hyphens")
    need(t.treaty.version >= 1, "treaty.version", "versions count from 1")
    need(t.treaty.effective.tzinfo is not None, "treaty.effective", "give the date with its time zone, as …T00:00:00Z")
    need(int(t.treaty.effective.timestamp()) in _DATES, "treaty.effective", "give a date between 1970 and 9998")
    # These appear in the treaty as people read it, where a line break could forge a rule.
    for path, shown in [("treaty.title", [t.treaty.title]), ("scope.exempt", t.scope.exempt)]:
        need(all(x and x.isprintable() for x in shown), path, "must be printable text, and not empty")
    for i, x in enumerate(t.brake.trigger):
        for key, name in (("gauge", x.gauge), ("unit", x.unit)):
            need(bool(name) and name.isprintable(), f"brake.trigger.{i}.{key}", "must be printable text, and not empty")
        # NaN and infinity are never reached: the trigger would be none.
        need(math.isfinite(x.at_least), f"brake.trigger.{i}.at_least", "must be a finite number (Treaty 4.2)")
        if x.growth:
            # At zero, everything is twice as much: a gauge that reads nothing must not count as growing.
            path = f"brake.trigger.{i}.growth"
            need(0 < x.growth.floor < math.inf, path, "its floor must be a number above 0 (Treaty 4.9)")
            within = _quantity(tuple(path.split(".")), units.seconds, x.growth.doubles_within)
            need(within > 0, path, "doubles_within must last at least one second (Treaty 4.9)")
        earlier = {y.gauge for y in t.brake.trigger[:i]}
        need(x.gauge not in earlier, f"brake.trigger.{i}.gauge", "one trigger a gauge (Treaty 4.2)")
    parties = {name: _party(name, p) for name, p in t.party.items()}
    _distinct_keys(parties)
    count = {role: sum(role in p.roles for p in parties.values()) for role in ("log", "witness", "permit-signer")}
    _check_quorums(t, len(parties), count, need)

    covered, prohibited = flop("scope", "covered_above"), flop("scope", "prohibited_above")
    need(covered < prohibited, "scope.prohibited_above", "must be greater than scope.covered_above (Treaty 3.3)")
    lifetime, allowance = seconds("permit", "lifetime"), flop("permit", "allowance")
    need(lifetime > 0, "permit.lifetime", "a permit must last at least one second (Treaty 5.3)")
    safety = any(x.gauge_class == "safety" for x in t.brake.trigger)
    need(safety or not t.permit.lineage_gate, "permit.lineage_gate", "needs a gauge of the class safety (Treaty 5.8)")
    need(allowance > 0, "permit.allowance", "a permit must allow some compute (Treaty 5.4)")
    heartbeat, stale = seconds("log", "heartbeat"), seconds("log", "stale_after")
    need(0 < heartbeat < stale, "log.stale_after", "must be greater than log.heartbeat, which is positive (Treaty 6.3)")
    p_catch, f_cheat = share("audit", "p_catch"), share("audit", "f_cheat")
    need(0 < p_catch < 1, "audit.p_catch", "must lie between 0 % and 100 % (Treaty 7.4)")
    need(0 < f_cheat <= 1, "audit.f_cheat", "must be above 0 % (Treaty 7.4)")
    need(t.audit.segment_steps >= 1, "audit.segment_steps", "a segment has at least one step")
    need(t.audit.head_every >= 1, "audit.head_every", "a head is due at least every segment or more")
    need(0 < t.audit.update_error < 1, "audit.update_error", "must lie between 0 and 1 (Treaty 7.5)")
    need(len(set(t.lift.conditions)) == len(t.lift.conditions), "lift.conditions", "each condition once")
    return Treaty(
        text=data,
        name=t.treaty.name,
        title=t.treaty.title,
        version=t.treaty.version,
        effective=int(t.treaty.effective.timestamp()),
        faults=t.quorum.faults,
        trip=t.quorum.trip,
        permit=t.quorum.permit,
        lift=t.quorum.lift,
        witnesses=t.quorum.witnesses,
        covered_above=covered,
        prohibited_above=prohibited,
        exempt=frozenset(t.scope.exempt),
        findings_trip=t.brake.findings_trip,
        triggers=tuple(Trigger(x.gauge, x.gauge_class, x.at_least, x.unit, _growth(x.growth)) for x in t.brake.trigger),
        lift_conditions=frozenset(t.lift.conditions),
        lift_delay=seconds("lift", "delay"),
        permit_lifetime=lifetime,
        permit_allowance=allowance,
        lineage_gate=t.permit.lineage_gate,
        heartbeat=heartbeat,
        stale_after=stale,
        inspectors=t.audit.inspectors,
        adjudicators=t.audit.adjudicators,
        p_catch=p_catch,
        f_cheat=f_cheat,
        segment_steps=t.audit.segment_steps,
        head_every=t.audit.head_every,
        update_error=t.audit.update_error,
        residual=share("audit", "residual"),
        attested_runs=t.audit.attested_runs,
        incident_clock=seconds("clocks", "incident"),
        notification_clock=seconds("clocks", "notification"),
        report_clock=seconds("clocks", "report"),
        amendment_notice=seconds("clocks", "amendment"),
        withdrawal_notice=seconds("clocks", "withdrawal"),
        parties=parties,
    )


def _growth(g: _Growth | None) -> Growth | None:
    return Growth(g.floor, units.seconds(g.doubles_within)) if g else None


def _check_quorums(t: _Text, n: int, count: dict[str, int], need: Any) -> None:
    q, f = t.quorum, t.quorum.faults
    need(f >= 0, "quorum.faults", "cannot be negative")
    # Treaty 1.3: with n < 3f+1 two quorums may meet in dishonest parties only.
    need(n >= 3 * f + 1, "quorum.faults", f"{n} parties bear at most {(n - 1) // 3} faults: n >= 3f+1 (Treaty 1.3)")
    # Treaty 4.1: f could trip alone below f+1; f could block above n-f.
    low = trip_threshold(n, f)
    need(low <= q.trip <= n - f, "quorum.trip", f"must lie in {low}..{n - f}: f+1 to n-f (Treaty 4.1)")
    lift_low = permit_threshold(n, f)
    need(lift_low <= q.lift <= n - f, "quorum.lift", f"must lie in {lift_low}..{n - f} (Treaty 8.1)")
    for role, key, value, rule in (
        ("permit-signer", "permit", q.permit, "5.2"),
        ("witness", "witnesses", q.witnesses, "6.1"),
    ):
        m = count[role]
        need(m >= 3 * f + 1, f"quorum.{key}", f"{m} parties are {role}; {f} faults need {3 * f + 1} (Treaty {rule})")
        lo = permit_threshold(m, f)
        need(lo <= value <= m - f, f"quorum.{key}", f"must lie in {lo}..{m - f}: ⌊(n+f)/2⌋+1 to n-f (Treaty {rule})")
    need(count["log"] == 1, "party", f"exactly one party keeps the log, not {count['log']}")
    inspectors = sum("inspector" in p.roles for p in t.party.values())
    for key, value in (("inspectors", t.audit.inspectors), ("adjudicators", t.audit.adjudicators)):
        need(
            f + 1 <= value <= inspectors - 1,
            f"audit.{key}",
            f"must lie in {f + 1}..{inspectors - 1}: f+1, and a lab never inspects itself (Treaty 7.7)",
        )


def _party(name: str, p: _Party) -> Party:
    def fail(key: str, what: str, hint: str = "") -> _Broken:
        return _Broken(("party", name, key), what, hint=hint)

    def vkey(key: str, text: str, kind: int) -> VerifierKey:
        try:
            parsed = parse_vkey(text)
        except BrakelineError as e:
            raise fail(key, str(e)) from e
        if parsed.type != kind:
            raise fail(key, f"needs a verifier key of type {kind:02x}, not {parsed.type:02x}")
        return parsed

    def public(key: str, text: str) -> PublicKey:
        try:
            return PublicKey.parse(text)
        except BrakelineError as e:
            raise fail(key, str(e)) from e

    if not _NAME.fullmatch(name):
        raise _Broken(("party", name), "a party's name has lowercase letters, digits and hyphens")
    if name == "none":  # C2SP tlog-policy §Defining the quorum: the word for nobody
        raise _Broken(("party", name), "`none` is the name of no party")
    roles = frozenset(p.roles)
    if len(roles) != len(p.roles):
        raise fail("roles", "each role once (Treaty 1.2)")
    if not p.represents.isprintable():
        raise fail("represents", "must be printable text")
    for field, url in (("log_url", p.log_url), ("witness_url", p.witness_url), ("signer_url", p.signer_url)):
        if not _URL.fullmatch(url):
            raise fail(field, "a URL is one word of printable ASCII")
    keys = {"key": (p.key, True)}
    keys["log_key"] = (p.log_key, "log" in roles)
    keys["witness_key"] = (p.witness_key, "witness" in roles)
    keys["signer_key"] = (p.signer_key, "permit-signer" in roles)
    for field, (text, due) in keys.items():
        if due and not text:
            raise fail(field, "no key entered", hint=f"run `brakeline keygen {name} --enroll TREATY`")
        if text and not due:
            raise fail(field, "a key for a role the party does not have (Treaty 1.2)")
    return Party(
        name=name,
        represents=p.represents,
        roles=roles,
        key=public("key", p.key),
        log_key=vkey("log_key", p.log_key, 1) if p.log_key else None,
        log_url=p.log_url,
        witness_key=vkey("witness_key", p.witness_key, 4) if p.witness_key else None,
        witness_url=p.witness_url,
        signer_key=public("signer_key", p.signer_key) if p.signer_key else None,
        signer_url=p.signer_url,
    )


def _distinct_keys(parties: dict[str, Party]) -> None:
    # Treaty 1.1: one key, one party, one purpose. A cosignature does not cover its signer's name, so a key used
    # twice would let one party count as two.
    seen: dict[bytes, str] = {}
    for p in parties.values():
        for field, key in (
            ("key", p.key),
            ("log_key", p.log_key.key if p.log_key else None),
            ("witness_key", p.witness_key.key if p.witness_key else None),
            ("signer_key", p.signer_key),
        ):
            if key is None:
                continue
            if key.raw in seen:
                raise _Broken(("party", p.name, field), f"the same key as {seen[key.raw]} (Treaty 1.1)")
            seen[key.raw] = f"party.{p.name}.{field}"


def draft_roles(data: bytes, name: str) -> frozenset[Role]:
    """The roles of the party `name` in a draft in which it has no keys yet.

    Raises:
        Malformed: the draft does not fit the schema, has no such party, or has its keys already.
    """
    party = _read(data)[1].party.get(name)
    if party is None:
        raise Malformed(f"the draft has no party {name!r}")
    if party.key:
        raise Malformed(f"{name} has entered its keys already")
    return frozenset(party.roles)
