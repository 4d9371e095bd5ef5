"""Futures of librdkafka are waited for in slices, with one time for all of a request, cut short by a stop."""

import threading
import time
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from k2_dagster.errors import KafkaUnavailable
from k2_dagster.kafka import futures
from k2_dagster.kafka.futures import Waiting


def test_an_answer_and_an_error_are_handed_over_as_they_are() -> None:
    good: Future[int] = Future()
    good.set_result(7)
    bad: Future[int] = Future()
    bad.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    waiting = Waiting(1.0)
    assert waiting.answer(good, "count") == 7
    with pytest.raises(KafkaException):
        waiting.answer(bad, "count")


def test_futures_of_one_request_share_its_time() -> None:
    waiting, began = Waiting(0.3), time.monotonic()
    for _ in range(5):
        with pytest.raises(KafkaUnavailable, match=r"count: no answer within 0\.3 s"):
            waiting.answer(Future(), "count")
    assert time.monotonic() - began < 1.5


def test_a_stop_cuts_the_wait_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futures, "STOPPING_TIMEOUT_SECONDS", 0.2)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(KafkaUnavailable, match="asked to stop"):
        Waiting(60.0, stop).answer(Future(), "count")
    assert time.monotonic() - began < 5.0


def test_an_answer_that_comes_within_a_moment_of_the_stop_counts() -> None:
    stop = threading.Event()
    stop.set()
    late: Future[int] = Future()
    threading.Timer(futures.STOPPING_TIMEOUT_SECONDS / 3, lambda: late.set_result(1)).start()
    assert Waiting(60.0, stop).answer(late, "count") == 1
