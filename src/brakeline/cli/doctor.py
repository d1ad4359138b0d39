"""`brakeline doctor`: what is wrong, and what to do about it."""

from pathlib import Path

import click

from brakeline.cli.common import EXIT_VERDICT, home_option
from brakeline.node.doctor import examine
from brakeline.node.home import Home


@click.command()
@home_option
def command(home: Path) -> int:
    """Look at HOME, its keys, disk, databases and clock, at the log, and at every witness and permit signer.

    Prints a line for each, and a hint where something is wrong; then the exit status is 1. Signs nothing, asks for no
    passphrase but that of encrypted keys, and changes nothing.
    """
    bad = 0
    for check in examine(Home(home)):
        if not check.trouble:
            click.echo(f"ok   {check.what}: {check.found}")
            continue
        bad += 1
        click.echo(f"BAD  {check.what}: {check.trouble}")
        if check.hint:
            click.echo(f"     hint: {check.hint}")
    click.echo(f"{bad} of these need somebody" if bad else "all is well")
    return EXIT_VERDICT if bad else 0
