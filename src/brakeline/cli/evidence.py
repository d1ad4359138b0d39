"""`brakeline evidence`: prove that a party said two things."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file, tell
from brakeline.core.evidence import Evidence, read
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@home_option
def command(first: Path, second: Path, home: Path) -> None:
    """Log two envelopes, FIRST and SECOND, that bear one number and say two things.

    Nobody need believe who brings them.
    """
    texts = sorted(read_file(path).decode("utf-8", "replace").strip() for path in (first, second))
    body = Evidence(first=texts[0], second=texts[1])
    read(body)
    effect = Desk(Home(home), tell=tell).say("evidence", body)
    click.echo(f"entry {effect.entry}: the two statements are on record, and their issuer has equivocated")
