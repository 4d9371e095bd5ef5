"""Which files a query can do without: row filters for planning, read off DuckDB's own syntax tree.

A filter here only leaves out files; DuckDB applies the query itself to every row of the others. So a filter may be
weaker than the query's condition and must never be stronger: what is not understood counts as true. A table that is
mentioned several times gets the disjunction of what each mention allows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, In, Or

from k2_dagster.query.predicates import Column, Kind, joined, predicate
from k2_dagster.schemas.datasets import NAMESPACE

Node = Mapping[str, Any]
# Table functions that cannot reach a table of ours behind the syntax tree's back, as query('SELECT ...') does.
_HARMLESS_TABLE_FUNCTIONS = {"unnest", "range", "generate_series", "read_parquet", "read_csv", "read_csv_auto"}

_OPERATORS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
# The value of a constant expression for a column of this kind (text; UTC microseconds; days since 1970), or None when
# comparing with it is not understood.
Evaluate = Callable[[Node, Kind], str | int | None]


def mentioned_tables(tree: Node) -> list[str]:
    """Names, without schema and in lower case, of the tables of `market_data` that the statement mentions."""
    return sorted({_table(node) for node in _walk(tree) if _is_mention(node)})


def is_transparent(tree: Node) -> bool:
    """Whether the tree shows every table that the statement can reach: a SELECT without `query('...')` and its like."""
    return not tree.get("error") and all(_is_harmless(node) for node in _walk(tree))


def file_filters(
    tree: Node, columns: Mapping[str, Mapping[str, Column]], evaluate: Evaluate
) -> dict[str, BooleanExpression]:
    """Filter of each mentioned table. `columns` gives the names (lower case) that each table's view has."""
    allowed: dict[int, BooleanExpression] = {}
    if is_transparent(tree):
        for node in _walk(tree):
            if node.get("type") == "SELECT_NODE":
                allowed.update(_filters_of_select(node, columns, evaluate))
    filters: dict[str, BooleanExpression] = {}
    for node in _walk(tree):
        if _is_mention(node):
            name, found = _table(node), allowed.get(id(node), AlwaysTrue())
            filters[name] = Or(filters[name], found) if name in filters else found
    return filters


def _walk(value: Any) -> Iterator[Node]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _is_mention(node: Node) -> bool:
    return node.get("type") == "BASE_TABLE" and str(node.get("schema_name", "")).lower() == NAMESPACE


def _table(node: Node) -> str:
    return str(node["table_name"]).lower()


def _is_harmless(node: Node) -> bool:
    if node.get("type") != "TABLE_FUNCTION":
        return True
    return str(node.get("function", {}).get("function_name", "")).lower() in _HARMLESS_TABLE_FUNCTIONS


def _filters_of_select(
    select: Node, columns: Mapping[str, Mapping[str, Column]], evaluate: Evaluate
) -> Iterator[tuple[int, BooleanExpression]]:
    """For each table of the FROM clause whose rows WHERE judges one by one: what its rows must fulfil."""
    condition, tables = select.get("where_clause"), select.get("from_table")
    if condition is None or tables is None or select.get("sample") is not None:
        return
    alone = tables.get("type") == "BASE_TABLE"
    for node in _judged_tables(tables):
        if _is_mention(node) and _table(node) in columns:
            scope = _Scope(str(node.get("alias") or node["table_name"]).lower(), alone, columns[_table(node)], evaluate)
            yield id(node), scope.weaken(condition) or AlwaysTrue()


def _judged_tables(node: Node) -> Iterator[Node]:
    """Tables of which each row's fate hangs on WHERE alone: not the inner side of an outer or as-of join."""
    if node.get("sample") is not None:
        return
    if node.get("type") == "BASE_TABLE" and not node.get("column_name_alias"):
        yield node
    elif node.get("type") == "JOIN":
        plain = node.get("ref_type") in ("REGULAR", "CROSS")
        if (plain and node.get("join_type") in ("INNER", "LEFT")) or node.get("ref_type") == "ASOF":
            yield from _judged_tables(node["left"])
        if plain and node.get("join_type") == "INNER":
            yield from _judged_tables(node["right"])


@dataclass(frozen=True, slots=True)
class _Scope:
    """How WHERE names the columns of one table: `alone` when no other table could be meant by a bare name."""

    alias: str
    alone: bool
    columns: Mapping[str, Column]
    evaluate: Evaluate

    def weaken(self, node: Node) -> BooleanExpression | None:
        """A condition on the files that follows from this one; None when none is known."""
        match node.get("type"):
            case "CONJUNCTION_AND":
                known = [found for child in node["children"] if (found := self.weaken(child)) is not None]
                return joined(And, known)
            case "CONJUNCTION_OR":
                branches = [self.weaken(child) for child in node["children"]]
                known = [found for found in branches if found is not None]
                return joined(Or, known) if len(known) == len(branches) else None
            case "COMPARE_IN":
                return self._among(node["children"][0], node["children"][1:])
            case "COMPARE_BETWEEN":
                ends = ((">=", node["lower"]), ("<=", node["upper"]))
                compared = [self._compare(node["input"], operator, end) for operator, end in ends]
                return joined(And, [found for found in compared if found is not None])
            case operator if operator in _OPERATORS:
                sign = _OPERATORS[operator]
                straight = self._compare(node["left"], sign, node["right"])
                return straight or self._compare(node["right"], _MIRRORED[sign], node["left"])
        return None

    def _compare(self, left: Node, operator: str, right: Node) -> BooleanExpression | None:
        column = self._column(left)
        value = None if column is None else self._value(right, column.kind)
        return None if column is None or value is None else predicate(column, operator, value)

    def _value(self, node: Node, kind: Kind) -> str | int | None:
        # Where another table is in scope, `current_date` may be a column of it.
        named = any(inner.get("type") == "COLUMN_REF" for inner in _walk(node))
        return None if named and not self.alone else self.evaluate(node, kind)

    def _among(self, left: Node, choices: Sequence[Node]) -> BooleanExpression | None:
        column = self._column(left)
        if column is None:
            return None
        values = [self._value(choice, column.kind) for choice in choices]
        known = [value for value in values if value is not None]
        if not known or len(known) != len(values):
            return None
        if column.kind == "text":
            return In(column.name, known)  # type: ignore[call-arg]  # the library hides its own constructor
        return joined(Or, [predicate(column, "=", value) for value in known])

    def _column(self, node: Node) -> Column | None:
        if node.get("type") == "OPERATOR_CAST" and not node.get("try_cast"):
            inner = self._column(node["child"])
            to_day = str(node.get("type_expr", {}).get("type_name", "")).lower() == "date"
            return Column(inner.name, "day") if inner is not None and inner.kind == "time" and to_day else None
        if node.get("type") != "COLUMN_REF":
            return None
        names = [str(name).lower() for name in node["column_names"]]
        if (len(names) == 1 and self.alone) or (len(names) == 2 and names[0] == self.alias):
            return self.columns.get(names[-1])
        return None
