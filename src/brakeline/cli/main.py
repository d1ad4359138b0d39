"""`brakeline`: the group of commands. Each lives in a file of its own, imported when it runs."""

import importlib
import sys
from typing import Any, Final

import click

from brakeline import __version__
from brakeline.cli.common import EXIT, EXIT_INTERRUPTED
from brakeline.core.errors import BrakelineError, Unavailable

COMMANDS: Final = {
    "keygen": "Make a party's home and keys, and enter them in a draft treaty.",
    "treaty": "Check, render and sign a treaty.",
    "log": "Keep the transparency log.",
    "witness": "Cosign checkpoints that are consistent with all before.",
    "signer": "Sign permits that the log allows.",
    "pledge": "Log a conditional pledge.",
    "vote": "Vote to trip or to lift the brake.",
    "reading": "Log what a gauge reads.",
    "status": "Show what the log says: phase, parties, runs, findings.",
    "train": "Train a recipe through the gate.",
    "run": "Run a command that cannot be changed, under the brake.",
    "audit": "Replay random segments of a run and log the findings.",
    "bundle": "Write an evidence bundle.",
    "verify": "Verify an evidence bundle offline.",
    "completion": "Print the shell completion script.",
    "demo": "Carry a treaty from signature to stop to proof, on real training.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"brakeline.cli.{cmd_name}")
        except ModuleNotFoundError as e:
            if e.name is None or e.name.startswith("brakeline"):
                raise
            raise Unavailable(
                f"`brakeline {cmd_name}` needs the package {e.name}",
                hint='pip install "brakeline[torch,report]"',
            ) from e
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # without importing any of them
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brakeline")
def cli() -> None:
    """The brake pedal for AI training: a coordinated pause that stops real jobs and that anyone can verify."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback for what the user can mend."""
    try:
        result: Any = cli.main(args=args, standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except BrakelineError as e:
        click.echo(f"error: {e}", err=True)
        if e.hint:
            click.echo(f"hint: {e.hint}", err=True)
        sys.exit(EXIT[type(e)])
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
