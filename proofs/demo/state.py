"""What the demo shows while it runs, read from Kafka, the fences and the control database: no part reports itself."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import func, select

from k2_dagster.ingest.lag import LagReader
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database
from k2_dagster.state.tables import commits, gaps

QUARANTINE = table_name("quarantine")


@dataclass
class Totals:
    """Figures since the demo began. `lag_messages` are in Kafka and in no table yet; `runs` maps each run that has
    committed to the position of its newest commit, oldest run first."""

    messages: int = 0
    lag_messages: int = 0
    rows: int = 0
    quarantined: int = 0
    commit_seconds: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    runs: dict[str, int] = field(default_factory=dict)

    def commit_milliseconds(self, percentile: float) -> float:
        """Percentile of the commit times; 0 before the first."""
        return float(np.percentile(self.commit_seconds, percentile) * 1000) if self.commit_seconds else 0.0


class Watch:
    """Reads the totals of one exchange, from the moment it is made."""

    def __init__(self, settings: Settings, profiles: Profiles, exchange: str) -> None:
        self.database = Database(settings)
        self.exchange = exchange
        self._catalog = open_catalog(settings)
        self._lag = LagReader(settings, profiles, self._catalog, self.database)
        self._position = 0
        self.totals = Totals()
        self._messages_before = self._look()[0]
        self._gaps_before = {row["id"] for row in self._all_gaps()}
        self.commits()
        self.totals = Totals()

    def read(self) -> Totals:
        """The totals now. Raises what keeps the lag from being told."""
        self.commits()
        messages, self.totals.lag_messages = self._look()
        self.totals.messages = messages - self._messages_before
        return self.totals

    def commits(self) -> Totals:
        """The totals with the commits of now, without a look at Kafka."""
        query = (
            select(commits)
            .where(
                commits.c.position > self._position,
                commits.c.exchange == self.exchange,
                commits.c.table_name != QUARANTINE,
            )
            .order_by(commits.c.position)
        )
        with self.database.begin() as connection:
            for row in connection.execute(query).mappings():
                self._add(dict(row))
        return self.totals

    def gaps(self) -> list[dict[str, Any]]:
        """Gaps in the venue's numbers that were reported since the start."""
        return [row for row in self._all_gaps() if row["id"] not in self._gaps_before]

    def newest_day(self) -> str:
        """The UTC day of the newest ticks: of a capture, one of long ago. Today before there are any."""
        query = (
            select(func.jsonb_object_keys(commits.c.days).label("day"))
            .where(commits.c.exchange == self.exchange, commits.c.table_name == table_name("ticks"))
            .subquery()
        )
        with self.database.begin() as connection:
            found = connection.execute(select(func.max(query.c.day))).scalar()
        return str(found or datetime.now(UTC).date().isoformat())

    def close(self) -> None:
        """Give the connections back."""
        close_catalog(self._catalog)
        self.database.close()

    def _look(self) -> tuple[int, int]:
        """Messages in Kafka, and those of them that no table has."""
        report = self._lag.read([self.exchange])
        for error in report.errors.values():
            raise error
        return sum(sum(one.ends.values()) for one in report.lags), sum(one.lag_messages for one in report.lags)

    def _all_gaps(self) -> list[dict[str, Any]]:
        query = select(gaps).where(gaps.c.exchange == self.exchange, gaps.c.numbering == "venue").order_by(gaps.c.id)
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _add(self, row: dict[str, Any]) -> None:
        totals = self.totals
        self._position = totals.runs[row["run_id"]] = row["position"]
        totals.rows += row["counts"]["rows"]
        totals.quarantined += row["counts"]["quarantined"]
        totals.reasons.update(row["counts"]["reasons"])
        if row["commit_seconds"] is not None:
            totals.commit_seconds.append(row["commit_seconds"])
