"""A stream with its troubles: how long it waits, what is on record, and that a stop is no trouble."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy.exc

from k2_dagster.errors import DatabaseUnavailable, K2Error, KafkaUnavailable, NotInitialized, RegistryUnavailable
from k2_dagster.ingest.connections import Connections
from k2_dagster.ingest.driven import FIRST_BACKOFF_SECONDS, HALTED_RETRY_SECONDS, LONGEST_BACKOFF_SECONDS, Driven
from k2_dagster.ingest.pipeline import OnCommit
from k2_dagster.ingest.stream import StreamDrain
from k2_dagster.state.stream_states import StreamState, read_states
from tests.ingest.conftest import Exchange

pytestmark = pytest.mark.stack


class Scripted(StreamDrain):
    """Meets what the test says."""

    meets: Exception | None = None

    def drain(self, stop: threading.Event, deadline: float | None, on_commit: OnCommit) -> bool:
        if self.meets is not None:
            raise self.meets
        return True


@pytest.fixture
def one(exchange: Exchange) -> Iterator[Driven]:
    with Connections.open(exchange.settings, exchange.profiles) as connections:
        yield Driven(Scripted(connections, exchange.name, "ticks", "run"), "a test")


def turn(one: Driven, meets: Exception | None = None, stop: threading.Event | None = None) -> float:
    """One turn; returns how long the stream has to wait for the next."""
    assert isinstance(one.stream, Scripted)
    one.stream.meets = meets
    one.turn(stop or threading.Event(), None, lambda _: None)
    return one.ready_at - time.monotonic()


def state(one: Driven) -> StreamState | None:
    return read_states(one.stream.connections.database).get((one.stream.exchange, one.stream.dataset))


def test_a_transient_error_is_tried_again_for_ever_with_a_longest_wait(one: Driven) -> None:
    waits = [turn(one, KafkaUnavailable("away")) for _ in range(60)]
    assert waits[0] == pytest.approx(FIRST_BACKOFF_SECONDS, abs=0.2)
    assert waits[2] == pytest.approx(4 * FIRST_BACKOFF_SECONDS, abs=0.2)
    assert max(waits) == pytest.approx(LONGEST_BACKOFF_SECONDS, abs=0.2)
    assert not one.halted
    found = state(one)
    assert found is not None
    assert (found.condition, found.error, found.message, found.driver) == (
        "retrying",
        "KafkaUnavailable",
        "away",
        "a test",
    )
    turn(one)
    assert (one.trouble, state(one)) == (None, None)
    assert turn(one, KafkaUnavailable("away")) == pytest.approx(FIRST_BACKOFF_SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NotInitialized("no topic", advice="run `k2 init`"), "NotInitialized"),
        (sqlalchemy.exc.TimeoutError("pool"), "TerminalError"),
        (ValueError("nobody thought of this"), "TerminalError"),
    ],
)
def test_what_a_person_has_to_mend_is_looked_at_again_every_minute(
    one: Driven, error: Exception, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert turn(one, error) == pytest.approx(HALTED_RETRY_SECONDS, abs=0.5)
    assert one.halted
    found = state(one)
    assert found is not None
    assert (found.condition, found.error) == ("halted", name)
    assert str(error).splitlines()[0] in found.message
    assert one.stream.name in str(caplog.records[-1].__dict__)
    turn(one)
    assert state(one) is None


def test_a_registry_that_is_away_is_waited_for(one: Driven) -> None:
    turn(one, RegistryUnavailable("away"))
    assert one.waits_for_schema
    found = state(one)
    assert found is not None
    assert found.condition == "waiting"


def test_since_is_when_the_same_trouble_began(one: Driven) -> None:
    seen = []
    for error in (KafkaUnavailable("a"), KafkaUnavailable("b"), RegistryUnavailable("c")):
        turn(one, error)
        found = state(one)
        assert found is not None
        seen.append((found.since, found.message))
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert [message for _, message in seen] == ["a", "b", "c"]


def test_what_an_earlier_driver_left_on_record_goes_with_the_first_success(one: Driven) -> None:
    turn(one, KafkaUnavailable("away"))
    later = Driven(one.stream, "a later driver")
    turn(later)
    assert state(later) is None


@pytest.mark.parametrize("error", [KafkaUnavailable("stopping"), DatabaseUnavailable("stopping")])
def test_an_error_that_comes_of_a_stop_is_no_trouble(one: Driven, error: K2Error) -> None:
    stop = threading.Event()
    stop.set()
    turn(one, error, stop)
    assert (one.trouble, state(one)) == (None, None)


def test_a_database_that_is_away_is_trouble_without_a_record(one: Driven) -> None:
    turn(one, DatabaseUnavailable("away"))
    assert isinstance(one.trouble, DatabaseUnavailable)
    assert state(one) is None
