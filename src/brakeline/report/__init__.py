"""A verified bundle as one page for people. It words and draws; it decides nothing.

The page is one HTML file without scripts, fonts or anything else from elsewhere, and its security policy forbids them.
Names of runs come from whoever declared them: the template escapes them, the pictures never read them as formulas.

`story` gathers what happened, `rows` are the tables, `timeline`, `curves` and `strips` the pictures, `page` all of it.
"""

from brakeline.report.measured import ReportTimes, StopTime
from brakeline.report.page import render, write_report

__all__ = ["ReportTimes", "StopTime", "render", "write_report"]
