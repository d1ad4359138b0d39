"""`brakeline audit`: replay random segments of a run."""

import time
from pathlib import Path

import click
import torch
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT, home_option
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.finding import Audit
from brakeline.core.fold import Fold, LoggedHead, RunRecord
from brakeline.core.sampling import miss
from brakeline.core.transcript import segments
from brakeline.core.units import show_flop
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
    know it when the run committed. Interrupted, the same command goes on. Exit status 1 means violations were found.
    The lab's code runs in a sandbox that hides HOME and the evidence; a warning says where it is not complete.
    """
    if threads:
        torch.set_num_threads(threads)
    desk = Desk(Home(home))
    desk.catch_up()
    record = find_run(desk.fold, run)
    if not record.heads:
        raise Refused(Reason.MISSING, f"{run} has logged no head yet")
    logged = record.heads[-1]
    while desk.fold.beacon_for(logged.index) is None:
        desk.follower.update(wait=5)
    accused = tuple(sorted({key[1] for key in desk.fold.disputed(record)})) if confirm else ()
    if confirm and not accused:
        raise Misuse(f"no finding on {run} waits for a second inspector")
    warnings: list[str] = []
    started = time.monotonic()
    with Progress(transient=True) as progress:
        task = progress.add_task(f"replaying {record.declaration.name}", total=None)
        audit = inspect(
            desk.fold,
            record,
            logged,
            evidence,
            desk.me.name,
            desk.home.key("statement"),
            memory=desk.home.path / "audits" / record.id[:16] / str(logged.index),
            hidden=(desk.home.path,),
            accused=accused,
            say=warnings.append,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    sent = desk.log("audit", audit)
    desk.catch_up()
    report(desk.fold, record, logged, audit, sent.index, time.monotonic() - started)
    for warning in warnings:
        click.echo(f"  warning: {warning}")
    return EXIT_VERDICT if any(f.severity == "violation" for f in audit.findings) else 0


def find_run(fold: Fold, name: str) -> RunRecord:
    """By `LAB/NAME`, or by an id or its beginning.

    Raises:
        Misuse: none, or more than one.
    """
    def called(r: RunRecord) -> bool:
        return f"{r.owner}/{r.declaration.name}" == name or (len(name) > 7 and r.id.startswith(name))

    found = [r for r in fold.runs.values() if called(r)]
    if len(found) != 1:
        known = ", ".join(f"{r.owner}/{r.declaration.name}" for r in fold.runs.values()) or "none"
        raise Misuse(f"{len(found)} runs are called {name!r}", hint=f"declared runs: {known}")
    return found[0]


def report(fold: Fold, run: RunRecord, logged: LoggedHead, audit: Audit, index: int, seconds: float) -> None:
    treaty = fold.treaty
    total = segments(logged.head.steps, treaty.segment_steps)
    share = int(audit.flop) / max(1, int(logged.head.flop))
    click.echo(
        f"{run.declaration.name}: {audit.verdict.upper()} (entry {index}); replayed {len(audit.segments)} of "
        f"{len(total)} segments, {share:.1%} of the run's {show_flop(int(logged.head.flop))}, in {seconds:.1f} s"
    )
    if audit.verdict != "partial":
        caught = 1 - float(miss(len(total), int(len(total) * treaty.f_cheat), len(audit.segments)))
        click.echo(f"a cheat on {treaty.f_cheat * 100:g} % of the segments is caught with probability {caught:.4f}")
    for finding in audit.findings:
        where = f"steps {finding.segment[0]}-{finding.segment[1]}"
        click.echo(f"  {finding.severity}: {finding.fault} at {where}: {finding.detail}")
