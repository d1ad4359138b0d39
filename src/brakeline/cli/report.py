"""`brakeline report`: a verified bundle as a page for people."""

from pathlib import Path
from typing import Final

import click

from brakeline.cli.common import read_file
from brakeline.core.bundle import verify_bundle
from brakeline.core.errors import Misuse
from brakeline.core.treaty import parse_treaty
from brakeline.report import write_report

_PAGE: Final = b"<!DOCTYPE html>"


@click.command()
@click.argument("file", metavar="BUNDLE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here instead of beside the bundle.")
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="The treaty you trust, as a file.")
@click.option("--sha256", "digest", help="The digest of the treaty you trust.")
def command(file: Path, out: Path | None, treaty_file: Path | None, digest: str | None) -> None:
    """Verify BUNDLE as `brakeline verify` does, and write what it proves as one HTML page.

    Without --treaty or --sha256 the treaty is taken from the bundle, and the page shows its digest: compare it.
    """
    if treaty_file and digest:
        raise Misuse("give the treaty you trust by --treaty or by --sha256, not by both")
    trusted = parse_treaty(read_file(treaty_file)).digest if treaty_file else digest
    proven = verify_bundle(read_file(file), treaty_digest=trusted)
    page = out or file.with_suffix(".html")
    if page.exists() and not read_file(page).startswith(_PAGE):  # a slip of the hand must not cost a bundle or a key
        raise Misuse(f"{page} is there, and is no page of this kind", hint="name another file by --out")
    write_report(page, proven, bundle=file.name)
    whose = "as you trust it" if trusted else "taken from the bundle: compare this digest with the one you know"
    click.echo(f"{page}: {page.stat().st_size} bytes, {proven.cosigned.checkpoint.size} log entries")
    click.echo(f"treaty {proven.treaty.name} v{proven.treaty.version}, sha256 {proven.treaty.digest}")
    click.echo(f"       {whose}")
