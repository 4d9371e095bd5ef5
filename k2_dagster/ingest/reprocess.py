"""`k2 quarantine reprocess`: the original bytes go through the front door again (DESIGN D12, D20).

The messages are republished to the same topic with the same key, with the header `k2-origin: reprocessed` and the
position that they were refused at. They fill the holes that they left. Running it twice, or being killed half-way,
only republishes: whatever has landed by then is a duplicate the second time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, Message, Producer
from pyiceberg.catalog import Catalog

from k2_dagster.errors import DeliveryFailed, NotInitialized, QueryRefused
from k2_dagster.ingest.returned import Original
from k2_dagster.kafka.clients import producer_config, translate, translated
from k2_dagster.kafka.topics import describe
from k2_dagster.lake.catalog import load_table, translated_errors
from k2_dagster.schemas.common import ORIGIN_HEADER, REFUSED_AT_HEADER, REFUSED_FIRST_HEADER
from k2_dagster.schemas.datasets import table_name
from k2_dagster.settings import Settings

# A duplicate has landed already, a number beyond the horizon is refused again, and input that a feed handler could not
# read is no message yet (play the capture again when its format is mended): republishing helps none of them.
NEVER_REPUBLISHED = ("duplicate", "identity_horizon", "refused_by_feed")
# More than this in one call is a migration: do it by day, so that it can be watched.
MAX_MESSAGES = 1_000_000
FLUSH_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.1
_OURS = (ORIGIN_HEADER, REFUSED_AT_HEADER, REFUSED_FIRST_HEADER)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which quarantined messages. None means "any"."""

    exchange: str | None = None
    dataset: str | None = None
    reason: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None

    def row_filter(self) -> str:
        """As a PyIceberg row filter."""
        texts = {"exchange": self.exchange, "dataset": self.dataset, "reason": self.reason, "topic": self.topic}
        for name, value in texts.items():
            if value is not None and "'" in value:
                raise QueryRefused(f"{name} was {value!r}", advice="valid: a name without quotes")
        numbers = {"kafka_partition": self.partition, "kafka_offset": self.offset}
        parts = [f"{name} = '{value}'" for name, value in texts.items() if value is not None]
        parts += [f"{name} = {value}" for name, value in numbers.items() if value is not None]
        return " and ".join(parts)


def select_quarantined(
    catalog: Catalog, selection: Selection, columns: Sequence[str] = ("*",), limit: int | None = None
) -> list[dict[str, Any]]:
    """Quarantined messages as dicts, in (topic, partition, offset) order."""
    with translated_errors():
        scan = load_table(catalog, table_name("quarantine")).scan(selected_fields=tuple(columns), limit=limit)
        row_filter = selection.row_filter()
        table = (scan.filter(row_filter) if row_filter else scan).to_arrow()
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(
        rows, key=lambda row: (row.get("topic", ""), row.get("kafka_partition", 0), row.get("kafka_offset", 0))
    )


def republish(settings: Settings, catalog: Catalog, selection: Selection) -> int:
    """Republish the selected messages. Returns how many; raises DeliveryFailed unless every one was taken."""
    rows = [row for row in select_quarantined(catalog, selection) if row["reason"] not in NEVER_REPUBLISHED]
    if len(rows) > MAX_MESSAGES:
        raise QueryRefused(f"{len(rows):,} messages selected", advice=f"valid: at most {MAX_MESSAGES:,}; select fewer")
    already = _republished(rows)
    failures: list[str] = []

    def delivered(error: Any, message: Message) -> None:
        if error is not None:
            failures.append(f"{message.topic()}: {error}")

    with translated("start a producer"):
        producer = Producer(producer_config(settings))
    partitions = _partitions(settings, {row["topic"] for row in rows})
    count = 0
    for row in rows:
        if (row["topic"], row["topic_epoch"], row["kafka_partition"], row["kafka_offset"]) in already:
            continue
        _produce(producer, row, partitions[row["topic"]], delivered)
        count += 1
    left = producer.flush(FLUSH_TIMEOUT_SECONDS)
    if left or failures:
        shown = "; ".join(failures[:3])
        raise DeliveryFailed(
            f"{left + len(failures)} of {count} messages were not taken: {shown}",
            advice="run it again: what has landed becomes a duplicate",
        )
    return count


def _partitions(settings: Settings, topics: set[str]) -> dict[str, int]:
    """Partition counts. Raises NotInitialized for a topic that is gone."""
    found = describe(settings, sorted(topics))
    for topic in topics - set(found):
        raise NotInitialized(
            f"topic {topic} does not exist: its messages cannot go there again", advice="run `k2 init`"
        )
    return {topic: state.partitions for topic, state in found.items()}


def _produce(producer: Producer, row: dict[str, Any], partitions: int, delivered: Any) -> None:
    """To the partition that refused it, whatever its key: there its number is known, or where it was refused."""
    given = [(one["name"], one["value"]) for one in row["headers"] or []]
    position = Original(row["topic_epoch"], row["kafka_partition"], row["kafka_offset"]).header()
    headers = [(name, value) for name, value in given if name not in _OURS]
    headers += [
        (ORIGIN_HEADER, b"reprocessed"),
        (REFUSED_AT_HEADER, position),
        (REFUSED_FIRST_HEADER, dict(given).get(REFUSED_FIRST_HEADER) or position),
    ]
    # a topic with other partitions is another one: its keys go where its partitioner says
    same = row["kafka_partition"] < partitions
    place = {"partition": row["kafka_partition"]} if same else {}
    while True:
        try:
            producer.produce(row["topic"], row["value"], row["key"], headers=headers, on_delivery=delivered, **place)
            return
        except BufferError:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:
            raise translate(error, f"republish to {row['topic']}") from error


def _republished(rows: list[dict[str, Any]]) -> set[tuple[str, int, int, int]]:
    """Positions that a later message of the selection carries: refused again, so only the newest copy goes out."""
    return {(row["topic"], *position) for row in rows for position in _refused_at(row)}


def _refused_at(row: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    for header in row["headers"] or []:
        if header["name"] == REFUSED_AT_HEADER and header["value"]:
            original = Original.parse(header["value"])
            if original is not None:
                yield original.topic_epoch, original.partition, original.offset
