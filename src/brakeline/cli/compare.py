"""`brakeline compare`: whether two signed notes of one log contradict each other."""

from itertools import islice
from pathlib import Path

import click

from brakeline.cli.common import EXIT_VERDICT, read_file
from brakeline.core.contradiction import contradiction, faults, ordered, told
from brakeline.core.tlog.checkpoint import checkpoint_in
from brakeline.core.tlog.merkle import leaf_hash
from brakeline.core.treaty import parse_treaty
from brakeline.node.disk import write_atomic
from brakeline.node.keeping import entries_of


@click.command()
@click.argument("first", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("second", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--treaty",
    "treaty_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The treaty whose keys you trust.",
)
@click.option("--log", "source", help="Where the entries of the larger are: an address, a folder or a bundle.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the proof here, if there is one.")
def command(first: Path, second: Path, treaty_file: Path, source: str | None, out: Path | None) -> int:
    """Compare two checkpoints of one log, or a receipt and a checkpoint.

    Two checkpoints of other sizes contradict each other by what is in the log, which --log says where to find; it is
    believed only as far as the larger one commits to it. The exit status is 1 where the two contradict each other.
    """
    treaty = parse_treaty(read_file(treaty_file))
    small, large = ordered(read_file(first), read_file(second))
    found = contradiction(small, large, _leaves(source, checkpoint_in(large).size) if source else ())
    who = faults(found, treaty.policy)
    if not who:
        click.echo("they do not contradict each other" + ("" if source else ", as far as they say without --log"))
        return 0
    for line in told(who, treaty):
        click.echo(line)
    if out is not None:
        write_atomic(out, found.encode())
        click.echo(f"proof    {out}")
    return EXIT_VERDICT


def _leaves(source: str, size: int) -> list[bytes]:
    with entries_of(source) as (_, entries):
        return [leaf_hash(entry) for entry in islice(entries, size)]
