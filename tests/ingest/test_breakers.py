"""Partitions that a critical gap halts: they keep their place in Kafka, the others go on, a person lets them go on."""

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner

from k2_dagster.cli import main
from k2_dagster.errors import ConfigurationError
from k2_dagster.ingest import stream as stream_module
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.lag import stream_lags
from k2_dagster.ingest.status import stream_statuses
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.kafka.ends import TopicEnd
from k2_dagster.observability.points import POINTS
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import as_environment
from k2_dagster.state.breakers import acknowledge_breaker, find_breaker, list_breakers, read_breakers
from k2_dagster.state.gaps import open_gaps
from k2_dagster.state.holds import read_holds
from tests.ingest.conftest import Exchange, profile_text
from tests.ingest.helpers import START_MICROS
from tests.ingest.test_drain import assert_each_once, assert_tiled, killed

pytestmark = pytest.mark.stack

# Numbers 4 to 23 never come; the grace of five messages is over at the sixth one behind them.
BEFORE, GAP, AFTER = 3, 20, 9
SHOWN_AT = BEFORE + 5
IN_PARTITION = BEFORE + AFTER


@pytest.fixture
def halting(exchange: Exchange) -> Exchange:
    """The exchange, with more than 10 missing numbers critical; a critical gap waits in partition 0."""
    assert exchange.settings.profiles is not None
    path = exchange.settings.profiles.with_name("halting.toml")
    text = profile_text(exchange.name, 1, ticks_stream="dense").replace('"mark_stale"', '"halt"')
    path.write_text(
        text.replace("gap_grace_messages = 5", "gap_grace_messages = 5\ngap_page_at = 5\ngap_halt_above = 10")
    )
    settings = exchange.settings.model_copy(update={"profiles": path})
    made = replace(exchange, settings=settings, profiles=load_profiles(path))
    made.publish([made.tick() for _ in range(BEFORE)])
    made.numbers["A"] += GAP
    made.publish([made.tick() for _ in range(AFTER)])
    made.publish([made.tick("B") for _ in range(15)], 1)
    return made


def offsets(exchange: Exchange, partition: int) -> list[int]:
    return [offset for place, offset in exchange.positions() if place == partition]


def opened(exchange: Exchange) -> list[dict[str, Any]]:
    return list_breakers(exchange.database, exchange.name, "ticks", only_open=True)


def acknowledge(exchange: Exchange, **others: Any) -> dict[str, Any]:
    (one,) = opened(exchange)
    return acknowledge_breaker(exchange.database, one["id"], acknowledged_by="ann", reason="known outage", **others)


def held(exchange: Exchange) -> dict[str, Any]:
    """The newest hold."""
    with exchange.database.begin() as connection:
        return read_holds(connection, exchange.name, "ticks")[-1]


def assert_held_until(exchange: Exchange, offset: int) -> dict[str, Any]:
    """The newest hold ended with the row of this offset, at the venue's time of it."""
    hold = held(exchange)
    (row,) = [one for one in exchange.landed() if (one["kafka_partition"], one["kafka_offset"]) == (0, offset)]
    assert (hold["to_offset"], hold["to_time"]) == (offset, row["exchange_timestamp"])
    return hold


