"""`k2 doctor`: on a stack that is well, and on addresses where nothing answers."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

import k2_dagster.cli.doctor
from k2_dagster.cli import main
from k2_dagster.cli.doctor import examine
from k2_dagster.settings import Settings, as_environment, load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade


@pytest.mark.stack
def test_a_stack_that_is_well(settings: Settings) -> None:
    upgrade(Database(settings))

    result = CliRunner().invoke(main, ["doctor", "--json"], env=as_environment(settings))

    findings = json.loads(result.stdout)
    assert [one["check"] for one in findings] == [
        "kafka",
        "registry",
        "catalog",
        "dagster storage",
        "warehouse",
        "clock",
        "disk",
    ]
    assert all(one["ok"] for one in findings), findings
    assert result.exit_code == 0
    assert list(Path(settings.warehouse.removeprefix("file://")).iterdir()) == []


@pytest.mark.stack
def test_a_database_without_our_schema_is_told_what_to_run(settings: Settings) -> None:
    found = {one.check: one for one in examine(settings)}["catalog"]

    assert not found.ok
    assert found.advice == "run `k2 init`"


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nowhere(port: int, home: Path) -> dict[str, str]:
    return {
        "K2_HOME": str(home),
        "K2_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
        "K2_SCHEMA_REGISTRY_URL": f"http://127.0.0.1:{port}",
        "K2_CATALOG_URI": f"postgresql+psycopg2://ann:swordfish@127.0.0.1:{port}/k2",
        "K2_WAREHOUSE": "file:///proc/nowhere",
    }


def test_what_does_not_answer_is_named_with_what_to_do(
    closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k2_dagster.cli.doctor, "KAFKA_SECONDS", 1.0)

    result = CliRunner().invoke(main, ["doctor"], env=nowhere(closed_port, tmp_path))

    assert result.exit_code == 1
    assert result.stdout.count("WRONG") == 5
    for expected in (
        str(closed_port),
        "K2_KAFKA_BOOTSTRAP_SERVERS",
        "K2_SCHEMA_REGISTRY_URL",
        "K2_WAREHOUSE",
        "GB free",
    ):
        assert expected in result.stdout
    assert "swordfish" not in result.output


def test_a_server_that_never_answers_does_not_hold_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k2_dagster.cli.doctor, "CHECK_SECONDS", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = nowhere(silent.getsockname()[1], tmp_path) | {"K2_WAREHOUSE": f"file://{tmp_path}"}
        found = {one.check: one for one in examine(load_settings(environment))}

    assert "no answer within 2 s" in found["kafka"].found
    assert all(one.seconds < 4 for one in found.values())
    assert found["warehouse"].ok
