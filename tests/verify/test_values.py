"""A row that says something else than its message is seen, in every field."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.schemas.arrow import PRICE, SIZE, table_schema
from k2_dagster.schemas.book import BOOK
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.verify.values import differing, unscaled

MICROS = 1_772_366_400_000_001
WHEN = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)


def row(**values: Any) -> dict[str, Any]:
    return {field.name: None for field in TICKS.fields} | {
        "symbol": "A",
        "sequence": 7,
        "exchange_timestamp": WHEN,
        "price": Decimal("1.00000001"),
        "size": Decimal("2.5"),
        "conditions": ["x"],
        **values,
    }


RECORD = {field.name: None for field in TICKS.wire_fields} | {
    "symbol": "A",
    "sequence": 7,
    "exchange_timestamp": MICROS,
    "price": 100_000_001,
    "size": 250_000_000,
    "conditions": ["x"],
}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([field.with_nullable(True) for field in table_schema(TICKS)])
    return pa.Table.from_pylist(rows, schema=schema)


def test_equal_rows_do_not_differ() -> None:
    assert differing(TICKS, [RECORD, RECORD], table([row(), row()])) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("price", Decimal("1.00000002")),
        ("price", None),
        ("size", Decimal("1844674407370.95516160") + Decimal("2.5")),
        ("sequence", 8),
        ("symbol", "B"),
        ("side", "buy"),
        ("exchange_timestamp", datetime(2026, 3, 1, 12, 0, 0, 2, tzinfo=UTC)),
        ("conditions", ["x", "y"]),
        ("conditions", None),
    ],
)
def test_each_difference_names_field_and_row(name: str, value: Any) -> None:
    found = differing(TICKS, [RECORD, RECORD], table([row(), row(**{name: value})]))
    assert {field: wrong.tolist() for field, wrong in found.items()} == {name: [False, True]}


def test_levels_are_compared_one_by_one() -> None:
    said = {field.name: None for field in BOOK.wire_fields} | {
        "bids": [{"price": 10**8, "size": 5, "orders": None}, {"price": 9, "size": 0, "orders": 2}],
        "asks": [],
    }
    levels = [
        {"price": Decimal(1), "size": Decimal("0.00000005"), "orders": None},
        {"price": Decimal("0.00000009"), "size": Decimal(0), "orders": 2},
    ]
    empty: dict[str, Any] = {field.name: None for field in BOOK.fields} | {"asks": []}
    schema = pa.schema([field.with_nullable(True) for field in table_schema(BOOK)])
    rows = pa.Table.from_pylist([{**empty, "bids": levels}, {**empty, "bids": levels[:1]}], schema=schema)
    found = differing(BOOK, [said, said], rows)
    assert {field: wrong.tolist() for field, wrong in found.items()} == {"bids": [False, True]}


@given(st.lists(st.one_of(st.none(), st.integers(-(10**18) + 1, 10**18 - 1)), min_size=1), st.integers(0, 3))
def test_unscaled_gives_the_integers_back(numbers: list[int | None], skipped: int) -> None:
    decimals = pa.array([None if one is None else Decimal(one).scaleb(-8) for one in numbers], PRICE)
    found, overflow = unscaled(decimals.slice(skipped))
    assert found.to_pylist() == numbers[skipped:]
    assert not overflow.any()


def test_what_no_wire_integer_holds_is_told() -> None:
    sizes = pa.array([Decimal(2**63 - 1).scaleb(-8), Decimal(2**63).scaleb(-8), None], SIZE)
    assert np.array_equal(unscaled(sizes)[1], [False, True, False])
