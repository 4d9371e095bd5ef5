from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.exact import scaled, scaled_integers, seconds_to_nanos

INT64 = 2**63


@given(st.lists(st.integers(-INT64, INT64 - 1), max_size=20))
def test_every_number_on_the_wire_survives_its_text(numbers: list[int]) -> None:
    texts = [f"{Decimal(number).scaleb(-8):f}" for number in numbers]
    assert scaled(texts, "price").to_pylist() == numbers


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**12), max_value=10**12))
def test_what_does_not_fit_exactly_is_refused_and_never_rounded(number: Decimal) -> None:
    exact = number.scaleb(8)
    fits = exact == exact.to_integral_value() and -INT64 <= exact < INT64
    if fits:
        assert scaled([f"{number:f}"], "price").to_pylist() == [int(exact)]
    else:
        with pytest.raises(CaptureInvalid, match="price"):
            scaled([f"{number:f}"], "price")


@pytest.mark.parametrize(
    "text", ["", " 1", "1_0", "0x10", "nan", "inf", "1.123456789", "9" * 40, "92233720368.54775808"]
)
def test_damage_is_refused(text: str) -> None:
    with pytest.raises(CaptureInvalid, match="size"):
        scaled(["1.5", text], "size")


def test_nulls_stay_and_trailing_zeros_are_no_digits() -> None:
    assert scaled([None, "1.5000000000000"], "price").to_pylist() == [None, 150_000_000]


def test_integers_of_a_venue_scale() -> None:
    assert scaled_integers(np.array([494_100]), 10_000, "bid").to_pylist() == [4_941_000_000]
    with pytest.raises(CaptureInvalid, match="64 bits"):
        scaled_integers(np.array([2**60]), 10_000, "bid")
    with pytest.raises(CaptureInvalid, match="64 bits"):
        scaled_integers(np.array([-(2**63)]), 10_000, "bid")


def test_seconds_in_text_keep_every_digit() -> None:
    nanos, finer = seconds_to_nanos(["1618678142.557535", "1618678142", "1618678142.5575350"], "time")
    assert nanos.tolist() == [1_618_678_142_557_535_000, 1_618_678_142_000_000_000, 1_618_678_142_557_535_000]
    assert finer.tolist() == [False, False, True]
