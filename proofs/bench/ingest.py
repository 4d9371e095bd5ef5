"""Measures `ingest` and `memory`: the full path against the bare loop, and what it keeps in memory."""

import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from k2_dagster.devstack.process import Progress
from k2_dagster.settings import Settings
from proofs.bench.results import Measure, conditions, spread
from proofs.bench.setting import Bench, Topics
from proofs.bench.sides import Figures, Job, run_side

BARE, PLAIN, NATIVE = "bare loop", "full path, plain reader", "full path, native reader"
# side -> what runs, with which reader
SIDES: Mapping[str, tuple[str, str]] = {BARE: ("bare", "plain"), PLAIN: ("full", "plain"), NATIVE: ("full", "native")}
# Least rows per second against the bare loop.
GOALS = {PLAIN: 0.7, NATIVE: 1.2}
ROUNDS = 3
FULL_RATE_MEGABYTES = 900
PACED_MEGABYTES = 400
PACED_MESSAGES_PER_SECOND = 100_000


def measure_ingest(bench: Bench, messages: int, rounds: int, progress: Progress) -> list[Measure]:
    """Rows per second, per CPU-second and peak memory of the three sides, in interleaved rounds on one topic."""
    progress(f"filling a topic with {messages:,} messages")
    topics = bench.topics(messages, seed=1)
    found: dict[str, list[Figures]] = {name: [] for name in SIDES}
    for number in range(rounds):
        order = list(SIDES)[number % len(SIDES) :] + list(SIDES)[: number % len(SIDES)]
        for name in order:
            figures = run_once(bench, topics, name)
            found[name].append(figures)
            progress(f"round {number + 1}, {name}: {figures.rows_per_second / 1e3:,.0f} k rows/s")
    return _compare(found, topics)


def run_once(bench: Bench, topics: Topics, name: str) -> Figures:
    """One side, on a lake of its own. Raises RuntimeError when a full path did not land exactly what was planted."""
    side, reader = SIDES[name]
    with bench.lake(topics.profiles, ingest_reader=reader) as settings:
        figures = run_side(settings, _job(side, topics), topics.planted.messages)
    expected = topics.planted.rows if side == "full" else topics.planted.messages
    if figures.rows != expected:
        raise RuntimeError(f"{name} landed {figures.rows} rows, {expected} were to land")
    return figures


def _job(side: str, topics: Topics) -> Job:
    return Job("bare" if side == "bare" else "full", topics.exchange, topics.warm_up)


def _compare(found: Mapping[str, list[Figures]], topics: Topics) -> list[Measure]:
    units = {
        "rows per second": ("rows/s", lambda one: one.rows_per_second),
        "rows per CPU-second": ("rows/CPU-s", lambda one: one.rows_per_cpu_second),
        "peak RSS": ("MB", lambda one: one.peak_rss_megabytes),
    }
    out = []
    for what, (unit, of) in units.items():
        base = statistics.median(map(of, found[BARE]))
        for name, runs in found.items():
            values = list(map(of, runs))
            value = statistics.median(values)
            ratio = value / base
            goal = GOALS.get(name) if what == "rows per second" else None
            out.append(
                Measure(
                    f"ingest: {what}, {name}",
                    value,
                    unit,
                    None if name == BARE else BARE,
                    None if name == BARE else ratio,
                    "" if goal is None else f">= {goal}",
                    None if goal is None else ratio >= goal,
                    conditions(
                        **_topic_facts(topics),
                        spread=spread(values),
                        commits=runs[0].commits,
                        warm_up_seconds=spread([one.warm_up_seconds for one in runs]),
                        time="from before the first request to the last commit; imports and compilation before it",
                    ),
                )
            )
    return out


def _topic_facts(topics: Topics) -> dict[str, Any]:
    planted = topics.planted
    return {
        "messages": planted.messages,
        "bytes_per_message": round(planted.value_bytes / planted.messages, 1),
        "gaps": planted.gaps,
        "duplicates": planted.duplicates,
        "bad_prices": planted.bad_prices,
    }


def measure_memory(bench: Bench, messages: int, progress: Progress) -> list[Measure]:
    """Peak memory of the full path on a backlog, and behind a publisher of 100,000 rows per second."""
    topics = bench.topics(messages, seed=2)
    out = []
    for name in (PLAIN, NATIVE):
        peak = run_once(bench, topics, name).peak_rss_megabytes
        out.append(_bounded(f"memory: peak RSS at full rate, {name}", peak, FULL_RATE_MEGABYTES, topics))
        progress(f"{out[-1].measure}: {peak:,.0f} MB")
    for name in (PLAIN, NATIVE):
        peak = _paced(bench, messages, SIDES[name][1])
        out.append(_bounded(f"memory: peak RSS at 100,000 rows/s, {name}", peak, PACED_MEGABYTES, topics))
        progress(f"{out[-1].measure}: {peak:,.0f} MB")
    return out


def _bounded(name: str, peak_megabytes: float, most: int, topics: Topics) -> Measure:
    facts = conditions(**_topic_facts(topics))
    return Measure(name, peak_megabytes, "MB", None, None, f"<= {most}", peak_megabytes <= most, facts)


def _paced(bench: Bench, messages: int, reader: str) -> float:
    """Peak memory of a process that drains again and again while a publisher writes at the rate."""
    topics = bench.topics(0, seed=3)
    with bench.lake(topics.profiles, ingest_reader=reader) as settings:
        publisher = threading.Thread(target=_publish, args=(settings, topics, messages))
        publisher.start()
        try:
            figures = run_side(settings, Job("follow", topics.exchange, topics.warm_up, messages), 10 * messages)
        finally:
            publisher.join()
    return figures.peak_rss_megabytes


def _publish(settings: Settings, topics: Topics, messages: int) -> None:
    """In a process of its own, so that its interpreter lock is not ours."""
    subprocess.run(
        [
            *(sys.executable, "-m", "proofs.bench.workload"),
            *(settings.kafka_bootstrap_servers, settings.schema_registry_url),
            *(topics.exchange, str(messages), str(PACED_MESSAGES_PER_SECOND)),
        ],
        check=True,
    )
