"""Declared schemas against a real registry and against files."""

import json
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from k2_dagster.errors import ConfigurationError, SchemaIncompatible
from k2_dagster.kafka.registry import Registry
from k2_dagster.kafka.subjects import check_files, check_registered, declared_schemas, register_all, write_files
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.datasets import WIRE_DATASETS, WIRE_FORMS
from k2_dagster.schemas.json_schema import json_schema
from k2_dagster.schemas.profiles import Profiles, load_profiles
from k2_dagster.settings import Settings

# Apicurio tells the kind by `$schema`
JSON_TEXT = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'


@pytest.fixture
def exchange() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def profiles(exchange: str) -> Profiles:
    """One exchange, that no other test has."""
    packaged = load_profiles()
    return packaged.model_copy(update={"exchanges": {exchange: packaged.exchange("sim_crypto")}})


def older_ticks(**price: Any) -> str:
    """The ticks schema without its last field, and a changed price."""
    schema = avro_schema(WIRE_DATASETS["ticks"])
    schema["fields"].pop()
    next(field for field in schema["fields"] if field["name"] == "price")["type"].update(price)
    return json.dumps(schema)


@pytest.mark.stack
def test_register_all_registers_then_confirms(kafka_settings: Settings, profiles: Profiles, exchange: str) -> None:
    first = register_all(kafka_settings, profiles, [exchange])
    assert [(one.subject, one.action) for one in first] == [
        (f"market.{dataset}.{exchange}-value", "registered") for dataset in WIRE_DATASETS
    ]
    again = register_all(kafka_settings, profiles, [exchange])
    assert [(one.subject, one.schema_id, one.action) for one in again] == [
        (one.subject, one.schema_id, "confirmed") for one in first
    ]
    with closing(Registry(kafka_settings)) as registry:
        assert {one.state for one in check_registered(registry, profiles, [exchange])} == {"same"}
        # BACKWARD is on: a required field without a default is refused by the registry itself
        schema = avro_schema(WIRE_DATASETS["ticks"])
        schema["fields"].append({"name": "new", "type": "long"})
        with pytest.raises(SchemaIncompatible):
            registry.register(first[0].subject, json.dumps(schema))


@pytest.mark.stack
def test_a_compatible_change_becomes_a_new_version(kafka_settings: Settings, profiles: Profiles, exchange: str) -> None:
    with closing(Registry(kafka_settings)) as registry:
        old = registry.register(f"market.ticks.{exchange}-value", older_ticks())
        states = {one.subject: one.state for one in check_registered(registry, profiles, [exchange])}
        assert states[f"market.ticks.{exchange}-value"] == "compatible"
        assert states[f"market.quotes.{exchange}-value"] == "new"
    outcome = register_all(kafka_settings, profiles, [exchange])[0]
    assert outcome.action == "new version"
    assert outcome.schema_id != old


@pytest.mark.stack
def test_an_incompatible_change_registers_nothing_at_all(
    kafka_settings: Settings, profiles: Profiles, exchange: str
) -> None:
    with closing(Registry(kafka_settings)) as registry:
        registry.register(f"market.ticks.{exchange}-value", older_ticks(scale=4))
        with pytest.raises(SchemaIncompatible, match="-value: price: its scale was 4, is 8"):
            register_all(kafka_settings, profiles, [exchange])
        assert registry.latest(f"market.quotes.{exchange}-value") is None


def extended(schema: dict[str, Any], *names: str) -> str:
    """The schema with more optional fields, as somebody else may register it."""
    added = [{"name": name, "type": ["null", "string"], "default": None} for name in names]
    return json.dumps({**schema, "fields": [*schema["fields"], *added]})


