"""Who is bound: the greatest fixpoint of conditional pledges, with certificates that anybody can check."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.pledge import Activation, Pledge, activate, check_activation
from brakeline.core.tlog.policy import Group
from vector import refused

NAMES = tuple("abcdef")
Conditions = Mapping[str, Group | None]


@st.composite
def gates(draw: st.DrawFn, leaves: tuple[str, ...]) -> Group:
    """A group, nested at will, that uses each of `leaves` once."""
    cuts = sorted(draw(st.sets(st.integers(1, len(leaves) - 1)))) if len(leaves) > 1 else []
    parts = [leaves[i:j] for i, j in zip([0, *cuts], [*cuts, len(leaves)], strict=True)]
    nested = len(parts) > 1
    members = tuple(draw(gates(p)) if nested and (len(p) > 1 or draw(st.booleans())) else p[0] for p in parts)
    return Group(draw(st.integers(1, len(members))), members)


@st.composite
def pledges(draw: st.DrawFn) -> dict[str, Group | None]:
    """Conditions of up to six parties; they may name parties that have not pledged, and themselves."""
    who = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
    found: dict[str, Group | None] = {}
    for name in who:
        leaves = tuple(draw(st.permutations(NAMES))[: draw(st.integers(0, 6))])
        found[name] = draw(gates(leaves)) if leaves else None
    return found


def keeps(conditions: Conditions, members: frozenset[str]) -> bool:
    """Whether every member's own promise holds among the others."""
    gates = {i: conditions[i] for i in members}
    return all(group is None or group.holds(members - {i}) for i, group in gates.items())


def brute_force(conditions: Conditions) -> frozenset[str]:
    """The union of all sets that keep all their own promises, by trying every one."""
    sets = (frozenset(c) for k in range(len(conditions) + 1) for c in combinations(conditions, k))
    return frozenset().union(*(s for s in sets if keeps(conditions, s)))


@given(pledges())
def test_the_active_set_is_the_largest_that_keeps_its_promises(conditions: dict[str, Group | None]) -> None:
    # Treaty 2.2
    found = activate(conditions)
    assert found.active == brute_force(conditions)
    assert keeps(conditions, found.active)
    check_activation(conditions, found)


@given(pledges())
def test_a_certificate_with_another_active_set_is_refused(conditions: dict[str, Group | None]) -> None:
    right = activate(conditions)
    for k in range(len(conditions) + 1):
        for members in map(frozenset, combinations(sorted(conditions), k)):
            if members == right.active:
                continue
            others = sorted(conditions.keys() - members)
            for order in (others, others[::-1]):
                claimed = Activation(members, {i: members - {i} for i in members}, tuple(order))
                with refused(Reason.TAMPERED):
                    check_activation(conditions, claimed)


@given(pledges(), st.data())
def test_a_bent_certificate_is_refused_or_proves_the_same(
    conditions: dict[str, Group | None], data: st.DataObject
) -> None:
    right = activate(conditions)
    claimed = replace(
        right,
        satisfied={i: data.draw(st.frozensets(st.sampled_from(NAMES))) for i in right.active},
        deleted=tuple(data.draw(st.permutations(right.deleted))),
    )
    try:
        check_activation(conditions, claimed)
    except Refused:
        return
    # Whoever is named satisfies the promise, and the order still shows every exclusion.
    for i in right.active:
        group = conditions[i]
        assert claimed.satisfied[i] <= right.active - {i}
        assert group is None or group.holds(claimed.satisfied[i])


