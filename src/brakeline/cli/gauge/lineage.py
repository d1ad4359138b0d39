"""`brakeline gauge lineage`: G5, whether misalignment grows from parent to successor."""

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from brakeline.cli.common import read_file
from brakeline.cli.gauge.common import finish, json_option, out_option
from brakeline.core.encoding import parse
from brakeline.core.errors import Misuse
from brakeline.core.keys import PublicKey
from brakeline.core.lineage import NO_TREATY
from brakeline.core.measurement import Measurement
from brakeline.core.treaty import parse_treaty
from brakeline.gauges.lineage.demo import run
from brakeline.gauges.lineage.evidence import read_evidence
from brakeline.gauges.lineage.gauge import measure
from brakeline.gauges.lineage.plot import figure

_SHOWN = 5  # reasons; all are in the measurement


@click.command()
@click.argument("evidence", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "models", multiple=True, help="SHA-256 of the newest model's weights. May be repeated.")
@click.option("--control", "controls", multiple=True, help="The same, of a control lineage. May be repeated.")
@click.option("--keys", type=click.Path(path_type=Path), help='The labs\' public keys: {"alpha":"AZ…"}.')
@click.option("--treaty", type=click.Path(path_type=Path), help="Take the labs' keys from this treaty instead.")
@click.option("--seeds", type=click.IntRange(1, 999), default=8, show_default=True, help="Lineages of the demo.")
@out_option
@json_option
def command(
    evidence: Path | None,
    models: tuple[str, ...],
    controls: tuple[str, ...],
    keys: Path | None,
    treaty: Path | None,
    seeds: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure whether a rare misbehaviour grows from each model to its successor.

    EVIDENCE is a folder with plan.json, signed edges/ (which model made which), items/ and probes/ (what each model
    did; JSON or Inspect logs of the task lineage_probe). Say which model's lineage to measure, and whose keys to trust:

    \b
        brakeline gauge lineage evidence --model 3f9a… --keys keys.json

    Without EVIDENCE, trains small models on the spot, lineages in which a fault compounds and honest controls,
    writes their evidence into the output folder and measures it, within a minute. The same command again goes on
    where it was.
    """
    out = out or Path("gauge-lineage")
    subject, under = "lineage", NO_TREATY
    trusted: Mapping[str, PublicKey]
    with Progress(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as bar:
        if evidence is None:
            if models or controls or keys or treaty:
                raise Misuse("the demo brings its own models and keys", hint="name the folder with the EVIDENCE")
            task = bar.add_task("training lineages", total=None)
            demo = run(out, seeds, progress=lambda done, total: bar.update(task, completed=done, total=total))
            evidence, models, controls = demo.evidence, demo.models, demo.controls
            subject, trusted = f"demo, {seeds} lineages", demo.keys
        else:
            trusted, under = _trusted(keys, treaty)
        task = bar.add_task("reading evidence", total=None)
        read = read_evidence(
            evidence, trusted, under, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
        measurement = measure(read, models, controls, subject=subject)
    if not as_json:
        _explain(measurement)
    finish(measurement, figure(measurement), out, as_json=as_json)


def _trusted(keys: Path | None, treaty: Path | None) -> tuple[Mapping[str, PublicKey], str]:
    if (keys is None) == (treaty is None):
        raise Misuse("whose edges count?", hint="give --keys FILE or --treaty FILE, from a source you trust")
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
