"""`brakeline status`: what the log says."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from brakeline.cli.common import home_option, log_url, read_file
from brakeline.core.encoding import canonical
from brakeline.core.fold import Fold, RunRecord
from brakeline.core.tlog.policy import Cosigned
from brakeline.core.treaty import parse_treaty
from brakeline.core.units import show_flop
from brakeline.node.client import Follower, LogClient
from brakeline.node.home import Home


@click.command()
@home_option
@click.option("--treaty", "treaty_file", type=click.Path(path_type=Path), help="A treaty file, instead of a home.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on one line, for machines.")
def command(home: Path, treaty_file: Path | None, as_json: bool) -> None:
    """Show what the log says, verified from its first entry: phase, parties, votes, runs, findings.

    Needs no keys: with --treaty anybody can run it.
    """
    treaty = parse_treaty(read_file(treaty_file)) if treaty_file else Home(home).treaty
    follower = Follower(LogClient(log_url(treaty)), treaty)
    follower.update()
    assert follower.cosigned is not None
    report = state_report(follower.fold, follower.cosigned)
    if as_json:
        click.echo(canonical(report).decode())
    else:
        show(report, Console())


def state_report(fold: Fold, cosigned: Cosigned) -> dict[str, Any]:
    """The state at a cosigned checkpoint as plain values. Times in POSIX seconds, compute in FLOP as text."""
    state, bound = fold.brake, fold.bound()
    return {
        "treaty": {"name": fold.treaty.name, "version": fold.treaty.version, "sha256": fold.treaty.digest},
        "checkpoint": {
            "size": cosigned.checkpoint.size,
            "root": cosigned.checkpoint.root.hex(),
            "time": cosigned.time,
            "witnesses": sorted(cosigned.witnesses),
        },
        "brake": {"phase": str(state.phase), "epoch": state.epoch, "since": state.since, "cause": state.cause},
        "votes": {m: sorted(fold.voters(m)) for m in ("trip", "lift")},
        "unmet": list(fold.unmet()) if state.epoch else [],
        "parties": [
            {
                "name": p,
                "assented": p in fold.assents,
                "bound": p in bound.active,
                "because": sorted(bound.satisfied.get(p, ())),
                "equivocated": p in fold.equivocators,
            }
            for p in fold.treaty.parties
        ],
        "readings": _readings(fold),
        "disagreements": msgspec.to_builtins(fold.readings.disagreements),
        "runs": [_run(fold, r) for r in fold.runs.values()],
        "history": [
            {"entry": i, "phase": str(s.phase), "epoch": s.epoch, "since": s.since, "cause": s.cause}
            for i, s in fold.history
        ],
        "refused": [
            {"entry": o.index, "kind": o.kind, "issuer": o.issuer, "reason": str(o.reason), "text": o.text}
            for o in fold.outcomes
            if o.reason
        ],
        "forks": len(fold.forks),
    }


def _readings(fold: Fold) -> list[dict[str, Any]]:
    """Every gauge of the treaty: what was reproduced, by whom, and whether it reaches its threshold."""
    found = list(fold.readings.current(now=fold.clock, active=fold.bound().active))
    return [
        {
            "gauge": t.gauge,
            "class": t.gauge_class,
            "at_least": t.at_least,
            "unit": t.unit,
            "reproduced": [
                {
                    "subject": r.subject,
                    "lower": r.lower,
                    "upper": r.upper,
                    "alarms": list(r.alarms),
                    "parties": list(r.parties),
                    "reaches": fold.readings.reaches(r),
                }
                for r in found
                if r.gauge == t.gauge
            ],
        }
        for t in fold.treaty.triggers
    ]


def _run(fold: Fold, r: RunRecord) -> dict[str, Any]:
    last = r.last
    return {
        "id": r.id,
        "name": r.declaration.name,
        "owner": r.owner,
        "covered": r.covered,
        "steps": r.declaration.steps,
        "lineage_flop": str(r.lineage_flop),
        "done": last.steps if last else 0,
        "status": last.status if last else "declared",
        "barred": r.barred,
        "unread_parents": list(fold.unread(r)),
        "audited": fold.audited(r),
        "audits": [
            {"inspector": i, "entry": n, "verdict": a.verdict, "findings": msgspec.to_builtins(a.findings)}
            for n, i, a in r.audits
        ],
    }


def _show_readings(report: dict[str, Any], console: Console) -> None:
    rows = [(g, r) for g in report["readings"] for r in g["reproduced"]]
    if rows:
        gauges = Table("gauge", "class", "of", "bounds", "threshold", "found by")
        for g, r in rows:
            mark = "[bold red]reached[/] " if r["reaches"] else ""
            alarms = f" alarms: {', '.join(r['alarms'])}" if r["alarms"] else ""
            bounds = f"{mark}{r['lower']:.4g} to {r['upper']:.4g}{alarms}"
            threshold = f"{g['at_least']:g} {g['unit']}"
            gauges.add_row(g["gauge"], g["class"], r["subject"], bounds, threshold, ", ".join(r["parties"]))
        console.print(gauges)
    for d in report["disagreements"]:
        (a, i), (b, j) = d["first"], d["second"]
        console.print(f"{a} (entry {i}) and {b} (entry {j}) disagree on {d['gauge']} of {d['subject']}")


def show(report: dict[str, Any], console: Console) -> None:
    """The report for people."""
    brake, checkpoint = report["brake"], report["checkpoint"]
    since = datetime.fromtimestamp(brake["since"], UTC).strftime("%Y-%m-%d %H:%M:%S") if brake["since"] else "the start"
    console.print(
        f"[bold]{brake['phase'].upper()}[/] since {since} UTC, epoch {brake['epoch']}"
        + (f": {brake['cause']}" if brake["cause"] else "")
    )
    console.print(
        f"treaty {report['treaty']['name']} v{report['treaty']['version']}, {checkpoint['size']} log entries, "
        f"cosigned by {', '.join(checkpoint['witnesses'])}"
    )
    for motion, voters in report["votes"].items():
        if voters:
            console.print(f"votes to {motion}: {', '.join(voters)}")
    for what in report["unmet"]:
        console.print(f"in the way of lifting: {what}")
    parties = Table("party", "assented", "bound", "because of")
    for p in report["parties"]:
        bound = "equivocated" if p["equivocated"] else "yes" if p["bound"] else "no"
        parties.add_row(p["name"], "yes" if p["assented"] else "no", bound, ", ".join(p["because"]))
    console.print(parties)
    _show_readings(report, console)
    if report["runs"]:
        runs = Table("run", "lab", "steps", "lineage", "status", "audits")
        for r in report["runs"]:
            verdicts = ", ".join(f"{a['inspector']}: {a['verdict']}" for a in r["audits"])
            runs.add_row(
                r["name"],
                r["owner"],
                f"{r['done']}/{r['steps']}",
                show_flop(int(r["lineage_flop"])),
                f"barred: {r['barred']}" if r["barred"] else r["status"],
                verdicts,
            )
        console.print(runs)
        for r in report["runs"]:
            if r["unread_parents"]:
                waits = ", ".join(f"{p[:16]}…" for p in r["unread_parents"])
                console.print(f"{r['name']} waits for a safety reading of its parents: {waits}")
    if report["forks"]:
        console.print(f"[bold red]{report['forks']} forks of the log are recorded[/]")
