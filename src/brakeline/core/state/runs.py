"""Runs: what was declared, where each stands, which tiers it is in, and what its lineage cost.

A run is kept with the heads that may still be audited; the older ones are in the log. Compute follows the weights
(Treaty 3.4), so splitting a run hides nothing; and what a lab declares beside one another within the window counts
together where a tier says so (Treaty 3.6, attack A-25).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from rpds import HashTrieMap

from brakeline.core.brake import Phase
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.finding import REPLAYED, Key
from brakeline.core.lineage import Edge, check_edge
from brakeline.core.run import Declaration, Designation, check_declaration, run_seed
from brakeline.core.state.clock import SECONDS_A_DAY
from brakeline.core.transcript import Head
from brakeline.core.treaty import Exemption, Treaty

MAX_HEADS: Final = 256  # heads of one run that may be audited at a time
MAX_SEAMS: Final = 4096  # times that one run may be opened
MAX_MERGE: Final = 1024  # ancestors that a run of several parents may have: each is counted once, so each is looked at

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
    def whole(self) -> bool:
        """Whether whoever passes the transcript has looked there."""
        return self.open_to_all or self.segment == (0, 0)


class Examined(msgspec.Struct, frozen=True, gc=False):
    """One inspector's newest audit of a run: up to the head of entry `head`, with the steps that it replayed."""

    head: int
    verdict: Literal["pass", "fail", "inconclusive"]
    strict: bool
    segments: tuple[tuple[int, int], ...]


class Bar(msgspec.Struct, frozen=True, gc=False):
    """A violation that was upheld."""

    fault: str
    segment: tuple[int, int]


class Run(msgspec.Struct, frozen=True, gc=False):
    """One run. `seed` is empty until a stamp follows the declaration. `lineage` is FLOP, in decimal.

    `tiers` are the names of those it is in, by its numbers or by decision (`chosen`); `exempt` is its purpose where
    that counts. `covered`: it needs a permit for every step; `brakes`: the brake stops it; `prohibited`: it gets no
    permit. `bound`: its lab was in force when it was declared.
    """

    id: str
    owner: str
    declaration: Declaration
    index: int
    lineage: str
    window: str
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
    heads: tuple[LoggedHead, ...] = ()
    seams: tuple[int, ...] = ()
    designated: Mapping[str, tuple[str, ...]] = {}
    examined: Mapping[str, Examined] = {}
    allegations: Mapping[Key, Allegation] = {}
    bar: Bar | None = None
    held: bool = False

    @property
    def lineage_flop(self) -> int:
        return int(self.lineage)

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.declaration.name}"

    @property
    def steps(self) -> int:
        return self.head.steps if self.head else 0

    @property
    def stopped(self) -> bool:
        """No permit can be in force: it never opened, or its last head says stopped or ended."""
        return self.head is None or self.head.status in ("stopped", "ended")

    @property
    def open_allegations(self) -> tuple[Allegation, ...]:
        """Violations alleged and neither upheld nor fallen, in order."""
        return () if self.bar else tuple(a for _, a in sorted(self.allegations.items()) if not a.fell)


class Tally(msgspec.Struct, frozen=True, gc=False):
    """Counts over one lab's runs that the brake stops: of all, and of those that were declared while it was bound."""

    running: int = 0
    running_bound: int = 0
    unsettled: int = 0
    unsettled_bound: int = 0


class Runs(msgspec.Struct, frozen=True, gc=False):
    """`by_id`, and by (lab, name); how models came to be; each lab's counts, and the FLOP it declared by day."""

    by_id: HashTrieMap[str, Run] = HashTrieMap()
    names: HashTrieMap[tuple[str, str], str] = HashTrieMap()
    told: HashTrieMap[str, str] = HashTrieMap()  # model → the run that made it, or ""
    models: HashTrieMap[str, tuple[str, ...]] = HashTrieMap()  # run → the models it made
    tallies: Mapping[str, Tally] = {}
    days: Mapping[str, Mapping[int, int]] = {}  # lab → day → FLOP

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
        before, tallies = self.by_id.get(run.id), self.tallies
        if before is None or _counted(before) != _counted(run):
            new = _add(_add(tallies.get(run.owner, Tally()), before, -1), run, 1)
            tallies = {lab: t for lab, t in {**tallies, run.owner: new}.items() if t != Tally()}
        return msgspec.structs.replace(self, by_id=self.by_id.insert(run.id, run), tallies=tallies)


