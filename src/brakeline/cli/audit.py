"""`brakeline audit`: replay random segments of a run."""

import os
import re
import sys
import time
from math import ceil
from pathlib import Path
from typing import Final

import click
import torch
from rich.progress import Progress

from brakeline.cli.common import EXIT_VERDICT, find_run, folding, home_option, tell
from brakeline.cli.weights import weighed
from brakeline.core import units, views
from brakeline.core.errors import Misuse, Reason, Refused
from brakeline.core.finding import Audit
from brakeline.core.sampling import draws_needed, miss
from brakeline.core.state import State
from brakeline.core.state.events import Committed
from brakeline.core.state.runs import LoggedHead, Run
from brakeline.core.units import about_flop
from brakeline.node.desk import Desk
from brakeline.node.home import Home
from brakeline.training.audit import inspect
from brakeline.training.calibrate import LENGTHS, calibrate
from brakeline.training.calibration import keep
from brakeline.training.environment import VARIABLES, profile
from brakeline.training.replays import Looking
from brakeline.training.shown import distributions, profiles
from brakeline.training.survey import Outliers, remembered
from brakeline.training.watch import of_this_machine

_STARTS: Final = 12  # of each specimen
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.,:=+-]{0,200}")
_ADOPTED: Final = "BRAKELINE_ADOPTED"  # that a process was started in a lab's environment


@click.command()
@click.argument("run")
@click.option("--evidence", type=click.Path(path_type=Path, file_okay=False), help="The folder the lab shows.")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), multiple=True,
    help="What the lab's code may read beside its recipe: the data set. More than once for several.",
)  # fmt: skip
@click.option("--confirm", is_flag=True, help="Replay only the segments that other inspectors' findings accuse.")
@click.option("--not-shown", is_flag=True, help="Log what is missing, though this copy is not what the lab signed.")
@click.option("--self", "own", is_flag=True, help="Audit one's own run, and log nothing.")
@click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False),
    help="Say whether this safetensors file is the run's end; log nothing.",
)
@click.option(
    "--statement", type=click.Path(path_type=Path, dir_okay=False), help="Sign into this file what --weights says."
)
@click.option("--match", is_flag=True, help="Take on the variables and threads of the environment that the lab shows.")
@click.option("--threads", type=click.IntRange(1), help="Threads that PyTorch uses; part of the environment profile.")
@click.option("--patience", default="1 h", show_default=True, help="Time that a segment may take.")
@home_option
def command(
    run: str,
    evidence: Path | None,
    data: tuple[Path, ...],
    confirm: bool,
    not_shown: bool,
    own: bool,
    weights: Path | None,
    statement: Path | None,
    match: bool,
    threads: int | None,
    patience: str,
    home: Path,
) -> int:
    """Audit RUN (a name as `LAB/NAME`, or an id) up to its last logged head, and log what was found.

    `brakeline audit calibrate` makes honest replays of Brakeline's own, and keeps how often the rule for other
    environments is wrong about one: where nothing is known, a run made elsewhere cannot be told.

    The sample follows from the head, a checkpoint cosigned after it, and this inspector's signature: nobody could
    know it when the run committed. Interrupted, the same command goes on. Exit status 1 means violations were found,
    4 that the audit is in the log and has no effect, 5 that the evidence is to be fetched again. The log is folded anew
    from its first entry: what this command says rests on no snapshot. The lab's code runs in a sandbox that sees
    nothing of this machine but the system, Python and --data; a warning says where it is not complete, and what that
    code says.
    """
    if threads:
        torch.set_num_threads(threads)
    if run == "calibrate":
        return measured(home)
    if evidence is None:
        raise Misuse("an audit opens what the lab shows", hint="--evidence FOLDER")
    if match:
        adopt(evidence, threads)
    limits = of_this_machine(units.seconds(patience))
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    record = find_run(desk.state, run)
    if weights:
        with folding() as progress:
            seen = desk.history(progress)
        record = seen.state.run(record.id)
        return weighed(desk.home, seen.state, record, seen.events, evidence, weights, statement)
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
            home=desk.home.path,
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
    report(desk.state, record, logged, audit, entry, time.monotonic() - started, remembered(how.memory))
    return EXIT_VERDICT if views.accuses(audit) else 0


