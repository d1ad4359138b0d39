"""`brakeline reading`: log what a gauge reads."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file
from brakeline.core.encoding import sha256
from brakeline.core.reading import Reading, check_reading
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("gauge")
@click.option("--value", type=float, required=True)
@click.option("--lower", type=float, required=True, help="Lower 95 % bound: what counts.")
@click.option("--upper", type=float, required=True, help="Upper 95 % bound.")
@click.option("--evidence", type=click.Path(path_type=Path), required=True, help="What was measured; a file.")
@home_option
def command(gauge: str, value: float, lower: float, upper: float, evidence: Path, home: Path) -> None:
    """Log a reading of GAUGE, one that the treaty names."""
    desk = Desk(Home(home))
    unit = next((t.unit for t in desk.treaty.triggers if t.gauge == gauge), "")
    digest = sha256(read_file(evidence)).hex()
    reading = Reading(gauge=gauge, value=value, lower=lower, upper=upper, unit=unit, evidence=digest)
    trigger = check_reading(reading, desk.treaty)
    sent = desk.log("reading", reading)
    desk.catch_up()
    side = "reaches" if lower >= trigger.at_least else "is below"
    state = desk.fold.brake
    click.echo(f"entry {sent.index}: {gauge} {side} {trigger.at_least:g} {unit}; the brake is {state.phase}")
