"""The reader over any client: gathers polls into batches, keeps positions, and tells silence from an outage or loss."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError

from k2_dagster.errors import (
    InputLost,
    K2Error,
    KafkaUnavailable,
    LogShrunk,
    NotInitialized,
    ReaderStalled,
    RetentionOverrun,
)
from k2_dagster.kafka.batch import Client, Event, Gathering, Gatherings, RawBatch, partition_runs
from k2_dagster.kafka.clients import translate
from k2_dagster.kafka.progress import Patience, Progress, Remedy
from k2_dagster.kafka.topics import watermarks
from k2_dagster.observability.stopping import NEVER
from k2_dagster.settings import Settings

# Longest single wait for messages: the delay after which a partition's end is noticed.
POLL_SECONDS = 0.05
# A batch stops growing here whatever its count, so that large messages cannot exhaust memory or Arrow's 2 GiB offsets.
BATCH_BYTES = 268_435_456

_END = KafkaError._PARTITION_EOF  # noqa: SLF001  (librdkafka's public error codes start with an underscore)
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001
_TOPIC_GONE = {
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
}

MakeClient = Callable[[Settings, str, Mapping[int, int]], Client]


class ExactReader:
    """See `Reader`. `make_client` starts a client that reads a topic from given offsets."""

    def __init__(
        self,
        settings: Settings,
        make_client: MakeClient,
        patience: Patience | None = None,
        stop: threading.Event = NEVER,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._make_client = make_client
        self._patience = patience or Patience()
        self._topic = ""
        self._progress = Progress("", {}, self._patience)
        self._client: Client | None = None
        self._error: K2Error | None = None
        self._gatherings = Gatherings(settings.ingest_batch_rows)

    def assign(self, topic: str, starts: Mapping[int, int]) -> None:
        """See `Reader`."""
        self.close()
        self._topic, self._error = topic, None
        self._progress = Progress(topic, starts, self._patience)
        if starts:
            self._client = self._make_client(self._settings, topic, starts)

    def read(self, max_messages: int, timeout_seconds: float, until: Mapping[int, int] | None = None) -> RawBatch:
        """See `Reader`."""
        batch = self._gatherings.take(max_messages)
        if self._error is None:
            try:
                self._gather(batch, max_messages, time.monotonic() + timeout_seconds, until)
            except K2Error as error:
                self._error = error
                self.close()
        if self._error is not None and not len(batch):
            raise self._error
        if len(batch) < max_messages:
            self._gatherings.clear()  # no backlog: the process gives back what it can
        return batch.batch(self._topic, dict(self._progress.positions))

    def close(self) -> None:
        """See `Reader`."""
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _gather(self, batch: Gathering, max_messages: int, deadline: float, until: Mapping[int, int] | None) -> None:
        """Fill the batch until it is complete."""
        while self._client is not None and len(batch) < max_messages and batch.payload_bytes < BATCH_BYTES:
            began = time.monotonic()
            wait = min(POLL_SECONDS, max(0.0, deadline - began))
            before = len(batch)
            events = self._client.poll(batch, max_messages - before, wait)
            self._note(batch, before, events)
            now = time.monotonic()
            self._watch(now - began)
            if now >= deadline or self._is_enough(len(batch) > before or bool(events), until) or self._stop.is_set():
                return

    def _is_enough(self, heard: bool, until: Mapping[int, int] | None) -> bool:
        """Whether to hand over what there is before the time is over."""
        if until is not None:
            return all(self._progress.positions[partition] >= end for partition, end in until.items())
        return heard and self._progress.everywhere_at_end

    def _note(self, batch: Gathering, before: int, events: Sequence[Event]) -> None:
        """Move positions, and react to what the client says beside messages."""
        partition, offset = batch.partition[before : batch.rows], batch.offset[before : batch.rows]
        for _, end in partition_runs(partition):
            self._progress.delivered(int(partition[end - 1]), int(offset[end - 1]) + 1)
        for event in events:
            if event.code == _END:
                self._note_end(event)
            else:
                self._note_error(event)

    def _note_end(self, event: Event) -> None:
        # Messages behind the end may have come in the same chunk
        if event.offset >= self._progress.positions.get(event.partition, 0):
            self._progress.reached_end(event.partition, event.offset)

    def _note_error(self, event: Event) -> None:
        error = KafkaError(event.code, event.text)
        if event.code in _OUT_OF_RANGE:
            self._confirm_lost(event)
        elif event.code in _TOPIC_GONE:
            self._confirm_gone(event)
        elif not isinstance(translated := translate(error, f"read {self._topic}"), KafkaUnavailable):
            raise translated
        # What is left (a lost connection, an election) mends itself, or the watch reports it.

    def _confirm_lost(self, event: Event) -> None:
        self._refuse_lost(self._watermarks())
        position = self._progress.positions[event.partition]
        self._renew(f"partition {event.partition} of {self._topic} refused offset {position}, which it has")

    def _confirm_gone(self, event: Event) -> None:
        self._watermarks()
        self._renew(f"the client does not find partition {event.partition} of {self._topic}, which exists")

    def _watermarks(self) -> dict[int, tuple[int, int]]:
        """Earliest offset and end of every partition up to the last assigned one. Raises InputLost."""
        try:
            return watermarks(self._settings, self._topic, max(self._progress.positions) + 1, self._stop)
        except NotInitialized as error:
            raise InputLost(
                f"{error.message}: it was there when it was assigned",
                advice="if it was deleted on purpose, `k2 ingest accept-loss` records that and goes on",
                topic=self._topic,
            ) from error

    def _refuse_lost(self, known: Mapping[int, tuple[int, int]]) -> None:
        """Raise RetentionOverrun or LogShrunk for a position outside the log."""
        for partition, position in self._progress.positions.items():
            earliest, end = known[partition]
            fields = {"topic": self._topic, "partition": partition, "offset": position}
            place = f"partition {partition} of {self._topic}"
            if position < earliest:
                raise RetentionOverrun(
                    f"{place} begins at offset {earliest}: messages {position} to {earliest - 1} are gone",
                    advice="`k2 ingest accept-loss` records who accepts the loss and goes on",
                    lost=(position, earliest),
                    **fields,
                )
            if position > end:
                raise LogShrunk(
                    f"{place} ends at offset {end}, before offset {position} that was to be read",
                    advice="the log lost its tail or the topic is another; `k2 ingest accept-loss` goes on after it",
                    lost=(end, position),
                    **fields,
                )

    def _watch(self, waited_seconds: float) -> None:
        """Ask the brokers about partitions that have been silent for long."""
        self._progress.waited(waited_seconds)
        if not self._progress.should_check:
            return
        began = time.monotonic()
        try:
            known = self._watermarks()
        except KafkaUnavailable:
            self._progress.waited(time.monotonic() - began)
            self._progress.could_not_check()
            if self._progress.out_of_patience:
                raise
            return
        self._refuse_lost(known)
        if self._progress.checked({partition: end for partition, (_, end) in known.items()}) is Remedy.NEW_CLIENT:
            self._renew(f"{self._topic} delivers nothing though it has messages")

    def _renew(self, why: str) -> None:
        """Start a new client at the positions. Raises ReaderStalled when that was tried without progress since."""
        if not self._progress.renewed():
            raise ReaderStalled(
                f"{why}, also with a new client", advice="`k2 doctor` tries the brokers", topic=self._topic
            )
        self.close()
        self._client = self._make_client(self._settings, self._topic, self._progress.positions)
