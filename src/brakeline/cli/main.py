"""`brakeline`: the group of commands. Each lives in a file of its own, imported when it runs."""

import os
import sys
from typing import Any, Final

import click

from brakeline import __version__
from brakeline.cli.common import EXIT, EXIT_INTERRUPTED, LazyGroup, exit_code
from brakeline.core.errors import BrakelineError, Unavailable

COMMANDS: Final = {
    "keygen": "Make a party's home and keys, and enter them in a draft treaty.",
    "backup": "Copy what a home must not lose into one file.",
    "restore": "Make a home again from its backup.",
    "key": "Go on to the next key, or revoke one.",
    "treaty": "Check, render and sign a treaty, and amend it.",
    "up": "Run all that a party's roles ask for, in one process.",
    "doctor": "Say what is wrong with a home, its clock, its disk, its peers.",
    "log": "Keep the transparency log.",
    "mirror": "Keep a verified copy of the log.",
    "keeper": "Go on with a log whose keeper is dead or hostile.",
    "witness": "Cosign checkpoints that are consistent with all before.",
    "signer": "Sign permits that the log allows.",
    "pledge": "Log a conditional pledge.",
    "withdraw": "Leave the treaty, after its notice.",
    "vote": "Vote to trip or to lift the brake.",
    "gauge": "Measure recursive self-improvement.",
    "reading": "Log what a gauge measured.",
    "edge": "Log how a model came to be.",
    "duty": "Report, notify and ask for reports on the record.",
    "designate": "Want a run in a tier by decision.",
    "allegation": "Retract an allegation, or answer one.",
    "evidence": "Prove that a party said two things.",
    "compare": "See whether two signed notes of one log contradict each other.",
    "status": "Show what the log says: phase, parties, runs, findings.",
    "rehearse": "See whether a recipe can be stopped, resumed and replayed.",
    "train": "Train a recipe through the gate.",
    "prune": "Say which checkpoints of a run may go, and remove them.",
    "open": "Show an inspector the states between two checkpoints.",
    "run": "Run a command that cannot be changed, under the brake.",
    "audit": "Replay random segments of a run and log the findings.",
    "bundle": "Write an evidence bundle.",
    "verify": "Verify an evidence bundle, or a contradiction, offline.",
    "report": "Write a verified bundle as a page.",
    "design": "Find out when a pause is an equilibrium, and which treaty makes it one.",
    "completion": "Print the shell completion script.",
    "demo": "Carry a treaty from signature to stop to proof, on real training.",
}


_PINNED: Final = ("rehearse", "train", "open", "audit")  # these run a recipe's code

cli = LazyGroup(
    "brakeline.cli",
    COMMANDS,
    name="brakeline",
    help="The brake pedal for AI training: a coordinated pause that stops real jobs and that anyone can verify.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name="brakeline")(cli)


def _pin_hashes() -> None:
    """Start again with the order of sets fixed: what a recipe computes may hang on it."""
    if "PYTHONHASHSEED" not in os.environ and any(word in _PINNED for word in sys.argv[1:2]):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})


def main(args: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for what the user can mend."""
    if args is None:
        _pin_hashes()
    try:
        result: Any = cli.main(args=args, standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except BrakelineError as e:
        click.echo(f"error: {e}", err=True)
        if e.hint:
            click.echo(f"hint: {e.hint}", err=True)
        sys.exit(exit_code(e))
    except OSError as e:
        # A pipe whose reader is gone, a home that may not be written: the machine's errors, not a bug of ours.
        click.echo(f"error: {e.strerror or e}{f': {e.filename}' if e.filename else ''}", err=True)
        click.echo("hint: check that the file is there, who may write it, and the disk", err=True)
        sys.exit(EXIT[Unavailable])
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
