"""The questions of the checks as DuckDB SQL over one partition, loaded once into the temporary table `part`."""

from collections.abc import Callable
from dataclasses import dataclass

from k2_dagster.schemas.common import MICROS_PER_SECOND, ORIGINS, TIME_SOURCE_FIELD, VENUE_CLOCK
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.profiles import Domain, ExchangeProfile
from k2_dagster.schemas.quarantine import QUARANTINE

# Rows shown with a failed check: enough to start looking, small in Dagster's event log (about 1 KB).
EXAMPLES = 5

_POSITION = ("topic_epoch", "kafka_partition", "kafka_offset")
_LOADED = (
    *("stream", "kind", "session", "channel", "symbol", "sequence", "publisher_session", "publisher_sequence"),
    *("origin", "exchange_timestamp", "receive_timestamp", TIME_SOURCE_FIELD),
    *_POSITION,
)
# Rows whose exchange time is the venue's own, by a clock that was running when the message was sent.
_TIMED = f"origin = '{ORIGINS[0]}' AND coalesce({TIME_SOURCE_FIELD}, '{VENUE_CLOCK}') = '{VENUE_CLOCK}'"


@dataclass(frozen=True, slots=True)
class CheckSql:
    """One query per question; an empty one is not asked of this table. `load` takes the list of files."""

    load: str
    repeated_offsets: str
    repeated_identities: str = ""
    backwards: str = ""
    split_symbols: str = ""
    reasons: str = ""
    skewed: str = ""
    against_sequence: str = ""


# Questions whose answer is a number of rows, with a few of them.
COUNTED = (*("repeated_offsets", "repeated_identities", "backwards", "split_symbols", "skewed", "against_sequence"),)


def check_sql(dataset: Dataset, profile: ExchangeProfile) -> CheckSql:
    """The queries for one dataset of one exchange: what identifies a row depends on its stream's domain."""
    if dataset is QUARANTINE:
        return CheckSql(
            load=_load(("topic", "reason", *_POSITION)),
            repeated_offsets=_repeated(("topic", *_POSITION)),
            reasons="SELECT reason, count(*)::BIGINT AS messages FROM part GROUP BY reason",
        )
    return CheckSql(
        load=_load(_LOADED),
        repeated_offsets=_repeated(_POSITION),
        repeated_identities=_identities(dataset, profile),
        backwards=_BACKWARDS,
        split_symbols=_SPLIT,
        skewed=_skewed(profile),
        against_sequence=_against_sequence(dataset, profile),
    )


