"""The judge: from what the log committed to, what the lab opened and what the inspector recomputed, to findings.

It is written against a lab that wants to fool it, and a false alarm costs as much as a miss:

- The expected sample, the heads and the permits in force come from the log and the treaty, never from the lab.
- A check that could not be made is a `gap`, never a pass.
- What is missing or is not what was recorded was *not shown*: copies are old, torn and damaged more often than labs
  lie. It counts against the lab once it had its time to answer (Treaty 7.7).
- Equal environments must give equal bits. In unequal ones the states were compared with the inspector's own spread;
  what that does not explain is contested, and another processor is never called fraud (attack A-17).

Not decided here: whether a finding is upheld. That takes several inspectors (Treaty 7.7, `state.audits`).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from brakeline.core.errors import BrakelineError, Misuse
from brakeline.core.finding import Fault, Finding
from brakeline.core.gate import NO_PERMIT
from brakeline.core.grant import open_past
from brakeline.core.permit import Permit
from brakeline.core.state import State
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import Run
from brakeline.core.tlog.merkle import Frontier, leaf_hash
from brakeline.core.transcript import Leaf, Likeness, SegmentReplay


@dataclass(frozen=True, slots=True)
class Openings:
    """What the lab shows: every leaf up to the head, every permit (envelope bytes), and the recomputed digests of its
    recipe, data set and declared environment (hex)."""

    leaves: Sequence[Leaf]
    permits: Sequence[bytes]
    recipe: str
    dataset: str


def judge(
    state: State,
    run: Run,
    heads: Sequence[Committed],
    openings: Openings,
    required: Sequence[tuple[int, int]],
    replays: Mapping[tuple[int, int], SegmentReplay | Finding],
    *,
    environment: str,
) -> tuple[Finding, ...]:
    """Findings on `run` up to the last of `heads`, which are all that count in the log, in order.

    `state` is that of the log's end: it knows the texts and keys that were in force.

    `environment` is the digest of the inspector's own profile.

    `required` are the step ranges that the treaty makes this inspector replay; `replays` maps each to what came of
    it: a replay, or the finding why there is none. Returns () for a clean run.
    """
    if stray := check_transcript(state, run, heads, openings):
        return stray  # what follows would compare against steps nobody committed to
    findings = _permits(state, run, heads, openings)
    if missing := _data(run, openings):
        return (*findings, *missing)  # other data would give other steps
    for part in required:
        findings += _segment(run, openings.leaves, part, replays.get(part), environment)
    return tuple(findings)


def check_transcript(
    state: State, run: Run, heads: Sequence[Committed], openings: Openings
) -> tuple[Finding, ...]:
    """Why what is shown is not the transcript that `heads` commit to; () where it is."""
    if not heads:
        raise Misuse("a run without a head has nothing to judge")
    return (*_recipe(run, openings), *_chain(state, run, heads, openings.leaves))


def _violation(fault: Fault, segment: tuple[int, int], detail: str) -> Finding:
    return Finding(fault=fault, severity="violation", segment=segment, detail=detail)


def _recipe(run: Run, openings: Openings) -> list[Finding]:
    if openings.recipe == run.declaration.recipe:
        return []
    detail = f"the recipe shown is {openings.recipe[:16]}…, declared was {run.declaration.recipe[:16]}…"
    return [_violation(Fault.OPENING_MISSING, (0, 0), detail)]


def _data(run: Run, openings: Openings) -> list[Finding]:
    """The inspector's copy of the data set may be another one than the lab's: that accuses nobody."""
    if openings.dataset == run.declaration.dataset:
        return []
    detail = f"the data set here is another one than declared, {run.declaration.dataset[:16]}…"
    return [Finding(fault=Fault.RECIPE_MISMATCH, severity="gap", segment=(0, 0), detail=detail)]


def _chain(state: State, run: Run, logged: Sequence[Committed], leaves: Sequence[Leaf]) -> list[Finding]:
    """Treaty 7.2: the leaves are those that every logged head committed to, in order, each step once."""
    last = logged[-1].head.steps
    if len(leaves) != last + 1:
        detail = f"{len(leaves)} leaves shown, the head covers {last + 1}"
        return [_violation(Fault.OPENING_MISSING, (0, 0), detail)]
    flop = run.declaration.step_flop
    steps = [h.head.steps for h in logged]
    # A text that has turned since does not ask more of what was trained before it.
    cadence = max(t.treaty.head_every for t in state.chain.texts) * run.declaration.segment_steps
    for before, after in pairwise(steps):
        if after - before > cadence:
            return [_violation(Fault.HEAD_MISSING, (0, 0), f"no head was logged between steps {before} and {after}")]
    heads = {h.head.steps: h.head for h in logged}
    frontier = Frontier(0, ())
    misplaced = -1
    for step, leaf in enumerate(leaves):
        if misplaced < 0 and (leaf.step != step or leaf.flop != step * flop):
            misplaced = step
        frontier = frontier.append(leaf_hash(leaf.encode()))
        head = heads.get(step)
        if head and head.root != frontier.root().hex():
            detail = f"the leaves shown do not give the root logged at step {step}"
            return [_violation(Fault.OPENING_MISSING, (0, 0), detail)]
        if head and head.state != leaf.state.hex():
            detail = f"the head of step {step} says another state than its leaves"
            return [_violation(Fault.TRANSCRIPT_MISMATCH, (0, 0), detail)]
        if head and misplaced >= 0:  # the lab committed to it
            leaf = leaves[misplaced]
            detail = f"leaf {misplaced} says step {leaf.step} and {leaf.flop} FLOP"
            return [_violation(Fault.STEP_ORDER, (misplaced, misplaced), detail)]
    return []


def _permits(state: State, run: Run, heads: Sequence[Committed], openings: Openings) -> list[Finding]:
    """Treaty 5.1, 5.4: every step names a permit of this run whose allowance covers it."""
    permits: dict[bytes, Permit] = {}
    for data in openings.permits:
        try:
            permit, envelope = open_past(state, data)
        except BrakelineError:
            continue  # not evidence for anything
        permits[bytes.fromhex(envelope.digest)] = permit
    found: list[Finding] = []
    # After a stop no signer signs before the log shows the run open again, so no permit then is of an older epoch.
    floors = {h.head.steps + 1: h.epoch for s, h in pairwise(heads) if s.head.status == "stopped"}
    # A stretch between two heads needs permits where both stand under the duty: while a run is exempt, or its lab is
    # not bound, nobody has to ask, and what was begun so may be ended so.
    due = [(a.head.steps, b.head.steps) for a, b in pairwise(heads) if a.concerned and b.concerned]
    # Treaty 11.9: what the old log held last is void, with the texts and keys by which permits may have been given.
    cuts = [r.entry for r in state.chain.reopened]
    lost = [(a.head.steps, b.head.steps) for a, b in pairwise(heads) if any(a.entry < cut < b.entry for cut in cuts)]
    for first, last, fault, detail in _runs_of(run.id, openings.leaves[1:], permits, floors, due):
        stretch = (first - 1, last)
        if fault in (Fault.NO_PERMIT, Fault.OPENING_MISSING) and any(s < last and first <= e for s, e in lost):
            detail += "; the log was reopened meanwhile, and may have held what made it valid"
            found.append(Finding(fault=Fault.NO_PERMIT, severity="gap", segment=stretch, detail=detail))
        elif fault is Fault.OPENING_MISSING:
            if not any(f.fault is fault for f in found):
                found.append(_violation(fault, (0, 0), f"steps {first}-{last} name a permit that was not shown"))
        else:
            found.append(_violation(fault, stretch, detail))
    return found


def _runs_of(
    run: str,
    leaves: Sequence[Leaf],
    permits: Mapping[bytes, Permit],
    floors: Mapping[int, int],
    due: Sequence[tuple[int, int]],
) -> list[tuple[int, int, Fault, str]]:
    """Maximal stretches of steps with the same fault: (first step, last step, fault, detail).

    `floors` maps the first step after a stop to the epoch in which the run opened again. Steps beyond the start of a
    stretch in `due`, up to its end, need a permit.
    """
    stretches: list[tuple[int, int, Fault, str]] = []
    ahead = deque(due)
    epoch = 0
    for leaf in leaves:
        while ahead and leaf.step > ahead[0][1]:
            ahead.popleft()
        epoch = max(epoch, floors.get(leaf.step, 0))
        permit = permits.get(leaf.permit)
        fault: tuple[Fault, str] | None = None
        if permit is None:
            if leaf.permit != NO_PERMIT:
                fault = (Fault.OPENING_MISSING, "the permit named was not shown or is not valid")
            elif ahead and leaf.step > ahead[0][0]:
                fault = (Fault.NO_PERMIT, "trained without a permit")
        elif permit.run != run:
            fault = (Fault.NO_PERMIT, "the permit named is another run's")
        elif permit.epoch < epoch:
            fault = (Fault.NO_PERMIT, "the permit belongs to an epoch that had ended (Treaty 5.5)")
        elif leaf.flop > permit.limit:
            fault = (Fault.OVER_ALLOWANCE, f"compute beyond the permit's {permit.limit} FLOP (Treaty 5.4)")
        else:
            epoch = permit.epoch
        if fault is None:
            continue
        if stretches and stretches[-1][1] == leaf.step - 1 and stretches[-1][2:] == fault:
            stretches[-1] = (stretches[-1][0], leaf.step, *fault)
        else:
            stretches.append((leaf.step, leaf.step, *fault))
    return stretches


def _segment(
    run: Run,
    leaves: Sequence[Leaf],
    part: tuple[int, int],
    replay: SegmentReplay | Finding | None,
    environment: str,
) -> list[Finding]:
    start, end = part
    if isinstance(replay, Finding):
        return [replay]
    if replay is None or (replay.start, replay.end) != part or len(replay.leaves) != end - start:
        detail = "the sample demands this segment and it was not replayed in full"
        return [Finding(fault=Fault.NOT_REPLAYED, severity="gap", segment=part, detail=detail)]
    same = replay.environment == run.environment(start) == environment
    if replay.start_state != leaves[start].state:
        if start > 0:
            detail = f"the checkpoint shown for step {start} is not the recorded state"
            return [_violation(Fault.OPENING_MISSING, part, detail)]
        if same:
            detail = "the run did not start from the weights its seed gives"
            return [_violation(Fault.INITIAL_STATE, part, detail)]
    if same:
        # Treaty 7.5: equal environments, equal bits.
        for got in replay.leaves:
            said = leaves[got.step]
            if got != said:
                detail = f"step {got.step}: re-execution gives another {got.difference(said) or 'leaf'}"
                return [_violation(Fault.REPLAY_MISMATCH, part, detail)]
        return []
    return _foreign(part, replay.likeness)


def _foreign(part: tuple[int, int], likeness: Likeness | None) -> list[Finding]:
    """Treaty 7.5, 7.6: what another environment computes accuses nobody."""
    kind, detail = likeness or ("not-verified", "the states were not compared")
    if kind == "agrees":
        detail = f"replayed in another environment; {detail}" if detail else "replayed in another environment"
        return [Finding(fault=Fault.ENVIRONMENT_MISMATCH, severity="notice", segment=part, detail=detail)]
    fault = Fault.NOT_VERIFIED if kind == "not-verified" else Fault.CONTESTED
    return [Finding(fault=fault, severity="gap", segment=part, detail=detail)]
