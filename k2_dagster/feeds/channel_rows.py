"""Rows of a feed taken apart by channel, as arrays: what `channels.py` judges."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Flags = NDArray[np.bool_]
ChannelKey = tuple[Literal["channel", "stream"], str]

# In place of a venue's time that is not known.
NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Part:
    """The rows of one channel (or of one stream that has none), sessions as codes into `sessions`.

    `numbers` are the rows' own, or the last ones that they announce where `announced`.
    """

    key: ChannelKey
    rows: Int64s
    streams: list[str]
    stream_codes: Int64s
    sessions: list[str]
    session_codes: Int64s
    numbers: Int64s
    announced: Flags
    micros: Int64s
    venue_micros: Int64s

    def runs(self) -> Iterator[slice]:
        """Slices in which the session does not change."""
        cuts = np.flatnonzero(np.diff(self.session_codes)) + 1
        edges = [0, *cuts.tolist(), len(self.rows)]
        yield from (slice(start, stop) for start, stop in itertools.pairwise(edges))


def parts(rows: pa.RecordBatch) -> Iterator[Part]:
    channels, channel_codes = _coded(rows.column("channel"))
    streams, stream_codes = _coded(rows.column("stream"))
    sessions, session_codes = _coded(rows.column("session"))
    said = pc.coalesce(rows.column("sequence"), rows.column("previous_sequence"))
    numbered = said.is_valid().to_numpy(zero_copy_only=False)
    numbers = said.fill_null(0).to_numpy()
    announced = rows.column("sequence").is_null().to_numpy(zero_copy_only=False)
    venue_micros = _integers(rows.column("exchange_timestamp"), NO_TIME)
    micros = _integers(pc.coalesce(rows.column("receive_timestamp"), rows.column("exchange_timestamp")), 0)
    # One code per (kind, name): a channel's rows belong together whatever their stream.
    groups = np.where(channel_codes >= 0, channel_codes, len(channels) + stream_codes)
    for group in np.unique(groups).tolist():
        has_channel = group < len(channels)
        member = (groups == group) & numbered if has_channel else groups == group
        places = np.flatnonzero(member)
        if not len(places):
            continue
        key: ChannelKey = ("channel", channels[group]) if has_channel else ("stream", streams[group - len(channels)])
        yield Part(
            key, places, streams, stream_codes[places], sessions, session_codes[places], numbers[places],
            announced[places], micros[places], venue_micros[places],
        )  # fmt: skip


def runs(flags: Flags) -> Iterator[tuple[slice, bool]]:
    """Slices in which a flag does not change, with it: a header is one for all that is sent together."""
    if not flags.any():
        yield slice(0, len(flags)), False
        return
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop), bool(flags[start])


def _coded(column: pa.Array) -> tuple[list[str], Int64s]:
    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), codes.astype(np.int64)


def _integers(times: pa.Array, unknown: int) -> Int64s:
    micros: Int64s = times.cast(pa.int64()).fill_null(unknown).to_numpy()
    return micros
