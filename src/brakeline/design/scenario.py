"""A scenario: a TOML file with parties, beliefs and a treaty's choices, read strictly."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import inf
from typing import Any, Final, Literal, get_args, get_type_hints

import msgspec
import numpy as np

from brakeline.core.errors import Malformed
from brakeline.design.measured import Measured
from brakeline.design.model import Array, Model
from brakeline.design.parameters import PARAMETERS, TABLE, Parameter
from brakeline.design.quorum import convict

Policy = Literal["unilateral", "coordinated", "verified"]
MOST_PARTIES: Final = 12  # coalitions are enumerated
YEAR: Final = 365.25 * 86_400


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    title: str
    policy: Policy
    pauses: str = ""
    breakout: Literal["exponential", "lump"] = "lump"
    adjudication: Literal["confirmed", "independent"] = "confirmed"
    trigger: Literal["public", "private"] = "public"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scenario: _Head
    parameters: dict[str, Any] = {}
    party: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario that has passed every check.

    `values` maps each parameter's name to an array of shape (1,), or (N,) where parties differ; those in `given` were
    set in the file, those in `measured` come from the benches, the others are defaults. `pauses` is the party that
    pauses alone, under the policy `unilateral`.
    """

    name: str
    title: str
    policy: Policy
    pauses: str
    breakout: str
    adjudication: str
    trigger: str
    parties: tuple[str, ...]
    share: Array
    values: Mapping[str, Array]
    given: frozenset[str]
    measured: Mapping[str, Measured]

    def label(self, name: str) -> str:
        """Where the value of a parameter comes from: its label in the table, unless a measured one was overridden."""
        label = PARAMETERS[name].label
        return "assumption" if label == "measured" and name in self.given else label

    def at_bounds(self) -> "Scenario":
        """With every measured value at the bound that hurts."""
        bounds = {name: np.array([m.bound]) for name, m in self.measured.items() if name not in self.given}
        return replace(self, values={**self.values, **bounds})


def read_scenario(data: bytes, measured: Mapping[str, Measured]) -> Scenario:
    """Read and check a scenario.

    Raises:
        Malformed: an unknown key, a value out of range, or values that contradict one another; with the name of the
            value and the range that is allowed.
    """
    try:
        raw = tomllib.loads(data.decode())
    except UnicodeDecodeError as e:
        raise Malformed(f"scenario is not UTF-8 at byte {e.start}") from e
    except (ValueError, RecursionError) as e:
        raise Malformed(f"scenario is not TOML: {e}") from e
    file = _convert(raw)
    head = file.scenario
    for key, text in (("name", head.name), ("title", head.title)):
        if not text or not text.isprintable():
            raise Malformed(f"scenario.{key}: must be printable text, and not empty")
    names, share, own = _parties(file.party)
    values, given = _values(file.parameters, own, measured)
    scenario = Scenario(
        head.name,
        head.title,
        head.policy,
        head.pauses,
        head.breakout,
        head.adjudication,
        head.trigger,
        names,
        share,
        values,
        given,
        measured,
    )
    _check_together(scenario)
    return scenario


def build(s: Scenario, changes: Mapping[str, Array] | None = None) -> Model:
    """The model of a scenario, with some parameters replaced by arrays that broadcast to (..., N)."""
    v = {**s.values, **(changes or {})}
    v |= {p.name: v[p.same_as] for p in TABLE if p.same_as and p.name not in v}
    n, asked, k_q, b = v["inspectors"], v["confirmers"], v["quorum"], v["corrupt"]
    if s.trigger == "private":  # each other party goes by what it sees alone
        n = asked = np.array([len(s.parties) - 1.0])
        k_q = np.ones(1)
    met = v["coverage"]  # an inspection that does not meet the cheat sees an honest run
    convicted = convict(v["detection"], v["false_alarm"], n, k_q, b, s.adjudication, asked)
    letters = {p.symbol: v[p.name] for p in TABLE if p.symbol in Model.__dataclass_fields__}
    tau = v["permit_lifetime"] + v["stop_time"] / YEAR
    letters |= {"tau": tau, "p": met * convicted.p + (1 - met) * convicted.alpha, "alpha": convicted.alpha}
    return Model(x=s.share, **letters)


def _convert(raw: object) -> _File:
    try:
        return msgspec.convert(raw, _File, strict=True)
    except msgspec.ValidationError as e:
        key = str(e).rpartition("`$.scenario.")[2].removesuffix("`")
        if words := get_args(get_type_hints(_Head).get(key)):
            raise Malformed(f"scenario.{key}: must be one of {', '.join(words)}") from e
        hint = "it begins with [scenario], its name, title and policy; `brakeline design parameters` lists the rest"
        if "`$.party" in str(e):
            hint = "each party is a table of its own, which begins with [[party]]"
        raise Malformed(f"scenario: {e}", hint=hint) from e


