"""`brakeline up`: all that a party's roles ask for, in one process."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
import msgspec

from brakeline.cli import log, signer, witness
from brakeline.cli.common import address, home_option, read_file, tell
from brakeline.core.errors import Malformed, Misuse
from brakeline.node.home import Home
from brakeline.node.http import Service, run_together
from brakeline.node.keeping import serves
from brakeline.node.moving import FILE, read_reopening


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one server listens, instead of at the treaty's address: `host:port`."""

    listen: str


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file for `up`. `home` is relative to the file; what is not said is as the treaty has it."""

    home: str
    log: Listen | None = None
    witness: Listen | None = None
    signer: Listen | None = None


_SERVING: Final = {"log": log.serving, "witness": witness.serving, "signer": signer.serving}


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@home_option
def command(config: Path | None, home: Path) -> None:
    """Run all that the treaty makes of the party in HOME: its log, its witness, its permit signer, in one process.

    CONFIG is a TOML file with `home = "…"` and, where a server listens elsewhere than at the treaty's address, a table
    `[log]`, `[witness]` or `[signer]` with `listen = "HOST:PORT"`. All end together, and may be started again at any
    time: by systemd or a container (deploy/).
    """
    found = _read(config) if config else Config(str(home))
    party = Home((config.parent / found.home) if config else home)
    roles = _roles(party)
    for role in _SERVING:
        if getattr(found, role) and role not in roles:
            raise Misuse(f"the treaty does not give {party.name} what [{role}] asks for (Treaty 1.2)")
    if not roles:
        raise Misuse(f"{party.name} keeps no log, witnesses none and signs no permits: there is nothing to run")
    tell(f"{party.name}: {', '.join(roles)}")
    with ExitStack() as stack:
        run_together([_start(party, role, getattr(found, role), stack) for role in roles])


def _read(path: Path) -> Config:
    try:
        return msgspec.toml.decode(read_file(path), type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Malformed(f"{path}: {e}", hint="brakeline up --help says what may stand there") from e


def _roles(party: Home) -> list[str]:
    """What is to run, the log first: the others ask it something when they start."""
    me, found = party.me(party.newest), read_reopening(party.path / FILE)
    first = party.treaty.parties.get(party.name, me)
    keeps = serves(party, found[0]) if found else first.log_key is not None
    has = {"log": keeps, "witness": me.witness_key is not None, "signer": me.signer_key is not None}
    return [role for role, there in has.items() if there]


def _start(party: Home, role: str, listen: Listen | None, stack: ExitStack) -> Callable[[], Service]:
    def start() -> Service:
        app, url = stack.enter_context(_SERVING[role](party))
        if listen is None:
            return Service(app, *address(url, None, None))
        return Service(app, *address(f"http://{listen.listen}", None, None, what=f"[{role}] listen"))

    return start
