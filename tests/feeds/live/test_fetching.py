import json
import threading
import time

import httpx
import pytest

from k2_dagster.feeds.live.backoff import BUSY_SECONDS, MOST_BUSY_SECONDS, pause_seconds
from k2_dagster.feeds.live.connection import Connection
from k2_dagster.feeds.live.fetching import SnapshotFetcher
from k2_dagster.feeds.live.intake import Arrival, Intake
from k2_dagster.feeds.live.venues import VENUES
from tests.feeds.live.support import local_snapshots, local_venue, saying, wait_for

VENUE = VENUES["binance"]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2_dagster.feeds.live.fetching.BETWEEN_SECONDS", 0.0)


def test_each_symbol_is_fetched_into_the_intake_that_asked() -> None:
    one, other = Intake(), Intake()
    body = b'{"lastUpdateId":7}'
    with local_snapshots(lambda *_: (200, body)) as url, SnapshotFetcher(VENUE, url) as fetcher:
        fetcher.fetch("A", one)
        fetcher.fetch("B", other)
        found = [*one.take(20.0), *other.take(20.0)]
    assert [json.loads(arrival.payload) for arrival in found] == [
        {"symbol": "A", "lastUpdateId": 7},
        {"symbol": "B", "lastUpdateId": 7},
    ]
    assert {arrival.kind for arrival in found} == {"snapshot"}


def test_what_is_asked_for_twice_while_it_waits_is_fetched_once() -> None:
    gate, asked = threading.Event(), []

    def answer(symbol: str, _place: int) -> tuple[int, bytes]:
        asked.append(symbol)
        gate.wait(20.0)
        return 200, b"{}"

    intake = Intake()
    with local_snapshots(answer) as url, SnapshotFetcher(VENUE, url) as fetcher:
        fetcher.fetch("A", intake)
        wait_for(lambda: asked == ["A"])
        for _ in range(5):
            fetcher.fetch("B", intake)
        fetcher.fetch("C", intake)
        gate.set()
        wait_for(lambda: asked[-1] == "C")
    assert asked == ["A", "B", "C"]


def test_what_cannot_be_fetched_is_counted_and_the_next_one_comes() -> None:
    intake = Intake()
    answers = {"A": (500, b"oops"), "B": (301, b""), "C": (200, b"{}")}
    with local_snapshots(lambda symbol, _: answers[symbol]) as url, SnapshotFetcher(VENUE, url) as fetcher:
        for symbol in answers:
            fetcher.fetch(symbol, intake)
        (arrival,) = intake.take(20.0)
    assert arrival.payload == b'{"symbol":"C"}'
    assert fetcher.failures == 2


def test_an_address_that_is_none_is_a_failure_and_no_dead_thread() -> None:
    intake = Intake()
    with SnapshotFetcher(VENUE, "http://127.0.0.1:x/depth") as fetcher:
        for symbol in ("A", "B"):
            fetcher.fetch(symbol, intake)
        wait_for(lambda: fetcher.failures == 2)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "7", 7.0), (418, "120", 120.0), (429, None, BUSY_SECONDS), (429, "Wed, 21 Oct", BUSY_SECONDS),
        (418, "259200", MOST_BUSY_SECONDS), (503, "7", 0.0), (400, None, 0.0),
    ],
)  # fmt: skip
def test_a_venue_that_is_asked_too_often_is_left_alone(status: int, header: str | None, seconds: float) -> None:
    request = httpx.Request("GET", "http://x")
    response = httpx.Response(status, headers={} if header is None else {"Retry-After": header}, request=request)
    assert pause_seconds(httpx.HTTPStatusError("x", request=request, response=response)) == seconds
    assert pause_seconds(httpx.ConnectError("x")) == 0.0


def test_an_end_does_not_wait_for_a_ban_to_pass() -> None:
    intake = Intake()
    with local_snapshots(lambda *_: (418, b"")) as url:
        with SnapshotFetcher(VENUE, url) as fetcher:
            fetcher.fetch("A", intake)
            wait_for(lambda: fetcher.failures == 1)
            began = time.monotonic()
        assert time.monotonic() - began < 5.0


