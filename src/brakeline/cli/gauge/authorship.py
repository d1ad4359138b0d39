"""`brakeline gauge authorship`: G1, the share of new code that AI wrote."""

from pathlib import Path

import click

from brakeline.cli.common import read_file
from brakeline.cli.gauge.common import finish, json_option, out_option, progress_bar, subject_option
from brakeline.gauges.authorship.measure import measure
from brakeline.gauges.authorship.plot import figure
from brakeline.gauges.git.blame import open_cache
from brakeline.gauges.git.history import window_of
from brakeline.gauges.git.repository import open_repository


@click.command(name="authorship")
@click.argument("repo", type=click.Path(path_type=Path))
@click.option(
    "--window",
    metavar="A..B",
    help="What to measure: each side a tag, branch, commit or day (YYYY-MM-DD), or empty for the beginning and HEAD. "
    "[default: the year before the newest commit]",
)
@click.option(
    "--agent-trace",
    "traces",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of Agent Trace records (JSON, or one record a line).",
)
@out_option
@subject_option
@json_option
def command(
    repo: Path, window: str | None, traces: Path | None, out: Path | None, subject: str | None, as_json: bool
) -> None:
    """Which share of the code lines added in a window, and still there at its end, is attributed to AI?

    Reads the history of REPO, a complete git clone. Evidence, best first: git-ai notes (refs/notes/ai) and Agent Trace,
    the author's identity, trailers such as Co-authored-by. The lower bound counts what is attributed, the upper bound
    all that no evidence shows to be human. Interrupted, the same command goes on where it stopped.

    \b
    Example:
      git clone https://github.com/Aider-AI/aider
      brakeline gauge authorship aider --window v0.85.0..v0.86.0
    """
    out = out or Path("gauge-authorship")
    repository = open_repository(repo)
    with open_cache(out / "blame.sqlite", [repository]) as cache, progress_bar("blaming") as progress:
        m = measure(
            repository,
            window_of(repository, window),
            traces=read_file(traces) if traces else b"",
            cache=cache,
            progress=progress,
        )
    finish(m, figure, out, subject=subject, as_json=as_json)
    if not as_json:
        notes = m.details["notes"]
        click.echo(", ".join(f"{name} {n}" for name, n in m.details["classes"].items()) + " lines")
        if notes["over_attested_lines"]:
            click.echo(
                f"{notes['over_attesting_commits']} notes attest {notes['over_attested_lines']} lines that their "
                "commits do not add; these count for nothing"
            )
