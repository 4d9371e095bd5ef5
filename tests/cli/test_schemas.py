"""`k2 schemas` on the command line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from k2_dagster.cli.schemas import schemas
from k2_dagster.devstack.stack import Stack


def test_an_exported_folder_passes_the_check(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    assert CliRunner().invoke(schemas, ["export", str(folder)]).exit_code == 0
    result = CliRunner().invoke(schemas, ["check", "--against", str(folder), "--json"])
    assert result.exit_code == 0
    assert {row["state"] for row in json.loads(result.stdout)} == {"same"}


def test_an_exported_folder_of_json_schemas_passes_the_check(tmp_path: Path) -> None:
    exported = CliRunner().invoke(schemas, ["export", str(tmp_path), "--format", "json"])
    assert exported.stdout.splitlines()[0] == str(tmp_path / "ticks.json")
    path = tmp_path / "quotes.json"
    assert json.loads(path.read_text())["title"] == "Quote"
    assert CliRunner().invoke(schemas, ["check", "--against", str(tmp_path)]).exit_code == 0
    path.write_text(path.read_text().replace('"scale": 8', '"scale": 2'))
    assert CliRunner().invoke(schemas, ["check", "--against", str(tmp_path)]).exit_code == 1


def test_an_incompatible_change_ends_with_1_and_says_which_field_and_why(tmp_path: Path) -> None:
    CliRunner().invoke(schemas, ["export", str(tmp_path)])
    path = tmp_path / "ticks.avsc"
    path.write_text(path.read_text(encoding="utf-8").replace('"scale": 8', '"scale": 2'), encoding="utf-8")
    result = CliRunner().invoke(schemas, ["check", "--against", str(tmp_path)])
    assert result.exit_code == 1
    for said in ("ticks", "incompatible", "price", "its scale was 2, is 8", "the same number would mean"):
        assert said in result.stdout
    rows = json.loads(CliRunner().invoke(schemas, ["check", "--against", str(tmp_path), "--json"]).stdout)
    assert [row["field"] for row in rows if row["state"] == "incompatible"] == ["price", "size"]


def test_against_does_not_go_with_exchange(tmp_path: Path) -> None:
    assert CliRunner().invoke(schemas, ["check", "--against", str(tmp_path), "--exchange", "iex"]).exit_code == 2


@pytest.mark.stack
def test_register_says_what_it_did_and_check_then_passes(stack: Stack) -> None:
    # A developer's choice of stack, which is no setting
    environment = {**stack.settings_environment()}

    def run(*arguments: str) -> list[dict[str, str]]:
        result = CliRunner(env=environment).invoke(schemas, [*arguments, "--json"])
        assert result.exit_code == 0, result.exception
        rows: list[dict[str, str]] = json.loads(result.stdout)
        return rows

    first = run("register", "--exchange", "us_consolidated")
    assert [row["subject"] for row in first] == [
        f"market.{dataset}.us_consolidated-value" for dataset in ("ticks", "quotes", "control", "instruments")
    ]
    again = run("register", "--exchange", "us_consolidated")
    assert {row["action"] for row in again} == {"confirmed"}
    assert {row["state"] for row in run("check", "--exchange", "us_consolidated")} == {"same"}
