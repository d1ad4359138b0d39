"""The page: what a verified bundle shows, rendered and written."""

import shlex
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from brakeline.core import words
from brakeline.core.bundle import Proven
from brakeline.core.units import about_flop
from brakeline.node.disk import write_atomic
from brakeline.report import rows
from brakeline.report.curves import loss_curves
from brakeline.report.drawing import svg
from brakeline.report.figures import duration, signed, utc
from brakeline.report.measured import ReportTimes
from brakeline.report.story import Story, chronicle, deck, headline
from brakeline.report.strips import audit_strips
from brakeline.report.timeline import timeline

PICTURED: Final = 12  # runs in a picture; the tables have all of them
LISTED: Final = 200  # lines of the chronicle, and of what may be long


def write_report(path: Path, proven: Proven, times: ReportTimes | None = None, *, bundle: str = "demo.bundle") -> None:
    """Write the page for `proven` to `path`. `bundle` is what the page calls the file that it was written from.

    Raises:
        Unavailable: the file cannot be written.
    """
    write_atomic(path, render(proven, times, bundle=bundle).encode())


def render(proven: Proven, times: ReportTimes | None = None, *, bundle: str = "demo.bundle") -> str:
    """The page as HTML. The same arguments give the same text; without `times` it says nothing of what was measured."""
    times = times or ReportTimes()
    story, state = Story.of(proven, times), proven.state
    shown = story.runs[:PICTURED]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(flop=about_flop, duration=duration, signed=signed)
    template = environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        headline=headline(story),
        deck=deck(story),
        command=f"brakeline verify {shlex.quote(bundle)} --sha256 {proven.treaty.digest}",
        treaty=proven.treaty,
        cosigned=proven.cosigned,
        start=utc(story.when.start),
        end=utc(proven.cosigned.time),
        phase=state.phase,
        phases=words.PHASES,
        times=times,
        stops=sorted(times.stops, key=lambda s: s.milliseconds_after_quorum),
        slowest=max((s.milliseconds_after_quorum for s in times.stops), default=None),
        listed=LISTED,
        events=list(chronicle(story)),
        refused=rows.refused(story),
        gauges=rows.gauges(state),
        disagreements=rows.disagreements(state),
        parties=rows.parties(state),
        runs=[rows.run(told) for told in story.runs],
        findings=rows.findings(story),
        dues=rows.dues(story),
        said=list(rows.said(story)),
        judged=rows.judged(story),
        stated=rows.stated(state),
        replayed=story.replayed,
        pictured=len(shown),
        timeline=svg("timeline", timeline(story, shown)),
        losses=svg("losses", loss_curves(story, shown)),
        strips=svg("strips", audit_strips(shown)),
    )
