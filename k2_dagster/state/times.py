"""Times as the ledger's changes carry them, as PostgreSQL's."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_micros(micros: int | None) -> datetime | None:
    """UTC microseconds since 1970 as a time, exactly; None stays None."""
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


def to_micros(time: datetime | None) -> int | None:
    """A time as UTC microseconds since 1970, exactly; None stays None."""
    return None if time is None else (time - _EPOCH) // timedelta(microseconds=1)
