"""`brakeline keygen`: a party's home and keys."""

from pathlib import Path

import click

from brakeline.cli.common import read_file
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey
from brakeline.core.treaty import draft_fields
from brakeline.core.treaty.parties import digest_of
from brakeline.node.disk import write_atomic, write_private
from brakeline.node.granted import GRANTED, Granted
from brakeline.node.home import PURPOSES, new_key, save_key
from brakeline.node.witness import new_memory


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
    needed = draft_fields(draft, name) if draft is not None else None
    secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode() if passphrase else None
    if (home / "party").exists():
        raise Misuse(f"{home} is a party's home already", hint="keys are never overwritten; choose another folder")
    keys = {purpose: new_key() for purpose in PURPOSES}
    for purpose, key in keys.items():
        save_key(home / "keys" / f"{purpose}.pem", key, secret)
    following = {purpose: new_key() for purpose in ("statement", "signer")}
    for which, key in following.items():
        save_key(home / "keys" / f"{which}.next.pem", key, secret)
    # What servers must not forget is there from the first day: where it is missing later, it was lost.
    new_memory(home / "witness")
    Granted(home / "signer" / GRANTED, new=True)
    write_private(home / "party", f"{name}\n".encode())
    fields = {
        "key": keys["statement"].public.text,
        "next": digest_of(following["statement"].public),
        "log_key": VerifierKey(f"{name}/log", ED25519, keys["log"].public).text,
        "log_url": log_url,
        "witness_key": VerifierKey(f"{name}/witness", COSIGNATURE, keys["witness"].public).text,
        "witness_url": witness_url,
        "signer_key": keys["signer"].public.text,
        "signer_next": digest_of(following["signer"].public),
        "signer_url": signer_url,
    }
    due = fields.keys() if needed is None else {*needed, *(k.replace("_key", "_url") for k in needed)}
    lines = [f'{field} = "{text}"' for field, text in fields.items() if text and field in due]
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
