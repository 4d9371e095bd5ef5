"""Messages of a channel that come by another publisher session: recovered, before the feed brings them or after it."""

from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa

from k2_dagster.feeds.simulator.feed import Outgoing
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import dataset_named
from k2_dagster.schemas.profiles import Domain

# Of a dataset and symbol, a row as the feed made one.
Patterns = Mapping[tuple[str, str], pa.RecordBatch]


class Sends(Protocol):
    """The topics."""

    @property
    def topics(self) -> Mapping[str, Any]:
        """By dataset."""
        ...

    def send(
        self, dataset: str, rows: pa.RecordBatch, schema_text: str, *, behind: Any = None, state: str = "good"
    ) -> None:
        """Encode the rows and append them."""
        ...


def keep_patterns(outgoing: Outgoing, patterns: dict[tuple[str, str], pa.RecordBatch]) -> None:
    """Note the first row of each symbol, which comes before any fault."""
    for at, symbol in enumerate(outgoing.rows.column("symbol").to_pylist()):
        patterns.setdefault((outgoing.dataset, symbol), outgoing.rows.slice(at, 1))


def bring_again(kafka: Sends, truth: list[dict[str, Any]], patterns: Patterns) -> None:
    """At the end, by publisher sessions of their own: what came late in a channel, which has landed; and what a channel
    lost, twice, of which the first lands. Of sessions that are running: others may be forgotten."""
    for number, line in enumerate(truth):
        if line["domain"] != Domain.CHANNEL.value or line["type"] not in ("late", "drop"):
            continue
        if kafka.topics[line["dataset"]].messages[-1].row["session"] != line["session"]:
            continue
        sessions = {f"recovered-{number}": "again" if line["type"] == "late" else "good"}
        sessions |= {f"feed-{number}": "again"} if line["type"] == "drop" else {}
        for session, state in sessions.items():
            _bring(kafka, line, patterns, session, state)


def _bring(kafka: Sends, line: dict[str, Any], patterns: Patterns, session: str, state: str) -> None:
    counts: dict[str, int] = {}
    dataset = line["dataset"]
    for one in line["messages"]:
        symbol = one["symbol"]
        counts[symbol] = counts.get(symbol, 0) + 1
        values = {
            "session": line["session"], "channel": line["channel"], "sequence": one["sequence"],
            "publisher_session": session, "publisher_sequence": counts[symbol],
            "publish_timestamp": _newest(kafka, dataset),
        }  # fmt: skip
        rows = _with(patterns[dataset, symbol], values)
        kafka.send(dataset, rows, avro_schema_text(dataset_named(dataset)), behind=[True], state=state)


def _with(rows: pa.RecordBatch, values: Mapping[str, Any]) -> pa.RecordBatch:
    """The one row with other values."""
    for name, value in values.items():
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, pa.array([value]).cast(field.type))
    return rows


def _newest(kafka: Sends, dataset: str) -> int:
    """When the newest message was published, UTC microseconds."""
    return max(int(one.time_ms) for one in kafka.topics[dataset].messages) * 1_000
