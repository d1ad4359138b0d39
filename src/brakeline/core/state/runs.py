"""Runs as the log knows them: where each stands, whether it is settled, and how many keep the brake waiting.

A run is kept with the heads that may still be audited; the older ones are in the log. What brakes and lifts ask of all
runs is counted as they change, so that no entry costs the number of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
from rpds import HashTrieMap, List

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason, Refused
from brakeline.core.finding import REPLAYED, Fault, Key
from brakeline.core.run import Declaration
from brakeline.core.transcript import Head, Segments
from brakeline.core.treaty import Treaty

Settlement = Literal["settled", "tried", "open"]


class LoggedHead(msgspec.Struct, frozen=True, gc=False):
    """A head in the log: entry `index`, with leaf hash `leaf`, logged at `time` in `epoch`.

    `stamp` is the entry of the first stamp that covers it, and `beacon` that stamp's digest; -1 and empty before.
    """

    index: int
    leaf: bytes
    time: int
    epoch: int
    steps: int
    status: Literal["opened", "running", "stopped", "ended"]
    stamp: int = -1
    beacon: bytes = b""


if TYPE_CHECKING:
    Heads = List[LoggedHead]
else:
    Heads = List  # which is generic for the type checker alone


class Allegation(msgspec.Struct, frozen=True, gc=False):
    """A violation that inspectors allege: who found it, and who checked the same steps and did not.

    Strict are those who looked in the declared environment, or at what no environment changes. `head` is the entry of
    the head that the first accuser audited, `since` when.
    """

    fault: str
    segment: tuple[int, int]
    head: int
    since: int
    strict: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    denied_strict: tuple[str, ...] = ()
    denied_loose: tuple[str, ...] = ()
    retracted: tuple[str, ...] = ()
    answered: int = -1
    fell: bool = False

    @property
    def accusers(self) -> frozenset[str]:
        return frozenset((*self.strict, *self.loose))

    @property
    def open_to_all(self) -> bool:
        """Whether it shows in what the lab opens, so that no environment changes what is seen."""
        return self.fault not in REPLAYED

    @property
    def not_shown(self) -> bool:
        """Whether it is that something was asked for and not shown: `strict` are then those who say so after the lab
        had its time to answer, `loose` those who said so before. Treaty 7.7"""
        return self.fault == Fault.OPENING_MISSING

    @property
    def whole(self) -> bool:
        """Whether whoever passes the transcript has looked there."""
        return self.open_to_all or self.segment == (0, 0)


class Examined(msgspec.Struct, frozen=True, gc=False):
    """One inspector's newest audit of a run: up to the head of entry `head`, with the steps that it replayed.

    `strict`: it looked in the environment in which the run was declared. Of a run that had moved, `environment` is
    where it looked strictly, or "" where its machine turned out to be another.
    """

    head: int
    verdict: Literal["pass", "fail", "inconclusive"]
    strict: bool
    segments: tuple[tuple[int, int], ...]
    environment: str | msgspec.UnsetType = msgspec.UNSET  # rules 1 know of no move, and of no bytes for it

    def where(self, run: Run) -> str:
        """The environment in which the audit was strict, or ""."""
        if isinstance(self.environment, str):
            return self.environment
        return run.declaration.environment if self.strict else ""


class Moved(msgspec.Struct, frozen=True, gc=False):
    """Beyond `steps`, the run's environment is this one; it has so many ranks, or as many as its recipe says."""

    steps: int
    environment: str
    ranks: int | msgspec.UnsetType = msgspec.UNSET


class Claim(msgspec.Struct, frozen=True, gc=False):
    """That a run made a model, or "" for no run here: told in `entry`."""

    run: str
    entry: int


class Bar(msgspec.Struct, frozen=True, gc=False):
    """A violation that was upheld."""

    fault: str
    segment: tuple[int, int]


