"""A number far ahead on a real broker: what is lost behind it is told, it is in quarantine, and everything adds up."""

from typing import Any

import pytest

from k2_dagster.ingest.reprocess import republish
from k2_dagster.ingest.selection import Selection
from k2_dagster.state.gaps import open_gaps
from k2_dagster.verify.proof import verify
from tests.ingest.conftest import Exchange

pytestmark = pytest.mark.stack

FAR = 10**15
# Of the spoiled message's place, and of the lost message.
SPOILED, LOST = 7, 12


def publish_spoiled(exchange: Exchange) -> None:
    """Numbers 1 to 30, one of them spoiled on the way, one lost."""
    sent = [exchange.tick("A") for _ in range(30)]
    sent[SPOILED - 1] = exchange.tick("A", sequence=FAR)
    exchange.publish([one for number, one in enumerate(sent, 1) if number != LOST])


def missing(exchange: Exchange) -> list[tuple[int, int, str]]:
    found = open_gaps(exchange.database, "ticks", exchange.name)
    return [(one["first_sequence"], one["last_sequence"], one["level"]) for one in found]


def refused(exchange: Exchange) -> list[tuple[int, str]]:
    return [(one["kafka_offset"], one["reason"]) for one in exchange.landed("quarantine")]


def numbers(exchange: Exchange) -> list[int]:
    return [one["sequence"] for one in exchange.landed()]


def assert_told(exchange: Exchange) -> None:
    assert missing(exchange) == [(LOST, LOST, "warn")]
    assert refused(exchange) == [(SPOILED - 1, "sequence_jump")]
    assert numbers(exchange) == [one for one in range(1, 31) if one not in (SPOILED, LOST)]
    assert verify(exchange.settings, exchanges=[exchange.name]).clean


@pytest.mark.parametrize("batch_rows", [3, 1_000])
def test_a_hole_behind_a_number_far_ahead_is_told(exchange: Exchange, batch_rows: int) -> None:
    publish_spoiled(exchange)
    exchange.drain(settings=exchange.settings.model_copy(update={"ingest_batch_rows": batch_rows}))
    assert_told(exchange)
    # the good message that was spoiled comes again, as recovery brings it
    exchange.publish([exchange.tick("A", sequence=SPOILED)])
    exchange.drain()
    assert numbers(exchange)[-1] == SPOILED


def test_killed_behind_the_commit_of_quarantine_the_next_drain_says_the_same(exchange: Exchange) -> None:
    publish_spoiled(exchange)
    exchange.die_behind_quarantine()
    exchange.drain(settings=exchange.settings.model_copy(update={"ingest_batch_rows": 4}))
    assert_told(exchange)


def test_what_is_sent_again_is_refused_again_and_a_venue_that_jumped_gets_its_message_back(exchange: Exchange) -> None:
    def send_again() -> int:
        selection = Selection(exchange=exchange.name, reason="sequence_jump")
        return republish(exchange.settings, exchange.catalog, selection)

    def tick(sequence: int) -> Any:
        return exchange.tick("A", sequence=sequence)

    exchange.publish([tick(one) for one in (1, 2, FAR, 3, FAR + 5, 4)])
    exchange.drain()
    assert send_again() == 2
    exchange.drain()
    assert [reason for _, reason in refused(exchange)] == ["sequence_jump"] * 4
    assert numbers(exchange) == [1, 2, 3, 4]
    exchange.publish([tick(2 * FAR + one) for one in range(8)])
    exchange.drain()
    assert missing(exchange) == [(5, 2 * FAR - 1, "halt")]
    send_again()
    exchange.drain()
    # the first number behind the jump has landed, and so have the two that lie in the gap
    assert sorted(numbers(exchange)) == [1, 2, 3, 4, FAR, FAR + 5, *(2 * FAR + one for one in range(8))]
    assert verify(exchange.settings, exchanges=[exchange.name]).clean
