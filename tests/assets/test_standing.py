"""What Dagster is told of failed checks: by partition, and of the asset as a whole."""

import asyncio
import itertools
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from k2_dagster.assets import mirror
from k2_dagster.assets.partitions import Partition, partition_key, table_partitions
from k2_dagster.assets.standing import PASSED, RANKS, newest_failure, note, standing, worst_elsewhere
from k2_dagster.settings import Settings
from tests.dagster_support import Market, evaluations, make_market, reported, run_check_job

GAPS = dg.AssetCheckKey(dg.AssetKey("ticks"), "sequence_gaps")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check run may report its partitions anew."""
    monkeypatch.setattr(mirror, "REPORT_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(mirror, "CHECK_TIMES", 0.0)


@pytest.fixture
def markets(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    made = make_market(settings, tmp_path_factory.mktemp("profiles"), exchanges=2)
    yield made
    made.platform.close()


def test_the_worst_and_newest_failure_elsewhere_comes_first() -> None:
    failures = {"1|a": "WARN", "2|a": "ERROR", "3|a": "ERROR", "3|b": "WARN"}
    assert worst_elsewhere(failures, ["9|a"], PASSED) == ["3|a", "2|a", "3|b", "1|a"]
    assert worst_elsewhere(failures, ["3|a"], RANKS["WARN"]) == ["2|a"]
    assert worst_elsewhere(failures, [], RANKS["ERROR"]) == []


def test_notes_are_kept_until_the_partition_passes() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        note(instance, "ticks", [("gaps", "1|a", "WARN"), ("gaps", "1|b", "ERROR"), ("order", "1|a", None)])
        assert standing(instance, "ticks")["gaps"] == {"1|a": "WARN", "1|b": "ERROR"}
        note(instance, "ticks", [("gaps", "1|b", None)])
        assert standing(instance, "ticks")["gaps"] == {"1|a": "WARN"}
        assert standing(instance, "quotes") == {}


@pytest.mark.stack
def test_a_failed_check_stays_failed_for_its_partition_and_the_asset_after_more_has_landed(
    market: Market, instance: dg.DagsterInstance, hasty: None
) -> None:
    today = ("ticks", market.exchange, market.today)
    market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
    market.drain(market.exchange)
    for events in (1, 2):
        run_check_job(market, instance, [today], mirrored=True)
        assert len(reported(instance, market, market.today)) == events
        assert _of_asset(instance) == ("FAILED", partition_key(*today[1:]))
        assert _by_partition(market, instance) == {"FAILED": {partition_key(*today[1:])}}
        assert "check_seconds" in reported(instance, market, market.today)[0]
        market.publish(market.exchange, 300, seed=8 + events)
        market.drain(market.exchange)


@pytest.mark.stack
def test_a_check_that_passes_for_one_exchange_does_not_hide_what_fails_for_another(
    markets: Market, instance: dg.DagsterInstance, hasty: None
) -> None:
    bad, good = markets.exchanges
    partitions: dict[str, Partition] = {one: ("ticks", one, markets.today) for one in (bad, good)}
    markets.publish(bad, 1_500, faults=("drop:12@1s/ticks",))
    markets.publish(good, 300)
    for one in (bad, good):
        markets.drain(one)
    first = run_check_job(markets, instance, [partitions[bad], partitions[good]], mirrored=True)
    severity = evaluations(instance, first.run_id)["sequence_gaps"].severity
    assert _of_asset(instance) == ("FAILED", partition_key(bad, markets.today)), "the worst is logged last"
    for seed in (8, 9):
        markets.publish(good, 300, seed=seed)
        markets.drain(good)
        run = run_check_job(markets, instance, [partitions[good]], mirrored=True)
        assert _of_asset(instance) == ("FAILED", partition_key(bad, markets.today))
        carried = evaluations(instance, run.run_id)["sequence_gaps"]
        assert (carried.passed, carried.severity) == (False, severity)
        assert carried.metadata["found_by"].value == first.run_id
    assert _by_partition(markets, instance) == {
        "FAILED": {partition_key(bad, markets.today)}, "SUCCEEDED": {partition_key(good, markets.today)},
    }  # fmt: skip


@pytest.mark.stack
def test_a_failure_that_is_over_does_not_stand(markets: Market, instance: dg.DagsterInstance, hasty: None) -> None:
    bad, good = markets.exchanges
    markets.publish(bad, 300)
    for one in (bad, good):
        markets.drain(one)
    key = partition_key(bad, markets.today)
    note(instance, "ticks", [("sequence_gaps", key, "ERROR")])
    assert newest_failure(instance, "ticks", "sequence_gaps", key) is None
    run_check_job(markets, instance, [("ticks", good, markets.today)])
    assert standing(instance, "ticks")["sequence_gaps"] == {}


@pytest.mark.stack
def test_what_passed_is_logged_first_and_errors_last(
    markets: Market, instance: dg.DagsterInstance, hasty: None
) -> None:
    bad, good = markets.exchanges
    markets.publish(bad, 1_500, faults=("drop:12@1s/ticks",))
    markets.publish(good, 1_500, faults=("drop:3@1s/ticks",), seed=9)
    for one in (bad, good):
        markets.drain(one)
    run = run_check_job(markets, instance, [("ticks", one, markets.today) for one in (bad, good)], mirrored=True)
    found = run.get_asset_check_evaluations()
    ranks = [PASSED if one.passed else RANKS[one.severity.value] for one in found]
    assert all(before <= after for before, after in itertools.pairwise(ranks))
    assert set(ranks) == {PASSED, RANKS["WARN"], RANKS["ERROR"]}


def _of_asset(instance: dg.DagsterInstance) -> tuple[str, str | None] | None:
    """What the UI shows as the state of the check: the newest evaluation, if it is about what is there now."""
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([GAPS])[GAPS]
    assert isinstance(record, AssetCheckExecutionRecord)
    targets = asyncio.run(record.targets_latest_materialization(LoadingContextForTest(instance)))
    return (record.status.value, record.partition) if targets else None


def _by_partition(market: Market, instance: dg.DagsterInstance) -> dict[str, set[str]]:
    """What the partition grid of the check shows, without what is missing."""
    partitions = table_partitions(market.platform.profiles)
    with partition_loading_context(None, instance):
        state = instance.event_log_storage.get_asset_check_state([(GAPS, partitions)])[GAPS]
        by_status = {
            status.value: set(subset.subset_value.get_partition_keys()) for status, subset in state.subsets.items()
        }
    return {status: keys for status, keys in by_status.items() if keys}
