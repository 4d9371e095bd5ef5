"""The checks sensor: what landed is checked, in one run at a time."""

import dagster as dg
import pytest

from k2_dagster.jobs import check_job, check_run_config
from k2_dagster.resources.pruning import LANE_TAG
from k2_dagster.sensors.checks import checks_sensor
from tests.dagster_support import Market


@pytest.mark.stack
def test_touched_partitions_are_checked_once_in_one_run(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    first = _tick(market, instance, None)
    assert first.run_requests is not None
    (request,) = first.run_requests
    chosen = request.run_config["ops"]["check_partitions"]["config"]["partitions"]
    assert {one["table"] for one in chosen} == {"ticks", "quotes", "book", "control"}
    assert {(one["exchange"], one["day"]) for one in chosen} == {(market.exchange, market.today)}
    again = _tick(market, instance, first.cursor)
    assert not again.run_requests


@pytest.mark.stack
def test_nothing_is_launched_while_a_check_run_is_unfinished(market: Market, instance: dg.DagsterInstance) -> None:
    market.publish(market.exchange, 300)
    market.drain(market.exchange)
    run = instance.create_run_for_job(
        check_job, run_config=check_run_config([]), tags={LANE_TAG: "checks"}, status=dg.DagsterRunStatus.STARTED
    )
    waiting = _tick(market, instance, None)
    assert not waiting.run_requests
    assert waiting.cursor is None
    instance.report_run_canceled(run)
    assert _tick(market, instance, None).run_requests


def _tick(market: Market, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": market.platform})
    result = checks_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result
