"""What has to be told beside rows of a channel that were got again: that their numbers came late."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_dagster.feeds.capture.block import wire_batch
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.common import TIME_SOURCE_FIELD
from k2_dagster.schemas.control import CONTROL, NO_SYMBOL
from k2_dagster.schemas.topics import CONTROL_DATASET

_KEYS = ("stream", "channel", "session")
_TIMES = ("exchange_timestamp", "receive_timestamp", TIME_SOURCE_FIELD)


def came_late(exchange: str, rows: Mapping[str, pa.RecordBatch]) -> pa.RecordBatch:
    """Rows of `control`, without publisher pair, that say which numbers of which channels these rows in wire form have:
    one for each run. Ingest fills the channels' gaps with them. Rows without channel or number say nothing."""
    parts = [batch.select([*_KEYS, "sequence", *_TIMES]) for batch in rows.values() if batch.num_rows]
    table = pa.Table.from_batches(parts, None if parts else wire_schema(CONTROL))
    table = table.filter(pc.and_(table["channel"].is_valid(), table["sequence"].is_valid()))
    if not table.num_rows:
        return wire_batch(CONTROL_DATASET, 0, {})
    # By the numbers: which stream of a channel they are of says nothing
    table = table.sort_by([("channel", "ascending"), ("session", "ascending"), ("sequence", "ascending")])
    numbers = table["sequence"].to_numpy()
    begins = np.diff(numbers, prepend=numbers[0]) > 1
    for name in ("channel", "session"):
        codes = table[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        begins |= np.diff(codes, prepend=codes[0]) != 0
    begins[0] = True
    starts = np.flatnonzero(begins)
    first = table.take(pa.array(starts))
    columns = {name: first[name].combine_chunks() for name in (*_KEYS, *_TIMES)}
    return wire_batch(
        CONTROL_DATASET,
        len(starts),
        {
            **columns,
            "exchange": exchange,
            "kind": "late",
            "symbol": NO_SYMBOL,
            "first_sequence": numbers[starts],
            "last_sequence": numbers[np.append(starts[1:], len(numbers)) - 1],
            "reason": "numbers of a gap were got again",
        },
    )