@pytest.mark.stack
def test_optional_fields_that_others_have_added_are_a_note(
    kafka_settings: Settings, profiles: Profiles, exchange: str
) -> None:
    register_all(kafka_settings, profiles, [exchange])
    subject = f"market.ticks.{exchange}-value"
    with closing(Registry(kafka_settings)) as registry:
        newest = registry.register(subject, extended(avro_schema(WIRE_DATASETS["ticks"]), "note_1", "note_2"))
        check = next(one for one in check_registered(registry, profiles, [exchange]) if one.subject == subject)
        assert (check.state, check.problems) == ("ahead", ())
        assert [one.field for one in check.notes] == ["note_1", "note_2"]
        outcome = register_all(kafka_settings, profiles, [exchange])[0]
        assert (outcome.action, outcome.schema_id) == ("ahead", newest)
        latest = registry.latest(subject)
        assert latest is not None
        assert latest.id == newest


@pytest.mark.stack
def test_a_declaration_that_has_grown_follows_what_others_have_added(
    kafka_settings: Settings, profiles: Profiles, exchange: str
) -> None:
    subject = f"market.ticks.{exchange}-value"
    with closing(Registry(kafka_settings)) as registry:
        registry.register(subject, older_ticks())
        registry.register(subject, extended(json.loads(older_ticks()), "note_1"))
        check = next(one for one in check_registered(registry, profiles, [exchange]) if one.subject == subject)
        assert (check.state, [one.field for one in check.notes]) == ("compatible", ["note_1"])
    outcome = register_all(kafka_settings, profiles, [exchange])[0]
    assert outcome.action == "new version"
    assert register_all(kafka_settings, profiles, [exchange])[0].action == "confirmed"


@pytest.mark.stack
@pytest.mark.parametrize("has_older", [False, True], ids=["one version", "an older version has it too"])
def test_a_field_that_the_declaration_has_removed_is_incompatible(
    kafka_settings: Settings, profiles: Profiles, exchange: str, has_older: bool
) -> None:
    """A field that was ours: no version that the declaration could follow is without it."""
    subject = f"market.ticks.{exchange}-value"
    schema = avro_schema(WIRE_DATASETS["ticks"])
    schema["fields"].insert(0, {"name": "venue_code", "type": ["null", "string"], "default": None})
    with closing(Registry(kafka_settings)) as registry:
        if has_older:
            older = [one for one in schema["fields"] if one["name"] != "trade_id"]
            registry.register(subject, json.dumps({**schema, "fields": older}))
        registry.register(subject, json.dumps(schema))
        check = next(one for one in check_registered(registry, profiles, [exchange]) if one.subject == subject)
    assert check.state == "incompatible"
    assert check.problems[0].field == "venue_code"
    with pytest.raises(SchemaIncompatible, match="venue_code: it is removed or renamed"):
        register_all(kafka_settings, profiles, [exchange])


@pytest.mark.stack
def test_more_than_additions_by_others_is_incompatible(
    kafka_settings: Settings, profiles: Profiles, exchange: str
) -> None:
    register_all(kafka_settings, profiles, [exchange])
    subject = f"market.ticks.{exchange}-value"
    schema = json.loads(extended(avro_schema(WIRE_DATASETS["ticks"]), "note_1"))
    next(one for one in schema["fields"] if one["name"] == "price")["type"]["scale"] = 9
    with closing(Registry(kafka_settings)) as registry:
        registry.register(subject, json.dumps(schema))
        check = next(one for one in check_registered(registry, profiles, [exchange]) if one.subject == subject)
    assert check.state == "incompatible"
    assert {one.field for one in check.problems} == {"note_1", "price"}


@pytest.mark.stack
def test_json_subjects_are_checked_where_a_publisher_uses_them(
    kafka_settings: Settings, profiles: Profiles, exchange: str
) -> None:
    schema = json_schema(WIRE_DATASETS["quotes"])
    schema["properties"]["bid_price"]["scale"] = 2
    subject = f"market.quotes.{exchange}-value-json"
    with closing(Registry(kafka_settings)) as registry:
        registry.register(subject, json.dumps(schema), "JSON")
        checks = {one.subject: one for one in check_registered(registry, profiles, [exchange])}
    assert [(one.field, one.what) for one in checks[subject].problems] == [("bid_price", "its scale was 2, is 8")]
    assert f"market.ticks.{exchange}-value-json" not in checks


