"""`brakeline treaty`: check, render, policy, sign."""

import time
from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.pledge import Assent
from brakeline.core.treaty import articles_digest, check_draft, parse_treaty, render
from brakeline.node.disk import write_atomic
from brakeline.node.home import Home
from brakeline.node.outbox import Outbox

_file = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Check, render and sign a treaty."""


@command.command()
@_file
def check(file: Path) -> None:
    """Check FILE: grammar, units, quorum arithmetic, keys."""
    data = read_file(file)
    waiting = check_draft(data)
    if waiting:
        raise Malformed(
            f"{file} is a draft: no keys yet of {', '.join(waiting)}; all else is in order",
            hint=f"each party runs `brakeline keygen NAME --home DIR --enroll {file}`",
        )
    treaty = parse_treaty(data)
    n = len(treaty.parties)
    click.echo(f"{treaty.name} v{treaty.version}, rules {treaty.rules}: {n} parties bear {treaty.faults} faults")
    click.echo(f"trip {treaty.trip} of {n}, permit {treaty.permit}, lift {treaty.lift}, witnesses {treaty.witnesses}")
    click.echo(f"sha256 {treaty.digest}")
    click.echo(f"articles {articles_digest(treaty)}")


@command.command(name="render")
@_file
def render_(file: Path) -> None:
    """Print FILE as a numbered legal text."""
    click.echo(render(parse_treaty(read_file(file))), nl=False)


@command.command()
@_file
def policy(file: Path) -> None:
    """Print FILE's log and witness policy (C2SP tlog-policy), for other verifiers."""
    click.echo(parse_treaty(read_file(file)).policy.text.decode(), nl=False)


@command.command()
@_file
@home_option
def sign(file: Path, home: Path) -> None:
    """Sign FILE. The signature is logged with this party's next statement."""
    data = read_file(file)
    treaty = parse_treaty(data)
    party = Home(home)
    me = party.me(treaty)
    kept = home / "treaty.toml"
    if kept.exists() and kept.read_bytes() != data:
        raise Misuse(f"{me.name} has signed another treaty", hint="one home holds one treaty; make a new home")
    write_atomic(kept, data)
    outbox = Outbox(home, treaty, me.name, party.key("statement"), time.time)
    outbox.write("assent", Assent(text=treaty.digest, articles=articles_digest(treaty)))
    click.echo(f"{me.name} signed {treaty.name} v{treaty.version}, sha256 {treaty.digest}")
