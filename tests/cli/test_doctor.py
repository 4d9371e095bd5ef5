"""`k2 doctor`: on a stack that is well, and on addresses where nothing answers."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner
from sqlalchemy import text

import k2_dagster.cli.doctor
from k2_dagster.cli import doctor_checks, main
from k2_dagster.cli.doctor import Finding, examine
from k2_dagster.settings import STACK_FILE, Settings, as_environment, load_settings
from k2_dagster.state.database import Database
from k2_dagster.state.migrate import upgrade


@pytest.mark.stack
def test_a_stack_that_is_well(settings: Settings) -> None:
    upgrade(Database(settings))
    root = Path(settings.warehouse.removeprefix("file://"))
    root.mkdir()

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
    assert list(root.iterdir()) == []


@pytest.mark.stack
def test_an_empty_database_is_where_init_begins(settings: Settings) -> None:
    """So that `k2 doctor && k2 init` gets there."""
    found = by_name(settings)

    assert found["catalog"].ok
    assert "`k2 init`" in found["catalog"].found
    assert found["clock"].ok


@pytest.mark.stack
def test_a_control_schema_of_another_version_is_told_what_to_run(settings: Settings) -> None:
    with closing(Database(settings)) as database:
        upgrade(database)
        with database.begin() as connection:
            connection.execute(text("update k2.alembic_version set version_num = '0009'"))

    found = by_name(settings)

    assert not found["catalog"].ok
    assert found["catalog"].advice == "run `k2 init`"
    assert "clock" not in found


def by_name(settings: Settings) -> dict[str, Finding]:
    return {one.check: one for one in examine(settings)}


@pytest.mark.stack
def test_a_database_that_is_not_there_is_told_apart_from_a_server_that_is_not(settings: Settings) -> None:
    missing = settings.catalog_uri.get_secret_value().replace("/test_", "/no_such_")
    found = by_name(load_settings(as_environment(settings) | {"K2_CATALOG_URI": missing}))["catalog"]

    assert 'database "no_such_' in found.found
    assert "CREATE DATABASE" in found.advice


@pytest.mark.stack
def test_a_handshake_that_fails_is_told_with_its_reason(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "KAFKA_SECONDS", 2.0)
    found = by_name(load_settings(as_environment(settings) | {"K2_KAFKA_SECURITY_PROTOCOL": "SSL"}))["kafka"]

    assert "SSL handshake failed" in found.found
    assert "K2_KAFKA_SECURITY_PROTOCOL" in found.advice


@pytest.mark.stack
def test_too_many_replicas_for_one_broker(settings: Settings) -> None:
    found = by_name(load_settings(as_environment(settings) | {"K2_KAFKA_REPLICATION_FACTOR": "3"}))["kafka"]

    assert (found.found, found.advice) == ("K2_KAFKA_REPLICATION_FACTOR was 3, there is 1 broker", "valid: 1")


def test_a_warehouse_that_is_not_there_yet_is_not_made(tmp_path: Path, closed_port: int) -> None:
    root = tmp_path / "deep" / "warehouse"
    chosen = load_settings(nowhere(closed_port, tmp_path) | {"K2_WAREHOUSE": str(root)})

    assert "`k2 init` does" in doctor_checks.warehouse(chosen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"K2_KAFKA_SECURITY_PROTOCOL": "SSL", "K2_KAFKA_SSL_CA_LOCATION": "/no/such/file"},
        {"K2_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
    ],
)
def test_a_client_that_cannot_start_is_a_finding_and_no_traceback(
    wrong: dict[str, str], closed_port: int, tmp_path: Path
) -> None:
    environment = nowhere(closed_port, tmp_path) | wrong
    found = by_name(load_settings(environment))["kafka"]
    status = CliRunner().invoke(main, ["schemas", "check"], env=environment)
    init = CliRunner().invoke(main, ["ingest", "--exchange", "iex"], env=environment)

    assert "Kafka refused to start an admin client" in found.found
    assert "no answer" not in found.found
    assert (status.exit_code, init.exit_code) == (3, 3)


def test_any_error_of_a_check_is_told(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Settings) -> str:
        raise RuntimeError("a bug at postgresql://ann:swordfish@db/k2")

    monkeypatch.setattr(doctor_checks, "disk", broken)

    found = by_name(load_settings(nowhere(closed_port, tmp_path)))["disk"]

    assert found.found == "RuntimeError: a bug at postgresql://ann:***@db/k2"
    assert not found.ok


@contextmanager
def web_page() -> Iterator[str]:
    """The address of a server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_advice_that_knows_more_is_kept(closed_port: int, tmp_path: Path) -> None:
    with web_page() as address:
        environment = nowhere(closed_port, tmp_path) | {"K2_SCHEMA_REGISTRY_URL": address}
        found = by_name(load_settings(environment))["registry"]

    assert "must be the root of a registry" in found.advice


