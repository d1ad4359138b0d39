"""`brakeline design compare`: two scenarios side by side."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from brakeline.cli.design.common import json_option, load, measured_option, span, to_json
from brakeline.design.answer import Answer, solve
from brakeline.design.scenario import Scenario

_path = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("first", type=_path)
@click.argument("second", type=_path)
@measured_option
@json_option
def command(first: Path, second: Path, measured: Path | None, as_json: bool) -> None:
    """Set FIRST and SECOND side by side: every value that differs, and what follows from it.

    Example: brakeline design compare examples/scenarios/coordinated.toml examples/scenarios/verified.toml
    """
    scenarios = [load(path, measured) for path in (first, second)]
    a, b = (solve(s) for s in scenarios)
    rows = [*_heads(*scenarios), *_inputs(a, b), *_results(a, b)]
    if as_json:
        click.echo(to_json([{"what": what, "first": x, "second": y} for what, x, y in rows]))
        return
    table = Table("", escape(a.scenario), escape(b.scenario))
    for row in rows:
        table.add_row(*map(escape, row))
    Console(soft_wrap=True).print(table)


def _heads(a: Scenario, b: Scenario) -> list[tuple[str, str, str]]:
    def read(s: Scenario) -> dict[str, str]:
        shares = ", ".join(f"{name} {x:g}" for name, x in zip(s.parties, s.share, strict=True))
        head = {"policy": s.policy, "breakout assumed": s.breakout, "adjudication": s.adjudication}
        return head | {"trigger": s.trigger, "parties and shares": shares}

    first, second = read(a), read(b)
    return [(what, text, second[what]) for what, text in first.items() if text != second[what]]


def _inputs(a: Answer, b: Answer) -> list[tuple[str, str, str]]:
    names = [n for n in a.values if a.values[n]["value"] != b.values[n]["value"]]
    return [(f"{n} ({a.values[n]['label']})", *(_show(x.values[n]["value"]) for x in (a, b))) for n in names]  # type: ignore[misc]


def _results(a: Answer, b: Answer) -> list[tuple[str, str, str]]:
    def both(what: str, read: Any) -> tuple[str, str, str]:
        return what, str(read(a)), str(read(b))

    rows = [
        both("verdict on the policy", lambda x: x.headline),
        both("regime without verification", lambda x: ", ".join(dict.fromkeys(p.regime for p in x.parties))),
        both("bound by conditional pledges", lambda x: ", ".join(x.pledged) or "nobody"),
    ]
    for i, t in enumerate(a.treaties):
        where = f"{t.breakout}, {t.inputs}"
        rows += [
            both(f"verdict ({where})", lambda x, i=i: x.treaties[i].summary),
            both(f"inspections a year ({where})", lambda x, i=i: span(x.treaties[i].inspections)),
            both(f"binds ({where})", lambda x, i=i: "{1} of {0}, {2:+.4f}".format(*x.treaties[i].binds)),
        ]
    return rows


def _show(value: Any) -> str:
    return "/".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value:.4g}"
