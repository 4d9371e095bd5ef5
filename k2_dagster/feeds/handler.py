"""The feed handler's own voice: what it saw on the wire, published to the exchange's one-partition control topic."""

import time
from typing import Protocol

import numpy as np
import pyarrow as pa

from k2_dagster.feeds.channel_rows import ChannelKey
from k2_dagster.feeds.channels import Event, FeedState, Grace, behind, judge, merged_late, open_holes
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.common import RECEIVER_CLOCK, TIME_SOURCE_FIELD
from k2_dagster.schemas.control import CONTROL, NO_SYMBOL
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET

_REASONS = {
    "gap": "numbers did not come within the grace",
    "late": "numbers of a gap came after all",
    "session": "the messages name a new session",
}
_END_REASON = "the feed ended before these numbers came"
_TIMES = ("exchange_timestamp", "receive_timestamp", "publish_timestamp")


class Publishes(Protocol):
    """What a handler speaks through: a `Publisher`, or whoever gives its words a publisher pair and sends them."""

    def publish(self, dataset: str, rows: pa.RecordBatch) -> int:
        """Send rows in wire form, in order; returns how many were accepted."""
        ...


class FeedHandler:
    """Judges one exchange's rows as they arrive and publishes gaps, late numbers, sessions, connections, heartbeats.

    Feed it every row in the order of arrival, across datasets where they share a channel, before the rows are published
    themselves. Not for several threads. `behind` says of the rows judged last which came behind the order of their
    channel.
    """

    def __init__(self, publisher: Publishes, profiles: Profiles, exchange: str) -> None:
        profile = profiles.exchange(exchange)
        self._publisher = publisher
        self._exchange = exchange
        self._grace = Grace(profile.gap_grace_messages, profile.gap_grace_seconds)
        self.behind = np.zeros(0, dtype=bool)
        self._state: FeedState = {}
        self._streams: dict[ChannelKey, str] = {}
        self._last_times: dict[str, object] = {}
        self._apart: str | None = None
        self._said_apart = 0

    def observe(self, rows: pa.RecordBatch) -> int:
        """Judge rows in wire form, of any dataset; returns how many control messages that made."""
        if not rows.num_rows:
            return 0
        events = self._judge(rows)
        return self._tell([self._told(event, _times_of(rows, event.row)) for event in events])

    def arrived(self, rows: pa.RecordBatch) -> int:
        """Judge everything that channels carried, in control's wire form, and publish the rows among it that have a
        kind, each behind what it showed; returns how many control messages that made. Rows without a kind only count.
        """
        if not rows.num_rows:
            return 0
        events = self._judge(rows)
        told = [self._told(event, _times_of(rows, event.row)) for event in events]
        own = np.flatnonzero(rows.column("kind").is_valid().to_numpy(zero_copy_only=False))
        places = np.concatenate([np.array([event.row for event in events], np.int64), own])
        both = pa.concat_batches([self._rows(told), rows.take(pa.array(own))])
        return self._publish(both.take(pa.array(np.argsort(places, kind="stable"))))

    def finish(self) -> int:
        """The feed ends: what is still missing is a gap."""
        streams = {key: self._streams.get(key, key[1]) for key in self._state}
        events = open_holes(self._state, 0, streams)
        self._state = {}
        return self._tell([self._told(event, self._last_times, _END_REASON) for event in events])

    def connection(self, stream: str, state: str, reason: str, *, at_micros: int | None = None) -> int:
        """Say that a connection was `connected` or `disconnected`, and why; now, unless a time is given."""
        told = {"stream": stream, "kind": "connection", "state": state, "reason": reason}
        return self._tell([{**_at(at_micros), **told}])

    def heartbeat(self, stream: str, *, at_micros: int | None = None, reason: str | None = None) -> int:
        """Say that the feed is alive, though it may have nothing to say; `reason` is how it does, in words."""
        return self._tell([{**_at(at_micros), "stream": stream, "kind": "heartbeat", "reason": reason}])

    def book(self, stream: str, symbol: str, state: str, reason: str) -> int:
        """Say that a symbol's book cannot go on (`ended`), or can (`started`: a snapshot came that fits)."""
        told = {"stream": stream, "kind": "session", "symbol": symbol, "dataset": "book", "state": state}
        return self._tell([{**_at(None), **told, "reason": reason}])

    def speak_apart(self, publisher_session: str) -> None:
        """Give what is said from now on a publisher session of its own: it is no part of a feed that may be published
        again, where the next message would take its numbers."""
        self._apart, self._said_apart = publisher_session, 0

    def _judge(self, rows: pa.RecordBatch) -> list[Event]:
        self.behind = behind(self._state, rows)
        self._state, events = judge(self._state, rows, self._grace)
        for event in events:
            if event.channel is not None:
                self._streams["channel", event.channel] = event.stream
        self._last_times = _times_of(rows, rows.num_rows - 1)
        return merged_late(events)

    def _told(self, event: Event, times: dict[str, object], reason: str | None = None) -> dict[str, object]:
        return {
            **times,
            "stream": event.stream,
            "kind": event.kind,
            "channel": event.channel,
            "session": event.session,
            "first_sequence": event.first,
            "last_sequence": event.last,
            "before_timestamp": event.before_micros,
            "after_timestamp": event.after_micros,
            "state": "started" if event.kind == "session" else None,
            "reason": reason or _REASONS[event.kind],
        }

    def _tell(self, told: list[dict[str, object]]) -> int:
        return self._publish(self._rows(told)) if told else 0

    def _rows(self, told: list[dict[str, object]]) -> pa.RecordBatch:
        rows = [{"exchange": self._exchange, "symbol": NO_SYMBOL, **one} for one in told]
        if self._apart is not None:
            for row in rows:
                self._said_apart += 1
                row |= {"publisher_session": self._apart, "publisher_sequence": self._said_apart}
        return pa.RecordBatch.from_pylist(rows, schema=wire_schema(CONTROL))

    def _publish(self, rows: pa.RecordBatch) -> int:
        return self._publisher.publish(CONTROL_DATASET, rows)


def _times_of(rows: pa.RecordBatch, row: int) -> dict[str, object]:
    times: dict[str, object] = {name: rows.column(name)[row].cast(pa.int64()).as_py() for name in _TIMES}
    return {**times, TIME_SOURCE_FIELD: rows.column(TIME_SOURCE_FIELD)[row].as_py()}


def _at(micros: int | None) -> dict[str, object]:
    """Times of what nobody but the handler tells."""
    if micros is not None:
        return {**dict.fromkeys(_TIMES, micros), TIME_SOURCE_FIELD: RECEIVER_CLOCK}
    now = time.time_ns() // 1000
    return {"exchange_timestamp": now, "receive_timestamp": now, TIME_SOURCE_FIELD: RECEIVER_CLOCK}
