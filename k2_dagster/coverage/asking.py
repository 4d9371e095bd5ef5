"""`complete(...)`: gathers what the control database has of a symbol, and lets `complete.py` judge."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, func, select

from k2_dagster.coverage.calendar import Closing, closing_of
from k2_dagster.coverage.complete import Answer, Basis, Evidence, Extent, Held, Missing, judge
from k2_dagster.coverage.reading import Wanted, one_look, read_received
from k2_dagster.coverage.spans import Span
from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.profiles import Domain, ExchangeProfile, Profiles, StreamProfile
from k2_dagster.schemas.topics import CONTROL_DATASET
from k2_dagster.state.coverage_tables import connections, resets
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from k2_dagster.state.holds import read_holds
from k2_dagster.state.times import to_micros
from k2_dagster.state.tracked import PUBLISHER, VENUE

# Sessions that ended so long before the range are not looked at: they only say since when numbers before the first
# message of a later session can be missing.
LOOK_BACK = timedelta(days=40)
CHANNEL = "channel"


def complete(
    database: Database, profiles: Profiles, exchange: str, stream: str, symbol: str, start: datetime, end: datetime
) -> Answer:
    """Whether every message of a symbol of a stream between two times of the venue's (end excluded) is in the table.

    Raises ConfigurationError for an exchange, a stream or a range that cannot be, and like `Database.begin`.
    """
    profile = profiles.exchange(exchange)
    declared = stream_of(profile, exchange, stream)
    whole = as_span(start, end)
    with one_look(database) as connection:
        evidence = gather(connection, profile, exchange, (stream, declared), symbol, whole)
    return judge(evidence, whole)


def as_span(start: datetime, end: datetime) -> Span:
    """Raises ConfigurationError when it is empty or without a time zone."""
    for name, value in (("from", start), ("to", end)):
        if value.tzinfo is None:
            raise ConfigurationError(f"{name} was {value}", advice="valid: a time with its zone, as UTC")
    if start >= end:
        raise ConfigurationError(f"the range was {start} to {end}", advice="valid: `to` after `from`")
    first, last = to_micros(start), to_micros(end)
    assert first is not None
    assert last is not None
    return first, last


def stream_of(profile: ExchangeProfile, exchange: str, stream: str) -> StreamProfile:
    """Raises ConfigurationError that lists the streams there are."""
    if stream not in profile.streams:
        near = difflib.get_close_matches(stream, profile.streams, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            f"stream was {stream!r}", advice=f"valid for {exchange}: {', '.join(sorted(profile.streams))}{hint}"
        )
    return profile.streams[stream]


def gather(
    connection: Connection,
    profile: ExchangeProfile,
    exchange: str,
    named: tuple[str, StreamProfile],
    symbol: str,
    whole: Span,
) -> Evidence:
    """What is on record of one symbol of one stream (its name and profile) that can say something of a range."""
    declared = named[1]
    since, until = (_EPOCH + timedelta(microseconds=one) for one in whole)
    wanted = Wanted(exchange, declared.dataset, symbol, since - LOOK_BACK, until)
    found = read_received(connection, wanted)
    of_symbol = GapFilter(exchange=exchange, dataset=declared.dataset, symbol=symbol, since=since, until=until)
    gaps = read_gaps(connection, of_symbol)
    if declared.domain is Domain.CHANNEL:
        gaps += channel_gaps(connection, exchange, since, until)
    rows = Rows(
        found.intervals.to_pylist(), found.holes.to_pylist(), gaps, read_holds(connection, exchange, declared.dataset)
    )
    return evidence_of(rows, closing_of(profile, whole), named, symbol)


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Rows:
    """What is on record: intervals and holes (see received.py), rows of `k2.gaps` and of `k2.holds`."""

    intervals: Sequence[Mapping[str, Any]]
    holes: Sequence[Mapping[str, Any]]
    gaps: Sequence[Mapping[str, Any]]
    holds: Sequence[Mapping[str, Any]] = ()


def evidence_of(rows: Rows, closing: Closing, named: tuple[str, StreamProfile], symbol: str) -> Evidence:
    """Of rows that may be of other streams and symbols too, what is about one symbol of one stream."""
    stream, declared = named
    numbering = VENUE if declared.domain.judged_by_ingest else PUBLISHER

    def is_meant(row: Mapping[str, Any]) -> bool:
        if row["numbering"] == CHANNEL:
            # a channel is shared by streams, and the message that shows its gap may be of any
            return declared.domain is Domain.CHANNEL
        return (
            row["numbering"] == numbering
            and row["symbol"] == symbol
            and (numbering == PUBLISHER or row["stream"] == stream)
        )

    extents = [_extent(row) for row in rows.intervals if is_meant(row)]
    return Evidence(
        basis=_basis(declared.domain, has_numbers=bool(extents)),
        extents=extents,
        missing=[
            *(_of_gap(row) for row in rows.gaps if is_meant(row)),
            *(_of_hole(row) for row in rows.holes if is_meant(row)),
        ],
        held=[_of_hold(row) for row in rows.holds],
        closed=closing.spans,
        doubt=closing.doubt,
    )


def _basis(domain: Domain, *, has_numbers: bool) -> Basis | None:
    if domain.judged_by_ingest:
        return "venue"
    if not has_numbers:
        return None
    return "channel" if domain is Domain.CHANNEL else "publisher"


def channel_gaps(connection: Connection, exchange: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Gaps of an exchange's channels that may touch a range from `since` to `until`. Each has the time since when its
    numbers can be missing: the channel's session began, or the feed connected."""
    wanted = GapFilter(exchange=exchange, dataset=CONTROL_DATASET, since=since, until=until)
    found = read_gaps(connection, wanted)
    gaps = [one for one in found if one["numbering"] == CHANNEL]
    for one in gaps:
        if one["from_time"] is None:
            one["from_time"] = _channel_since(connection, one)
    return gaps


