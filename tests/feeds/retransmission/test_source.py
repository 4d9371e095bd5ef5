import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.mold.messages import decode_messages
from k2_dagster.feeds.mold.packets import Packet, encode_packet
from k2_dagster.feeds.mold.requests import COMPLETE, PACKET, frame
from k2_dagster.feeds.recovery.source import MissingRange
from k2_dagster.feeds.retransmission import source as source_module
from k2_dagster.feeds.retransmission.source import RetransmissionSource
from k2_dagster.feeds.simulator.lines import answering
from k2_dagster.feeds.simulator.lines.answering import History, Rates
from k2_dagster.feeds.simulator.lines.server import Books, RetransmissionServer
from tests.feeds.lines.exchange import HOST, parameters, profiles_of_lines
from tests.feeds.lines.exchange import all_messages as messages_of
from tests.feeds.recovery_sources import IDENTITY, RecoverySourceBehaviour, Served, identities

PROFILES = profiles_of_lines("x")
MESSAGES = messages_of(PROFILES, parameters("x", seconds=0.2, rate=1_000.0))
SESSION = "S1"


class OfRetransmission(Served):
    """The real server over loopback, and one that answers whatever it is told to."""

    def __init__(self, history: History, rates: Rates, server: RetransmissionServer) -> None:
        self._history, self._rates, self._server = history, rates, server
        self.source = RetransmissionSource("x", server.address, "1")
        self.first, self.last = 1, len(MESSAGES)
        self._garbage: Answering | None = None

    def missing(self, first: int, last: int) -> MissingRange:
        return MissingRange("x", "ticks", "trade", SESSION, "", "1", first, last)

    def truth(self, first: int, last: int) -> dict[str, list[dict[str, Any]]]:
        decoded = decode_messages(MESSAGES[first - 1 : last])
        told = {"exchange": "x", "session": SESSION, "channel": "1"}
        return {
            dataset: [
                {name: {**row, **told, "sequence": first + int(place)}[name] for name in IDENTITY}
                for place, row in zip(places, rows.to_pylist(), strict=True)
            ]
            for dataset, (places, rows) in decoded.rows.items()
        }

    def refuse_for(self, seconds: float) -> None:
        self._rates._per_second = 1 / seconds
        while self._rates.wait_seconds(HOST, 0.0) == 0:
            pass
        self._rates._clients[HOST].seconds = 1e18

    def forget_below(self, number: int) -> None:
        del self._history._messages[: number - 1]
        self._history._first = number

    def answer_garbage(self) -> None:
        self._garbage = Answering(b"HTTP/1.1 200 OK\r\n\r\n")
        self.source = RetransmissionSource("x", self._garbage.address, "1")

    def go_away(self) -> None:
        with Answering(b"") as gone:
            address = gone.address
        self.source = RetransmissionSource("x", address, "1")

    def foreign(self) -> list[MissingRange]:
        here = self.missing(1, 2)
        return [replace(here, exchange="y"), replace(here, channel="2"), replace(here, channel="", symbol="BTCUSDT")]

    def end(self) -> None:
        if self._garbage is not None:
            self._garbage.__exit__()


class Answering:
    """A TCP server that gives every client the same bytes."""

    def __init__(self, data: bytes) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(100)
                self.request.sendall(data)

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
        self.address: tuple[str, int] = (HOST, self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def served() -> Iterator[OfRetransmission]:
    history, rates = History(SESSION), Rates()
    history.append(MESSAGES)
    with RetransmissionServer(history, Books(), (HOST, 0), rates) as server:
        venue = OfRetransmission(history, rates, server)
        yield venue
        venue.end()


class TestRetransmissionSource(RecoverySourceBehaviour):
    """The suite, and what only this source does."""

    def test_a_range_that_a_request_does_not_hold_is_asked_for_in_parts(
        self, served: OfRetransmission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("k2_dagster.feeds.simulator.lines.server.MESSAGES_PER_REQUEST", 7)
        found = served.source.fetch(served.missing(1, 60))
        assert identities(found.rows) == served.truth(1, 60)
        assert not found.exhausted

    def test_it_stops_at_the_most_that_it_gives(
        self, served: OfRetransmission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source_module, "MOST_FETCHED", 10)
        assert identities(served.source.fetch(served.missing(5, 60)).rows) == served.truth(5, 14)

    def test_what_came_before_a_refusal_is_an_answer(
        self, served: OfRetransmission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("k2_dagster.feeds.simulator.lines.server.MESSAGES_PER_REQUEST", 7)
        monkeypatch.setattr(served._rates, "_at_once", 3)
        monkeypatch.setattr(served._rates, "_per_second", 1e-3)
        found = served.source.fetch(served.missing(1, 60))
        assert identities(found.rows) == served.truth(1, 21)
        assert (found.exhausted, found.reason) == (False, "too many requests")

    def test_another_session_is_exhausted(self, served: OfRetransmission) -> None:
        found = served.source.fetch(replace(served.missing(1, 5), session="S0"))
        assert (found.rows, found.exhausted) == ({}, True)
        assert "S0" in found.reason

    def test_what_was_not_sent_yet_is_asked_for_later(self, served: OfRetransmission) -> None:
        found = served.source.fetch(served.missing(served.last, served.last + 3))
        assert identities(found.rows) == served.truth(served.last, served.last)
        assert not found.exhausted

    def test_a_range_that_cannot_be_is_told(self, served: OfRetransmission) -> None:
        for first, last in ((0, 3), (5, 4)):
            with pytest.raises(ConfigurationError, match="valid"):
                served.source.fetch(served.missing(first, last))

    def test_a_message_that_cannot_be_read_is_told_and_costs_itself(self, served: OfRetransmission) -> None:
        packet = Packet(SESSION, 1, (MESSAGES[0], b"\xff\0", MESSAGES[2]))
        with Answering(frame(PACKET, encode_packet(packet)) + frame(COMPLETE)) as server:
            found = RetransmissionSource("x", server.address, "1").fetch(served.missing(1, 3))
        assert sum(rows.num_rows for rows in found.rows.values()) == 2
        assert found.exhausted
        assert "1 messages could not be read" in found.reason


def test_history_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "HISTORY_STEP", 3)
    history = History(SESSION, most_messages=10)
    for number in range(1, 101):
        history.append([b"%d" % number])
    first, following = history.bounds
    assert following == 101
    assert 7 <= following - first <= 10
    assert history.messages(first, 3) == [b"%d" % number for number in range(first, first + 3)]
    assert history.messages(first - 1, 3) == []
    small = History(SESSION, most_bytes=30)
    small.append([bytes(10)] * 5)
    assert small.bounds == (3, 6)
