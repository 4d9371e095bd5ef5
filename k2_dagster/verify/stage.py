"""Fill a staging with the rows of one stream."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression, GreaterThanOrEqual, LessThan

from k2_dagster.schemas.common import REFUSED_FIRST_HEADER
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.digest import QUARANTINE_COLUMNS, ROW_COLUMNS, row_digests
from k2_dagster.schemas.quarantine import QUARANTINE
from k2_dagster.schemas.refused import read_refused
from k2_dagster.verify.compare import Int64s, Tally, UInt64s
from k2_dagster.verify.identity import SOURCES
from k2_dagster.verify.records import PinnedTable
from k2_dagster.verify.scan import of_stream, scan
from k2_dagster.verify.staging import Staging, sampled_mask

POSITION = ("topic_epoch", "kafka_partition", "kafka_offset")
# As the staging's table of refused messages.
REFUSED = pa.schema(
    [
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
        ("duplicate", pa.bool_()),
        ("publisher_session", pa.string()),
        ("symbol", pa.string()),
        ("publisher_sequence", pa.int64()),
    ]
)
# Offsets [low, high) by (epoch, partition); None: everything
Bounds = Mapping[tuple[int, int], tuple[int, int]] | None


@dataclass(frozen=True, slots=True)
class StreamName:
    """One dataset of one exchange, and its topic."""

    exchange: str
    dataset: str
    topic: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Which rows are compared with their messages: a share of the offsets, chosen by the seed."""

    share: float
    seed: int

    def mask(self, offsets: Int64s) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Which of the offsets are in the sample."""
        return sampled_mask(offsets, self.share, self.seed)


def stage_data(
    staging: Staging, table: PinnedTable, dataset: Dataset, exchange: str, bounds: Bounds, sample: Sample
) -> None:
    """Rows of the data table within the bounds; whole rows of the sample."""
    wire = [field.name for field in dataset.wire_fields]
    columns = [*POSITION, *wire]
    for batch in scan(table.table, dataset, columns, [*of_stream(exchange), *_offset_filters(bounds)]):
        rows = _within(pa.table(batch), bounds)
        if rows.num_rows:
            staging.add_data(rows.select([*POSITION, *SOURCES]), _digests(rows, ROW_COLUMNS))
            sampled = rows.filter(pa.array(sample.mask(rows["kafka_offset"].to_numpy())))
            if sampled.num_rows:
                staging.add_sampled(sampled)


def stage_quarantine(
    staging: Staging,
    table: PinnedTable,
    stream: StreamName,
    bounds: Bounds,
    sample: Sample,
    tally: Tally,
) -> None:
    """Rows of the quarantine table within the bounds; whole rows of the sample. Rows of the stream that name another
    topic are nobody's, and go to the tally."""
    columns = [*POSITION, "topic", "reason", "first_offset", "key", "value", "headers"]
    filters = [*of_stream(stream.exchange, stream.dataset), *_offset_filters(bounds)]
    for batch in scan(table.table, QUARANTINE, columns, filters):
        rows = pa.table(batch)
        mine = pc.equal(rows["topic"].cast(pa.string()), stream.topic)
        if bounds is None:
            _tell_strangers(rows.filter(pc.invert(mine)), stream, tally)
        rows = _within(rows.filter(mine).drop_columns("topic"), bounds)
        if rows.num_rows:
            headed = rows.filter(pc.greater(pc.fill_null(pc.list_value_length(rows["headers"]), 0), 0))
            staging.add_refused(_refused(headed))
            staging.add_first_refused(_first_refused(headed))
            staging.add_quarantine(rows.drop_columns(["key", "headers"]), _digests(rows, QUARANTINE_COLUMNS))
            sampled = rows.filter(pa.array(sample.mask(rows["kafka_offset"].to_numpy())))
            if sampled.num_rows:
                staging.add_sampled_quarantine(sampled)


