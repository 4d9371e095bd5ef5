"""Hands messages to Kafka's client and answers for them: backpressure, what failed, and how long to wait for Kafka."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from k2_dagster.errors import DeliveryFailed, DeliveryTimedOut, K2Error, KafkaUnavailable
from k2_dagster.kafka.clients import producer_config, translated
from k2_dagster.schemas.refused import Headers
from k2_dagster.settings import Settings

# Messages that wait for the brokers inside the client. When it is full, the caller waits: backpressure, and a bound on
# memory. 100,000 is a second of the fastest simulator.
LOCAL_QUEUE_MESSAGES = 100_000
LOCAL_QUEUE_KILOBYTES = 65_536
# A message that the brokers have not taken after this long is reported as failed. Brokers restart and elect leaders
# well within it.
DELIVERY_TIMEOUT_SECONDS = 120.0
# One wait for room in the local queue. Short, so that a failure reported meanwhile is raised soon.
ROOM_POLL_SECONDS = 0.05
# One wait for deliveries. A signal is handled only between two of them.
FLUSH_SLICE_SECONDS = 0.25
# Beyond the delivery timeout every message is delivered or failed; the margin covers the client's own timers.
CLOSE_MARGIN_SECONDS = 10.0
# Kafka takes messages within milliseconds; when it took none for this long, somebody at a terminal wants to know, and
# again each time that it has passed.
SILENCE_SECONDS = 2.0
# To whichever partition the key says, as the client writes it.
BY_KEY = -1
# Failures kept for the error's text; all are counted.
FAILURES_SHOWN = 5

# What the client says of messages that Kafka did not take in time, or that were given up.
_LATE = (KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # noqa: SLF001  (public)
# Headers for a message that is too large, sent with a null value in its stead: from its place and its value.
Instead = Callable[[int, bytes], Headers]


def _nobody(_: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Waiting:
    """What somebody who waits is told, and how the wait is ended: `tell` is called with the messages left when Kafka
    takes none for a while; once `give_up` is set, they are given up."""

    tell: Callable[[int], None] = _nobody
    give_up: threading.Event = field(default_factory=threading.Event)


@dataclass
class _Silence:
    """Since when Kafka took nothing, by how many messages are left."""

    left: int
    since: float = field(default_factory=time.monotonic)

    def lasts(self, left: int) -> bool:
        """Whether it has lasted for SILENCE_SECONDS once more."""
        now = time.monotonic()
        if left < self.left:
            self.since = now
        self.left = left
        if now - self.since < SILENCE_SECONDS:
            return False
        self.since = now
        return True


class Delivery:
    """One producer; not for several threads. `accepted` counts messages that the client took, `undelivered` those of
    them that Kafka then did not."""

    def __init__(self, settings: Settings, message_bytes: int, waiting: Waiting) -> None:
        """`message_bytes`: the largest message, key and headers included. Raises ConfigurationError for a refused
        setting; connects by itself."""
        self.message_bytes = message_bytes
        self.accepted = 0
        self.undelivered = 0
        self._waiting = waiting
        self._failures: list[str] = []
        self._failed = 0
        self._only_late = True
        options: dict[str, object] = {
            "queue.buffering.max.messages": LOCAL_QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": LOCAL_QUEUE_KILOBYTES,
            "message.timeout.ms": int(DELIVERY_TIMEOUT_SECONDS * 1000),
            "message.max.bytes": message_bytes,
            "allow.auto.create.topics": False,
            "delivery.report.only.error": True,
            "on_delivery": self._on_delivery,
        }
        with translated("start a producer"):
            self.producer = Producer({**producer_config(settings), **options})

    def send(
        self,
        topic: str,
        keys: Iterable[bytes],
        values: Iterable[bytes | None],
        headers: Headers | None = None,
        instead: Instead | None = None,
        partition: int = BY_KEY,
    ) -> None:
        """Hand messages over, in order; waits for room. A message that is too large goes as `instead` says. Without
        `partition` the key says where to.

        Raises DeliveryFailed (also for one that is too large, without `instead`), DeliveryTimedOut.
        """
        produce = self.producer.produce
        for place, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                produce(topic, value, key, partition, headers=headers)
            except BufferError:
                self._send_when_room(topic, value, key, headers, partition)
            except KafkaException as error:
                if instead is None or value is None or not _is_too_large(error):
                    raise _refused(topic, error) from error
                self.send(topic, [key], [None], [*(headers or []), *instead(place, value)], partition=partition)
                continue
            self.accepted += 1
        self.producer.poll(0)
        self._raise_failures()

    def flush(self, timeout_seconds: float) -> None:
        """Wait until everything accepted is delivered or failed, then raise what failed.

        Raises KafkaUnavailable when the time passes first (what is left stays queued: flush again), DeliveryTimedOut,
        DeliveryFailed.
        """
        deadline = time.monotonic() + timeout_seconds
        silence = _Silence(len(self.producer))
        while left := self.producer.flush(min(FLUSH_SLICE_SECONDS, timeout_seconds)):
            self._wait(left, silence)
            if time.monotonic() > deadline:
                self._raise_failures()
                raise KafkaUnavailable(
                    f"{left} messages were not yet delivered after {timeout_seconds:g} s",
                    advice="they stay queued; `k2 doctor` tries the brokers",
                    left=left,
                )
        self._raise_failures()

    def _send_when_room(
        self, topic: str, value: bytes | None, key: bytes, headers: Headers | None, partition: int
    ) -> None:
        # Ends: the client fails queued messages after the delivery timeout, which makes room and raises here.
        silence = _Silence(len(self.producer))
        while True:
            self.producer.poll(ROOM_POLL_SECONDS)
            self._raise_failures()
            self._wait(len(self.producer), silence)
            try:
                self.producer.produce(topic, value, key, partition, headers=headers)
            except BufferError:
                continue
            return

    def _wait(self, left: int, silence: _Silence) -> None:
        if self._waiting.give_up.is_set():
            self._give_up()
        if silence.lasts(left):
            self._waiting.tell(left)

    def _give_up(self) -> None:
        self.producer.purge()
        # What was purged is reported as failed, at once
        self.producer.flush(FLUSH_SLICE_SECONDS)
        self._raise_failures()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        key = (message.key() or b"").decode(errors="replace")
        self.undelivered += 1
        self._failed += 1
        self._only_late &= error.code() in _LATE
        if len(self._failures) < FAILURES_SHOWN:
            self._failures.append(f"{message.topic()} key {key}: {error.str()}")

    def _raise_failures(self) -> None:
        if not self._failed:
            return
        count, shown, late = self._failed, "; ".join(self._failures), self._only_late
        self._failed, self._failures, self._only_late = 0, [], True
        raised: type[K2Error] = DeliveryTimedOut if late else DeliveryFailed
        raise raised(
            f"Kafka did not take {count} accepted messages; first: {shown}",
            advice="publish them again: ingest drops what had arrived as duplicates",
            count=count,
        )


def _is_too_large(error: KafkaException) -> bool:
    return bool(error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE)


def _refused(topic: str, error: KafkaException) -> DeliveryFailed:
    return DeliveryFailed(
        f"Kafka's client refused a message for {topic}: {error.args[0].str()}",
        advice="a message over max.message.bytes cannot be sent; a fatal producer error needs a new publisher",
        topic=topic,
    )
