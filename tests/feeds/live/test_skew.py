import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.feeds.capture.block import wire_batch
from k2_dagster.feeds.live.skew import WINDOW_ROWS, SkewMeter
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD

MICROS = 1_723_161_253_937_085


def quotes(differences: list[int | None], source: str | None = None) -> pa.RecordBatch:
    """Quotes received this many microseconds after they happened; None: without a receive time."""
    count = len(differences)
    fixed = {"exchange": "x", "stream": "s", "kind": "quote", "symbol": "A", TIME_SOURCE_FIELD: source}
    received = pa.array([None if one is None else MICROS + one for one in differences], pa.int64())
    times = {"exchange_timestamp": pa.array([MICROS] * count, pa.int64()), "receive_timestamp": received}
    return wire_batch("quotes", count, fixed | times)


def test_before_any_row_nothing_is_told() -> None:
    meter = SkewMeter()
    assert meter.skew is None
    meter.add(quotes([5], RECEIVER_CLOCK))
    meter.add(quotes([None]))
    assert meter.skew is None


@settings(deadline=None)
@given(
    differences=st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=50), cut=st.integers(0, 50),
)  # fmt: skip
def test_it_is_the_same_however_rows_are_batched(differences: list[int], cut: int) -> None:
    meter = SkewMeter()
    for part in (differences[:cut], differences[cut:]):
        meter.add(quotes(list(part)))
    skew = meter.skew
    assert skew is not None
    assert skew.rows == len(differences)
    assert skew.least_milliseconds == min(differences) / 1000
    assert skew.median_milliseconds == pytest.approx(float(np.median(differences)) / 1000)


def test_the_median_is_of_the_newest_rows_and_the_least_of_all() -> None:
    meter = SkewMeter()
    meter.add(quotes([-7_000] * 10))
    meter.add(quotes([2_000] * WINDOW_ROWS))
    skew = meter.skew
    assert skew is not None
    assert (skew.median_milliseconds, skew.least_milliseconds, skew.rows) == (2.0, -7.0, WINDOW_ROWS + 10)
