"""The ledger from messages to SQL and the command line, on real Kafka, PostgreSQL and tables."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from sqlalchemy import text

from k2_dagster.cli import main
from k2_dagster.coverage.asking import complete
from k2_dagster.coverage.complete import Answer, Complete, Gaps, Unknown
from k2_dagster.coverage.reading import one_look, read_received
from k2_dagster.errors import ConfigurationError, QueryRefused
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.kafka.clients import producer_config
from k2_dagster.kafka.registry import Registry
from k2_dagster.query.engine import QueryEngine
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import as_environment
from k2_dagster.state.gaps import record_event
from k2_dagster.state.holds import HoldBegins, HoldEnds, begin_hold, fold_end, read_holds
from k2_dagster.state.tables import SCHEMA
from tests.ingest.conftest import Exchange
from tests.ingest.helpers import START_MICROS, avro

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
DAYS_AGO_20 = timedelta(days=20)


def ticks(exchange: Exchange, numbers: list[int], **values: Any) -> list[bytes | None]:
    """A message a second, each at the second of its number."""
    return [
        exchange.tick(sequence=one, **{"exchange_timestamp": START_MICROS + one * SECOND, **values}) for one in numbers
    ]


def tell(exchange: Exchange, *told: dict[str, Any]) -> None:
    """Publish control messages, and drain them."""
    topic, dataset = topic_name("control", exchange.name), WIRE_DATASETS["control"]
    with closing(Registry(exchange.settings)) as registry:
        schema_id = registry.register(subject_name(topic), avro_schema_text(dataset))
    common = {"exchange": exchange.name, "symbol": "*", "stream": "ticks_stream"}
    producer = Producer(producer_config(exchange.settings))
    for one in told:
        producer.produce(topic, avro(dataset, schema_id, **common | one), b"key", 0)
    assert producer.flush(20) == 0
    drain_exchange(
        exchange.settings, exchange.profiles, exchange.name, datasets=["control"], cap_seconds=60.0, stop=Event()
    )


def asked(exchange: Exchange, first: int, last: int, symbol: str = "A") -> Answer:
    times = (START + timedelta(seconds=one) for one in (first, last))
    return complete(exchange.database, exchange.profiles, exchange.name, "ticks_stream", symbol, *times)


@pytest.fixture
def k2(exchange: Exchange) -> Callable[..., str]:
    """Runs `k2 ...`; returns what it says."""

    def run(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, arguments, env=as_environment(exchange.settings))
        assert done.exit_code == status, done.output
        return done.output

    return run


@pytest.fixture
def with_gap(exchange: Exchange) -> Exchange:
    """Numbers 1 to 20 of A without 8 and 9."""
    exchange.publish(ticks(exchange, [one for one in range(1, 21) if one not in (8, 9)]))
    exchange.drain()
    return exchange


def test_the_ledger_is_tables_that_sql_asks(with_gap: Exchange) -> None:
    with QueryEngine(with_gap.settings, with_gap.catalog) as engine:
        (covered,) = engine.query(
            "SELECT * FROM market_data.coverage WHERE exchange = $x", {"x": with_gap.name}
        ).to_pylist()
        (gap,) = engine.query("SELECT * FROM market_data.gaps g").to_pylist()
        joined = engine.query(
            "SELECT count(*) AS n FROM market_data.ticks t JOIN market_data.coverage c USING (exchange, symbol)"
        )
        assert [engine.query(f"FROM market_data.{name}").num_rows for name in ("holds", "resets", "connections")] == [
            0,
            0,
            0,
        ]
        with pytest.raises(QueryRefused, match=r"did you mean market_data\.coverage"):
            engine.query("FROM market_data.coverages")
    assert joined.to_pylist() == [{"n": 18}]
    assert (covered["first_sequence"], covered["last_sequence"], covered["messages"]) == (1, 20, 18)
    assert (covered["from_time"], covered["to_time"]) == (START + timedelta(seconds=1), START + timedelta(seconds=20))
    assert (gap["first_sequence"], gap["last_sequence"], gap["state"]) == (8, 9, "open")
    assert (gap["from_time"], gap["to_time"]) == (START + timedelta(seconds=7), START + timedelta(seconds=10))
    assert gap["seen_at"] is not None


def test_complete_says_what_a_range_is(with_gap: Exchange) -> None:
    assert asked(with_gap, 1, 7) == asked(with_gap, 11, 21 - 1) == Complete("venue")
    found = asked(with_gap, 2, 19)
    assert isinstance(found, Gaps)
    assert [(one.first, one.last, one.count) for one in found.missing] == [(8, 9, 2)]
    for first, last in ((0, 5), (15, 40)):
        answer = asked(with_gap, first, last)
        assert isinstance(answer, Unknown)
        assert answer.reason == "outside"
    with pytest.raises(ConfigurationError, match="did you mean ticks_stream"):
        complete(with_gap.database, with_gap.profiles, with_gap.name, "tick_stream", "A", START, datetime.now(UTC))
    with pytest.raises(ConfigurationError, match="`to` after `from`"):
        asked(with_gap, 5, 5)


def test_a_late_message_makes_the_range_complete(with_gap: Exchange) -> None:
    with_gap.publish(ticks(with_gap, [9, 8]))
    with_gap.drain()
    assert asked(with_gap, 2, 19) == Complete("venue")


def test_a_refused_message_is_missing_until_its_good_copy_comes(exchange: Exchange) -> None:
    numbers = ticks(exchange, list(range(1, 10)))
    numbers[4] = ticks(exchange, [5], price=0)[0]
    exchange.publish(numbers)
    exchange.drain()
    found = asked(exchange, 1, 9)
    assert isinstance(found, Gaps)
    assert [(one.first, one.last, one.cause, one.gap_id) for one in found.missing] == [(5, 5, "quarantined", None)]
    assert asked(exchange, 6, 9) == Complete("venue")
    exchange.publish(ticks(exchange, [5]))
    exchange.drain()
    assert asked(exchange, 1, 9) == Complete("venue")


def test_a_halted_partition_is_unknown_while_it_is_halted_and_then_its_numbers_tell(with_gap: Exchange) -> None:
    hold = HoldBegins(
        *(with_gap.name, "ticks", 0, 0, "halted", 18, START + timedelta(seconds=12), "a gap of 500", "commit")
    )
    for _ in range(2):
        with with_gap.database.begin() as connection:
            begin_hold(connection, hold)
    answer = asked(with_gap, 11, 15)
    assert isinstance(answer, Unknown)
    assert (answer.reason, answer.detail) == ("halted", "a gap of 500")
    assert asked(with_gap, 1, 5) == Complete("venue")
    with with_gap.database.begin() as connection:
        for second in (13, 14):
            end = HoldEnds("resume", 0, 0, "halted", 18, 20, START_MICROS + second * 1_000_000)
            fold_end(connection, SimpleNamespace(exchange=with_gap.name, dataset="ticks"), end)
        (held,) = read_holds(connection, with_gap.name, "ticks")
    # the first end stays
    assert (held["to_offset"], held["to_time"]) == (20, START + timedelta(seconds=13))
    assert asked(with_gap, 11, 15) == Complete("venue")


def test_what_the_feed_handler_says_is_on_record_once(exchange: Exchange) -> None:
    at = {"exchange_timestamp": START_MICROS, "channel": "7"}
    connection = {"kind": "connection", "exchange_timestamp": START_MICROS}
    tell(
        exchange,
        {**connection, "state": "connected", "reason": "begin"},
        {"kind": "session", "session": "one", "state": "started", "first_sequence": 1, **at},
        {"kind": "gap", "session": "one", "first_sequence": 5, "last_sequence": 30, **at},
        {"kind": "heartbeat", "exchange_timestamp": START_MICROS},
        {"kind": "session", "session": "two", "state": "started", "first_sequence": 1, **at},
        {**connection, "state": "disconnected", "reason": "closed by peer"},
    )
    with QueryEngine(exchange.settings, exchange.catalog) as engine:
        connections = engine.query("FROM market_data.connections ORDER BY kafka_offset").to_pylist()
        resets = engine.query("FROM market_data.resets").to_pylist()
        (gap,) = engine.query("FROM market_data.gaps").to_pylist()
    assert [(one["state"], one["reason"]) for one in connections] == [
        ("connected", "begin"),
        ("disconnected", "closed by peer"),
    ]
    (reset,) = resets
    assert (reset["channel"], reset["previous_session"], reset["session"]) == ("7", "one", "two")
    assert (reset["numbering"], reset["kafka_offset"], reset["at"]) == ("channel", 4, START)
    assert (gap["numbering"], gap["channel"], gap["missing"], gap["level"]) == ("channel", "7", 26, "page")
    assert (gap["from_time"], gap["to_time"]) == (None, START)


def test_a_session_that_is_over_is_kept_as_an_interval(exchange: Exchange) -> None:
    """Forgotten by the tracker, settled with the attempt that forgot it."""
    exchange.trust_producers_clocks()
    then = int((datetime.now(UTC) - DAYS_AGO_20).timestamp() * 1000)
    exchange.publish(ticks(exchange, [1, 2, 3], session="one"), timestamp_ms=then)
    exchange.publish(ticks(exchange, [1, 2], session="two"), timestamp_ms=then + 86_400_000)
    exchange.drain()
    before = intervals(exchange)
    exchange.publish(ticks(exchange, [3], session="two"), timestamp_ms=then + 16 * 86_400_000)
    exchange.drain()

    assert before == [("one", 1, 3, True), ("two", 1, 2, True)]
    assert intervals(exchange) == [("one", 1, 3, False), ("two", 1, 3, True)]
    with QueryEngine(exchange.settings, exchange.catalog) as engine:
        (reset,) = engine.query("SELECT previous_session, session, numbering FROM market_data.resets").to_pylist()
    assert reset == {"previous_session": "one", "session": "two", "numbering": "venue"}
    with exchange.database.begin() as connection:
        assert connection.execute(text(f"select sum(intervals) from {SCHEMA}.coverage")).scalar() == 1


def intervals(exchange: Exchange) -> list[tuple[Any, ...]]:
    with one_look(exchange.database) as connection:
        rows = read_received(connection).intervals.to_pylist()
    return sorted((one["session"], one["first_sequence"], one["last_sequence"], one["is_open"]) for one in rows)


def test_the_day_of_a_symbol_is_a_picture(with_gap: Exchange, k2: Callable[..., str]) -> None:
    with_gap.publish(ticks(with_gap, [1, 2, 3], symbol="B"), 1)
    with_gap.drain()
    day = ("coverage", "--exchange", with_gap.name, "--day", "2026-01-01", "--minutes", "60")

    drawn = k2(*day)
    lines = drawn.splitlines()
    assert "00h" in lines[0]
    assert lines[1].split()[:2] == ["ticks/ticks_stream", "A"]
    assert "×·······················" in lines[1]
    assert "2 missing: k2 gaps show" in lines[1]
    assert "█·······················" in lines[2]
    assert "× something is missing" in lines[-1]
    first, second = json.loads(k2(*day, "--json"))
    assert (first["symbol"], first["answer"], first["judged_by"]) == ("A", "gaps", "venue")
    assert first["cells"] == ["gap"] + ["outside"] * 23
    assert [(one["first"], one["last"], one["from"]) for one in first["missing"]] == [
        (8, 9, "2026-01-01T00:00:07+00:00")
    ]
    assert (second["symbol"], second["answer"], second["reason"]) == ("B", "unknown", "outside")
    (only,) = json.loads(k2(*day, "--symbol", "B", "--json"))
    assert only["symbol"] == "B"
    assert "nothing is on record" in k2("coverage", "--exchange", with_gap.name, "--symbol", "none")
    assert "valid:" in k2("coverage", "--exchange", "nowhere", status=4)


def test_gaps_are_listed_and_explained(with_gap: Exchange, k2: Callable[..., str]) -> None:
    (gap,) = json.loads(k2("gaps", "--json"))
    shown = k2("gaps", "show", str(gap["id"]))
    assert "2 messages of A (numbers 8 to 9)" in shown
    assert "number 7 at 2026-01-01T00:00:07.000000+00:00 and number 10 at 2026-01-01T00:00:10" in shown
    assert f"offset 7 of market.ticks.{with_gap.name} partition 0 showed the hole" in shown
    assert "nothing is on record" in shown
    with with_gap.database.begin() as connection:
        assert record_event(connection, gap["id"], "request", by="recovery", note="asked the venue") == "requested"
    told = json.loads(k2("gaps", "show", str(gap["id"]), "--json"))
    assert (told["state"], told["events"][0]["note"]) == ("requested", "asked the venue")
    assert "request by recovery: asked the venue" in k2("gaps", "show", str(gap["id"]))
    chosen = (
        *("--exchange", with_gap.name, "--dataset", "ticks", "--symbol", "A"),
        *("--state", "requested", "--level", "warn", "--day", "2026-01-01"),
    )
    assert [one["id"] for one in json.loads(k2("gaps", *chosen, "--json"))] == [gap["id"]]
    assert "no gap on record" in k2("gaps", "--state", "filled")
    assert str(gap["id"]) in k2("gaps")
    assert "there is no gap 999" in k2("gaps", "show", "999", status=4)


def test_a_gap_that_was_requested_is_filled_by_what_comes(with_gap: Exchange, k2: Callable[..., str]) -> None:
    (gap,) = json.loads(k2("gaps", "--json"))
    with with_gap.database.begin() as connection:
        record_event(connection, gap["id"], "request", by="recovery", note="")
    with_gap.publish(ticks(with_gap, [8]))
    with_gap.drain()
    assert json.loads(k2("gaps", "--json"))[0]["state"] == "requested"
    with_gap.publish(ticks(with_gap, [9]))
    with_gap.drain()
    assert json.loads(k2("gaps", "--json"))[0]["state"] == "filled"
