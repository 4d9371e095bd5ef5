import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.capture.pacing import WINDOW_SECONDS, Pace

START = 1_700_000_000_000_000
TIME = pa.timestamp("us", "UTC")


def _rows(micros: list[int], *, received: bool = True) -> pa.RecordBatch:
    times, missing = pa.array(micros, TIME), pa.nulls(len(micros), TIME)
    return pa.record_batch(
        {"receive_timestamp": times if received else missing, "exchange_timestamp": missing if received else times}
    )


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 2.0), (4.0, 0.5), (0.5, 4.0)])
def test_a_row_is_due_after_its_recorded_time_at_that_speed(speed: float, seconds: float) -> None:
    cut = list(Pace(speed).cut({"ticks": _rows([START, START + 2_000_000])}))
    assert [due for due, _ in cut] == pytest.approx([0.0, seconds], abs=WINDOW_SECONDS)


def test_flat_out_is_one_piece() -> None:
    rows = _rows([START, START + 2_000_000])
    assert list(Pace(None).cut({"ticks": rows})) == [(0.0, {"ticks": rows})]


def test_datasets_leave_together_and_without_receive_time_exchange_time_counts() -> None:
    cut = list(
        Pace(1.0).cut({"ticks": _rows([START]), "quotes": _rows([START + 1_000, START + 60_000], received=False)})
    )
    assert [{name: rows.num_rows for name, rows in ready.items()} for _, ready in cut] == [
        {"ticks": 1, "quotes": 1},
        {"quotes": 1},
    ]


def test_the_origin_is_the_first_block() -> None:
    pace = Pace(1.0)
    list(pace.cut({"ticks": _rows([START])}))
    ((due, _),) = pace.cut({"ticks": _rows([START + 3_000_000])})
    assert due == pytest.approx(3.0, abs=WINDOW_SECONDS)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=50), st.floats(0.1, 100))
def test_every_row_leaves_once_in_order_whatever_the_times(offsets: list[int], speed: float) -> None:
    rows = _rows([START + offset for offset in offsets])
    cut = list(Pace(speed).cut({"ticks": rows}))
    assert pa.Table.from_batches([ready["ticks"] for _, ready in cut]).equals(pa.Table.from_batches([rows]))
    dues = [due for due, _ in cut]
    assert dues == sorted(dues)
    assert dues[0] == 0.0
