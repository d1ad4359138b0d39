"""`brakeline verify`: what a bundle proves, offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from brakeline.cli.common import read_file
from brakeline.core.bundle import Proven, verify_bundle
from brakeline.core.encoding import canonical
from brakeline.core.fold import RunRecord
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
    click.echo(f"treaty   {proven.treaty.name} v{proven.treaty.version}, sha256 {proven.treaty.digest}")
    click.echo(f"         {whose}")
    click.echo(f"log      {c.size} entries, cosigned by {', '.join(sorted(proven.cosigned.witnesses))}")
    for entry, phase, since, cause in proven.phases:
        when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"brake    {phase:<8} {when} UTC, entry {entry}: {cause}")
    for run in proven.fold.runs.values():
        click.echo(f"run      {_line(proven, run)}")


def _line(proven: Proven, run: RunRecord) -> str:
    last = run.last
    status, steps = (last.status, last.steps) if last else ("declared", 0)
    text = f"{run.owner}/{run.declaration.name}: {status} at step {steps}"
    verdicts = ", ".join(f"{a.verdict} by {i}" for _, i, a in run.audits)
    text += f"; {run.declaration.rung}" + (f"; {verdicts}" if verdicts else "")
    text += f"; BARRED for {run.barred}" if run.barred else ""
    return text + ("; transcript shown" if run.id in proven.leaves else "")


def claims(proven: Proven) -> dict[str, Any]:
    """What is proven, as plain values."""
    return {
        "treaty": proven.treaty.digest,
        "size": proven.cosigned.checkpoint.size,
        "root": proven.cosigned.checkpoint.root.hex(),
        "time": proven.cosigned.time,
        "phases": [{"entry": i, "phase": str(p), "time": t, "cause": c} for i, p, t, c in proven.phases],
        "runs": [
            {
                "name": f"{r.owner}/{r.declaration.name}",
                "rung": r.declaration.rung,
                "steps": r.last.steps if r.last else 0,
                "status": r.last.status if r.last else "declared",
                "barred": r.barred,
                "verdicts": [{"inspector": i, "verdict": a.verdict} for _, i, a in r.audits],
                "transcript": r.id in proven.leaves,
            }
            for r in proven.fold.runs.values()
        ],
    }
