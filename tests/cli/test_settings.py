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
        "value": "7",
        "source": "environment",
        "unit": "threads",
        "help": "DuckDB threads",
    }
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