class Run(msgspec.Struct, frozen=True, gc=False):
    """One run. `seed` is empty until a stamp follows the declaration. `lineage`, `window` and
    `purpose_window` (what its lab declared, and for this purpose) are FLOP, in decimal.

    `kept` are heads that may still be audited, the newest first, and `since` is the time of the oldest. `tiers` are the
    names of those it is in, by its numbers or by decision (`chosen`); `exempt` is its purpose where that counts.
    `covered`: it needs a permit for every step; `brakes`: the brake stops it; `prohibited`: it gets no permit.
    `bound`: its lab was in force when it was declared, or when it logged a head. `released`: an audit found that
    nothing was owed of it any more (`audits.owed`).
    """

    id: str
    owner: str
    declaration: Declaration
    index: int
    lineage: str
    window: str
    purpose_window: str
    bound: bool
    tiers: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    exempt: str = ""
    covered: bool = False
    brakes: bool = False
    prohibited: bool = False
    settlement: Settlement = "settled"
    seed: bytes = b""
    head: Head | None = None
    kept: Heads = List()
    since: int = 0
    seams: tuple[int, ...] = ()
    moved: tuple[Moved, ...] | msgspec.UnsetType = msgspec.UNSET
    released: bool | msgspec.UnsetType = msgspec.UNSET  # as `moved`
    designated: Mapping[str, tuple[str, ...]] = {}
    examined: Mapping[str, Examined] = {}
    allegations: Mapping[Key, Allegation] = {}
    bar: Bar | None = None
    held: bool = False

    @property
    def lineage_flop(self) -> int:
        return int(self.lineage)

    @property
    def heads(self) -> tuple[LoggedHead, ...]:
        """The heads kept, in the order in which they were logged."""
        return tuple(self.kept)[::-1]

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.declaration.name}"

    @property
    def steps(self) -> int:
        return self.head.steps if self.head else 0

    @property
    def moves(self) -> tuple[Moved, ...]:
        """Where it went on elsewhere, in order; as rules 1 have none, no bytes stand for none."""
        return self.moved if isinstance(self.moved, tuple) else ()

    def segments(self, steps: int) -> Segments:
        """Those up to `steps`."""
        return Segments(steps, self.declaration.segment_steps, tuple(m.steps for m in self.moves))

    @property
    def environments(self) -> tuple[str, ...]:
        """All in which it was trained, in order."""
        return (self.declaration.environment, *(m.environment for m in self.moves))

    def environment(self, start: int) -> str:
        """That of the segment that begins at `start`. Treaty 7.5"""
        return self.environments[sum(m.steps <= start for m in self.moves)]

    def ranks(self, start: int, declared: int) -> int:
        """How many ranks make the steps beyond `start`; `declared` are those of the recipe."""
        last = next((m.ranks for m in reversed(self.moves) if m.steps <= start), None)
        return last if isinstance(last, int) else declared

    @property
    def stopped(self) -> bool:
        """No permit can be in force: it never opened, or its last head says stopped or ended."""
        return self.head is None or self.head.status in ("stopped", "ended")

    @property
    def open_allegations(self) -> tuple[Allegation, ...]:
        """Violations alleged and neither upheld nor fallen, in order."""
        return () if self.bar else tuple(a for _, a in sorted(self.allegations.items()) if not a.fell)


class Tally(msgspec.Struct, frozen=True, gc=False):
    """Counts over one lab's runs that the brake stops: of all, and of those that were declared while it was bound.

    What an exempt run leaves open holds up nobody: unsettled are covered runs. Treaty 8.2
    """

    running: int = 0
    running_bound: int = 0
    unsettled: int = 0
    unsettled_bound: int = 0


