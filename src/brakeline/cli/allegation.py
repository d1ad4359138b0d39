"""`brakeline allegation`: retract one, or answer one."""

import re
from pathlib import Path

import click

from brakeline.cli.common import find_run, home_option, tell
from brakeline.core.errors import Misuse
from brakeline.core.finding import Answer, Fault, Retraction
from brakeline.node.desk import Desk
from brakeline.node.home import Home

_run = click.argument("run")
_fault = click.argument("fault", type=click.Choice([str(f) for f in Fault]))
_steps = click.argument("steps")


@click.group()
def command() -> None:
    """Retract an allegation that one made, or answer one that was made. `status` lists them."""


def _segment(steps: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,16})-([0-9]{1,16})", steps)
    if not found:
        raise Misuse(f"{steps[:40]!r} are no steps", hint="write them as `status` does: 816-820")
    return int(found[1]), int(found[2])


@command.command()
@_run
@_fault
@_steps
@home_option
def retract(run: str, fault: str, steps: str, home: Path) -> None:
    """Take back this inspector's allegation against RUN: FAULT at STEPS, as `status` shows it."""
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    found = find_run(desk.state, run)
    effect = desk.say("retraction", Retraction(run=found.id, fault=Fault(fault), segment=_segment(steps)))
    click.echo(f"entry {effect.entry}: retracted; {found.name} is {desk.state.run(found.id).settlement}")


@command.command()
@_run
@_fault
@_steps
@click.option("--text", required=True, help="The lab's answer; it is public and stays so.")
@home_option
def answer(run: str, fault: str, steps: str, text: str, home: Path) -> None:
    """Answer, as RUN's lab, an allegation on the record: FAULT at STEPS, as `status` shows it."""
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    found = find_run(desk.state, run)
    effect = desk.say("answer", Answer(run=found.id, fault=Fault(fault), segment=_segment(steps), text=text))
    click.echo(f"entry {effect.entry}: the answer is on record")
