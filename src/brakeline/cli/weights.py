"""`brakeline audit --weights`: whether published weights are the end of a run, and two ways to say so to others."""

from pathlib import Path
from typing import NamedTuple

import click

from brakeline.cli.common import EXIT_VERDICT, folding, read_file
from brakeline.core.errors import Misuse, Reason, Refused, Unavailable
from brakeline.core.provenance import signed_model, signed_transcript, standing, transcript
from brakeline.core.state.runs import Run
from brakeline.node.desk import Desk
from brakeline.node.disk import write_atomic
from brakeline.training.published import Published
from brakeline.training.weights import Likeness, compare, end_of


class Asked(NamedTuple):
    """Published `weights`, and where to write what is signed of them, if anywhere."""

    weights: Path
    statement: Path | None
    model_signature: Path | None
    model_key: Path | None


def judged(desk: Desk, run: Run, evidence: Path, asked: Asked) -> int:
    """Say whether the weights are the run's end; if so, and the run is settled, sign what is asked for.

    Returns the exit status: 0, or 1 where they are not, or the run is barred.

    Raises:
        Refused: they are, and the run has not ended, or is not settled yet. Otherwise as `end_of` and `Published`.
    """
    if (asked.model_signature is None) != (asked.model_key is None):
        raise Misuse("--model-signature and --model-key go together")
    pem = read_file(asked.model_key) if asked.model_key else b""
    with folding() as progress:
        trail = desk.history(progress)
    run = trail.state.run(run.id)
    published = Published(asked.weights)
    try:
        found = compare(end_of(evidence, run), published)
    except MemoryError as e:
        raise Unavailable("this machine's memory does not hold the checkpoint and the weights") from e
    how, where = standing(trail.state, run), f"{run.name} (step {run.steps})"
    if not found.same:
        click.echo(f"{asked.weights} is not the end of {where}: {found.why}")
        return EXIT_VERDICT
    if how.answer == "not yet":
        hint = "brakeline status says who must do what"
        raise Refused(Reason.MISSING, f"{asked.weights} is the end of {where}, {how.why}", hint=hint)
    click.echo(f"{asked.weights} is the end of {where}, {how.why}")
    click.echo(f"  {closeness(found)}")
    if how.answer == "no":
        return EXIT_VERDICT
    if asked.statement:
        assert desk.follower.cosigned is not None
        said = transcript(trail.state, run, trail.events, desk.follower.cosigned, found.component, found.casts)
        write_atomic(asked.statement, signed_transcript(published.subjects, said, desk.home.key("statement")))
        click.echo(f"  {asked.statement}: an in-toto statement, signed by {desk.me.name}")
    if asked.model_signature:
        write_atomic(asked.model_signature, signed_model(published.name, published.subjects, pem))
        click.echo(f"  {asked.model_signature}: an OpenSSF model signature")
    return 0


def closeness(found: Likeness) -> str:
    """How the weights are the same."""
    bits = f"cast to {' and '.join(found.casts)}" if found.casts else "bit for bit"
    # Keys are whatever the lab has called them.
    left = f"; left out, with bits that are there: {', '.join(map(repr, found.left_out))}" if found.left_out else ""
    return f"{found.tensors} tensors of its {found.component!r}, {bits}{left}"
