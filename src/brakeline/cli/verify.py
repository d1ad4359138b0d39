"""`brakeline verify`: what a bundle proves, offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from brakeline.cli.common import read_file
from brakeline.core import views, words
from brakeline.core.bundle import Proven, verify_bundle
from brakeline.core.contradiction import faults, read_contradiction, told
from brakeline.core.encoding import canonical, decimal, unhex32
from brakeline.core.errors import Malformed, Misuse
from brakeline.core.state.events import Event, Tripped
from brakeline.core.state.runs import Run
from brakeline.core.treaty import Treaty, parse_treaty


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="The treaty you trust, as a file.")
@click.option("--sha256", "digest", help="The digest of the treaty you trust.")
@click.option(
    "--anchor", "anchor_text", metavar="SIZE:ROOT", help="A checkpoint of this log that you trust, its root in hex."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line, for machines.")
def command(file: Path, treaty_file: Path | None, digest: str | None, anchor_text: str | None, as_json: bool) -> None:
    """Verify the bundle FILE with nothing but this program: no network, no keys, no trust in whoever sent it.

    FILE may also be a contradiction, as `brakeline compare` and every follower keep it: two things that a log or a
    witness signed, and an honest one does not. Whose keys count then is said by --treaty.

    Without --treaty or --sha256 the treaty is taken from the bundle, and its digest is printed: compare it. The treaty
    is the log's first text. Where later ones followed it, that text alone proves the history only as long as few of the
    witnesses' keys were ever stolen, those that serve no more included; --anchor takes that risk away.
    """
    anchor, digest = _anchor(anchor_text) if anchor_text else None, digest and digest.lower()
    treaty, data = parse_treaty(read_file(treaty_file)) if treaty_file else None, read_file(file)
    trusted = treaty.digest if treaty else digest
    if digest and trusted != digest:
        raise Misuse("--treaty and --sha256 name two treaties", hint="give the one that you trust")
    if data.startswith(b"{"):
        _contradiction(file, data, treaty, as_json=as_json)
        return
    proven = verify_bundle(data, treaty_digest=trusted, anchor=anchor)
    if as_json:
        click.echo(canonical(claims(proven)).decode())
        return
    c = proven.cosigned.checkpoint
    click.echo(f"VERIFIED {file}")
    whose = "as you trust it" if trusted else "taken from the bundle: compare this digest with the one you know"
    texts, reopened = proven.state.chain.texts, proven.state.chain.reopened
    first = texts[0].treaty
    click.echo(f"treaty   {first.name} v{first.version}, rules {first.rules}, sha256 {first.digest}")
    click.echo(f"         {whose}")
    for text in texts[1:]:
        click.echo(f"text     v{text.treaty.version} from entry {text.turned} on, sha256 {text.ground.digest}")
    for r in reopened:
        click.echo(f"reopened from entry {r.entry} on the log is {r.origin}, kept by {r.keeper}")
    if len(texts) > 1 or reopened:
        click.echo(f"         {_ANCHORED if anchor else _UNANCHORED}")
    click.echo(f"log      {c.size} entries, cosigned by {', '.join(sorted(proven.cosigned.witnesses))}")
    click.echo(f"state    {proven.digest}")
    for phase, event in views.phases(proven.events):
        when = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"brake    {phase:<8} {when} UTC, entry {event.entry}{_why(event)}")
    for run in views.by_declaration(proven.state):
        click.echo(f"run      {_line(proven, run)}")


def _contradiction(file: Path, data: bytes, treaty: Treaty | None, *, as_json: bool) -> None:
    found = read_contradiction(data)
    if treaty is None:
        hint = "give the one that you trust with --treaty FILE"
        raise Misuse("whose keys these are is said by a treaty, and this file brings none", hint=hint)
    who = faults(found, treaty.policy)
    if not who:
        raise Malformed(f"{file} holds two notes that do not contradict each other")
    if as_json:
        click.echo(canonical({"treaty": treaty.digest, "faults": [fault._asdict() for fault in who]}).decode())
        return
    click.echo(f"VERIFIED {file}: they contradict each other")
    for line in told(who, treaty):
        click.echo(line)


_ANCHORED: Final = "the anchor is in this log: keys that witnesses no longer use prove nothing here"
_UNANCHORED: Final = (
    "this trusts that at most f witness keys of each text were ever stolen, old ones included; "
    "with --anchor SIZE:ROOT of somebody you trust it does not"
)


def _anchor(text: str) -> tuple[int, bytes]:
    size, _, root = text.partition(":")
    try:
        return decimal(size.encode()), unhex32(root)
    except Malformed as e:
        raise Misuse(f"--anchor {text[:90]!r}: {e}", hint="give SIZE:ROOT, the root as 64 hex digits") from e


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
        "treaty": proven.state.first,
        "text": proven.treaty.digest,
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
