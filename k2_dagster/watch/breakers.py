"""Open breakers of the control database, for whoever tells of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from k2_dagster.alerts.breakers import OpenBreaker
from k2_dagster.ingest.halted import is_pressing
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.breakers import list_breakers
from k2_dagster.state.database import Database


def open_breakers(database: Database, retention_hours: int) -> Sequence[OpenBreaker]:
    """Every breaker that is open. Raises DatabaseUnavailable, NotInitialized."""
    now = datetime.now(UTC)
    return [_told(row, retention_hours, now) for row in list_breakers(database, only_open=True)]


def _told(row: Mapping[str, Any], retention_hours: int, now: datetime) -> OpenBreaker:
    numbers = f"{row['first_sequence']} to {row['last_sequence']}"
    return OpenBreaker(
        topic_name(row["dataset"], row["exchange"]),
        row["kafka_partition"],
        f"{row['missing']:,} numbers of {row['symbol']} are missing ({numbers}), as the message at offset "
        f"{row['kafka_offset']} showed. Breaker {row['id']}.",
        is_pressing(row["opened_at"], retention_hours, now),
    )