@pytest.mark.stack
def test_json_forms_are_registered_on_demand(kafka_settings: Settings, profiles: Profiles, exchange: str) -> None:
    outcomes = register_all(kafka_settings, profiles, [exchange], also_json=True)
    assert [one.subject for one in outcomes if one.subject.endswith("-json")] == [
        f"market.{dataset}.{exchange}-value-json" for dataset in WIRE_DATASETS
    ]
    with closing(Registry(kafka_settings)) as registry:
        latest = registry.latest(f"market.ticks.{exchange}-value-json")
    assert latest is not None
    assert latest.kind == "JSON"
    again = register_all(kafka_settings, profiles, [exchange])
    assert len(again) == 2 * len(WIRE_DATASETS)
    assert {one.action for one in again} == {"confirmed"}


@pytest.mark.stack
def test_a_subject_of_another_kind_is_incompatible(kafka_settings: Settings, profiles: Profiles, exchange: str) -> None:
    with closing(Registry(kafka_settings)) as registry:
        registry.register(f"market.book.{exchange}-value", JSON_TEXT, "JSON")
        checks = {one.subject: one for one in check_registered(registry, profiles, [exchange])}
    assert checks[f"market.book.{exchange}-value"].state == "incompatible"


def test_every_topic_has_both_forms_declared(profiles: Profiles, exchange: str) -> None:
    declared = declared_schemas(profiles, [exchange])
    assert sorted({(one.kind) for one in declared}) == ["AVRO", "JSON"]
    assert len(declared) == 2 * len(WIRE_DATASETS)


def test_files_are_compared_by_dataset(tmp_path: Path) -> None:
    assert [path.name for path in write_files(tmp_path)] == [f"{name}.avsc" for name in WIRE_FORMS]
    assert {one.state for one in check_files(tmp_path)} == {"same"}
    (tmp_path / "ticks.avsc").write_text(older_ticks(unit="cents"), encoding="utf-8")
    (tmp_path / "book.avsc").unlink()
    checks = {one.subject: one for one in check_files(tmp_path)}
    assert {name: one.state for name, one in checks.items()} == {
        "ticks": "incompatible",
        "quotes": "same",
        "book": "new",
        "control": "same",
        "instruments": "same",
        "recovery": "same",
    }
    assert [one.field for one in checks["ticks"].problems] == ["price"]


def test_both_forms_are_compared_where_a_folder_has_both(tmp_path: Path) -> None:
    assert [path.name for path in write_files(tmp_path, "JSON")] == [f"{name}.json" for name in WIRE_FORMS]
    assert {one.subject for one in check_files(tmp_path)} == set(WIRE_FORMS)
    write_files(tmp_path)
    changed = json_schema(WIRE_DATASETS["book"])
    changed["properties"]["bids"]["items"]["properties"]["price"]["unit"] = "cents"
    (tmp_path / "book.json").write_text(json.dumps(changed), encoding="utf-8")

    checks = {one.subject: one for one in check_files(tmp_path)}

    assert len(checks) == 2 * len(WIRE_FORMS)
    assert [name for name, one in checks.items() if one.state != "same"] == ["book.json"]
    assert [one.field for one in checks["book.json"].problems] == ["bids[].price"]


def test_files_that_cannot_be_read_or_written_say_so(tmp_path: Path) -> None:
    (tmp_path / "ticks.avsc").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"ticks\.avsc cannot be read"):
        check_files(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_files(tmp_path / "ticks.avsc" / "below")


def test_a_folder_without_schemas_or_with_strange_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no \.avsc or \.json file"):
        check_files(tmp_path)
    (tmp_path / "trades.avsc").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"trades\.avsc"):
        check_files(tmp_path)
