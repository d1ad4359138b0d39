"""What a treaty says, as values. Durations in seconds, compute in FLOP, times in POSIX seconds, shares from 0 to 1."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from brakeline.core.encoding import sha256
from brakeline.core.keys import PublicKey
from brakeline.core.tlog.note import VerifierKey
from brakeline.core.tlog.policy import Group, Policy, permit_threshold

Role = Literal["lab", "log", "witness", "permit-signer", "inspector"]
Duty = Literal["declared", "monitored", "permitted", "prohibited"]
Lane = Literal["brake", "runs", "audits", "rest"]
GaugeClass = Literal["activity", "capability", "safety"]
Condition = Literal["stopped", "audited", "readings"]

RULES: Final = frozenset({1, 2})  # versions of the rules that this build can apply
SUCCESSION: Final = 2  # since these rules a text can be amended, and keys change
SKEW: Final = 30  # s that honest clocks may differ, beyond a heartbeat
BEHIND: Final = 7 * 86_400  # s that a statement may be dated behind the log's time (Treaty 1.5, 6.5)


@dataclass(frozen=True, slots=True)
class Tier:
    """Runs that the treaty treats alike. A criterion that is None is not stated; each is exceeded above, not at.

    `above` in FLOP, `rate_above` in FLOP/s, `chips_above` in accelerators of one cluster; an empty `domain` is any.
    """

    name: str
    duties: frozenset[Duty]
    above: int | None
    rate_above: int | None
    chips_above: int | None
    domain: str
    sum: bool

    def holds(self, *, lineage: int, window: int, rate: int, chips: int, domain: str) -> bool:
        """Whether a run is in this tier: all that the tier states holds. Treaty 3.1, 3.6.

        `lineage`: FLOP of the run and of all it descends from. `window`: FLOP of the lab's runs that `scope.window`
        puts together, this one's included. `rate`: FLOP/s and `chips`: accelerators of its cluster.
        """
        compute = max(lineage, window) if self.sum else lineage
        return (
            (self.above is None or compute > self.above)
            and (self.rate_above is None or rate > self.rate_above)
            and (self.chips_above is None or chips > self.chips_above)
            and self.domain in ("", domain)
        )


@dataclass(frozen=True, slots=True)
class Exemption:
    """A run for this purpose needs no permit up to `up_to` FLOP over its lineage. `while_braked`: it may go on."""

    purpose: str
    up_to: int
    while_braked: bool


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
class Budget:
    """Statements that one party may log a day, by lane, and bytes a day. Treaty 1.5."""

    brake: int
    runs: int
    audits: int
    rest: int
    bytes: int

    def of(self, lane: Lane) -> int:
        """Statements a day in `lane`."""
        count: int = getattr(self, lane)
        return count


@dataclass(frozen=True, slots=True)
class IncidentClass:
    """An incident of this class is reported within so many seconds. Treaty 10.1."""

    name: str
    within: int


@dataclass(frozen=True, slots=True)
class Party:
    """One party: its roles and the keys it is known by. A key it has no role for is None.

    `next` and `signer_next` are the digests (hex SHA-256) of the keys that come after `key` and `signer_key`; empty
    under rules 1, by which no key changes.
    """

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
    next: str = ""
    signer_next: str = ""


@dataclass(frozen=True, slots=True)
class Treaty:
    """A treaty that has passed every check."""

    text: bytes
    name: str
    title: str
    version: int
    rules: int
    effective: int
    faults: int
    trip: int
    permit: int
    lift: int
    witnesses: int
    window: int
    tiers: tuple[Tier, ...]
    exemptions: tuple[Exemption, ...]
    findings_trip: bool
    triggers: tuple[Trigger, ...]
    lift_conditions: frozenset[Condition]
    lift_delay: int
    settle_within: int
    permit_lifetime: int
    permit_allowance: int
    lineage_gate: bool
    heartbeat: int
    stale_after: int
    snapshot_every: int
    inspectors: int
    adjudicators: int
    p_catch: Decimal
    f_cheat: Decimal
    segment_steps: int
    segment_most: int
    head_every: int
    update_error: float
    residual: Decimal
    attested_runs: bool
    audit_within: int
    answer_within: int
    foreign: tuple[str, ...]
    findings: int
    budget: Budget
    incidents: tuple[IncidentClass, ...]
    notification_clock: int
    report_clock: int
    amendment_notice: int
    withdrawal_notice: int
    parties: dict[str, Party]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the exact text: what statements mean by `treaty`."""
        return sha256(self.text).hex()

    @property
    def skew(self) -> int:
        """How far ahead of the log's time a statement may be dated, in seconds. Treaty 6.5."""
        return self.heartbeat + SKEW

    @property
    def members(self) -> int:
        """How many parties decide together: the least k for which two such quorums share an honest one."""
        return permit_threshold(len(self.parties), self.faults)

    @property
    def amends(self) -> bool:
        """Whether its rules know of succession: amendments, keys that change, another keeper of the log."""
        return self.rules >= SUCCESSION

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
