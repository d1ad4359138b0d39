"""`brakeline run -- CMD`: a command under the brake."""

from pathlib import Path

import click

from brakeline.cli.common import EXIT_STOPPED, home_option
from brakeline.cluster.attested import run_attested
from brakeline.cluster.running import Exited
from brakeline.core import units
from brakeline.node.desk import Lab
from brakeline.node.home import Home


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--name", required=True, help="The run's name, as it is declared.")
@click.option("--time", "time_", required=True, help='The longest it may run, as "12 h".')
@click.option("--flop-per-second", required=True, help='What its machines can do at most, as "400 TFLOP".')
@click.option("--chips", type=click.IntRange(0), default=1, show_default=True, help="Accelerators of its cluster.")
@click.option("--domain", default="", help="What it learns about, where a tier of the treaty asks.")
@click.option("--grace", type=float, default=30.0, show_default=True, help="Seconds between SIGTERM and SIGKILL.")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@home_option
def command(
    name: str,
    time_: str,
    flop_per_second: str,
    chips: int,
    domain: str,
    grace: float,
    cmd: tuple[str, ...],
    home: Path,
) -> int:
    """Run CMD, a job that cannot be changed, under the brake: `brakeline run … -- torchrun train.py`.

    CMD starts when there is a permit. When the brake is on or the permit lapses, its whole process tree gets SIGTERM,
    time to write a checkpoint, and SIGKILL. The exit status is CMD's, or 6 when the brake stopped it; run the same
    command again to go on.
    """
    lab = Lab(Home(home), tell=lambda text: click.echo(text, err=True))
    outcome = run_attested(
        lab,
        name,
        cmd,
        seconds=units.seconds(time_),
        flop_per_second=units.flop(flop_per_second),
        grace=grace,
        chips=chips,
        domain=domain,
    )
    return outcome.code if isinstance(outcome, Exited) else EXIT_STOPPED
