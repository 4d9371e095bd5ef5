import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.simulator.faults import FaultPlan, parse_fault
from k2_dagster.feeds.simulator.feed import FeedParameters
from k2_dagster.feeds.simulator.simulation import Simulation, SimulationReport
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.common import BEHIND_HEADER
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.ticks import TICKS
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import MakeProfiles, Read
from tests.feeds.simulator.simulated import START_MICROS

pytestmark = pytest.mark.stack
DOMAINS = {"ticks": "dense", "quotes": "channel", "book": "linked"}
# A run in real time has its topics and subjects looked at before its first message is due, also on a busy machine.
WARM_UP_MICROS = 3_000_000
ReadTopic = Callable[[str], list[Read]]


def simulation(settings: Settings, profiles: Profiles, exchange: str, *faults: str, **changed: Any) -> Simulation:
    options: dict[str, Any] = {"flat_out": True, "stop": threading.Event()}
    parameters: dict[str, Any] = {"symbols": 20, "rate": 1000.0, "seed": 3, "start_micros": START_MICROS, "seconds": 20}
    for name, value in changed.items():
        (parameters if name in FeedParameters.__dataclass_fields__ else options)[name] = value
    plan = FaultPlan(tuple(parse_fault(text) for text in faults))
    return Simulation(settings, profiles, FeedParameters(exchange, plan=plan, **parameters), **options)


def test_what_the_report_counts_is_in_kafka_and_the_truth_is_told(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, exchange = new_exchange(**DOMAINS)
    truth = tmp_path / "truth.jsonl"
    faults = ("drop:7@3s", "duplicate:12@6s", "corrupt:4@9s", "drop:2@3s/quotes", "lose:3@5s/book", "schema_change@8s")
    report = simulation(settings, profiles, exchange, *faults, truth=truth).run()
    assert report.generated == 20_000
    published = dict(report.published)
    assert sum(published[name] for name in DOMAINS) == 20_000 - 7 + 12 - 2 - 3
    read = {name: read_topic(topic_name(name, exchange)) for name in [*DOMAINS, "control", "instruments"]}
    assert {name: len(messages) for name, messages in read.items()} == published
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert sorted(one["asked"].split("@")[0] for one in lines) == sorted(fault.split("@")[0] for fault in faults)
    assert all(one["complete"] for one in lines)
    headers = [message.value[:5] for message in read["ticks"]]
    assert sum(header[0] != 0 for header in headers) == 1
    control_id = read["control"][0].value[:5]
    assert headers.count(control_id) == 1
    # The two versions of the schema; a message without a frame and one with a foreign id stand apart.
    assert len({header for header in headers if header[0] == 0} - {control_id}) == 2


def test_what_came_behind_the_order_of_its_channel_says_so(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic, tmp_path: Path
) -> None:
    """As a live feed says it; a copy of such a message too. What is late by its symbol's own numbers needs no word."""
    profiles, exchange = new_exchange(**DOMAINS)
    truth = tmp_path / "truth.jsonl"
    faults = ("late:30@3s/quotes", "reorder:4@8s/quotes", "schema_change@12s/quotes", "late:6@15s/quotes", "late:3@3s")
    simulation(settings, profiles, exchange, *faults, truth=truth).run()
    lines = {one["asked"]: one for one in map(json.loads, truth.read_text().splitlines())}
    # Of reordered messages the last leaves first, in the order of its channel
    displaced = [
        (one["symbol"], one["sequence"])
        for asked, line in lines.items()
        if line["dataset"] == "quotes"
        for one in line["messages"][: -1 if asked.startswith("reorder") else None]
    ]
    assert len(displaced) == 30 + 3 + 6
    found = {
        dataset: [
            (one.key.decode().removeprefix(f"{exchange}."), _number(dataset, one.value), one.headers)
            for one in read_topic(topic_name(dataset, exchange))
        ]
        for dataset in DOMAINS
    }
    marked = [(symbol, number) for symbol, number, headers in found["quotes"] if headers == [(BEHIND_HEADER, b"1")]]
    assert sorted(marked) == sorted(displaced)
    assert not any(headers for dataset in ("ticks", "book") for _, _, headers in found[dataset])


def _number(dataset: str, value: bytes) -> int:
    row: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), avro_schema(dataset_named(dataset)), None)
    return int(row["sequence"])


