from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.feeds.late import came_late
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.quotes import QUOTES
from k2_dagster.schemas.ticks import TICKS

Numbered = tuple[str | None, str | None, int | None]


def rows(dataset: Any, numbered: list[Numbered]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "exchange": "x", "stream": "s", "kind": dataset.kinds[0], "symbol": "A", "channel": channel,
                "session": session, "sequence": number, "exchange_timestamp": 10**15, "receive_timestamp": 10**15 + 1,
            }
            for channel, session, number in numbered
        ],
        schema=wire_schema(dataset),
    )  # fmt: skip


numbered = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", None]), st.sampled_from(["S", "T", None]), st.one_of(st.none(), st.integers(0, 15))
    ),
    max_size=20,
)


@given(numbered, numbered)
def test_every_number_of_a_channel_is_told_once_and_no_other(ticks: list[Numbered], quotes: list[Numbered]) -> None:
    told = came_late("x", {"ticks": rows(TICKS, ticks), "quotes": rows(QUOTES, quotes)})
    assert told.schema == wire_schema(CONTROL)
    found = [
        (row["channel"], row["session"], number)
        for row in told.to_pylist()
        for number in range(row["first_sequence"], row["last_sequence"] + 1)
    ]
    wanted = {one for one in [*ticks, *quotes] if one[0] is not None and one[2] is not None}
    assert sorted(found, key=str) == sorted(wanted, key=str)
    for row in told.to_pylist():
        assert (row["kind"], row["symbol"], row["publisher_sequence"], row["exchange"]) == ("late", "*", None, "x")
    runs = {(row["channel"], row["session"], row["first_sequence"]) for row in told.to_pylist()}
    assert not any((row["channel"], row["session"], row["last_sequence"] + 1) in runs for row in told.to_pylist())


def test_nothing_is_told_of_nothing() -> None:
    assert came_late("x", {}).num_rows == 0
