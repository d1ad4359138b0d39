"""`brakeline reading`: log what a gauge measured."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file, tell
from brakeline.core.measurement import read_measurement
from brakeline.core.reading import check_reading, reading_of
from brakeline.core.state import readings
from brakeline.core.state.events import Disagreed
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
    desk = Desk(Home(home), tell=tell)
    desk.look(soon=False)
    trigger = check_reading(reading, desk.treaty)
    effect = desk.say("reading", reading)
    state = desk.state
    side = "reaches" if reading.alarms or reading.lower >= trigger.at_least else "is below"
    click.echo(f"entry {effect.entry}: {reading.gauge} of {reading.subject} {side} {trigger.at_least:g} {reading.unit}")
    found = readings.of_subject(state.readings, reading.gauge, reading.subject)
    for r in found:
        click.echo(f"reproduced by {', '.join(r.parties)}: at least {r.lower:.4g} {reading.unit}")
    if not found:
        need = readings.quorum(desk.treaty)
        click.echo(f"not reproduced yet: it counts when {need} parties have found it (Treaty 4.8)")
    for event in effect.events:
        if isinstance(event, Disagreed):
            click.echo(f"disagrees with {event.first[0]}'s entry {event.first[1]}: one of the two is wrong")
    click.echo(f"the brake is {state.phase}")
