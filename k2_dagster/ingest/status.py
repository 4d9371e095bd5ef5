"""What each stream is doing, from the fence, Kafka, leases and `commits`: no process has to remember it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select

from k2_dagster.errors import K2Error
from k2_dagster.ingest.lag import LagReader, StreamLag, oldest_unlanded
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles
from k2_dagster.schemas.topics import CONTROL_DATASET, topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.leases import read_leases
from k2_dagster.state.tables import commits, gaps


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One dataset of one exchange. `fence` counts offsets landed or quarantined; `problem` says why it cannot go on.

    `size_unit` is what sizes count, and `contract_value` what a contract is worth, by symbol.
    """

    exchange: str
    dataset: str
    driver: str
    fence: int
    lag_messages: int | None
    lag_seconds: float | None
    rows: int
    quarantined: int
    open_gaps: int
    last_commit: datetime | None
    problem: str
    size_unit: str | None
    contract_value: Mapping[str, str]


# Of a table; the rest is for programs.
SHOWN = tuple(one.name for one in fields(StreamStatus) if one.name not in ("size_unit", "contract_value"))


def stream_statuses(settings: Settings, profiles: Profiles, exchanges: Sequence[str]) -> list[StreamStatus]:
    """The status of every stream of the exchanges that has a topic or a commit."""
    database, catalog = Database(settings), open_catalog(settings)
    try:
        report = LagReader(settings, profiles, catalog, database).read(exchanges)
        totals, missing = _totals(database), _open_gaps(database)
        leases = read_leases(database)
        lags = {(one.exchange, one.dataset): one for one in report.lags}
        out = []
        for exchange in exchanges:
            lease = leases.get(exchange)
            fresh = lease is not None and lease.age_seconds < settings.lease_stale_seconds
            driver = f"process {lease.holder}" if fresh and lease is not None else "dagster"
            for dataset in profiles.exchange(exchange).datasets:
                key = (exchange, dataset)
                error = report.errors.get(topic_name(dataset, exchange))
                out.append(
                    replace(
                        _status(settings, key, driver, lags.get(key), totals.get(key, {}), missing.get(key, 0), error),
                        **_units(profiles.exchange(exchange), dataset),
                    )
                )
        return out
    finally:
        close_catalog(catalog)
        database.close()


def as_row(status: StreamStatus) -> dict[str, Any]:
    """For a table or JSON."""
    return asdict(status)


def _status(
    settings: Settings,
    key: tuple[str, str],
    driver: str,
    lag: StreamLag | None,
    totals: dict[str, Any],
    open_gaps: int,
    error: K2Error | None,
) -> StreamStatus:
    return StreamStatus(
        exchange=key[0],
        dataset=key[1],
        driver=driver,
        fence=sum(lag.fence.values()) if lag is not None else 0,
        lag_messages=lag.lag_messages if lag is not None else None,
        lag_seconds=_lag_seconds(settings, lag) if lag is not None else None,
        rows=int(totals.get("rows", 0)),
        quarantined=int(totals.get("quarantined", 0)),
        open_gaps=open_gaps,
        last_commit=totals.get("last_commit"),
        problem=error.message if error is not None else "",
        size_unit=None,
        contract_value={},
    )


def _units(profile: ExchangeProfile, dataset: str) -> dict[str, Any]:
    if dataset == CONTROL_DATASET:
        return {}
    return {"size_unit": profile.size_unit, "contract_value": profile.contract_value}


def _lag_seconds(settings: Settings, lag: StreamLag) -> float | None:
    if lag.lag_messages == 0:
        return 0.0
    oldest = oldest_unlanded(settings, lag)
    return None if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())


def _totals(database: Database) -> dict[tuple[str, str], dict[str, Any]]:
    counts = {name: func.sum(commits.c.counts[name].as_integer()) for name in ("rows", "quarantined")}
    query = (
        select(
            commits.c.exchange,
            commits.c.dataset,
            counts["rows"].label("rows"),
            counts["quarantined"].label("quarantined"),
            func.max(commits.c.stamp).label("last_commit"),
        )
        .where(commits.c.table_name != table_name("quarantine"))
        .group_by(commits.c.exchange, commits.c.dataset)
    )
    with database.begin() as connection:
        return {(row["exchange"], row["dataset"]): dict(row) for row in connection.execute(query).mappings()}


def _open_gaps(database: Database) -> dict[tuple[str, str], int]:
    query = (
        select(gaps.c.exchange, gaps.c.dataset, func.count())
        .where(gaps.c.state == "open")
        .group_by(gaps.c.exchange, gaps.c.dataset)
    )
    with database.begin() as connection:
        return {(exchange, dataset): int(count) for exchange, dataset, count in connection.execute(query)}
