"""Measures `ticks` and `checks`: what a look of the sensors costs, and what it costs to check a partition."""

import os
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import numpy as np
from sqlalchemy import select

from k2_dagster.assets.evaluating import evaluate
from k2_dagster.cli.init import initialize
from k2_dagster.devstack.dagster import INSTANCE_FILE
from k2_dagster.devstack.process import Progress
from k2_dagster.resources.lake import duckdb_resource
from k2_dagster.resources.platform import Platform
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.sensors.commits import commits_sensor
from k2_dagster.sensors.lag import Memory, lag_sensor
from k2_dagster.state.tables import commits
from proofs.bench.results import Measure, conditions
from proofs.bench.setting import Bench
from proofs.bench.tables import drain
from proofs.chaos_feeds import profiles_text

TICK_GOAL_MILLISECONDS = 200.0
# ticks, quotes, book and control
TOPICS_PER_EXCHANGE = 4
PARTITIONS = 4
LOOKS = 40
# A check is read again and again: the first time pays for imports and cold files.
CHECKS = 3


def measure_ticks(bench: Bench, topics: int, progress: Progress) -> list[Measure]:
    """Evaluate both sensors with nothing to do, many times, on an instance as dagster.yaml makes it."""
    names = [f"bench_{uuid.uuid4().hex[:8]}" for _ in range(-(-topics // TOPICS_PER_EXCHANGE))]
    path = bench.folder / f"{names[0]}.toml"
    path.write_text(profiles_text(dict.fromkeys(names, ("dense", "monotone", "range")), partitions=PARTITIONS))
    found: list[Measure] = []
    with bench.lake(path) as settings, _instance(bench) as instance:
        profiles = load_profiles(settings.profiles)
        initialize(settings, profiles, tuple(names))
        platform = Platform(settings, profiles)
        for name, sensor in (("lag", lag_sensor), ("commits", commits_sensor)):
            milliseconds = _ticks(instance, platform, sensor)
            median = statistics.median(milliseconds)
            progress(f"a tick of {name} at {topics} topics: {median:.0f} ms")
            facts = conditions(
                topics=len(names) * TOPICS_PER_EXCHANGE, partitions_per_topic=PARTITIONS, looks=LOOKS,
                p99_milliseconds=round(float(np.percentile(milliseconds, 99)), 1),
            )  # fmt: skip
            found.append(
                Measure(f"ticks: the sensor {name} at {topics} topics, median", median, "ms", conditions=facts,
                        goal_text=f"< {TICK_GOAL_MILLISECONDS:.0f} ms", holds=median < TICK_GOAL_MILLISECONDS)
            )  # fmt: skip
        platform.close()
    return found


def measure_checks(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """Drain a topic into one partition and evaluate its checks: how long reading the open day takes as it grows."""
    topics = bench.topics(messages, seed=9)
    with bench.lake(topics.profiles) as settings:
        drain(settings, topics.exchange)
        platform = Platform(settings, load_profiles(settings.profiles))
        partitions = _partitions(platform, topics.exchange)
        seconds, processor = [], []
        for _ in range(CHECKS):
            began, began_processor = time.perf_counter(), time.process_time()
            done = evaluate(platform, duckdb_resource(settings), partitions)
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - began_processor)
            for error in done.errors.values():
                raise error
        rows = sum(one.facts.rows for one in done.checked)
        platform.close()
    progress(f"the checks of {rows:,} rows: {min(seconds):.2f} s")
    facts = conditions(rows=rows, partitions=len(partitions), seconds=[round(one, 3) for one in seconds])
    return [
        Measure("checks: a partition, per million rows", min(seconds) / rows * 1e6, "s", conditions=facts),
        Measure("checks: a partition, per million rows", min(processor) / rows * 1e6, "CPU-s", conditions=facts),
    ]


def _partitions(platform: Platform, exchange: str) -> list[tuple[str, str, str]]:
    query = select(commits.c.days).where(commits.c.exchange == exchange, commits.c.table_name == "market_data.ticks")
    with platform.database.begin() as connection:
        days = {day for of_commit in connection.execute(query).scalars() for day in of_commit}
    today = datetime.now(UTC).date().isoformat()
    return [("ticks", exchange, day) for day in sorted(days) if day <= today]


def _ticks(instance: dg.DagsterInstance, platform: Platform, sensor: dg.SensorDefinition) -> list[float]:
    milliseconds = []
    cursor: str | None = Memory(ticked_at=time.time()).dump() if sensor is lag_sensor else None
    for _ in range(LOOKS + 1):
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"k2": platform})
        began = time.perf_counter()
        result = sensor(context)
        milliseconds.append((time.perf_counter() - began) * 1000)
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
    # the first look connects
    return milliseconds[1:]


@contextmanager
def _instance(bench: Bench) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance on a database of its own."""
    name = f"dagster_{uuid.uuid4().hex[:12]}"
    os.environ["K2_DAGSTER_URI"] = bench.stack.create_database(name)
    folder = bench.folder / name
    folder.mkdir()
    (folder / "dagster.yaml").write_text(INSTANCE_FILE.read_text())
    instance = dg.DagsterInstance.from_config(str(folder))
    try:
        yield instance
    finally:
        instance.dispose()
        del os.environ["K2_DAGSTER_URI"]
        bench.drop(name)
