"""`k2 dev` against the session's stack."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from k2_dagster.cli import main
from k2_dagster.cli.dev import dev
from k2_dagster.devstack.stack import Stack

pytestmark = pytest.mark.stack


def run(stack: Stack, *arguments: str) -> Result:
    environment = {"K2_HOME": str(stack.home)}
    return CliRunner().invoke(dev, list(arguments), env=environment, catch_exceptions=False)


def test_status_as_json(stack: Stack) -> None:
    result = run(stack, "status", "--json")

    parts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [part["name"] for part in parts] == ["kafka-1", "registry", "postgres"]
    assert all(part["state"] == "running" and part["rss_megabytes"] > 10 and part["pid"] for part in parts)


def test_up_shows_where_things_are_and_what_they_cost(stack: Stack) -> None:
    result = run(stack, "up")

    assert result.exit_code == 0
    for expected in (*vars(stack.addresses()).values(), "MB", "stack.env"):
        assert expected is None or expected == stack.addresses().dagster_uri or expected in result.stdout


def test_logs_of_one_part(stack: Stack) -> None:
    result = run(stack, "logs", "postgres", "--lines", "5")

    assert result.exit_code == 0
    written = stack.logs("postgres").read_text()
    lines = result.stdout.strip().splitlines()
    assert lines
    assert all(line in written for line in lines)


@pytest.mark.parametrize("lines", ["0", "-3", "many"])
def test_no_lines_are_refused(stack: Stack, lines: str) -> None:
    assert run(stack, "logs", "--lines", lines).exit_code == 2


def test_logs_and_status_know_dagsters_parts_where_they_were_brought_up(tmp_path: Path, stack: Stack) -> None:
    shutil.copy(stack.home / "stack.json", tmp_path)
    copied = Stack(tmp_path)
    unknown = CliRunner().invoke(main, ["dev", "logs", "dagster-code"], env={"K2_HOME": str(tmp_path)})
    assert unknown.exit_code == 4
    assert "choose one of kafka-1, registry, postgres" in unknown.stderr
    (tmp_path / "dagster").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "dagster" / "workspace.yaml").touch()
    (tmp_path / "dagster" / "port").write_text("21000")
    (tmp_path / "logs" / "dagster-code.log").write_text("one\ntwo\nthree\n")

    assert run(copied, "logs", "dagster-code", "--lines", "2").stdout == "two\nthree\n"
    shown = run(copied, "status", "--json")

    assert shown.exit_code == 1
    names = {part["name"]: part["state"] for part in json.loads(shown.stdout)}
    assert {name: state for name, state in names.items() if name.startswith("dagster")} == {
        "dagster-code": "stopped",
        "dagster-webserver": "stopped",
        "dagster-daemon": "stopped",
    }


@pytest.mark.timeout(600)
def test_up_restores_dagster_where_it_was_brought_up_before() -> None:
    home = Path(tempfile.mkdtemp(prefix="k2-restored-"))
    own = Stack(home)

    def states() -> dict[str, str]:
        return {part["name"]: part["state"] for part in json.loads(run(own, "status", "--json").stdout)}

    try:
        assert run(own, "up").exit_code == 0
        assert not any(name.startswith("dagster") for name in states())
        assert run(own, "up", "--dagster").exit_code == 0
        assert run(own, "down").exit_code == 0
        assert set(states().values()) == {"stopped"}

        assert run(own, "up", "--no-dagster").exit_code == 0
        assert states()["dagster-code"] == "stopped"
        assert run(own, "up").exit_code == 0
        assert set(states().values()) == {"running"}
    finally:
        run(own, "down", "--purge", "--yes")
    assert not home.exists()


def test_a_part_that_does_not_run_in_the_end_is_a_finding(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Stack.status
    monkeypatch.setattr(Stack, "status", lambda self: [replace(part, state="silent") for part in real(self)])

    assert run(stack, "up").exit_code == 1


def test_no_stack_is_said_and_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    result = run(Stack(tmp_path_factory.mktemp("none")), "status")

    assert result.exit_code == 1
    assert "`k2 dev up` makes one" in result.stdout


def test_purge_asks_first(stack: Stack) -> None:
    result = CliRunner().invoke(dev, ["down", "--purge"], env={"K2_HOME": str(stack.home)}, input="n\n")

    assert result.exit_code == 1
    assert {part.state for part in stack.status()} == {"running"}
