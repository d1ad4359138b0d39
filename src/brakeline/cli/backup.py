"""`brakeline backup`: what a home must not lose, in one file."""

from pathlib import Path

import click

from brakeline.node.backup import backup
from brakeline.node.home import Home


@click.command()
@click.argument("home", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def command(home: Path, file: Path) -> None:
    """Write what HOME must not lose into the new FILE: keys, outbox, and what its witness and signer remember.

    Its servers may run meanwhile. Keys stay as they are, encrypted or not. Logs, mirrors and runs are not in it.
    """
    found = backup(Home(home), file)
    click.echo(f"{file}: {len(found)} files of {home}")
