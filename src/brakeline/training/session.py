"""A session: one run of one lab, from its declaration to its last head, through every stop in between.

What runs is what was deposited for the inspectors, in the environment that was declared, on the data that was declared:
all three are compared at every opening, before a step is made.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec

from brakeline.core.encoding import canonical, parse
from brakeline.core.errors import Malformed, Misuse, Unavailable
from brakeline.core.gate import Status
from brakeline.core.run import Declaration, Move, check_declaration
from brakeline.core.state.runs import Run
from brakeline.core.statement import MAX_BYTES
from brakeline.core.transcript import LEAF_BYTES, Head
from brakeline.node.desk import Lab
from brakeline.node.disk import disk_errors
from brakeline.node.permits import LiveGate
from brakeline.training import ranks
from brakeline.training.cell import Cell, Failed
from brakeline.training.checkpoint import checkpoint_path, checkpoint_steps
from brakeline.training.distributions import fingerprints, imported
from brakeline.training.environment import digest, keep_profile, kept_distributions, profile, profile_path
from brakeline.training.gatehook import RankGate
from brakeline.training.launch import Stretch
from brakeline.training.manifests import Keeper
from brakeline.training.moving import cut_to_checkpoint, last_of_all, origin, spread
from brakeline.training.recipe import RECIPE, Code, Recipe, own_code
from brakeline.training.recorder import LEAVES, Recorder, read_leaves
from brakeline.training.rehearsal import Rehearsal, disk, rehearsed, segment_steps
from brakeline.training.replay import begin, open_recorded

_UNCHECKED: Final = (
    "an inspector would find the same: put environment, data and files back as they were; "
    "--unchecked goes on all the same"
)
Rehearse = Callable[[Recipe, str, Path, Callable[[str], None]], Rehearsal]
PERMITS: Final = "permits.jsonl"
STOPS: Final = "stops.jsonl"  # when and why, by the local clock; for reports, never evidence


class _PatientGate:
    """The gate that `train` sees. The first step after opening waits for a permit; later ones never wait."""

    def __init__(self, gate: LiveGate, tell: Callable[[str], None]) -> None:
        self._gate = gate
        self._tell = tell
        self._fresh = True
        self.refused_at = 0.0  # wall clock, and those of the last steps allowed: for reports only
        self.steps_at: deque[float] = deque(maxlen=64)

    def may_step(self) -> bool:
        if self._fresh:
            self._fresh = False
            self._gate.wait_open(self._tell)
        allowed = self._gate.may_step()
        if allowed:
            self.steps_at.append(time.time())
        else:
            self.refused_at = time.time()
        return allowed

    def status(self) -> Status:
        return self._gate.status()


class Session:
    """Declares a run, trains it through the gate, records it, and goes on after every stop until it has ended.

    A recipe is rehearsed before it is declared; one that fails is declared only where `attested`, on the lab's word.
    `moved` lets it go on in another environment than before, which is logged. Before a run that another process began
    goes on, its last segment is replayed, unless it is not to be `checked`.
    """

    def __init__(
        self,
        lab: Lab,
        recipe: Recipe,
        *,
        attested: bool = False,
        moved: bool = False,
        checked: bool = True,
        rehearse: Rehearse | None = rehearsed,
    ) -> None:
        self._lab = lab
        self._moved = moved
        self._checked = checked
        self._recipe = recipe
        self._attested = attested
        self._rehearse = rehearse
        self._profile = profile()  # before the recipe's code may change it, as the inspector's is taken
        self.evidence = lab.home.path / "runs" / recipe.name

    def train(self) -> Head:
        """Train to the end, pausing whenever the brake, a lapsed permit or a lost log demands it.

        Returns the last head. Raises:
            Refused(BARRED): a finding against the run was upheld. Misuse: the evidence is older than what is logged,
            or it is trained elsewhere, or on other data, than was declared. Others as recorder, outbox and log raise
            them.
        """
        id_ = self._lab.declared(self._recipe.name, self._recipe.digest, self._declaration)
        while True:
            run = self._lab.clear(id_)
            if run.head and run.head.status == "ended":
                ranks.tell(None)
                return run.head
            self._check_evidence(run)
            if self._moves(run):
                continue
            self._check_data(run)
            self._check_last(run)
            self._once(run)

    def load(self) -> Code:
        """The functions of what was deposited."""
        return self._here.load()

    @cached_property
    def _here(self) -> Recipe:
        """The recipe as it was deposited, which costs reading and copying all of it."""
        return self._recipe.deposit(self.evidence / RECIPE)

    @cached_property
    def code(self) -> Code:
        """What `load` gives."""
        with self._own_code():
            return self.load()

    def _own_code(self) -> AbstractContextManager[None]:
        return own_code(self._recipe.source, self._here.source.parent)

    def _declaration(self) -> Declaration:
        if ranks.count() != self._recipe.ranks:
            text = f"the recipe says {self._recipe.ranks} ranks, here are {ranks.count()}"
            raise Misuse(text, hint="a run begins with those of its recipe; it may go on with others (--moved)")
        imported_before = imported()
        found = self._rehearsed()
        treaty = self._lab.treaty
        length = segment_steps(self._recipe.segment, found, treaty.segment_steps, treaty.segment_most)
        if found:
            size = disk(found, length)
            self._lab.tell(
                f"1,000 steps in segments of {length} leave {size / 1e6:,.0f} MB in {self.evidence}"
            )
        with self._own_code():
            dataset = self._recipe.dataset(self.code)
            flop = str(self.code.flop_per_step(self._here.full_config(bytes(32))))
        here = self._environment({*(found.distributions if found else ()), *(imported() - imported_before)})
        keep_profile(here, self.evidence)
        declaration = Declaration(
            name=self._recipe.name,
            rung="attested" if self._attested else "re-executable",
            recipe=self._recipe.digest,
            dataset=dataset,
            environment=digest(here),
            steps=self._recipe.steps,
            segment_steps=length,
            flop_per_step=flop,
            parents=self._recipe.parents,
            purpose=self._recipe.purpose,
            chips=self._recipe.chips,
            flop_per_second=str(self._recipe.flop_per_second),
            domain=self._recipe.domain,
        )
        check_declaration(declaration)  # before it is signed: a declaration that is void has spent its number
        return declaration

    def _rehearsed(self) -> Rehearsal | None:
        """What cannot be replayed is said before anybody declares anything. Returns what was found, if it was tried."""
        if self._attested or self._rehearse is None:
            return None
        lab = self._lab
        found = self._rehearse(self._recipe, digest(self._profile), lab.home.path / "rehearsals", lab.tell)
        try:
            found.check()
        except Misuse as e:
            hint = f"{e.hint}\nor declare it as attested (--attested): on your word alone, which a treaty may refuse"
            raise Misuse(str(e), hint=hint.lstrip("\n")) from e
        for note in found.notes:
            lab.tell(f"note: {note}")
        return found

    def _environment(self, distributions: Iterable[str]) -> dict[str, Any]:
        return {**self._profile, "distributions": fingerprints(distributions)}

    def _moves(self, run: Run) -> bool:
        """Whether it goes on in another environment or with other ranks, which is now logged. Treaty 7.5"""
        here = self._environment(kept_distributions(self.evidence))
        there = run.ranks(run.declaration.steps, self._recipe.ranks)
        moves = digest(here) != run.environments[-1] and run.declaration.rung != "attested"
        if moves or there != ranks.count():
            self._move(run, here, there)
            return True
        return False

    def _check_data(self, run: Run) -> None:
        """Steps made on other data would be found guilty of it."""
        with self._own_code():
            dataset = self._recipe.dataset(self.code)
        if dataset != run.declaration.dataset:
            raise Misuse(
                f"the data of {run.declaration.name} is not what was declared: {dataset[:16]}…",
                hint="put the data back, or declare another run",
            )

    def _check_evidence(self, run: Run) -> None:
        """Every step that is logged was on this disk before. Going on from less would log another past (Treaty 7.2)."""
        try:
            here = max(0, (self.evidence / LEAVES).stat().st_size // LEAF_BYTES - 1)
        except FileNotFoundError:
            here = 0
        if here < run.steps:
            raise Misuse(
                f"{self.evidence} holds {here} steps of {run.declaration.name}, the log {run.steps}",
                hint="put the newest copy of the folder back, or declare a child run from a checkpoint",
            )

    def _move(self, run: Run, here: dict[str, Any], there: int) -> None:
        """Go on in another environment, or with other ranks than `there`, from the last checkpoint. Treaty 7.5"""
        text = f"{run.declaration.name} was trained in another environment: {_other(here, self.evidence, run)}"
        if there != ranks.count():
            text = f"{run.declaration.name} was trained by {there} ranks, here are {ranks.count()}"
            if run.declaration.rung == "attested":
                raise Misuse(f"{text}; what nobody makes again does not move", hint=f"--ranks {there}")
        if not self._moved:
            raise Misuse(text, hint="train it where it was, or say that it moves here (--moved), which is logged")
        before = origin(run, self._recipe.ranks)
        least = before.step if before else 0
        step = last_of_all(self.evidence, there, least)
        if step < run.steps:  # before anything is cut: where it was trained it can still go on
            where = checkpoint_path(self.evidence, run.steps)
            hint = "put it back, of all ranks; or let it go on where it was up to its next checkpoint"
            raise Misuse(f"{text}; and {where}, from which it would go on, is not there", hint=hint)
        if step == 0 and there != ranks.count():  # an inspector builds the state at step 0, and cuts nothing anew
            raise Misuse(f"{text}; it has no checkpoint beyond step 0 to go on from", hint=f"--ranks {there}")
        cut_to_checkpoint(self.evidence, there, least)
        keep_profile(here, self.evidence, step)
        spread(self.evidence, ranks.count())
        count = msgspec.UNSET if ranks.count() == self._recipe.ranks else ranks.count()
        self._lab.say("moved", Move(run=run.id, steps=step, environment=digest(here), ranks=count))
        self._lab.tell(f"moved at step {step}: {text}")
        self._checked = False  # what was made elsewhere comes out otherwise here

    def _check_last(self, run: Run) -> None:
        """The last segment, once more, before steps are added to what does not come out the same.

        Raises:
            Misuse: it does not.
        """
        checked, self._checked = self._checked, False  # what this process adds, it has made itself
        checkpoints = checkpoint_steps(self.evidence)
        if not checked or run.declaration.rung == "attested" or len(checkpoints) < 2:
            return
        start, end = checkpoints[-2:]
        if run.environment(start) != run.environments[-1]:
            return  # it was killed between its move and the next checkpoint: these steps were made elsewhere
        leaves = read_leaves(self.evidence, end)[start:]
        names = kept_distributions(self.evidence)
        self._lab.tell(f"replaying steps {start} to {end} before going on")
        try:
            with Cell(self._here, self._here.digest, (), names) as cell:
                cell.facts()
                made, there = (run.ranks(step, self._recipe.ranks) for step in (start, start - 1))
                before = open_recorded(self.evidence, leaves[0], there)
                again = cell.run(run.seed, start, end - start, before, made)
        except Failed as e:
            raise Misuse(f"{run.declaration.name} does not go on: {e}", hint=_UNCHECKED) from e
        for got, said in zip(again.leaves, leaves[1:], strict=False):
            if what := got.difference(said):
                text = f"{run.declaration.name} does not go on: step {got.step}, made again, has another {what}"
                raise Misuse(text, hint=_UNCHECKED)

    def _keep_permit(self, data: bytes) -> None:
        # An honest run without its permits would look like a cheat: a torn last line must not spoil the next.
        with (self.evidence / PERMITS).open("a+b") as f:
            end = f.seek(0, os.SEEK_END)
            f.seek(max(0, end - 1))
            f.write((b"" if f.read() in (b"", b"\n") else b"\n") + data + b"\n")
            f.flush()
            os.fsync(f.fileno())

    def _once(self, run: Run) -> None:
        assert run.seed
        d, treaty, before = run.declaration, self._lab.treaty, origin(run, self._recipe.ranks)
        # As often as in the treaty's shortest segments: a permit's allowance counts from the last head.
        heads = max(1, treaty.head_every * treaty.segment_steps // d.segment_steps)
        kept = Keeper(self.evidence, run.id, self._lab.home.key("statement"), PERMITS)

        def commit(head: Head) -> None:
            with disk_errors():
                kept.add(head)  # before it can be asked for
            self._lab.commit(head)

        gate = LiveGate(self._lab.follower, run.id, steps=lambda: recorder.steps, on_permit=self._keep_permit)
        recorder = Recorder(
            self.evidence,
            segment_steps=d.segment_steps,
            flop_per_step=d.step_flop,
            head_every_segments=heads,
            on_head=commit,
            run=run.id,
            permit=lambda: gate.permit,
            origin=before,
        )
        ranks.tell(Stretch(run.seed, d.segment_steps, heads, d.step_flop, before))
        with gate:
            patient = _PatientGate(gate, self._lab.tell)
            try:
                with self._own_code():
                    begin(self.code.train, self._here.full_config(run.seed), RankGate(patient), recorder)
            finally:
                recorder.close()
            if patient.refused_at:
                self._stopped(recorder.steps, gate, patient)

    def _stopped(self, step: int, gate: LiveGate, patient: _PatientGate) -> None:
        reason = gate.decision.reason or "permit lapsed"
        times = {"brake_seen": gate.halted_at, "refused": patient.refused_at, "durable": time.time()}
        event = {"step": step, "reason": reason, **times, "steps": list(patient.steps_at)}
        with (self.evidence / STOPS).open("ab") as f:
            f.write(canonical(event) + b"\n")
        self._lab.tell(f"stopped at step {step}: {reason}")


def _other(here: dict[str, Any], evidence: Path, run: Run) -> str:
    """What differs between this environment and that of the run's last stretch, as far as the evidence tells."""
    path = profile_path(evidence, run.moves[-1].steps if run.moves else None)
    try:
        there = parse(path.read_bytes(), dict[str, Any])
    except (OSError, Malformed):
        return f"its profile {path} is not there to compare"
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    return "; ".join(f"{n} is {_short(here.get(n))}, was {_short(there.get(n))}" for n in names) or "unknown"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def evidence_permits(folder: Path) -> Iterator[bytes]:
    """The permits kept in an evidence folder, one after another; a torn last line is dropped. None kept, none given.

    A line longer than any permit ends it: this reads what a lab shows.

    Raises:
        Unavailable: they cannot be read.
    """
    try:
        with (folder / PERMITS).open("rb") as f:
            while (line := f.readline(MAX_BYTES + 1)).endswith(b"\n"):
                if len(line) > 1:
                    yield line[:-1]
    except FileNotFoundError:
        return
    except OSError as e:
        raise Unavailable(f"cannot read {folder / PERMITS}: {e.strerror}") from e
