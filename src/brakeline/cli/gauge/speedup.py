"""`brakeline gauge speedup`: G3, how much faster a candidate makes training code."""

from pathlib import Path

import click

from brakeline.cli.common import load
from brakeline.cli.gauge.common import finish, json_option, out_option, progress_bar, subject_option
from brakeline.core.errors import Misuse
from brakeline.core.measurement import Measurement
from brakeline.gauges.speedup.measure import PAIRS, measure
from brakeline.gauges.speedup.plot import figure
from brakeline.gauges.speedup.reference import REFERENCES, reference, write_reference


@click.command(name="speedup")
@click.option("--candidate", type=click.Path(path_type=Path), help="A folder with a train.py.")
@click.option("--agent", metavar="MODEL", help="Let a model make the candidate, under Inspect: openai/…, anthropic/….")
@click.option("--reference", "ready", type=click.Choice(sorted(REFERENCES)), help="Measure a candidate that is known.")
@click.option("--start", type=click.Path(path_type=Path), help="Write the slow program into a new folder, and stop.")
@click.option("--pairs", type=click.IntRange(2, 1000), default=PAIRS, show_default=True, help="Pairs of runs.")
@click.option("--seed", metavar="HEX", default="", help="32 bytes, to repeat another party's measurement.")
@out_option
@subject_option
@json_option
def command(
    candidate: Path | None,
    agent: str | None,
    ready: str | None,
    start: Path | None,
    pairs: int,
    seed: str,
    out: Path | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """How many times faster does a candidate make a program that trains a small language model?

    Candidate and original run in turns, each in a fresh sandboxed process on one core, on text drawn for that pair. The
    whole process is timed. The weights must be the original's, up to rounding, at steps chosen at random; one run that
    fails leaves the candidate without a speed. h = ln s / ln 4 counts in multiples of what an expert reached in 4 to 8
    hours. Interrupted, the same command goes on where it stopped. Takes 2 to 5 minutes, and needs Linux.

    \b
    Example:
      brakeline gauge speedup --start mine      # then make mine/train.py faster
      brakeline gauge speedup --candidate mine --out mine-measured
      brakeline gauge speedup --reference human
    """
    chosen = [x for x in (candidate, agent, ready, start) if x is not None]
    if len(chosen) != 1:
        raise Misuse("say what to measure: one of --candidate, --agent, --reference and --start")
    if start is not None:
        write_reference(0, start)
        click.echo(f"wrote {start}; {start / 'CONTRACT.md'} says what a candidate must do")
        return
    out = out or Path("gauge-speedup")
    if agent is not None:
        if seed:
            raise Misuse("--seed does not go with --agent: the text is drawn when the agent is done")
        task = load("brakeline.gauges.speedup.task", "a model as engineer")
        m: Measurement = task.measure_agent(agent, out, pairs=pairs, display="none" if as_json else "rich")
    else:
        with progress_bar("running") as progress:
            if ready is not None:
                with reference(REFERENCES[ready]) as folder:
                    m = measure(folder, out, subject=ready, seed=seed, pairs=pairs, progress=progress)
            else:
                assert candidate is not None
                m = measure(candidate, out, subject=candidate.resolve().name, seed=seed, pairs=pairs, progress=progress)
    finish(m, figure, out, subject=subject, as_json=as_json)
    if not as_json:
        h = m.details
        click.echo(
            f"h = {h['h']:.2f}, 95 % bounds {h['h_lower']:.2f} to {h['h_upper']:.2f}; "
            f"{2 * len(h['pairs'])} runs, {h['abandoned']} pairs given up"
        )
