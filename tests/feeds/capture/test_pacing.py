import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.capture.block import Block, Refusal, Rows, Skip
from k2_dagster.feeds.capture.pacing import WINDOW_SECONDS, Pace

START = 1_700_000_000_000_000
TIME = pa.timestamp("us", "UTC")


def _rows(micros: list[int], *, received: bool = True, orders: list[int] | None = None) -> Rows:
    times, missing = pa.array(micros, TIME), pa.nulls(len(micros), TIME)
    batch = pa.record_batch(
        {"receive_timestamp": times if received else missing, "exchange_timestamp": missing if received else times}
    )
    return Rows(batch, np.array(orders or range(1, len(micros) + 1), np.int64))


def _block(first: int = 1, **rows: Rows) -> Block:
    return Block(first, max((int(one.orders[-1]) for one in rows.values()), default=first) - first + 1, rows)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 2.0), (4.0, 0.5), (0.5, 4.0)])
def test_a_row_is_due_after_its_recorded_time_at_that_speed(speed: float, seconds: float) -> None:
    cut = list(Pace(speed).cut(_block(ticks=_rows([START, START + 2_000_000]))))
    assert [due for due, _ in cut] == pytest.approx([0.0, seconds], abs=WINDOW_SECONDS)


def test_flat_out_is_one_piece() -> None:
    ((due, part),) = Pace(None).cut(_block(ticks=_rows([START, START + 2_000_000])))
    assert (due, part.inputs, part.rows["ticks"].batch.num_rows) == (0.0, 2, 2)


def test_datasets_leave_together_and_without_receive_time_exchange_time_counts() -> None:
    quotes = _rows([START + 1_000, START + 60_000], received=False, orders=[2, 3])
    cut = list(Pace(1.0).cut(_block(ticks=_rows([START]), quotes=quotes)))
    assert [{name: rows.batch.num_rows for name, rows in part.rows.items()} for _, part in cut] == [
        {"ticks": 1, "quotes": 1},
        {"quotes": 1},
    ]


def test_the_origin_is_the_first_block() -> None:
    pace = Pace(1.0)
    list(pace.cut(_block(ticks=_rows([START]))))
    ((due, _),) = pace.cut(_block(2, ticks=_rows([START + 3_000_000], orders=[2])))
    assert due == pytest.approx(3.0, abs=WINDOW_SECONDS)
    assert (pace.origin_micros, pace.latest_micros) == (START, START + 3_000_000)


def test_a_block_without_rows_leaves_with_what_was_before() -> None:
    pace = Pace(1.0)
    list(pace.cut(_block(ticks=_rows([START, START + 3_000_000]))))
    refused = Block(3, 2, {}, [Refusal(3, 3, b"x", "why")], [Skip(4, "empty line")])
    assert list(pace.cut(refused)) == [(3.0, refused)]


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 2)), min_size=1, max_size=50),
    st.floats(0.1, 100),
    st.integers(0, 3),
)
def test_every_input_leaves_once_in_order_whatever_the_times(
    given_rows: list[tuple[int, int]], speed: float, behind: int
) -> None:
    """Several rows may come of one input, and inputs without a row are anywhere."""
    micros = [START + offset for offset, _ in given_rows]
    orders = np.cumsum([1, *(step for _, step in given_rows[1:])])
    inputs = int(orders[-1]) + behind
    rows = _rows(micros, orders=orders.tolist())
    skips = [Skip(order, "x") for order in range(1, inputs + 1) if order not in orders]
    cut = list(Pace(speed).cut(Block(1, inputs, {"ticks": rows}, (), skips)))
    left = [part.rows["ticks"].batch for _, part in cut]
    assert pa.Table.from_batches(left).equals(pa.Table.from_batches([rows.batch]))
    assert [skip for _, part in cut for skip in part.skips] == skips
    assert [part.first for _, part in cut] == [1, *np.cumsum([part.inputs for _, part in cut])[:-1] + 1]
    assert sum(part.inputs for _, part in cut) == inputs
    dues = [due for due, _ in cut]
    assert dues == sorted(dues)
    assert dues[0] == 0.0
