"""`k2 settings`."""

import json

from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.settings import Settings, environment_name

SECRETS = {
    "K2_CATALOG_URI": "postgresql+psycopg2://ann:swordfish-1@db.example:5432/k2",
    "K2_KAFKA_SASL_PASSWORD": "swordfish-2",
    "K2_SCHEMA_REGISTRY_URL": "http://ann:swordfish-3@registry.example:8081",
    "K2_DAGSTER_URI": "postgresql+psycopg2://db.example/dagster?user=ann&password=swordfish-4",
}


def test_every_setting_with_value_source_unit_and_help() -> None:
    result = CliRunner().invoke(main, ["settings", "--json"], env={"K2_QUERY_THREADS": "7"})

    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert list(rows) == [environment_name(name) for name in Settings.model_fields]
    assert rows["K2_QUERY_THREADS"] == {
        "name": "K2_QUERY_THREADS",
        "value": 7,
        "source": "environment",
        "type": "integer",
        "default": "2",
        "unit": "threads",
        "help": "DuckDB threads",
        "note": "",
        "error": "",
    }
    assert rows["K2_FRESHNESS_TARGET_SECONDS"]["value"] == 60.0
    assert rows["K2_S3_ENDPOINT"]["value"] is None
    assert rows["K2_INGEST_READER"]["type"] == "plain | native"
    assert rows["K2_LOG_LEVEL"]["source"] == "default"
    assert all(row["help"] for row in rows.values())


def test_secrets_are_masked_and_addresses_stay_readable() -> None:
    for arguments in (["settings"], ["settings", "--json"]):
        result = CliRunner().invoke(main, arguments, env=SECRETS)

        assert result.exit_code == 0
        assert "swordfish" not in result.output
        assert "postgresql+psycopg2://ann:***@db.example:5432/k2" in result.stdout
        assert "http://ann:***@registry.example:8081" in result.stdout
        assert "password=***" in result.stdout


def test_what_is_wrong_is_marked_and_the_rest_is_shown_all_the_same() -> None:
    wrong = {"K2_QUERY_THREDS": "swordfish", "K2_QUERY_CACHE_MEGABYTES": "much", "K2_QUERY_THREADS": "7"}

    shown = CliRunner().invoke(main, ["settings"], env=wrong)
    result = CliRunner().invoke(main, ["settings", "--json"], env=wrong)

    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == shown.exit_code == 4
    assert set(rows) == {environment_name(name) for name in Settings.model_fields} | {"K2_QUERY_THREDS"}
    assert [name for name, row in rows.items() if row["error"]] == ["K2_QUERY_CACHE_MEGABYTES", "K2_QUERY_THREDS"]
    assert rows["K2_QUERY_CACHE_MEGABYTES"]["value"] == "much"
    assert rows["K2_QUERY_THREADS"]["value"] == 7
    assert shown.stdout.count("WRONG") == 2
    for told in ("K2_QUERY_CACHE_MEGABYTES was 'much': Input should be a valid integer", "mean K2_QUERY_THREADS?"):
        assert told in shown.stderr
    assert "swordfish" not in shown.output + result.output
