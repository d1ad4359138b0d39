"""Fault arithmetic, threshold groups, C2SP tlog-policy, and what makes a checkpoint acceptable."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import sha256
from brakeline.core.errors import Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign
from brakeline.core.tlog.note import COSIGNATURE, ED25519, Note, SignatureLine, VerifierKey, sign_note
from brakeline.core.tlog.policy import (
    LIMIT,
    Group,
    Policy,
    check_arithmetic,
    parse_group_lines,
    parse_policy,
    permit_threshold,
    trip_threshold,
    verify_cosigned,
)
from vector import Vector, load, refused

LOG = PrivateKey(b"l" * 32)
LOG_KEY = VerifierKey("log.example", ED25519, LOG.public)
NAMES = tuple(f"w{i}" for i in range(7))
KEYS = {name: PrivateKey(bytes([i]) * 32) for i, name in enumerate(NAMES)}
VKEYS = {name: VerifierKey(f"{name}.example", COSIGNATURE, key.public) for name, key in KEYS.items()}
POLICY = Policy(((LOG_KEY, None),), {name: (key, None) for name, key in VKEYS.items()}, Group(5, NAMES))
CHECKPOINT = Checkpoint("log.example", 300, sha256(b"root"))
TEXT = CHECKPOINT.text


def signed(*times: tuple[str, int]) -> Note:
    note = sign_note(TEXT, "log.example", LOG)
    return note.with_lines(*(cosign(TEXT, VKEYS[name].name, KEYS[name], time) for name, time in times))


def subsets(names: frozenset[str]) -> list[frozenset[str]]:
    return [frozenset(c) for k in range(len(names) + 1) for c in combinations(sorted(names), k)]


# --- arithmetic


def test_thresholds_of_seven_with_two_faults() -> None:
    assert (trip_threshold(7, 2), permit_threshold(7, 2)) == (3, 5)


def test_permit_thresholds_published() -> None:
    assert [permit_threshold(n, f) for n, f in ((4, 1), (7, 2), (10, 3), (13, 4))] == [3, 5, 7, 9]


def test_a_quorum_is_safe_and_live_exactly_when_the_arithmetic_holds() -> None:
    for n, f in product(range(1, 30), range(12)):
        k = permit_threshold(n, f)
        assert 2 * k > n + f  # two quorums share an honest member ...
        assert 2 * (k - 1) <= n + f  # ... and no smaller one would do
        if k <= n - f:  # the honest ones are enough
            check_arithmetic(n, f)
            assert trip_threshold(n, f) <= n - f
        else:
            with pytest.raises(Malformed):
                check_arithmetic(n, f)


@pytest.mark.parametrize(("n", "f"), [(0, 0), (3, 1), (6, 2), (-1, 0), (4, -1)])
def test_arithmetic_that_does_not_hold(n: int, f: int) -> None:
    with pytest.raises(Malformed):
        check_arithmetic(n, f)


# --- groups


@st.composite
def groups(draw: st.DrawFn, leaves: tuple[str, ...] = NAMES) -> Group:
    """A group that uses each of `leaves` once."""
    cuts = sorted(draw(st.sets(st.integers(1, len(leaves) - 1)))) if len(leaves) > 1 else []
    parts = [leaves[a:b] for a, b in zip([0, *cuts], [*cuts, len(leaves)], strict=True)]
    members = tuple(
        draw(groups(part)) if len(parts) > 1 and (len(part) > 1 or draw(st.booleans())) else part[0] for part in parts
    )
    return Group(draw(st.integers(1, len(members))), members)


def holds(group: Group, present: frozenset[str]) -> bool:
    return sum(m in present if isinstance(m, str) else holds(m, present) for m in group.members) >= group.k


@given(groups(), st.frozensets(st.sampled_from([*NAMES, "stranger"])))
def test_a_gate_counts_its_members(group: Group, present: frozenset[str]) -> None:
    used = group.satisfying(present)
    assert group.holds(present) == holds(group, present) == bool(used)
    assert used <= present & group.leaves
    assert not used or group.holds(used)  # the members named are a certificate of their own
    assert group.satisfying(used) == used


@given(groups(), st.frozensets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_a_gate_is_monotone(group: Group, present: frozenset[str], one: str) -> None:
    assert group.holds(present) <= group.holds(present | {one})
    assert group.satisfying(present) <= group.satisfying(present | {one})


@pytest.mark.parametrize(
    ("k", "members"),
    [
        (0, ("a",)),
        (-1, ("a",)),
        (2, ("a",)),
        (1, ()),
        (0, ()),
        (1, ("a", "a")),
        (1, ("a", Group(1, ("a", "b")))),
        (1, (Group(1, ("a",)), Group(1, ("a",)))),
    ],
)
def test_there_is_no_such_gate(k: int, members: tuple[str | Group, ...]) -> None:
    with pytest.raises(Malformed):
        Group(k, members)


# --- group lines


def test_group_lines_over_parties() -> None:
    text = b"# when two others are\ngroup labs 2 orion vega lyra\ngroup both all labs state\nquorum both\n"
    group = parse_group_lines(text, frozenset({"orion", "vega", "lyra", "state", "other"}))
    assert group == Group(2, (Group(2, ("orion", "vega", "lyra")), "state"))


def test_group_lines_of_one_name_and_of_nobody() -> None:
    assert parse_group_lines(b"quorum orion\n", frozenset({"orion"})) == Group(1, ("orion",))
    assert parse_group_lines(b"quorum none\n", frozenset({"orion"})) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"quorum vega\n",
        b"quorum orion",
        b"quorum orion!",
        b"witness vega x\nquorum orion\n",
        b"log x\nquorum orion\n",
    ],
)
def test_group_lines_hold_nothing_else(text: bytes) -> None:
    with pytest.raises(Malformed):
        parse_group_lines(text, frozenset({"orion"}))


def test_no_party_is_called_none() -> None:
    with pytest.raises(Malformed):
        parse_group_lines(b"quorum none\n", frozenset({"none"}))


# --- policies


@load("policy", 60)
def test_policy_vectors(v: Vector) -> None:
    with v.expected():
        policy = parse_policy(v.bytes("text"))
        assert len(policy.logs) == v.output["logs"]
        assert len(policy.witnesses) == v.output["witnesses"]
        holding = sum(policy.quorum.holds(s) for s in subsets(frozenset(policy.witnesses)))
        assert holding == v.output["subsets_that_hold"]
        assert parse_policy(policy.text) == policy
        assert parse_policy(policy.text).text == policy.text


@given(groups(), st.sampled_from([None, "https://w.example/\udce9"]))
def test_every_policy_is_read_back(group: Group, url: str | None) -> None:
    names = dict(zip(NAMES, [*NAMES[:-1], "group-0"], strict=True))  # the name a group would get is taken
    witnesses = {names[name]: (key, url) for name, key in VKEYS.items()}
    policy = Policy(((LOG_KEY, url),), witnesses, rename(group, names))
    assert parse_policy(policy.text) == policy


def rename(group: Group, names: dict[str, str]) -> Group:
    return Group(group.k, tuple(names[m] if isinstance(m, str) else rename(m, names) for m in group.members))


LINE = st.sampled_from(
    [
        "quorum w0",
        "quorum none",
        "quorum g",
        "group g all w0 w1",
        "group g 2 w0 w1 w2",
        "group h any g w3",
        "quorum h",
        "# comment",
        "",
        " \t",
        f"log {LOG_KEY.text}",
        *(f"witness {name} {key.text} https://w.example" for name, key in VKEYS.items()),
    ]
)


@given(st.lists(LINE, max_size=14).map(lambda lines: "".join(line + "\n" for line in lines).encode()) | st.binary())
def test_every_policy_is_refused_or_read_back(text: bytes) -> None:
    try:
        policy = parse_policy(text)
    except (Malformed, Refused):
        return
    assert parse_policy(policy.text) == policy


def test_a_policy_may_be_large_but_not_endless() -> None:
    keys = [VerifierKey("w", COSIGNATURE, PrivateKey(bytes([i, 1]) * 16).public) for i in range(LIMIT + 1)]
    names = [f"n{i}" for i in range(LIMIT + 1)]
    witnesses = {name: (key, None) for name, key in zip(names, keys, strict=True)}
    logs = tuple((VerifierKey(f"l{i}", ED25519, key.key), None) for i, key in enumerate(keys))
    del witnesses[names[-1]]
    policy = Policy(logs[:-1], witnesses, Group(LIMIT, tuple(names[:-1])))
    assert parse_policy(policy.text) == policy
    with pytest.raises(Malformed):
        Policy(logs, witnesses, policy.quorum)
    with pytest.raises(Malformed):
        Policy(logs[:-1], {**witnesses, "one": (keys[-1], None)}, policy.quorum)


def test_groups_nest_as_deep_as_the_limit() -> None:
    lines = ["group g0 any w0"] + [f"group g{i} any g{i - 1}" for i in range(1, LIMIT)]
    text = "\n".join([*lines, f"quorum g{LIMIT - 1}", ""]).encode()
    group = parse_group_lines(text, frozenset(NAMES))
    assert group is not None
    assert group.satisfying(frozenset(NAMES)) == {"w0"}
    policy = Policy(POLICY.logs, POLICY.witnesses, group)
    assert parse_policy(policy.text) == policy


W0, W1 = VKEYS["w0"], VKEYS["w1"]
ONE = Group(1, ("a",))


@pytest.mark.parametrize(
    ("logs", "witnesses", "quorum"),
    [
        ((W0,), {"a": W1}, ONE),
        ((LOG_KEY,), {"a": LOG_KEY}, ONE),
        ((LOG_KEY, LOG_KEY), {"a": W0}, ONE),
        ((LOG_KEY, VerifierKey("other", ED25519, LOG.public)), {"a": W0}, ONE),
        ((LOG_KEY,), {"a": W0, "b": W0}, ONE),
        ((LOG_KEY,), {"a": W0, "b": VerifierKey("other", COSIGNATURE, W0.key)}, ONE),
        ((LOG_KEY,), {"a": W0}, Group(1, ("b",))),
        ((LOG_KEY,), {"a": W0, "none": W1}, ONE),
        ((LOG_KEY,), {"a": W0, "b c": W1}, ONE),
        ((LOG_KEY,), {"a": W0, "": W1}, ONE),
        ((LOG_KEY,), {"a": W0, "b\n": W1}, ONE),
        ((LOG_KEY,), {"a": W0, "\ud800": W1}, ONE),
        ((LOG_KEY,), {"a": W0, "\x7f": W1}, ONE),
        ((VerifierKey("log\x7f", ED25519, LOG.public),), {"a": W0}, ONE),
    ],
)
def test_there_is_no_such_policy(
    logs: tuple[VerifierKey, ...], witnesses: dict[str, VerifierKey], quorum: Group
) -> None:
    with pytest.raises(Malformed):
        Policy(tuple((k, None) for k in logs), {n: (k, None) for n, k in witnesses.items()}, quorum)


@pytest.mark.parametrize("url", ["", "https://a b", "https://a\nquorum none", "\x00"])
def test_a_policy_has_no_such_url(url: str) -> None:
    with pytest.raises(Malformed):
        Policy(((LOG_KEY, url),), {"a": (W0, None)}, ONE)
    with pytest.raises(Malformed):
        Policy(((LOG_KEY, None),), {"a": (W0, url)}, ONE)


def test_two_keys_of_one_name_and_id_are_no_policy() -> None:
    one, two = (VerifierKey("a", ED25519, PrivateKey(i.to_bytes(32)).public) for i in (77213, 80252))
    with pytest.raises(Malformed):
        Policy(((one, None), (two, None)), {"a": (W0, None)}, ONE)


# --- cosigned checkpoints


def test_every_set_of_witnesses() -> None:
    for present in subsets(frozenset(NAMES)):
        data = signed(*((name, 1000 + i) for i, name in enumerate(NAMES) if name in present)).encode()
        if len(present) >= 5:
            cosigned = verify_cosigned(data, POLICY)
            assert (cosigned.checkpoint, cosigned.witnesses) == (CHECKPOINT, present)
            assert cosigned.note.encode() == data
        else:
            with refused(Reason.NO_QUORUM):
                verify_cosigned(data, POLICY)


@pytest.mark.parametrize(
    ("times", "median"),
    [
        ((1, 2, 3, 4, 5), 3),
        ((5, 4, 3, 2, 1), 3),
        ((1, 2, 3, 4, 5, 6), 3),  # an even number: the lower of the two
        ((7, 7, 7, 7, 7), 7),
        ((1, 1, 100, 2**63 - 1, 2**63 - 1), 100),  # two liars either way do not move it past an honest time
        ((98, 99, 100, 2**63 - 1, 2**63 - 1), 100),
    ],
)
def test_the_time_is_the_lower_median(times: tuple[int, ...], median: int) -> None:
    data = signed(*zip(NAMES, times, strict=False)).encode()
    assert verify_cosigned(data, POLICY).time == median


def test_only_witnesses_of_the_quorum_tell_the_time() -> None:
    # w5 and w6 are witnesses of the policy, yet outside its quorum: nobody vouches for their clocks.
    policy = Policy(POLICY.logs, POLICY.witnesses, Group(1, (Group(2, ("w0", "w1", "w2")), Group(2, ("w3", "w4")))))
    cosigned = verify_cosigned(signed(("w0", 10), ("w1", 20), ("w3", 30), ("w5", 40), ("w6", 50)).encode(), policy)
    assert (cosigned.time, cosigned.witnesses) == (10, {"w0", "w1"})


def test_the_order_of_lines_does_not_matter() -> None:
    note = signed(*((name, 1000 + i) for i, name in enumerate(NAMES)))
    turned = verify_cosigned(Note(note.text, note.lines[::-1]).encode(), POLICY)
    assert (turned.time, turned.witnesses) == (1003, frozenset(NAMES))


def test_one_key_under_many_names_is_one_witness() -> None:
    data = signed(("w0", 1)).with_lines(*(cosign(TEXT, f"alias{i}", KEYS["w0"], 1) for i in range(6))).encode()
    with refused(Reason.NO_QUORUM):
        verify_cosigned(data, POLICY)


def test_one_witness_twice_is_refused() -> None:
    with refused(Reason.DUPLICATE):
        verify_cosigned(signed(*((name, 1) for name in NAMES), ("w0", 2)).encode(), POLICY)


def test_a_party_with_two_keys_counts_once_through_a_group() -> None:
    # One party's Ed25519 and later ML-DSA keys are two witnesses; the group makes them one.
    policy = Policy(POLICY.logs, POLICY.witnesses, Group(2, (Group(1, ("w0", "w1")), "w2", "w3")))
    with refused(Reason.NO_QUORUM):
        verify_cosigned(signed(("w0", 1), ("w1", 1)).encode(), policy)
    assert verify_cosigned(signed(("w0", 1), ("w2", 1)).encode(), policy).witnesses == {"w0", "w2"}


def test_a_bad_line_of_any_known_key_condemns_the_note() -> None:
    good = signed(*((name, 1) for name in NAMES))
    for i in range(len(good.lines)):
        line = good.lines[i]
        bad = SignatureLine(line.name, line.key_id, line.blob[:-1] + bytes([line.blob[-1] ^ 1]))
        with refused(Reason.FORGED):
            verify_cosigned(Note(TEXT, (*good.lines[:i], bad, *good.lines[i + 1 :])).encode(), POLICY)


def test_the_log_must_sign() -> None:
    note = signed(*((name, 1) for name in NAMES))
    with refused(Reason.MISSING):
        verify_cosigned(Note(TEXT, note.lines[1:]).encode(), POLICY)
    with refused(Reason.NO_QUORUM):
        verify_cosigned(sign_note(TEXT, "stranger", LOG).encode(), POLICY)
    foreign = sign_note(Checkpoint("other.example", 1, bytes(32)).text, "log.example", LOG)
    with refused(Reason.FOREIGN):
        verify_cosigned(foreign.encode(), POLICY)


def test_nobody_signs_for_the_log() -> None:
    # Neither another log of the policy nor a witness that bears the log's name.
    other = VerifierKey("other.example", ED25519, PrivateKey(b"o" * 32).public)
    double = VerifierKey("log.example", COSIGNATURE, PrivateKey(b"d" * 32).public)
    policy = Policy((*POLICY.logs, (other, None)), {**POLICY.witnesses, "double": (double, None)}, POLICY.quorum)
    lines = signed(*((name, 1) for name in NAMES)).lines[1:]
    by_other = sign_note(TEXT, "other.example", PrivateKey(b"o" * 32)).lines[0]
    by_double = cosign(TEXT, "log.example", PrivateKey(b"d" * 32), 1)
    for line in (by_other, by_double):
        with refused(Reason.MISSING):
            verify_cosigned(Note(TEXT, (line, *lines)).encode(), policy)


def test_a_note_that_is_no_checkpoint_is_malformed() -> None:
    with pytest.raises(Malformed):
        verify_cosigned(sign_note(b"log.example\nhello\n", "log.example", LOG).encode(), POLICY)
    with pytest.raises(Malformed):
        verify_cosigned(b"log.example\n", POLICY)


@given(st.data())
def test_a_bent_checkpoint_is_never_another_one(data: st.DataObject) -> None:
    good = signed(*((name, 1000 + i) for i, name in enumerate(NAMES))).encode()
    at = data.draw(st.integers(0, len(good) - 1))
    bent = bytearray(good)
    bent[at] ^= data.draw(st.integers(1, 255))
    try:
        cosigned = verify_cosigned(bytes(bent), POLICY)
    except (Malformed, Refused):
        return
    # What passes has lost a line to an unknown name or id; the checkpoint is the one that was signed.
    assert cosigned.checkpoint == CHECKPOINT
    assert len(cosigned.witnesses) == len(NAMES) - 1
