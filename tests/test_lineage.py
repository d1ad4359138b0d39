"""Ancestry: a story without gaps passes, every way to hide a parent is found, and nobody breaks another's lineage."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brakeline.core.encoding import Wire, sha256
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.lineage import NO_TREATY, Ancestry, Break, Data, Edge, ancestry, check_edge, verify_edge
from brakeline.core.statement import GENESIS, Statement, open_envelope, seal, sign

ALPHA, BETA = (PrivateKey(bytes([i]) * 32) for i in (1, 2))
KEYS = {"alpha": ALPHA.public, "beta": BETA.public}


def model(number: int) -> str:
    return sha256(b"weights", number.to_bytes(4, "big")).hex()


def data(number: int, *makers: str, curated_by: Sequence[str] | None = None) -> Data:
    return Data(
        digest=sha256(b"data", number.to_bytes(4, "big")).hex(),
        labelled_by=makers,
        curated_by=makers if curated_by is None else tuple(curated_by),
    )


def edge(child: int, *parents: int, **change: object) -> Edge:
    """A child whose parents labelled and curated its data; a root is made by people."""
    names = tuple(sorted(model(p) for p in parents))
    fields: dict[str, object] = {
        "child": model(child),
        "run": "",
        "parents": names,
        "data": (data(child, *(names or ("alpha",))),),
        "recipe": sha256(b"recipe").hex(),
        "initialisation": "fresh",
    }
    return Edge(**(fields | change))


def chain(length: int) -> list[tuple[str, Edge]]:
    return [("alpha", edge(g, *([g - 1] if g else []))) for g in range(length)]


def faults(result: Ancestry) -> list[tuple[Break, str]]:
    return [(gap.fault, gap.model) for gap in result.gaps]


def statement(body: Wire, issuer: str = "alpha", treaty: str = NO_TREATY) -> Statement:
    fields = {name: getattr(body, name) for name in body.__struct_fields__}
    return Statement(treaty=treaty, issuer=issuer, seq=0, prev=GENESIS, not_before=0, expires=2**40, body=fields)


# --- the record


def test_an_edge_says_who_made_the_data() -> None:
    e = edge(3, 1, 2, data=(data(1, model(1), "people", curated_by=("people",)),))
    assert e.data[0].makers == {model(1)}


@pytest.mark.parametrize(
    "change",
    [
        {"child": "0" * 63},
        {"child": model(1).upper()},
        {"run": "a"},
        {"recipe": ""},
        {"parents": (model(1), model(1))},
        {"parents": tuple(sorted((model(0), model(1)), reverse=True))},
        {"parents": (model(2),)},  # itself
        {"initialisation": model(1)},  # no parent
        {"initialisation": ""},
        {"data": (data(1, "alpha"), data(1, "alpha"))},
        {"data": (data(1),)},  # made by nobody
        {"data": (data(1, "alpha", curated_by=()),)},
        {"data": (data(1, "beta", "alpha"),)},
        {"data": (data(1, "Alpha"),)},
    ],
)
def test_malformed_edges(change: dict[str, object]) -> None:
    good = edge(2, 0)
    check_edge(good)
    with pytest.raises(Malformed):
        check_edge(msgspec.structs.replace(good, **change))


def test_a_party_is_never_taken_for_a_model() -> None:
    longest = "a" * 41
    check_edge(edge(1, data=(data(1, longest),)))
    with pytest.raises(Malformed):
        check_edge(edge(1, data=(data(1, longest + "a"),)))
    assert data(1, longest).makers == frozenset()


# --- signed


def test_a_signed_edge_comes_back() -> None:
    assert verify_edge(sign("edge", statement(edge(1, 0)), ALPHA), KEYS) == ("alpha", edge(1, 0))


def test_every_forgery_is_refused() -> None:
    good = sign("edge", statement(edge(1, 0)), ALPHA)
    relabelled = edge(1, 0, data=(data(1, model(0), curated_by=("alpha",)),))
    signature = open_envelope(good).signatures
    payload = open_envelope(sign("edge", statement(relabelled), BETA)).payload
    cases = {
        seal("edge", payload, signature): Reason.FORGED,  # the curator relabelled under the old signature
        sign("edge", statement(edge(1, 0)), BETA): Reason.FORGED,
        sign("edge", statement(edge(1, 0)), ALPHA, BETA): Reason.FORGED,
        sign("edge", statement(edge(1, 0), "gamma"), ALPHA): Reason.UNKNOWN_ISSUER,
        sign("edge", statement(edge(1, 0), treaty="1" * 64), ALPHA): Reason.FOREIGN,
        sign("reading", statement(edge(1, 0)), ALPHA): Reason.FOREIGN,
    }
    for forged, reason in cases.items():
        with pytest.raises(Refused) as refused:
            verify_edge(forged, KEYS)
        assert refused.value.reason is reason


def test_a_signed_edge_must_still_be_well_formed() -> None:
    with pytest.raises(Malformed):
        verify_edge(sign("edge", statement(edge(1, 0, recipe="none")), ALPHA), KEYS)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flipped_byte_passes(draw: st.DataObject) -> None:
    good = sign("edge", statement(edge(1, 0)), ALPHA)
    at = draw.draw(st.integers(0, len(good) - 1))
    flipped = bytes([*good[:at], good[at] ^ (1 << draw.draw(st.integers(0, 7))), *good[at + 1 :]])
    with pytest.raises(BrakelineError):
        verify_edge(flipped, KEYS)


# --- ancestry


def test_an_honest_ancestry_has_no_gaps() -> None:
    result = ancestry([*chain(4), ("beta", edge(9, 3, 7)), ("beta", edge(7))], model(9))
    assert result.gaps == ()
    order = list(result.edges)
    assert set(order) == {model(i) for i in (0, 1, 2, 3, 7, 9)}
    assert all(order.index(p) < order.index(m) for m, e in result.edges.items() for p in e.parents)
    assert result.issuers[model(3)] == "alpha"
    assert result.issuers[model(9)] == "beta"


def test_a_missing_parent_is_a_gap() -> None:
    edges = chain(4)
    assert faults(ancestry(edges[:1] + edges[2:], model(3))) == [(Break.MISSING, model(1))]
    assert faults(ancestry([], model(3))) == [(Break.MISSING, model(3))]


def test_the_same_edge_twice_is_one_and_another_is_a_conflict() -> None:
    edges = chain(3)
    assert ancestry([*edges, edges[1]], model(2)).gaps == ()
    other = ("alpha", edge(1, 0, recipe=sha256(b"other").hex()))
    assert faults(ancestry([*edges, other], model(2))) == [(Break.CONFLICT, model(1))]


def test_an_unnamed_maker_is_a_gap() -> None:
    # The data was labelled by a model, curated by one, or by the child itself; the edge names it as no parent.
    for secret in (data(2, model(8)), data(2, "alpha", curated_by=(model(8),)), data(2, model(2))):
        edges = [*chain(2), ("alpha", edge(8)), ("alpha", edge(2, 1, data=(secret,)))]
        assert faults(ancestry(edges, model(2))) == [(Break.UNNAMED, model(2))]


def test_a_relabelled_curator_is_a_gap() -> None:
    # Once the data is a model's, once it is people's: one of the two signed stories is a lie.
    story = data(5, model(0))
    clean = data(5, "alpha")
    edges = [("alpha", edge(0)), ("alpha", edge(1, 0, data=(story,))), ("alpha", edge(2, 1, data=(clean,)))]
    assert faults(ancestry(edges, model(2))) == [(Break.RELABELLED, model(m)) for m in sorted((1, 2), key=model)]
    # Told of a model outside this ancestry, it is still the same issuer's contradiction.
    aside = [("alpha", edge(0)), ("alpha", edge(2, data=(clean,))), ("alpha", edge(1, 0, data=(story,)))]
    assert faults(ancestry(aside, model(2))) == [(Break.RELABELLED, model(2))]


def test_cycles_are_found_and_do_not_hang() -> None:
    edges = [("alpha", edge(0, 2)), ("alpha", edge(1, 0)), ("alpha", edge(2, 1)), ("alpha", edge(3, 2))]
    result = ancestry(edges, model(3))
    assert [gap.fault for gap in result.gaps] == [Break.CYCLE]
    assert result.edges == {}


def test_nobody_breaks_anothers_lineage() -> None:
    honest = chain(3)
    rival = [
        ("beta", edge(1, 0, recipe=sha256(b"rival").hex())),
        ("beta", edge(2, 1, 66)),
        ("beta", edge(0, 2)),
        ("beta", edge(50, data=(data(2, "beta"),))),  # other makers of alpha's data, in an edge of its own
    ]
    assert ancestry([*honest, *rival], model(2)) == ancestry(honest, model(2))


def test_a_very_long_lineage() -> None:
    edges = chain(100_000)
    result = ancestry(reversed(edges), model(99_999))
    assert result.gaps == ()
    assert list(result.edges) == [e.child for _, e in edges]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_graph_is_judged_as_a_naive_reading_does(draw: st.DataObject) -> None:
    count = 6
    drawn = st.lists(st.tuples(st.integers(0, count - 1), st.sets(st.integers(0, count - 1), max_size=3)), max_size=9)
    edges = [("alpha", edge(c, *(ps - {c}))) for c, ps in draw.draw(drawn)]
    result = ancestry(edges, model(0))

    first = {e.child: e for _, e in reversed(edges)}
    reach, grown = {model(0)}, True
    while grown:
        more = reach | {p for m in reach if m in first for p in first[m].parents}
        grown, reach = more != reach, more
    # Peel parents off; what can't be peeled is on a cycle or after one.
    known = {m for m in reach if m in first}
    done: set[str] = set()
    while step := {m for m in known - done if not (set(first[m].parents) & known) - done}:
        done |= step
    assert set(result.edges) == done
    assert {g.model for g in result.gaps if g.fault is Break.MISSING} == reach - known
    assert any(g.fault is Break.CYCLE for g in result.gaps) == (done != known)
    conflicts = {e.child for _, e in edges if e.child in known and first[e.child] != e}
    assert {g.model for g in result.gaps if g.fault is Break.CONFLICT} == conflicts
