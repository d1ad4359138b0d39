"""The treaty's text: the TOML grammar, the schema, and the line on which a value stands."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from brakeline.core.errors import BrakelineError, Malformed
from brakeline.core.treaty.values import RULES, Condition, Duty, GaugeClass, Role


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class HeadTable(_Table, frozen=True):
    name: str
    title: str
    version: int
    rules: int
    effective: datetime


class QuorumTable(_Table, frozen=True):
    faults: int
    trip: int
    permit: int
    lift: int
    witnesses: int


class TierTable(_Table, frozen=True):
    name: str
    duties: list[Duty]
    above: str | None = None
    rate_above: str | None = None
    chips_above: int | None = None
    domain: str | None = None
    sum: bool = False


class ExemptTable(_Table, frozen=True):
    purpose: str
    up_to: str
    while_braked: bool


class ScopeTable(_Table, frozen=True):
    window: str
    tier: list[TierTable]
    exempt: list[ExemptTable] = []


class GrowthTable(_Table, frozen=True):
    floor: float
    doubles_within: str


class TriggerTable(_Table, frozen=True):
    gauge: str
    gauge_class: GaugeClass = msgspec.field(name="class")
    at_least: float
    unit: str
    growth: GrowthTable | None = None


class BrakeTable(_Table, frozen=True):
    findings_trip: bool
    trigger: list[TriggerTable] = []


class LiftTable(_Table, frozen=True):
    conditions: list[Condition]
    delay: str
    settle_within: str


class PermitTable(_Table, frozen=True):
    lifetime: str
    allowance: str
    lineage_gate: bool = False


class LogTable(_Table, frozen=True):
    heartbeat: str
    stale_after: str
    snapshot_every: int


class AuditTable(_Table, frozen=True):
    inspectors: int
    adjudicators: int
    p_catch: str
    f_cheat: str
    segment_steps: int
    head_every: int
    update_error: float
    residual: str
    attested_runs: bool
    within: str
    findings: int
    segment_most: int | None = None
    answer_within: str | None = None
    foreign: tuple[str, ...] | None = None


class BudgetTable(_Table, frozen=True):
    brake: int
    runs: int
    audits: int
    rest: int
    bytes: str


class IncidentTable(_Table, frozen=True):
    name: str
    within: str


class ClocksTable(_Table, frozen=True):
    notification: str
    report: str
    amendment: str
    withdrawal: str
    incident: list[IncidentTable]


class PartyTable(_Table, frozen=True):
    roles: list[Role]
    represents: str = ""
    key: str = ""
    log_key: str = ""
    log_url: str = ""
    witness_key: str = ""
    witness_url: str = ""
    signer_key: str = ""
    signer_url: str = ""
    next: str = ""
    signer_next: str = ""


class Text(_Table, frozen=True):
    treaty: HeadTable
    quorum: QuorumTable
    scope: ScopeTable
    brake: BrakeTable
    lift: LiftTable
    permit: PermitTable
    log: LogTable
    audit: AuditTable
    budget: BudgetTable
    clocks: ClocksTable
    party: dict[str, PartyTable]


class Broken(BrakelineError):
    """`path` leads to the value that is wrong; a number in it counts the elements of an array."""

    def __init__(self, path: tuple[str, ...], what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.path = path


@contextmanager
def naming_lines(text: str) -> Iterator[None]:
    """Say of what is `Broken` on which line of `text` it stands.

    Raises:
        Malformed: something is broken.
    """
    try:
        yield
    except Broken as e:
        raise Malformed(f"treaty line {_line_of(text, e.path)}: {_show(e.path)}: {e}", hint=e.hint) from e


def read(data: bytes) -> tuple[str, Text]:
    """The text and its tables. What the values mean together is not checked.

    Raises:
        Malformed: not UTF-8, not TOML, of rules that this build does not know, or not in the schema.
    """
    text, raw = _toml(data)
    with naming_lines(text):
        _known_rules(raw)
        # One by one, since a schema error inside a map does not name the key.
        parties = raw.get("party")
        for name, party in parties.items() if isinstance(parties, dict) else ():
            _convert(party, PartyTable, ("party", name))
        return text, _convert(raw, Text, ())


def _toml(data: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = data.decode("utf-8")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as e:
        raise Malformed(f"treaty is not UTF-8 at byte {e.start}") from e
    except ValueError as e:  # TOMLDecodeError is one; so is an integer of more digits than Python reads
        raise Malformed(f"treaty is not TOML: {e}") from e
    except RecursionError as e:
        raise Malformed("treaty is nested too deeply") from e


def rules_of(data: bytes) -> object:
    """What a text says of its rules' version, whether or not this build knows them.

    Raises:
        Malformed: not UTF-8, or not TOML.
    """
    head = _toml(data)[1].get("treaty")
    return head.get("rules") if isinstance(head, dict) else None


def _known_rules(raw: dict[str, Any]) -> None:
    # Treaty 1.4. Before the schema: other rules have other keys, and "unknown field" would send the reader astray.
    head = raw.get("treaty")
    rules = head.get("rules") if isinstance(head, dict) else None
    if type(rules) is int and rules not in RULES:
        known = ", ".join(map(str, sorted(RULES)))
        hint = f"this build knows rules {known}: install a newer Brakeline"
        raise Broken(("treaty", "rules"), f"rules {rules} are not known here (Treaty 1.4)", hint=hint)


_T = TypeVar("_T")


def _convert(value: object, kind: type[_T], path: tuple[str, ...]) -> _T:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as e:
        what = str(e).split(" - at")[0]
        match = re.search(r"at `(?:key in )?\$\.?([^`]*)`", str(e))
        inner = tuple(re.findall(r"[^.\[\]]+", match[1])) if match else ()
        field = re.search(r"field `([^`]+)`", what)
        raise Broken((*path, *inner, *([field[1]] if field else ())), what) from e


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
