"""Where topics end, many at a time and again and again: one client is kept, and a broken topic hides no other."""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from k2_dagster.errors import K2Error, KafkaUnavailable, NotInitialized
from k2_dagster.kafka.clients import client_config, translate
from k2_dagster.kafka.futures import Waiting
from k2_dagster.observability.stopping import NEVER
from k2_dagster.settings import Settings

# A look that takes longer than this is worth less than the next one: callers come again within seconds.
REQUEST_TIMEOUT_SECONDS = 5.0
# Beyond the broker's own answer a future needs a moment to be handed over; only a client that hangs takes longer.
FUTURE_TIMEOUT_SECONDS = REQUEST_TIMEOUT_SECONDS + 2.0

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class TopicEnd:
    """A topic's incarnation and, per partition, the offset after its last committed message."""

    topic: str
    topic_id: str
    ends: Mapping[int, int]


class TopicEnds:
    """Asks for the ends of topics. Thread-safe; connects at the first question and keeps its connection."""

    def __init__(self, settings: Settings, stop: threading.Event = NEVER) -> None:
        """Once `stop` is set, an answer is waited for only a moment: see `kafka/futures.py`."""
        self._stop = stop
        try:
            self._admin = AdminClient(client_config(settings))
        except KafkaException as error:
            raise translate(error, "start an admin client") from error

    def read(self, topics: Iterable[str]) -> dict[str, TopicEnd | K2Error]:
        """The end of each topic, or what is wrong with it (missing, without a leader, brokers away). Never raises
        for a topic. Two requests, however many topics there are."""
        out: dict[str, TopicEnd | K2Error] = {}
        described: dict[str, Any] = {}
        for topic, found in self._describe(sorted(set(topics))).items():
            if isinstance(found, K2Error):
                out[topic] = found
            else:
                described[topic] = found
        places = [(topic, number) for topic, found in described.items() for number in range(len(found.partitions))]
        offsets = self.offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        for topic, found in described.items():
            ends = {number: offsets[topic, number] for number in range(len(found.partitions))}
            failed = next((one for one in ends.values() if isinstance(one, K2Error)), None)
            whole = {number: one for number, one in ends.items() if isinstance(one, int)}
            out[topic] = failed or TopicEnd(topic, str(found.topic_id), whole)
        return out

    def earliest(self, places: Iterable[Place]) -> dict[Place, int | K2Error]:
        """The first retained offset of each (topic, partition), or what is wrong with it."""
        return self.offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def high_watermarks(self, places: Iterable[Place]) -> dict[Place, int | K2Error]:
        """The offset after the last message, committed or not: beyond the end while a transaction is open."""
        return self.offsets(
            places,
            OffsetSpec.latest(),  # type: ignore[no-untyped-call]
            IsolationLevel.READ_UNCOMMITTED,
        )

    def offsets(
        self, places: Iterable[Place], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[Place, int | K2Error]:
        """One batched ListOffsets request."""
        wanted = {TopicPartition(*place): spec for place in places}
        if not wanted:
            return {}
        futures = self._admin.list_offsets(wanted, isolation_level=isolation, request_timeout=REQUEST_TIMEOUT_SECONDS)
        waiting = Waiting(FUTURE_TIMEOUT_SECONDS, self._stop)
        answers = {
            place: _outcome(waiting, future, f"list the offsets of {place.topic}") for place, future in futures.items()
        }
        return {
            (place.topic, place.partition): answer if isinstance(answer, K2Error) else int(answer.offset)
            for place, answer in answers.items()
        }

    def _describe(self, topics: list[str]) -> dict[str, Any]:
        if not topics:
            return {}
        futures = self._admin.describe_topics(TopicCollection(topics), request_timeout=REQUEST_TIMEOUT_SECONDS)
        waiting = Waiting(FUTURE_TIMEOUT_SECONDS, self._stop)
        return {name: _outcome(waiting, future, f"describe topic {name}") for name, future in futures.items()}


def _outcome(waiting: Waiting, future: "Future[Any]", action: str) -> Any:
    try:
        return waiting.answer(future, action)
    except KafkaUnavailable as error:
        return error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return NotInitialized(f"could not {action}: it does not exist", advice="run `k2 init`")
        return translate(error, action)
