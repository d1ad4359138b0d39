"""`brakeline gauge throughput`: G2, merged code per engineer and day, against a base period."""

from pathlib import Path

import click

from brakeline.cli.gauge.common import finish, json_option, out_option, progress_bar, subject_option
from brakeline.gauges.git.blame import open_cache
from brakeline.gauges.git.repository import open_repository
from brakeline.gauges.throughput.measure import measure
from brakeline.gauges.throughput.plot import figure


@click.command(name="throughput")
@click.argument("repos", metavar="REPO…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--base", default="2024", show_default=True, help="Base period: whole years, as 2024 or 2021-2025.")
@click.option("--quarter", metavar="YYYYQN", help="What to measure. [default: the last quarter that is over]")
@out_option
@subject_option
@json_option
def command(
    repos: tuple[Path, ...], base: str, quarter: str | None, out: Path | None, subject: str | None, as_json: bool
) -> None:
    """How many times as much code does the typical engineer merge per working day as in a base period?

    Reads the histories of one or more REPOs, complete git clones of one organisation. The typical engineer is the
    median one; lines count if they survive to the quarter's end. With fewer than five engineers in either period there
    is no answer. Interrupted, the same command goes on where it stopped.

    \b
    Example:
      brakeline gauge throughput inspect_ai inspect_evals --base 2024 --quarter 2026Q2
    """
    out = out or Path("gauge-throughput")
    repositories = [open_repository(repo) for repo in repos]
    with open_cache(out / "blame.sqlite", repositories) as cache, progress_bar("reading quarters") as progress:
        m = measure(repositories, base=base, quarter=quarter, cache=cache, progress=progress)
    finish(m, figure, out, subject=subject, as_json=as_json)
    if not as_json:
        for name, found in m.details["also"].items():
            text = f"{found['value']:.3g} ({found['lower']:.3g} to {found['upper']:.3g})" if found else "not available"
            click.echo(f"{name.replace('_', ' ')}: {text}")
        click.echo(m.details["caveat"])
