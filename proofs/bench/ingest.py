"""Measure `ingest`: the full path against the bare loop."""

import statistics
from collections.abc import Mapping
from typing import Any

from k2_dagster.devstack.process import Progress
from proofs.bench.results import Measure, conditions, spread
from proofs.bench.setting import Bench, Topics
from proofs.bench.sides import Figures, Job, run_side

BARE, PLAIN, NATIVE = "bare loop", "full path, plain reader", "full path, native reader"
# side -> what runs, with which reader
SIDES: Mapping[str, tuple[str, str]] = {BARE: ("bare", "plain"), PLAIN: ("full", "plain"), NATIVE: ("full", "native")}
# Least rows per second against the bare loop.
GOALS = {PLAIN: 0.7, NATIVE: 1.2}
ROUNDS = 3


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
                        **topic_facts(topics),
                        spread=spread(values),
                        commits=runs[0].commits,
                        warm_up_seconds=spread([one.warm_up_seconds for one in runs]),
                        time="from before the first request to the last commit; imports and compilation before it",
                    ),
                )
            )
    return out


def topic_facts(topics: Topics) -> dict[str, Any]:
    """What a measure's topic holds, as conditions."""
    planted = topics.planted
    return {
        "messages": planted.messages,
        "bytes_per_message": round(planted.value_bytes / planted.messages, 1),
        "gaps": planted.gaps,
        "duplicates": planted.duplicates,
        "bad_prices": planted.bad_prices,
    }