class Runs(msgspec.Struct, frozen=True, gc=False):
    """`by_id`, and by (lab, name); how models came to be; each lab's counts, and the FLOP it declared by day."""

    by_id: HashTrieMap[str, Run] = HashTrieMap()
    names: HashTrieMap[tuple[str, str], str] = HashTrieMap()
    told: HashTrieMap[str, Mapping[str, Claim]] = HashTrieMap()  # model → who tells of it → how it came to be
    models: HashTrieMap[str, tuple[tuple[int, str], ...]] = HashTrieMap()  # run → entries and models that its lab told
    tallies: Mapping[str, Tally] = {}
    days: Mapping[str, Mapping[int, int]] = {}  # lab, or lab and purpose → day → FLOP

    def __getitem__(self, run: str) -> Run:
        """Raises:
        Refused(UNDECLARED): no such run.
        """
        found = self.by_id.get(run)
        if found is None:
            raise Refused(Reason.UNDECLARED, f"no run {run[:16]}… has been declared (Treaty 7.1)")
        return found

    def put(self, treaty: Treaty, run: Run) -> Runs:
        """The runs with another state of one, how it is settled and its lab's counts kept right."""
        now = settlement(treaty, run)
        held = run.held and now != "settled"  # Treaty 5.7: once settled, it waits for nothing any more
        if (now, held) != (run.settlement, run.held):
            run = msgspec.structs.replace(run, settlement=now, held=held)
        return self.keep(run)

    def keep(self, run: Run) -> Runs:
        """The runs with another state of one, settled as it says, and its lab's counts kept right."""
        before, tallies = self.by_id.get(run.id), self.tallies
        if before is None or _counted(before) != _counted(run):
            new = _add(_add(tallies.get(run.owner, Tally()), before, -1), run, 1)
            tallies = {lab: t for lab, t in {**tallies, run.owner: new}.items() if t != Tally()}
        return msgspec.structs.replace(self, by_id=self.by_id.insert(run.id, run), tallies=tallies)


def _counted(run: Run) -> tuple[bool, bool, bool, bool]:
    return run.bound, run.brakes, run.stopped, run.covered and run.settlement == "open"


def _add(t: Tally, run: Run | None, by: int) -> Tally:
    if run is None or not run.brakes:
        return t
    running, unsettled = by * (not run.stopped), by * (run.covered and run.settlement == "open")
    if not running and not unsettled:
        return t
    bound = run.bound
    return Tally(
        t.running + running, t.running_bound + running * bound,
        t.unsettled + unsettled, t.unsettled_bound + unsettled * bound,
    )  # fmt: skip


def add_tally(tallies: dict[str, Tally], run: Run) -> None:
    """Count a run that is read back."""
    if (t := _add(tallies.get(run.owner, Tally()), run, 1)) != Tally():
        tallies[run.owner] = t


# ---- what a run is subject to ----


def concerned(run: Run, active: frozenset[str], phase: Phase) -> bool:
    """Whether the brake and its permits concern this run now. Treaty 2.2, 3.1: nobody is asked to stop alone."""
    return (run.bound or run.owner in active) and (run.covered or (run.brakes and phase is not Phase.CLEAR))


def settlement(treaty: Treaty, run: Run) -> Settlement:
    """Settled up to its last head: barred, or passed by enough inspectors and undisputed. Treaty 5.7, 8.2.

    `tried`: as many inspectors as could pass it examined its last head without passing it, and nothing is alleged. An
    attested run has nothing to execute again (Treaty 7.8): that it has stopped, or its permits have lapsed, is all.
    Of a settled run of which nothing is owed any more, what an audit could not see opens nothing again (Treaty 7.4).
    """
    if run.declaration.rung == "attested" or run.bar or run.steps == 0 or run.released is True:
        return "settled"
    if not run.examined and not run.allegations:
        return "open"
    if run.open_allegations:
        return "open"
    last = next(iter(run.kept)).index
    at = [e.verdict for e in run.examined.values() if e.head == last]
    if at.count("pass") >= treaty.inspectors:
        return "settled"
    return "tried" if len(at) >= treaty.inspectors else "open"


def count(runs: Runs, active: frozenset[str], what: Literal["running", "unsettled"]) -> int:
    """How many runs that the brake stops are running, or unsettled. Costs the number of labs."""
    return sum(
        getattr(t, what) if owner in active else getattr(t, f"{what}_bound") for owner, t in runs.tallies.items()
    )


def unread(treaty: Treaty, runs: Runs, run: Run) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The parents of a run with the models that each made, where the treaty wants a reading of them. Treaty 5.8.

    Those told before the run was declared; where there is none, the first told later: no parent's lab can take a
    successor's permits away by telling of more.
    """
    found = []
    for parent in run.declaration.parents if treaty.lineage_gate else ():
        told = runs.models.get(parent, ())
        before = tuple(model for entry, model in told if entry < run.index)
        found.append((parent, before or tuple(model for _, model in told[:1])))
    return tuple(found)
