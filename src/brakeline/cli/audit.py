"""`brakeline audit`: replay random segments of a run."""

import time
from pathlib import Path

import click
import torch
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT, find_run, folding, home_option, tell
from brakeline.cli.weights import Asked, judged
from brakeline.core import units, views
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.finding import Audit
from brakeline.core.sampling import miss
from brakeline.core.state import State
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import LoggedHead, Run
from brakeline.core.units import about_flop
from brakeline.node.desk import Desk
from brakeline.node.home import Home
from brakeline.training.audit import Looking, inspect
from brakeline.training.watch import of_this_machine


@click.command()
@click.argument("run")
@click.option(
    "--evidence", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder the lab shows."
)
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), multiple=True,
    help="What the lab's code may read beside its recipe: the data set. More than once for several.",
)  # fmt: skip
@click.option("--confirm", is_flag=True, help="Replay only the segments that other inspectors' findings accuse.")
@click.option("--not-shown", is_flag=True, help="Log what is missing, though this copy is not what the lab signed.")
@click.option("--self", "own", is_flag=True, help="Audit one's own run, and log nothing.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Replay nothing: say whether these weights are the run's end."
)
@click.option(
    "--statement", type=click.Path(path_type=Path, dir_okay=False), help="If so, write an in-toto statement here."
)
@click.option(
    "--model-signature", type=click.Path(path_type=Path, dir_okay=False),
    help="If so, write an OpenSSF model signature here.",
)
@click.option("--model-key", type=click.Path(path_type=Path, dir_okay=False), help="The key for that: PEM, P-256.")
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses; part of the environment profile.")
@click.option("--patience", default="1 h", show_default=True, help="Time that a segment may take.")
@home_option
def command(
    run: str,
    evidence: Path,
    data: tuple[Path, ...],
    confirm: bool,
    not_shown: bool,
    own: bool,
    weights: Path | None,
    statement: Path | None,
    model_signature: Path | None,
    model_key: Path | None,
    threads: int | None,
    patience: str,
    home: Path,
) -> int:
    """Audit RUN (a name as `LAB/NAME`, or an id) up to its last logged head, and log what was found.

    The sample follows from the head, a checkpoint cosigned after it, and this inspector's signature: nobody could
    know it when the run committed. Interrupted, the same command goes on. Exit status 1 means violations were found,
    4 that the audit is in the log and has no effect, 5 that the evidence is to be fetched again. The log is folded anew
    from its first entry: what this command says rests on no snapshot. The lab's code runs in a sandbox that sees
    nothing of this machine but the system, Python and --data; a warning says where it is not complete, and what that
    code says.

    With --weights, a safetensors file or a folder of them: 0 means that they are the run's end, and that enough
    inspectors passed it; 1 that they are not, or that the run is barred; 4 that it has not ended, or is not settled.
    """
    if threads:
        torch.set_num_threads(threads)
    limits = of_this_machine(units.seconds(patience))
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    record = find_run(desk.state, run)
    if weights is not None:
        if confirm or not_shown:
            raise Misuse("--weights replays nothing and logs nothing", hint="leave out --confirm and --not-shown")
        return judged(desk, record, evidence, Asked(weights, statement, model_signature, model_key))
    if statement or model_signature or model_key:
        raise Misuse("what is signed is signed of --weights", hint="--weights FILE")
    if (record.owner == desk.me.name) != own:
        what = "is this party's own" if record.owner == desk.me.name else f"is {record.owner}'s"
        hint = "--self looks at it as an inspector would, and logs nothing" if not own else "leave out --self"
        raise Misuse(f"{run} {what}: a lab does not inspect itself (Treaty 7.7)", hint=hint)
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
        how = Looking(
            memory=desk.home.path / "audits" / record.id[:16] / str(logged.index),
            hidden=(desk.home.path,),
            data=data,
            limits=limits,
            say=warnings.append,
            progress=lambda done, total: progress_bar.update(task, completed=done, total=total),
        )
        try:
            audit = inspect(
                trail.state,
                record,
                heads,
                evidence,
                desk.me.name,
                desk.home.key("statement"),
                how,
                accused=accused,
                not_shown=not_shown,
            )
        finally:
            for warning in dict.fromkeys(warnings):
                click.echo(f"warning: {warning}", err=True)
    entry = None if own else desk.say("audit", audit).entry
    report(desk.state, record, logged, audit, entry, time.monotonic() - started)
    return EXIT_VERDICT if views.accuses(audit) else 0


def report(state: State, run: Run, logged: LoggedHead, audit: Audit, entry: int | None, seconds: float) -> None:
    """What was replayed, what it cost, and what was found."""
    treaty, total = state.treaty, views.segments_of(run, logged)
    where = "not logged" if entry is None else f"entry {entry}"
    share = int(audit.flop) / max(1, logged.steps * run.declaration.step_flop)
    click.echo(
        f"{run.declaration.name}: {audit.verdict.upper()} ({where}); replayed {len(audit.segments)} of "
        f"{total} segments, {share:.1%} of the run's {about_flop(logged.steps * run.declaration.step_flop)}, "
        f"in {seconds:.1f} s"
    )
    if audit.verdict != "partial":
        caught = 1 - float(miss(total, int(total * treaty.f_cheat), min(total, len(audit.segments))))
        click.echo(f"a cheat on {treaty.f_cheat * 100:g} % of the segments is caught with probability {caught:.4f}")
    for finding in audit.findings:
        where = f"steps {finding.segment[0]}-{finding.segment[1]}"
        click.echo(f"  {finding.severity}: {finding.fault} at {where}: {finding.detail}")
