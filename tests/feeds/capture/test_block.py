import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import CaptureInvalid
from k2_dagster.feeds.capture.block import Rows, in_file_order, keep_good, wire_batch


@given(st.lists(st.booleans(), max_size=40))
def test_bad_items_are_found_and_good_ones_are_kept_in_order(good: list[bool]) -> None:
    def build(start: int, stop: int) -> list[int]:
        if not all(good[start:stop]):
            raise ValueError("bad")
        return list(range(start, stop))

    parts, bad = keep_good(len(good), build)
    assert [item for _, _, part in parts for item in part] == [place for place, fine in enumerate(good) if fine]
    assert sorted(place for place, _ in bad) == [place for place, fine in enumerate(good) if not fine]
    assert [place for place, _ in bad] == sorted(place for place, _ in bad)


def test_damage_of_ours_is_not_swallowed() -> None:
    def build(_start: int, _stop: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        keep_good(2, build)


def test_a_required_column_may_not_be_null() -> None:
    with pytest.raises(CaptureInvalid, match="symbol is null"):
        wire_batch("quotes", 1, {"exchange": "x", "stream": "s", "kind": "quote", "exchange_timestamp": pa.array([1])})


def test_streams_of_a_dataset_merge_in_file_order() -> None:
    parts = [Rows(pa.record_batch({"place": places}), np.array(places)) for places in ([1, 4, 5], [2, 3, 6])]
    merged = in_file_order(parts)
    assert merged.batch.column("place").to_pylist() == merged.orders.tolist() == [1, 2, 3, 4, 5, 6]
