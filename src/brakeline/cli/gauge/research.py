"""`brakeline gauge research`: G4, how much of a research gap an autonomous loop recovers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT, load
from brakeline.cli.gauge.common import finish, json_option, out_option, subject_option
from brakeline.gauges.research.ledger import Ledger
from brakeline.gauges.research.loop import Config, Loop, drive
from brakeline.gauges.research.measure import figure, measurement
from brakeline.gauges.research.problem import DATA
from brakeline.gauges.research.researcher import Finding
from brakeline.gauges.research.runner import local, on_ray

SEARCH, LEDGER = "search", "ledger.jsonl"


@click.command(name="research")
@click.option("--agents", default=8, show_default=True, type=click.IntRange(1, 64), help="Researchers in parallel.")
@click.option(
    "--agent",
    default=SEARCH,
    show_default=True,
    help="Who researches: `search`, or a model as Inspect names it (openai-api/localllm/smollm2).",
)
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1, 100), help="Rounds of proposals.")
@click.option("--proposals", default=3, show_default=True, type=click.IntRange(1, 20), help="A team's methods a round.")
@click.option("--data", default="digits", show_default=True, type=click.Choice(list(DATA)), help="Where to search.")
@click.option("--second", default="cancer", show_default=True, type=click.Choice(list(DATA)), help="Second data set.")
@click.option("--draw", default=0, show_default=True, type=click.IntRange(0), help="Seed of the splits, a verifier's.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Experiments at once. [default: one a processor core]")
@click.option("--ray", is_flag=True, help="Run the experiments on a Ray cluster (RAY_ADDRESS, or one started here).")
@click.option("--replay", metavar="ID", help="Run a hypothesis of --out again and compare; `all` for every one.")
@out_option
@subject_option
@json_option
def command(
    agents: int,
    agent: str,
    rounds: int,
    proposals: int,
    data: str,
    second: str,
    draw: int,
    workers: int | None,
    ray: bool,
    replay: str | None,
    out: Path | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """Which share of the gap between a weak supervisor and a perfect one do autonomous researchers recover?

    Researchers propose methods, registered before they run; each experiment runs in a process without the hidden
    labels; an oracle answers a fixed number of times, rounded, and only when a team beats its best. At the end one
    method is scored once on sealed items and on a second data set: that is the reading. Interrupted, the same command
    goes on where it stopped.

    \b
    Example:
      brakeline gauge research --agents 8 --out research
      brakeline gauge research --agents 8 --out research --replay all
    """
    out = out or Path("gauge-research")
    config = Config(
        data=data, second=second, draw=draw, agents=agents, rounds=rounds, proposals=proposals, researcher=agent
    )
    workers = workers or psutil.cpu_count(logical=True) or 1
    logs: tuple[str, ...] = ()
    if agent != SEARCH and replay is None:
        logs = _by_model(config, out, workers)
    with (on_ray if ray else local)(workers, [out]) as run, Ledger(out / LEDGER) as ledger:
        with Console(stderr=True).status("preparing the data"):
            loop = Loop(config, ledger, run)
        if replay is not None:
            _replay(loop, "" if replay == "all" else replay)
            return
        if agent == SEARCH:
            with _shown(loop) as told:
                drive(loop, told)
        m = measurement(loop, logs)
    for why in m.details["exposed"]:
        click.echo(f"no sandbox here, so experiments had only the fence in their own process: {why}", err=True)
    finish(m, figure, out, subject=subject, as_json=as_json)
    if not as_json:
        scores, d = m.details["scores"], m.details
        for kind, text in (("search", "the oracle's items"), ("second", f"the second data set, {second}")):
            s = scores[kind]["winner"]
            click.echo(f"on {text}: {s['pgr']:.3f} ({s['lower']:.3f} to {s['upper']:.3f})")
        baselines = {name: s["pgr"] for name, s in scores["sealed"].items() if name != "winner"}
        click.echo("baselines, sealed: " + ", ".join(f"{name} {value:.3f}" for name, value in baselines.items()))
        click.echo(
            f"{d['experiments']} experiments, {d['refused']} proposals refused; {d['cpu_seconds']:.0f} s of processor, "
            f"{d['wall_seconds']:.0f} s of wall time; all oracle answers carry at most {d['leak_bits']:.0f} bits"
        )


def _replay(loop: Loop, wanted: str) -> None:
    differs = {name: fields for name, fields in loop.replay(wanted).items() if fields}
    for name, fields in differs.items():
        click.echo(f"{name[:16]}… differs: {', '.join(fields)}")
    click.echo("every replayed hypothesis gives what was entered" if not differs else f"{len(differs)} differ")
    if differs:
        raise SystemExit(EXIT_VERDICT)


@contextmanager
def _shown(loop: Loop) -> Iterator[Callable[[Finding], None]]:
    console = Console(stderr=True)
    total = loop.config.agents * loop.config.rounds * loop.config.proposals
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("researching", total=total, completed=len(loop.forum))

        def told(finding: Finding) -> None:
            best = max((f.heard for f in loop.forum if f.heard is not None), default=0.0)
            progress.update(task, advance=1, description=f"researching, best {best:.2f}")

        yield told


def _by_model(config: Config, out: Path, workers: int) -> tuple[str, ...]:
    """Let a model research, with Inspect, up to the sealed evaluation: the digests of Inspect's logs."""
    task = load("brakeline.gauges.research.task", "a model as researcher")
    with Ledger(out / LEDGER) as ledger:
        over = bool(ledger.of("sealed"))
    if not over:
        task.evaluate(config, out, workers)
    found: tuple[str, ...] = task.digests(out)
    return found