def _tell_strangers(rows: pa.Table, stream: StreamName, tally: Tally) -> None:
    for topic in rows["topic"].unique().to_pylist():
        of_topic = rows.filter(pc.equal(rows["topic"].cast(pa.string()), topic))
        detail = f"a quarantine row of {stream.exchange}/{stream.dataset} names topic {topic}"
        tally.add("extra", detail, of_topic["kafka_offset"].to_pylist())


def stage_refused(staging: Staging, table: PinnedTable, topic: str, exchange: str, dataset: str) -> None:
    """What feed handlers refused in the whole table: the firsts of staged duplicates may lie outside the bounds."""
    columns = [*POSITION, "topic", "reason", "headers"]
    for batch in scan(table.table, QUARANTINE, columns, of_stream(exchange, dataset)):
        rows = pa.table(batch)
        rows = rows.filter(pc.equal(rows["topic"].cast(pa.string()), topic))
        originals = rows.filter(pc.not_equal(rows["reason"].cast(pa.string()), "duplicate"))
        staging.add_refused(_refused(originals))


def _refused(rows: pa.Table) -> pa.Table:
    """Those of the quarantine rows that a feed handler refused and gave a publisher pair."""
    found = []
    for row in rows.select(["kafka_partition", "kafka_offset", "reason", "headers"]).to_pylist():
        told = read_refused((header["name"], header["value"]) for header in row["headers"] or ())
        if told is not None and told.publisher_session is not None and told.publisher_sequence is not None:
            found.append(
                {
                    "kafka_partition": row["kafka_partition"],
                    "kafka_offset": row["kafka_offset"],
                    "duplicate": row["reason"] == "duplicate",
                    "publisher_session": told.publisher_session,
                    "symbol": told.identity.symbol,
                    "publisher_sequence": told.publisher_sequence,
                }
            )
    return pa.Table.from_pylist(found, schema=REFUSED)


def _first_refused(rows: pa.Table) -> pa.Table:
    """Those of the quarantine rows that are reprocessed duplicates, with where they were refused first."""
    found = []
    for row in rows.select([*POSITION, "reason", "headers"]).to_pylist():
        place = {header["name"]: header["value"] for header in row["headers"]}.get(REFUSED_FIRST_HEADER)
        if row["reason"] == "duplicate" and place is not None:
            found.append({name: row[name] for name in POSITION} | {"place": place.decode(errors="replace")})
    types = {name: rows.schema.field(name).type for name in POSITION} | {"place": pa.string()}
    return pa.Table.from_pylist(found, schema=pa.schema(list(types.items())))


def stage_identities(staging: Staging, table: PinnedTable, dataset: Dataset, exchange: str) -> None:
    """Identities of the whole table, as far as staged duplicates claim them."""
    for batch in scan(table.table, dataset, SOURCES, of_stream(exchange)):
        staging.add_elsewhere(pa.table(batch))


def _offset_filters(bounds: Bounds) -> list[BooleanExpression]:
    if bounds is None:
        return []
    low = min((low for low, high in bounds.values() if low < high), default=0)
    high = max((high for low, high in bounds.values() if low < high), default=0)
    return [GreaterThanOrEqual(term="kafka_offset", value=low), LessThan(term="kafka_offset", value=high)]


def _within(rows: pa.Table, bounds: Bounds) -> pa.Table:
    if bounds is None:
        return rows
    epoch, partition, offset = (rows[name].to_numpy() for name in POSITION)
    kept = np.zeros(rows.num_rows, dtype=bool)
    for (of_epoch, of_partition), (low, high) in bounds.items():
        kept |= (epoch == of_epoch) & (partition == of_partition) & (offset >= low) & (offset < high)
    return rows.filter(pa.array(kept))


def _digests(rows: pa.Table, names: tuple[str, ...]) -> UInt64s:
    return row_digests([_integers(rows[name].combine_chunks()) for name in names])


def _integers(column: pa.Array) -> Int64s:
    whole = column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column.cast(pa.int64())
    out: Int64s = whole.fill_null(-1).to_numpy(zero_copy_only=False)
    return out