def test_each_kind_of_wrong_certificate() -> None:
    conditions: Conditions = {"a": Group(1, ("b",)), "b": None, "c": Group(1, ("d",)), "e": Group(1, ("c",))}
    right = activate(conditions)
    assert right == Activation(frozenset("ab"), {"a": frozenset("b"), "b": frozenset()}, ("c", "e"))
    for wrong in (
        replace(right, active=frozenset("a")),  # b is nowhere
        replace(right, active=frozenset("abc")),  # c is twice
        replace(right, active=frozenset("abx")),  # x has not pledged
        replace(right, active=frozenset("abc"), satisfied={**right.satisfied, "c": frozenset("d")}, deleted=("e",)),
        replace(right, active=frozenset("b"), deleted=("c", "e", "a")),  # a is left out though its condition holds
        replace(right, deleted=("e", "c")),  # when e is left out, c is still there
        replace(right, deleted=("c", "e", "e")),
        replace(right, deleted=("c",)),
        replace(right, deleted=("c", "x")),
        replace(right, active=frozenset("ax")),
        replace(right, satisfied={"b": frozenset()}),  # nothing is said for a
        replace(right, satisfied={**right.satisfied, "a": frozenset("a")}),  # itself
        replace(right, satisfied={**right.satisfied, "a": frozenset("bc")}),  # c is not bound
    ):
        with refused(Reason.TAMPERED):
            check_activation(conditions, wrong)


@given(pledges(), pledges(), st.booleans())
def test_more_pledges_never_free_anybody(
    one: dict[str, Group | None], two: dict[str, Group | None], drop: bool
) -> None:
    more: dict[str, Group | None] = {**two, **one}
    assert activate(one).active <= activate(more).active
    eased: dict[str, Group | None] = {i: None if drop else g for i, g in one.items()}
    assert activate(one).active <= activate(eased).active


def test_circular_pledges_hold_each_other_up() -> None:
    ring: Conditions = {i: Group(1, (j,)) for i, j in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)}
    assert activate(ring).active == frozenset(NAMES)
    for missing in NAMES:
        assert activate({i: g for i, g in ring.items() if i != missing}).active == frozenset()
    everybody: Conditions = {i: Group(5, tuple(n for n in NAMES if n != i)) for i in NAMES}
    assert activate(everybody).active == frozenset(NAMES)


def test_a_condition_never_counts_its_own_party() -> None:
    assert activate({"a": Group(1, ("a",))}).active == frozenset()
    assert activate({"a": Group(1, ("a", "b")), "b": None}).satisfied["a"] == frozenset("b")


def test_parties_are_deleted_in_rounds_and_in_order() -> None:
    chain: Conditions = {"d": Group(1, ("x",)), "c": Group(1, ("d",)), "b": Group(1, ("x",)), "a": Group(1, ("c",))}
    assert activate(chain).deleted == ("b", "d", "c", "a")


def test_a_condition_in_words() -> None:
    names = frozenset(NAMES)
    assert Pledge(condition="quorum none\n").group(names) is None
    text = "group labs 2 a b c\ngroup both all labs d\nquorum both\n"
    assert Pledge(condition=text).group(names) == Group(2, (Group(2, ("a", "b", "c")), "d"))
    assert Pledge(condition="quorum b\n").group(names) == Group(1, ("b",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum a",
        "quorum x\n",
        "quorum a\nquorum a\n",
        "group g 0 a b\nquorum g\n",
        "group g 3 a b\nquorum g\n",
        "group g -1 a b\nquorum g\n",
        "group g 1 a a\nquorum g\n",
        "group g 1 g\nquorum g\n",
        "group a 1 b\nquorum a\n",
        "group g not a\nquorum g\n",
        "group g 1 a\ngroup h 1 a\nquorum h\n",
        "witness a x+00+AQ==\nquorum a\n",
        "quorum \ud800\n",
        "quorum a\r\n",
    ],
)
def test_a_condition_that_is_none(text: str) -> None:
    with pytest.raises(Malformed):
        Pledge(condition=text).group(frozenset(NAMES))


def test_nesting_is_bounded() -> None:
    deep = "".join(f"group g{i} 1 {f'g{i - 1}' if i else 'a'}\n" for i in range(200))
    with pytest.raises(Malformed):
        Pledge(condition=deep + "quorum g199\n").group(frozenset(NAMES))
    deep = deep[: deep.index("group g128")] + "quorum g127\n"
    group = Pledge(condition=deep).group(frozenset(NAMES))
    assert group is not None
    assert group.holds(frozenset("a"))
