"""`brakeline reading`: log what a gauge measured."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file
from brakeline.core.measurement import read_measurement
from brakeline.core.reading import check_reading, reading_of
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("measurement", type=click.Path(path_type=Path))
@home_option
def command(measurement: Path, home: Path) -> None:
    """Log the reading of MEASUREMENT, a file that `brakeline gauge` wrote.

    It counts once enough other parties have measured the same inputs and found the same.
    """
    reading = reading_of(read_measurement(read_file(measurement)))
    desk = Desk(Home(home))
    trigger = check_reading(reading, desk.treaty)
    sent = desk.enter("reading", reading)
    fold = desk.fold
    side = "reaches" if reading.alarms or reading.lower >= trigger.at_least else "is below"
    click.echo(f"entry {sent.index}: {reading.gauge} of {reading.subject} {side} {trigger.at_least:g} {reading.unit}")
    found = fold.readings.reproduced(reading.gauge, reading.subject, now=fold.clock, active=fold.bound().active)
    for r in found:
        click.echo(f"reproduced by {', '.join(r.parties)}: at least {r.lower:.4g} {reading.unit}")
    if not found:
        click.echo(f"not reproduced yet: it counts when {fold.readings.quorum} parties have found it (Treaty 4.8)")
    for d in fold.readings.disagreements:
        if sent.index in (d.first[1], d.second[1]):
            click.echo(f"disagrees with {d.first[0]}'s entry {d.first[1]}: one of the two is wrong")
    click.echo(f"the brake is {fold.brake.phase}")
