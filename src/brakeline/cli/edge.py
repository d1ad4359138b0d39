"""`brakeline edge`: log how a model came to be."""

from pathlib import Path

import click
import msgspec

from brakeline.cli.common import home_option, read_file, tell
from brakeline.core.encoding import convert
from brakeline.core.errors import Malformed
from brakeline.core.lineage import Edge, check_edge
from brakeline.node.desk import Desk
from brakeline.node.home import Home


@click.command()
@click.argument("edge", type=click.Path(path_type=Path))
@home_option
def command(edge: Path, home: Path) -> None:
    """Log the EDGE from a model to its parents, a JSON file.

    It names the child and the parents (SHA-256 of their weights), the run that made the child, the data with who
    labelled and who chose them, the recipe, and what the training started from: see docs/gauges/lineage.md.
    """
    try:
        raw = msgspec.json.decode(read_file(edge))
    except msgspec.DecodeError as e:
        raise Malformed(f"{edge} is not JSON: {e}") from e
    body = convert(raw, Edge)
    check_edge(body)
    effect = Desk(Home(home), tell=tell).say("edge", body)
    click.echo(f"entry {effect.entry}: {body.child[:16]}… descends from {len(body.parents)} models")
