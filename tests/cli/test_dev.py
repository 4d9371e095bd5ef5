"""`k2 dev` against the session's stack."""

import json

import pytest
from click.testing import CliRunner, Result

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


def test_no_stack_is_said_and_fails(tmp_path_factory: pytest.TempPathFactory) -> None:
    result = run(Stack(tmp_path_factory.mktemp("none")), "status")

    assert result.exit_code == 1
    assert "`k2 dev up` makes one" in result.stdout


def test_purge_asks_first(stack: Stack) -> None:
    result = CliRunner().invoke(dev, ["down", "--purge"], env={"K2_HOME": str(stack.home)}, input="n\n")

    assert result.exit_code == 1
    assert {part.state for part in stack.status()} == {"running"}
