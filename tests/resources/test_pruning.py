"""Old runs and events go, what is newest of a partition stays."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from k2_dagster.jobs import check_job, check_run_config
from k2_dagster.resources import pruning
from k2_dagster.resources.pruning import EVENTS_KEPT_DAYS, KEPT_DAYS, ROUTINE_KEPT_HOURS, prune, set_aside_logs
from tests.dagster_support import CHECKS_OF_TICKS, Market, run_check_job


def _run(instance: dg.DagsterInstance, tags: dict[str, str], status: dg.DagsterRunStatus) -> str:
    return instance.create_run_for_job(check_job, run_config=check_run_config([]), tags=tags, status=status).run_id


@pytest.mark.stack
def test_routine_runs_go_after_two_days_and_everything_after_thirty(instance: dg.DagsterInstance) -> None:
    routine = _run(instance, {"k2/lane": "checks"}, dg.DagsterRunStatus.SUCCESS)
    failed = _run(instance, {"k2/lane": "checks"}, dg.DagsterRunStatus.FAILURE)
    by_hand = _run(instance, {}, dg.DagsterRunStatus.SUCCESS)
    running = _run(instance, {"k2/lane": "checks"}, dg.DagsterRunStatus.STARTED)
    now = datetime.now(UTC)
    assert prune(instance, now).runs == 0
    assert prune(instance, now + timedelta(hours=ROUTINE_KEPT_HOURS + 1)).runs == 1
    assert not instance.has_run(routine)
    assert prune(instance, now + timedelta(days=KEPT_DAYS + 1)).runs == 2
    assert not instance.has_run(failed)
    assert not instance.has_run(by_hand)
    assert instance.has_run(running)


@pytest.mark.stack
def test_of_old_events_the_newest_of_each_partition_stays(instance: dg.DagsterInstance) -> None:
    for partition in ("2026-05-01|a", "2026-05-01|a", "2026-05-01|b", "2026-05-01|a"):
        instance.report_runless_asset_event(dg.AssetMaterialization("ticks", partition=partition))
    instance.report_runless_asset_event(dg.AssetObservation("ticks", partition="2026-05-01|a"))
    assert prune(instance).events == 0
    done = prune(instance, datetime.now(UTC) + timedelta(days=EVENTS_KEPT_DAYS + 1))
    assert (done.events, done.complete) == (2, True)
    assert instance.get_materialized_partitions(dg.AssetKey("ticks")) == {"2026-05-01|a", "2026-05-01|b"}


@pytest.mark.stack
def test_of_old_evaluations_the_newest_of_each_partition_stays(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    for _ in range(3):
        run_check_job(market, instance, [("ticks", market.exchange, market.today)])
    later = datetime.now(UTC) + timedelta(hours=ROUTINE_KEPT_HOURS + 1)
    assert prune(instance, later).checks == 2 * CHECKS_OF_TICKS
    assert prune(instance, later).checks == 0


@pytest.mark.stack
def test_the_logs_of_a_run_go_with_it(market: Market, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    run_check_job(market, instance, [("ticks", market.exchange, market.today)])
    written = list((tmp_path / "dagster" / "storage").rglob("*.err"))
    assert written
    assert prune(instance, datetime.now(UTC) + timedelta(hours=ROUTINE_KEPT_HOURS + 1)).runs == 1
    assert not any(one.exists() for one in written)


@pytest.mark.stack
def test_old_logs_of_ticks_go(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    instance.add_instigator_state(_sensor("nothing"))
    folder = tmp_path / "dagster" / "storage" / "repo" / "nothing"
    folder.mkdir(parents=True)
    for tick in ("1", "2"):
        (folder / f"{tick}.err").write_text("said")
    assert prune(instance).tick_logs == 0
    assert prune(instance, datetime.now(UTC) + timedelta(days=EVENTS_KEPT_DAYS + 1)).tick_logs == 2
    assert list(folder.iterdir()) == []


def test_a_long_log_is_begun_anew_and_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "LOG_KEEP_BYTES", 10)
    (tmp_path / "dagster-code.log").write_text("short")
    log = tmp_path / "dagster-daemon.log"
    with log.open("a") as writer:
        writer.write("a line that is long\n")
        writer.flush()
        assert set_aside_logs(tmp_path) == ["dagster-daemon.log"]
        writer.write("on\n")
    assert log.read_text() == "on\n"
    assert log.with_name("dagster-daemon.log.1").read_text() == "a line that is long\n"
    assert set_aside_logs(tmp_path / "none") == []


def _sensor(name: str) -> InstigatorState:
    """A sensor that Dagster's storage knows."""
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="nowhere"), location_name="nowhere")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repo"), name)
    return InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