def test_the_same_run_sends_the_same_bytes(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic
) -> None:
    profiles, exchange = new_exchange(**DOMAINS)
    for _ in range(2):
        simulation(settings, profiles, exchange, "drop:3@1s/quotes", "late:2@1s", seconds=5).run()
    for dataset in [*DOMAINS, "control"]:
        values = [one.value for one in read_topic(topic_name(dataset, exchange)) if one.partition == 0]
        half = len(values) // 2
        assert half > 0
        assert values[:half] == values[half:], dataset


def test_stopping_delivers_what_was_accepted_and_tells_no_more_than_was_sent(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic, tmp_path: Path
) -> None:
    profiles, exchange = new_exchange(**DOMAINS)
    stop = threading.Event()

    def stop_soon(report: SimulationReport) -> None:
        if report.published["ticks"] > 100:
            stop.set()

    truth = tmp_path / "truth.jsonl"
    run = simulation(
        settings, profiles, exchange, "drop:2@300m", "drop:2@900s", seconds=None, flat_out=False, stop=stop,
        on_progress=stop_soon, truth=truth, start_micros=time.time_ns() // 1000 + WARM_UP_MICROS,
    )  # fmt: skip
    report = run.run()
    assert report.interrupted
    assert report.unplanted == [f"drop:2@900s/ticks/{json.loads(truth.read_text())['symbol']}"]
    for dataset in [*DOMAINS, "control"]:
        assert len(read_topic(topic_name(dataset, exchange))) == report.published[dataset]


def test_stopping_leaves_no_fault_untold(
    settings: Settings, new_exchange: MakeProfiles, read_topic: ReadTopic, tmp_path: Path
) -> None:
    """What has begun is in the truth, as far as it went; what lies ahead, made already or not, did not happen."""
    profiles, exchange = new_exchange(**DOMAINS)
    stop = threading.Event()

    def stop_soon(report: SimulationReport) -> None:
        if report.published["ticks"] > 100:
            stop.set()

    truth = tmp_path / "truth.jsonl"
    ahead = ("drop:2@3000m", "session_reset@3500m/book", "schema_change@3600m/quotes", "drop:1@400s/book")
    report = simulation(
        settings, profiles, exchange, "late:2@300m", *ahead, seconds=None, flat_out=False, stop=stop, symbols=1,
        on_progress=stop_soon, truth=truth, start_micros=time.time_ns() // 1000 + WARM_UP_MICROS,
    ).run()  # fmt: skip
    (late,) = [json.loads(line) for line in truth.read_text().splitlines()]
    assert (late["type"], late["complete"], late["count"]) == ("late", False, 2)
    assert sorted(one.split("/")[0] for one in report.unplanted) == sorted(one.split("/")[0] for one in ahead)
    assert report.faults == {"late": 1}
    rows: list[Any] = [
        fastavro.schemaless_reader(io.BytesIO(one.value[5:]), avro_schema(TICKS), None)
        for one in read_topic(topic_name("ticks", exchange))
    ]
    numbers = {row["sequence"] for row in rows}
    assert set(range(1, max(numbers) + 1)) - numbers == {one["sequence"] for one in late["messages"]}
    assert max(one["sequence"] for one in late["messages"]) < max(numbers)


def test_a_truth_file_that_cannot_be_written_is_refused(
    settings: Settings, new_exchange: MakeProfiles, tmp_path: Path
) -> None:
    profiles, exchange = new_exchange(**DOMAINS)
    with pytest.raises(ConfigurationError, match="--truth"):
        simulation(settings, profiles, exchange, truth=tmp_path / "none" / "truth.jsonl").run()
