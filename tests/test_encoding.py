"""The one encoding: every reader accepts exactly what its writer writes."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brakeline.core.encoding import (
    Wire,
    b64decode,
    b64encode,
    canonical,
    convert,
    decimal,
    parse,
    parse_json,
    sha256,
    tagged,
    unhex32,
)
from brakeline.core.errors import BrakelineError, Malformed, Reason, Refused
from vector import Vector, load

# A whole number from 2**53 on reads as an integer that JSON readers disagree on.
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: abs(x) < 2**53 or abs(x) >= 1e21)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | FLOATS | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=12,
)


class Inner(Wire, frozen=True):
    name: str


class Sample(Wire, frozen=True):
    count: int
    share: float
    tags: tuple[str, ...]
    inner: Inner | None
    extra: dict[str, Any]


SAMPLES = st.builds(
    Sample,
    count=st.integers(-(2**53) + 1, 2**53 - 1),
    share=FLOATS,
    tags=st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
    inner=st.none() | st.builds(Inner, name=st.text(st.characters(codec="utf-8"))),
    extra=st.dictionaries(st.text(st.characters(codec="utf-8")), JSON),
)


# --- base64


@load("base64", 18)
def test_base64_vectors(v: Vector) -> None:
    with v.expected():
        data = b64decode(v.bytes("text"))
        assert data.hex() == v.output["hex"]
        assert b64encode(data).encode() == v.bytes("text")


@given(st.binary())
def test_base64_is_read_back(data: bytes) -> None:
    assert b64decode(b64encode(data)) == b64decode(b64encode(data).encode()) == data


@given(st.text("AB/+=- \n", max_size=9) | st.text(max_size=9))
def test_base64_is_malformed_or_read_back(text: str) -> None:
    try:
        data = b64decode(text)
    except Malformed:
        return
    assert b64encode(data) == text


def test_base64_of_half_a_surrogate_pair_is_malformed() -> None:
    with pytest.raises(Malformed):
        b64decode("\ud800")


# --- decimals


@load("decimal", 21)
def test_decimal_vectors(v: Vector) -> None:
    with v.expected():
        assert decimal(v.bytes("text")) == int(v.output["value"])


@given(st.integers(0, 2**63 - 1))
def test_decimals_are_read_back(value: int) -> None:
    assert decimal(b"%d" % value) == value


@given(st.binary(max_size=6) | st.text("01_ +-.e\n٣", max_size=6).map(str.encode))
@example(b" 1_0\n")
@example("٣".encode())
def test_decimals_are_malformed_or_read_back(text: bytes) -> None:
    try:
        value = decimal(text)
    except Malformed:
        return
    assert b"%d" % value == text


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_decimals_are_bounded(value: int, bound: int) -> None:
    if value <= bound:
        assert decimal(b"%d" % value, bound=bound) == value
    else:
        with pytest.raises(Malformed):
            decimal(b"%d" % value, bound=bound)


# --- canonical JSON


@load("json", 37)
def test_json_vectors(v: Vector) -> None:
    data = v.bytes("text")
    with v.expected():
        assert canonical(parse_json(data)) == data


@given(JSON)
def test_json_is_read_back(value: Any) -> None:
    data = canonical(value)
    assert canonical(parse_json(data)) == data
    assert parse_json(data) == json.loads(data) == value


@given(st.binary() | JSON.map(canonical), st.data())
def test_json_is_malformed_or_read_back(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, len(data)))
    junk = more.draw(st.sampled_from([b"", b" ", b"\n", b"0", b".0", b"\\u0061", b"{", b",", b"\x00", b"\xff"]))
    for candidate in (data, data[:at] + junk + data[at:], data[:at] + junk + data[at + 1 :]):
        try:
            value = parse_json(candidate)
        except Malformed:
            continue
        assert canonical(value) == candidate


@given(JSON)
def test_json_written_otherwise_is_malformed(value: Any) -> None:
    data = canonical(value)
    for other in (json.dumps(value).encode(), json.dumps(value, indent=1).encode(), msgspec.json.encode(value)):
        if other != data:
            with pytest.raises(Malformed):
                parse_json(other)


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), float("nan"), float("inf"), "\ud800", {"\udfff": 1}, {1: 2}, {None: 1}, 1j],
    ids=repr,
)
def test_what_json_cannot_say_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        canonical(value)


@pytest.mark.parametrize("value", [2.0**53, -(2.0**53), 1e16, 1e20])
def test_whole_floats_beyond_53_bits_never_arrive(value: float) -> None:
    with pytest.raises(Malformed):
        parse_json(canonical(value))


def test_what_is_too_deep_is_malformed() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Malformed):
        canonical(value)
    with pytest.raises(Malformed):
        parse_json(b"[" * 100_000 + b"]" * 100_000)


# --- wire values


@given(SAMPLES)
def test_wire_values_are_read_back(sample: Sample) -> None:
    data = canonical(sample)
    assert canonical(parse(data, Sample)) == data
    # JSON has one number type: a whole float comes back as the integer it is written as, and equal to it.
    assert parse(data, Sample) == sample


GOOD = {"count": 1, "share": 0.5, "tags": ["a"], "inner": {"name": "n"}, "extra": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"count": 1.5},
        {"count": "1"},
        {"count": True},
        {"count": None},
        {"share": "0.5"},
        {"share": True},
        {"tags": "a"},
        {"tags": [1]},
        {"tags": {"a": "b"}},
        {"inner": {}},
        {"inner": {"name": "n", "more": 1}},
        {"inner": []},
        {"extra": []},
        {"unknown": 1},
    ],
    ids=str,
)
def test_wire_values_are_strict(change: dict[str, Any]) -> None:
    assert parse(canonical(GOOD), Sample).count == 1
    with pytest.raises(Malformed):
        parse(canonical({**GOOD, **change}), Sample)


@pytest.mark.parametrize("field", GOOD)
def test_wire_values_have_no_defaults(field: str) -> None:
    with pytest.raises(Malformed):
        parse(canonical({k: v for k, v in GOOD.items() if k != field}), Sample)


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(Malformed, match=r"inner\.name"):
        convert({**GOOD, "inner": {"name": 1}}, Sample)


def test_too_deep_a_value_is_malformed_as_a_wire_value() -> None:
    value: Any = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(Malformed):
        convert({**GOOD, "extra": value}, list[int])


# --- digests


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", " " + "0" * 63, "0x" + "0" * 62, "٣" * 64]
)
def test_a_digest_is_64_lowercase_hex_digits(text: str) -> None:
    with pytest.raises(Malformed):
        unhex32(text)


@given(st.binary(min_size=32, max_size=32))
def test_a_digest_is_read_back(data: bytes) -> None:
    assert unhex32(data.hex()) == data


@given(st.lists(st.binary()))
def test_sha256_is_of_the_concatenation(parts: list[bytes]) -> None:
    assert sha256(*parts) == hashlib.sha256(b"".join(parts)).digest()


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_tagged_hashes_differ_where_the_parts_do(a: list[bytes], b: list[bytes]) -> None:
    assert (tagged("t", *a) == tagged("t", *b)) == (a == b)
    assert tagged("t", *a) != tagged("u", *a)


# --- errors


def test_errors_are_cut_by_who_must_act() -> None:
    with pytest.raises(TypeError):
        BrakelineError("nobody in particular")
    error = Refused(Reason.STALE, "too old", hint="fetch a newer one")
    assert (error.reason, str(error), error.hint) == (Reason.STALE, "too old", "fetch a newer one")
    assert Malformed("bytes").hint == ""
