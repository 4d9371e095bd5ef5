"""Pandera form of a dataset's rules, in wire form (scaled longs, microseconds).

Two schemas: one for the numbers of every row, and one for the texts, which is called on distinct values only. Nulls
are not judged here: which fields may be null depends on the stream.
"""

from typing import Any

import pandera.polars as pa
import polars as pl

from k2_dagster.schemas.declaration import Dataset, Field, FieldType, Rule
from k2_dagster.schemas.levels import LEVEL_FIELDS

_NUMBERS = (FieldType.LONG, FieldType.INT, FieldType.TIMESTAMP, FieldType.PRICE, FieldType.SIZE)


def number_rules(dataset: Dataset) -> list[tuple[Field, Rule]]:
    """Wire fields with a rule on a number."""
    return [(field, rule) for field, rule in dataset.rules if field.source == "wire" and field.type in _NUMBERS]


def text_rules(dataset: Dataset) -> list[tuple[Field, Rule]]:
    """Wire fields with a rule on a text."""
    return [(field, rule) for field, rule in dataset.rules if field.source == "wire" and field.type is FieldType.STRING]


def number_schema(dataset: Dataset) -> pa.DataFrameSchema:
    """Every ruled number as an Int64 column. A failure case names column, rule, value and row index."""
    return pa.DataFrameSchema(
        {
            field.name: pa.Column(
                pl.Int64,
                checks=pa.Check.in_range(rule.minimum, rule.maximum, name=rule.name, error=rule.name),
                nullable=True,
            )
            for field, rule in number_rules(dataset)
        }
    )


def text_schema(field: Field, rule: Rule) -> pa.DataFrameSchema:
    """One ruled text as a String column of distinct values."""
    check: Any = (
        pa.Check.isin(rule.allowed, name=rule.name, error=rule.name)
        if rule.allowed is not None
        else pa.Check.str_matches(rule.pattern or "", name=rule.name, error=rule.name)
    )
    return pa.DataFrameSchema({field.name: pa.Column(pl.String, checks=check, nullable=True)})


def level_schema() -> pa.DataFrameSchema:
    """The levels of a book side, flattened: `price` and `size` as Int64 columns."""
    return pa.DataFrameSchema(
        {
            name: pa.Column(
                pl.Int64,
                checks=pa.Check.in_range(rule.minimum, rule.maximum, name=rule.name, error=rule.name),
                nullable=True,
            )
            for name, rule in LEVEL_RULES.items()
        }
    )


LEVEL_RULES = {one.name: one.rule for one in LEVEL_FIELDS if one.rule is not None}


def describe(rule: Rule) -> str:
    """What would be valid, in words."""
    if rule.allowed is not None:
        return f"valid: {', '.join(rule.allowed)}"
    if rule.pattern is not None:
        return f"valid: text like {rule.pattern}"
    return f"valid: {rule.minimum} to {rule.maximum}"
