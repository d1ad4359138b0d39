"""`brakeline design parameters`: the table."""

from pathlib import Path

import click

from brakeline.cli.common import read_file
from brakeline.cli.design.common import json_option, measured_option, to_json
from brakeline.design.measured import read_measured, shipped
from brakeline.design.parameters import TABLE


@click.command()
@measured_option
@json_option
def command(measured: Path | None, as_json: bool) -> None:
    """List every parameter of the model: default, allowed range, where its value comes from.

    A belief is contested, an assumption is the model's, a choice is the treaty's, and a measured value comes from
    this project's benches. A party may set for itself what is marked with a star.
    """
    inputs = read_measured(read_file(measured) if measured else shipped())
    rows = [p._asdict() | ({"measured": inputs[p.name]._asdict()} if p.name in inputs else {}) for p in TABLE]
    if as_json:
        click.echo(to_json(rows))
        return
    for p in TABLE:
        default = f"as {p.same_as}" if p.default is None else f"{p.default:.4g}"
        if p.name in inputs:
            default = f"{inputs[p.name].estimate:.4g}, at its bound {inputs[p.name].bound:.4g}"
        name = p.name + ("*" if p.per_party else "")
        click.echo(f"{name:<17} {p.symbol:<6} {default}; {p.low:.3g} to {p.high:.3g} {p.unit}; {p.label}")
        click.echo(f"    {p.meaning}. Source: {inputs[p.name].source if p.name in inputs else p.source}")