def _number(key: str, value: object, p: Parameter) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(f"{key}: must be a number, not {value!r}")
    value = _finite(value)
    unit = "" if p.unit in ("share", "probability") else f" {p.unit}"
    if not p.low <= value <= p.high:  # also refuses nan
        raise Malformed(f"{key}: {value:g} is out of range: {p.low:.3g} to {p.high:.3g}{unit}", hint=p.meaning)
    if p.whole and value != int(value):
        raise Malformed(f"{key}: {value:g} is not a whole number")
    return value


def _finite(value: int | float) -> float:
    """The number as a float; infinite where TOML's integers go beyond one."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def _parameter(where: str, name: str, *, per_party: bool) -> Parameter:
    known = [p.name for p in TABLE if p.per_party or not per_party]
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "`brakeline design parameters` lists them"
        same = per_party and name in PARAMETERS
        raise Malformed(f"{where}.{name}: {'is the same for all parties' if same else 'no such parameter'}", hint=hint)
    return PARAMETERS[name]


def _parties(tables: list[dict[str, Any]]) -> tuple[tuple[str, ...], Array, list[dict[str, float]]]:
    """Names, shares, and what each party sets for itself. Without any, two equal blocs."""
    tables = tables or [{"name": "A", "share": 0.5}, {"name": "B", "share": 0.5}]
    if not 2 <= len(tables) <= MOST_PARTIES:
        raise Malformed(f"party: {len(tables)} of them; allowed are 2 to {MOST_PARTIES}")
    names: list[str] = []
    shares, own = [], []
    for i, table in enumerate(tables):
        name, share = table.get("name"), table.get("share")
        if not isinstance(name, str) or not name or not name.isprintable() or name in names:
            raise Malformed(f"party[{i}].name: each party needs a printable name of its own")
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise Malformed(f"party {name}: share: must be a number, not {share!r}")
        if not 0 < _finite(share) < 1:
            raise Malformed(f"party {name}: share: {_finite(share):g} is out of range: between 0 and 1, both excluded")
        names.append(name)
        shares.append(_finite(share))
        rest = {k: v for k, v in table.items() if k not in ("name", "share")}
        where = f"party {name}"
        own.append({k: _number(f"{where}.{k}", v, _parameter(where, k, per_party=True)) for k, v in rest.items()})
    if abs(sum(shares) - 1) > 1e-9:
        raise Malformed(f"party: the shares add up to {sum(shares):.9g}, not to 1")
    return tuple(names), np.array(shares), own


def _values(
    parameters: dict[str, Any], own: list[dict[str, float]], measured: Mapping[str, Measured]
) -> tuple[dict[str, Array], frozenset[str]]:
    given = {
        k: _number(f"parameters.{k}", v, _parameter("parameters", k, per_party=False)) for k, v in parameters.items()
    }
    base = {p.name: p.default for p in TABLE if p.default is not None}
    base |= {name: m.estimate for name, m in measured.items()} | given
    values = {name: np.array([value]) for name, value in base.items()}
    for name in {name for table in own for name in table}:
        common = base.get(name, base.get(PARAMETERS[name].same_as))
        follows = PARAMETERS[name].same_as if name not in base else ""
        row = [table.get(name, table.get(follows, common)) for table in own]
        values[name] = np.array(row, dtype=float)
    return values, frozenset(given) | {name for table in own for name in table}


def _check_together(s: Scenario) -> None:
    """Values that contradict one another."""
    v, n = s.values, len(s.parties)
    if (s.policy == "unilateral") != (s.pauses != ""):
        raise Malformed("scenario.pauses: names the party that pauses alone, under the policy unilateral and no other")
    if s.pauses and s.pauses not in s.parties:
        raise Malformed(f"scenario.pauses: there is no party {s.pauses!r}; there are {', '.join(s.parties)}")
    for i, name in enumerate(s.parties):
        risk, relief = _of(v["risk"], i), _of(v["solo_relief"], i)
        covert = _of(v["covert_risk"], i) if "covert_risk" in v else risk
        if not risk * (1 - relief) - 1e-12 <= covert <= risk + 1e-12:
            allowed = f"risk x (1 - solo_relief) to risk, {risk * (1 - relief):.4g} to {risk:.4g}"
            raise Malformed(f"party {name}: covert_risk: {covert:g} is out of range: {allowed}")
        if _of(v["shared_value"], i) < 1 / n - 1e-12:
            raise Malformed(f"party {name}: shared_value: {_of(v['shared_value'], i):g} is out of range: 1/{n} to 0.9")
    inspectors = int(v["inspectors"][0])
    confirmers = int(v.get("confirmers", v["inspectors"])[0])
    if confirmers < inspectors:
        raise Malformed(
            f"parameters.confirmers: {confirmers} is out of range: {inspectors} to 64, the inspectors or more"
        )
    for key, least, most in (("quorum", 1, confirmers), ("corrupt", 0, inspectors)):
        if not least <= v[key][0] <= most:
            raise Malformed(f"parameters.{key}: {v[key][0]:g} is out of range: {least} to {most}, the inspectors")


def _of(value: Array, i: int) -> float:
    return float(value[i] if value.shape[-1] > 1 else value[0])
