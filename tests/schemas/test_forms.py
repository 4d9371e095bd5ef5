"""One declaration, five forms: Avro, JSON Schema, Arrow, Iceberg and Pandera say the same."""

import io
import json
from datetime import datetime
from typing import Any

import fastavro
import jsonschema
import polars as pl
import pyarrow as pa
import pyruhvro
import pytest
from pandera.errors import SchemaError
from pyiceberg.io.pyarrow import pyarrow_to_schema

from k2_dagster.schemas import arrow, iceberg
from k2_dagster.schemas.avro import avro_schema, avro_schema_text
from k2_dagster.schemas.common import POSITION_FIELDS
from k2_dagster.schemas.datasets import TABLES, WIRE_DATASETS
from k2_dagster.schemas.declaration import PRICE_SCALE, SIZE_SCALE, Dataset, Field, FieldType
from k2_dagster.schemas.json_schema import json_schema
from k2_dagster.schemas.levels import LEVEL_FIELDS
from k2_dagster.schemas.validation import LEVEL_RULES, number_rules, number_schema, text_rules, text_schema

SAMPLES: dict[FieldType, Any] = {
    FieldType.STRING: "trade",
    FieldType.LONG: 2**62,
    FieldType.INT: 999,
    FieldType.TIMESTAMP: 1_700_000_000_123_456,
    FieldType.PRICE: 10**18 - 1,
    FieldType.SIZE: 2**63 - 1,
    FieldType.STRINGS: ["a", "b"],
    FieldType.LEVELS: [{"price": 1, "size": 0, "orders": 3}, {"price": 2, "size": 5, "orders": None}],
}

FIRST_DAY = tuple(
    "exchange stream kind symbol session channel sequence previous_sequence publisher_session publisher_sequence "  # noqa: SIM905
    "exchange_timestamp receive_timestamp publish_timestamp kafka_timestamp ingest_timestamp origin refers_to "
    "topic_epoch kafka_partition kafka_offset schema_id rules_version".split()
)

every_table = pytest.mark.parametrize("dataset", TABLES.values(), ids=list(TABLES))
every_wire = pytest.mark.parametrize("dataset", WIRE_DATASETS.values(), ids=list(WIRE_DATASETS))


def full(dataset: Dataset) -> dict[str, Any]:
    """A message with a value in every field."""
    return {field.name: SAMPLES[field.type] for field in dataset.wire_fields}


def least(dataset: Dataset) -> dict[str, Any]:
    """A message with the required fields alone."""
    return {field.name: SAMPLES[field.type] for field in dataset.wire_fields if field.required}


@every_table
def test_iceberg_and_arrow_tables_agree_in_names_ids_types_and_nullability(dataset: Dataset) -> None:
    documented = iceberg.table_schema(dataset)
    fields = [field.model_copy(update={"doc": None}) for field in documented.fields]
    assert pyarrow_to_schema(arrow.table_schema(dataset)).fields == tuple(fields)


@every_table
def test_ids_are_unique_at_every_depth(dataset: Dataset) -> None:
    ids: list[int] = []
    _collect_ids(arrow.table_schema(dataset), ids)
    assert len(set(ids)) == len(ids) >= len(dataset.fields)


def _collect_ids(fields: Any, into: list[int]) -> None:
    for field in fields:
        into.append(int(field.metadata[arrow.FIELD_ID]))
        if pa.types.is_list(field.type):
            _collect_ids([field.type.value_field], into)
        elif pa.types.is_struct(field.type):
            _collect_ids(field.type.fields, into)


@every_table
def test_partition_and_sort_columns_exist_and_cannot_be_null_where_they_partition(dataset: Dataset) -> None:
    by_id = {field.field_id: field for field in iceberg.table_schema(dataset).fields}
    partitions = [by_id[field.source_id] for field in iceberg.partition_spec(dataset).fields]
    assert [field.name for field in partitions] == ["exchange", dataset.partition_time]
    assert all(field.required for field in partitions)
    assert [by_id[field.source_id].name for field in iceberg.sort_order(dataset).fields] == list(dataset.sort)


@every_wire
def test_every_dataset_has_the_columns_of_the_first_day(dataset: Dataset) -> None:
    assert all(name in dataset for name in FIRST_DAY)
    assert {field.name for field in dataset.fields if field.source == "ingest"} == {f.name for f in POSITION_FIELDS}


@every_wire
@pytest.mark.parametrize("message", [full, least])
def test_a_message_in_avro_decodes_to_the_wire_schema(dataset: Dataset, message: Any) -> None:
    buffer = io.BytesIO()
    row = message(dataset)
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(avro_schema(dataset)), row)
    decoded = pyruhvro.deserialize_array_threaded([buffer.getvalue()], avro_schema_text(dataset), 1)[0]
    assert decoded.schema.names == arrow.wire_schema(dataset).names
    cast = pa.Table.from_batches([decoded]).cast(arrow.wire_schema(dataset))
    expected = {**dict.fromkeys(arrow.wire_schema(dataset).names), **_empty_lists(dataset), **row}
    assert _plain(cast.to_pylist()[0]) == expected


