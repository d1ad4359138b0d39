"""The demo's story, in eight acts. Every command it shows is the one a party would type."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from brakeline.cli.demo.history import write_history
from brakeline.cli.demo.stage import LABS, PARTIES, RUNS, Stage, examples
from brakeline.core import views
from brakeline.core.brake import Phase
from brakeline.core.bundle import Proven, verify_bundle
from brakeline.core.encoding import canonical
from brakeline.core.errors import BrakelineError, Unavailable
from brakeline.core.sampling import miss
from brakeline.core.state.runs import Run
from brakeline.core.statement import open_envelope
from brakeline.core.tlog.tile import ENTRIES, Tile
from brakeline.core.treaty import parse_treaty
from brakeline.core.units import about_flop
from brakeline.node.client import Follower
from brakeline.node.logclient import BUNDLE, LogClient
from brakeline.report import ReportTimes, StopTime, write_report

_STEPS: Final = 1500
_KILL_AT: Final = 120
_TRIP_AT: Final = 300  # steps of the slowest run
_LATEST: Final = 900  # of the fastest: on a machine where one run races ahead
_PATIENCE: Final = 150.0  # s that any single act may take


class Observer:
    """Somebody without keys who follows the log, and notes when he saw the brake move."""

    def __init__(self, stage: Stage) -> None:
        treaty = parse_treaty((stage.folder / "demo.toml").read_bytes())
        self.follower = Follower(LogClient(stage.log_url), treaty)
        self.seen: dict[Phase, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.follower.update(wait=2)
            except BrakelineError:
                self._stop.wait(0.2)
                continue
            now = time.time()
            phase = self.phase
            if phase is not Phase.CLEAR or Phase.TRIPPED in self.seen:
                self.seen.setdefault(phase, now)

    @contextmanager
    def watching(self) -> Iterator["Observer"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()

    @property
    def phase(self) -> Phase:
        return self.follower.state.phase

    def run(self, lab: str) -> Run | None:
        return next((r for r in views.by_declaration(self.follower.state) if r.owner == lab), None)


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True)
@click.option("--keep", is_flag=True, help="Keep every checkpoint, so that you can audit the runs yourself.")
def command(out: Path, keep: bool) -> None:
    """Carry a treaty from signature to stop to proof: four parties, one log, three real training runs, on loopback.

    Takes two to four minutes on two cores. Writes demo.bundle and report.html.
    """
    console = Console(highlight=False)
    started = time.monotonic()
    stage = Stage(out.resolve())
    try:
        Story(stage, console).tell()
    finally:
        stage.close()
    if not keep:
        for lab in LABS:
            for path in sorted((stage.evidence(lab) / "checkpoints").glob("*.safetensors"))[1:-1]:
                path.unlink()
    console.print(f"\nall of it took {time.monotonic() - started:.0f} s; everything is in {out}")


class Story:
    def __init__(self, stage: Stage, console: Console) -> None:
        self.stage = stage
        self.console = console

    def tell(self) -> None:
        self.sign()
        self.open_log()
        observer = Observer(self.stage)
        with observer.watching():
            self.pledge()
            self.measure()
            self.train(observer)
            stops = self.trip(observer)
            self.audit(observer)
            self.lift(observer)
            equal = self.finish(observer)
        self.prove(stops, equal)

    # ---- acts ----

    def sign(self) -> None:
        self._act(1, "Four parties sign a treaty")
        stage = self.stage
        (stage.folder / "demo.toml").write_bytes((examples() / "treaties" / "demo.toml").read_bytes())
        for p in PARTIES:
            url = ("--log-url", stage.log_url) if p == "delta" else ()
            addresses = ("--witness-url", stage.witness_url[p], "--signer-url", stage.signer_url[p])
            args = ("keygen", p, "--home", p, "--enroll", "demo.toml", *url, *addresses)
            self._run(*args, show=f"keygen {p} --enroll …")
        self._run("treaty", "check", "demo.toml")
        self._together("treaty sign demo.toml", [("treaty", "sign", "demo.toml", "--home", p) for p in PARTIES])

    def open_log(self) -> None:
        self._act(2, "One log, four witnesses, four permit signers start")
        for p in PARTIES:
            self.stage.serve(f"witness-{p}", "witness", "--home", p)
        self.stage.serve("log", "log", "--home", "delta")
        for p in PARTIES:
            self.stage.serve(f"signer-{p}", "signer", "--home", p)
        names = ["log", *(f"{kind}-{p}" for kind in ("witness", "signer") for p in PARTIES)]
        self.stage.await_listening(names)
        self.console.print(f"  {len(names)} processes listen on 127.0.0.1; without 3 witnesses nothing is published")

    def pledge(self) -> None:
        self.console.print("  each pledges: [italic]bound if at least two others are bound[/]")
        for p in PARTIES:
            self._run("pledge", "--if-at-least", "2", "--home", p, show=f"pledge --if-at-least 2   [{p}]")

    def measure(self) -> None:
        self._act(3, "Gauges: who writes the code, and does a fault grow from model to model?")
        folder = self.stage.folder
        write_history(folder / "gamma-code")
        for p in ("alpha", "delta"):
            self._run("gauge", "authorship", "gamma-code", "--out", f"{p}/authorship", show=f"gauge authorship   [{p}]")
        self.console.print("  gamma trains nine small models, each on labels of the one before")
        made = ("gauge", "lineage", "--seeds", "1", "--out", "gamma/lineage")
        self._wait("training generations", lambda: self.stage.call(*made))
        edges = sorted((folder / "gamma" / "lineage" / "evidence" / "edges").glob("*-compounding-*.dsse"))
        bodies = [open_envelope(path.read_bytes()).statement.body for path in edges]
        for i, body in enumerate(bodies):
            (folder / "gamma" / "lineage" / f"edge-{i}.json").write_bytes(canonical(body))
            self.stage.call("edge", f"gamma/lineage/edge-{i}.json", "--home", "gamma")
        self.console.print(f"  and logs how each came to be: {len(bodies)} edges")
        for p in ("beta", "delta"):
            args = ("gauge", "lineage", "gamma/lineage/evidence", "--model", bodies[-1]["child"], "--home", p)
            self._run(*args, "--out", f"{p}/lineage", show=f"gauge lineage … --home {p}   [{p}]")

    def train(self, observer: Observer) -> None:
        self._act(4, "Three labs train a small GPT on Python's standard library, through the gate")
        self.console.print(f"  alpha/{RUNS['alpha']}: honest · beta/{RUNS['beta']}: honest, and about to lose power")
        self.console.print(f"  gamma/{RUNS['gamma']}: trains 60 % of its segments on data it never declared")
        for lab in LABS:
            self.stage.recipe(lab, _STEPS)
            self.stage.train(lab)
        killed = False
        with self._progress() as progress:
            tasks = {lab: progress.add_task(f"  {lab}/{RUNS[lab]}", total=_STEPS) for lab in LABS}

            def step() -> bool:
                nonlocal killed
                for lab in LABS:
                    progress.update(tasks[lab], completed=self.stage.steps(lab))
                if not killed and self.stage.steps("beta") >= _KILL_AT:
                    self.stage.kill("train-beta")
                    progress.print(f"  beta: SIGKILL at step {self.stage.steps('beta')}; the same command starts again")
                    self.stage.train("beta")
                    killed = True
                self.stage.check_alive([f"train-{lab}" for lab in LABS])
                done = [self.stage.steps(lab) for lab in LABS]
                return min(done) >= _TRIP_AT or max(done) >= _LATEST

            self._until(step, "the runs do not get on")

    def trip(self, observer: Observer) -> tuple[float, tuple[StopTime, ...]]:
        self._act(5, "Readings that two parties found trip the brake")
        for p in ("alpha", "delta"):
            self._run("reading", f"{p}/authorship/measurement.json", "--home", p, show=f"reading authorship   [{p}]")
        self._nothing_stops("much AI code alone")
        self._run("reading", "beta/lineage/measurement.json", "--home", "beta", show="reading lineage   [beta]")
        self._nothing_stops("one party's word")
        self._run("reading", "delta/lineage/measurement.json", "--home", "delta", show="reading lineage   [delta]")
        self._until(lambda: all(self.stage.stops(lab) for lab in LABS), "a run did not stop")
        self._until(lambda: observer.phase is Phase.PAUSED, "the stops are not in the log")
        quorum = self._quorum_time(observer)
        stops = tuple(self._stop_time(observer, lab, quorum) for lab in LABS)
        table = Table("run", "at step", "after the quorum", "steps after", "FLOP after")
        for s in stops:
            table.add_row(
                f"{s.lab}/{s.run}",
                str(s.step),
                f"{s.milliseconds_after_quorum:.0f} ms",
                str(s.steps_after_quorum),
                about_flop(s.flop_after_quorum),
            )
        self.console.print(table)
        return quorum, stops

    def _nothing_stops(self, what: str) -> None:
        before = {lab: self.stage.steps(lab) for lab in LABS}
        self._until(lambda: min(self.stage.steps(lab) - before[lab] for lab in LABS) > 10, f"{what} stopped a run")
        self.console.print(f"  {what} changes nothing: every run took ten more steps")

    def _quorum_time(self, observer: Observer) -> float:
        """When the deciding reading was published: by the log's own file of it, or by the observer; the earlier."""
        index = observer.follower.state.ballot.tripped
        return min(published_at(self.stage, index) or time.time(), observer.seen[Phase.TRIPPED])

    def _stop_time(self, observer: Observer, lab: str, quorum: float) -> StopTime:
        stop = self.stage.stops(lab)[-1]
        run = observer.run(lab)
        assert run is not None
        late = sum(t > quorum for t in stop["steps"])
        return StopTime(
            run=RUNS[lab],
            lab=lab,
            step=stop["step"],
            milliseconds_after_quorum=max(0.0, 1000 * (stop["refused"] - quorum)),
            steps_after_quorum=late,
            flop_after_quorum=late * run.declaration.step_flop,
        )

    def audit(self, observer: Observer) -> None:
        self._act(6, "Inspectors replay random segments, drawn after the heads were logged")
        pairs = [("delta", "alpha"), ("beta", "alpha"), ("delta", "beta"), ("alpha", "beta")]
        pairs += [("delta", "gamma"), ("beta", "gamma")]
        commands = [self._audit(inspector, lab) for inspector, lab in pairs]
        texts = self._wait("auditing", lambda: self.stage.call_all(commands, ok=(0, 1)))
        for (inspector, _), text in zip(pairs, texts, strict=True):
            self.console.print(f"  {inspector}: {text.splitlines()[0]}", soft_wrap=True)
        self.console.print("  a violation is upheld when a second inspector replays the segment and finds it too:")
        commands = [(*self._audit(inspector, "gamma"), "--confirm") for inspector in ("beta", "delta")]
        for text in self._wait("confirming", lambda: self._in_turn(commands)):
            self.console.print(f"  {text.splitlines()[0]}", soft_wrap=True)
        self._until(lambda: bool((r := observer.run("gamma")) and r.bar), "the cheat was not caught")
        self._audit_table(observer)

    def _in_turn(self, commands: list[tuple[str, ...]]) -> list[str]:
        # The first confirmation may settle everything; then nothing waits for the second.
        return [text for c in commands if (text := self.stage.call(*c, ok=(0, 1, 2)))]

    def _audit(self, inspector: str, lab: str) -> tuple[str, ...]:
        evidence = str(self.stage.evidence(lab))
        return ("audit", f"{lab}/{RUNS[lab]}", "--evidence", evidence, "--home", inspector, "--threads", "1")

    def _audit_table(self, observer: Observer) -> None:
        trail = observer.follower.trail()
        table = Table("run", "segments", "replayed", "compute", "verdict", "60 % cheat caught")
        spent = trained = 0
        for lab in LABS:
            run = observer.run(lab)
            assert run is not None
            done = run.steps * run.declaration.step_flop
            count = views.segments_of(run, run.heads[-1])
            audits = [audit for _, audit in views.audits_of(trail.events, run.id)]
            covered = {part for a in audits for part in a.segments}
            flop = sum(int(a.flop) for a in audits)
            spent, trained = spent + flop, trained + done
            chance = 1 - float(miss(count, int(count * 0.6), len(covered)))
            verdict = "barred" if run.bar else "pass"
            row = (str(count), str(len(covered)), f"{flop / done:.1%}", verdict, f"p = {chance:.6f}")
            table.add_row(f"{lab}/{RUNS[lab]}", *row)
        self.console.print(table)
        self.console.print(f"  all audits together cost {spent / trained:.1%} of the training compute")

    def lift(self, observer: Observer) -> None:
        self._act(7, "Three parties lift the brake; the conditions hold")
        for p in ("beta", "delta", "alpha"):
            self._run("vote", "lift", "--reason", "the cheat is barred", "--home", p, show=f"vote lift   [{p}]")
        self._until(lambda: observer.phase is Phase.CLEAR, "the brake did not lift")
        self.console.print("  clear again: permits flow, and barred runs get none")

    def finish(self, observer: Observer) -> bool:
        with self._progress() as progress:
            tasks = {lab: progress.add_task(f"  {lab}/{RUNS[lab]}", total=_STEPS) for lab in ("alpha", "beta")}

            def step() -> bool:
                for lab, task in tasks.items():
                    progress.update(task, completed=self.stage.steps(lab))
                runs = [observer.run(lab) for lab in tasks]
                return all(r and r.head and r.head.status == "ended" for r in runs)

            self._until(step, "a run did not end")
        run = observer.run("alpha")
        assert run is not None
        self.stage.start("shadow", *_shadow(self.stage, run.seed))
        shadow = self.stage.processes["shadow"]
        equal: bool = self._wait("training alpha's run again without any stop", shadow.wait) == 0
        text = (self.stage.folder / "shadow.log").read_text().strip().splitlines()[-1]
        self.console.print(f"  alpha's run again, from its seed: {text}")
        return equal

    def prove(self, stops: tuple[float, tuple[StopTime, ...]], equal: bool) -> None:
        self._act(8, "One file proves it, offline")
        folder = self.stage.folder
        shown = [x for lab in LABS for x in ("--transcript", str(self.stage.evidence(lab)))]
        self._run("bundle", "demo.bundle", *shown, "--home", "delta", show="bundle demo.bundle --transcript …")
        self.stage.close()  # nothing below needs anybody
        self._run("verify", "demo.bundle", "--treaty", "demo.toml", show="verify demo.bundle --treaty demo.toml")
        data = bytearray((folder / "demo.bundle").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "flipped.bundle").write_bytes(data)
        answer = _failure(self.stage, "verify", "flipped.bundle")
        self.console.print(f"  one flipped bit: [italic]{answer}[/]", soft_wrap=True)
        (folder / "flipped.bundle").unlink()
        proven = verify_bundle((folder / "demo.bundle").read_bytes())
        write_report(folder / "report.html", proven, ReportTimes(stops[0], stops[1], equal))
        self._summary(proven, stops[1], equal)

    def _summary(self, proven: Proven, stops: tuple[StopTime, ...], equal: bool) -> None:
        slowest = max(s.milliseconds_after_quorum for s in stops)
        barred = [r.declaration.name for r in views.by_declaration(proven.state) if r.bar]
        rows = [
            ("stopped", f"{len(stops)} of {len(stops)} runs, the last {slowest:.0f} ms after the quorum"),
            ("caught", f"{', '.join(barred)}; every honest run passed"),
            ("resumed", "bit for bit what it would have been" if equal else "NOT what it would have been"),
            ("proof", f"{self.stage.folder / 'demo.bundle'}: brakeline verify demo.bundle"),
            ("report", str(self.stage.folder / "report.html")),
        ]
        table = Table(show_header=False, title="What happened")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    # ---- showing ----

    def _act(self, number: int, title: str) -> None:
        self.console.print(f"\n[bold]{number}. {title}[/]")

    def _run(self, *args: str, show: str = "") -> None:
        text = self.stage.call(*args)
        self.console.print(f"  $ brakeline {show or ' '.join(args)}", style="dim", markup=False)
        for line in text.splitlines():
            self.console.print(f"    {line}", markup=False, soft_wrap=True)

    def _together(self, show: str, commands: list[tuple[str, ...]]) -> None:
        self.console.print(f"  $ brakeline {show}   [{', '.join(PARTIES)}]", style="dim", markup=False)
        for text in self.stage.call_all(commands):
            self.console.print(f"    {text}", markup=False, soft_wrap=True)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=False)

    def _wait(self, what: str, act: Callable[[], Any]) -> Any:
        with self.console.status(f"  {what} …"):
            return act()

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise Unavailable(f"{failure} within {_PATIENCE:.0f} s", hint=f"see the logs in {self.stage.folder}")
            time.sleep(0.1)


def published_at(stage: Stage, index: int) -> float | None:
    """When the log wrote the first file that holds entry `index`; None when it has folded that file into a full one."""
    number, place = divmod(index, BUNDLE)
    tiles = (stage.home("delta") / "log" / Tile(ENTRIES, number, w).path for w in range(place + 1, BUNDLE))
    return min((path.stat().st_mtime for path in tiles if path.exists()), default=None)


def _shadow(stage: Stage, seed: bytes) -> tuple[str, ...]:
    return (sys.executable, "-m", "brakeline.cli.demo.shadow", str(stage.evidence("alpha")), seed.hex())


def _failure(stage: Stage, *args: str) -> str:
    try:
        stage.call(*args)
    except Unavailable as e:
        return str(e).split(": ", 1)[1].splitlines()[0]
    raise Unavailable("a damaged bundle was accepted")
