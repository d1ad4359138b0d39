"""What every gauge command shares: where it writes, and how it says what it measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from matplotlib.figure import Figure

from brakeline.core.encoding import canonical, sha256
from brakeline.core.measurement import Measurement

F = TypeVar("F", bound=Callable[..., Any])

out_option: Callable[[F], F] = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for measurement.json, plot.svg and whatever resuming needs [default: gauge-NAME]",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print the measurement as JSON.")


def finish(measurement: Measurement, figure: Figure, out: Path, *, as_json: bool) -> None:
    """Write `measurement.json` (the evidence of a reading) and `plot.svg` into `out`, and print the result."""
    out.mkdir(parents=True, exist_ok=True)
    data = canonical(measurement)
    (out / "measurement.json").write_bytes(data)
    figure.savefig(out / "plot.svg", metadata={"Date": None})
    if as_json:
        click.echo(data.decode())
        return
    m = measurement
    click.echo(f"{m.gauge} of {m.subject}: {m.value:.4g} {m.unit}, 95 % bounds {m.lower:.4g} to {m.upper:.4g}")
    for alarm in m.alarms:
        click.echo(f"alarm: {alarm}")
    click.echo(f"reference threshold {m.threshold:g}: {m.verdict}")
    click.echo(f"wrote {out / 'measurement.json'} ({sha256(data).hex()[:16]}…) and {out / 'plot.svg'}")
