"""Compile the kernels once, into numba's cache on disk, so that the first run does not pay for it.

`python -m k2_dagster.ingest.warm`; `make setup` calls it. `k2 ingest` calls it when it starts: what loading them takes
(LLVM, 50 MB) is given back before the first batch needs memory.
"""

import json

import numpy as np
import pyarrow as pa

from k2_dagster.ingest import kernel
from k2_dagster.ingest.accounts import add_digests, count_messages
from k2_dagster.ingest.avro_decode import FRAME_BYTES, AvroDecoder
from k2_dagster.ingest.channel_numbers import ChannelNumbers
from k2_dagster.ingest.columns import Codes, combine
from k2_dagster.ingest.decode import frame
from k2_dagster.ingest.duplicates import alike
from k2_dagster.ingest.fixed import fixed
from k2_dagster.ingest.gather import gather, gather_wide
from k2_dagster.ingest.numbering import Numbering
from k2_dagster.ingest.rules import days_of
from k2_dagster.ingest.sessions import first_and_last, never_back
from k2_dagster.ingest.sorting import file_order
from k2_dagster.kafka.batch import Gathering
from k2_dagster.kafka.copying import Functions, take
from k2_dagster.schemas.profile_parts import DEFAULT_JUMP_ABOVE

_DISTINCT_CODES = 2_000


def load_kernels() -> None:
    """Call every kernel with the types that ingest calls it with. Compiles what is not in the cache (minutes)."""
    numbering = Numbering()
    for _ in range(2):  # the second time with open holes, which the queue is rebuilt from
        _judge(numbering)
    zeros = np.zeros(2, dtype=np.int64)
    file_order(Codes(np.zeros(2, dtype=np.int32), ["A"]), zeros, zeros)
    _passes()
    _decode()
    _take()


def _take() -> None:
    """No message: nothing is called at these addresses."""
    into, nowhere = Gathering(1), np.uint64(0)
    keys, values = into.keys, into.values
    take(
        *(Functions(nowhere, nowhere, nowhere), np.zeros(0, np.uint64), 0),
        *(into.partition, into.offset, into.timestamp_ms),
        *(keys.ends, keys.present, keys.data, values.ends, values.present, values.data),
    )


def _decode() -> None:
    """More distinct codes than a batch begins with room for."""
    kinds = {"number": "long", "code": "string", "text": "string", "texts": {"type": "array", "items": "string"}}
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    schema = {"type": "record", "name": "Warm", "fields": fields}
    codes = [b"\x08%04d" % number for number in range(_DISTINCT_CODES)]
    messages = [bytes(FRAME_BYTES) + b"\2" + code + b"\2B" + b"\2\2C\0" for code in codes]
    values = pa.array(messages, pa.binary())
    frame(values)
    AvroDecoder(json.dumps(schema), ["code"]).decode(values)


def _passes() -> None:
    """The passes over a batch: what each calls is compiled for the types of a batch's columns."""
    longs, codes, flags = (fixed(np.ones(2, dtype=one)) for one in (np.int64, np.int32, np.bool_))
    texts = Codes(codes, ["A", "B"])
    combine([texts, Codes(codes.copy(), ["A", "B"])])
    never_back(codes, longs, np.zeros(2, dtype=np.int64))
    first_and_last(longs, longs, 2)
    days_of(longs, longs)
    alike(longs, codes, flags, longs)
    for column in (longs, codes, flags):
        gather(column, longs)
    gather_wide(longs, longs)
    count_messages(codes, flags, flags, 2)
    channels = ChannelNumbers()
    channels.key_index((0, "trade", "trade", None, "1", "A"))
    for number in (longs, longs - 1):
        channels.judge(np.zeros(2, dtype=np.int64), number, flags, None)
    add_digests(np.zeros(2, dtype=np.uint64), flags, longs, codes, longs, longs, longs, longs)


def _judge(numbering: Numbering) -> None:
    key = numbering.key_index((0, "A"), start=kernel.NEVER, sparse=False)
    symbol = numbering.symbol_index((0, "A"))
    sequence = np.array([1, 5], dtype=np.int64)
    numbering.judge(
        kernel.Rows(
            np.array([key, key], dtype=np.int32),
            sequence,
            sequence - 1,
            np.array([kernel.GOOD, kernel.GOOD], dtype=np.int8),
            np.array([symbol, symbol], dtype=np.int32),
            np.zeros(2, dtype=np.int32),
            sequence,
            sequence,
            sequence,
        ),
        grace_messages=20,
        grace_ms=5_000,
        reach=(DEFAULT_JUMP_ABOVE, DEFAULT_JUMP_ABOVE),
    )


if __name__ == "__main__":
    load_kernels()
