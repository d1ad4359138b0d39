"""What runs in a simulated circle: the node's log, witnesses, permit signers, a lab and operators at their desks."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from brakeline.core.brake import Phase, Vote
from brakeline.core.encoding import sha256
from brakeline.core.errors import Reason, Refused, Unavailable
from brakeline.core.pledge import Assent, Pledge
from brakeline.core.run import Declaration
from brakeline.core.state import State
from brakeline.core.statement import open_envelope
from brakeline.core.transcript import Head
from brakeline.core.treaty import articles_digest
from brakeline.node import ports
from brakeline.node.client import Follower
from brakeline.node.desk import Desk, Lab
from brakeline.node.home import Home
from brakeline.node.judge import LogJudge
from brakeline.node.logserver import app as log_app
from brakeline.node.logstore import LogStore
from brakeline.node.outbox import Outbox
from brakeline.node.permits import LiveGate
from brakeline.node.sequencer import Sequencer, Timing
from brakeline.node.signer import Signer, Stater
from brakeline.node.signer import app as signer_app
from brakeline.node.speech import PermitKey, settled
from brakeline.node.submit import add_judged
from brakeline.node.witness import Witness
from brakeline.testing.invariants import Observer
from brakeline.testing.loop import block, fiber
from brakeline.testing.process import Process
from brakeline.testing.treaty import LOG_KEY, log_client, treaty, witness_key

T = TypeVar("T")
STEP_FLOP: Final = 10**9
STEP: Final = 0.25  # s
STEPS: Final = 4000
_DIGEST: Final = sha256(b"recipe").hex()
_REFOLD: Final = 20.0  # s between two times that a signer folds the log anew

Main = Callable[[Process], Any]


class Circle:
    """The mains of a world's processes. `wish` is the motion that the operators want now, "" for none."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.wish = ""
        self.steps = 0

    async def log(self, process: Process) -> None:
        home = Home(process.host.home)
        folder = process.host.home / "log"
        store = await fiber(LogStore, folder, LOG_KEY.name)
        judge = await fiber(LogJudge, treaty(), store, folder / "state")
        timing = Timing(heartbeat=treaty().heartbeat)
        sequencer = Sequencer(store, home.key("log"), judge, ports.clock().wall, timing, lambda _: None)
        self.observer.log_starts(process, store)
        process.app = log_app(sequencer, judge.offered)
        await sequencer.run()
        assert sequencer.failure is not None
        raise sequencer.failure

    async def witness(self, process: Process) -> None:
        party, folder = process.host.name, process.host.home / "witness"
        home = Home(process.host.home)
        clock, own = ports.clock().wall, home.key("witness")
        witness = await fiber(Witness, folder, witness_key(party).name, own, [LOG_KEY], clock)
        process.app = witness.app()

    async def signer(self, process: Process) -> None:
        process.app = await fiber(self._signer, process)

    def _signer(self, process: Process) -> Any:
        home = Home(process.host.home)
        follower = Follower(log_client(), treaty(), home.path / "signer", stating=True)
        client = log_client()
        box = Outbox(home.path, treaty(), home.name, home.key("statement"), ports.clock().wall)

        def outbox(state: State) -> Outbox:
            nonlocal box
            box = settled(home, box, state)
            return box

        def tell(text: str) -> None:
            self.observer.told(process, text)

        stater = Stater(follower, outbox, lambda entry: add_judged(client, follower, entry), client.show, _REFOLD, tell)
        votes = home.path / "signer" / "votes.jsonl"
        signer = Signer(follower, PermitKey(home), ports.clock().wall, votes, home.granted(new=True))
        stop = ports.clock().event()
        self.observer.signer_starts(process, follower)
        ports.clock().start("follow", lambda: follower.follow(stop, lambda e: self.observer.troubled(process, e)))
        ports.clock().start("state", lambda: stater.run(stop, signer.unlogged))
        return signer_app(signer)

    async def operator(self, process: Process) -> None:
        await fiber(self._operator, process)

    def _operator(self, process: Process) -> None:
        desk = self._persist(process, lambda: Desk(Home(process.host.home)))
        self._join(process, desk)
        rng = self.observer.dice_for(process.name)
        while True:
            block(asyncio.sleep(rng.uniform(0.4, 1.2)))
            self._try(process, desk.catch_up)
            state = desk.state
            motion = {Phase.CLEAR: "trip", Phase.PAUSED: "lift"}.get(state.phase, "")
            if motion and motion == self.wish and not _has_said(desk, motion, state.epoch):
                vote = Vote(motion=motion, epoch=state.epoch, reason="simulated")  # type: ignore[arg-type]
                self._try(process, lambda v=vote: desk.say("vote", v), Reason.REPLAYED)  # type: ignore[misc]

    def _join(self, process: Process, desk: Desk) -> None:
        text = treaty()
        said = {kind for kind, _ in _said(desk)}
        if "assent" not in said:
            desk.outbox.write("assent", Assent(text=text.digest, articles=articles_digest(text)))
        if "pledge" not in said:
            desk.outbox.write("pledge", Pledge(condition="quorum none\n"))
        self._persist(process, desk.catch_up)

    async def lab(self, process: Process) -> None:
        await fiber(self._lab, process)

    def _lab(self, process: Process) -> None:
        lab = self._persist(process, lambda: Lab(Home(process.host.home)))
        self._join(process, lab)
        run = self._persist(process, lambda: lab.declared("run", _DIGEST, _declaration))
        while True:
            record = self._persist(process, lambda: lab.clear(run))
            steps = record.head.steps if record.head else 0
            self._persist(process, lambda: lab.commit(_head(run, steps, "opened")))  # noqa: B023
            with LiveGate(lab.follower, run, steps=lambda: steps) as gate:  # noqa: B023
                self.observer.gate_opens(process, lab.follower)
                gate.wait_open(lambda _: None)
                while gate.may_step():
                    block(asyncio.sleep(STEP))
                    steps += 1
                    self.steps += 1
                    self.observer.stepped(lab.follower, gate)
                    if steps % treaty().head_every == 0:
                        self._persist(process, lambda: lab.commit(_head(run, steps, "running")))  # noqa: B023
            self._persist(process, lambda: lab.commit(_head(run, steps, "stopped")))  # noqa: B023
            self._persist(process, lab.catch_up)

    # As a person or a supervisor does it

    def _try(self, process: Process, act: Callable[[], object], *harmless: Reason) -> None:
        try:
            act()
        except Unavailable:
            pass
        except Refused as e:
            if e.reason not in harmless:  # a vote that others' have overtaken
                self.observer.troubled(process, e)
        except Exception as e:
            self.observer.troubled(process, e)

    def _persist(self, process: Process, act: Callable[[], T]) -> T:
        """Until it is done. What cannot be done another time, either, is not to happen to honest parties."""
        while True:
            try:
                return act()
            except Unavailable:
                pass
            except Exception as e:
                self.observer.troubled(process, e)
            block(asyncio.sleep(0.5))


def _declaration() -> Declaration:
    return Declaration(
        name="run",
        rung="re-executable",
        recipe=_DIGEST,
        dataset=_DIGEST,
        environment=_DIGEST,
        steps=STEPS,
        segment_steps=treaty().segment_steps,
        flop_per_step=str(STEP_FLOP),
        parents=(),
        purpose="",
        chips=1,
        flop_per_second="0",
        domain="",
    )


def _head(run: str, steps: int, status: Any) -> Head:
    root, state = (sha256(f"{run} {steps} {what}".encode()).hex() for what in ("root", "state"))
    return Head(run=run, steps=steps, root=root, state=state, flop=str(steps * STEP_FLOP), status=status)


def _said(desk: Desk) -> list[tuple[str, dict[str, object]]]:
    """Kind and body of everything that this party has signed: its outbox outlives it."""
    rows = desk.outbox._db.execute("SELECT data FROM said").fetchall()
    return [(e.kind, e.statement.body) for e in (open_envelope(row[0]) for row in rows)]


def _has_said(desk: Desk, motion: str, epoch: int) -> bool:
    return any(kind == "vote" and (body["motion"], body["epoch"]) == (motion, epoch) for kind, body in _said(desk))