def _channel_since(connection: Connection, gap: Mapping[str, Any]) -> datetime | None:
    began = select(func.max(resets.c.at)).where(
        resets.c.exchange == gap["exchange"],
        resets.c.numbering == CHANNEL,
        resets.c.channel == gap["channel"],
        resets.c.session == gap["session"],
        resets.c.at <= gap["to_time"],
    )
    connected = select(func.max(connections.c.at)).where(
        connections.c.exchange == gap["exchange"],
        connections.c.stream == gap["stream"],
        connections.c.state == "connected",
        connections.c.at <= gap["to_time"],
    )
    times: Iterable[datetime | None] = (connection.execute(query).scalar() for query in (began, connected))
    return max((one for one in times if one is not None), default=None)


def _extent(row: Mapping[str, Any]) -> Extent:
    return Extent(
        kafka_partition=row["kafka_partition"],
        session=row["session"],
        first=row["first_sequence"],
        last=row["last_sequence"],
        from_micros=cast("int", to_micros(row["from_time"])),
        to_micros=cast("int", to_micros(row["to_time"])),
    )


def _of_gap(row: Mapping[str, Any]) -> Missing:
    end = row["to_time"]
    if end is None:  # reported before gaps had times: it lies before the end of the day that showed it
        end = datetime.fromisoformat(f"{row['event_day']}T00:00:00+00:00") + timedelta(days=1)
    return Missing(
        numbering=row["numbering"],
        session=row["session"],
        channel=row["channel"],
        first=row["first_sequence"],
        last=row["last_sequence"],
        count=row["missing"] if row["state"] == "filled" else max(1, row["missing"] - row["filled"]),
        from_micros=to_micros(row["from_time"]),
        to_micros=to_micros(end),
        state=row["state"],
        cause=row["cause"],
        level=row["level"],
        gap_id=row["id"],
    )


def _of_hole(row: Mapping[str, Any]) -> Missing:
    return Missing(
        numbering=row["numbering"],
        session=row["session"],
        channel="",
        first=row["first_sequence"],
        last=row["last_sequence"],
        count=row["last_sequence"] - row["first_sequence"] + 1,
        from_micros=to_micros(row["from_time"]),
        to_micros=to_micros(row["to_time"]),
        state="open",
        cause=row["cause"],
        level="",
        gap_id=None,
    )


def _of_hold(row: Mapping[str, Any]) -> Held:
    return Held(
        kafka_partition=row["kafka_partition"],
        kind=row["kind"],
        from_micros=cast("int", to_micros(row["from_time"])),
        to_micros=to_micros(row["to_time"]),
        reason=row["reason"],
    )
