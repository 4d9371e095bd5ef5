"""Settings: where values come from, what a mistake is told, and which forms of addresses are taken."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from k2_dagster.cli.settings import explain_settings
from k2_dagster.errors import ConfigurationError
from k2_dagster.settings import (
    STACK_FILE,
    Settings,
    as_environment,
    environment_name,
    load_settings,
    mixed_addresses,
    stack_settings,
)
from k2_dagster.sources import ADDRESSES

REFERENCE = Path(__file__).parent.parent / "docs/reference.md"


def sources(environment: dict[str, str]) -> dict[str, tuple[object, str]]:
    return {one.name: (one.value, one.source) for one in explain_settings(environment)}


def test_the_environment_wins_over_the_stack_and_the_stack_over_the_default(tmp_path: Path) -> None:
    stack_file = tmp_path / STACK_FILE
    uri = "postgresql+psycopg2://postgres:@/k2?host=/a=b"
    stack_file.write_text(f"# by k2 dev up\nK2_QUERY_THREADS=3\nK2_INGEST_BATCH_ROWS=7\n\nK2_CATALOG_URI={uri}\n")
    environment = {"K2_HOME": str(tmp_path), "K2_QUERY_THREADS": "5", "PATH": "/bin"}

    found = sources(environment)

    assert found["K2_QUERY_THREADS"] == (5, "environment")
    assert found["K2_INGEST_BATCH_ROWS"] == (7, str(stack_file))
    assert found["K2_CATALOG_URI"] == (SecretStr(uri), str(stack_file))
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

    assert "did you mean K2_QUERY_THREADS?" in caught.value.message
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


def test_names_are_exact_and_log_levels_are_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"K2_query_threads .* did you mean K2_QUERY_THREADS"):
        load_settings({"K2_HOME": str(tmp_path), "K2_query_threads": "3"})
    assert load_settings({"K2_HOME": str(tmp_path), "K2_LOG_LEVEL": "debug"}).log_level == "DEBUG"


def test_an_empty_value_unsets_an_optional_setting(tmp_path: Path) -> None:
    (tmp_path / STACK_FILE).write_text("K2_S3_ENDPOINT=http://127.0.0.1:1\nK2_S3_REGION=here\n")
    environment = {"K2_HOME": str(tmp_path)}

    assert load_settings(environment).s3_endpoint == "http://127.0.0.1:1"
    assert load_settings(environment | {"K2_S3_ENDPOINT": ""}).s3_endpoint is None


@pytest.mark.parametrize("name", ["K2_QUERY_THREADS", "K2_KAFKA_BOOTSTRAP_SERVERS", "K2_CATALOG_URI", "K2_HOME"])
def test_an_empty_value_of_another_setting_is_an_error(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} was '': it cannot be unset"):
        load_settings({name: ""})


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
@pytest.mark.parametrize("name", ["K2_CATALOG_URI", "K2_DAGSTER_URI"])
def test_a_database_gets_the_driver_that_is_there(name: str, scheme: str, tmp_path: Path) -> None:
    for rest in ("ann:pw@db.example:5432/k2?sslmode=require", "postgres:@/k2?host=/tmp/x", "[::1]:5432/k2", "db/k2"):
        settings = load_settings({"K2_HOME": str(tmp_path), name: f"{scheme}://{rest}"})
        assert as_environment(settings)[name] == f"postgresql+psycopg2://{rest}"


@pytest.mark.parametrize(
    "uri", ["mysql://db/k2", "postgresql+psycopg://db/k2", "db:5432/k2", "postgresql://db", "postgresql://db:port/k2"]
)
def test_another_database_is_refused_without_showing_it(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"K2_CATALOG_URI was \*\*\*: valid: postgresql://user") as caught:
        load_settings({"K2_HOME": str(tmp_path), "K2_CATALOG_URI": uri})
    assert uri not in str(caught.value)
    assert "K2_WAREHOUSE" not in str(caught.value)  # which follows from the home, and is not asked then


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("file:///srv/lake/", "file:///srv/lake"),
        ("/srv/c++ 100%", "file:///srv/c++ 100%"),
        ("s3://lake", "s3://lake"),
        ("s3://lake/warehouse/", "s3://lake/warehouse"),
    ],
)
def test_warehouses_that_are_taken(given: str, taken: str, tmp_path: Path) -> None:
    assert load_settings({"K2_HOME": str(tmp_path), "K2_WAREHOUSE": given}).warehouse == taken


@pytest.mark.parametrize(
    "given",
    ["lake", "file://lake/x", "file:///", "/", "s3://", "s3:///lake", "s3a://lake", "gs://lake", "/a?b", "s3://L"],
)
def test_another_warehouse_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"K2_WAREHOUSE was .*valid: file:///absolute/folder"):
        load_settings({"K2_HOME": str(tmp_path), "K2_WAREHOUSE": given})


def test_the_warehouse_is_below_the_home_unless_named(tmp_path: Path) -> None:
    assert load_settings({"K2_HOME": str(tmp_path)}).warehouse == f"file://{tmp_path}/warehouse"
    with pytest.raises(ConfigurationError, match="K2_WAREHOUSE"):
        load_settings({"K2_HOME": str(tmp_path / "a#b")})


STACK = {
    "K2_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:21000",
    "K2_KAFKA_REPLICATION_FACTOR": "3",
    "K2_SCHEMA_REGISTRY_URL": "http://127.0.0.1:22000",
    "K2_CATALOG_URI": "postgresql+psycopg2://postgres:@/k2?host=/tmp/stack",
    "K2_DAGSTER_URI": "postgresql+psycopg2://postgres:@/dagster?host=/tmp/stack",
    "K2_WAREHOUSE": "s3://k2-lake/warehouse",
    "K2_S3_ENDPOINT": "http://127.0.0.1:23000",
    "K2_S3_ACCESS_KEY_ID": "key",
}


@pytest.fixture
def beside_a_stack(tmp_path: Path) -> dict[str, str]:
    lines = (STACK | {"K2_QUERY_THREADS": "3"}).items()
    (tmp_path / STACK_FILE).write_text("".join(f"{name}={value}\n" for name, value in lines))
    return {"K2_HOME": str(tmp_path)}


@pytest.mark.parametrize("field", ADDRESSES)
def test_one_address_from_the_environment_leaves_out_all_of_the_stacks(
    field: str, beside_a_stack: dict[str, str], tmp_path: Path
) -> None:
    name = environment_name(field)
    own = {"K2_CATALOG_URI": "postgresql://db/k2", "K2_WAREHOUSE": "s3://mine"}.get(name, "mine.example:1")

    found = {one.name: one for one in explain_settings(beside_a_stack | {name: own})}

    for key in STACK.keys() - {name}:
        assert found[key].source == "default", key
        assert (
            f"{tmp_path / STACK_FILE} is not used for addresses: {name} comes from the environment" in found[key].note
        )
    assert found[name].source == "environment"
    assert found["K2_QUERY_THREADS"].value == 3
    assert found["K2_DAGSTER_URI"].value is None
    assert f"{name} comes from the environment" in mixed_addresses(beside_a_stack | {name: own})


def test_addresses_that_all_come_from_one_place_are_no_mixture(beside_a_stack: dict[str, str]) -> None:
    assert mixed_addresses(beside_a_stack) == ""
    assert mixed_addresses(beside_a_stack | STACK) == ""
    assert load_settings(beside_a_stack).kafka_replication_factor == 3
    # other settings on top change nothing about that
    assert load_settings(beside_a_stack | {"K2_INGEST_READER": "native"}).s3_access_key_id == "key"


def test_the_home_is_found_beside_a_file_of_another_version(tmp_path: Path) -> None:
    (tmp_path / STACK_FILE).write_text("K2_NO_LONGER_A_SETTING=1\n")

    assert stack_settings({"K2_HOME": str(tmp_path), "K2_QUERY_THREADS": "many"}).home == tmp_path
    with pytest.raises(ConfigurationError, match=r"K2_HOEM .* did you mean K2_HOME"):
        stack_settings({"K2_HOEM": str(tmp_path)})


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_stack_file_that_cannot_be_read_says_so(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        (tmp_path / STACK_FILE).mkdir()
    else:
        (tmp_path / STACK_FILE).write_bytes(content)

    with pytest.raises(ConfigurationError, match=f"{STACK_FILE} cannot be read"):
        load_settings({"K2_HOME": str(tmp_path)})


def test_a_home_that_is_a_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert load_settings({"K2_HOME": str(tmp_path / "file")}).home == tmp_path / "file"


def test_settings_survive_the_way_through_a_child_process(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        catalog_uri=SecretStr("postgresql+psycopg2://ann:swordfish@db/k2"),
        kafka_sasl_mechanism="PLAIN",
        query_threads=3,
    )

    assert load_settings(as_environment(settings)) == settings


def test_secrets_do_not_show_by_accident() -> None:
    uri = SecretStr("postgresql://ann:swordfish-1@db/k2")
    settings = Settings(catalog_uri=uri, s3_secret_access_key=SecretStr("swordfish-2"))

    assert "swordfish" not in repr(settings)
    assert "swordfish" not in str(settings)
    assert "swordfish" not in settings.model_dump_json()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().query_threads = 3  # type: ignore[misc]
