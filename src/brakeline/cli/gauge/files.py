"""The progress of a gauge that goes through a repository's files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from brakeline.gauges.git import blame


@contextmanager
def file_progress(what: str) -> Iterator[blame.Progress]:
    """A bar on stderr, on a terminal only."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield show
