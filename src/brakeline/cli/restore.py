"""`brakeline restore`: a home again, from its backup."""

from pathlib import Path

import click

from brakeline.node.backup import restore


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("home", type=click.Path(path_type=Path))
def command(file: Path, home: Path) -> None:
    """Make HOME, a new folder, from the backup FILE.

    Nothing is overwritten. It signs nothing before it has read the log, and taken back what that holds of it.
    """
    made = restore(file, home)
    click.echo(f"{home}: {made.name} as of the backup; stop whatever else speaks for {made.name}")
    click.echo("if it has closed a log since (brakeline keeper close), close it again before its servers start")
