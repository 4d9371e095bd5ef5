"""Fetching a list: at once, again soon after a failure, and what a venue asks for in between."""

import time
from threading import Event

import pytest

from k2_dagster.feeds.live.backoff import Backoff
from k2_dagster.feeds.live.listings import fetching
from k2_dagster.feeds.live.listings.fetching import Answer, ListingFetcher
from k2_dagster.feeds.live.venues import VENUES
from tests.feeds.capture.listings.answers import body, local_listing
from tests.feeds.live.support import WAIT_SECONDS

AT_ONCE = Backoff(0.01, 0.01)
NEVER = 3_600.0
SOURCE = VENUES["coinbase"].listing


def products(*names: str) -> bytes:
    return body([{"id": name, "base_currency": "A", "quote_currency": "B"} for name in names])


def told(answer: Answer) -> list[str]:
    return [] if answer.listing is None else list(answer.listing.definitions)


def next_answer(fetcher: ListingFetcher) -> Answer:
    deadline = time.monotonic() + WAIT_SECONDS
    while (answer := fetcher.taken()) is None:
        assert time.monotonic() < deadline, "no answer came"
        time.sleep(0.01)
    return answer


def test_a_list_comes_at_once_and_again_when_it_is_due() -> None:
    with (
        local_listing(lambda place: (200, products(f"LIST-{place}"))) as url,
        ListingFetcher(SOURCE, url, refresh_seconds=0.01, retry=Backoff(NEVER, NEVER)) as fetcher,
    ):
        before = time.time_ns()
        for place in range(3):
            answer = next_answer(fetcher)
            assert (told(answer), answer.failure) == ([f"LIST-{place}"], "")
            assert before <= answer.nanos <= time.time_ns()
            fetcher.good()


@pytest.mark.parametrize(
    ("status", "content", "failure"),
    [
        (500, b"oops", "500"),
        (404, b"", "404"),
        (200, b"SHORT {", "peer closed connection"),
        (200, b"<html>", "no list of instruments"),
    ],
)
def test_what_fails_is_told_and_tried_again_soon(status: int, content: bytes, failure: str) -> None:
    with (
        local_listing(lambda place: (status, content) if place < 2 else (200, products("WHOLE"))) as url,
        ListingFetcher(SOURCE, url, refresh_seconds=NEVER, retry=AT_ONCE) as fetcher,
    ):
        for _ in range(2):
            answer = next_answer(fetcher)
            assert failure in answer.failure
            assert answer.listing is None
            fetcher.bad()
        assert told(next_answer(fetcher)) == ["WHOLE"]


def test_a_list_that_turns_out_to_be_none_is_asked_for_again_soon() -> None:
    with (
        local_listing(lambda place: (200, products(f"N-{place}"))) as url,
        ListingFetcher(SOURCE, url, refresh_seconds=NEVER, retry=AT_ONCE) as fetcher,
    ):
        next_answer(fetcher)
        fetcher.bad()
        assert told(next_answer(fetcher)) == ["N-1"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[bad/"])
def test_an_address_that_leads_nowhere_is_told(url: str) -> None:
    with ListingFetcher(SOURCE, url, refresh_seconds=NEVER, retry=AT_ONCE) as fetcher:
        assert next_answer(fetcher).failure


def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MOST_BYTES", 100)
    with local_listing(lambda _: (200, b"x" * 200)) as url, ListingFetcher(SOURCE, url, retry=AT_ONCE) as fetcher:
        assert "more than 100 bytes" in next_answer(fetcher).failure


def test_a_stop_does_not_wait_for_an_answer() -> None:
    release = Event()

    def hang(_: int) -> tuple[int, bytes]:
        release.wait(WAIT_SECONDS)
        return 200, b""

    with local_listing(hang) as url:
        began = time.monotonic()
        with ListingFetcher(SOURCE, url):
            pass
        assert time.monotonic() - began < fetching.END_SECONDS + 2
        release.set()
