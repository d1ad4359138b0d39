"""`brakeline audit --weights`: are these published weights the end of an audited transcript?"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from brakeline.cli.common import EXIT_VERDICT
from brakeline.core.errors import Misuse, Unavailable
from brakeline.core.state import State
from brakeline.core.state.events import Audited, Committed, Event
from brakeline.core.state.runs import Run
from brakeline.node.disk import write_atomic
from brakeline.node.home import Home
from brakeline.training.shown import NotShown, checkpoint, open_shown
from brakeline.training.weights import compare_weights, envelope, statement

_SAID = {
    "same": "is, bit for bit,",
    "cast": "is, {detail},",
    "part": "is a part ({detail}) of",
    "other": "is not ({detail})",
}


def weighed(
    home: Home, state: State, run: Run, events: Sequence[Event], evidence: Path, file: Path, out: Path | None
) -> int:
    """Compare the file with the run's last state, say what came of it, and sign that into `out`, if any.

    Raises:
        Misuse: the run has not ended. Unavailable: its last state is not shown, or there is no such file. Malformed:
            the file holds no weights.
    """
    heads = [e for e in events if isinstance(e, Committed) and e.head.run == run.id]
    name = f"{run.owner}/{run.declaration.name}"
    if not heads or heads[-1].head.status != "ended":
        raise Misuse(f"{name} has not ended", hint="weights are compared with a run's last state")
    last = heads[-1]
    try:
        shown = open_shown(evidence, last.head.steps)
        leaf = shown.leaves[last.head.steps]
        if leaf.state.hex() != last.head.state:
            raise NotShown("the last leaf shown is not the one that the log commits to")
        recorded = checkpoint(evidence, leaf, run.ranks(leaf.step - 1, shown.recipe.ranks))
    except (NotShown, IndexError) as e:
        raise Unavailable(f"the end of {name} is not shown: {e}", hint="ask the lab where it shows the evidence") from e
    found = compare_weights(recorded, file)
    passed = sorted({e.inspector for e in events if isinstance(e, Audited) and _passes(e, run, last)})
    settled = bool(passed) and run.settlement == "settled" and not run.bar  # Treaty 8.2
    by = f"passed by {', '.join(passed)}" if passed else "passed by nobody"
    standing = "settled" if settled else "not settled"
    said = _SAID[found.kind].format(detail=found.detail)
    click.echo(f"{file.name} {said} the end of {name}, step {leaf.step}: {by}; {standing}")
    if out:
        predicate: dict[str, Any] = {
            "run": run.id,
            "name": name,
            "comparison": found.kind,
            "steps": leaf.step,
            "state": leaf.state.hex(),
            "root": last.head.root,
            "entry": last.entry,
            "declaration": {"recipe": run.declaration.recipe, "dataset": run.declaration.dataset},
            "treaty": state.treaty.digest,
            "passed": passed,
            "settled": settled,
        }
        key = home.key("statement")
        write_atomic(out, envelope(statement(file.name, _digest(file), predicate), key.public.text, key.sign))
        click.echo(f"signed into {out}")
    return 0 if settled and found.kind in ("same", "cast") else EXIT_VERDICT


def _passes(it: Audited, run: Run, last: Committed) -> bool:
    return (it.audit.run, it.audit.head, it.audit.verdict) == (run.id, last.entry, "pass")


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
