"""`python -m brakeline.testing SEED`: play seeds, and say what did not hold."""

import time

import click

from brakeline.testing.shrink import shortest
from brakeline.testing.world import World


@click.command()
@click.argument("seed", type=int)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="How many seeds, from SEED on.")
@click.option("--first", is_flag=True, help="End at the first seed with a violation.")
@click.option("--trace", is_flag=True, help="Print all that happened.")
@click.option("--shorten", is_flag=True, help="Find fewest faults with which the first violation still comes.")
def main(seed: int, count: int, first: bool, trace: bool, shorten: bool) -> None:
    """Play COUNT simulated worlds. Exit status 1 when an invariant did not hold in one."""
    bad, played, began = 0, 0, time.process_time()
    for number in range(seed, seed + count):
        lines: list[str] | None = [] if trace else None
        report = World(number).run(lines=lines)
        played += 1
        bad += bool(report.violations)
        for line in lines or ():
            click.echo(line)
        if report.violations or count == 1:
            click.echo(str(report))
        if report.violations and shorten:
            for fault in shortest(World(number), report):
                click.echo(f"  needs {fault}")
        if report.violations and first:
            break
    spent = (time.process_time() - began) / played
    click.echo(f"{played} seeds, {bad} with violations, {spent:.2f} CPU s a seed")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
