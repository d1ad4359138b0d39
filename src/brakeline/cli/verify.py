"""`brakeline verify`: what a bundle proves, offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from brakeline.cli.common import read_file
from brakeline.core import views, words
from brakeline.core.bundle import Proven, verify_bundle
from brakeline.core.encoding import canonical
from brakeline.core.state.events import Event, Tripped
from brakeline.core.state.runs import Run
from brakeline.core.treaty import parse_treaty


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="The treaty you trust, as a file.")
@click.option("--sha256", "digest", help="The digest of the treaty you trust.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line, for machines.")
def command(file: Path, treaty_file: Path | None, digest: str | None, as_json: bool) -> None:
    """Verify the bundle FILE with nothing but this program: no network, no keys, no trust in whoever sent it.

    Without --treaty or --sha256 the treaty is taken from the bundle, and its digest is printed: compare it.
    """
    trusted = parse_treaty(read_file(treaty_file)).digest if treaty_file else digest
    proven = verify_bundle(read_file(file), treaty_digest=trusted)
    if as_json:
        click.echo(canonical(claims(proven)).decode())
        return
    c = proven.cosigned.checkpoint
    click.echo(f"VERIFIED {file}")
    whose = "as you trust it" if trusted else "taken from the bundle: compare this digest with the one you know"
    treaty = proven.treaty
    click.echo(f"treaty   {treaty.name} v{treaty.version}, rules {treaty.rules}, sha256 {treaty.digest}")
    click.echo(f"         {whose}")
    click.echo(f"log      {c.size} entries, cosigned by {', '.join(sorted(proven.cosigned.witnesses))}")
    click.echo(f"state    {proven.digest}")
    for phase, event in views.phases(proven.events):
        when = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"brake    {phase:<8} {when} UTC, entry {event.entry}{_why(event)}")
    for run in views.by_declaration(proven.state):
        click.echo(f"run      {_line(proven, run)}")


def _why(event: Event) -> str:
    return f": {words.cause(event.cause)}" if isinstance(event, Tripped) else ""


def _line(proven: Proven, run: Run) -> str:
    text = f"{run.name}: {run.head.status if run.head else 'declared'} at step {run.steps}; {run.declaration.rung}"
    verdicts = ", ".join(f"{a.verdict} by {i}" for i, a in views.audits_of(proven.events, run.id))
    text += f"; {verdicts}" if verdicts else ""
    text += f"; BARRED for {words.bar(run.bar)}" if run.bar else ""
    return text + ("; transcript shown" if run.id in proven.leaves else "")


def claims(proven: Proven) -> dict[str, Any]:
    """What is proven, as plain values."""
    return {
        "treaty": proven.treaty.digest,
        "rules": proven.treaty.rules,
        "size": proven.cosigned.checkpoint.size,
        "root": proven.cosigned.checkpoint.root.hex(),
        "time": proven.cosigned.time,
        "state": proven.digest,
        "phases": [
            {
                "entry": event.entry,
                "phase": str(phase),
                "time": event.time,
                "cause": words.cause(event.cause) if isinstance(event, Tripped) else "",
            }
            for phase, event in views.phases(proven.events)
        ],
        "runs": [
            {
                "name": r.name,
                "rung": r.declaration.rung,
                "steps": r.steps,
                "status": r.head.status if r.head else "declared",
                "barred": words.bar(r.bar),
                "verdicts": [
                    {"inspector": i, "verdict": a.verdict} for i, a in views.audits_of(proven.events, r.id)
                ],
                "transcript": r.id in proven.leaves,
            }
            for r in views.by_declaration(proven.state)
        ],
    }
