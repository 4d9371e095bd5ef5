"""`k2 verify`: what it prints and how it exits. The proof itself is tested in tests/verify."""

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.cli.common import Time
from k2_dagster.cli.init import initialize
from k2_dagster.cli.verify import verdict
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment
from k2_dagster.verify.report import Finding, PartitionReport, Report, StreamReport


def test_a_time_without_an_offset_is_utc() -> None:
    assert Time().convert("2026-03-01T12:00", None, None) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert Time().convert("2026-03-01T12:00+02:00", None, None) == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_the_verdict_names_every_fault() -> None:
    partition = PartitionReport("t", 0, findings=[Finding("missing", 3, "gone"), Finding("wrong_value", 1, "price")])
    report = Report([StreamReport("x", "ticks", "market.ticks.x", [partition])])
    assert verdict(report) == "NOT CLEAN: missing 3, wrong value 1"
    assert verdict(Report()).startswith("clean: missing 0, extra 0, duplicated 0")


def test_a_wrong_time_is_a_usage_error() -> None:
    found = CliRunner().invoke(main, ["verify", "--from", "yesterday"])
    assert found.exit_code == 2
    assert "valid: 2026-03-01" in found.output


@pytest.mark.parametrize("command", ["verify", "quarantine list", "quarantine reprocess"])
def test_a_window_that_ends_before_it_begins_is_not_called_clean(command: str) -> None:
    found = CliRunner().invoke(main, [*command.split(), "--from", "2026-03-02", "--to", "2026-03-01"])
    assert (found.exit_code, "is not before --to" in found.stderr) == (2, True), found.output


@pytest.mark.stack
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_nothing_landed_is_clean(settings: Settings) -> None:
    profiles = load_profiles(settings.profiles)
    initialize(settings, profiles, ("sim_crypto",))
    runner, environment = CliRunner(), as_environment(settings)
    found = runner.invoke(main, ["verify", "--exchange", "sim_crypto", "--json"], env=environment)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout) | {"seconds": 0} == Report(seconds=0).as_dict() | {"seconds": 0}
    assert runner.invoke(main, ["verify"], env=environment).stdout.startswith("clean: ")
    assert runner.invoke(main, ["verify", "--exchange", "nowhere"], env=environment).exit_code == 4
