"""Old runs and events go, what is newest of a partition stays."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from k2_dagster.jobs import check_job, check_run_config
from k2_dagster.resources.pruning import KEPT_DAYS, ROUTINE_KEPT_HOURS, prune


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
    done = prune(instance, datetime.now(UTC) + timedelta(days=KEPT_DAYS + 1))
    assert (done.events, done.complete) == (2, True)
    assert instance.get_materialized_partitions(dg.AssetKey("ticks")) == {"2026-05-01|a", "2026-05-01|b"}