def _counted(run: Run) -> tuple[bool, bool, bool]:
    return run.brakes, run.stopped, run.settlement == "open"


def _add(t: Tally, run: Run | None, by: int) -> Tally:
    if run is None or not run.brakes:
        return t
    running, unsettled = by * (not run.stopped), by * (run.settlement == "open")
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


def exemption(treaty: Treaty, purpose: str) -> Exemption | None:
    return next((e for e in treaty.exemptions if e.purpose == purpose), None)


def classify(treaty: Treaty, run: Run) -> Run:
    """The run with its tiers, and what follows from them. Treaty 3.1-3.3, 3.6."""
    d, lineage, window = run.declaration, run.lineage_flop, int(run.window)
    tiers = [
        t
        for t in treaty.tiers
        if t.name in run.chosen
        or t.holds(lineage=lineage, window=window, rate=d.rate, chips=d.chips, domain=d.domain)
    ]
    duties = frozenset(duty for t in tiers for duty in t.duties)
    prohibited = "prohibited" in duties
    found = exemption(treaty, d.purpose) if d.purpose else None
    # Treaty 3.2, 3.3: no word frees a run above its cap, and none frees one that is prohibited.
    exempt = found if found and lineage <= found.up_to and not prohibited else None
    covered = prohibited or ("permitted" in duties and exempt is None)
    return msgspec.structs.replace(
        run,
        tiers=tuple(t.name for t in tiers),
        exempt=exempt.purpose if exempt else "",
        covered=covered,
        brakes=covered or (exempt is not None and not exempt.while_braked),
        prohibited=prohibited,
    )


def by_sum_alone(treaty: Treaty, run: Run) -> bool:
    """Whether the run is in a tier only because its lab's runs count together. Treaty 3.6."""
    d = run.declaration
    return any(
        t.name in run.tiers
        and not t.holds(lineage=run.lineage_flop, window=0, rate=d.rate, chips=d.chips, domain=d.domain)
        for t in treaty.tiers
    )


def concerned(run: Run, active: frozenset[str], phase: Phase) -> bool:
    """Whether the brake and its permits concern this run now. Treaty 2.2, 3.1: nobody is asked to stop alone."""
    return (run.bound or run.owner in active) and (run.covered or (run.brakes and phase is not Phase.CLEAR))


def settlement(treaty: Treaty, run: Run) -> Settlement:
    """Settled up to its last head: barred, or passed by enough inspectors and undisputed. Treaty 5.7, 8.2.

    `tried`: as many inspectors as could pass it examined its last head without passing it, and nothing is alleged. An
    attested run has nothing to execute again (Treaty 7.8): that it has stopped, or its permits have lapsed, is all.
    """
    if run.declaration.rung == "attested" or run.bar or run.steps == 0:
        return "settled"
    if not run.examined and not run.allegations:
        return "open"
    if run.open_allegations:
        return "open"
    last = run.heads[-1].index
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
    """The parents of a run with the models that each made, where the treaty wants a reading of them. Treaty 5.8."""
    parents = run.declaration.parents if treaty.lineage_gate else ()
    return tuple((p, runs.models.get(p, ())) for p in parents)


# ---- statements ----


