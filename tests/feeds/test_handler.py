import io
from collections.abc import Callable
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.avro import avro_schema
from k2_dagster.schemas.control import CONTROL
from k2_dagster.schemas.quotes import QUOTES
from k2_dagster.schemas.topics import topic_name
from k2_dagster.settings import Settings
from tests.feeds.conftest import MakeProfiles, Read

pytestmark = pytest.mark.stack
MICROS = 1_780_000_000_000_000


def quotes(exchange: str, numbers: list[int], session: str) -> pa.RecordBatch:
    rows = [
        {
            "exchange": exchange, "stream": "quotes_stream", "kind": "quote", "symbol": f"S{number % 3}",
            "channel": "c1", "session": session, "sequence": number, "exchange_timestamp": MICROS + number,
        }
        for number in numbers
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=wire_schema(QUOTES))


def test_gaps_sessions_and_connections_reach_the_control_topic(
    settings: Settings, new_exchange: MakeProfiles, read_topic: Callable[[str], list[Read]]
) -> None:
    profiles, exchange = new_exchange(quotes="channel")
    with Publisher(settings, profiles, exchange, publisher_session="run-1") as publisher:
        handler = FeedHandler(publisher, profiles, exchange)
        assert handler.connection("quotes_stream", "connected", "test", at_micros=MICROS) == 1
        assert handler.observe(quotes(exchange, [*range(1, 10), *range(15, 60)], "s1")) == 2
        assert handler.observe(quotes(exchange, [61, 62], "s1")) == 0
        assert handler.observe(quotes(exchange, [12, 13, 11], "s1")) == 2
        assert handler.heartbeat("quotes_stream") == 1
        publisher.begin_session("run-2")
        assert handler.book("quotes_stream", "S1", "ended", "a hole") == 1
        assert handler.finish() == 1
        assert handler.finish() == 0
    told: list[dict[str, Any]] = []
    for message in read_topic(topic_name("control", exchange)):
        row: Any = fastavro.schemaless_reader(io.BytesIO(message.value[5:]), avro_schema(CONTROL), None)
        told.append(row)
    names = ("kind", "symbol", "channel", "session", "first_sequence", "last_sequence", "state", "publisher_sequence")
    assert [tuple(row[name] for name in names) for row in told] == [
        ("connection", "*", None, None, None, None, "connected", 1),
        ("session", "*", "c1", "s1", 1, None, "started", 2),
        ("gap", "*", "c1", "s1", 10, 14, None, 3),
        ("late", "*", "c1", "s1", 12, 13, None, 4),
        ("late", "*", "c1", "s1", 11, 11, None, 5),
        ("heartbeat", "*", None, None, None, None, None, 6),
        ("session", "S1", None, None, None, None, "ended", 1),
        ("gap", "*", "c1", "s1", 60, 60, None, 1),
    ]
    assert [row["publisher_session"] for row in told] == [*["run-1"] * 6, *["run-2"] * 2]
    assert (told[6]["dataset"], told[6]["reason"]) == ("book", "a hole")
    around = [round(told[2][name].timestamp() * 1_000_000) - MICROS for name in ("before_timestamp", "after_timestamp")]
    assert around == [9, 15]
    # The hole showed at number 15; the gap is told at the first message beyond its grace of twenty.
    assert round(told[2]["exchange_timestamp"].timestamp() * 1_000_000) == MICROS + 36
