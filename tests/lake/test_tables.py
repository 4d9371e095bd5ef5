"""Tables as declared, and files as readers want them."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from k2_dagster.errors import SchemaIncompatible, TableLost
from k2_dagster.lake import tables
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.parquet import ROW_GROUP_ROWS, DataFiles, data_path
from k2_dagster.lake.tables import ensure_tables
from k2_dagster.schemas import iceberg
from k2_dagster.schemas.arrow import table_schema
from k2_dagster.schemas.common import TIME_SOURCE_FIELD
from k2_dagster.schemas.datasets import TABLES
from k2_dagster.schemas.declaration import Dataset, Field, FieldType
from tests.lake.conftest import MORNING

TICKS = TABLES["ticks"]
# Longer than the sixteen characters that statistics are cut to: a partition value must not be
LONG_NAME = "an_exchange_with_a_very_long_name"
_LEAST: dict[FieldType, Any] = {
    FieldType.STRING: "x",
    FieldType.LONG: 1,
    FieldType.INT: 1,
    FieldType.TIMESTAMP: MORNING,
    FieldType.PRICE: Decimal(1),
    FieldType.SIZE: Decimal(1),
    FieldType.STRINGS: [],
}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqlCatalog]:
    catalog = SqlCatalog("k2", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    ensure_tables(catalog)
    yield catalog
    catalog.close()


def with_field(dataset: Dataset, field: Field) -> Dataset:
    others = tuple(one for one in dataset.fields if one.name != field.name)
    return replace(dataset, fields=(*others, field))


def test_tables_have_the_declared_ids_partitions_and_order(catalog: SqlCatalog) -> None:
    for dataset in TABLES.values():
        table = load_table(catalog, f"market_data.{dataset.name}")
        assert table.schema().fields == iceberg.table_schema(dataset).fields
        assert table.spec().fields == iceberg.partition_spec(dataset).fields
        assert [one.source_id for one in table.sort_order().fields] == [dataset[name].id for name in dataset.sort]


def test_a_table_whose_files_are_gone_is_lost_and_not_away(catalog: SqlCatalog, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "warehouse")
    with pytest.raises(TableLost, match=r"the catalog names table market_data\.ticks.*metadata\.json"):
        load_table(catalog, "market_data.ticks")
    with pytest.raises(TableLost):
        ensure_tables(catalog)


def test_metadata_that_moved_on_between_two_reads_is_read_again(
    catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    read = SqlCatalog.load_table

    def late(self: SqlCatalog, name: str) -> Table:
        calls.append(name)
        if len(calls) == 1:
            raise FileNotFoundError("deleted while we looked")
        return read(self, name)

    monkeypatch.setattr(SqlCatalog, "load_table", late)

    assert load_table(catalog, "market_data.ticks").schema() is not None


def test_a_second_time_changes_nothing(catalog: SqlCatalog) -> None:
    before = load_table(catalog, "market_data.ticks").metadata_location
    assert {one.outcome for one in ensure_tables(catalog)} == {"present"}
    assert load_table(catalog, "market_data.ticks").metadata_location == before


def test_a_new_field_becomes_a_column_with_its_own_id(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = with_field(TICKS, Field(18, "venue_flag", FieldType.STRING, "A flag"))
    monkeypatch.setattr(tables, "TABLES", {**TABLES, "ticks": grown})
    outcomes = {one.table: one.outcome for one in ensure_tables(catalog)}
    assert outcomes["market_data.ticks"] == "columns added"
    assert load_table(catalog, "market_data.ticks").schema().find_field("venue_flag").field_id == 18


def test_a_table_from_before_a_field_gets_its_column_and_keeps_its_rows(tmp_path: Path) -> None:
    catalog = SqlCatalog("k2", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("market_data")
    older = replace(TICKS, fields=tuple(one for one in TICKS.fields if one.name != TIME_SOURCE_FIELD))
    tables._create(catalog, older)
    for dataset, more in ((older, {}), (TICKS, {TIME_SOURCE_FIELD: "receiver"})):
        if dataset is TICKS:
            assert {one.outcome for one in ensure_tables(catalog)} == {"created", "columns added"}
        row = {one.name: more.get(one.name, _LEAST[one.type] if one.required else None) for one in dataset.fields}
        table = load_table(catalog, "market_data.ticks")
        table.append(
            pa.Table.from_pylist([row], schema=table_schema(dataset)).select(
                [one.name for one in table.schema().fields]
            )
        )
    found = load_table(catalog, "market_data.ticks").scan().to_arrow()[TIME_SOURCE_FIELD].to_pylist()
    assert sorted(found, key=str) == [None, "receiver"]
    assert {one.outcome for one in ensure_tables(catalog)} == {"present"}
    catalog.close()


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(replace(TICKS["size"], type=FieldType.LONG), id="type"),
        pytest.param(replace(TICKS["size"], name="quantity"), id="name"),
        pytest.param(Field(18, "venue_flag", FieldType.STRING, "A flag", required=True), id="required"),
    ],
)
def test_other_changes_are_refused(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch, field: Field) -> None:
    changed = replace(TICKS, fields=(*(one for one in TICKS.fields if one.id != field.id), field))
    monkeypatch.setattr(tables, "TABLES", {**TABLES, "ticks": changed})
    with pytest.raises(SchemaIncompatible, match=field.name):
        ensure_tables(catalog)


def tick_rows(count: int) -> pa.Table:
    """Sorted ticks of a few symbols, in the form in which ingest writes them."""
    rng = random.Random(1)
    symbols = sorted(rng.choice(["AAPL", "MSFT", "BTC-USD"]) for _ in range(count))
    columns: dict[str, Any] = {
        "exchange": [LONG_NAME] * count,
        "stream": ["trade"] * count,
        "kind": ["trade"] * count,
        "symbol": symbols,
        "side": ["buy"] * count,
        "origin": ["live"] * count,
        "sequence": list(range(count)),
        "price": [Decimal(rng.randint(10**9, 10**9 + 500)).scaleb(-8) for _ in range(count)],
        "size": [Decimal(rng.choice([1, 100, 2**62])).scaleb(-8) for _ in range(count)],
        "conditions": [["@", "T"][: rng.randint(0, 2)] for _ in range(count)],
        "kafka_offset": list(range(7, 7 + count)),
    }
    times = [MORNING + timedelta(microseconds=137 * at) for at in range(count)]
    columns |= dict.fromkeys(("exchange_timestamp", "kafka_timestamp", "ingest_timestamp"), times)
    columns |= dict.fromkeys(("topic_epoch", "kafka_partition", "schema_id", "rules_version"), [1] * count)
    schema = table_schema(TICKS)
    return pa.table({one.name: pa.array(columns.get(one.name, [None] * count), one.type) for one in schema}, schema)


def test_files_have_the_layout_for_readers_and_both_engines_read_them(catalog: SqlCatalog) -> None:
    table = load_table(catalog, "market_data.ticks")
    rows = tick_rows(ROW_GROUP_ROWS + 1_000)
    file = DataFiles(table, TICKS).write(rows, data_path(table, LONG_NAME, "2026-01-01", "one"))
    assert file.partition[0] == LONG_NAME
    assert file.record_count == len(rows)
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)
    meta = pq.read_metadata(file.file_path.removeprefix("file://"))
    assert [meta.row_group(at).num_rows for at in range(2)] == [ROW_GROUP_ROWS, 1_000]
    of = {meta.row_group(0).column(at).path_in_schema: meta.row_group(0).column(at) for at in range(meta.num_columns)}
    for name in ("exchange_timestamp", "sequence", "kafka_offset"):
        assert "DELTA_BINARY_PACKED" in of[name].encodings
    for name in ("symbol", "price", "exchange"):
        assert "RLE_DICTIONARY" in of[name].encodings
    assert of["price"].physical_type == "INT64"
    assert {one.compression for one in of.values()} == {"ZSTD"}
    read = load_table(catalog, "market_data.ticks").scan(row_filter=f"exchange = '{LONG_NAME}'").to_arrow()
    assert read.to_pylist() == rows.to_pylist()
    with duckdb.connect() as connection:
        found = connection.execute(
            "select count(*), sum(price), sum(size), max(sequence) from read_parquet(?)", [file.file_path]
        ).fetchone()
    assert found == (len(rows), sum(rows["price"].to_pylist()), sum(rows["size"].to_pylist()), len(rows) - 1)


def test_files_are_at_most_half_of_what_the_plain_writer_makes(catalog: SqlCatalog) -> None:
    table = load_table(catalog, "market_data.ticks")
    rows = tick_rows(50_000)
    ours = DataFiles(table, TICKS).write(rows, data_path(table, LONG_NAME, "2026-01-01", "ours")).file_size_in_bytes
    table.append(rows)
    theirs = table.inspect.files()["file_size_in_bytes"].to_pylist()
    print(f"bytes per row: {ours / len(rows):.1f}, PyIceberg's own writer {sum(theirs) / len(rows):.1f}")  # noqa: T201
    assert ours * 2 <= sum(theirs)


def test_the_lowest_and_highest_numbers_come_back(catalog: SqlCatalog) -> None:
    table = load_table(catalog, "market_data.ticks")
    rows = tick_rows(3)
    prices = [Decimal(10**18 - 1).scaleb(-8), Decimal(1).scaleb(-8), Decimal(-5).scaleb(-8)]
    sizes = [Decimal(2**63 - 1).scaleb(-8), Decimal(10**28 - 1).scaleb(-8), Decimal(-(10**27)).scaleb(-8)]
    for name, values in (("price", prices), ("size", sizes)):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    file = DataFiles(table, TICKS).write(rows, data_path(table, LONG_NAME, "2026-01-01", "edges"))
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)
    read = table.scan().to_arrow()
    assert (read["price"].to_pylist(), read["size"].to_pylist()) == (prices, sizes)
    assert np.all(read["sequence"].to_numpy() == [0, 1, 2])
