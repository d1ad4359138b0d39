"""`brakeline bundle`: write evidence that verifies offline."""

from pathlib import Path

import click

from brakeline.cli.common import home_option, read_file, tell
from brakeline.core.bundle import Bundle, verify_bundle
from brakeline.core.errors import Misuse
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.tlog.note import Note
from brakeline.core.transcript import LEAF_BYTES
from brakeline.node.desk import Desk
from brakeline.node.disk import write_atomic
from brakeline.node.home import Home

LEAVES = "leaves.bin"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--transcript",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="An evidence folder whose transcript to include (repeat).",
)
@home_option
def command(file: Path, folders: tuple[Path, ...], home: Path) -> None:
    """Write FILE, which is new: first text, whole log, cosigned checkpoint, and transcripts. It is verified before."""
    if file.exists():
        raise Misuse(f"{file} exists already", hint="evidence is not overwritten: choose another name")
    desk = Desk(Home(home), tell=tell)
    desk.catch_up()
    data = make(desk, folders)
    write_atomic(file, data)
    click.echo(f"{file}: {len(data)} bytes, {desk.state.size} log entries, {len(folders)} transcripts")


def make(desk: Desk, folders: tuple[Path, ...]) -> bytes:
    """The bytes of a bundle, verified.

    Raises:
        Misuse: a folder's transcript is that of no declared run.
    """
    cosigned = desk.follower.cosigned
    assert cosigned is not None
    transcripts = dict(_transcript(desk, folder) for folder in folders)
    known = {
        k.name for p in desk.state.chain.need(cosigned.checkpoint.size) for k, _ in (*p.logs, *p.witnesses.values())
    }
    note = cosigned.note
    lines = tuple(line for line in note.lines if line.name in known)
    checkpoint = Note(note.text, lines).encode()
    entries = desk.follower.client.stream(0, cosigned.checkpoint.size)
    first = desk.follower.first
    bundle = Bundle(first.text, checkpoint, tuple(entries), transcripts).encode()
    verify_bundle(bundle, treaty_digest=first.digest)
    return bundle


def _transcript(desk: Desk, folder: Path) -> tuple[str, bytes]:
    """The run whose last head commits to the leaves in `folder`, and those leaves."""
    data = read_file(folder / LEAVES)
    hashes = [leaf_hash(data[i : i + LEAF_BYTES]) for i in range(0, len(data) - LEAF_BYTES + 1, LEAF_BYTES)]
    for run in desk.state.runs.by_id.values():
        count = run.steps + 1
        if run.head and count <= len(hashes) and root(hashes[:count]).hex() == run.head.root:
            return run.id, data[: count * LEAF_BYTES]
    raise Misuse(f"the transcript in {folder} is that of no run in the log")
