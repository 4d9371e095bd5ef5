"""The partitions of every table, once: exchange x UTC day, as the tables are partitioned themselves."""

from datetime import UTC, date, datetime

import dagster as dg

from k2_dagster.errors import ConfigurationError
from k2_dagster.ingest.rules import FIRST_DAY
from k2_dagster.schemas.profiles import Profiles

EXCHANGE, DAY = "exchange", "day"
# (table's dataset, exchange, UTC day)
Partition = tuple[str, str, str]
# Today is a partition as soon as it begins, not when it is over.
DAYS_BEYOND_CLOSED = 1


def exchange_partitions(profiles: Profiles) -> dg.StaticPartitionsDefinition:
    """One partition per exchange of the profiles: those of the topics."""
    return dg.StaticPartitionsDefinition(sorted(profiles.exchanges))


def table_partitions(profiles: Profiles) -> dg.MultiPartitionsDefinition:
    """exchange x day, from the first day that tables keep to today (UTC)."""
    days = dg.DailyPartitionsDefinition(
        start_date=datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC),
        timezone="UTC",
        end_offset=DAYS_BEYOND_CLOSED,
    )
    return dg.MultiPartitionsDefinition({EXCHANGE: exchange_partitions(profiles), DAY: days})


def partition_key(exchange: str, day: str) -> dg.MultiPartitionKey:
    """Key of one partition; `day` is YYYY-MM-DD. Not checked against what there is: see `is_partition`."""
    return dg.MultiPartitionKey({EXCHANGE: exchange, DAY: day})


def is_partition(profiles: Profiles, exchange: str, day: str, now: datetime | None = None) -> bool:
    """Whether there is such a partition now. Dagster accepts events for any key, so events are held to this first."""
    try:
        found = date.fromisoformat(day)
    except ValueError:
        return False
    # 20260501 and 2026-W18-5 are dates too, but keys of nothing
    of_table = day == found.isoformat() and FIRST_DAY <= found <= (now or datetime.now(UTC)).date()
    return of_table and exchange in profiles.exchanges


def parse_partition(profiles: Profiles, exchange: str, day: str) -> dg.MultiPartitionKey:
    """Key of a partition that a person named. Raises ConfigurationError that says what would be valid."""
    profiles.exchange(exchange)
    if not is_partition(profiles, exchange, day):
        raise ConfigurationError(
            f"day was {day!r}", advice=f"valid: {FIRST_DAY} to today (UTC), as YYYY-MM-DD", day=day
        )
    return partition_key(exchange, day)


def split(key: str) -> tuple[str, str]:
    """(exchange, day) of a partition key."""
    parts = dict(zip(sorted((EXCHANGE, DAY)), key.split("|", 1), strict=True))
    return parts[EXCHANGE], parts[DAY]


def is_open(day: str, now: datetime | None = None) -> bool:
    """Whether messages of this UTC day are still to be expected: it is today (or later).

    Late messages land in closed days too, by the ordinary drains; what is refused is to *make* a closed day again.
    """
    return date.fromisoformat(day) >= (now or datetime.now(UTC)).date()
