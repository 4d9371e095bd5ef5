"""The relations that a query sees: `market_data.ticks` and its sisters, over a planned list of Parquet files, and views
over these: `symbols` is the current definition of each symbol, out of `instruments`.

A view has every column of the table, and the names that a quant expects beside them: `timestamp` (the time that
partitions the table), `date` (its UTC day) and, on ticks, `volume` (the size). Where a row does not say whose clock its
`exchange_timestamp` is from, it is the venue's, and the view says so.
"""

from collections.abc import Mapping, Sequence

from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from k2_dagster.errors import QueryRefused
from k2_dagster.query.predicates import Column
from k2_dagster.schemas.common import TIME_SOURCE_FIELD, VENUE_CLOCK
from k2_dagster.schemas.datasets import NAMESPACE, TABLES

_SIMPLE_TYPES: dict[type[IcebergType], str] = {
    BooleanType: "BOOLEAN",
    IntegerType: "INTEGER",
    LongType: "BIGINT",
    FloatType: "FLOAT",
    DoubleType: "DOUBLE",
    DateType: "DATE",
    TimeType: "TIME",
    TimestampType: "TIMESTAMP",
    TimestamptzType: "TIMESTAMPTZ",
    StringType: "VARCHAR",
    UUIDType: "UUID",
    BinaryType: "BLOB",
    FixedType: "BLOB",
}
# Views over a table's view: of each, the table and the statement.
DERIVED: Mapping[str, tuple[str, str]] = {
    "symbols": (
        "instruments",
        # Newest by its own time; of the same time the one that was published last
        f"""CREATE VIEW {NAMESPACE}.symbols AS SELECT * FROM {NAMESPACE}.instruments
        QUALIFY row_number() OVER (
            PARTITION BY exchange, symbol
            ORDER BY exchange_timestamp DESC, exchange_timestamp_nanos DESC NULLS LAST, topic_epoch DESC,
                kafka_partition DESC, kafka_offset DESC
        ) = 1""",
    ),
}
_GLOB_CHARACTERS = "*?["


def view_columns(name: str, schema: Schema) -> dict[str, Column]:
    """Columns of a view that planning can judge files by, under every name (lower case) that they have."""
    # A file's statistics do not know what the view puts in place of null
    kinds = {field.name: field.field_type for field in schema.fields if field.name != TIME_SOURCE_FIELD}
    columns: dict[str, Column] = {}
    for column, of_type in kinds.items():
        if isinstance(of_type, StringType):
            columns[column.lower()] = Column(column, "text")
        elif isinstance(of_type, TimestamptzType):
            columns[column.lower()] = Column(column, "time")
    time = TABLES[name].partition_time
    if isinstance(kinds.get(time), TimestamptzType):
        if "timestamp" not in kinds:
            columns["timestamp"] = Column(time, "time")
        if "date" not in kinds:
            columns["date"] = Column(time, "day")
    return columns


def view_sql(name: str, schema: Schema, paths: Sequence[str]) -> str:
    """The statement that creates the view over these files; without files it has the same columns and no rows."""
    source = _scan(schema, paths) if paths else _nothing(schema)
    extra = "".join(f", {expression} AS {_identifier(alias)}" for alias, expression in _aliases(name, schema).items())
    return f"CREATE VIEW {NAMESPACE}.{_identifier(name)} AS SELECT *{_filled(schema)}{extra} FROM {source}"


def _filled(schema: Schema) -> str:
    if TIME_SOURCE_FIELD not in {field.name for field in schema.fields}:
        return ""
    column = _identifier(TIME_SOURCE_FIELD)
    return f" REPLACE (coalesce({column}, {_literal(VENUE_CLOCK)}) AS {column})"


def _aliases(name: str, schema: Schema) -> Mapping[str, str]:
    columns = {field.name for field in schema.fields}
    time = TABLES[name].partition_time
    wanted = {"timestamp": (time, "{}"), "date": (time, "CAST({} AS DATE)"), "volume": ("size", "{}")}
    return {
        alias: form.format(_identifier(column))
        for alias, (column, form) in wanted.items()
        if column in columns and alias not in columns
    }


def _scan(schema: Schema, paths: Sequence[str]) -> str:
    """Columns by field id: files from before a column was added give null, a renamed column stays itself."""
    fields = ", ".join(
        f"{field.field_id}: {{name: {_literal(field.name)}, type: {_literal(duckdb_type(field.field_type))}, "
        "default_value: NULL}"
        for field in schema.fields
    )
    files = ", ".join(_literal(_without_glob(path)) for path in paths)
    return f"read_parquet([{files}], schema = MAP {{{fields}}}, hive_partitioning = false)"


def _nothing(schema: Schema) -> str:
    columns = ", ".join(
        f"CAST(NULL AS {duckdb_type(field.field_type)}) AS {_identifier(field.name)}" for field in schema.fields
    )
    return f"(SELECT {columns} LIMIT 0)"


def duckdb_type(of_type: IcebergType) -> str:
    """DuckDB's name of an Iceberg type. Raises QueryRefused for one that K2 does not read."""
    match of_type:
        case DecimalType():
            return f"DECIMAL({of_type.precision}, {of_type.scale})"
        case ListType():
            return f"{duckdb_type(of_type.element_type)}[]"
        case MapType():
            return f"MAP({duckdb_type(of_type.key_type)}, {duckdb_type(of_type.value_type)})"
        case StructType():
            inner = ", ".join(f"{_identifier(one.name)} {duckdb_type(one.field_type)}" for one in of_type.fields)
            return f"STRUCT({inner})"
    simple = _SIMPLE_TYPES.get(type(of_type))
    if simple is None:
        raise QueryRefused(f"a column has the type {of_type}, which K2 does not read", type=str(of_type))
    return simple


def _without_glob(path: str) -> str:
    return "".join(f"[{one}]" if one in _GLOB_CHARACTERS else one for one in path)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
