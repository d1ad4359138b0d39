"""`brakeline completion`: shell completion."""

import click
from click.shell_completion import get_completion_class

from brakeline.core.errors import Misuse


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL; evaluate it in the shell's start-up file."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Misuse(f"no completion for {shell}")
    click.echo(kind(ctx.find_root().command, {}, "brakeline", "_BRAKELINE_COMPLETE").source())
