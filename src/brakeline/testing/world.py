"""A simulated world: hosts and processes, what goes wrong with them, what operators wish, and an observer."""

import asyncio
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from brakeline.core.brake import Phase
from brakeline.core.keys import PublicKey
from brakeline.core.tlog import note
from brakeline.testing.byzantine import Liar, Traitor, accuse, equivocate, steal
from brakeline.testing.circle import Circle
from brakeline.testing.disk import Backup
from brakeline.testing.faults import Fault, draw, ends, liar_in
from brakeline.testing.invariants import Observer, observing
from brakeline.testing.loop import VirtualLoop
from brakeline.testing.process import Host, Process
from brakeline.testing.report import Report
from brakeline.testing.treaty import KEEPER, LAB, PARTIES, START, make_home
from brakeline.testing.wire import Network, Request

CHAOS: Final = 14.0  # s in which faults begin
SERVICES: Final = (
    *(f"witness.{p}" for p in PARTIES),
    f"log.{KEEPER}",
    *(f"signer.{p}" for p in PARTIES),
    f"lab.{LAB}",
    *(f"operator.{p}" for p in PARTIES),
)


class World:
    """One seed's history. `faults` takes the place of those that the seed draws; none is a calm day."""

    def __init__(self, seed: int, *, faults: Sequence[Fault] | None = None, until: float = CHAOS) -> None:
        self.seed, self.until = seed, until
        self.faults = draw(seed, SERVICES, until) if faults is None else tuple(faults)

    def run(self, *, lines: list[str] | None = None) -> Report:
        """Play it to its end, or to the first violation. `lines` takes the trace.

        Raises:
            Stuck: nothing is scheduled any more, or time stands still.
        """
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        state = random.getstate()
        random.seed(self.seed)  # what libraries draw
        logging.disable(logging.CRITICAL)
        loop = VirtualLoop()
        try:
            return _Play(self, loop, folder, lines).run()
        finally:
            loop.close()
            logging.disable(logging.NOTSET)
            random.setstate(state)
            shutil.rmtree(folder)


