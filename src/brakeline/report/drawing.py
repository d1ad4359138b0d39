"""How the pictures are drawn: their colours, their style, and the figure as an element for the page."""

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any, Final

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brakeline.core.brake import Phase

# Every colour of a picture is a variable of the page, so that one drawing serves light and dark. The two that carry a
# verdict differ in lightness as well as in hue, and never stand alone: a violation is hatched or crossed, too.
COLOURS: Final[Mapping[str, str]] = {
    "ink": "#1b2126",
    "soft": "#5d676e",
    "rule": "#d8d5cc",
    "paper": "#fcfbf8",
    "clear": "#cfe2d6",
    "tripped": "#e3a008",
    "paused": "#5f5391",
    "lifting": "#c8bde3",
    "on-tripped": "#1a1a19",
    "good": "#2f6ea5",
    "bad": "#c2401c",
    "open": "#8b949a",
}
INK, SOFT, RULE, PAPER, GOOD, BAD, OPEN = (COLOURS[c] for c in ("ink", "soft", "rule", "paper", "good", "bad", "open"))
ON_PHASE: Final = {Phase.TRIPPED: COLOURS["on-tripped"], Phase.PAUSED: PAPER}
WIDTH: Final = 9.0  # inches
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.id": None,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,  # a run named "$x^2$" is a name
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.8,
    "axes.unicode_minus": True,
}


def svg(name: str, figure: Figure | None) -> Markup | None:
    """The drawing as an element for the page: its colours become variables, and only ids that are used remain."""
    if figure is None:
        return None
    out = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has more letters
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    opening, rest = text[text.index("<svg") :].split(">", 1)
    text = re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + rest
    text = re.sub(r'<style type="text/css">[^<]*</style>', "", text, count=1)  # it would apply to the whole page
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
    variable = {value: f"var(--{key})" for key, value in COLOURS.items()}
    text = re.sub(r"(?<=[ \"])(#[0-9a-f]{6})(?=[;\"])", lambda m: variable.get(m[1], m[1]), text)
    # Markup: the text comes from the drawing library alone, which escapes every string it was given.
    return Markup(text.replace("'DejaVu Sans'", "system-ui"))


def canvas(height: float, *, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure of `height` inches with one plot, that many inches below its top and above its bottom."""
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0.005, bottom / height, 0.985, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    return figure, axes
