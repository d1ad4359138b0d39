"""`brakeline gauge lineage`: G5, whether misalignment grows from parent to successor."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from brakeline.cli.common import read_file
from brakeline.cli.gauge.common import finish, json_option, out_option, progress_bar, subject_option
from brakeline.core.encoding import parse
from brakeline.core.errors import Misuse
from brakeline.core.keys import PublicKey
from brakeline.core.lineage import NO_TREATY, Edge
from brakeline.core.measurement import Measurement
from brakeline.core.state.events import Told
from brakeline.core.treaty import parse_treaty
from brakeline.gauges.lineage.demo import run
from brakeline.gauges.lineage.evidence import read_evidence
from brakeline.gauges.lineage.gauge import measure
from brakeline.gauges.lineage.plot import figure
from brakeline.node.desk import Desk
from brakeline.node.home import Home

_SHOWN = 5  # reasons; all are in the measurement


@click.command()
@click.argument("evidence", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "models", multiple=True, help="SHA-256 of the newest model's weights. May be repeated.")
@click.option("--control", "controls", multiple=True, help="The same, of a control lineage. May be repeated.")
@click.option("--keys", type=click.Path(path_type=Path), help='The labs\' public keys: {"alpha":"AZ…"}.')
@click.option("--treaty", type=click.Path(path_type=Path), help="Take the labs' keys from this treaty instead.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Take the edges from this party's log.")
@click.option("--seeds", type=click.IntRange(1, 999), default=8, show_default=True, help="Lineages of the demo.")
@out_option
@subject_option
@json_option
def command(
    evidence: Path | None,
    models: tuple[str, ...],
    controls: tuple[str, ...],
    keys: Path | None,
    treaty: Path | None,
    home: Path | None,
    seeds: int,
    out: Path | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """Measure whether a rare misbehaviour grows from each model to its successor.

    EVIDENCE is a folder with plan.json, signed edges/ (which model made which), items/ and probes/ (what each model
    did; JSON or Inspect logs of the task lineage_probe). Say which model's lineage to measure, and whose keys to trust;
    or take the edges that a log holds:

    \b
        brakeline gauge lineage evidence --model 3f9a… --keys keys.json
        brakeline gauge lineage evidence --model 3f9a… --home alpha

    Without EVIDENCE, trains small models on the spot, lineages in which a fault compounds and honest controls,
    writes their evidence into the output folder and measures it, within a minute. The same command again goes on
    where it was.
    """
    out = out or Path("gauge-lineage")
    under = NO_TREATY
    trusted: Mapping[str, PublicKey]
    if evidence is None:
        if models or controls or keys or treaty or home:
            raise Misuse("the demo brings its own models and keys", hint="name the folder with the EVIDENCE")
        with progress_bar("training lineages") as progress:
            demo = run(out, seeds, progress=progress)
        evidence, models, controls, trusted = demo.evidence, demo.models, demo.controls, demo.keys
    else:
        trusted, under = _trusted(keys, treaty, home)
    with progress_bar("reading evidence") as progress:
        read = read_evidence(evidence, trusted, under, progress=progress)
    if home:
        read = replace(read, edges=_logged(home), refused=())
    # Treaty 5.8: the gate looks for a reading of one model under the model's own digest.
    name = models[0] if len(models) == 1 else f"{len(models)} lineages"
    measurement = measure(read, models, controls, subject=name)
    if not as_json:
        _explain(measurement)
    finish(measurement, figure, out, subject=subject, as_json=as_json)


def _logged(home: Path) -> tuple[tuple[str, Edge], ...]:
    """The edges in the log, in the order they became public."""
    desk = Desk(Home(home))
    desk.follower.update()
    return tuple((e.issuer, e.edge) for e in desk.history().events if isinstance(e, Told))


def _trusted(keys: Path | None, treaty: Path | None, home: Path | None) -> tuple[Mapping[str, PublicKey], str]:
    if [keys, treaty, home].count(None) != 2:
        raise Misuse("whose edges count?", hint="give --keys FILE or --treaty FILE, from a source you trust, or --home")
    if home is not None:
        return {}, NO_TREATY  # what lies in the folder's edges/ does not count beside the log
    if keys is not None:
        texts = parse(read_file(keys), dict[str, str])
        return {name: PublicKey.parse(text) for name, text in texts.items()}, NO_TREATY
    assert treaty is not None
    text = parse_treaty(read_file(treaty))
    return {p.name: p.key for p in text.with_role("lab")}, text.digest


def _explain(m: Measurement) -> None:
    """When each alarm came, and what keeps the measurement from being complete."""
    for name, word in (("lineages", "lineage"), ("controls", "control")):
        for report in m.details[name]:
            came = ", ".join(f"{alarm} at generation {at}" for alarm, at in report["alarms"].items()) or "no alarm"
            click.echo(f"{word} of {report['model'][:16]}…: {came}")
    reasons = [f"{g['fault']} at {g['model'][:16]}…: {g['detail']}" for r in m.details["lineages"] for g in r["gaps"]]
    for report in m.details["lineages"]:
        for family in report["families"].values():
            reasons += [f"{p['problem']} at {p['model'][:16]}…" for p in family["problems"]]
    reasons += [f"left out {name}: {why}" for name, why in m.details["refused"]]
    for reason in reasons[:_SHOWN]:
        click.echo(reason)
    if len(reasons) > _SHOWN:
        click.echo(f"and {len(reasons) - _SHOWN} more, see details")
