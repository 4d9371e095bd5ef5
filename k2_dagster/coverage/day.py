"""A day of an exchange: a strip for each symbol of each stream, out of the control database at one moment."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection

from k2_dagster.coverage.asking import Rows, as_span, channel_gaps, evidence_of
from k2_dagster.coverage.calendar import Closing, closing_of
from k2_dagster.coverage.picture import Strip, strip_of
from k2_dagster.coverage.reading import Wanted, one_look, read_received
from k2_dagster.coverage.spans import Span, overlaps
from k2_dagster.schemas.profiles import Domain, ExchangeProfile, Profiles
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import GapFilter, read_gaps
from k2_dagster.state.holds import read_holds
from k2_dagster.state.times import to_micros
from k2_dagster.state.tracked import PUBLISHER, VENUE

MICROS_PER_MINUTE = 60_000_000
ONE_DAY = timedelta(days=1)
# Sessions of the days before: they say since when numbers before a session's first message can be missing.
LOOK_BACK = timedelta(days=7)

BySymbol = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Dataset:
    """What is on record of a dataset, by symbol."""

    intervals: BySymbol
    holes: BySymbol
    gaps: BySymbol
    of_channels: Sequence[Mapping[str, Any]]
    holds: Sequence[Mapping[str, Any]]

    def rows(self, symbol: str) -> Rows:
        """Everything about one symbol."""
        gaps = [*self.gaps.get(symbol, ()), *self.of_channels]
        return Rows(self.intervals.get(symbol, ()), self.holes.get(symbol, ()), gaps, self.holds)


def day_of(
    database: Database, profiles: Profiles, exchange: str, day: date, *, symbol: str | None = None, minutes: int
) -> list[Strip]:
    """A strip per stream and symbol that something is on record of, with cells of so many minutes; those in trouble
    first. Raises ConfigurationError for an unknown exchange, and like `Database.begin`."""
    profile = profiles.exchange(exchange)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    whole = as_span(start, start + ONE_DAY)
    closing = closing_of(profile, whole)
    out: list[Strip] = []
    with one_look(database) as connection:
        for dataset in sorted({stream.dataset for stream in profile.streams.values()}):
            wanted = Wanted(exchange, dataset, symbol, start - LOOK_BACK, start + ONE_DAY)
            found = _read(connection, profile, wanted, (start, start + ONE_DAY))
            out += _strips(found, profile, (exchange, dataset), whole, closing, minutes * MICROS_PER_MINUTE)
    return sorted(out, key=lambda one: (one.trouble, one.dataset, one.stream, one.symbol))


def _read(
    connection: Connection, profile: ExchangeProfile, wanted: Wanted, times: tuple[datetime, datetime]
) -> _Dataset:
    assert wanted.exchange is not None
    assert wanted.dataset is not None
    found = read_received(connection, wanted)
    since, until = times
    gaps = GapFilter(exchange=wanted.exchange, dataset=wanted.dataset, symbol=wanted.symbol, since=since, until=until)
    domains = {stream.domain for stream in profile.streams.values() if stream.dataset == wanted.dataset}
    return _Dataset(
        intervals=_by_symbol(found.intervals),
        holes=_by_symbol(found.holes),
        gaps=_grouped(read_gaps(connection, gaps)),
        of_channels=channel_gaps(connection, wanted.exchange, *times) if Domain.CHANNEL in domains else (),
        holds=read_holds(connection, wanted.exchange, wanted.dataset),
    )


def _by_symbol(table: pa.Table) -> BySymbol:
    return _grouped(table.to_pylist())


def _grouped(rows: Sequence[dict[str, Any]]) -> BySymbol:
    out: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        out[row["symbol"]].append(row)
    return out


def _strips(
    found: _Dataset,
    profile: ExchangeProfile,
    named: tuple[str, str],
    whole: Span,
    closing: Closing,
    micros: int,
) -> Iterator[Strip]:
    for stream, declared in profile.streams.items():
        if declared.dataset != named[1]:
            continue
        for symbol in found.intervals:
            evidence = evidence_of(found.rows(symbol), closing, (stream, declared), symbol)
            if evidence.extents:
                numbering = VENUE if declared.domain.judged_by_ingest else PUBLISHER
                counted = _counted(found.intervals[symbol], numbering, stream, whole)
                yield strip_of((*named, stream, symbol), evidence, whole, micros, counted)


def _counted(rows: Sequence[Mapping[str, Any]], numbering: str, stream: str, whole: Span) -> tuple[int, int, int]:
    """Messages, those out of order and duplicates of the sessions that touch the range."""
    touching = [
        row
        for row in rows
        if row["numbering"] == numbering
        and (numbering == PUBLISHER or row["stream"] == stream)
        and overlaps((to_micros(row["from_time"]) or 0, (to_micros(row["to_time"]) or 0) + 1), whole)
    ]
    messages, out_of_order, duplicates = (
        sum(row[name] for row in touching) for name in ("messages", "out_of_order", "duplicates")
    )
    return messages, out_of_order, duplicates
