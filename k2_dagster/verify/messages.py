"""What can only be judged from a message itself: whether its row says the same, and whether a duplicate is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from k2_dagster.schemas.arrow import wire_type
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.verify.compare import Int64s, Tally
from k2_dagster.verify.consume import Chunk, Original
from k2_dagster.verify.identity import SOURCES
from k2_dagster.verify.staging import Duplicates, Staging
from k2_dagster.verify.tiling import Lane
from k2_dagster.verify.values import differing
from k2_dagster.verify.wire import Record, Undecodable, WireDecoder

# Decoded messages in memory at once: a Python object per field, about 2 kB each.
DECODED_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class MessageChecks:
    """Checks of one stream's messages, a chunk at a time."""

    dataset: Dataset
    exchange: str
    decoder: WireDecoder
    staging: Staging

    def values(self, lane: Lane, chunk: Chunk, tally: Tally) -> int:
        """Compare sampled rows with their messages; returns how many were compared."""
        rows = self.staging.sampled_rows(lane.topic_epoch, lane.partition, chunk.first, chunk.following)
        if rows is None:
            return 0
        have = np.isin(rows["kafka_offset"].to_numpy(), np.fromiter(chunk.values, np.int64, len(chunk.values)))
        rows = rows.filter(pa.array(have))
        for low in range(0, rows.num_rows, DECODED_MESSAGES):
            self._compare(rows.slice(low, DECODED_MESSAGES), chunk, tally)
        return int(rows.num_rows)

    def originals(self, lane: Lane, chunk: Chunk, tally: Tally) -> int:
        """Compare sampled quarantine rows with the messages that they say they are; returns how many were compared."""
        rows = self.staging.sampled_quarantine(lane.topic_epoch, lane.partition, chunk.first, chunk.following)
        if rows is None:
            return 0
        have = np.isin(rows["kafka_offset"].to_numpy(), np.fromiter(chunk.originals, np.int64, len(chunk.originals)))
        rows = rows.filter(pa.array(have))
        for low in range(0, rows.num_rows, DECODED_MESSAGES):
            for row in rows.slice(low, DECODED_MESSAGES).to_pylist():
                for name in differing_parts(row, chunk.originals[row["kafka_offset"]]):
                    tally.add("wrong_value", f"a quarantined {name} is not the message's", [row["kafka_offset"]])
        return int(rows.num_rows)

    def claims(self, lane: Lane, chunk: Chunk, found: Duplicates, tally: Tally) -> None:
        """Put on the staging what the chunk's duplicates claim to repeat."""
        by_offset: list[tuple[int, int]] = []
        for low in range(0, len(found.offsets), DECODED_MESSAGES):
            piece = slice(low, low + DECODED_MESSAGES)
            offsets, records = [], []
            for offset, first, kept in zip(
                found.offsets[piece], found.first_offsets[piece], found.values[piece], strict=True
            ):
                value = kept if kept is not None else chunk.values.get(offset)
                if value is None and first is not None:
                    by_offset.append((offset, first))
                    continue
                record = self._decoded(value)
                if record is None:
                    tally.add("wrong_duplicate", "the message does not decode, so it has no identity", [offset])
                    continue
                offsets.append(offset)
                records.append(record)
            self.staging.add_claims(_claims(lane.partition, offsets, records, self.dataset))
        if by_offset:
            duplicates, firsts = zip(*by_offset, strict=True)
            self.staging.add_claims_by_offset(lane.topic_epoch, lane.partition, duplicates, firsts)

    def _compare(self, rows: pa.Table, chunk: Chunk, tally: Tally) -> None:
        offsets: Int64s = rows["kafka_offset"].to_numpy()
        decoded = [self._decoded(chunk.values[offset]) for offset in offsets.tolist()]
        bad = np.array([one is None for one in decoded], dtype=bool)
        tally.add("wrong_value", "a row whose message does not decode", offsets[bad])
        good = [one for one in decoded if one is not None]
        kept = rows.filter(pa.array(~bad))
        for name, wrong in differing(self.dataset, good, kept).items():
            tally.add("wrong_value", f"{name} is not what the message says", offsets[~bad][wrong])
        foreign = np.array([one["exchange"] != self.exchange for one in good], dtype=bool)
        tally.add(
            "wrong_value", f"a row of {self.exchange} whose message is another exchange's", offsets[~bad][foreign]
        )

    def _decoded(self, value: bytes | None) -> Record | None:
        try:
            return self.decoder.decode(value)
        except Undecodable:
            return None


def differing_parts(row: Mapping[str, Any], message: Original) -> list[str]:
    """What a quarantine row does not say as its message does. A duplicate with the bytes of its first has no value."""
    headers = tuple((one["name"], one["value"]) for one in row["headers"] or ())
    kept = row["value"] is not None or row["reason"] != "duplicate"
    same = {
        "key": row["key"] == message.key,
        "value": row["value"] == message.value or not kept,
        "headers": headers == message.headers,
    }
    return [name for name, is_same in same.items() if not is_same]


def _claims(partition: int, offsets: list[int], records: list[Record], dataset: Dataset) -> pa.Table:
    columns: dict[str, Any] = {
        "kafka_partition": pa.array([partition] * len(offsets), pa.int32()),
        "kafka_offset": pa.array(offsets, pa.int64()),
    }
    for name in SOURCES:
        columns[name] = pa.array([one[name] for one in records], wire_type(dataset[name].type))
    return pa.table(columns)
