"""What every gauge command shares: where it writes, and how it says what it measured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from brakeline.core.encoding import canonical, sha256
from brakeline.core.measurement import Measurement
from brakeline.node.disk import disk_errors, write_atomic

F = TypeVar("F", bound=Callable[..., Any])

out_option: Callable[[F], F] = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for measurement.json, plot.svg and whatever resuming needs [default: gauge-NAME]",
)
subject_option: Callable[[F], F] = click.option(
    "--subject",
    help="What was measured, by the name that all parties use for it. [default: the gauge's own name for it]",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print the measurement as JSON.")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only: call what it gives with how much is done, of how much."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def finish(
    measurement: Measurement, draw: Callable[[Measurement], Figure], out: Path, *, subject: str | None, as_json: bool
) -> None:
    """Write `measurement.json` (the evidence of a reading) and `plot.svg` into `out`, and print the result."""
    if subject:
        measurement = msgspec.structs.replace(measurement, subject=subject)
    figure = draw(measurement)
    data, drawn = canonical(measurement), BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    with disk_errors():
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "plot.svg", drawn.getvalue())
        write_atomic(out / "measurement.json", data)
    if as_json:
        click.echo(data.decode())
        return
    m = measurement
    click.echo(f"{m.gauge} of {m.subject}: {m.value:.4g} {m.unit}, 95 % bounds {m.lower:.4g} to {m.upper:.4g}")
    for alarm in m.alarms:
        click.echo(f"alarm: {alarm}")
    click.echo(f"reference threshold {m.threshold:g}: {m.verdict}")
    click.echo(f"wrote {out / 'measurement.json'} ({sha256(data).hex()[:16]}…) and {out / 'plot.svg'}")
