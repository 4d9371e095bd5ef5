"""`k2 check run`: its answer, its exit status, and what it says when it cannot be."""

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.settings import Settings, as_environment
from tests.dagster_fixtures import market
from tests.dagster_support import Market

__all__ = ["market"]


@pytest.mark.stack
def test_a_clean_partition_exits_with_0_a_finding_with_1_and_no_partition_with_4(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in as_environment(market.settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    arguments = ["check", "run", "--table", "ticks", "--exchange", market.exchange]
    clean = CliRunner().invoke(main, arguments)
    assert (clean.exit_code, "unique_identity" in clean.stdout) == (0, True), clean.output
    assert "not recorded" in clean.stderr
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",), seed=9)
    market.drain(market.exchange)
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert (found.exit_code, '"sequence_gaps"' in found.stdout) == (1, True), found.output
    nowhere = CliRunner().invoke(main, [*arguments, "--day", "2031-01-01"])
    assert (nowhere.exit_code, "2010-01-01 to today" in nowhere.stderr) == (4, True), nowhere.output


@pytest.mark.stack
def test_a_database_that_is_away_exits_with_3(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    away = {"K2_CATALOG_URI": "postgresql://nobody@127.0.0.1:1/k2"}
    for name, value in (as_environment(settings) | away).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    done = CliRunner().invoke(main, ["check", "run", "--table", "ticks", "--exchange", "sim_crypto"])

    assert (done.exit_code, "k2 doctor" in done.stderr) == (3, True), done.output


@pytest.mark.parametrize("day", ["yesterday", "20261126", "2026-13-01"])
def test_a_day_that_is_none_is_refused_before_anything_starts(day: str) -> None:
    refused = CliRunner().invoke(main, ["check", "run", "--table", "ticks", "--exchange", "sim_crypto", "--day", day])
    assert (refused.exit_code, "%Y-%m-%d" in refused.stderr) == (2, True), refused.output


def test_an_unknown_exchange_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K2_PROFILES", raising=False)
    refused = CliRunner().invoke(main, ["check", "run", "--table", "ticks", "--exchange", "nowhere"])
    assert refused.exit_code == 4
    assert "sim_crypto" in refused.stderr