def declare(
    treaty: Treaty, runs: Runs, digest: str, index: int, issuer: str, d: Declaration, *, time: int, bound: bool
) -> tuple[Runs, Run]:
    """Treaty 7.1.

    Raises:
        Malformed: see `check_declaration`. Refused: DUPLICATE, UNDECLARED (a parent), PROHIBITED, ALLOWANCE (a merge of
            more ancestors than are counted).
    """
    check_declaration(d)
    if (issuer, d.name) in runs.names:
        raise Refused(Reason.DUPLICATE, f"{issuer} has declared a run named {d.name!r}")
    unknown = [p for p in d.parents if p not in runs.by_id]
    if unknown:
        raise Refused(Reason.UNDECLARED, f"parent {unknown[0][:16]}… is not a declared run (Treaty 3.4)")
    if d.segment_steps != treaty.segment_steps:  # the treaty fixes what an inspector replays (attack A-16)
        raise Refused(Reason.PROHIBITED, f"segments have {treaty.segment_steps} steps (Treaty 7.2)")
    if d.purpose and exemption(treaty, d.purpose) is None:
        raise Refused(Reason.PROHIBITED, f"{d.purpose!r} is no exemption of the treaty (Treaty 3.2)")
    if d.rung == "attested" and not treaty.attested_runs:  # Treaty 7.8
        raise Refused(Reason.PROHIBITED, "the treaty admits no run that cannot be executed again (Treaty 7.8)")
    lineage = d.total_flop + _inherited(runs, d.parents)  # Treaty 3.4
    today = time // SECONDS_A_DAY
    oldest = today - -(-treaty.window // SECONDS_A_DAY)
    days = {day: flop for day, flop in runs.days.get(issuer, {}).items() if day >= oldest}
    days[today] = days.get(today, 0) + d.total_flop
    run = Run(
        id=digest, owner=issuer, declaration=d, index=index, lineage=str(lineage), window=str(sum(days.values())),
        bound=bound,
    )  # fmt: skip
    run = classify(treaty, run)
    runs = msgspec.structs.replace(
        runs, names=runs.names.insert((issuer, d.name), digest), days={**runs.days, issuer: days}
    )
    return runs.put(treaty, run), run


def _inherited(runs: Runs, parents: tuple[str, ...]) -> int:
    """FLOP over all ancestors, each counted once."""
    if len(parents) == 1:
        return runs.by_id[parents[0]].lineage_flop
    found: set[str] = set()
    todo = list(parents)
    while todo:
        run = todo.pop()
        if run not in found:
            found.add(run)
            if len(found) > MAX_MERGE:
                raise Refused(
                    Reason.ALLOWANCE,
                    f"a merge of more than {MAX_MERGE} ancestors",
                    hint="declare the parents' merge step by step",
                )
            todo += runs.by_id[run].declaration.parents
    return sum(runs.by_id[run].declaration.total_flop for run in found)


def edge(treaty: Treaty, runs: Runs, issuer: str, e: Edge) -> Runs:
    """Treaty 3.5.

    Raises:
        Malformed: see `check_edge`. Refused: UNDECLARED (a parent, or the run), FOREIGN, TAMPERED (other parents than
            the run declared).
    """
    check_edge(e)
    untold = [p for p in e.parents if p not in runs.told]
    if untold:  # else a parent told later would be an ancestor that the run never declared
        raise Refused(Reason.UNDECLARED, f"no edge says how the parent {untold[0][:16]}… was made (Treaty 3.5)")
    made_by, models = runs.told.get(e.child, ""), runs.models
    if e.run:
        run = runs[e.run]
        if run.owner != issuer:
            raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
        named = {runs.told[p] for p in e.parents if runs.told[p]}
        # Treaty 3.5: a model that is an ancestor in one story and none in the other is the flaw to be found.
        if named != set(run.declaration.parents):
            raise Refused(Reason.TAMPERED, "the edge names other parents than the run's declaration (Treaty 3.5)")
        if not made_by:
            made_by = e.run
            models = models.insert(e.run, tuple(sorted((*models.get(e.run, ()), e.child))))
    return msgspec.structs.replace(runs, told=runs.told.insert(e.child, made_by), models=models)


def check_head(treaty: Treaty, run: Run, issuer: str, h: Head) -> None:
    """That the head may follow the run's last one, whatever the brake says.

    Raises:
        Malformed, Refused: see the rule cited.
    """
    if run.owner != issuer:
        raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
    if h.steps > run.declaration.steps:
        raise Malformed(f"head at step {h.steps} of {run.declaration.steps}")
    if h.flop != str(h.steps * int(run.declaration.flop_per_step)):
        raise Malformed("a head's compute is its steps times the declared compute of a step")
    last = run.head
    if last is None:
        if (h.status, h.steps) != ("opened", 0):
            raise Refused(Reason.MISSING, "a run's first head opens it at step 0 (Treaty 7.2)")
        return
    if last.status == "ended" or (last.status == "stopped" and h.status != "opened"):
        raise Refused(Reason.REPLAYED, f"the run has {last.status}; only opening it again may follow a stop")
    # Steps beyond the stop would have been taken while the log said that the run stood still (attack A-30).
    if last.status == "stopped" and h.steps != last.steps:
        raise Refused(Reason.PROHIBITED, f"the run stopped at step {last.steps}: it opens there (Treaty 4.5)")
    # A run never un-commits: what was logged once stays its past (attacks ).
    if h.steps < last.steps or (h.steps == last.steps and (h.root, h.state) != (last.root, last.state)):
        raise Refused(Reason.EQUIVOCATION, f"head at step {h.steps} contradicts the one at step {last.steps}")
    if h.status == "opened" and len(run.seams) >= MAX_SEAMS:
        raise Refused(
            Reason.ALLOWANCE,
            f"a run is opened at most {MAX_SEAMS} times",
            hint="declare a run that descends from this one",
        )


def commit(treaty: Treaty, runs: Runs, run: Run, index: int, leaf: bytes, h: Head, *, time: int, epoch: int) -> Runs:
    """The runs with a head that `check_head` let pass."""
    logged = LoggedHead(index, leaf, time, epoch, h.steps, h.status)
    # What was opened again is a seam that a glued transcript would hide in (attack A-05).
    seams = run.seams if h.status != "opened" or h.steps == 0 or h.steps in run.seams else (*run.seams, h.steps)
    heads = (*run.heads, logged) if len(run.heads) < MAX_HEADS else (*run.heads[1:], logged)
    if heads[0].time < time - treaty.audit_within:  # Treaty 7.10
        heads = tuple(x for x in heads if x.time >= time - treaty.audit_within)
    return runs.put(treaty, msgspec.structs.replace(run, head=h, heads=heads, seams=seams))


def stamped(treaty: Treaty, runs: Runs, awaiting: frozenset[str], stamp: int, size: int, beacon: bytes) -> Runs:
    """Give runs that wait for it the stamp of entry `stamp`, which covers the first `size` entries.

    Treaty 7.3: the first stamp after it, so that nobody chooses among later ones.
    """
    for id_ in awaiting:
        run = runs.by_id[id_]
        heads = tuple(
            msgspec.structs.replace(h, stamp=stamp, beacon=beacon) if h.stamp < 0 and h.index < size else h
            for h in run.heads
        )
        seed = run_seed(run.id, beacon) if not run.seed and run.index < size else run.seed
        runs = runs.put(treaty, msgspec.structs.replace(run, heads=heads, seed=seed))
    return runs


def designate(
    treaty: Treaty, runs: Runs, issuer: str, d: Designation, active: frozenset[str]
) -> tuple[Runs, bool]:
    """Treaty 3.7; also whether the run is in the tier by decision now, and was not before.

    Raises:
        Refused(UNDECLARED): no such run. Malformed: no such tier.
    """
    run = runs[d.run]
    if d.tier not in {t.name for t in treaty.tiers}:
        raise Malformed(f"the treaty has no tier {d.tier[:60]!r}")
    by = tuple(sorted({*run.designated.get(d.tier, ()), issuer}))
    run = msgspec.structs.replace(run, designated={**run.designated, d.tier: by})
    decided = d.tier not in run.chosen and len(active.intersection(by)) >= treaty.lift
    if decided:
        run = classify(treaty, msgspec.structs.replace(run, chosen=(*run.chosen, d.tier)))
    return runs.put(treaty, run), decided
