"""Conditions on a table's own columns, as PyIceberg's expressions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    LessThan,
    LessThanOrEqual,
    LiteralPredicate,
    Or,
    Reference,
)

Kind = Literal["text", "time", "day"]

MICROS_PER_DAY = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PREDICATES: Mapping[str, Any] = {
    "=": EqualTo,
    "<": LessThan,
    "<=": LessThanOrEqual,
    ">": GreaterThan,
    ">=": GreaterThanOrEqual,
}
_SIGNS = {of_type: sign for sign, of_type in _PREDICATES.items()}


@dataclass(frozen=True, slots=True)
class Column:
    """What a name of a view stands for: a text or time column of the table, or the UTC day of a time column."""

    name: str
    kind: Kind


def predicate(column: Column, operator: str, value: str | int) -> BooleanExpression:
    """`column operator value` on the table's own column; a day becomes the microseconds that it spans."""
    if column.kind != "day":
        return _bound(column, operator, value)
    first = int(value) * MICROS_PER_DAY
    after = first + MICROS_PER_DAY
    match operator:
        case "=":
            return And(_bound(column, ">=", first), _bound(column, "<", after))
        case ">":
            return _bound(column, ">=", after)
        case "<=":
            return _bound(column, "<", after)
        case _:
            return _bound(column, operator, first)


def _bound(column: Column, operator: str, value: str | int) -> BooleanExpression:
    found: BooleanExpression = _PREDICATES[operator](column.name, value)
    return found


def joined(how: type[And] | type[Or], parts: Sequence[BooleanExpression]) -> BooleanExpression | None:
    """All parts (And) or any of them (Or); None of nothing."""
    if not parts:
        return None
    whole = parts[0]
    for part in parts[1:]:
        whole = how(whole, part)
    return whole


def filter_text(row_filter: BooleanExpression) -> str:
    """The filter for a person; empty when every file is read."""
    match row_filter:
        case AlwaysTrue():
            return ""
        case And():
            return f"{filter_text(row_filter.left)} and {filter_text(row_filter.right)}"
        case Or():
            return f"({filter_text(row_filter.left)} or {filter_text(row_filter.right)})"
        case In(term=Reference(name=name), literals=literals):
            return f"{name} in {sorted(str(one.value) for one in literals)}"
        case LiteralPredicate(term=Reference(name=name), literal=literal):
            return f"{name} {_SIGNS[type(row_filter)]} {_value_text(literal.value)}"
    return str(row_filter)


def _value_text(value: str | int) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{EPOCH + timedelta(microseconds=value):%Y-%m-%dT%H:%M:%S.%fZ}"
