"""k2_dagster/devstack/dagster.yaml on a real PostgreSQL, and workspace.yaml."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.run_coordinator import QueuedRunCoordinator

from tests.dagster_fixtures import instance

__all__ = ["instance"]

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.stack
def test_the_instance_loads_with_its_limits(instance: dg.DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled
    assert "Postgres" in type(instance.event_log_storage).__name__
    assert "Postgres" in type(instance.run_storage).__name__
    coordinator = instance.run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1
    limits = instance.get_concurrency_config()
    assert limits.run_queue_config is not None
    assert limits.run_queue_config.max_concurrent_runs == 10
    assert {"key": "k2/stream", "value": {"applyLimitPerUniqueValue": True}, "limit": 1} in (
        limits.run_queue_config.tag_concurrency_limits
    )
    assert instance.run_monitoring_enabled
    assert instance.run_retries_enabled
    assert not instance.get_settings("run_retries")["retry_on_asset_or_op_failure"]
    assert instance.run_retries_max_retries == 2


@pytest.mark.stack
def test_a_runs_storage_works(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None: ...

    result = nothing.execute_in_process(instance=instance)
    assert instance.get_run_by_id(result.run_id) is not None


def test_the_workspace_names_the_definitions() -> None:
    (entry,) = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"] == {
        "module_name": "k2_dagster.definitions", "working_directory": ".", "location_name": "k2",
    }  # fmt: skip
