"""`brakeline run -- CMD`: a command under the brake."""

import os
from math import isfinite
from pathlib import Path

import click

from brakeline.adapters import attached
from brakeline.cli.common import EXIT_SPENT, EXIT_STOPPED, find_run, home_option, tell
from brakeline.cluster.attested import Spent, run_attested
from brakeline.cluster.running import Exited
from brakeline.core import units
from brakeline.node.desk import Lab
from brakeline.node.home import Home


def _grace(_: click.Context, __: click.Parameter, seconds: float) -> float:
    if not (isfinite(seconds) and 0 <= seconds <= 86400):
        raise click.BadParameter(f"{seconds} is not between 0 and 86400 seconds")
    return seconds


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--name", required=True, help="The run's name, as it is declared.")
@click.option("--time", "time_", required=True, help='The longest it may run, as "12 h".')
@click.option("--flop-per-second", required=True, help='What its machines can do at most, as "400 TFLOP".')
@click.option("--chips", type=click.IntRange(0), default=1, show_default=True, help="Accelerators of its cluster.")
@click.option("--domain", default="", help="What it learns about, where a tier of the treaty asks.")
@click.option("--parent", "parents", multiple=True, help="A run that it goes on from, as LAB/NAME or id; repeat.")
@click.option("--purpose", default="", help="What it is for, where an exemption of the treaty asks.")
@click.option(
    "--grace", type=float, default=30.0, show_default=True, callback=_grace, help="Seconds between SIGTERM and SIGKILL."
)
@click.option("--attach", is_flag=True, help="Let transformers and Lightning in CMD save at a step, and resume.")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@home_option
def command(
    name: str,
    time_: str,
    flop_per_second: str,
    chips: int,
    domain: str,
    parents: tuple[str, ...],
    purpose: str,
    grace: float,
    attach: bool,
    cmd: tuple[str, ...],
    home: Path,
) -> int:
    """Run CMD, a job that cannot be changed, under the brake: `brakeline run … -- torchrun train.py`.

    CMD starts when there is a permit. When the brake is on or the permit lapses, its whole process tree gets SIGTERM,
    time to write a checkpoint, and SIGKILL. The exit status is CMD's, 128 + N when signal N ended it, 6 when the brake
    stopped it (run the same command again to go on), or 7 when its time was up; both are said on standard error, too.
    """
    lab = Lab(Home(home), tell=tell)
    if attach:
        os.environ.update(attached.environment())
    if parents:
        lab.catch_up()
    outcome = run_attested(
        lab,
        name,
        cmd,
        seconds=units.seconds(time_),
        flop_per_second=units.flop(flop_per_second),
        grace=grace,
        chips=chips,
        domain=domain,
        parents=[find_run(lab.state, parent).id for parent in parents],
        purpose=purpose,
    )
    match outcome:
        case Exited(code):
            return code if code >= 0 else 128 - code
        case Spent():
            click.echo(f"{name} has run for {time_}, as long as was declared", err=True)
            return EXIT_SPENT
    click.echo(f"the brake stopped {name}: the same command goes on with it", err=True)
    return EXIT_STOPPED