def test_what_came_waits_for_room_and_nothing_else_does() -> None:
    intake = Intake(frames=2, size_bytes=10)
    intake.put("received", b"x" * 10)
    intake.put("sent", b"s")
    blocked = threading.Thread(target=intake.put, args=("received", b"y"))
    blocked.start()
    intake.put("ended")
    assert [one.kind for one in intake.take(0.0)] == ["received", "sent", "ended"]
    blocked.join(20.0)
    assert [one.payload for one in intake.take(20.0)] == [b"y"]
    assert intake.take(0.0) == []


def test_nobody_waits_for_room_in_a_closed_intake() -> None:
    intake = Intake(frames=1)
    intake.put("received")
    blocked = threading.Thread(target=intake.put, args=("received",))
    blocked.start()
    intake.close()
    blocked.join(20.0)
    assert not blocked.is_alive()
    assert len(intake.take(0.0)) == 2


def everything(intake: Intake) -> list[Arrival]:
    """Of one connection, to its end."""
    found: list[Arrival] = []
    while not any(one.kind == "ended" for one in found):
        found += intake.take(20.0)
    return found


def test_a_connection_tells_everything_in_order_and_why_it_ended() -> None:
    intake = Intake()
    with local_venue(saying(["a", b"\xff"])) as venue, Connection(venue.url, intake) as connection:
        wait_for(lambda: bool(venue.heard))
        connection.send([{"method": "x", "id": 1}])
        found: list[Arrival] = []
        while not found or found[-1].payload != b"\xff":
            found += intake.take(20.0)
        connection.end("enough")
        connection.end("again")
        found += everything(intake)
    assert [one.kind for one in found] == ["connected", "sent", *["received"] * 3, "ended"]
    assert found[-1].payload == b"enough"
    assert [one.nanos for one in found] == sorted(one.nanos for one in found)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://127.0.0.1:9", b"not connected: "),
        ("http://127.0.0.1:9", b"not connected: http://127.0.0.1:9 isn't a valid URI"),
        ("ws://[", b"not connected: "),
        (f"ws://{'a' * 70}:9", b"not connected: "),
    ],
)
def test_a_connection_that_does_not_come_about_says_why(url: str, reason: bytes) -> None:
    intake = Intake()
    with Connection(url, intake):
        (arrival,) = everything(intake)
    assert arrival.kind == "ended"
    assert arrival.payload.startswith(reason)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_in_the_receiving_thread_ends_the_connection_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a defect of the library")

    monkeypatch.setattr("k2_dagster.feeds.live.connection.connect", fails)
    intake = Intake()
    with Connection("ws://127.0.0.1:9", intake) as connection:
        (arrival,) = everything(intake)
        connection._thread.join(20.0)
    assert arrival.payload == b"the receiving thread failed"


def test_a_server_that_speaks_no_websocket_is_told_by_its_answer() -> None:
    intake = Intake()
    with local_snapshots(lambda *_: (403, b"no")) as url, Connection(f"ws{url[4:]}?symbol=A", intake):
        (arrival,) = everything(intake)
    assert arrival.payload == b"not connected: the venue answered HTTP 403"


def test_what_waits_for_a_connection_that_is_gone_is_not_fetched() -> None:
    gate, asked = threading.Event(), []

    def answer(symbol: str, _place: int) -> tuple[int, bytes]:
        asked.append(symbol)
        gate.wait(20.0)
        return 200, b"{}"

    gone, intake = Intake(), Intake()
    with local_snapshots(answer) as url, SnapshotFetcher(VENUE, url) as fetcher:
        for symbol in ("A", "B", "C"):
            fetcher.fetch(symbol, gone)
        wait_for(lambda: asked == ["A"])
        gone.close()
        fetcher.fetch("D", intake)
        gate.set()
        assert intake.take(20.0)
    assert asked == ["A", "D"]
