import io
import json
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.encode import AvroEncoder, JsonEncoder, message_keys
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.ticks import TICKS

MICROS = 1_780_000_000_123_456
BASE: dict[str, Any] = {"exchange": "x", "stream": "s", "symbol": "AAPL", "exchange_timestamp": MICROS}
ROWS: dict[str, dict[str, Any]] = {
    "ticks": {"kind": "trade", "price": 12_345, "size": 7, "side": "buy", "conditions": ["A", "B"]},
    "quotes": {"kind": "quote", "bid_price": 1, "bid_size": 2, "ask_count": 3, "conditions": []},
    "book": {
        "kind": "book",
        "action": "delta",
        "bids": [{"price": 5, "size": 0, "orders": None}, {"price": 4, "size": 9, "orders": 2}],
        "asks": [],
    },
    "control": {"kind": "gap", "channel": "c", "first_sequence": 4, "last_sequence": 9},
}


def rows_of(dataset: str, **changed: Any) -> pa.RecordBatch:
    row = {**BASE, **ROWS[dataset], **changed}
    return pa.RecordBatch.from_pylist([row, row], schema=wire_schema(WIRE_DATASETS[dataset]))


@pytest.mark.parametrize("dataset", list(ROWS))
def test_an_independent_avro_reader_reads_the_same_values(dataset: str) -> None:
    values = AvroEncoder(avro_schema_text(WIRE_DATASETS[dataset]), 77).encode(rows_of(dataset)).to_pylist()
    assert len(values) == 2
    for value in values:
        assert value[:5] == b"\0" + (77).to_bytes(4, "big")
        body = io.BytesIO(value[5:])
        read: Any = fastavro.schemaless_reader(body, avro_schema(WIRE_DATASETS[dataset]), None)
        assert body.read() == b""
        expected = {**BASE, **ROWS[dataset]}
        del expected["exchange_timestamp"]
        assert {name: read[name] for name in expected} == expected
        assert round(read["exchange_timestamp"].timestamp() * 1e6) == MICROS


@given(st.integers(0, 2**32 - 1))
def test_any_schema_id_is_framed_as_it_is(schema_id: int) -> None:
    value = AvroEncoder(avro_schema_text(TICKS), schema_id).encode(rows_of("ticks"))[1].as_py()
    assert value[:5] == b"\0" + schema_id.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("dataset", "changed", "field"),
    [
        ("ticks", {"price": None}, "price"),
        ("ticks", {"conditions": ["A", None]}, r"conditions\[\]"),
        ("book", {"bids": [{"price": None, "size": 1, "orders": None}]}, r"bids\[\].price"),
    ],
)
def test_a_null_that_the_schema_does_not_allow_is_refused(dataset: str, changed: dict[str, Any], field: str) -> None:
    encoder = AvroEncoder(avro_schema_text(WIRE_DATASETS[dataset]), 1)
    with pytest.raises(ConfigurationError, match=f"^{field} was null"):
        encoder.encode(rows_of(dataset, **changed))


def test_a_missing_column_and_a_wrong_type_are_refused() -> None:
    encoder = AvroEncoder(avro_schema_text(TICKS), 1)
    rows = rows_of("ticks")
    with pytest.raises(ConfigurationError, match="no column 'price'"):
        encoder.encode(rows.drop_columns(["price"]))
    place = rows.schema.get_field_index("price")
    with pytest.raises(ConfigurationError, match="do not fit"):
        encoder.encode(rows.set_column(place, "price", pa.array([1.0, 2.0])))


def test_a_slice_is_encoded_alone() -> None:
    encoder = AvroEncoder(avro_schema_text(TICKS), 1)
    row = {**BASE, **ROWS["ticks"]}
    rows = pa.RecordBatch.from_pylist(
        [row, {**row, "symbol": "MSFT"}, {**row, "conditions": []}], schema=wire_schema(TICKS)
    )
    assert encoder.encode(rows.slice(1, 2)).to_pylist() == encoder.encode(rows).to_pylist()[1:]
    assert encoder.encode(rows.slice(0, 0)).to_pylist() == []


def test_json_documents_leave_nulls_out_and_give_times_as_microseconds() -> None:
    value = JsonEncoder(json_schema_text(TICKS), 258).encode(rows_of("ticks"))[0].as_py()
    assert value[:5] == b"\0\0\0\1\2"
    assert json.loads(value[5:]) == {**BASE, **ROWS["ticks"]}
    with pytest.raises(ConfigurationError, match=r"^side was null"):
        JsonEncoder(json_schema_text(TICKS), 1).encode(rows_of("ticks", side=None))


def test_keys_name_exchange_and_symbol() -> None:
    assert message_keys("x", pa.array(["B", "A", "B"])) == [b"x.B", b"x.A", b"x.B"]
