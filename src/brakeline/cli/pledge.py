"""`brakeline pledge`: bind oneself, on a condition."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file, tell
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.pledge import Pledge
from brakeline.node.desk import Desk
from brakeline.node.home import Home


def at_least(k: int, others: tuple[str, ...]) -> str:
    """The condition "bound while at least `k` of `others` are", in the group grammar of C2SP tlog-policy."""
    return f"group others {k} {' '.join(others)}\nquorum others\n" if k else "quorum none\n"


@click.command()
@click.option("--if-at-least", "k", type=click.IntRange(0), help="Bound while at least this many others are.")
@click.option("--of", "others", multiple=True, help="Count only these parties (repeat); default: all others.")
@click.option("--condition", type=click.Path(path_type=Path), help="A file with group and quorum lines instead.")
@home_option
def command(k: int | None, others: tuple[str, ...], condition: Path | None, home: Path) -> None:
    """Log a pledge: this party is bound by the treaty while its condition holds.

    Stopping alone is asked of nobody: a pledge that waits for others binds only when they are bound too. Exit status 4
    means that the pledge is in the log and has no effect, as one that is weaker than the one in force.
    """
    if (k is None) == (condition is None):
        raise Misuse("say --if-at-least K or --condition FILE")
    desk = Desk(Home(home), tell=tell)
    desk.look(soon=False)  # whom a pledge may name follows from the text in force
    if condition is not None:
        try:
            text = read_file(condition).decode()
        except UnicodeDecodeError as e:
            raise Malformed(f"{condition} is not UTF-8 text") from e
    else:
        text = at_least(k or 0, others or tuple(n for n in desk.treaty.parties if n != desk.me.name))
    pledge = Pledge(condition=text)
    pledge.group(frozenset(desk.treaty.parties))
    effect = desk.say("pledge", pledge)
    active = desk.state.active
    stands = "bound" if desk.me.name in active else "not bound yet"
    everybody = ", ".join(sorted(active)) or "nobody"
    click.echo(f"{desk.me.name} pledged (entry {effect.entry}) and is {stands}; bound: {everybody}")