class _Play:
    def __init__(self, world: World, loop: VirtualLoop, folder: Path, lines: list[str] | None) -> None:
        self.world, self.loop = world, loop
        loop.set_exception_handler(lambda *_: None)  # of tasks that their process's death has orphaned
        self.hosts: dict[str, Host] = {}
        self.observer = Observer(world.seed, loop, self.hosts)
        self.observer.lines = lines
        for party in PARTIES:
            host = Host(party, folder, self.observer.dice_for(f"disk {party}"), loop, START)
            host.on_power_failure = self._power_fails
            make_home(host.home, party)
            self.hosts[party] = host
        secrets = self.observer.dice_for("secrets")
        self.network = Network(self.observer.dice_for("network"), secrets.randbytes)
        self.network.emitted.append(self.observer.emitted)
        self.network.on_answer.append(self._ambush)
        self.liar = Liar(
            liar_in(world.faults), self.hosts, loop.time, self.observer.dice_for("lies"), self.observer.count
        )
        self.observer.liars = {self.liar.party} - {""}
        self.network.tamper.append(self.liar.tamper)
        self.circle = Circle(self.observer)
        self.mains: dict[str, Callable[[Process], Any]] = {
            service: getattr(self.circle, service.split(".")[0]) for service in SERVICES
        }
        self.mains[f"ask.{LAB}"] = Traitor(steal, lambda: True)
        for kind, speak in (("twice", equivocate), ("accuse", accuse)):
            self.mains[f"{kind}.{self.liar.party}"] = Traitor(speak, lambda: not self.liar.honest)
        self._permits = 0
        self._healed = False

    # Processes

    def launch(self, service: str) -> None:
        host = self.hosts[service.split(".")[1]]
        process = Process(host, service, self.network, self._failed)
        self.observer.trace("start", service, self.circle.wish)
        process.spawn(self.mains[service](process))

    def _failed(self, process: Process, error: Exception) -> None:
        process.kill()
        if self.observer.ended(process, error):
            self.loop.call_later(1.0, self._again, process)

    def _again(self, process: Process) -> None:
        if process.host.processes.get(process.name) is process and not self.observer.stop.done():
            self.launch(process.name)

    def _kill(self, service: str, away: float) -> None:
        process = self.hosts[service.split(".")[1]].processes[service]
        if process.alive:
            process.kill()
            self.loop.call_later(away, self._again, process)

    def _power_fails(self, host: Host, away: float = 1.0) -> None:
        self.observer.count("power cuts")
        self.observer.trace("power", host.name)
        alive = [process for process in host.processes.values() if process.alive]
        host.lose_power()
        for process in alive:
            self.loop.call_later(away, self._again, process)

    # Faults

    async def _chaos(self) -> None:
        for fault in self.world.faults:
            if fault.kind == "trip":
                continue
            await asyncio.sleep(max(0.0, fault.at - self.loop.time()))
            self.observer.count(fault.kind)
            self.observer.trace("fault", fault.kind, fault.target)
            self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        loop, now = self.loop, self.loop.time()
        match fault.kind:
            case "kill":
                self._kill(fault.target, fault.length)
            case "power":
                self._power_fails(self.hosts[fault.target], fault.length)
            case "points":
                host = self.hosts[fault.target]
                host.power_fails = fault.amount
                loop.call_later(fault.length, setattr, host, "power_fails", 0.0)
            case "cut":
                side = fault.target.split()
                self.network.cut |= {
                    (a, b): now + fault.length for a in PARTIES for b in PARTIES if (a in side) != (b in side)
                }
            case "swizzle":
                self.network.cut |= {(fault.target, b): now + fault.length for b in PARTIES}
            case "io":
                disk = self.hosts[fault.target].disk
                disk.failing = fault.amount
                loop.call_later(fault.length, setattr, disk, "failing", 0.0)
            case "skew":
                self.hosts[fault.target].skew = fault.amount
            case "weather":
                self.network.loss = self.network.tail = fault.amount
                self.network.double = 0.01
                loop.call_later(fault.length, self._calm)
            case "restore":
                service, _, party = fault.target.partition(".")
                backup = self.hosts[party].disk.copy(self.hosts[party].home / service)
                loop.call_later(fault.length, self._restore, fault.target, backup)
            case "stale":
                self.liar.begin(fault)
                if fault.amount:
                    for service in [s for s in SERVICES if s.endswith(f".{fault.target}") and s[:3] != "log"]:
                        loop.call_later(fault.amount, self._kill, service, 0.2)
            case "ask" | "twice" | "accuse":
                service = f"{fault.kind}.{fault.target}"
                if service not in self.hosts[fault.target].processes:
                    self.launch(service)
            case "fork" | "hide" | "cosign" | "sign":
                self.liar.begin(fault)

    def _restore(self, service: str, backup: Backup) -> None:
        if self._healed:
            return
        process = self.hosts[service.split(".")[1]].processes[service]
        process.kill()
        process.host.disk.put_back(backup)
        self.observer.restored.add(service)
        self.loop.call_later(0.5, self._again, process)

    def _calm(self) -> None:
        self.network.loss = self.network.tail = self.network.double = 0.0

    def _ambush(self, request: Request) -> float:
        """Seconds that an answer waits: where it hurts most, a trip comes while a permit is on its way."""
        if request.path != "/permit" or self._healed or request.source.name != f"lab.{LAB}":
            return 0.0
        self._permits += 1
        for fault in self.world.faults:
            if fault.kind == "trip" and fault.at <= self._permits < fault.at + 4:
                if fault.at == self._permits:
                    self.observer.count("ambush")
                    self.circle.wish = "trip"
                return fault.length
        return 0.0

    def _heal(self) -> None:
        self._healed = self.liar.honest = True
        self.network.heal()
        for host in self.hosts.values():
            host.power_fails = host.disk.failing = 0.0
        self.observer.trace("healed")

    # What people wish

    async def _script(self) -> None:
        rng = self.observer.dice_for("wishes")
        await asyncio.sleep(rng.uniform(2, 5))
        until = max([self.world.until, *(ends(f) for f in self.world.faults if f.kind == "cut")])
        while self.loop.time() < until:
            for wish in ("trip", "lift"):
                self.circle.wish = wish
                await asyncio.sleep(rng.uniform(2, 6))
        self._heal()
        if f"log.{KEEPER}" in self.observer.restored:  # it is meant to end, and people decide
            await asyncio.sleep(5)
        else:
            await self._live_again()
        if not self.observer.stop.done():
            self.observer.stop.set_result(None)

    async def _live_again(self) -> None:
        # L1. A brake that lost its permits' owner waits until they have lapsed (Treaty 4.5).
        self.circle.wish = "lift"
        await asyncio.sleep(3)  # a trip that was voted before may still come
        await self._within(75, lambda: self.observer.truth.phase is Phase.CLEAR, "lifted")
        steps = self.circle.steps
        await self._within(15, lambda: self.circle.steps > steps, "a step after the lift")
        epoch = self.observer.truth.epoch
        self.circle.wish = "trip"
        await self._within(15, lambda: self.observer.truth.epoch > epoch, "tripped")
        await self._within(25, lambda: self.observer.truth.phase is Phase.PAUSED, "paused")
        self.observer.finish()

    async def _within(self, seconds: float, ready: Callable[[], bool], what: str) -> None:
        end = self.loop.time() + seconds
        while not ready():
            if self.loop.time() > end:
                truth = self.observer.truth
                self.observer.violated("L1", f"not {what} within {seconds} s: {truth.phase} {truth.epoch}")
                return
            await asyncio.sleep(0.25)

    # All of it

    async def _play(self) -> None:
        for service in SERVICES:
            self.launch(service)
        tasks = [self.loop.create_task(self._script()), self.loop.create_task(self._chaos())]
        await asyncio.wait([self.observer.stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        while not self.observer.stop.done():
            left = [task for task in tasks if not task.done()]
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    raise error
            await asyncio.wait([self.observer.stop, *left], return_when=asyncio.FIRST_COMPLETED)
        for host in self.hosts.values():
            for process in host.processes.values():
                process.kill()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.1)

    def run(self) -> Report:
        with observing(self.observer), _remembered_signatures():
            self.loop.run_until_complete(self._play())
        o = self.observer
        return Report(
            self.world.seed,
            tuple(o.violations),
            o.digest,
            self.loop.time(),
            self.network.requests,
            self.circle.steps,
            o.counts,
        )


@contextmanager
def _remembered_signatures() -> Iterator[None]:
    """Every process of a world reads and verifies the same signatures: the second time is a look."""
    verify = lru_cache(1 << 14)(PublicKey.verify)
    with (
        patch.object(PublicKey, "verify", lambda self, signature, message: verify(self, signature, message)),
        patch.object(note, "parse_line", lru_cache(1 << 12)(note.parse_line)),
    ):
        yield