def test_a_fresh_machine_is_told_to_bring_the_stack_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "KAFKA_SECONDS", 1.0)

    fresh = CliRunner().invoke(main, ["doctor"], env={"K2_HOME": str(tmp_path)})

    assert "Nothing is set up here yet: `k2 dev up` starts everything" in fresh.stdout


def test_a_stack_that_is_down_is_brought_up_again_by_the_same_command(tmp_path: Path, closed_port: int) -> None:
    own = nowhere(closed_port, tmp_path)
    (tmp_path / STACK_FILE).write_text(f"K2_SCHEMA_REGISTRY_URL={own['K2_SCHEMA_REGISTRY_URL']}\n")
    found = by_name(load_settings({"K2_HOME": str(tmp_path)}))["registry"]

    assert "brings the development stack up again" in found.advice


def test_addresses_of_two_places_are_a_finding(
    tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STACK_FILE).write_text("K2_CATALOG_URI=postgresql://stack/k2\n")
    for name in ("K2_CATALOG_URI", "K2_SCHEMA_REGISTRY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.setenv("K2_KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{closed_port}")
    monkeypatch.setenv("K2_WAREHOUSE", str(tmp_path))
    monkeypatch.setattr(doctor_checks, "KAFKA_SECONDS", 1.0)

    found = by_name(load_settings())["addresses"]

    assert not found.ok
    assert "K2_KAFKA_BOOTSTRAP_SERVERS, K2_WAREHOUSE come from the environment" in found.found
    assert "while K2_SCHEMA_REGISTRY_URL, K2_CATALOG_URI do not" in found.found


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
    monkeypatch.setattr(doctor_checks, "KAFKA_SECONDS", 1.0)

    result = CliRunner().invoke(main, ["doctor"], env=nowhere(closed_port, tmp_path))

    assert result.exit_code == 1
    assert result.stdout.count("WRONG") == 4
    assert "clock" not in result.stdout
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
    monkeypatch.setattr(k2_dagster.cli.doctor, "CHECK_SECONDS", 6.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = nowhere(silent.getsockname()[1], tmp_path) | {"K2_WAREHOUSE": f"file://{tmp_path}"}
        found = {one.check: one for one in examine(load_settings(environment))}

    assert "no answer within 6 s" in found["kafka"].found
    assert all(one.seconds < 10 for one in found.values())
    assert found["warehouse"].ok
    assert "clock" not in found


def test_storage_that_accepts_and_is_silent_holds_up_neither_the_check_nor_the_end(tmp_path: Path) -> None:
    code = (
        "from k2_dagster.cli import doctor_checks as checks, main\n"
        "checks.WAREHOUSE_SECONDS, checks.KAFKA_SECONDS = 3.0, 1.0\n"
        "main(['doctor', '--json'])"
    )
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"K2_S3_ACCESS_KEY_ID": "a", "K2_S3_SECRET_ACCESS_KEY": "b"}
        own = {"K2_HOME": str(tmp_path), "K2_WAREHOUSE": "s3://lake", "K2_S3_ENDPOINT": address, **keys}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], env=dict(os.environ) | own, capture_output=True, text=True, timeout=60
        )

    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["warehouse"]["found"] == "no answer within 3 s"
    assert time.monotonic() - began < 15.0
