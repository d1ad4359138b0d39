"""What labs say of their runs and models: declarations, edges and heads.

Compute follows the weights (Treaty 3.4), so splitting a run hides nothing; and what a lab declares beside one another
within the window counts together where a tier says so (Treaty 3.6, attack A-25).
"""

from itertools import takewhile
from typing import Final

import msgspec
from rpds import List

from brakeline.core.encoding import unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.lineage import Edge, check_edge
from brakeline.core.run import MAX_MOVES, MAX_RANKS, Declaration, Move, check_declaration, run_seed
from brakeline.core.state.clock import SECONDS_A_DAY
from brakeline.core.state.runs import Claim, LoggedHead, Moved, Run, Runs
from brakeline.core.state.tiers import classify, exemption
from brakeline.core.transcript import Head
from brakeline.core.treaty import Treaty

MAX_HEADS: Final = 2**16  # heads of one run within the time in which they may be audited
MAX_SEAMS: Final = 256  # times that one run may be opened: an audit names two segments a seam, and must fit an entry
MAX_MODELS: Final = 64  # models that one run may be told to have made
MAX_MERGE: Final = 1024  # ancestors that a run of several parents may have: each is counted once, so each is looked at
_PRUNE: Final = 1024  # heads


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
    least, most = treaty.segment_steps, treaty.segment_most
    if not least <= d.segment_steps <= most:  # the treaty bounds what an inspector replays (attack A-16)
        length = str(least) if least == most else f"{least} to {most}"
        raise Refused(Reason.PROHIBITED, f"segments have {length} steps (Treaty 7.2)")
    if d.purpose and exemption(treaty, d.purpose) is None:
        raise Refused(Reason.PROHIBITED, f"{d.purpose!r} is no exemption of the treaty (Treaty 3.2)")
    if d.rung == "attested" and not treaty.attested_runs:  # Treaty 7.8
        raise Refused(Reason.PROHIBITED, "the treaty admits no run that cannot be executed again (Treaty 7.8)")
    lineage = d.total_flop + _inherited(runs, d.parents)  # Treaty 3.4
    today = time // SECONDS_A_DAY
    oldest = today - -(-treaty.window // SECONDS_A_DAY)
    days = dict(runs.days)
    sums = []
    for account in (issuer, f"{issuer} {d.purpose}"):  # Treaty 3.6, 3.2: what the lab declared, and for this purpose
        by_day = {day: flop for day, flop in days.get(account, {}).items() if day >= oldest}
        by_day[today] = by_day.get(today, 0) + d.total_flop
        days[account] = by_day
        sums.append(str(sum(by_day.values())))
    run = Run(
        id=digest, owner=issuer, declaration=d, index=index, lineage=str(lineage), window=sums[0],
        purpose_window=sums[1], bound=bound,
    )  # fmt: skip
    run = classify(treaty, run)
    runs = msgspec.structs.replace(runs, names=runs.names.insert((issuer, d.name), digest), days=days)
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


def edge(runs: Runs, index: int, issuer: str, e: Edge) -> Runs:
    """Treaty 3.5.

    Raises:
        Malformed: see `check_edge`. Refused: UNDECLARED (a parent, or the run), FOREIGN, TAMPERED (other parents than
            the run declared), EQUIVOCATION (another run than told before), ALLOWANCE (too many models of one run).
    """
    check_edge(e)
    untold = [p for p in e.parents if p not in runs.told]
    if untold:  # else a parent told later would be an ancestor that the run never declared
        raise Refused(Reason.UNDECLARED, f"no edge says how the parent {untold[0][:16]}… was made (Treaty 3.5)")
    story = runs.told.get(e.child, {})
    mine = story.get(issuer)
    if mine is not None and mine.run != e.run:
        # A model that was told to be of no run, and then to be of one, would hide that run from those in between.
        raise Refused(Reason.EQUIVOCATION, f"{issuer} has told otherwise which run made this model (Treaty 3.5)")
    models = runs.models
    if e.run:
        run = runs[e.run]
        if run.owner != issuer:
            raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
        _check_parents(runs, e, run)
        made = models.get(e.run, ())
        if mine is None:
            if len(made) >= MAX_MODELS:
                raise Refused(Reason.ALLOWANCE, f"a run makes at most {MAX_MODELS} models")
            models = models.insert(e.run, (*made, (index, e.child)))
    told = runs.told.insert(e.child, {**story, issuer: mine or Claim(e.run, index)})
    return msgspec.structs.replace(runs, told=told, models=models)


def _check_parents(runs: Runs, e: Edge, run: Run) -> None:
    """That edge and declaration tell one story: whoever else tells of a parent changes nothing.

    Treaty 3.5: a model that is an ancestor in one story and none in the other is the flaw to be found.
    """
    declared = set(run.declaration.parents)
    makers = [{c.run for c in runs.told[p].values() if c.run} for p in e.parents]
    unmade = declared.difference(*makers) if makers else declared
    if unmade or any(found and not found & declared for found in makers):
        raise Refused(Reason.TAMPERED, "the edge names other parents than the run's declaration (Treaty 3.5)")


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
    if h.status == "running" and last.status == "running" and h.steps == last.steps:
        raise Refused(Reason.DUPLICATE, f"the run has committed to step {h.steps} already")
    if h.status == "opened" and len(run.seams) >= MAX_SEAMS:
        raise Refused(
            Reason.ALLOWANCE,
            f"a run is opened at most {MAX_SEAMS} times",
            hint="declare a run that descends from this one",
        )


def commit(
    treaty: Treaty,
    runs: Runs,
    run: Run,
    index: int,
    leaf: bytes,
    h: Head,
    *,
    time: int,
    epoch: int,
    bound: bool,
) -> Runs:
    """The runs with a head that `check_head` let pass. `bound`: its lab is in force.

    A run that was open while its lab was bound stays under the treaty: nobody leaves it by the date of a pledge.

    Raises:
        Refused(ALLOWANCE): too many heads that may still be audited. A run may always say that it has stopped.
    """
    logged = LoggedHead(index, leaf, time, epoch, h.steps, h.status)
    # What was opened again is a seam that a glued transcript would hide in (attack A-05).
    seams = run.seams if h.status != "opened" or h.steps == 0 or h.steps in run.seams else (*run.seams, h.steps)
    kept, since, oldest = run.kept.push_front(logged), run.since or time, time - treaty.audit_within
    full = len(kept) > MAX_HEADS
    if since < oldest and (full or len(kept) % _PRUNE == 0):  # Treaty 7.10; seldom, so that heads cost the same
        left = [x for x in kept if x.time >= oldest]
        kept, since, full = List(left), left[-1].time, len(left) > MAX_HEADS
    if full and h.status in ("opened", "running"):
        raise Refused(Reason.ALLOWANCE, f"{MAX_HEADS} heads of the run are still auditable: log them less often")
    run = msgspec.structs.replace(run, head=h, kept=kept, since=since, seams=seams, bound=run.bound or bound)
    return runs.put(treaty, run)


def move(run: Run, issuer: str, m: Move) -> Run:
    """Treaty 7.5. What is logged already stays in the environment in which it was made.

    Raises:
        Malformed: no environment, or beyond the run. Refused: FOREIGN, another lab's run; PROHIBITED, an attested run
            or one that has ended; REPLAYED, steps that are logged, or no other environment; ALLOWANCE, too many moves.
    """
    if run.owner != issuer:
        raise Refused(Reason.FOREIGN, f"the run belongs to {run.owner}")
    unhex32(m.environment)
    if not 0 <= m.steps <= run.declaration.steps:
        raise Malformed(f"a move at step {m.steps} of {run.declaration.steps}")
    if run.declaration.rung == "attested" or (run.head and run.head.status == "ended"):
        raise Refused(Reason.PROHIBITED, "only a run that goes on, and can be executed again, moves (Treaty 7.5)")
    last = run.moves[-1].steps if run.moves else 0
    if m.steps < run.steps or m.steps < last:
        raise Refused(Reason.REPLAYED, f"steps up to {max(run.steps, last)} were made where they were (Treaty 7.5)")
    if isinstance(m.ranks, int) and not 1 <= m.ranks <= MAX_RANKS:
        raise Malformed(f"a run of {m.ranks} ranks; an inspector starts at most {MAX_RANKS} processes")
    if m.environment == run.environments[-1] and m.ranks == (run.moves[-1].ranks if run.moves else msgspec.UNSET):
        raise Refused(Reason.REPLAYED, "the run is in that environment already")
    if len(run.moves) >= MAX_MOVES:
        hint = "declare a run that descends from this one"
        raise Refused(Reason.ALLOWANCE, f"a run moves at most {MAX_MOVES} times", hint=hint)
    kept = tuple(before for before in run.moves if before.steps < m.steps)
    return msgspec.structs.replace(run, moved=(*kept, Moved(m.steps, m.environment, m.ranks)))


def stamped(treaty: Treaty, runs: Runs, awaiting: frozenset[str], stamp: int, size: int, beacon: bytes) -> Runs:
    """Give runs that wait for it the stamp of entry `stamp`, which covers the first `size` entries.

    Treaty 7.3: the first stamp after it, so that nobody chooses among later ones.
    """
    for id_ in awaiting:
        run = runs.by_id[id_]
        waiting = list(takewhile(lambda h: h.stamp < 0, run.kept))
        kept = run.kept
        for _ in waiting:
            kept = kept.drop_first()
        for h in reversed(waiting):
            covered = h.index < size
            kept = kept.push_front(msgspec.structs.replace(h, stamp=stamp, beacon=beacon) if covered else h)
        seed = run_seed(run.id, beacon) if not run.seed and run.index < size else run.seed
        runs = runs.put(treaty, msgspec.structs.replace(run, kept=kept, seed=seed))
    return runs
