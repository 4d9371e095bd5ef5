"""The feed handler's own voice: what it saw on the wire, published to the exchange's one-partition control topic."""

import time

import pyarrow as pa

from k2_dagster.feeds.channels import ChannelKey, Event, FeedState, Grace, judge, open_holes
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.control import CONTROL, NO_SYMBOL
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET

_GAP_REASON = "numbers did not come within the grace"
_END_REASON = "the feed ended before these numbers came"
_TIMES = ("exchange_timestamp", "receive_timestamp", "publish_timestamp")


class FeedHandler:
    """Judges one exchange's rows as they arrive and publishes gaps, sessions, connections and heartbeats.

    Feed it every row in the order of arrival, across datasets where they share a channel, before the rows are published
    themselves. Not for several threads.
    """

    def __init__(self, publisher: Publisher, profiles: Profiles, exchange: str) -> None:
        profile = profiles.exchange(exchange)
        self._publisher = publisher
        self._exchange = exchange
        self._grace = Grace(profile.gap_grace_messages, profile.gap_grace_seconds)
        self._state: FeedState = {}
        self._streams: dict[ChannelKey, str] = {}
        self._last_times: dict[str, object] = {}

    def observe(self, rows: pa.RecordBatch) -> int:
        """Judge rows in wire form, of any dataset; returns how many control messages that made."""
        if not rows.num_rows:
            return 0
        self._state, events = judge(self._state, rows, self._grace)
        for event in events:
            if event.channel is not None:
                self._streams["channel", event.channel] = event.stream
        self._last_times = _times_of(rows, rows.num_rows - 1)
        return self._publish([self._told(event, _times_of(rows, event.row), _GAP_REASON) for event in events])

    def finish(self) -> int:
        """The feed ends: what is still missing is a gap."""
        streams = {key: self._streams.get(key, key[1]) for key in self._state}
        events = open_holes(self._state, 0, streams)
        self._state = {}
        return self._publish([self._told(event, self._last_times, _END_REASON) for event in events])

    def connection(self, stream: str, state: str, reason: str, *, at_micros: int | None = None) -> int:
        """Say that a connection was `connected` or `disconnected`, and why; now, unless a time is given."""
        told = {"stream": stream, "kind": "connection", "state": state, "reason": reason}
        return self._publish([{**_at(at_micros), **told}])

    def heartbeat(self, stream: str, *, at_micros: int | None = None) -> int:
        """Say that the feed is alive though it has nothing to say."""
        return self._publish([{**_at(at_micros), "stream": stream, "kind": "heartbeat"}])

    def _told(self, event: Event, times: dict[str, object], gap_reason: str) -> dict[str, object]:
        is_gap = event.kind == "gap"
        return {
            **times,
            "stream": event.stream,
            "kind": event.kind,
            "channel": event.channel,
            "session": event.session,
            "first_sequence": event.first,
            "last_sequence": event.last,
            "state": None if is_gap else "started",
            "reason": gap_reason if is_gap else "the messages name a new session",
        }

    def _publish(self, told: list[dict[str, object]]) -> int:
        rows = [{"exchange": self._exchange, "symbol": NO_SYMBOL, **one} for one in told]
        if not rows:
            return 0
        return self._publisher.publish(CONTROL_DATASET, pa.RecordBatch.from_pylist(rows, schema=wire_schema(CONTROL)))


def _times_of(rows: pa.RecordBatch, row: int) -> dict[str, object]:
    return {name: rows.column(name)[row].cast(pa.int64()).as_py() for name in _TIMES}


def _at(micros: int | None) -> dict[str, object]:
    if micros is not None:
        return dict.fromkeys(_TIMES, micros)
    now = time.time_ns() // 1000
    return {"exchange_timestamp": now, "receive_timestamp": now}
