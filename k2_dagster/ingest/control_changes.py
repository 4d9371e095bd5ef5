"""Landed rows of `control` as changes of the ledger: what the feed handler says of channels, sessions, connections."""

from typing import Any

import numpy as np

from k2_dagster.ingest.ledger import Told, gap_level
from k2_dagster.ingest.outcome import Int64s
from k2_dagster.state.channel_fills import CHANNEL, CameLate
from k2_dagster.state.feed_events import ConnectionChanged, SessionBegan
from k2_dagster.state.gaps import LedgerChange
from k2_dagster.state.ledger import Change
from k2_dagster.state.times import to_micros

# Numbering of sessions that a feed handler names of a stream without channels.
FEED = "feed"
_COLUMNS = (
    *("stream", "kind", "symbol", "session", "channel", "exchange_timestamp"),
    *("first_sequence", "last_sequence", "state", "reason", "before_timestamp", "after_timestamp"),
)


def control_changes(told: Told, places: Int64s) -> list[tuple[int, Change]]:
    """(row of the batch, change) of the rows at these places of the wire batch that say something to the ledger."""
    kinds = np.array(told.decoded.wire.column("kind").take(places).to_pylist(), dtype=object)
    telling = places[np.isin(kinds, list(_CHANGES))]
    if not len(telling):
        return []
    columns = {name: told.decoded.wire.column(name).take(telling).to_pylist() for name in _COLUMNS}
    out: list[tuple[int, Change]] = []
    for at, row in enumerate(told.decoded.rows[telling].tolist()):
        change = _CHANGES[columns["kind"][at]](told, row, {name: column[at] for name, column in columns.items()})
        if change is not None:
            out.append((row, change))
    return out


def _gap(told: Told, row: int, found: dict[str, Any]) -> Change | None:
    first, last = found["first_sequence"], found["last_sequence"]
    if first is None or last is None or last < first:
        return None
    missing, offset = last - first + 1, int(told.raw.offset[row])
    return LedgerChange(
        change="report",
        numbering=CHANNEL,
        stream=found["stream"],
        kind="",
        session=found["session"] or "",
        symbol=found["symbol"],
        first_sequence=first,
        last_sequence=last,
        missing=missing,
        filled=0,
        quarantined=0,
        level=gap_level(missing, told.profile),
        cause="unknown",
        topic_epoch=told.topic_epoch,
        kafka_partition=int(told.raw.partition[row]),
        opened_offset=offset,
        reported_offset=offset,
        event_day=told.day(row),
        channel=found["channel"] or "",
        before_micros=to_micros(found["before_timestamp"]),
        # without a time of its own the message shows the end of the grace: what is missing came before it
        after_micros=told.micros(row) if found["after_timestamp"] is None else to_micros(found["after_timestamp"]),
        seen_ms=int(told.raw.timestamp_ms[row]),
    )


def _late(told: Told, row: int, found: dict[str, Any]) -> Change | None:
    first, last = found["first_sequence"], found["last_sequence"]
    if first is None or last is None or last < first:
        return None
    return CameLate(
        channel=found["channel"] or "",
        session=found["session"] or "",
        first_sequence=first,
        last_sequence=last,
        topic_epoch=told.topic_epoch,
        kafka_partition=int(told.raw.partition[row]),
        kafka_offset=int(told.raw.offset[row]),
    )


def _session(told: Told, row: int, found: dict[str, Any]) -> Change | None:
    if found["session"] is None or found["state"] == "ended":
        return None
    return SessionBegan(
        numbering=FEED if found["channel"] is None else CHANNEL,
        stream=found["stream"] if found["channel"] is None else "",
        channel=found["channel"] or "",
        session=found["session"],
        previous_session=None,
        first_sequence=found["first_sequence"],
        topic_epoch=told.topic_epoch,
        kafka_partition=int(told.raw.partition[row]),
        kafka_offset=int(told.raw.offset[row]),
        at_micros=told.micros(row),
    )


def _connection(told: Told, row: int, found: dict[str, Any]) -> Change | None:
    return ConnectionChanged(
        stream=found["stream"],
        state=found["state"] or "",
        reason=found["reason"] or "",
        topic_epoch=told.topic_epoch,
        kafka_partition=int(told.raw.partition[row]),
        kafka_offset=int(told.raw.offset[row]),
        at_micros=told.micros(row),
    )


_CHANGES = {"gap": _gap, "late": _late, "session": _session, "connection": _connection}