def k2(exchange: Exchange, *arguments: str) -> Any:
    done = CliRunner().invoke(main, list(arguments), env=as_environment(exchange.settings), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_partition_halts_behind_the_message_that_showed_the_gap_and_the_others_go_on(halting: Exchange) -> None:
    report = halting.drain()
    assert report.caught_up
    assert offsets(halting, 0) == list(range(SHOWN_AT + 1))
    assert offsets(halting, 1) == list(range(15))
    (one,) = opened(halting)
    assert (one["kafka_partition"], one["kafka_offset"], one["missing"]) == (0, SHOWN_AT, GAP)
    assert (one["symbol"], one["first_sequence"], one["last_sequence"]) == ("A", 4, 23)
    (gap,) = open_gaps(halting.database, "ticks", halting.name)
    assert (gap["level"], gap["state"], gap["reported_offset"]) == ("halt", "open", SHOWN_AT)
    halting.publish([halting.tick() for _ in range(4)])
    halting.publish([halting.tick("B") for _ in range(4)], 1)
    assert halting.drain().commits == 1
    assert (len(offsets(halting, 0)), len(offsets(halting, 1))) == (SHOWN_AT + 1, 19)
    assert_tiled(halting)


def test_an_acknowledgement_lets_it_go_on_and_stays_on_record(halting: Exchange) -> None:
    halting.drain()
    done = acknowledge(halting)
    assert (done["acknowledged_by"], done["acknowledged_reason"]) == ("ann", "known outage")
    again = acknowledge_breaker(halting.database, done["id"], acknowledged_by="bob", reason="another")
    assert again == find_breaker(halting.database, done["id"]) == done
    halting.drain()
    assert_each_once(halting, {0: IN_PARTITION, 1: 15})
    assert_tiled(halting)
    assert opened(halting) == []
    hold = assert_held_until(halting, SHOWN_AT + 1)
    assert (hold["kind"], hold["from_offset"], hold["commit_id"]) == ("halted", SHOWN_AT + 1, done["commit_id"])


def test_a_hold_lasts_until_the_first_row_behind_it_lands(halting: Exchange) -> None:
    """Not until the acknowledgement: then nothing of it is in the table yet, and refused messages say no time."""
    halting.drain()
    waiting = IN_PARTITION - SHOWN_AT - 1
    acknowledge(halting)
    assert held(halting)["to_time"] is None
    halting.drain()
    assert_held_until(halting, SHOWN_AT + 1)
    # a second hold, behind which the first messages are refused
    halting.numbers["A"] += GAP
    halting.publish([halting.tick() for _ in range(AFTER - waiting)])
    halting.drain()
    (second,) = opened(halting)
    halting.publish([halting.tick(price=0) for _ in range(2)])
    acknowledge(halting)
    halting.drain()
    assert held(halting)["to_time"] is None
    halting.publish([halting.tick(exchange_timestamp=START_MICROS + 7_000_000)])
    halting.drain()
    hold = assert_held_until(halting, second["kafka_offset"] + 3)
    assert hold["from_offset"] == second["kafka_offset"] + 1


def test_each_critical_gap_is_acknowledged_or_all_up_to_an_offset(halting: Exchange) -> None:
    halting.numbers["A"] += GAP
    halting.publish([halting.tick() for _ in range(AFTER)])
    halting.numbers["A"] += GAP
    halting.publish([halting.tick() for _ in range(AFTER)])
    halting.drain()
    acknowledge(halting)
    halting.drain()
    assert offsets(halting, 0)[-1] == IN_PARTITION + 5
    acknowledge(halting, through_offset=IN_PARTITION + 2 * AFTER - 1)
    halting.drain()
    assert opened(halting) == []
    assert_each_once(halting, {0: IN_PARTITION + 2 * AFTER, 1: 15})


def test_a_profile_that_marks_stale_halts_nothing(exchange: Exchange) -> None:
    exchange.publish([exchange.tick()])
    exchange.numbers["A"] += 500
    exchange.publish([exchange.tick() for _ in range(AFTER)])
    exchange.drain()
    assert len(offsets(exchange, 0)) == AFTER + 1
    assert [one["level"] for one in open_gaps(exchange.database, "ticks", exchange.name)] == ["halt"]
    assert opened(exchange) == []


@pytest.mark.parametrize("point", [one for one in POINTS if not one.startswith("expiry")])
def test_killed_at_any_point_it_halts_at_the_same_place(halting: Exchange, point: str) -> None:
    codes = [killed(halting, point, nth) for nth in (1, 2)]
    assert -signal.SIGKILL in codes
    halting.drain()
    assert offsets(halting, 0) == list(range(SHOWN_AT + 1))
    (one,) = opened(halting)
    assert (one["kafka_offset"], one["missing"]) == (SHOWN_AT, GAP)
    acknowledge(halting)
    killed(halting, point, 1)
    halting.drain()
    assert_each_once(halting, {0: IN_PARTITION, 1: 15})
    assert_tiled(halting)
    assert_held_until(halting, SHOWN_AT + 1)
    assert len(open_gaps(halting.database, "ticks", halting.name)) == 1


def test_a_stream_that_is_open_notices_the_acknowledgement(halting: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "ACKNOWLEDGED_SECONDS", 0.0)
    with Connections.open(halting.settings, halting.profiles) as connections:
        stream = StreamDrain(connections, halting.name, "ticks", "test")

        def drained() -> bool:
            return stream.drain(Event(), None, lambda _: None)

        assert [drained(), drained()] == [False, True]
        end = connections.ends.read([halting.topic])[halting.topic]
        assert isinstance(end, TopicEnd)
        assert stream.waiting(end) == 0
        acknowledge(halting)
        assert stream.waiting(end) is None
        assert drained()
        assert stream.waiting(end) == 0
        stream.close()
    assert_each_once(halting, {0: IN_PARTITION, 1: 15})


def test_lag_and_status_tell_what_is_halted(halting: Exchange) -> None:
    halting.drain()
    lags = {one.dataset: one for one in stream_lags(halting.settings, halting.profiles, [halting.name])}
    left = IN_PARTITION - SHOWN_AT - 1
    assert (lags["ticks"].lag_messages, lags["ticks"].halted_messages) == (0, left)
    ticks, *_ = stream_statuses(halting.settings, halting.profiles, [halting.name])
    assert (ticks.state, ticks.breaker, ticks.lag_messages) == ("partition halted", "open: 1", left)
    (one,) = opened(halting)
    said = (
        f"partition 0 halts behind offset {SHOWN_AT}, 20 numbers of A are missing: `k2 breaker acknowledge {one['id']}`"
    )
    assert ticks.problem.startswith(said)
    acknowledge(halting)
    halting.drain()
    ticks, *_ = stream_statuses(halting.settings, halting.profiles, [halting.name])
    assert (ticks.state, ticks.breaker, ticks.problem) == ("ok", "closed", "")


def test_the_command_lists_and_acknowledges(halting: Exchange) -> None:
    halting.drain()
    (one,) = k2(halting, "breaker", "list", "--exchange", halting.name, "--json")
    assert (one["kafka_offset"], one["pressing"], one["acknowledged_at"]) == (SHOWN_AT, False, None)
    said = ("--by", "ann", "--reason", "known outage", "--through-end", "--json")
    done = k2(halting, "breaker", "acknowledge", str(one["id"]), *said)
    assert (done["acknowledged_by"], done["through_offset"]) == ("ann", IN_PARTITION - 1)
    assert k2(halting, "breaker", "list", "--exchange", halting.name, "--json") == []
    (kept,) = k2(halting, "breaker", "list", "--exchange", halting.name, "--all", "--json")
    assert kept["acknowledged_reason"] == "known outage"
    with pytest.raises(ConfigurationError, match="breaker was 999999999"):
        acknowledge_breaker(halting.database, 999_999_999, acknowledged_by="ann", reason="none")


def test_breakers_of_a_former_topic_halt_nothing(halting: Exchange) -> None:
    halting.drain()
    (one,) = opened(halting)
    known: Sequence[int] = sorted(read_breakers(halting.database, halting.name, "ticks", one["topic_epoch"]).halted)
    assert known == [0]
    assert not read_breakers(halting.database, halting.name, "ticks", one["topic_epoch"] + 1).halted
