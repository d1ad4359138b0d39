import math
import struct
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brakeline.core.encoding import canonical, parse
from brakeline.core.errors import BrakelineError, Malformed, Misuse
from brakeline.core.transcript import LEAF_BYTES, NONE, Head, Leaf, Segments, decode_leaf

digests = st.binary(min_size=32, max_size=32)
steps = st.integers(1, 2**64 - 1)
leaves = st.builds(Leaf, steps, digests, digests, digests, st.floats(), st.integers(0, 2**128 - 1))


@given(leaves)
def test_a_leaf_has_128_bytes_and_reads_back_as_itself(leaf):
    data = leaf.encode()
    assert len(data) == LEAF_BYTES
    assert decode_leaf(data) == leaf
    assert decode_leaf(data).encode() == data


@given(st.binary(min_size=120, max_size=136) | st.binary(min_size=128, max_size=128))
def test_bytes_either_fail_or_are_the_only_encoding_of_a_leaf(data):
    try:
        leaf = decode_leaf(data)
    except Malformed:
        return
    assert leaf.encode() == data


def test_the_layout_is_fixed():
    leaf = Leaf(7, b"s" * 32, b"b" * 32, b"p" * 32, 1.5, 2**100 + 3)
    expected = (7).to_bytes(8, "big") + b"s" * 32 + b"b" * 32 + b"p" * 32
    assert leaf.encode() == expected + struct.pack(">d", 1.5) + (2**100 + 3).to_bytes(16, "big")


def test_a_diverged_loss_is_recorded_with_one_nan():
    leaf = Leaf(1, NONE, NONE, NONE, math.nan, 1)
    negative_nan = struct.unpack(">d", bytes.fromhex("fff8000000000000"))[0]
    assert leaf == Leaf(1, NONE, NONE, NONE, negative_nan, 1)
    data = bytearray(leaf.encode())
    data[111] ^= 1
    with pytest.raises(Malformed, match="NaN"):
        decode_leaf(bytes(data))


def test_equality_is_that_of_bytes():
    assert Leaf(1, NONE, NONE, NONE, 0.0, 1) != Leaf(1, NONE, NONE, NONE, -0.0, 1)
    assert len({Leaf(1, NONE, NONE, NONE, 1.0, 1), Leaf(1, NONE, NONE, NONE, 1.0, 1)}) == 1
    assert Leaf(1, NONE, NONE, NONE, 1.0, 1) != "a leaf"


@pytest.mark.parametrize(
    "fields",
    [
        (-1, NONE, NONE, NONE, 0.0, 0),
        (2**64, NONE, NONE, NONE, 0.0, 0),
        (1, NONE[:-1], NONE, NONE, 0.0, 0),
        (1, NONE, NONE, NONE, 0.0, -1),
        (1, NONE, NONE, NONE, 0.0, 2**128),
        (0, NONE, b"b" * 32, NONE, 0.0, 0),
        (0, NONE, NONE, b"p" * 32, 0.0, 0),
        (0, NONE, NONE, NONE, -0.0, 0),
        (0, NONE, NONE, NONE, 0.0, 1),
    ],
)
def test_impossible_leaves_are_refused(fields):
    with pytest.raises(Malformed):
        Leaf(*fields)


HEAD = {"run": "r", "steps": 60, "root": "0a" * 32, "state": "0b" * 32, "flop": str(10**30), "status": "running"}


def test_a_head_travels():
    head = Head(**HEAD)
    assert parse(canonical(head), Head) == head


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1},
        {"steps": 2**53},
        {"root": "0A" * 32},
        {"state": "00"},
        {"flop": "1e3"},
        {"flop": "01"},
        {"flop": "٣"},
        {"flop": str(2**128)},
        {"status": "paused"},
        {"more": 1},
    ],
)
def test_a_crooked_head_is_malformed(change):
    with pytest.raises(BrakelineError) as e:
        parse(canonical({**HEAD, **change}), Head)
    assert isinstance(e.value, Malformed)


@given(st.integers(0, 500), st.integers(1, 60), st.lists(st.integers(-3, 520), max_size=6))
def test_segments_tile_the_steps(total, length, cuts):
    cuts = tuple(sorted(set(cuts)))
    found = Segments(total, length, cuts)
    parts = list(found)
    assert len(parts) == len(found)
    assert [step for start, end in parts for step in range(start, end)] == list(range(total))
    starts = {*range(0, total, length), *(c for c in cuts if 0 < c < total)}
    assert {start for start, _ in parts} == starts
    for step in range(-1, total + 2):
        assert found.whole(step) == next((part for part in parts if part[0] == step), None)
    for step in range(1, total):
        before, after = found.around(step)
        assert parts[before][0] < step <= parts[before][1]
        assert parts[after][0] <= step < parts[after][1]


@pytest.mark.parametrize("arguments", [(-1, 5), (5, 0), (5, -1)])
def test_segments_of_nothing_are_a_mistake(arguments):
    with pytest.raises(Misuse):
        Segments(*arguments)


def test_a_run_that_claims_2_to_the_53_steps_costs_nothing_to_cut():
    found = Segments(2**53 - 1, 3, (5, 2**52))
    assert len(found) == (2**53 - 1 + 2) // 3 + 2
    assert list(islice(found, 3)) == [(0, 3), (3, 5), (5, 6)]
    assert found[-1] == (2**53 - 2, 2**53 - 1)


def test_a_step_made_again_differs_in_what_a_replay_recomputes():
    said = Leaf(3, bytes([1] * 32), bytes([2] * 32), bytes([3] * 32), math.nan, 300)
    assert said.difference(said) == ""
    assert replace(said, permit=NONE, flop=0).difference(said) == "", "which no replay can know"
    assert replace(said, loss=0.0).difference(said) == "loss"
    assert replace(said, state=NONE, loss=0.0).difference(said) == "state"
    assert replace(said, batch=NONE, state=NONE).difference(said) == "batch"
