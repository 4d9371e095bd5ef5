"""Of numbers between two accepted ones Pandera is not asked; of all others it is, and its word counts."""

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaError

from k2_dagster.ingest.ranges import Numbers
from k2_dagster.schemas.declaration import Rule

LOWEST, HIGHEST = -3, 5
RULES = {"a": Rule("a_range", minimum=LOWEST, maximum=HIGHEST), "b": Rule("b_range", minimum=0, maximum=2**63 - 1)}


def schema(rules: dict[str, Rule]) -> pandera.DataFrameSchema:
    return pandera.DataFrameSchema(
        {
            name: pandera.Column(pl.Int64, checks=pandera.Check.in_range(rule.minimum, rule.maximum), nullable=True)
            for name, rule in rules.items()
        }
    )


NUMBERS = Numbers(schema(RULES), RULES)
SMALL = st.one_of(st.none(), st.integers(LOWEST - 2, HIGHEST + 2))


@given(st.lists(st.tuples(SMALL, SMALL)))
def test_the_failures_are_those_outside_the_rule(rows: list[tuple[int | None, int | None]]) -> None:
    columns = {"a": pa.array([a for a, _ in rows], pa.int64()), "b": pa.array([b for _, b in rows], pa.int64())}
    expected = [("a", row, a) for row, (a, _) in enumerate(rows) if a is not None and not LOWEST <= a <= HIGHEST]
    expected += [("b", row, b) for row, (_, b) in enumerate(rows) if b is not None and b < 0]
    assert NUMBERS.failures(columns) == expected


@pytest.mark.parametrize("type_", [pa.int32(), pa.timestamp("us", tz="UTC")])
def test_narrow_numbers_and_times_count_as_numbers(type_: pa.DataType) -> None:
    whole = pa.array([0, 6, None], pa.int32() if type_ == pa.int32() else pa.int64())
    columns = {"a": whole.view(type_), "b": pa.nulls(3, type_)}
    assert NUMBERS.failures(columns) == [("a", 1, 6)]


def test_a_schema_that_refuses_what_the_rule_allows_is_a_defect() -> None:
    narrow = schema({"a": Rule("a_range", minimum=LOWEST, maximum=HIGHEST - 1)})
    with pytest.raises(SchemaError):
        Numbers(narrow, {"a": RULES["a"]})