def _empty_lists(dataset: Dataset) -> dict[str, Any]:
    lists = (FieldType.STRINGS, FieldType.LEVELS)
    return {field.name: [] for field in dataset.wire_fields if field.type in lists}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Timestamps as microseconds again."""
    return {
        name: pa.scalar(value, arrow.TIMESTAMP).value if isinstance(value, datetime) else value
        for name, value in row.items()
    }


@every_wire
@pytest.mark.parametrize("message", [full, least])
def test_the_same_message_is_valid_json(dataset: Dataset, message: Any) -> None:
    validator = jsonschema.Draft7Validator(json_schema(dataset))
    lists = _empty_lists(dataset)
    assert not list(validator.iter_errors(json.loads(json.dumps(message(dataset) | lists))))
    for name in least(dataset).keys() - lists.keys():
        without = {key: value for key, value in message(dataset).items() if key != name}
        assert [error.validator for error in validator.iter_errors(without)] == ["required"]


@every_wire
def test_avro_json_and_declaration_agree_in_names_scales_units_and_nullability(dataset: Dataset) -> None:
    avro_fields = {field["name"]: field for field in avro_schema(dataset)["fields"]}
    properties = json_schema(dataset)["properties"]
    assert list(avro_fields) == list(properties) == [field.name for field in dataset.wire_fields]
    for field in dataset.wire_fields:
        avro_type, json_type = avro_fields[field.name]["type"], properties[field.name]
        is_list = field.type in (FieldType.STRINGS, FieldType.LEVELS)
        assert ("default" in avro_fields[field.name]) == (is_list or not field.required)
        assert isinstance(avro_type, list) == (not field.required and not is_list)
        assert ("null" in json_type["type"]) == (not field.required)
        plain = avro_type[1] if isinstance(avro_type, list) else avro_type
        assert _scale_and_unit(plain) == _scale_and_unit(json_type) == _declared_scale_and_unit(field)


@every_wire
def test_the_levels_of_a_book_agree_in_every_form(dataset: Dataset) -> None:
    avro_fields = {field["name"]: field for field in avro_schema(dataset)["fields"]}
    for field in (one for one in dataset.wire_fields if one.type is FieldType.LEVELS):
        avro_level = {one["name"]: one for one in avro_fields[field.name]["type"]["items"]["fields"]}
        json_level = json_schema(dataset)["properties"][field.name]["items"]
        assert list(avro_level) == list(json_level["properties"]) == [one.name for one in LEVEL_FIELDS]
        assert json_level["required"] == [one.name for one in LEVEL_FIELDS if one.required]
        for part in LEVEL_FIELDS:
            avro_type, json_type = avro_level[part.name]["type"], json_level["properties"][part.name]
            assert isinstance(avro_type, list) == ("null" in json_type["type"]) == (not part.required)
            plain = avro_type[1] if isinstance(avro_type, list) else avro_type
            assert _scale_and_unit(plain) == _scale_and_unit(json_type) == _declared_scale_and_unit(part)
            bits = 31 if plain == "int" else 63
            assert (json_type["minimum"], json_type["maximum"]) == (-(2**bits), 2**bits - 1)
            rule = LEVEL_RULES.get(part.name)
            assert rule is None or (rule.minimum is not None and rule.minimum >= json_type["minimum"])


def test_a_level_that_avro_cannot_hold_is_no_valid_json() -> None:
    message = full(WIRE_DATASETS["book"])
    message["bids"] = [{"price": 1, "size": 1, "orders": 2**31}]
    found = list(jsonschema.Draft7Validator(json_schema(WIRE_DATASETS["book"])).iter_errors(message))
    assert [error.json_path for error in found] == ["$.bids[0].orders"]


def _scale_and_unit(type_: Any) -> tuple[Any, Any]:
    if not isinstance(type_, dict):
        return None, None
    is_time = type_.get("logicalType") == "timestamp-micros"
    return type_.get("scale"), "UTC microseconds" if is_time else type_.get("unit")


def _declared_scale_and_unit(field: Field) -> tuple[int | None, str | None]:
    match field.type:
        case FieldType.PRICE:
            return PRICE_SCALE, field.unit
        case FieldType.SIZE:
            return SIZE_SCALE, field.unit
        case FieldType.TIMESTAMP:
            return None, field.unit
        case _:
            return None, None


@every_wire
def test_pandera_judges_exactly_the_declared_rules(dataset: Dataset) -> None:
    ruled = [*number_rules(dataset), *text_rules(dataset)]
    assert sorted(rule.name for _, rule in ruled) == sorted(rule.name for _, rule in dataset.rules)
    for field, rule in number_rules(dataset):
        assert rule.minimum is not None
        assert rule.maximum is not None
        schema = number_schema(dataset).select_columns([field.name])
        schema.validate(pl.DataFrame({field.name: [rule.minimum, rule.maximum, None]}, {field.name: pl.Int64}))
        outside = [value for value in (rule.minimum - 1, rule.maximum + 1) if value < 2**63]
        for value in outside:
            with pytest.raises(SchemaError, match=rule.name):
                schema.validate(pl.DataFrame({field.name: [value]}, {field.name: pl.Int64}))


@every_wire
def test_pandera_judges_texts_as_declared(dataset: Dataset) -> None:
    for field, rule in text_rules(dataset):
        schema = text_schema(field, rule)
        good, bad = (rule.allowed[0] if rule.allowed else "AAPL"), "x y\n"
        schema.validate(pl.DataFrame({field.name: [good, None]}, {field.name: pl.String}))
        with pytest.raises(SchemaError, match=rule.name):
            schema.validate(pl.DataFrame({field.name: [bad]}, {field.name: pl.String}))
