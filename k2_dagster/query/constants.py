"""Values of the constant expressions in a query, computed by DuckDB itself in the query's own transaction.

`now()` is the start of the transaction, so planning and execution see the same instant.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import duckdb

from k2_dagster.query.filters import Node
from k2_dagster.query.predicates import Kind

# Neither volatile nor dependent on anything but their arguments and the transaction's start.
_FUNCTIONS = {
    *("+", "-", "*", "now", "today", "get_current_timestamp", "transaction_timestamp", "date_trunc", "to_timestamp"),
    *("to_years", "to_months", "to_weeks", "to_days", "to_hours", "to_minutes", "to_seconds", "to_milliseconds"),
    *("to_microseconds", "make_date", "make_timestamp", "make_timestamptz", "epoch_ms", "timezone"),
}
_CLOCK_NAMES = (["current_timestamp"], ["current_date"])
_COMPARED_AS_TIME = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")
_TEMPLATES = {
    "time": "SELECT typeof(0), epoch_us(CAST(0 AS TIMESTAMPTZ))",
    "day": "SELECT typeof(0), CAST(0 AS DATE) - DATE '1970-01-01'",
}


class Constants:
    """Evaluates constant expressions; `parameters` are the statement's named ones.

    An expression that fails (a text that is no time) raises duckdb.Error and ends the transaction.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, parameters: Mapping[str, Any]) -> None:
        self._connection = connection
        self._parameters = parameters

    def evaluate(self, node: Node, kind: Kind) -> str | int | None:
        """See `filters.Evaluate`. A text is understood as a time only when written as a literal: DuckDB then gives it
        the type of what it is compared with."""
        if kind == "text":
            return self._text(node)
        if not self._is_constant(node):
            return None
        type_name, value = self._compute(node, kind)
        understood = _COMPARED_AS_TIME if kind == "time" else ("DATE",)
        return value if value is not None and (_is_text(node) or type_name in understood) else None

    def _text(self, node: Node) -> str | None:
        if _is_text(node):
            return str(node["literal"]["text"])
        value = self._parameters.get(node["identifier"]) if node.get("type") == "VALUE_PARAMETER" else None
        return value if isinstance(value, str) else None

    def _is_constant(self, node: Node) -> bool:
        match node.get("type"):
            case "VALUE_CONSTANT":
                return True
            case "VALUE_PARAMETER":
                return isinstance(self._parameters.get(node["identifier"]), date | datetime)
            case "COLUMN_REF":
                return [name.lower() for name in node["column_names"]] in _CLOCK_NAMES
            case "OPERATOR_CAST":
                return self._is_constant(node["child"])
            case "FUNCTION":
                known = node["function_name"].lower() in _FUNCTIONS and not node["schema"]
                return known and all(self._is_constant(one["expression"]) for one in node["arguments"])
        return False

    def _compute(self, node: Node, kind: Kind) -> tuple[str, int | None]:
        tree = syntax_tree(self._connection, _TEMPLATES[kind])
        placed = json.dumps(_replace_zero(tree, node))
        query = self._connection.execute("SELECT json_deserialize_sql(?)", [placed]).fetchall()[0][0]
        used = {name: self._parameters[name] for name in _parameter_names(node)}
        type_name, value = self._connection.execute(query, used or None).fetchall()[0]
        return str(type_name), value


def syntax_tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """DuckDB's syntax tree of the statements: `{"error": false, "statements": [...]}`, or `{"error": true, ...}` for
    anything but SELECT."""
    return json.loads(connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])


def _is_text(node: Node) -> bool:
    return node.get("type") == "VALUE_CONSTANT" and node["literal"]["kind"] == "STRING"


def _replace_zero(template: Any, node: Node) -> Any:
    if isinstance(template, list):
        return [_replace_zero(inner, node) for inner in template]
    if not isinstance(template, dict):
        return template
    if template.get("type") == "VALUE_CONSTANT" and template["literal"] == {"kind": "INTEGER", "text": "0"}:
        return node
    return {key: _replace_zero(inner, node) for key, inner in template.items()}


def _parameter_names(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*(_parameter_names(inner) for inner in node))
    if not isinstance(node, dict):
        return set()
    own = {str(node["identifier"])} if node.get("type") == "VALUE_PARAMETER" else set()
    return own.union(*(_parameter_names(inner) for inner in node.values()))
