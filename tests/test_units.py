"""Quantities: what is read is exact, what is shown exactly is read back as the same value."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brakeline.core import units
from brakeline.core.errors import Malformed


def test_no_float_stands_between_text_and_compute() -> None:
    assert units.flop("123456789012345678901234567890123 FLOP") == 123456789012345678901234567890123
    assert units.flop("1e25 FLOP") == 10**25
    assert units.flop("1e60 FLOP") == 10**60
    for text in ("1.0000000000000000000000000000001 TFLOP", "0.5 FLOP", "1e61 FLOP", "1 flop", "1FLOP", "-1 FLOP"):
        with pytest.raises(Malformed):
            units.flop(text)


@pytest.mark.parametrize("power", range(7))
def test_every_prefix_of_compute_and_rate(power: int) -> None:
    unit = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")[power]
    assert units.flop(f"1.5e3 {unit}") == 1500 * 1000**power
    assert units.rate(f"1.5e3 {unit}/s") == 1500 * 1000**power


def test_rates_are_no_amounts() -> None:
    assert units.rate("1e20 FLOP/s") == 10**20
    for text in ("1e20 FLOP", "1e20 FLOPs", "1e20 FLOP/h", "0.5 FLOP/s", "1e61 FLOP/s", "1e20FLOP/s"):
        with pytest.raises(Malformed):
            units.rate(text)
    with pytest.raises(Malformed, match="amount of compute"):
        units.flop("1e20 FLOP/s")


def test_durations() -> None:
    assert [units.seconds(x) for x in ("90 s", "1.5 min", "72 h", "365 d", "0 s")] == [90, 90, 259_200, 31_536_000, 0]
    for text in ("0.5 s", "1 m", "1 hour", "1h", "3"):
        with pytest.raises(Malformed):
            units.seconds(text)


def test_sizes() -> None:
    read = {"7 B": 7, "2 kB": 2000, "1.5 MB": 1_500_000, "64 KiB": 65_536, "1 MiB": 1 << 20, "0.5 GiB": 1 << 29}
    assert {text: units.size(text) for text in read} == read
    for text in ("0.5 B", "1 mb", "1 MiB/s", "1", "-1 B", "1e61 B"):
        with pytest.raises(Malformed):
            units.size(text)


def test_shares_are_exact_beyond_the_digits_of_a_division() -> None:
    assert units.fraction("5 %") == Decimal("0.05")
    long = "12.34567890123456789012345678901234567890"
    assert str(units.fraction(f"{long} %")) == "0.1234567890123456789012345678901234567890"
    for text in ("100.00000000000000000000000000000000001 %", "1e3 %", "0.05", "5%"):
        with pytest.raises(Malformed):
            units.fraction(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP"),
        (1000, "1000 FLOP"),
        (1_234_567, "1234567 FLOP"),
        (10**6, "1e6 FLOP"),
        (10**10, "1e10 FLOP"),
        (17 * 10**10, "1.7e11 FLOP"),
        (9996 * 10**20, "9.996e23 FLOP"),
        (10**24 + 1, "1000000000000000000000001 FLOP"),
    ],
)
def test_compute_is_shown_exactly(value: int, text: str) -> None:
    assert units.show_flop(value) == text
    assert units.show_rate(value) == f"{text}/s"


@given(st.integers(0, 10**60) | st.builds(lambda d, e: d * 10**e, st.integers(0, 99_999), st.integers(0, 55)))
@example(10**60)
@example(10**60 - 1)
def test_what_is_shown_exactly_is_read_back(value: int) -> None:
    assert units.flop(units.show_flop(value)) == value
    assert units.rate(units.show_rate(value)) == value


def test_tables_round() -> None:
    assert [units.about_flop(x) for x in (999, 1000, 10**25, 9996 * 10**20)] == [
        "999 FLOP",
        "1.00e+03 FLOP",
        "1.00e+25 FLOP",
        "1.00e+24 FLOP",
    ]
