"""One drain at a time per exchange, whoever started it."""

import threading
import time

import dagster as dg
import pytest

from k2_dagster.assets import turns
from k2_dagster.assets.turns import take_turn
from k2_dagster.errors import TransientError
from k2_dagster.jobs import drain_job, drain_run_config
from k2_dagster.resources.tags import LANE_TAG, MAX_RUNTIME_TAG, STREAM_TAG, drain_tags
from k2_dagster.sensors.lag import unfinished_streams

CAP_SECONDS = 30.0


def _run(instance: dg.DagsterInstance, *, queued: bool = False) -> dg.DagsterRun:
    """A drain that the queue has started, or one that a person has."""
    tags = drain_tags("sim", CAP_SECONDS) if queued else {}
    return instance.create_run_for_job(
        drain_job, run_config=drain_run_config("sim"), tags=tags, status=dg.DagsterRunStatus.STARTED
    )


def _waits(instance: dg.DagsterInstance, run: dg.DagsterRun) -> threading.Thread:
    thread = threading.Thread(target=take_turn, args=(instance, run, "sim", CAP_SECONDS))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    return thread


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.05)


@pytest.mark.stack
def test_a_run_by_hand_takes_the_tag_that_keeps_the_sensor_away(instance: dg.DagsterInstance) -> None:
    run = _run(instance)
    assert unfinished_streams(instance) == set()
    take_turn(instance, run, "sim", CAP_SECONDS)
    assert unfinished_streams(instance) == {"sim"}
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert (found.tags[STREAM_TAG], found.tags[LANE_TAG]) == ("sim", "ingest")
    assert float(found.tags[MAX_RUNTIME_TAG]) > 2 * CAP_SECONDS


@pytest.mark.stack
def test_it_waits_for_a_drain_that_runs_already_and_that_one_does_not_wait(instance: dg.DagsterInstance) -> None:
    by_hand, queued = _run(instance), _run(instance, queued=True)
    thread = _waits(instance, by_hand)
    take_turn(instance, queued, "sim", CAP_SECONDS)
    instance.report_run_canceled(queued)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.stack
def test_of_two_by_hand_the_older_goes_first(instance: dg.DagsterInstance) -> None:
    older = _run(instance)
    time.sleep(0.01)  # so that it is older by the database's clock
    younger = _run(instance)
    take_turn(instance, older, "sim", CAP_SECONDS)
    thread = _waits(instance, younger)
    take_turn(instance, older, "sim", CAP_SECONDS)
    instance.report_run_failed(older)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.stack
def test_what_does_not_end_is_named(instance: dg.DagsterInstance) -> None:
    queued = _run(instance, queued=True)
    with pytest.raises(TransientError, match=queued.run_id):
        take_turn(instance, _run(instance), "sim", 0.1)
