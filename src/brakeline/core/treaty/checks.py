"""From a treaty's tables to its values. What the values must satisfy together is checked here, rule by rule.

Reading has three passes, each with its own kind of refusal: the TOML grammar, the schema (unknown key, missing key,
wrong type), both in `text`, and the rules (units, quorum arithmetic, keys). Every refusal names the line.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from typing import Final, TypeVar

from brakeline.core import units
from brakeline.core.encoding import is_text
from brakeline.core.errors import Malformed
from brakeline.core.tlog.policy import LIMIT, permit_threshold, trip_threshold
from brakeline.core.treaty.parties import LOWERCASE, NAME, lacking, party, read_keys
from brakeline.core.treaty.text import (
    Broken,
    BudgetTable,
    ClocksTable,
    ScopeTable,
    Text,
    TierTable,
    TriggerTable,
    naming_lines,
    read,
)
from brakeline.core.treaty.values import (
    SUCCESSION,
    Budget,
    Exemption,
    Growth,
    IncidentClass,
    Party,
    Role,
    Tier,
    Treaty,
    Trigger,
)

_DATES: Final = range(253_370_764_800)  # 1970 to 9998: POSIX seconds that a calendar can show in any time zone
_DAY: Final = 86_400  # s
_CENTURY: Final = 36_500 * _DAY
MAX_DRAWN: Final = 1000  # segments that a sample draws at most, so that an audit's list of them fits a log entry
_TOLD_ELSEWHERE: Final = ("float32", "float64")  # types of weights that a replay elsewhere can tell
_MANY: Final = 10**9  # more than any count in a treaty needs to be

_T = TypeVar("_T")


def parse_treaty(data: bytes) -> Treaty:
    """Read and check a treaty.

    Raises:
        Malformed: with line, rule and reason; nothing is assumed, no value has a default that binds anyone.
    """
    text, tables = read(data)
    with naming_lines(text):
        keys = read_keys(tables.party, tables.treaty.rules)
        rules = tables.treaty.rules
        treaty = _treaty(data, tables, {name: party(name, p, keys[name], rules) for name, p in tables.party.items()})
        try:
            _ = treaty.policy
        except Malformed as e:
            raise Broken(("party",), str(e)) from e
    return treaty


def check_draft(data: bytes) -> tuple[str, ...]:
    """Check all of a draft that can be checked before the parties have entered their keys.

    Returns the names of the parties that still lack a key that their roles need.

    Raises:
        Malformed: as `parse_treaty`, but for keys that are not there yet; keys that are there are checked.
    """
    text, tables = read(data)
    with naming_lines(text):
        read_keys(tables.party, tables.treaty.rules)
        missing = tuple(name for name, p in tables.party.items() if lacking(p, tables.treaty.rules))
        if missing:
            _treaty(data, tables, {})
            return missing
    parse_treaty(data)
    return ()


def missing_keys(data: bytes) -> tuple[str, ...]:
    """Names of the parties that have not yet entered their key in a draft treaty. Nothing else is checked.

    Raises:
        Malformed: the draft does not fit the schema.
    """
    return tuple(name for name, p in read(data)[1].party.items() if not p.key)


def draft_fields(data: bytes, name: str) -> frozenset[str]:
    """The fields of keys that the party `name` has to enter in a draft in which it has none yet.

    Raises:
        Malformed: the draft does not fit the schema, has no such party, or has its keys already.
    """
    _, tables = read(data)
    table = tables.party.get(name)
    if table is None:
        raise Malformed(f"the draft has no party {name!r}")
    if table.key:
        raise Malformed(f"{name} has entered its keys already")
    return frozenset(lacking(table, tables.treaty.rules))


def _need(ok: bool, path: str, what: str, hint: str = "") -> None:
    if not ok:
        raise Broken(tuple(path.split(".")), what, hint=hint)


def _quantity(path: str, read_as: Callable[[str], _T], text: str) -> _T:
    try:
        return read_as(text)
    except Malformed as e:
        raise Broken(tuple(path.split(".")), str(e), hint=e.hint) from e


def _seconds(path: str, text: str) -> int:
    value = _quantity(path, units.seconds, text)
    # A time that statements carry must stay a number that JSON keeps.
    _need(value <= _CENTURY, path, "must be at most 36500 d")
    return value


def _shown(path: str, text: str) -> None:
    # It appears in the treaty as people read it, where a line break could forge a rule.
    _need(bool(text) and is_text(text), path, "must be printable text, and not empty")


def _quoted(path: str, text: str) -> None:
    _shown(path, text)
    _need('"' not in text, path, "must not hold a quotation mark: people read it between two")


def _treaty(data: bytes, t: Text, parties: dict[str, Party]) -> Treaty:
    """The treaty that the tables state, between `parties`; a draft has none yet, and its value is for no one."""
    effective = _effective(t)
    triggers = tuple(_trigger(i, x) for i, x in enumerate(t.brake.trigger))
    for i, x in enumerate(triggers):
        earlier = {y.gauge for y in triggers[:i]}
        _need(x.gauge not in earlier, f"brake.trigger.{i}.gauge", "one trigger a gauge (Treaty 4.2)")
    _check_quorums(t)
    tiers = tuple(_tier(f"scope.tier.{i}", x) for i, x in enumerate(t.scope.tier))
    _check_tiers(tiers)
    lifetime = _seconds("permit.lifetime", t.permit.lifetime)
    allowance = _quantity("permit.allowance", units.flop, t.permit.allowance)
    _need(lifetime > 0, "permit.lifetime", "a permit must last at least one second (Treaty 5.3)")
    safety = any(x.gauge_class == "safety" for x in triggers)
    _need(safety or not t.permit.lineage_gate, "permit.lineage_gate", "needs a gauge of the class safety (Treaty 5.8)")
    _need(allowance > 0, "permit.allowance", "a permit must allow some compute (Treaty 5.4)")
    heartbeat, stale = _log_times(t)
    p_catch, f_cheat = _check_audits(t)
    _need(len(set(t.lift.conditions)) == len(t.lift.conditions), "lift.conditions", "each condition once")
    settle = _seconds("lift.settle_within", t.lift.settle_within)
    _need(settle > 0, "lift.settle_within", "must last at least one second (Treaty 8.4)")
    return Treaty(
        text=data,
        name=t.treaty.name,
        title=t.treaty.title,
        version=t.treaty.version,
        rules=t.treaty.rules,
        effective=effective,
        faults=t.quorum.faults,
        trip=t.quorum.trip,
        permit=t.quorum.permit,
        lift=t.quorum.lift,
        witnesses=t.quorum.witnesses,
        window=_window(t.scope),
        tiers=tiers,
        exemptions=_exemptions(t.scope, tiers),
        findings_trip=t.brake.findings_trip,
        triggers=triggers,
        lift_conditions=frozenset(t.lift.conditions),
        lift_delay=_seconds("lift.delay", t.lift.delay),
        settle_within=settle,
        permit_lifetime=lifetime,
        permit_allowance=allowance,
        lineage_gate=t.permit.lineage_gate,
        heartbeat=heartbeat,
        stale_after=stale,
        snapshot_every=t.log.snapshot_every,
        inspectors=t.audit.inspectors,
        adjudicators=t.audit.adjudicators,
        p_catch=p_catch,
        f_cheat=f_cheat,
        segment_steps=t.audit.segment_steps,
        segment_most=_segment_most(t),
        head_every=t.audit.head_every,
        update_error=t.audit.update_error,
        residual=_quantity("audit.residual", units.fraction, t.audit.residual),
        attested_runs=t.audit.attested_runs,
        audit_within=_audit_within(t),
        answer_within=_answer_within(t),
        foreign=_foreign(t),
        findings=t.audit.findings,
        budget=_budget(t.budget),
        incidents=_incidents(t.clocks),
        notification_clock=_seconds("clocks.notification", t.clocks.notification),
        report_clock=_seconds("clocks.report", t.clocks.report),
        amendment_notice=_seconds("clocks.amendment", t.clocks.amendment),
        withdrawal_notice=_seconds("clocks.withdrawal", t.clocks.withdrawal),
        parties=parties,
    )


def _effective(t: Text) -> int:
    head = t.treaty
    _need(bool(NAME.fullmatch(head.name)), "treaty.name", LOWERCASE)
    _shown("treaty.title", head.title)
    _need(1 <= head.version <= _MANY, "treaty.version", "versions count from 1 to 1000000000")
    _need(head.effective.tzinfo is not None, "treaty.effective", "give the date with its time zone, as …T00:00:00Z")
    _need(head.effective.microsecond == 0, "treaty.effective", "give whole seconds")
    seconds = int(head.effective.timestamp())
    _need(seconds in _DATES, "treaty.effective", "give a date between 1970 and 9998")
    return seconds


def _trigger(i: int, x: TriggerTable) -> Trigger:
    path, growth = f"brake.trigger.{i}", None
    _shown(f"{path}.gauge", x.gauge)
    _shown(f"{path}.unit", x.unit)
    # NaN and infinity are never reached: the trigger would be none.
    _need(math.isfinite(x.at_least), f"{path}.at_least", "must be a finite number (Treaty 4.2)")
    if x.growth:
        path += ".growth"
        # At zero, everything is twice as much: a gauge that reads nothing must not count as growing.
        _need(0 < x.growth.floor < math.inf, path, "its floor must be a number above 0 (Treaty 4.9)")
        within = _seconds(path, x.growth.doubles_within)
        _need(within > 0, path, "doubles_within must last at least one second (Treaty 4.9)")
        growth = Growth(x.growth.floor, within)
    return Trigger(x.gauge, x.gauge_class, x.at_least, x.unit, growth)


def _check_quorums(t: Text) -> None:
    q, f, n = t.quorum, t.quorum.faults, len(t.party)
    roles: tuple[Role, ...] = ("log", "witness", "permit-signer", "inspector")
    count: dict[str, int] = {role: sum(role in p.roles for p in t.party.values()) for role in roles}
    _need(f >= 0, "quorum.faults", "cannot be negative")
    # Treaty 1.3: with n < 3f+1 two quorums may meet in dishonest parties only.
    _need(n >= 3 * f + 1, "quorum.faults", f"{n} parties bear at most {(n - 1) // 3} faults: n >= 3f+1 (Treaty 1.3)")
    # Treaty 4.1: f could trip alone below f+1; f could block above n-f.
    low = trip_threshold(n, f)
    _need(low <= q.trip <= n - f, "quorum.trip", f"must lie in {low}..{n - f}: f+1 to n-f (Treaty 4.1)")
    lift_low = permit_threshold(n, f)
    _need(lift_low <= q.lift <= n - f, "quorum.lift", f"must lie in {lift_low}..{n - f} (Treaty 8.1)")
    for role, key, value, rule in (
        ("permit-signer", "permit", q.permit, "5.2"),
        ("witness", "witnesses", q.witnesses, "6.1"),
    ):
        m = count[role]
        _need(m >= 3 * f + 1, f"quorum.{key}", f"{m} parties are {role}; {f} faults need {3 * f + 1} (Treaty {rule})")
        lo = permit_threshold(m, f)
        _need(lo <= value <= m - f, f"quorum.{key}", f"must lie in {lo}..{m - f}: ⌊(n+f)/2⌋+1 to n-f (Treaty {rule})")
    _need(count["witness"] <= LIMIT, "party", f"the log's policy has at most {LIMIT} witnesses, not {count['witness']}")
    _need(count["log"] == 1, "party", f"exactly one party keeps the log, not {count['log']}")
    most = count["inspector"] - 1
    for key, value in (("inspectors", t.audit.inspectors), ("adjudicators", t.audit.adjudicators)):
        what = f"must lie in {f + 1}..{most}: f+1, and a lab never inspects itself (Treaty 7.7)"
        _need(f + 1 <= value <= most, f"audit.{key}", what)


def _window(scope: ScopeTable) -> int:
    window = _seconds("scope.window", scope.window)
    _need(0 < window <= 3650 * _DAY, "scope.window", "must lie between 1 s and 3650 d (Treaty 3.6)")
    return window


def _tier(path: str, x: TierTable) -> Tier:
    _need(bool(NAME.fullmatch(x.name)), f"{path}.name", LOWERCASE)
    duties = frozenset(x.duties)
    _need(bool(duties), f"{path}.duties", "a tier has at least one duty (Treaty 3.1)")
    _need(len(duties) == len(x.duties), f"{path}.duties", "each duty once (Treaty 3.1)")
    prohibited = "prohibited" in duties
    _need(not prohibited or len(duties) == 1, f"{path}.duties", "`prohibited` stands alone in its tier (Treaty 3.3)")
    for duty in sorted(duties & {"monitored", "permitted"}):
        _need("declared" in duties, f"{path}.duties", f"`{duty}` needs `declared`: list it too (Treaty 3.1)")
    stated = (x.above, x.rate_above, x.chips_above)
    _need(any(c is not None for c in stated), path, "states none of above, rate_above, chips_above (Treaty 3.1)")
    if x.chips_above is not None:
        _need(0 <= x.chips_above <= _MANY, f"{path}.chips_above", "must lie in 0..1000000000 (Treaty 3.1)")
    if x.domain is not None:
        _need(bool(NAME.fullmatch(x.domain)), f"{path}.domain", LOWERCASE)
    if x.sum:
        _need(x.above is not None, f"{path}.sum", "needs `above`: what would be summed? (Treaty 3.6)")
        _need(not prohibited, f"{path}.sum", "a sum would prohibit what each run permits (Treaty 3.6)")
    return Tier(
        name=x.name,
        duties=duties,
        above=None if x.above is None else _quantity(f"{path}.above", units.flop, x.above),
        rate_above=None if x.rate_above is None else _quantity(f"{path}.rate_above", units.rate, x.rate_above),
        chips_above=x.chips_above,
        domain=x.domain or "",
        sum=x.sum,
    )


def _check_tiers(tiers: Sequence[Tier]) -> None:
    for i, x in enumerate(tiers):
        _need(x.name not in {y.name for y in tiers[:i]}, f"scope.tier.{i}.name", "one tier of a name (Treaty 3.1)")
    acting = any(x.duties & {"permitted", "prohibited"} for x in tiers)
    _need(acting, "scope.tier", "no tier is permitted or prohibited: the brake would stop nothing (Treaty 3.1)")
    simple = [(i, x, x.above) for i, x in enumerate(tiers) if x.rate_above is None and x.chips_above is None]
    for i, x, top in simple:
        for _, y, low in simple:
            if "prohibited" in x.duties and "permitted" in y.duties and x.domain == y.domain:
                what = f"must be greater than in the tier {y.name}, which is permitted (Treaty 3.3)"
                _need((top or 0) > (low or 0), f"scope.tier.{i}.above", what)


def _exemptions(scope: ScopeTable, tiers: Sequence[Tier]) -> tuple[Exemption, ...]:
    # Treaty 3.3: prohibitions bind everybody.
    caps = [x.above for x in tiers if "prohibited" in x.duties and x.above is not None]
    found: list[Exemption] = []
    for i, x in enumerate(scope.exempt):
        path = f"scope.exempt.{i}"
        _quoted(f"{path}.purpose", x.purpose)
        _need(x.purpose not in {y.purpose for y in found}, f"{path}.purpose", "each purpose once (Treaty 3.2)")
        up_to = _quantity(f"{path}.up_to", units.flop, x.up_to)
        _need(up_to > 0, f"{path}.up_to", "must allow some compute (Treaty 3.2)")
        if caps:
            what = f"must not exceed {units.show_flop(min(caps))}: beyond it, no purpose excuses (Treaty 3.3)"
            _need(up_to <= min(caps), f"{path}.up_to", what)
        found.append(Exemption(x.purpose, up_to, x.while_braked))
    return tuple(found)


def _log_times(t: Text) -> tuple[int, int]:
    heartbeat = _seconds("log.heartbeat", t.log.heartbeat)
    stale = _seconds("log.stale_after", t.log.stale_after)
    what = "must be greater than log.heartbeat, which is positive (Treaty 6.3)"
    _need(0 < heartbeat < stale, "log.stale_after", what)
    _need(heartbeat <= 3600, "log.heartbeat", "must be at most 1 h: statements are dated by it (Treaty 6.5)")
    _need(16 <= t.log.snapshot_every <= 10**7, "log.snapshot_every", "must lie in 16..10000000 (Treaty 6.6)")
    return heartbeat, stale


def _check_audits(t: Text) -> tuple[Decimal, Decimal]:
    p_catch = _quantity("audit.p_catch", units.fraction, t.audit.p_catch)
    f_cheat = _quantity("audit.f_cheat", units.fraction, t.audit.f_cheat)
    _need(0 < p_catch < 1, "audit.p_catch", "must lie between 0 % and 100 % (Treaty 7.4)")
    _need(0 < f_cheat <= 1, "audit.f_cheat", "must be above 0 % (Treaty 7.4)")
    # An audit lists the segments that it replayed, and must fit a log entry however long the run is.
    with localcontext(prec=200):
        drawn = math.ceil((1 - p_catch).ln() / (1 - f_cheat).ln()) if f_cheat < 1 else 1
    text = f"takes {drawn} segments a sample, more than an audit can list: at most {MAX_DRAWN} (Treaty 7.4)"
    _need(drawn <= MAX_DRAWN, "audit.f_cheat", text)
    _need(1 <= t.audit.segment_steps <= _MANY, "audit.segment_steps", "a segment has 1 to 1000000000 steps")
    _need(1 <= t.audit.head_every <= _MANY, "audit.head_every", "a head is due every 1 to 1000000000 segments")
    _need(0 < t.audit.update_error < 1, "audit.update_error", "must lie between 0 and 1 (Treaty 7.5)")
    _need(1 <= t.audit.findings <= 1000, "audit.findings", "must lie in 1..1000 (Treaty 7.10)")
    return p_catch, f_cheat


def _segment_most(t: Text) -> int:
    most = t.audit.segment_most
    if most is None:
        return t.audit.segment_steps
    _need(t.treaty.rules >= SUCCESSION, "audit.segment_most", f"rules {t.treaty.rules} know of one length alone")
    _need(t.audit.segment_steps <= most <= _MANY, "audit.segment_most", "must lie in audit.segment_steps..1000000000")
    return most


def _answer_within(t: Text) -> int:
    if t.audit.answer_within is None:
        return _audit_within(t)
    _need(t.treaty.rules >= SUCCESSION, "audit.answer_within", f"rules {t.treaty.rules} know of no such clock")
    within = _seconds("audit.answer_within", t.audit.answer_within)
    _need(within > 0, "audit.answer_within", "must last at least one second (Treaty 7.7)")
    return within


def _foreign(t: Text) -> tuple[str, ...]:
    if t.audit.foreign is None:
        return _TOLD_ELSEWHERE
    _need(t.treaty.rules >= SUCCESSION, "audit.foreign", f"rules {t.treaty.rules} know of no such list")
    for name in t.audit.foreign:
        # The rounding of shorter types hides a whole run of drift.
        text = f"{name!r} is none of {', '.join(_TOLD_ELSEWHERE)} (Treaty 7.5)"
        _need(name in _TOLD_ELSEWHERE, "audit.foreign", text)
    return tuple(sorted(set(t.audit.foreign)))


def _audit_within(t: Text) -> int:
    within = _seconds("audit.within", t.audit.within)
    _need(within > 0, "audit.within", "must last at least one second (Treaty 7.10)")
    return within


def _budget(b: BudgetTable) -> Budget:
    # Treaty 1.5: no text may starve the lane that trips the brake.
    for lane, count in (("brake", b.brake), ("runs", b.runs), ("audits", b.audits), ("rest", b.rest)):
        least = 16 if lane == "brake" else 1
        _need(least <= count <= 100_000, f"budget.{lane}", f"must lie in {least}..100000 (Treaty 1.5)")
    size = _quantity("budget.bytes", units.size, b.bytes)
    _need(size >= 1 << 16, "budget.bytes", "must be at least 64 KiB (Treaty 1.5)")
    return Budget(b.brake, b.runs, b.audits, b.rest, size)


def _incidents(clocks: ClocksTable) -> tuple[IncidentClass, ...]:
    found: list[IncidentClass] = []
    _need(bool(clocks.incident), "clocks.incident", "name at least one class of incident (Treaty 10.1)")
    for i, x in enumerate(clocks.incident):
        path = f"clocks.incident.{i}"
        _quoted(f"{path}.name", x.name)
        _need(x.name not in {y.name for y in found}, f"{path}.name", "each class once (Treaty 10.1)")
        within = _seconds(f"{path}.within", x.within)
        _need(within > 0, f"{path}.within", "must last at least one second (Treaty 10.1)")
        found.append(IncidentClass(x.name, within))
    return tuple(found)
