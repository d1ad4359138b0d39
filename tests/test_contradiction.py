"""Contradictions: what proves a log or a witness at fault to anybody, and what proves nothing against an honest one."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.contradiction import Fault, contradiction, faults, read_contradiction
from brakeline.core.encoding import canonical, sha256
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from brakeline.core.keys import PrivateKey
from brakeline.core.tlog.checkpoint import Checkpoint, cosign, parse_checkpoint
from brakeline.core.tlog.merkle import leaf_hash, root
from brakeline.core.tlog.note import COSIGNATURE, ED25519, VerifierKey, parse_note, sign_note
from brakeline.core.tlog.policy import Group, Policy
from brakeline.core.tlog.receipt import Receipt, is_receipt, parse_receipt, sign_receipt, verify_receipt

ORIGIN = "log.example/one"
LOG = PrivateKey(sha256(b"log"))
WITNESSES = {name: PrivateKey(sha256(name.encode())) for name in ("w1", "w2", "w3", "w4")}
POLICY = Policy(
    ((VerifierKey(ORIGIN, ED25519, LOG.public), None),),
    {name: (VerifierKey(name, COSIGNATURE, key.public), None) for name, key in WITNESSES.items()},
    Group(3, tuple(WITNESSES)),
)
ALL = tuple(WITNESSES)
HONEST = [leaf_hash(b"entry %d" % n) for n in range(40)]


def note(leaves: list[bytes], times: dict[str, int], key: PrivateKey = LOG, origin: str = ORIGIN) -> bytes:
    text = Checkpoint(origin, len(leaves), root(leaves)).text
    signed = sign_note(text, origin, key)
    return signed.with_lines(*(cosign(text, name, WITNESSES[name], t) for name, t in times.items())).encode()


def at(time: int, *names: str) -> dict[str, int]:
    return dict.fromkeys(names or ALL, time)


def forked(place: int, size: int) -> list[bytes]:
    return [*HONEST[:place], leaf_hash(b"another"), *HONEST[place + 1 : size]]


# Two histories


def test_two_roots_of_one_size_name_all_who_signed_both() -> None:
    found = contradiction(note(HONEST[:9], at(100, "w1", "w2", "w3")), note(forked(4, 9), at(101, "w2", "w3", "w4")))
    assert faults(found, POLICY) == (
        Fault("log", ORIGIN, "signed two histories, of 9 entries"),
        Fault("witness", "w2", "cosigned two histories, of 9 entries"),
        Fault("witness", "w3", "cosigned two histories, of 9 entries"),
    )
    assert read_contradiction(found.encode()) == found


@pytest.mark.parametrize("order", [1, -1])
def test_a_smaller_tree_that_the_larger_does_not_begin_with(order: int) -> None:
    leaves = forked(3, 20)
    notes = [note(HONEST[:9], at(100, "w1", "w2")), note(leaves, at(101, "w2", "w3"))][::order]
    found = contradiction(notes[0], notes[1], leaves)
    assert [f.who for f in faults(found, POLICY)] == [ORIGIN, "w2"]
    # Without the entries the two say nothing against one another.
    assert faults(contradiction(notes[0], notes[1]), POLICY) == ()


def test_who_signed_one_of_two_histories_is_not_at_fault() -> None:
    stranger = note(forked(4, 9), at(101, "w1"), key=PrivateKey(sha256(b"thief")))
    with pytest.raises(Refused) as e:  # a line of the log's name that its key did not make is no line of the log's
        faults(contradiction(note(HONEST[:9], at(100, "w2")), note(forked(4, 9), {}, key=WITNESSES["w1"])), POLICY)
    assert e.value.reason is Reason.NO_QUORUM
    assert faults(contradiction(note(HONEST[:9], at(100, "w2")), stranger), POLICY) == ()


def test_notes_of_two_logs_do_not_contradict_each_other() -> None:
    other = note(forked(2, 9), at(100), origin="log.example/two")
    with pytest.raises(Refused) as e:
        faults(contradiction(note(HONEST[:9], at(100)), other), POLICY)
    assert e.value.reason is Reason.FOREIGN


# A witness that goes backwards


def test_a_witness_that_cosigned_less_at_a_later_time() -> None:
    large, small = note(HONEST[:20], at(100, "w1", "w2")), note(HONEST[:10], {"w1": 160, "w2": 99})
    (fault,) = faults(contradiction(large, small), POLICY)
    text = "cosigned 20 entries at 100, and 10 at 160: its memory or its clock went back"
    assert fault == Fault("witness", "w1", text)
    assert faults(contradiction(large, note(HONEST[:10], at(100))), POLICY) == ()  # within one second


# A log that breaks its word


def receipt(index: int = 12, leaf: bytes = HONEST[12], until: int = 200) -> bytes:
    return sign_receipt(Receipt(ORIGIN, index, leaf, until), LOG).encode()


def test_another_entry_stands_where_one_was_promised() -> None:
    leaves = forked(12, 30)
    found = contradiction(receipt(), note(leaves, at(150)), leaves)
    text = "promised an entry 12, and published another one in its place"
    assert faults(found, POLICY) == (Fault("log", ORIGIN, text),)
    honest = contradiction(receipt(), note(HONEST[:30], at(999)), HONEST[:30])
    assert faults(honest, POLICY) == ()


def test_a_promise_that_was_not_kept_in_time() -> None:
    (fault,) = faults(contradiction(receipt(), note(HONEST[:12], at(201))), POLICY)
    assert fault == Fault("log", ORIGIN, "promised to publish entry 12 until 200, and at 201 had published 12 entries")
    assert faults(contradiction(receipt(), note(HONEST[:12], at(200))), POLICY) == ()
    with pytest.raises(Refused) as e:  # what no quorum cosigned tells no time
        faults(contradiction(receipt(), note(HONEST[:12], at(900, "w1", "w2"))), POLICY)
    assert e.value.reason is Reason.NO_QUORUM


def test_nobody_else_promises_for_a_log() -> None:
    forged = sign_receipt(Receipt(ORIGIN, 12, leaf_hash(b"mine"), 200), WITNESSES["w1"]).encode()
    with pytest.raises(Refused):
        faults(contradiction(forged, note(HONEST[:30], at(150)), HONEST[:30]), POLICY)
    foreign = sign_receipt(Receipt("log.example/two", 12, leaf_hash(b"mine"), 200), LOG).encode()
    with pytest.raises(Refused):
        faults(contradiction(foreign, note(HONEST[:30], at(150)), HONEST[:30]), POLICY)


def test_a_receipt_is_no_checkpoint_and_a_checkpoint_no_receipt() -> None:
    data = receipt()
    assert is_receipt(data)
    assert verify_receipt(data, POLICY.logs[0][0]) == Receipt(ORIGIN, 12, HONEST[12], 200)
    with pytest.raises(Malformed):
        parse_checkpoint(parse_note(data).text)
    with pytest.raises(Malformed):
        parse_receipt(parse_note(note(HONEST[:3], {})).text)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_receipt_has_one_form(text: bytes) -> None:
    for data in (text, parse_note(receipt()).text[:21] + text):
        try:
            found = parse_receipt(data)
        except Malformed:
            continue
        assert found.text == data


# Nobody honest


@given(st.data())
def test_nothing_proves_an_honest_log_or_witness_at_fault(data: st.DataObject) -> None:
    """Whoever has all that they ever signed, and puts any proof beside it."""
    sizes = sorted(data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=2)))
    times = sorted(data.draw(st.lists(st.integers(100, 900), min_size=2, max_size=2)))
    names = data.draw(st.lists(st.sampled_from(ALL), unique=True))
    signed = [note(HONEST[:n], at(t, *names) if names else {}) for n, t in zip(sizes, times, strict=True)]
    promised = data.draw(st.booleans())
    index = data.draw(st.integers(0, 39))
    first = receipt(index, HONEST[index], 2000) if promised else signed[0]
    found = contradiction(first, signed[1], HONEST[: sizes[1]])
    wrong = data.draw(st.sampled_from(["", leaf_hash(b"another").hex(), root(HONEST[:2]).hex(), found.have]))
    shown = data.draw(st.sampled_from([found.hashes, (), found.hashes[:-1], found.hashes[::-1]]))
    built = json.loads(found.encode()) | {"have": wrong, "hashes": list(shown)}
    for each in (found.encode(), canonical(built)):
        with suppress(BrakelineError):  # too little to say anything
            assert faults(read_contradiction(each), POLICY) == ()


@given(st.binary(max_size=300))
def test_rubbish_is_no_contradiction(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_contradiction(data)


def test_leaves_of_another_tree_are_not_taken() -> None:
    with pytest.raises(Malformed):
        contradiction(note(HONEST[:9], at(1)), note(HONEST[:12], at(2)), forked(3, 12))
    assert replace(Receipt(ORIGIN, 0, HONEST[0], 1), index=3).index == 3
