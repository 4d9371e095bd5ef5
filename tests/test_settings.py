"""Settings: where values come from, and what a mistake is told."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from k2_dagster.errors import ConfigurationError
from k2_dagster.settings import (
    STACK_FILE,
    Settings,
    as_environment,
    environment_name,
    explain_settings,
    load_settings,
)

REFERENCE = Path(__file__).parent.parent / "docs/reference.md"


def sources(environment: dict[str, str]) -> dict[str, tuple[object, str]]:
    return {one.name: (one.value, one.source) for one in explain_settings(environment)}


def test_the_environment_wins_over_the_stack_and_the_stack_over_the_default(tmp_path: Path) -> None:
    stack_file = tmp_path / STACK_FILE
    stack_file.write_text("# written by k2 dev up\nK2_QUERY_THREADS=3\nK2_INGEST_BATCH_ROWS=7\n\nK2_CATALOG_URI=a=b\n")
    environment = {"K2_HOME": str(tmp_path), "K2_QUERY_THREADS": "5", "PATH": "/bin"}

    found = sources(environment)

    assert found["K2_QUERY_THREADS"] == (5, "environment")
    assert found["K2_INGEST_BATCH_ROWS"] == (7, str(stack_file))
    assert found["K2_CATALOG_URI"] == (SecretStr("a=b"), str(stack_file))
    assert found["K2_LOG_LEVEL"] == ("INFO", "default")


def test_every_setting_is_explained_in_the_order_of_declaration() -> None:
    explained = explain_settings({})

    assert [one.name for one in explained] == [environment_name(name) for name in Settings.model_fields]
    assert all(one.help for one in explained)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_docs_name_every_setting(name: str) -> None:
    assert f"`{environment_name(name)}`" in REFERENCE.read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_name_with_a_unit_declares_it(name: str) -> None:
    units = {"seconds": "seconds", "megabytes": "MB", "hours": "hours", "rows": "rows"}
    suffix = name.rsplit("_", 1)[-1]
    declared = {one.name: one.unit for one in explain_settings({})}[environment_name(name)]

    if name == "drain_min_rows":  # a lag, which Kafka counts in messages
        assert declared == "messages"
    else:
        assert declared == units.get(suffix, declared)


@pytest.mark.parametrize("place", ["environment", "stack file"])
def test_an_unknown_name_is_an_error_that_suggests_the_nearest(place: str, tmp_path: Path) -> None:
    environment = {"K2_HOME": str(tmp_path)}
    if place == "environment":
        environment["K2_QUERY_THREDS"] = "5"
    else:
        (tmp_path / STACK_FILE).write_text("K2_QUERY_THREDS=5\n")

    with pytest.raises(ConfigurationError, match="K2_QUERY_THREDS") as caught:
        load_settings(environment)

    assert caught.value.advice == "did you mean K2_QUERY_THREADS?"
    assert place == "environment" or STACK_FILE in caught.value.message


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("K2_QUERY_THREADS", "0", "greater than 0"),
        ("K2_QUERY_THREADS", "many", "integer"),
        ("K2_INGEST_READER", "fast", "'plain' or 'native'"),
        ("K2_FRESHNESS_TARGET_SECONDS", "-1", "greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_valid(name: str, value: str, valid: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=valid) as caught:
        load_settings({"K2_HOME": str(tmp_path), name: value})

    assert f"{name} was '{value}'" in caught.value.message


def test_an_empty_value_unsets_an_optional_setting(tmp_path: Path) -> None:
    assert load_settings({"K2_HOME": str(tmp_path)}).s3_endpoint is None


def test_settings_survive_the_way_through_a_child_process(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        catalog_uri=SecretStr("postgresql+psycopg2://ann:swordfish@db/k2"),
        kafka_sasl_mechanism="PLAIN",
        query_threads=3,
    )

    assert load_settings(as_environment(settings)) == settings


def test_secrets_do_not_show_by_accident() -> None:
    settings = Settings(catalog_uri=SecretStr("swordfish-1"), s3_secret_access_key=SecretStr("swordfish-2"))

    assert "swordfish" not in repr(settings)
    assert "swordfish" not in str(settings)
    assert "swordfish" not in settings.model_dump_json()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().query_threads = 3  # type: ignore[misc]
