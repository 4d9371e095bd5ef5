"""A time window as offsets: what Kafka's index and the rows' record times say, grown to whole commits."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression, GreaterThanOrEqual, LessThan

from k2_dagster.schemas.declaration import Dataset
from k2_dagster.verify.consume import TopicReader
from k2_dagster.verify.partition import Partition
from k2_dagster.verify.records import PinnedTable
from k2_dagster.verify.scan import of_stream, scan
from k2_dagster.verify.stage import POSITION

Spans = dict[tuple[int, int], tuple[int, int]]


def narrow_to_window(
    parts: Sequence[Partition],
    table: PinnedTable,
    dataset: Dataset,
    exchange: str,
    reader: TopicReader | None,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Bound every lane to the offsets whose record times are in [since, until), grown to whole commits; what those
    consumed is counted, and no other."""
    spans = _of_rows(table, dataset, exchange, since, until)
    numbers = [one.partition for one in parts if one.retained is not None]
    count = max(numbers, default=-1) + 1
    lows = reader.offsets_at(count, since) if reader is not None and since is not None else {}
    highs = reader.offsets_at(count, until) if reader is not None and until is not None else {}
    for part in parts:
        for lane in part.lanes:
            found = [spans[key]] if (key := (lane.topic_epoch, lane.partition)) in spans else []
            if part.retained is not None:
                low = lows.get(part.partition, part.retained.earliest)
                high = highs.get(part.partition, part.retained.end)
                low = part.retained.end if low is None else low
                high = part.retained.end if high is None else high
                found += [(max(low, lane.begin), min(high, lane.readable_below))]
            found = [(low, high) for low, high in found if low < high]
            if found:
                part.narrow(lane, min(low for low, _ in found), max(high for _, high in found))
            else:
                part.bounds[lane.topic_epoch] = (lane.begin, lane.begin)
        part.report.consumed = sum(one.consumed for lane in part.lanes for one in part.judged(lane))


def _of_rows(
    table: PinnedTable, dataset: Dataset, exchange: str, since: datetime | None, until: datetime | None
) -> Spans:
    """(epoch, partition) -> offsets of the data rows with record times in the window."""
    filters: list[BooleanExpression] = of_stream(exchange)
    if since is not None:
        filters.append(GreaterThanOrEqual(term="kafka_timestamp", value=since.isoformat()))
    if until is not None:
        filters.append(LessThan(term="kafka_timestamp", value=until.isoformat()))
    spans: Spans = {}
    for batch in scan(table.table, dataset, [*POSITION, "kafka_timestamp"], filters):
        rows = pa.table(batch)
        if since is not None:
            rows = rows.filter(pc.greater_equal(rows["kafka_timestamp"], pa.scalar(since, pa.timestamp("us", "UTC"))))
        if until is not None:
            rows = rows.filter(pc.less(rows["kafka_timestamp"], pa.scalar(until, pa.timestamp("us", "UTC"))))
        grouped = rows.group_by(list(POSITION[:2])).aggregate([("kafka_offset", "min"), ("kafka_offset", "max")])
        for one in grouped.to_pylist():
            key = (one["topic_epoch"], one["kafka_partition"])
            low, high = spans.get(key, (one["kafka_offset_min"], 0))
            spans[key] = (min(low, one["kafka_offset_min"]), max(high, one["kafka_offset_max"] + 1))
    return spans
