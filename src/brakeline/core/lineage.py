"""Lineage: which models made a model, each step signed, and where that story has gaps.

A model here is the hex SHA-256 of its weights; a party is a name. A party's name is at most 41 characters long, so the
two are never taken for each other. What is wrong with a story is a value, a `Gap`: only bytes that say nothing raise.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Final

from brakeline.core.encoding import Wire, unhex32
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PublicKey
from brakeline.core.statement import open_envelope, verify

KIND: Final = "edge"
FRESH: Final = "fresh"  # `initialisation` of weights that were drawn, not taken over
NO_TREATY: Final = "0" * 64  # `treaty` of an edge signed outside any treaty
_MODEL: Final = re.compile(r"[0-9a-f]{64}")
_PARTY: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")


class Data(Wire, frozen=True):
    """One data set that a model learned from: hex SHA-256, and who wrote its labels and who chose what is in it.

    A name in `labelled_by` and `curated_by` is a model's digest, or a party that answers for its people.
    """

    digest: str
    labelled_by: tuple[str, ...]
    curated_by: tuple[str, ...]

    @property
    def makers(self) -> frozenset[str]:
        """The models that labelled or curated it."""
        return frozenset(name for name in (*self.labelled_by, *self.curated_by) if _MODEL.fullmatch(name))


class Edge(Wire, frozen=True):
    """Body of an `edge`: how the model `child` was made. Its issuer answers for it.

    `child` and `parents` are hex SHA-256 of weights. Parents are all models that the child took weights, labels or data
    from; a model without any is a root and says so in an edge of its own. `run` is the id of the declared run that
    made the child, or "" outside a log. `recipe` is the hex SHA-256 of code and configuration. `initialisation` is
    "fresh", or the parent whose weights the child started from.
    """

    child: str
    run: str
    parents: tuple[str, ...]
    data: tuple[Data, ...]
    recipe: str
    initialisation: str


class Break(StrEnum):
    """What is wrong with an ancestry."""

    MISSING = "edge-missing"  # nobody signed how this ancestor was made
    CONFLICT = "edge-conflict"  # its issuer signed two different stories of one model
    CYCLE = "cycle"  # a model descends from itself
    UNNAMED = "maker-unnamed"  # a model labelled or curated the data, and is not named as a parent
    RELABELLED = "data-relabelled"  # one issuer names other makers of the same data elsewhere


class Gap(Wire, frozen=True):
    """One break. `model` is where it shows; the detail is for people."""

    fault: Break
    model: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ancestry:
    """`edges` are those that count for a model and its ancestors, every parent before its children, by child.

    In a cycle nobody comes first: the models on it and after it are missing from `edges`. `issuers` says who signed.
    """

    edges: dict[str, Edge]
    issuers: dict[str, str]
    gaps: tuple[Gap, ...]


def check_edge(edge: Edge) -> None:
    """Raises:
    Malformed: a digest or a name that is none, names unsorted or repeated, data made by nobody, a child that is its
        own parent, or an initialisation from what is no parent.
    """
    for digest in (edge.child, edge.recipe, *edge.parents, *(d.digest for d in edge.data)):
        unhex32(digest)
    if edge.run:
        unhex32(edge.run)
    _check_order("parents", edge.parents)
    _check_order("data sets", tuple(d.digest for d in edge.data))
    if edge.child in edge.parents:
        raise Malformed("a model is not its own parent")
    if edge.initialisation != FRESH and edge.initialisation not in edge.parents:
        raise Malformed("a model starts fresh or from one of its parents")
    for data in edge.data:
        for what, names in (("labellers", data.labelled_by), ("curators", data.curated_by)):
            _check_order(what, names)
            if not names:
                raise Malformed(f"data without {what}: name a party where people did it")
            for name in names:
                if not _MODEL.fullmatch(name) and not _PARTY.fullmatch(name):
                    raise Malformed(f"neither a model nor a party: {name[:80]!r}")


def _check_order(what: str, names: tuple[str, ...]) -> None:
    if list(names) != sorted(set(names)):
        raise Malformed(f"{what} must be sorted and distinct")


def verify_edge(data: bytes, keys: Mapping[str, PublicKey], treaty: str = NO_TREATY) -> tuple[str, Edge]:
    """The issuer and the edge of an envelope that was kept outside a log. `keys` are the labs' statement keys, by name.

    Raises:
        Malformed: not an edge. Refused: FOREIGN (another kind or treaty), UNKNOWN_ISSUER, FORGED.
    """
    envelope = open_envelope(data)
    if envelope.kind != KIND:
        raise Refused(Reason.FOREIGN, f"a {envelope.kind} is not an edge")
    statement = envelope.statement
    if statement.treaty != treaty:
        raise Refused(Reason.FOREIGN, "the edge belongs to another treaty")
    if statement.issuer not in keys:
        raise Refused(Reason.UNKNOWN_ISSUER, f"no key is known of {statement.issuer[:60]!r}")
    verify(envelope, keys[statement.issuer])
    edge = statement.body_as(Edge)
    check_edge(edge)
    return statement.issuer, edge


def ancestry(edges: Iterable[tuple[str, Edge]], child: str) -> Ancestry:
    """The ancestors of `child` and every gap, from verified `(issuer, edge)` pairs in the order they became public.

    A model belongs to the first issuer that names it as a child: what others say of it has no effect, so that nobody
    can break another's lineage. A lab therefore logs the edge before it shows the digest.
    """
    owner: dict[str, str] = {}
    first: dict[str, Edge] = {}
    conflicts: set[str] = set()
    makers: dict[tuple[str, str], Data] = {}
    relabelled: set[tuple[str, str]] = set()
    for issuer, edge in edges:
        if owner.setdefault(edge.child, issuer) != issuer:
            continue
        if first.setdefault(edge.child, edge) != edge:
            conflicts.add(edge.child)
        for data in edge.data:
            if makers.setdefault((issuer, data.digest), data) != data:
                relabelled.add((issuer, data.digest))
    found = _reach(first, child)
    gaps = [Gap(fault=Break.MISSING, model=m, detail="no signed edge") for m in found if m not in first]
    known = {m: first[m] for m in found if m in first}
    for model, edge in known.items():
        if model in conflicts:
            gaps.append(Gap(fault=Break.CONFLICT, model=model, detail=f"{owner[model]} signed two different edges"))
        gaps += _data_gaps(edge, owner[model], relabelled)
    order, cycle = _sorted(known)
    if cycle:
        gaps.append(Gap(fault=Break.CYCLE, model=cycle[0], detail=f"{len(cycle)} models descend from themselves"))
    gaps.sort(key=lambda g: (g.fault, g.model, g.detail))
    return Ancestry({m: known[m] for m in order}, {m: owner[m] for m in order}, tuple(gaps))


def _data_gaps(edge: Edge, issuer: str, relabelled: set[tuple[str, str]]) -> Iterator[Gap]:
    for data in edge.data:
        for maker in sorted(data.makers.difference(edge.parents)):
            yield Gap(fault=Break.UNNAMED, model=edge.child, detail=f"{maker} made the data {data.digest}")
        if (issuer, data.digest) in relabelled:
            detail = f"{issuer} names different makers of the data {data.digest}"
            yield Gap(fault=Break.RELABELLED, model=edge.child, detail=detail)


def _reach(edges: Mapping[str, Edge], child: str) -> dict[str, None]:
    """`child` and all its ancestors, without recursion: a lineage may be longer than the stack."""
    found: dict[str, None] = {}
    open_ = [child]
    while open_:
        model = open_.pop()
        if model not in found:
            found[model] = None
            open_ += edges[model].parents if model in edges else ()
    return found


def _sorted(edges: Mapping[str, Edge]) -> tuple[list[str], list[str]]:
    """Parents before children, and a cycle if there is one."""
    sorter = TopologicalSorter({m: [p for p in e.parents if p in edges] for m, e in edges.items()})
    cycle: list[str] = []
    try:
        sorter.prepare()
    except CycleError as e:
        cycle = sorted(set(e.args[1]))
    order: list[str] = []
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order, cycle
