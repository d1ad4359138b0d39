"""`brakeline status`: what the log says."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brakeline.cli.common import folding, home_option, log_url, read_file, show_waiting
from brakeline.core import views
from brakeline.core.brake import Phase
from brakeline.core.encoding import canonical
from brakeline.core.treaty import parse_treaty
from brakeline.core.units import about_flop
from brakeline.node.client import Follower
from brakeline.node.home import Home
from brakeline.node.logclient import LogClient
from brakeline.node.moving import FILE

_SHOWN: Final = 40


@click.command()
@home_option
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="A treaty file, instead of a home.")
@click.option("--from-signers", is_flag=True, help="Start from a state that a quorum of permit signers states.")
@click.option("--refold", is_flag=True, help="Fold the whole log anew and compare; also lists what had no effect.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line, for machines.")
def command(home: Path, treaty_file: Path | None, from_signers: bool, refold: bool, as_json: bool) -> None:
    """Show what the log says: phase, parties, votes, runs, findings, and who must do what about what is blocked.

    A home goes on from the state that it kept; with --refold it trusts not even that. Needs no keys: with --treaty
    anybody can run it, verified from the log's first entry.
    """
    if treaty_file:
        treaty, memory, put = parse_treaty(read_file(treaty_file)), None, None
    else:
        treaty, memory, put = Home(home).treaty, home / "seen", home / FILE
    follower = Follower(LogClient(log_url(treaty)), treaty, memory, put=put)
    with folding() as progress:
        if from_signers:
            follower.start_from_signers()
        follower.update(progress=progress)
        trail = follower.trail(progress) if refold else None
    assert follower.cosigned is not None
    report = views.report(follower.state, follower.cosigned)
    if trail is not None:
        report |= views.history(trail.events)
    if as_json:
        click.echo(canonical(report).decode())
    else:
        show(_escaped(report), Console())
        show_waiting(views.waiting(follower.state))


def _escaped(value: Any) -> Any:
    """Names come from whoever declared them: what would be markup to the console is text."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {k: _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list) else value


def _newest(rows: list[Any], what: str, console: Console) -> list[Any]:
    """The last rows of a list that others can make long."""
    if len(rows) > _SHOWN:
        console.print(f"the newest {_SHOWN} of {len(rows)} {what}; all are in --json")
    return rows[-_SHOWN:]


def _show_readings(report: dict[str, Any], console: Console) -> None:
    rows = [(g, r) for g in report["readings"] for r in g["reproduced"]]
    if rows:
        gauges = Table("gauge", "class", "of", "bounds", "threshold", "found by")
        for g, r in _newest(rows, "readings", console):
            mark = "[bold red]reached[/] " if r["reaches"] else ""
            alarms = f" alarms: {', '.join(r['alarms'])}" if r["alarms"] else ""
            bounds = f"{mark}{r['lower']:.4g} to {r['upper']:.4g}{alarms}"
            threshold = f"{g['at_least']:g} {g['unit']}"
            gauges.add_row(g["gauge"], g["class"], r["subject"], bounds, threshold, ", ".join(r["parties"]))
        console.print(gauges)
    for d in _newest(report["disagreements"], "disagreements", console):
        (a, i), (b, j) = d["first"], d["second"]
        console.print(f"{a} (entry {i}) and {b} (entry {j}) disagree on {d['gauge']} of {d['subject']}")


def show(report: dict[str, Any], console: Console) -> None:
    """The report for people."""
    brake, checkpoint = report["brake"], report["checkpoint"]
    since = f"{datetime.fromtimestamp(brake['since'], UTC):%Y-%m-%d %H:%M:%S} UTC" if brake["since"] else "the start"
    by = ", last tripped by" if brake["phase"] == Phase.CLEAR else ":"
    console.print(
        f"[bold]{brake['phase'].upper()}[/] since {since}, epoch {brake['epoch']}"
        + (f"{by} {brake['cause']}" if brake["cause"] else "")
    )
    console.print(
        f"treaty {report['treaty']['name']} v{report['treaty']['version']}, rules {report['treaty']['rules']}, "
        f"{checkpoint['size']} log entries, cosigned by {', '.join(checkpoint['witnesses'])}, "
        f"state {report['state'][:16]}…"
    )
    for r in report["succession"]["reopened"]:
        console.print(f"from entry {r['entry']} on the log is {r['origin']}, kept by {r['keeper']} at {r['url']}")
    for motion, voters in report["votes"].items():
        if voters:
            console.print(f"votes to {motion}: {', '.join(voters)}")
    parties = Table("party", "assented", "bound", "because of")
    for p in report["parties"]:
        bound = "equivocated" if p["equivocated"] else "yes" if p["bound"] else "no"
        parties.add_row(p["name"], "yes" if p["assented"] else "no", bound, ", ".join(p["because"]))
    console.print(parties)
    _show_readings(report, console)
    if report["runs"]:
        runs = Table("run", "lab", "steps", "lineage", "status", "audits")
        for r in _newest(report["runs"], "runs", console):
            verdicts = ", ".join(f"{i}: {v}" for i, v in r["examined"].items())
            runs.add_row(
                r["name"],
                r["owner"],
                f"{r['done']}/{r['steps']}",
                about_flop(int(r["lineage_flop"])),
                f"barred: {r['barred']}" if r["barred"] else r["status"],
                verdicts,
            )
        console.print(runs)
    if report["forks"]:
        console.print(f"[bold red]{report['forks']} forks of the log are recorded[/]")
    for party, lapses in report["lapses"].items():
        late = ", ".join(f"{x['what']} (entry {x['about']})" for x in lapses)
        console.print(f"{party} has not done in time: {late}")
    for e in _newest(report.get("refused", []), "entries without effect", console):
        console.print(f"entry {e['entry']} of {e['issuer'] or 'nobody known'} has no effect: {e['text']}")
