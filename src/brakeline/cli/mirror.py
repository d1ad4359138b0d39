"""`brakeline mirror`: keep a copy of the log."""

import threading
from pathlib import Path

import click

from brakeline.cli.common import address, folding, home_option, log_url, read_file, tell
from brakeline.core.treaty import parse_treaty
from brakeline.node.client import Follower
from brakeline.node.home import Home
from brakeline.node.http import run
from brakeline.node.logclient import LogClient
from brakeline.node.mirror import Mirror, app
from brakeline.node.moving import FILE


@click.command()
@home_option
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="A treaty file, instead of a home.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to keep the copy.  [default: HOME/mirror]")
@click.option("--url", help="Serve the copy at this address.")
@click.option("--once", is_flag=True, help="Take what is published now, and end.")
def command(home: Path, treaty_file: Path | None, folder: Path | None, url: str | None, once: bool) -> None:
    """Keep a verified copy of the whole log, and serve it to whoever asks (C2SP tlog-tiles).

    A log whose keeper is dead or hostile goes on from a mirror: see `brakeline keeper`. Needs no keys.
    """
    treaty = parse_treaty(read_file(treaty_file)) if treaty_file else Home(home).treaty
    folder = folder or home / "mirror"
    put = None if treaty_file else home / FILE
    follower = Follower(LogClient(log_url(treaty)), treaty, folder / "seen", put=put)
    mirror = Mirror(follower, folder)
    with folding() as progress:
        if once:
            size = mirror.update(progress=progress)
            click.echo(f"{size} entries of {follower.state.chain.log.key.name} in {mirror.directory}")
            return
    stop = threading.Event()
    if url is None:
        mirror.run(stop, tell)
        return
    threading.Thread(target=mirror.run, args=(stop, tell), daemon=True).start()
    try:
        run(app(mirror), *address(url, None, None))
    finally:
        stop.set()