def _load(columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{one}"' for one in columns)
    # A partition may have no file from after a column was added
    since = f"SELECT NULL::VARCHAR AS {TIME_SOURCE_FIELD} WHERE false"
    return (
        f"CREATE TEMP TABLE part AS SELECT {names} FROM "
        f"(SELECT * FROM read_parquet(?, union_by_name = true) UNION ALL BY NAME {since})"
    )


def _repeated(columns: tuple[str, ...], where: str = "true") -> str:
    names = ", ".join(columns)
    return f"""
        SELECT {names}, n::BIGINT AS times, (sum(n - 1) OVER ())::BIGINT AS total
        FROM (SELECT {names}, count(*) AS n FROM part WHERE {where} GROUP BY {names} HAVING n > 1)
        ORDER BY {names} LIMIT {EXAMPLES}
    """


def _identities(dataset: Dataset, profile: ExchangeProfile) -> str:
    """Venue numbers where the domain can be judged, else the publisher's, and a channel's besides (DESIGN D4)."""
    by_venue = _by_venue(dataset, profile)
    in_channel = _of_domain(dataset, profile, lambda domain: domain is Domain.CHANNEL)
    return f"""
        WITH identified AS (
            SELECT
                CASE WHEN {by_venue} THEN stream || '/' || kind ELSE 'publisher' END AS numbering,
                CASE WHEN {by_venue} THEN session ELSE publisher_session END AS session,
                symbol,
                CASE WHEN {by_venue} THEN sequence ELSE publisher_sequence END AS number
            FROM part
            UNION ALL
            SELECT stream || '/' || kind || ' of channel ' || coalesce(channel, ''), session, symbol, sequence
            FROM part WHERE {in_channel}
        ), repeated AS (
            SELECT numbering, session, symbol, number, count(*) AS n
            FROM identified WHERE number IS NOT NULL
            GROUP BY ALL HAVING n > 1
        )
        SELECT *, (sum(n - 1) OVER ())::BIGINT AS total FROM repeated
        ORDER BY numbering, symbol, number LIMIT {EXAMPLES}
    """


def _by_venue(dataset: Dataset, profile: ExchangeProfile) -> str:
    """Whether a row's venue number can be judged."""
    return _of_domain(dataset, profile, lambda domain: domain.judged_by_ingest)


def _of_domain(dataset: Dataset, profile: ExchangeProfile, chosen: Callable[[Domain], bool]) -> str:
    """Whether a row has the numbers of a stream whose domain is one of the chosen."""
    judged = sorted(
        name for name, stream in profile.streams.items() if stream.dataset == dataset.name and chosen(stream.domain)
    )
    names = ", ".join(f"'{one}'" for one in judged)
    return f"(stream IN ({names}) AND kind = '{dataset.kinds[0]}')" if judged else "false"


def _skewed(profile: ExchangeProfile) -> str:
    """Rows received longer before or after they happened than the profile allows."""
    low = -round(profile.clock_skew_seconds * MICROS_PER_SECOND)
    high = round(profile.receive_delay_seconds * MICROS_PER_SECOND)
    return f"""
        WITH timed AS (
            SELECT stream, symbol, sequence, {_shown("exchange_timestamp")}, {_shown("receive_timestamp")},
                epoch_us(receive_timestamp) - epoch_us(exchange_timestamp) AS late, kafka_partition, kafka_offset
            FROM part WHERE {_TIMED} AND receive_timestamp IS NOT NULL
        )
        SELECT * EXCLUDE (late), late / {MICROS_PER_SECOND} AS received_late_seconds,
            (count(*) OVER ())::BIGINT AS total
        FROM timed WHERE late NOT BETWEEN {low} AND {high} ORDER BY kafka_partition, kafka_offset LIMIT {EXAMPLES}
    """


def _against_sequence(dataset: Dataset, profile: ExchangeProfile) -> str:
    """Rows that happened before one with a lower number, where the venue's numbers can be judged."""
    return f"""
        WITH followed AS (
            SELECT stream, symbol, sequence, exchange_timestamp, kafka_partition, kafka_offset,
                lag(sequence) OVER numbered AS after_sequence, lag(exchange_timestamp) OVER numbered AS before
            FROM part WHERE {_by_venue(dataset, profile)} AND {_TIMED}
            WINDOW numbered AS (PARTITION BY stream, kind, session, symbol ORDER BY sequence)
        )
        SELECT stream, symbol, sequence, after_sequence, {_shown("exchange_timestamp")},
            (epoch_us(before) - epoch_us(exchange_timestamp)) / {MICROS_PER_SECOND} AS too_early_seconds,
            kafka_partition, kafka_offset, (count(*) OVER ())::BIGINT AS total
        FROM followed WHERE exchange_timestamp < before ORDER BY kafka_partition, kafka_offset LIMIT {EXAMPLES}
    """


def _shown(column: str) -> str:
    """A time as text in UTC, whatever the connection's time zone."""
    return f"make_timestamp(epoch_us({column}))::VARCHAR AS {column}"


# A retransmission comes after what followed it by design, so only live messages are held to the publisher's order.
_BACKWARDS = f"""
    WITH followed AS (
        SELECT
            symbol, kafka_partition, kafka_offset, publisher_sequence,
            lag(publisher_sequence) OVER (
                PARTITION BY topic_epoch, kafka_partition, publisher_session, symbol ORDER BY kafka_offset
            ) AS after
        FROM part WHERE origin = '{ORIGINS[0]}' AND publisher_sequence IS NOT NULL
    )
    SELECT *, (count(*) OVER ())::BIGINT AS total FROM followed WHERE publisher_sequence < after
    ORDER BY kafka_partition, kafka_offset LIMIT {EXAMPLES}
"""
_SPLIT = f"""
    WITH split AS (
        SELECT topic_epoch, symbol, list(DISTINCT kafka_partition ORDER BY kafka_partition) AS partitions
        FROM part GROUP BY topic_epoch, symbol HAVING count(DISTINCT kafka_partition) > 1
    )
    SELECT *, (count(*) OVER ())::BIGINT AS total FROM split ORDER BY symbol LIMIT {EXAMPLES}
"""
