"""`brakeline audit`: replay random segments of a run."""

import time
from pathlib import Path

import click
import torch
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT, find_run, folding, home_option, tell
from brakeline.core import views
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.finding import Audit
from brakeline.core.sampling import miss
from brakeline.core.state import State
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import LoggedHead, Run
from brakeline.core.units import about_flop
from brakeline.node.desk import Desk
from brakeline.node.home import Home
from brakeline.training.audit import inspect


@click.command()
@click.argument("run")
@click.option(
    "--evidence", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder the lab shows."
)
@click.option("--confirm", is_flag=True, help="Replay only the segments that other inspectors' findings accuse.")
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses; part of the environment profile.")
@home_option
def command(run: str, evidence: Path, confirm: bool, threads: int | None, home: Path) -> int:
    """Audit RUN (a name as `LAB/NAME`, or an id) up to its last logged head, and log what was found.

    The sample follows from the head, a checkpoint cosigned after it, and this inspector's signature: nobody could
    know it when the run committed. Interrupted, the same command goes on. Exit status 1 means violations were found,
    4 that the audit is in the log and has no effect. The log is folded anew from its first entry: what this command
    says rests on no snapshot. The lab's code runs in a sandbox that hides HOME and the evidence; a warning says where
    it is not complete.
    """
    if threads:
        torch.set_num_threads(threads)
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    record = find_run(desk.state, run)
    if not record.heads:
        raise Refused(Reason.MISSING, f"{run} has logged no head yet")
    while not desk.state.run(record.id).heads[-1].beacon:
        desk.follower.update(wait=5)
    with folding() as progress:
        trail = desk.history(progress)
    record = trail.state.run(record.id)
    logged = record.heads[-1]
    heads = [e for e in trail.events if isinstance(e, Committed) and e.head.run == record.id]
    accused = tuple(sorted({a.segment for a in record.open_allegations})) if confirm else ()
    if confirm and not accused:
        raise Misuse(f"no finding on {run} waits for a second inspector")
    warnings: list[str] = []
    started = time.monotonic()
    with Progress(transient=True) as progress_bar:
        task = progress_bar.add_task(f"replaying {record.declaration.name}", total=None)
        audit = inspect(
            trail.state,
            record,
            heads,
            evidence,
            desk.me.name,
            desk.home.key("statement"),
            memory=desk.home.path / "audits" / record.id[:16] / str(logged.index),
            hidden=(desk.home.path,),
            accused=accused,
            say=warnings.append,
            progress=lambda done, total: progress_bar.update(task, completed=done, total=total),
        )
    effect = desk.say("audit", audit)
    report(desk.state, record, logged, audit, effect.entry, time.monotonic() - started)
    for warning in warnings:
        click.echo(f"  warning: {warning}")
    return EXIT_VERDICT if views.accuses(audit) else 0


def report(state: State, run: Run, logged: LoggedHead, audit: Audit, entry: int, seconds: float) -> None:
    """What was replayed, what it cost, and what was found."""
    treaty, total = state.treaty, views.segments_of(run, logged)
    share = int(audit.flop) / max(1, logged.steps * run.declaration.step_flop)
    click.echo(
        f"{run.declaration.name}: {audit.verdict.upper()} (entry {entry}); replayed {len(audit.segments)} of "
        f"{total} segments, {share:.1%} of the run's {about_flop(logged.steps * run.declaration.step_flop)}, "
        f"in {seconds:.1f} s"
    )
    if audit.verdict != "partial":
        caught = 1 - float(miss(total, int(total * treaty.f_cheat), min(total, len(audit.segments))))
        click.echo(f"a cheat on {treaty.f_cheat * 100:g} % of the segments is caught with probability {caught:.4f}")
    for finding in audit.findings:
        where = f"steps {finding.segment[0]}-{finding.segment[1]}"
        click.echo(f"  {finding.severity}: {finding.fault} at {where}: {finding.detail}")
