"""What has to be told beside rows of a channel that were got again: that their numbers came late."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from k2_dagster.feeds.capture.block import wire_batch
from k2_dagster.schemas.common import TIME_SOURCE_FIELD
from k2_dagster.schemas.control import CONTROL, NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

_KEYS = ("stream", "channel", "session")
_TIMES = ("exchange_timestamp", "receive_timestamp", TIME_SOURCE_FIELD)


def came_late(exchange: str, rows: Mapping[str, pa.RecordBatch]) -> pa.RecordBatch:
    """Rows of `control` (without publisher pair) that say which numbers of which channels these rows in wire form have,
    one for each run of numbers: ingest fills the gaps of the channels with them. Rows without channel or number say
    nothing."""
    parts = [batch.select([*_KEYS, "sequence", *_TIMES]) for batch in rows.values() if batch.num_rows]
    if not parts:
        return wire_batch(CONTROL.name, 0, {})
    table = pa.Table.from_batches(parts)
    table = table.filter(pa.compute.and_(table["channel"].is_valid(), table["sequence"].is_valid()))
    table = table.sort_by([("channel", "ascending"), ("session", "ascending"), ("sequence", "ascending")])
    batch = table.combine_chunks()
    numbers = batch["sequence"].to_numpy()
    # The stream that told it need not be the same for all numbers of a channel
    same = np.ones(len(numbers), np.bool_)
    for name in ("channel", "session"):
        codes = batch[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        same &= np.diff(codes, prepend=-2) == 0
    starts = np.flatnonzero(~same | (np.diff(numbers, prepend=-1) > 1))
    ends = np.append(starts[1:], len(numbers)) - 1
    first = batch.take(pa.array(starts))
    columns = {name: first[name].combine_chunks() for name in (*_KEYS, *_TIMES)}
    return wire_batch(
        CONTROL_DATASET,
        len(starts),
        {
            **columns, "exchange": exchange, "kind": "late", "symbol": NO_SYMBOL,
            "first_sequence": numbers[starts], "last_sequence": numbers[ends],
            "reason": "numbers of a gap were got again",
        },
    )  # fmt: skip
