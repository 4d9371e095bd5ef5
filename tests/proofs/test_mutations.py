"""The fuzz's own machinery: mutations are seeded and work on every dataset; the oracle reads what is valid."""

import io
import json
import random
from typing import Any

import fastavro
import pytest

from k2_dagster.kafka.registry import RegisteredSchema
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.declaration import FieldType
from k2_dagster.schemas.json_schema import json_schema_text
from proofs.mutations import OF_AVRO, OF_BYTES, OF_ENVELOPE, OF_JSON, Original, Surroundings, mutate
from proofs.oracle import Oracle, different_fields, frame_id, raw_avro_schema

SCHEMAS = {name: fastavro.parse_schema(raw_avro_schema(avro_schema_text(one))) for name, one in WIRE_DATASETS.items()}
AVRO_IDS = {name: place for place, name in enumerate(WIRE_DATASETS, 1)}
JSON_IDS = {name: place for place, name in enumerate(WIRE_DATASETS, 101)}
_VALUES: dict[FieldType, Any] = {
    FieldType.STRING: "text",
    FieldType.STRINGS: [],
    FieldType.LEVELS: [{"price": 1, "size": 2, "orders": None}],
}


def _record(dataset: str) -> dict[str, Any]:
    return {field.name: _VALUES.get(field.type, 1_741_046_400_000_000) for field in WIRE_DATASETS[dataset].wire_fields
            if field.type is not FieldType.INT}  # fmt: skip


def _original(dataset: str, wire: str) -> Original:
    out = io.BytesIO()
    if wire == "avro":
        fastavro.schemaless_writer(out, SCHEMAS[dataset], _record(dataset))
    body = out.getvalue() or json.dumps(_record(dataset)).encode()
    schema_id = (AVRO_IDS if wire == "avro" else JSON_IDS)[dataset]
    return Original(dataset, wire, b"x.text", b"\0" + schema_id.to_bytes(4, "big") + body)


def _around() -> Surroundings:
    others = [_original(dataset, "avro") for dataset in WIRE_DATASETS]
    return Surroundings(others, [77], [88], SCHEMAS)


def _oracle() -> Oracle:
    avro = {
        AVRO_IDS[name]: RegisteredSchema(AVRO_IDS[name], "AVRO", avro_schema_text(one))
        for name, one in WIRE_DATASETS.items()
    }
    documents = {
        JSON_IDS[name]: RegisteredSchema(JSON_IDS[name], "JSON", json_schema_text(one))
        for name, one in WIRE_DATASETS.items()
    }
    return Oracle({**avro, **documents})


@pytest.mark.parametrize("dataset", WIRE_DATASETS)
@pytest.mark.parametrize("wire", ["avro", "json"])
def test_every_way_gives_a_message_and_the_same_seed_the_same_one(dataset: str, wire: str) -> None:
    original, around = _original(dataset, wire), _around()
    for name, way in {**OF_BYTES, **OF_ENVELOPE, **(OF_AVRO if wire == "avro" else OF_JSON)}.items():
        one, other = (way(random.Random(5), original, around) for _ in range(2))
        assert one == other, name
        assert one.dataset == dataset
    assert len({mutate(random.Random(seed), original, around)[0] for seed in range(400)}) > 30


@pytest.mark.parametrize("dataset", WIRE_DATASETS)
def test_both_forms_of_a_record_say_the_same(dataset: str) -> None:
    oracle, declared = _oracle(), WIRE_DATASETS[dataset]
    avro, document = (oracle.decode(declared, _original(dataset, wire).value) for wire in ("avro", "json"))
    assert avro is not None
    assert document is not None
    assert different_fields(avro, document) == []
    assert avro["symbol"] == "text"


def test_the_oracle_reads_nothing_into_damage() -> None:
    oracle, declared = _oracle(), WIRE_DATASETS["ticks"]
    good = _original("ticks", "avro").value or b""
    document = _original("ticks", "json").value or b""
    assert oracle.decode(declared, good) is not None
    for bad in (None, b"", good[:4], b"{" + good[1:], good[:-1], good + b"x", b"\0\0\0\0\x63" + good[5:]):
        assert oracle.decode(declared, bad) is None
    beyond = document[:-1] + b', "extra": 1e999}'
    assert oracle.decode(declared, beyond.replace(b"1e999", b"1e99")) is not None
    for bad in (document[:-1], document[:5] + b"[]", document.replace(b'"text"', b"NaN", 1), beyond):
        assert oracle.decode(declared, bad) is None


def test_a_difference_of_value_or_type_is_seen() -> None:
    assert different_fields({"a": 1, "b": None, "c": []}, {"a": 2, "b": 0, "c": None}) == ["a", "b"]
    assert different_fields({"a": 1, "b": True}, {"a": 1.0, "b": 1}) == ["b"]


def test_the_frame_names_its_schema() -> None:
    assert frame_id(b"\0\0\0\x01\x02rest") == 258
    assert frame_id(b"\1\0\0\x01\x02") is None