def measured(home: Path) -> int:
    """Calibrate, keep it in this home, and say what came of it."""
    home = Home(home).path
    with Progress(transient=True) as bar:
        task = bar.add_task("replaying honest segments", total=None)
        it = calibrate(home, _STARTS, lambda done, total: bar.update(task, completed=done, total=total))
    keep(home, it)
    click.echo(f"PyTorch {it.torch} on {it.device}: {it.steps} single steps and {it.segments} segments, all honest")
    click.echo(f"  contested: {it.contested} of {it.steps} single steps")
    click.echo(f"  segments of {LENGTHS[1]} steps that take the states between: {it.undecided} of {it.segments}")
    return 0


def adopt(evidence: Path, threads: int | None) -> None:
    """Start again in the variables and threads that the run was made in, once.

    Raises:
        Misuse: something else differs, that no variable can change.
    """
    found = list(profiles(evidence).values())
    if not found:
        raise Misuse(f"{evidence} shows no profile of an environment", hint="ask the lab for environment.json")
    there, own = found[-1], profile(distributions(evidence))
    if there == own:
        return
    if os.environ.get(_ADOPTED):
        differs = sorted(key for key in there.keys() | own.keys() if there.get(key) != own.get(key))
        said = "; ".join(f"{key}: {str(there.get(key))[:60]}, here {str(own.get(key))[:60]}" for key in differs[:4])
        raise Misuse(f"this is another environment: {said}", hint="install what it names, on such a machine")
    # A lab chose what it says: no variable is taken on but those that a profile has, and no text but plain words.
    named = there.get("variables")
    known = {name: value for name, value in named.items() if name in VARIABLES} if isinstance(named, dict) else {}
    wanted = {str(k): str(v) for k, v in {**known, "OPENBLAS_NUM_THREADS": there.get("blas_threads")}.items()}
    if not all(_PLAIN.fullmatch(value) for value in wanted.values()):
        raise Misuse(f"{evidence} shows a profile that no process has", hint="ask the lab for environment.json")
    left = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    more = [] if threads else ["--threads", str(there.get("threads"))]
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:], *more], {**left, **wanted, _ADOPTED: "1"})


def report(
    state: State,
    run: Run,
    logged: LoggedHead,
    audit: Audit,
    entry: int | None,
    seconds: float,
    apart: Outliers | None = None,
) -> None:
    """What was replayed, what it cost, and what was found; `apart` are the segments that stood out."""
    treaty, total = state.treaty, views.segments_of(run, logged)
    where = "not logged" if entry is None else f"entry {entry}"
    share = int(audit.flop) / max(1, logged.steps * run.declaration.step_flop)
    click.echo(
        f"{run.declaration.name}: {audit.verdict.upper()} ({where}); replayed {len(audit.segments)} of "
        f"{total} segments, {share:.1%} of the run's {about_flop(logged.steps * run.declaration.step_flop)}, "
        f"in {seconds:.1f} s"
    )
    if audit.verdict != "partial":
        drawn = draws_needed(total, treaty.p_catch, treaty.f_cheat)
        caught = 1 - float(miss(total, ceil(total * treaty.f_cheat), drawn))
        click.echo(
            f"a cheat on {treaty.f_cheat * 100:g} % of the segments is caught with probability {caught:.4f}: "
            f"{drawn} are drawn"
        )
        if apart:
            click.echo(
                f"{len(apart.chosen)} stand out from their neighbours and were replayed too; measured were "
                f"{apart.measured} of {apart.segments}"
            )
    for finding in audit.findings:
        where = f"steps {finding.segment[0]}-{finding.segment[1]}"
        click.echo(f"  {finding.severity}: {finding.fault} at {where}: {finding.detail}")
