"""A lab's desk on a world's log, without a network: what it says is in the log at once, and a stamp follows."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from brakeline.core.brake import Phase
from brakeline.core.errors import Reason, Refused
from brakeline.core.gate import Decision, GateState, Status, admit, decide, status
from brakeline.core.run import Declaration
from brakeline.core.state import State
from brakeline.core.state.runs import Run
from brakeline.core.transcript import Head
from world import Live, Outcome, World, key


class WorldLab:
    """Has of `node.desk.Lab` what a run needs. `while_paused` is called instead of waiting for the brake."""

    def __init__(self, world: World, folder: Path, name: str = "alpha") -> None:
        self.world, self.name = world, name
        self.home = SimpleNamespace(path=folder, key=lambda purpose: key(name))
        self.treaty = world.treaty
        self.follower = self
        self.told: list[str] = []
        self.outcomes: list[tuple[Head, Outcome]] = []
        self.while_paused: Callable[[], None] = lambda: None

    @property
    def state(self) -> State:
        return self.world.state

    def tell(self, text: str) -> None:
        self.told.append(text)

    def catch_up(self) -> None:
        pass

    def declared(self, name: str, recipe: str, declaration: Callable[[], Declaration]) -> str:
        run = self.state.runs.names.get((self.name, name))
        if run is None:
            outcome = self.world.log(self.name, "declaration", declaration())
            if outcome.reason:
                raise Refused(outcome.reason, outcome.text)
            self.world.stamp()
            run = self.state.runs.names[self.name, name]
        if self.state.run(run).declaration.recipe != recipe:
            raise Refused(Reason.TAMPERED, "another recipe")
        return run

    def clear(self, run: str) -> Run:
        for _ in range(100):
            found = self.state.run(run)
            if found.bar:
                raise Refused(Reason.BARRED, "barred")
            if self.state.phase is Phase.CLEAR or not self.state.concerned(found):
                return found
            self.while_paused()
        raise AssertionError("the brake was never released")

    def say(self, kind: str, body: object) -> Outcome:
        outcome = self.world.log(self.name, kind, body)
        assert outcome.reason is None, outcome.text
        return outcome

    def commit(self, head: Head) -> None:
        self.outcomes.append((head, self.world.log(self.name, "head", head)))
        self.world.stamp()

    @property
    def said(self) -> list[tuple[int, str]]:
        """The heads that took effect, as (steps, status)."""
        return [(head.steps, head.status) for head, outcome in self.outcomes if outcome.reason is None]


class WorldGate:
    """The core's own gate on the world's clock; has of `node.permits.LiveGate` what a run needs."""

    def __init__(
        self, lab: WorldLab, run: str, *, steps: Callable[[], int], on_permit: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self._lab, self._run, self._steps, self._on_permit = lab, run, steps, on_permit
        self._flop = lab.state.run(run).declaration.step_flop
        self._state = GateState(run)
        self.halted_at = 0.0

    def __enter__(self) -> "WorldGate":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_open(self, tell: Callable[[str], None]) -> bool:
        world = self._lab.world
        if world.phase is Phase.CLEAR and self._lab.state.concerned(self._lab.state.run(self._run)):
            permit = world.request(Live(world, self._run))
            world.grant(permit)
            data = world.sealed(permit)
            asked_at = world.now * 10**9
            self._state = admit(
                self._state, data, world.treaty, world.treaty.signer_keys, nonce=permit.nonce, asked_at=asked_at
            )
            self._on_permit(data)
        return bool(self.decision)

    def may_step(self) -> bool:
        return bool(self.decision)

    @property
    def decision(self) -> Decision:
        flop = (self._steps() + 1) * self._flop
        return decide(self._state, now=self._lab.world.now * 10**9, flop=flop)

    def status(self) -> Status:
        state = self._lab.state
        declaration = state.run(self._run).declaration
        return status(self._state, declaration, state.phase, now=self._lab.world.now * 10**9, steps=self._steps())

    @property
    def permit(self) -> bytes:
        return self._state.permit
