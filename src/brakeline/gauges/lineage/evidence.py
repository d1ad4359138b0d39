"""Evidence on disk: signed edges, a plan, and probes. What cannot be trusted is left out and named, never guessed at.

    plan.json      what was agreed before the first look (`Plan`)
    edges/*        DSSE envelopes of `edge` statements, in the order of their file names
    items/*.json   the lists of item digests that the plan seals, shown once they have been used
    probes/*       one look a file: `Probe` as JSON, or an Inspect log (`.eval`) of the task `lineage_probe`

All JSON is canonical (RFC 8785): sorted keys, no spaces.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from brakeline.core.encoding import parse, sha256
from brakeline.core.errors import Malformed, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.lineage import NO_TREATY, Edge, verify_edge
from brakeline.gauges.lineage.evallog import read_eval
from brakeline.gauges.lineage.probe import Plan, Probe, check_list, check_plan, check_probe, list_digest
from brakeline.node.disk import disk_errors

T = TypeVar("T")

Progress = Callable[[int, int], None]  # files read, files in all


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that determines a measurement, except which models it is of.

    `edges` are verified `(issuer, edge)` pairs in the order they became public, from a folder or from a log. `lists`
    are the shown item lists by digest, `logs` the hex SHA-256 of the Inspect logs among the probes. `refused` says what
    was left out: file or entry, and why.
    """

    plan: Plan
    edges: tuple[tuple[str, Edge], ...]
    probes: tuple[Probe, ...]
    lists: dict[str, tuple[str, ...]]
    logs: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def read_evidence(
    folder: Path,
    keys: Mapping[str, PublicKey],
    treaty: str = NO_TREATY,
    *,
    progress: Progress = lambda done, total: None,
) -> Evidence:
    """Read `folder`. `keys` are the labs' statement keys by name, `treaty` the digest that the edges were signed under.

    Raises:
        Unavailable: no folder, no plan, a file that cannot be read, or an Inspect log and no `inspect_ai`.
        Malformed: a plan, list or probe file that is not what it says. An edge that is not is left out instead.
    """
    plan = _read(folder / "plan.json", Plan, check_plan)
    paths = {name: _files(folder / name) for name in ("edges", "items", "probes")}
    total, done = sum(map(len, paths.values())), 0
    edges: list[tuple[str, Edge]] = []
    probes: list[Probe] = []
    lists: dict[str, tuple[str, ...]] = {}
    logs: list[str] = []
    refused: list[tuple[str, str]] = []
    for path in paths["edges"]:
        try:
            edges.append(verify_edge(_bytes(path), keys, treaty))
        except (Malformed, Refused) as e:  # somebody else's file in the folder must not stop the gauge
            refused.append((path.name, str(e)))
        progress(done := done + 1, total)
    for path in paths["items"]:
        items = _read(path, tuple[str, ...], check_list)
        lists[list_digest(items)] = items
        progress(done := done + 1, total)
    for path in paths["probes"]:
        if path.suffix == ".eval":
            logs.append(sha256(_bytes(path)).hex())
        probe, shown = _probe(path)
        probes.append(probe)
        lists.update(shown)
        progress(done := done + 1, total)
    return Evidence(plan, tuple(edges), tuple(probes), lists, tuple(sorted(logs)), tuple(refused))


def _probe(path: Path) -> tuple[Probe, dict[str, tuple[str, ...]]]:
    if path.suffix != ".eval":
        return _read(path, Probe, check_probe), {}
    with _named(path):
        probe, items = read_eval(path)
        check_probe(probe)
    return probe, {probe.items: items}


def _files(folder: Path) -> list[Path]:
    with disk_errors():
        return sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def _bytes(path: Path) -> bytes:
    with disk_errors():
        return path.read_bytes()


def _read(path: Path, kind: type[T], check: Callable[[T], None]) -> T:
    data = _bytes(path)
    with _named(path):
        value = parse(data, kind)
        check(value)
    return value


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A malformed file by its name."""
    try:
        yield
    except Malformed as e:
        raise Malformed(f"{path}: {e}", hint=e.hint) from e
