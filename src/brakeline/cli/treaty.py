"""`brakeline treaty`: check, render, policy, sign; and from one text to the next: compare, join, amend, assent."""

import time
from pathlib import Path

import click

from brakeline.cli.common import home_option, log_url, read_file, show_waiting, tell
from brakeline.core import views
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.state.chain import check_next
from brakeline.core.succession import Amend, assent_to
from brakeline.core.treaty import Treaty, articles_digest, check_draft, parse_treaty, render
from brakeline.core.treaty import compare as compare_texts
from brakeline.node.client import Follower
from brakeline.node.desk import Desk
from brakeline.node.disk import write_atomic
from brakeline.node.home import Home
from brakeline.node.logclient import LogClient
from brakeline.node.outbox import Outbox

_file = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Check, render and sign a treaty, and amend it."""


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
    outbox.write("assent", assent_to(treaty))
    click.echo(f"{me.name} signed {treaty.name} v{treaty.version}, sha256 {treaty.digest}")


@command.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def compare(old: Path, new: Path) -> None:
    """Show what differs between two texts, rule by rule and party by party."""
    one, two = parse_treaty(read_file(old)), parse_treaty(read_file(new))
    click.echo(f"{one.name} v{one.version} {one.digest[:16]}… → {two.name} v{two.version} {two.digest[:16]}…")
    _show_changes(one, two)


@command.command()
@_file
@home_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write the signed assent.")
@click.option("--first", type=click.Path(path_type=Path), required=True, help="The first text of the treaty's log.")
def join(file: Path, home: Path, out: Path, first: Path) -> None:
    """Sign the next text FILE as a party that it lets in, or lets in again with new keys.

    Writes the signed assent to OUT, for whoever brings FILE with `brakeline treaty amend --joining`. It counts there
    alone, and this party has no voice before the text has turned.
    """
    next_, party = parse_treaty(read_file(file)), Home(home)
    data = read_file(first)
    origin, kept = parse_treaty(data), home / "treaty.toml"
    follower = Follower(LogClient(log_url(origin)), origin)
    follower.update()
    text = follower.treaty
    check_next(text, next_, follower.state.chain.log)
    entered = next_.parties.get(party.name)
    if entered is None or entered.key != party.key("statement").public:
        hint = f"brakeline keygen {party.name} --home DIR --enroll {file}"
        raise Misuse(f"{file} does not enter this home's key for {party.name}", hint=hint)
    if kept.exists() and kept.read_bytes() != data:
        raise Misuse("this home follows another treaty", hint="one home holds one treaty; make a new home")
    _show_changes(text, next_)
    write_atomic(kept, data)
    write_atomic(home / "next.toml", next_.text)
    outbox = Outbox(home, text, party.name, party.key("statement"), time.time)
    said = outbox.write("assent", assent_to(next_))
    outbox.carried(said)
    write_atomic(out, said)
    click.echo(f"{party.name} joins with {next_.name} v{next_.version}, sha256 {next_.digest}: {out}")


@command.command()
@_file
@home_option
@click.option(
    "--joining", multiple=True, type=click.Path(path_type=Path), help="The signed assent of a party that joins."
)
def amend(file: Path, home: Path, joining: tuple[Path, ...]) -> None:
    """Bring the next text FILE before the parties, and assent to it.

    Shows what it changes, and who must still assent. It is adopted when enough have; see `brakeline status`.
    """
    next_ = parse_treaty(read_file(file))
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    check_next(desk.treaty, next_, desk.state.chain.log)
    _show_changes(desk.treaty, next_)
    joined = tuple(read_file(path).decode("ascii", "replace").strip() for path in joining)
    body = Amend(amends=desk.treaty.digest, text=next_.text.decode(), joining=joined)
    effect = desk.say("amend", body)
    click.echo(f"entry {effect.entry}: {next_.name} v{next_.version}, sha256 {next_.digest}, is before the parties")
    if desk.home.name in next_.parties:
        _assent(desk, next_)


@command.command()
@_file
@home_option
def assent(file: Path, home: Path) -> None:
    """Assent to the next text FILE, which is before the parties."""
    next_ = parse_treaty(read_file(file))
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    if next_.digest not in desk.state.chain.proposals:
        raise Misuse(
            f"the text {next_.digest[:16]}… is not before the parties",
            hint="brakeline status shows which are; whoever wants this one brings it: brakeline treaty amend",
        )
    _show_changes(desk.treaty, next_)
    _assent(desk, next_)


def _assent(desk: Desk, next_: Treaty) -> None:
    write_atomic(desk.home.path / "next.toml", next_.text)
    effect = desk.say("assent", assent_to(next_))
    click.echo(f"entry {effect.entry}: {desk.home.name} assents to v{next_.version}")
    show_waiting(b for b in views.waiting(desk.state) if b.what == f"version {next_.version}")


def _show_changes(old: Treaty, new: Treaty) -> None:
    for change in compare_texts(old, new):
        click.echo(f"  {change.id}")
        for mark, sentence in (("-", change.before), ("+", change.after)):
            if sentence:
                click.echo(f"    {mark} {sentence}")
