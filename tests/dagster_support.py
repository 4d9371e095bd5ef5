"""Exchanges that only one test knows, on the real stack: initialised, published to, drained."""

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from confluent_kafka.admin import AdminClient
from sqlalchemy import insert

from k2_dagster.assets.partitions import Partition
from k2_dagster.cli.init import initialize
from k2_dagster.devstack.dagster import INSTANCE_FILE
from k2_dagster.devstack.process import wait_until
from k2_dagster.feeds.simulator.faults import FaultPlan, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation
from k2_dagster.ingest.drain import DrainReport, drain_exchange
from k2_dagster.jobs import check_job, check_run_config
from k2_dagster.kafka.clients import client_config
from k2_dagster.kafka.topics import describe
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.tables import commits

RATE = 1_000.0
# Long before midnight, most of the time: a test that needs one day asks for events that end now.
EXCHANGE = """
[exchanges.{name}]
title = "Test"
asset_class = "crypto"
calendar = "24/7"
timezone = "UTC"
entitlement_class = "test"
partitions = {partitions}
on_critical_gap = "mark_stale"
gap_grace_messages = 5
gap_grace_seconds = 0.0
[exchanges.{name}.streams.trade]
dataset = "ticks"
domain = "dense"
[exchanges.{name}.streams.quote]
dataset = "quotes"
domain = "monotone"
[exchanges.{name}.streams.book]
dataset = "book"
domain = "range"
"""

DAY_SECONDS = 86_400.0
# Longer than any test of a market takes, and than the event time of what one publishes spans.
TEST_SECONDS, PUBLISHED_SECONDS = 90.0, 30.0

CHECKS_OF_TICKS = 8
"""How many checks a partition of ticks has: as the documentation lists them."""


@dataclass
class Market:
    """Exchanges of one test, with the platform that Dagster's rooms get."""

    settings: Settings
    platform: Platform
    exchanges: list[str]

    @property
    def exchange(self) -> str:
        """The only exchange."""
        (one,) = self.exchanges
        return one

    @property
    def today(self) -> str:
        """The open day, UTC. It is the same all through a test: see `make_market`."""
        return time.strftime("%Y-%m-%d", time.gmtime())

    def publish(
        self, exchange: str, messages: int = 2_000, *, faults: Sequence[str] = (), seed: int = 7, symbols: int = 5
    ) -> int:
        """Publish simulated messages whose event time ends now. Returns how many were published."""
        seconds = messages / RATE
        parameters = FeedParameters(
            exchange, symbols, RATE, seed, time.time_ns() // 1000 - int(seconds * 1e6), seconds,
            plan=FaultPlan(tuple(parse_fault(text) for text in faults), seed=seed),
        )  # fmt: skip
        simulation = Simulation(
            self.settings, self.platform.profiles, parameters, flat_out=True, stop=threading.Event()
        )  # fmt: skip
        return sum(simulation.run().published.values())

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and wait until the broker does not know it any more."""
        admin = AdminClient(client_config(self.settings))
        admin.delete_topics([topic])[topic].result(10)
        assert wait_until(lambda: not describe(self.settings, [topic]), 10)

    def drain(self, exchange: str, run_id: str = "") -> DrainReport:
        """Drain until caught up, in this process."""
        return drain_exchange(
            self.settings, self.platform.profiles, exchange, cap_seconds=60, stop=threading.Event(), run_id=run_id
        )


def make_market(settings: Settings, folder: Path, exchanges: int = 1, partitions: int = 2) -> Market:
    """Fresh exchanges with topics, subjects, tables and control schema. Close `platform` when done.

    Around midnight it waits for the new day: what a test publishes and what it calls today are of one day.
    """
    _wait_for_a_whole_test_in_one_day()
    names = [f"x{uuid.uuid4().hex[:10]}" for _ in range(exchanges)]
    path = folder / "exchanges.toml"
    text = "".join(EXCHANGE.format(name=name, partitions=partitions) for name in names)
    path.write_text(f"version = 1\n{text}")
    own = settings.model_copy(update={"profiles": path})
    profiles = load_profiles(path)
    initialize(own, profiles, tuple(names))
    return Market(own, Platform(own, profiles), names)


def _wait_for_a_whole_test_in_one_day() -> None:
    second_of_day = time.time() % DAY_SECONDS
    if second_of_day >= DAY_SECONDS - TEST_SECONDS:
        time.sleep(DAY_SECONDS - second_of_day + PUBLISHED_SECONDS)
    elif second_of_day < PUBLISHED_SECONDS:
        time.sleep(PUBLISHED_SECONDS - second_of_day)


def dagster_yaml(folder: Path, settings: Settings) -> str:
    """The package's dagster.yaml in a folder of its own, for `DagsterInstance.from_config`; the caller has
    K2_DAGSTER_URI in its environment."""
    assert settings.dagster_uri is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_text(INSTANCE_FILE.read_text())
    return str(folder)


def land(
    market: Market, commit_id: str, days: dict[str, int], *, exchange: str | None = None, seconds: float = 0.01
) -> None:
    """A settled commit of `ticks`, without the table behind it."""
    place = {"topic": "market.ticks.x", "topic_id": "t", "topic_epoch": 0, "partition": 0, "start": 0, "end": 9}
    row = {
        "id": commit_id, "table_name": "market_data.ticks", "exchange": exchange or market.exchange, "dataset": "ticks",
        "snapshot_id": 1, "stamp": datetime.now(UTC), "ranges": [place], "days": days, "schema_ids": [1],
        "counts": {"consumed": 9, "rows": sum(days.values()), "quarantined": 0, "bytes": 100}, "rules_version": 1,
        "run_id": "r", "code_version": "0", "commit_seconds": seconds,
    }  # fmt: skip
    with market.platform.database.begin() as connection:
        connection.execute(insert(commits), row)


def reported(instance: dg.DagsterInstance, market: Market, day: str, dataset: str = "ticks") -> list[dict[str, Any]]:
    """Metadata of a partition's materializations, newest first."""
    key = dg.MultiPartitionKey({"exchange": market.exchange, "day": day})
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(dataset), asset_partitions=[key]), limit=100
    ).records
    events = [one.asset_materialization for one in records]
    return [{name: value.value for name, value in one.metadata.items()} for one in events if one is not None]


def run_check_job(
    market: Market, instance: dg.DagsterInstance, partitions: Sequence[Partition], *, mirrored: bool = False
) -> dg.ExecuteInProcessResult:
    """The job `check`, in this process."""
    return check_job.execute_in_process(
        run_config=check_run_config(partitions, mirrored=mirrored),
        instance=instance,
        resources={"k2": market.platform, "duckdb": duckdb_resource(market.settings)},
        raise_on_error=False,
    )


def evaluations(instance: dg.DagsterInstance, run_id: str) -> dict[str, dg.AssetCheckEvaluation]:
    """Check evaluations that a run logged, by check name."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [one.dagster_event.event_specific_data for one in entries if one.dagster_event is not None]
    return {one.check_name: one for one in found if isinstance(one, dg.AssetCheckEvaluation)}
