"""`brakeline keygen`: a party's home and keys."""

from pathlib import Path

import click

from brakeline.cli.common import read_file
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey
from brakeline.core.treaty import draft_roles
from brakeline.core.treaty.parties import digest_of
from brakeline.node.disk import write_atomic, write_private
from brakeline.node.home import PURPOSES, Purpose, new_key, save_key


@click.command()
@click.argument("name")
@click.option(
    "--home", type=click.Path(path_type=Path), required=True, help="The folder to make; it must hold no keys yet."
)
@click.option("--enroll", type=click.Path(path_type=Path), help="A draft treaty to enter the public keys in.")
@click.option("--log-url", default="", help="Where this party will keep the log.")
@click.option("--witness-url", default="", help="Where this party will witness.")
@click.option("--signer-url", default="", help="Where this party will sign permits.")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase and encrypt the keys with it.")
def command(
    name: str, home: Path, enroll: Path | None, log_url: str, witness_url: str, signer_url: str, passphrase: bool
) -> None:
    """Make NAME's home and its four keys: statements, log, witness, permits; and the next for statements and permits.

    Prints the public keys as the lines of a treaty, of the next ones their digests. With --enroll, adds them to a draft
    treaty in which NAME has roles and no keys yet.
    """
    draft = read_file(enroll) if enroll else None
    roles = draft_roles(draft, name) if draft is not None else None
    secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode() if passphrase else None
    if (home / "party").exists():
        raise Misuse(f"{home} is a party's home already", hint="keys are never overwritten; choose another folder")
    keys = {purpose: new_key() for purpose in PURPOSES}
    for purpose, key in keys.items():
        save_key(home / "keys" / f"{purpose}.pem", key, secret)
    following = {purpose: new_key() for purpose in ("statement", "signer")}
    for which, key in following.items():
        save_key(home / "keys" / f"{which}.next.pem", key, secret)
    write_private(home / "party", f"{name}\n".encode())
    lines = [f'key = "{keys["statement"].public.text}"', f'next = "{digest_of(following["statement"].public)}"']
    table: list[tuple[str, Purpose, int, str]] = [
        ("log", "log", ED25519, log_url),
        ("witness", "witness", COSIGNATURE, witness_url),
        ("permit-signer", "signer", 0, signer_url),
    ]
    for role, purpose, kind, url in table:
        if roles is not None and role not in roles:
            continue
        public = keys[purpose].public
        text = VerifierKey(f"{name}/{purpose}", kind, public).text if kind else public.text
        lines.append(f'{purpose}_key = "{text}"')
        if purpose == "signer":
            lines.append(f'signer_next = "{digest_of(following["signer"].public)}"')
        if url:
            lines.append(f'{purpose}_url = "{url}"')
    if enroll is None or draft is None:
        click.echo("\n".join(lines))
        return
    write_atomic(enroll, _enter(draft, name, lines))
    click.echo(f"{name}: keys in {home / 'keys'}, entered in {enroll}")


def _enter(draft: bytes, name: str, lines: list[str]) -> bytes:
    """The draft with `lines` below the party's table header."""
    text = draft.decode().split("\n")
    at = next((i for i, line in enumerate(text) if line.split("#")[0].strip() == f"[party.{name}]"), None)
    if at is None:
        raise Malformed(f"the draft has no line [party.{name}]")
    return "\n".join([*text[: at + 1], *lines, *text[at + 1 :]]).encode()
