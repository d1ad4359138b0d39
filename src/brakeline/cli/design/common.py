"""What the design commands share: reading scenarios and measured inputs, and writing what they found."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from matplotlib.figure import Figure

from brakeline.cli.common import read_file
from brakeline.core.errors import Malformed
from brakeline.design.measured import read_measured, shipped
from brakeline.design.scenario import Scenario, read_scenario
from brakeline.node.disk import write_atomic

F = TypeVar("F", bound=Callable[..., Any])

scenario_argument: Callable[[F], F] = click.argument("scenario", type=click.Path(path_type=Path, dir_okay=False))
measured_option: Callable[[F], F] = click.option(
    "--measured",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measured inputs, as a TOML file [default: those of this project's benches]",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def load(path: Path, measured: Path | None) -> Scenario:
    """The scenario at `path`.

    Raises:
        Unavailable: no such file. Malformed: with the file's name, the value and its range.
    """
    inputs = read_measured(read_file(measured) if measured else shipped())
    try:
        return read_scenario(read_file(path), inputs)
    except Malformed as e:
        raise Malformed(f"{path}: {e}", hint=e.hint) from e


def to_json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def write_figure(path: Path, figure: Figure) -> None:
    """As its suffix says, SVG or PNG; the same figure gives the same bytes.

    Raises:
        Malformed: another suffix.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("svg", "png"):
        raise Malformed(f"{path}: a figure is written as .svg or .png")
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {"Software": None})
    write_atomic(path, data.getvalue())


def span(intervals: Sequence[Sequence[float]], unit: str = "") -> str:
    """Intervals for people."""
    parts = [f"{a:.3g} to {b:.3g}" if a != b else f"{a:.3g}" for a, b in intervals]
    return (" or ".join(parts) + f" {unit}".rstrip()) if parts else "none"
